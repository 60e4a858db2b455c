"""Champion or challenger: whether a new model may answer, from scores on the same validation CTs. Pure; no files.

The rule (each number is a constant below):

- With fewer than `LEAST_PATIENTS` validation patients nothing can be decided.
- Over all organs the mean difference in Dice is not negative, and its lower 95 % bound, by a bootstrap over patients,
  is above −0.5 points. No organ by itself loses more than 0.5 points.
- Each organ's mean volume error stays under 2 %, or at most 1 point above the champion's: what the old model does to
  a volume is no reason to refuse a new one that does less.
- No organ is missed, and no kidney is on the wrong side, where the champion was right.
- On the old domain, scored with cases of the kind the champion was trained on, no organ loses more than 1 point of
  Dice, and none is newly missed or swapped.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

LEAST_PATIENTS = 5
LOWER_BOUND = -0.005
ORGAN_LOSS = 0.005
VOLUME_BIAS_PERCENT = 2.0
VOLUME_BIAS_WORSE_PERCENT = 1.0
OLD_DOMAIN_LOSS = 0.01
_DRAWS = 2000

Key = tuple[str, str, str]


class Score(Protocol):
    """What is needed of `doselabel.model.scores.OrganScore`."""

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
    @property
    def wrong_side(self) -> bool: ...


@dataclass(frozen=True)
class Decision:
    """Whether to promote, and why."""

    promote: bool
    reason: str


class _Pairs:
    """The masks that both models were scored on."""

    def __init__(self, champion: Sequence[Score], challenger: Sequence[Score]) -> None:
        old, new = _by_key(champion), _by_key(challenger)
        self.scores: dict[Key, tuple[Score, Score]] = {key: (old[key], new[key]) for key in sorted(old.keys() & new)}
        self.patients = sorted({patient for patient, _, _ in self.scores})
        self.organs = sorted({organ for _, _, organ in self.scores})

    def gain(self, *, patient: str = "", organ: str = "") -> float:
        """Mean difference in Dice, of one patient or organ when named."""
        return float(np.mean([b.dice - a.dice for a, b in self._of(patient, organ)]))

    def bias_percent(self, organ: str) -> tuple[float, float]:
        """Mean volume error of the champion and of the challenger."""
        pairs = list(self._of("", organ))
        return tuple(float(np.mean([pair[k].volume_error_percent for pair in pairs])) for k in (0, 1))  # type: ignore[return-value]

    def newly_wrong(self) -> Iterator[str]:
        """What the challenger misses or puts on the wrong side, and the champion does not."""
        for (patient, ct, organ), (old, new) in self.scores.items():
            where = f"the {organ.replace('_', ' ')} in {patient}/{ct}"
            if _found(old) and not _found(new):
                yield f"The new model misses {where}; the old one finds it."
            elif new.wrong_side and not old.wrong_side:
                yield f"The new model puts {where} on the wrong side; the old one does not."

    def _of(self, patient: str, organ: str) -> Iterator[tuple[Score, Score]]:
        for (of_patient, _, of_organ), pair in self.scores.items():
            if patient in ("", of_patient) and organ in ("", of_organ):
                yield pair


def decidable(scores: Sequence[Score]) -> bool:
    """Whether these are enough patients for `decide`."""
    return len({row.patient for row in scores}) >= LEAST_PATIENTS


def decide(
    champion: Sequence[Score],
    challenger: Sequence[Score],
    *,
    old_domain: tuple[Sequence[Score], Sequence[Score]] = ((), ()),
) -> Decision:
    """Compare two models by their scores on the same label maps.

    Parameters
    ----------
    champion, challenger : sequence of Score
        On the validation patients.
    old_domain : (sequence of Score, sequence of Score)
        Champion and challenger on cases of the kind the champion was trained on; empty: not looked at.
    """
    pairs = _Pairs(champion, challenger)
    if len(pairs.patients) < LEAST_PATIENTS:
        return Decision(
            False,
            f"Not decidable: {len(pairs.patients)} validation patient(s) with label maps, {LEAST_PATIENTS} are needed. "
            "The old model stays.",
        )
    before = _Pairs(*old_domain)
    objections = [*pairs.newly_wrong(), *before.newly_wrong(), *_dice_objections(pairs), *_bias_objections(pairs)]
    for organ in before.organs:
        if (gain := before.gain(organ=organ)) < -OLD_DOMAIN_LOSS:
            lost = f"{-100 * gain:.1f} points of Dice"
            objections.append(f"On the old domain the {organ.replace('_', ' ')} loses {lost}.")
    found = (
        f"Dice {100 * pairs.gain():+.2f} points (lower 95 % bound {100 * _lower_bound(pairs):+.2f}; "
        + ", ".join(f"{organ.replace('_', ' ')} {100 * pairs.gain(organ=organ):+.1f}" for organ in pairs.organs)
        + f") on {len(pairs.patients)} patients"
    )
    if before.scores:
        found += f", {100 * before.gain():+.2f} on the old domain"
    if objections:
        return Decision(False, " ".join([*objections[:3], f"{found}: the old model stays."]))
    return Decision(True, f"{found}: the new model answers from now on.")


def _dice_objections(pairs: _Pairs) -> Iterator[str]:
    mean, lower = pairs.gain(), _lower_bound(pairs)
    if mean < 0:
        yield "The new model is worse on the mean."
    elif lower <= LOWER_BOUND:
        yield "The gain is not sure."
    for organ in pairs.organs:
        if (gain := pairs.gain(organ=organ)) < -ORGAN_LOSS:
            yield f"The {organ.replace('_', ' ')} loses {-100 * gain:.1f} points of Dice."


def _bias_objections(pairs: _Pairs) -> Iterator[str]:
    for organ in pairs.organs:
        old, new = pairs.bias_percent(organ)
        if abs(new) > max(VOLUME_BIAS_PERCENT, abs(old) + VOLUME_BIAS_WORSE_PERCENT):
            yield f"The {organ.replace('_', ' ')}'s mean volume error is {new:+.1f} % ({old:+.1f} % before)."


def _lower_bound(pairs: _Pairs) -> float:
    """2.5th percentile of the mean gain when patients are drawn again, with replacement."""
    by_patient = np.array([pairs.gain(patient=patient) for patient in pairs.patients])
    draws = np.random.default_rng(0).choice(by_patient, (_DRAWS, len(by_patient))).mean(axis=1)
    return float(np.percentile(draws, 2.5))


def _found(score: Score) -> bool:
    """Whether a mask meets the organ at all."""
    return score.volume_ml > 0 and score.dice > 0


def _by_key(scores: Sequence[Score]) -> Mapping[Key, Score]:
    return {(row.patient, row.ct, row.organ): row for row in scores}
