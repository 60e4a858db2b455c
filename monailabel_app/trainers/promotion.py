"""Champion or challenger: whether a new model may answer, from scores on the same validation CTs. Pure; no files.

The rule (design/segmentation.md): promote only when the mean difference in Dice is not negative and its lower 95 %
bound, by a bootstrap over patients, is above −0.5 points; when the volumes' bias is within 2 %; and when no organ
is missed that the champion found. With fewer than `LEAST_PATIENTS` patients nothing can be decided.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

LEAST_PATIENTS = 5
LOWER_BOUND = -0.005
VOLUME_BIAS_PERCENT = 2.0
_DRAWS = 2000


class Score(Protocol):
    """What is needed of `doselabel.model.evaluate.OrganScore`."""

    @property
    def patient(self) -> str: ...
    @property
    def ct(self) -> str: ...
    @property
    def organ(self) -> str: ...
    @property
    def dice(self) -> float: ...
    @property
    def volume_ml(self) -> float: ...
    @property
    def volume_error_percent(self) -> float: ...


@dataclass(frozen=True)
class Decision:
    """Whether to promote, and why."""

    promote: bool
    reason: str


def decide(champion: Sequence[Score], challenger: Sequence[Score]) -> Decision:
    """Compare two models by their scores on the same label maps."""
    before = {(row.patient, row.ct, row.organ): row for row in champion}
    after = {(row.patient, row.ct, row.organ): row for row in challenger}
    keys = sorted(before.keys() & after.keys())
    patients = sorted({key[0] for key in keys})
    if len(patients) < LEAST_PATIENTS:
        return Decision(
            False,
            f"Not decidable: {len(patients)} validation patient(s) with label maps, {LEAST_PATIENTS} are needed. "
            "The old model stays.",
        )
    missed = [key for key in keys if before[key].volume_ml > 0 and after[key].volume_ml == 0]
    if missed:
        patient, ct, organ = missed[0]
        return Decision(False, f"The new model misses the {organ} in {patient}/{ct}; the old one finds it.")
    by_patient = np.array(
        [np.mean([after[k].dice - before[k].dice for k in keys if k[0] == patient]) for patient in patients]
    )
    draws = np.random.default_rng(0).choice(by_patient, (_DRAWS, len(patients))).mean(axis=1)
    mean, lower = float(by_patient.mean()), float(np.percentile(draws, 2.5))
    bias = float(np.mean([after[key].volume_error_percent for key in keys]))
    found = (
        f"Dice {100 * mean:+.2f} points (lower 95 % bound {100 * lower:+.2f}) on {len(patients)} patients, "
        f"volume bias {bias:+.1f} %"
    )
    good = mean >= 0 and lower > LOWER_BOUND and abs(bias) <= VOLUME_BIAS_PERCENT
    return Decision(good, f"{found}: " + ("the new model answers from now on." if good else "the old model stays."))
