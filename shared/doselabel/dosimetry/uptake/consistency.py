"""What time points and masks say of each other: one scan off by a factor, one mask too small. Knows numbers and masks.

Organs clear at their own rates, but a wrong calibration, time or duration of one scan multiplies all of them at once.
On the clearance limb (from `SETTLED_H` on) each organ's logarithm falls along a line; what one common factor at one
time point takes out of all organs' residuals together is that factor.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from doselabel.alarms import Alarm, finding
from doselabel.dosimetry.alignment.placement import SETTLED_H
from doselabel.dosimetry.physics.spheres import CT_FWHM_MM, volume_relative_sd
from doselabel.labels import LabelMap, title

LEAST_RESIDUAL, LEAST_RESIDUAL_OF_ONE_KIND = 0.07, 0.2
"""Root mean square of the logarithms' residuals from which a common factor is looked for; kidneys are one kind, whose
curve two exponentials may bend just so."""
LEFT_OVER = 0.12
"""The share of the residual that one factor may leave."""
LEAST_FACTOR = 1.2
USUAL_HALF_LIFE_H, HALF_LIFE_LN_SD, FACTOR_LN_SD = 55.0, 0.3, 0.4
"""Which of several time points is off is told by what it makes of the half-lives: of 177Lu in organs 40 to 75 h."""
VOLUME_DIFFERS, VOLUME_SDS = 0.2, 2.5
"""Masks of one organ on two CTs differ by this much, or by so many standard uncertainties of their edges, seldom."""
CUT_LOSS = 0.05


def time_point_off(times_h: Sequence[float], activity_mbq: Mapping[str, Sequence[float]]) -> list[Alarm]:
    """The time point at which all organs are off by one factor, if there is one.

    Parameters
    ----------
    times_h : sequence of float, shape (n,)
    activity_mbq : dict
        Organ → (n,) activities.
    """
    times = np.asarray(times_h, dtype=float)
    late = times >= SETTLED_H
    logs = np.array([np.log(np.maximum(a, 1e-9)) for a in activity_mbq.values()], dtype=float)[:, late]
    if np.count_nonzero(late) < 3 or len(logs) < 2 or min(min(a) for a in activity_mbq.values()) <= 0:
        return []
    kinds = {name.replace("left_", "").replace("right_", "") for name in activity_mbq}
    line = np.stack([np.ones(logs.shape[1]), times[late]], axis=1)
    off_line = np.eye(len(line)) - line @ np.linalg.pinv(line)
    residual = logs @ off_line
    rms = float(np.sqrt(np.mean(np.sum(residual**2, axis=1))))
    if rms < (LEAST_RESIDUAL if len(kinds) > 1 else LEAST_RESIDUAL_OF_ONE_KIND):
        return []
    candidates = [_Candidate.at(k, logs, residual, off_line, line) for k in range(len(line))]
    believed = [c for c in candidates if c.left_over <= LEFT_OVER and abs(c.ln_factor) >= np.log(LEAST_FACTOR)]
    if not believed:
        return []
    best = min(believed, key=lambda c: c.surprise)
    index = int(np.flatnonzero(late)[best.k])
    others = [c for c in believed if c is not best and c.surprise < best.surprise + 2.0]
    sentence = (
        f"Time point {index + 1} ({times[index]:g} h): the activities of all organs are {np.exp(best.ln_factor):.2f} "
        "times what one expects from the other time points, by one common factor"
    )
    if others:
        shown = " or ".join(f"{times[late][c.k]:g} h ({np.exp(c.ln_factor):.2f} times)" for c in others)
        sentence += f"; or those at {shown} are"
    numbers = {"factor": float(np.exp(best.ln_factor)), "time_h": float(times[index])}
    return [finding("time-point-off", sentence + ".", numbers=numbers, time_point=index)]


@dataclass(frozen=True)
class _Candidate:
    """One time point taken to be off: by how much, what it leaves unexplained, and how odd the curves then are."""

    k: int
    ln_factor: float
    left_over: float
    surprise: float

    @classmethod
    def at(
        cls,
        k: int,
        logs: NDArray[np.float64],
        residual: NDArray[np.float64],
        off_line: NDArray[np.float64],
        line: NDArray[np.float64],
    ) -> _Candidate:
        weight = float(off_line[k, k])
        ln_factor = float(residual[:, k].mean() / weight)
        total = float(np.sum(residual**2))
        left = total - len(logs) * weight * ln_factor**2
        mended = logs.copy()
        mended[:, k] -= ln_factor
        slopes = (np.linalg.pinv(line) @ mended.T)[1]
        half_lives = np.log(2) / np.maximum(-slopes, 1e-4)
        odd = np.mean((np.log(half_lives / USUAL_HALF_LIFE_H) / HALF_LIFE_LN_SD) ** 2)
        return cls(k, ln_factor, left / total, float(odd) + (ln_factor / FACTOR_LN_SD) ** 2)


def masks_differ(index: int, ct: str, masks: LabelMap, diagnostic: LabelMap, organs: Sequence[str]) -> list[Alarm]:
    """Organs whose mask at a time point is cut by its CT's edge, or of another volume than on the diagnostic CT."""
    found, present = [], {*masks.present()} & {*diagnostic.present()}
    for name in organs:
        if name not in present:
            continue
        own, usual = masks.volume_ml(name), diagnostic.volume_ml(name)
        loss = 1 - own / usual
        where = f"Time point {index + 1}: {title(name)}"
        numbers = {"volume_ml": own, "diagnostic_volume_ml": usual, "difference_percent": -100 * loss}
        shown = f"{own:.0f} mL on '{ct}', {usual:.0f} mL on the diagnostic CT ({-loss:+.0%})"
        spread = volume_relative_sd(usual, spacing_mm=masks.geometry.spacing_mm, fwhm_mm=CT_FWHM_MM)
        if loss > CUT_LOSS and touched(masks, name):
            sentence = f"{where} reaches the edge of the CT and has {shown}: part of it is outside."
            found.append(finding("mask-cut", sentence, numbers=numbers, organ=name, time_point=index, file=ct))
        elif abs(loss) > max(VOLUME_DIFFERS, VOLUME_SDS * spread):
            sentence = f"{where} has {shown}; one of the two masks is wrong."
            found.append(
                finding("mask-volume-differs", sentence, numbers=numbers, organ=name, time_point=index, file=ct)
            )
    return found


def touched(masks: LabelMap, name: str) -> bool:
    """Whether an organ's mask lies on any face of the image."""
    inside = masks.mask(name)
    return any(bool(np.take(inside, side, axis).any()) for axis in range(3) for side in (0, -1))
