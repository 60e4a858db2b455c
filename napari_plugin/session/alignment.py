"""Where a SPECT lies on its CT: moved by hand or by the organs, and what that does to their activities. Knows no Qt.

Concepts
--------
*place*
    A 4×4 matrix that maps LPS points (mm) of the SPECT to LPS points of the CT it is seen on. On the diagnostic CT that
    is "SPECT → its own CT" (what a study stores) followed by "its own CT → diagnostic CT" (which each dose finds anew).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from doselabel.errors import Progress, RegistrationError, no_progress
from doselabel.geometry import Geometry, Volume, placed, resample
from doselabel.labels import LabelMap
from doselabel.wire import RegistrationSummary
from napari_plugin.session.measure import measure
from napari_plugin.session.placement import onto_frame

UPWARD = (2, 1, 0)
"""The display frame's axes (z, y, x) as columns of a canonical CT's directions, which are x, y, z."""


@dataclass(frozen=True)
class Activity:
    """An organ's activity where the SPECT was stored, and where it is now."""

    name: str
    stored_mbq: float
    now_mbq: float

    @property
    def change_percent(self) -> float | None:
        """None where there was none."""
        return 100 * (self.now_mbq / self.stored_mbq - 1) if self.stored_mbq > 0 else None


@dataclass(frozen=True)
class Quality:
    """How well a place fits: agreement (R²) with the organs stored and now, None where it can't be told; activities."""

    stored: float | None
    now: float | None
    activities: tuple[Activity, ...]
    why_not: str = ""


@dataclass
class Place:
    """The places one SPECT has had on its own CT, each with how it got there: `steps` up to `at` can be undone, those
    behind it redone.

    ``to_shown`` brings its own CT onto the CT on screen; None while the diagnostic CT's relation to it is not known.
    ``drawn`` is the place on the CT on screen that the image shows.
    """

    stored: np.ndarray
    steps: list[tuple[np.ndarray, str]] = field(default_factory=list)
    at: int = -1
    to_shown: np.ndarray | None = None
    drawn: np.ndarray | None = None
    summary: RegistrationSummary | None = None

    @property
    def now(self) -> np.ndarray:
        """Where it is."""
        return self.steps[self.at][0] if self.at >= 0 else self.stored

    @property
    def method(self) -> str:
        """How it got there."""
        return self.steps[self.at][1] if self.at >= 0 else ""

    def add(self, matrix: np.ndarray, method: str) -> None:
        """Take a step; those that were undone are forgotten."""
        del self.steps[self.at + 1 :]
        self.steps.append((matrix, method))
        self.at += 1

    def shown(self, matrix: np.ndarray) -> np.ndarray:
        """A place on its own CT as one on the CT on screen."""
        return matrix if self.to_shown is None else self.to_shown @ matrix


def shifted(ct: Geometry, axis: int, distance_mm: float) -> np.ndarray:
    """A shift along one of the display frame's axes (0 z to the feet, 1 y to the back, 2 x to the patient's left)."""
    matrix = np.eye(4)
    matrix[:3, 3] = distance_mm * np.reshape(ct.direction, (3, 3))[:, UPWARD[axis]]
    return matrix


def turned(ct: Geometry, right: int, down: int, angle_deg: float, about_mm: np.ndarray) -> np.ndarray:
    """A turn in a plane on screen, clockwise, about a point (LPS); ``right`` and ``down`` are axes of that frame."""
    axes = np.reshape(ct.direction, (3, 3))
    h, v = axes[:, UPWARD[right]], axes[:, UPWARD[down]]
    angle = np.deg2rad(angle_deg)
    matrix = np.eye(4)
    matrix[:3, :3] += np.sin(angle) * (np.outer(v, h) - np.outer(h, v))
    matrix[:3, :3] += (np.cos(angle) - 1) * (np.outer(h, h) + np.outer(v, v))
    matrix[:3, 3] = about_mm - matrix[:3, :3] @ about_mm
    return matrix


def moved_by(before: np.ndarray, after: np.ndarray, labels: LabelMap) -> tuple[float, float]:
    """Mean distance (mm) over the organs, or over the grid without any, and angle (°) between two places."""
    from doselabel.dosimetry.alignment.registration import mean_shift_mm

    turn = after[:3, :3] @ before[:3, :3].T
    angle = np.degrees(np.arccos(np.clip((np.trace(turn) - 1) / 2, -1.0, 1.0)))
    return mean_shift_mm(before, after, _points(labels)), float(angle)


def centre_mm(labels: LabelMap) -> np.ndarray:
    """Middle of what is drawn, or of the CT, LPS."""
    return _points(labels).mean(axis=0)


def _points(labels: LabelMap) -> np.ndarray:
    """Points (n, 3) of what is drawn, or the CT's corners, LPS."""
    drawn = np.argwhere(labels.array[::4, ::4, ::4] > 0) * 4
    return labels.geometry.index_to_lps(drawn) if len(drawn) else labels.geometry.corners_lps()


def on_grid(spect: Volume, matrix: np.ndarray, grid: Geometry) -> np.ndarray:
    """A SPECT at a place, on a grid, to be looked at."""
    return resample(Volume(spect.array, placed(spect.geometry, matrix)), grid).array


class Judge:
    """Says how well places of one SPECT fit the labels as they were when it was made; for threads.

    Parameters
    ----------
    spect : Volume
        Bq/mL, as its file has it.
    labels : LabelMap
    ct : Volume
        On the labels' grid, HU.
    """

    def __init__(self, spect: Volume, labels: LabelMap, ct: Volume) -> None:
        from doselabel.dosimetry.alignment.mask_scene import MaskScene

        self.spect, self.labels, self.ct = spect, labels, ct
        self.why_not, self._scene = "", None
        try:
            self._scene = MaskScene.of(spect, labels, None, {}, None)
        except RegistrationError as error:
            self.why_not = str(error)

    def quality(self, stored: np.ndarray, now: np.ndarray) -> Quality:
        """Compare two places."""
        before, after = (self._activities(matrix) for matrix in (stored, now))
        found = tuple(Activity(name, before.get(name, 0.0), mbq) for name, mbq in after.items())
        return Quality(self._agreement(stored), self._agreement(now), found, self.why_not)

    def best(self, start: np.ndarray, progress: Progress = no_progress) -> np.ndarray:
        """The place near another where the uptake fits the organs best.

        Raises
        ------
        RegistrationError
            When nothing is drawn, there is no uptake around it, or the best place lies at the end of the search.
        """
        from doselabel.dosimetry.alignment.registration import refined

        if self._scene is None:
            raise RegistrationError(self.why_not, "Segment the CT, then ask again.")
        return refined(self._scene, start, progress=progress).matrix

    def _agreement(self, matrix: np.ndarray) -> float | None:
        try:
            return None if self._scene is None else self._scene.agreement(matrix)
        except RegistrationError:
            return 0.0

    def _activities(self, matrix: np.ndarray) -> dict[str, float]:
        there = onto_frame(self.spect, self.ct.geometry, matrix)
        organs = measure(self.labels.array, self.ct, there, self.labels.names)
        return {organ.name: organ.activity_mbq or 0.0 for organ in organs}
