"""Where a SPECT is put on its masks, and whether that place can be believed. Knows one time point; no activities.

What the limits rest on. Between a SPECT and the CT of the same session patients move and breathe by some millimetres,
seldom by 15. Masks explain 0.99 of the SPECT around the organs where uptake is even, and 0.4 to 0.9 in patients with
tumours, or within hours of the injection; a wrong SPECT reaches that too, so a low agreement alone says little. What
tells is whether the same voxels upside down, mirrored or of another size agree far better.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from doselabel.alarms import Alarm, finding
from doselabel.dosimetry.alignment.mask_scene import SETTLED_SD_MM, UNCHECKED_SD_MM, MaskScene
from doselabel.dosimetry.alignment.registration import Alignment, refined
from doselabel.errors import RegistrationError
from doselabel.geometry import Volume
from doselabel.labels import LabelMap

FLOOR = 0.35
"""Below this agreement (R²) a SPECT does not show these organs."""
DOUBTFUL = 0.96
"""Below this agreement other readings of the same voxels are tried."""
BETTER = ((0.15, 0.6), (0.04, 0.25))
"""By how much more another reading must agree, and what share of the residual it may then leave, to be believed."""
FARTHEST_MM = 16.0
"""The largest move that is made without being asked for."""
LEAST_GAIN = 0.1
"""A move must take away this part of what the masks do not explain; less is noise and uneven uptake."""
DROP = 0.1
"""A SPECT whose agreement is this much below that of the study's other SPECTs may be of another patient."""
SETTLED_H = 4.0
"""From then on blood and bowel are empty enough for agreements to be compared."""
MIRRORS = {
    "upside down": (0,), "mirrored, left and right exchanged": (2,), "mirrored, front and back exchanged": (1,),
    "turned upside down": (0, 2), "turned front to back": (1, 2), "turned head to feet, front to back": (0, 1),
}  # fmt: skip
RESIZED = tuple(size for f in (0.7, 0.8, 0.9, 1.1, 1.25, 1.4) for size in ((f, f, f), (f, 1.0, 1.0)))
"""How much larger the voxels may be than they say (z, y, x)."""
UNCERTAIN = {"place-implausible": 0.5, "place-turned": 0.5, "place-size": 0.3, "place-far": 0.3}
"""Relative standard uncertainty that such a place gives to the activities of its time point."""


@dataclass(frozen=True, eq=False)
class Placement:
    """A SPECT's place, what must be said of it, and the agreement there, None where it was not looked at."""

    alignment: Alignment
    findings: tuple[Alarm, ...] = ()

    @property
    def agreement(self) -> float | None:
        """Of the place that was chosen."""
        return self.alignment.agreement_after

    @property
    def relative_sd(self) -> float:
        """What it adds to the uncertainty of this time point's activities."""
        return max((UNCERTAIN.get(alarm.code, 0.0) for alarm in self.findings), default=0.0)


def place(
    spect: Volume,
    labels: LabelMap,
    index: int,
    *,
    stored: NDArray[np.float64],
    method: str,
    move: bool,
    smallest_shift_mm: float,
    insist: bool = False,
    psf_fwhm_mm: Sequence[float] | None = None,
    exclude: Mapping[str, NDArray[np.bool_]] | None = None,
) -> Placement:
    """Leave a SPECT at its stored place, or bring it to a better one that can be believed.

    Parameters
    ----------
    spect, labels, psf_fwhm_mm, exclude
        As in `registration.refine`.
    index : int
        Of the time point.
    stored : (4, 4) array
        SPECT → CT, as the study has it; ``method`` is how it was found.
    move : bool
        Whether the SPECT may be moved at all; it is looked at in any case.
    smallest_shift_mm : float
        A move below this is within its own error.
    insist : bool
        Take the best place whatever is found (the user asked for it); what is found is said all the same.

    Raises
    ------
    RegistrationError
        Only when insisting: there is no best place.
    """
    where = f"Time point {index + 1}"
    kept = Alignment(stored, method, sd_mm=UNCHECKED_SD_MM)
    try:
        scene = MaskScene.of(spect, labels, psf_fwhm_mm, exclude or {}, None)
    except RegistrationError as error:
        if insist:
            raise
        sentence = f"{where}: the SPECT's place was not checked against the masks: {error}"
        return Placement(kept, (finding("place-unchecked", sentence, time_point=index),))
    try:
        before = scene.agreement(stored)
        found = refined(scene, stored) if move else Alignment(stored, method, 0.0, before, before, SETTLED_SD_MM)
    except RegistrationError as error:
        if insist:
            raise
        before = _agreement(scene, stored)
        wrong = _other_reading(scene, stored, before, where, index)
        code = "place-far" if before > 0 else "place-implausible"
        sentence = f"{where}: {error.message} It was left where the files say."
        kept = Alignment(stored, method, 0.0, before, before, UNCHECKED_SD_MM)
        return Placement(kept, (wrong or finding(code, sentence, numbers={"agreement": before}, time_point=index),))
    findings = _judged(scene, found, stored, where, index)
    # What was found and not followed is an error of the place, a third of its square along each axis.
    left_mm = float(np.hypot(found.sd_mm, found.shift_mm / np.sqrt(3)))
    kept = Alignment(stored, method, 0.0, before, before, left_mm)
    gain, after = _merit(found.agreement_after) - before, _merit(found.agreement_after)
    if insist:
        moved = [_moved(found, where, index)] if found.shift_mm >= smallest_shift_mm else []
        return Placement(found, (*findings, *moved))
    if findings or not move or found.shift_mm < smallest_shift_mm or gain <= LEAST_GAIN * (1 - before):
        return Placement(kept, tuple(findings))
    if found.shift_mm > FARTHEST_MM:
        sentence = (
            f"{where}: the SPECT agrees best with the masks {found.shift_mm:.1f} mm away (agreement {before:.2f}, "
            f"there {after:.2f}), farther than patients move between SPECT and CT; it was left where the files say."
        )
        numbers = {"distance_mm": found.shift_mm, "agreement": before, "agreement_there": after}
        return Placement(kept, (finding("place-far", sentence, numbers=numbers, time_point=index),))
    return Placement(found, (_moved(found, where, index),))


def compared(
    placements: Sequence[Placement], times_h: Sequence[float], *, by: str = "the masks explain"
) -> list[Placement]:
    """The same, and which SPECT agrees far less with its masks (``by``) than the study's others do.

    One SPECT of another patient, or another cycle, lies about right, and no mirror or size mends it.
    """
    late = [i for i, (p, t) in enumerate(zip(placements, times_h, strict=True)) if t >= SETTLED_H and p.agreement]
    if len(late) < 3:
        return list(placements)
    checked = list(placements)
    for i in late:
        others = float(np.median([_merit(placements[k].agreement) for k in late if k != i]))
        own = _merit(placements[i].agreement)
        if own > others - max(DROP, 3 * (1 - others)) or placements[i].relative_sd > 0:
            continue
        sentence = (
            f"Time point {i + 1}: {by} {own:.2f} of the SPECT, of the other SPECTs "
            f"{others:.2f}; is it of this patient and session?"
        )
        numbers = {"agreement": own, "agreement_of_others": others}
        alarm = finding("place-implausible", sentence, numbers=numbers, time_point=i)
        checked[i] = Placement(placements[i].alignment, (alarm, *placements[i].findings))
    return checked


def _judged(scene: MaskScene, found: Alignment, stored: NDArray[np.float64], where: str, index: int) -> list[Alarm]:
    after = _merit(found.agreement_after)
    if after >= DOUBTFUL:
        return []
    other = _other_reading(scene, stored, after, where, index)
    if other is not None:
        return [other]
    if after >= FLOOR:
        return []
    sentence = (
        f"{where}: the masks explain {after:.2f} of the SPECT around them at best, expected more than {FLOOR:g}; "
        "it was left where the files say."
    )
    return [finding("place-implausible", sentence, numbers={"agreement": after}, time_point=index)]


def _other_reading(
    scene: MaskScene, stored: NDArray[np.float64], agreement: float, where: str, index: int
) -> Alarm | None:
    """The alarm that the same voxels, mirrored or of another size, agree far better."""
    thin = scene.thinned(2500)
    agreement = max(agreement, _best(thin, stored))  # at its best place as well, as the other readings are
    mirrored = {how: _best(thin.mirrored(axes), stored) for how, axes in MIRRORS.items()}
    scaled = {factors: _best(thin.scaled(factors), stored) for factors in RESIZED}
    return another_reading(agreement, mirrored, scaled, where, index)


def another_reading(
    agreement: float,
    mirrored: Mapping[str, float],
    scaled: Mapping[tuple[float, float, float], float],
    where: str,
    index: int,
    *,
    by: str = "the masks",
    better: Sequence[tuple[float, float]] = BETTER,
) -> Alarm | None:
    """The alarm that a SPECT agrees far better with ``by`` when its voxels are read otherwise, if it does.

    Parameters
    ----------
    agreement : float
        At the best place, as the voxels are.
    mirrored, scaled : dict
        At the best place, by each key of `MIRRORS` and of `RESIZED`.
    better : sequence of (gain, share of what is left)
        By how much more another reading must agree, to be believed.
    """

    def believed(there: float) -> bool:
        far = any(there > agreement + gain and 1 - there < left * (1 - agreement) for gain, left in better)
        return far and there > FLOOR

    how, there = max(mirrored.items(), key=lambda item: item[1])
    factors, of_size = max(scaled.items(), key=lambda item: item[1])
    if believed(there) and there >= of_size:
        sentence = f"{where}: the SPECT agrees with {by} far better {how} ({there:.2f}, as it lies {agreement:.2f})."
        numbers = {"agreement": agreement, "agreement_turned": there}
        return finding("place-turned", sentence, numbers=numbers, time_point=index)
    if believed(of_size):
        along = "along z" if factors[1] == 1.0 else "in all directions"
        sentence = (
            f"{where}: the SPECT agrees with {by} far better if its voxels are {factors[0]:.3g} times as large "
            f"{along} ({of_size:.2f}, as it is {agreement:.2f}): is its spacing right?"
        )
        numbers = {"agreement": agreement, "agreement_resized": of_size, "factor": factors[0]}
        return finding("place-size", sentence, numbers=numbers, time_point=index)
    return None


def _best(thin: MaskScene, stored: NDArray[np.float64]) -> float:
    matrix, _ = thin.best(stored, step_mm=12.0, within_mm=0.5)
    return _agreement(thin, matrix)


def _agreement(scene: MaskScene, matrix: NDArray[np.float64]) -> float:
    try:
        return scene.agreement(matrix)
    except RegistrationError:
        return 0.0


def _merit(value: float | None) -> float:
    return 0.0 if value is None else value


def _moved(found: Alignment, where: str, index: int) -> Alarm:
    sentence = (
        f"{where}: SPECT and CT were {found.shift_mm:.1f} mm apart; the SPECT was moved onto the organs' masks "
        f"(agreement {_merit(found.agreement_before):.2f}, now {_merit(found.agreement_after):.2f})."
    )
    numbers = {
        "moved_mm": found.shift_mm,
        "agreement_before": _merit(found.agreement_before),
        "agreement": _merit(found.agreement_after),
    }
    return finding("place-moved", sentence, numbers=numbers, time_point=index)
