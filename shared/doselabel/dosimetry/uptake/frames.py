"""Masks of every time point, and how its CT lies to the diagnostic one. Knows label maps and CTs, no activities."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from doselabel.alarms import Alarm
from doselabel.dosimetry.alignment import ct_registration, registration
from doselabel.dosimetry.cache import Cache, digest, file_sha256
from doselabel.dosimetry.options import DoseOptions
from doselabel.dosimetry.uptake import consistency
from doselabel.dosimetry.uptake.masks import LabelSet, carried, completed
from doselabel.errors import DoselabelError, VoiError
from doselabel.geometry import Volume
from doselabel.labels import LabelMap, title
from doselabel.reading import read_field
from doselabel.study import Study


class Frames:
    """Masks of every time point, and how its CT lies to the diagnostic one."""

    def __init__(
        self,
        study: Study,
        ct: Volume,
        diagnostic: LabelMap,
        label_set: LabelSet,
        organs: tuple[str, ...],
        store: Cache,
    ) -> None:
        self._study, self._ct, self._diagnostic, self._set = study, ct, diagnostic, label_set
        self._organs, self._store = organs, store
        self._maps: dict[int, LabelMap] = {}
        self._rigid: dict[str, np.ndarray] = {}
        self._shifts: dict[int, dict[str, np.ndarray]] = {}

    def masks(self, index: int) -> tuple[LabelMap, list[Alarm | str], dict[str, DoselabelError]]:
        """A time point's masks, what must be said of them, and the organs that they still lack, with why."""
        point = self._study.time_points[index]
        notes: list[Alarm | str] = []
        if point.ct == self._study.ct:
            label_map = self._diagnostic
        elif point.ct in self._set.maps:
            label_map, filled = completed(self._set.maps[point.ct], self._diagnostic, self._organs)
            if filled:
                notes.append(
                    f"Time point {index + 1}: the masks of '{point.ct}' lack {', '.join(map(title, filled))}; taken "
                    "from the diagnostic CT, moved like the other organs."
                )
        else:
            grid = read_field(self._study, f"time_points[{index}].ct", point.ct)
            matrix = self._register(point.ct, grid)
            label_map = carried(self._diagnostic, grid.geometry, matrix)
            notes.append(
                f"Time point {index + 1}: '{point.ct}' has no masks of its own; the diagnostic CT's were brought "
                "over by rigid registration."
            )
        present = label_map.present()
        lost: dict[str, DoselabelError] = {
            name: VoiError(
                f"Time point {index + 1}: {title(name)} lies outside the CT '{point.ct}'.",
                "Check that CT's field of view, or leave the organ or the time point out.",
            )
            for name in self._organs
            if name not in present
        }
        if point.ct != self._study.ct:
            notes += consistency.masks_differ(index, point.ct, label_map, self._diagnostic, self._organs)
        self._maps[index] = label_map
        return label_map, notes, lost

    def known(self, index: int) -> bool:
        """Whether `to_diagnostic` costs nothing."""
        return index in self._maps

    def to_diagnostic(self, index: int) -> dict[str, np.ndarray]:
        """Organ → 4×4 matrix from a time point's CT to the diagnostic CT; "" holds for the rest of the body."""
        point = self._study.time_points[index]
        if point.ct == self._study.ct:
            return dict.fromkeys(("", *self._organs), np.eye(4))
        if point.ct in self._rigid:
            return dict.fromkeys(("", *self._organs), self._rigid[point.ct])
        if index not in self._shifts:
            found = registration.match_masks(self._maps[index], self._diagnostic, self._organs)
            self._shifts[index] = {name: alignment.matrix for name, alignment in found.items()}
        return self._shifts[index]

    def _register(self, name: str, moving: Volume) -> np.ndarray:
        if name not in self._rigid:

            def make() -> tuple[dict[str, Any], dict[str, NDArray[np.float64]]]:
                found = ct_registration.register_cts(moving, self._ct, focus=self._diagnostic.array != 0)
                return {"shift_mm": found.shift_mm}, {"matrix": found.matrix}

            code = file_sha256(Path(ct_registration.__file__))
            images = [[v.array, v.geometry.affine_lps] for v in (moving, self._ct)]
            key = digest("cts", code, images, self._diagnostic.array)
            _, arrays = self._store.fetch(f"registration of '{name}' to the diagnostic CT", key, make)
            self._rigid[name] = arrays["matrix"]
        return self._rigid[name]


def organs_of(
    study: Study, diagnostic: LabelMap, options: DoseOptions
) -> tuple[tuple[str, ...], dict[str, DoselabelError], list[str]]:
    """The organs to compute, those asked for that can't be, with why, and what a reader must know."""
    present = diagnostic.present()
    warnings = [
        f"{title(name)} is said to be absent (organs_absent) but has a mask; it is left out."
        for name in present
        if name in study.organs_absent
    ]
    asked = options.organs if options.organs is not None else present
    wanted = tuple(name for name in asked if name not in study.organs_absent)
    missing: dict[str, DoselabelError] = {
        name: VoiError(
            f"The diagnostic CT's label map has no {title(name)}; it has "
            f"{', '.join(map(title, present)) or 'no organ at all'}.",
            "Draw the organ, or leave it out of the organs asked for.",
        )
        for name in wanted
        if name not in present
    }
    if not wanted:
        raise VoiError("The diagnostic CT's label map has no organ to compute a dose for.", "Segment the CT first.")
    return wanted, missing, warnings
