"""Who is trained on, validated and tested: splits and folds by patient, kept on disk. Knows names, no files of images.

A split is drawn once and written beside the run (`SPLIT_FILE`); a run that goes on, or is repeated, reads it again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from doselabel.errors import ModelError
from doselabel.model.cases import TrainCase

SPLIT_FILE = "split.json"

SPLITS: Mapping[str, tuple[float, float, float]] = {"60/20/20": (0.6, 0.2, 0.2), "70/10/20": (0.7, 0.1, 0.2)}
"""Training, validation, test: Nazari et al. 2021 for KiTS19 and for LiTS."""


@dataclass(frozen=True)
class Split:
    """Patients of each part; no patient is in two.

    Attributes
    ----------
    train, validation, test : tuple of str
    seed : int
        What it was drawn with.
    kind : str
        "60/20/20", "fold 2 of 5", "given".
    """

    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]
    seed: int = 0
    kind: str = "given"

    def __post_init__(self) -> None:
        parts = (self.train, self.validation, self.test)
        everyone = [patient for part in parts for patient in part]
        if twice := sorted({patient for patient in everyone if everyone.count(patient) > 1}):
            raise ModelError(
                f"Patient(s) {', '.join(twice)} are in more than one part of a split.",
                "Split by patient: scores on a patient the model has seen mean nothing.",
            )

    def cases(self, cases: Sequence[TrainCase], part: str) -> list[TrainCase]:
        """The cases of "train", "validation" or "test"."""
        wanted = set(getattr(self, part))
        return [case for case in cases if case.patient in wanted]

    def write(self, out: Path) -> Path:
        """Write ``split.json`` into a folder, atomically."""
        path = Path(out) / SPLIT_FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".writing-{path.name}")
        temporary.write_text(json.dumps(asdict(self), indent=1) + "\n", "utf-8")
        os.replace(temporary, path)
        return path

    @classmethod
    def read(cls, path: Path) -> Split:
        """Read a split; only "train", "validation" and "test" need be there.

        Raises
        ------
        ModelError
            When it is no split.
        """
        path = Path(path) / SPLIT_FILE if Path(path).is_dir() else Path(path)
        try:
            content = json.loads(path.read_text("utf-8"))
            train, validation, test = (
                tuple(str(name) for name in content.get(part, ())) for part in ("train", "validation", "test")
            )
            return cls(train, validation, test, int(content.get("seed", 0)), str(content.get("kind", "given")))
        except (OSError, ValueError, AttributeError, TypeError) as error:
            raise ModelError(
                f"{path}: is no split of patients ({error}).",
                'Expected {"train": ["P-1", …], "validation": […], "test": […]}.',
            ) from error


def random_split(patients: Sequence[str], fractions: str | tuple[float, float, float], seed: int = 0) -> Split:
    """Draw training, validation and test patients.

    Parameters
    ----------
    patients : sequence of str
        Any order, any repetition: the same set and seed give the same split.
    fractions : str or tuple of float
        A key of `SPLITS`, or three shares that add up to 1.

    Raises
    ------
    ModelError
        When there are too few patients for a part that is asked for.
    """
    shares = SPLITS[fractions] if isinstance(fractions, str) else fractions
    if len(shares) != 3 or min(shares) < 0 or abs(sum(shares) - 1) > 1e-6:
        raise ModelError(f"Found the shares {shares}; expected three that add up to 1.", "Give 60/20/20 or 70/10/20.")
    drawn = _drawn(patients, seed)
    counts = [round(len(drawn) * share) for share in shares[1:]]
    counts = [max(count, 1) if share > 0 else 0 for count, share in zip(counts, shares[1:], strict=True)]
    first = len(drawn) - sum(counts)
    if first < 1:
        raise ModelError(
            f"Found {len(drawn)} patient(s), too few for {'/'.join(f'{100 * s:g}' for s in shares)}.",
            "Give more patients: each part needs one at least.",
        )
    kind = fractions if isinstance(fractions, str) else "/".join(f"{100 * share:g}" for share in shares)
    return Split(
        tuple(drawn[:first]), tuple(drawn[first : first + counts[0]]), tuple(drawn[first + counts[0] :]), seed, kind
    )


def folds(patients: Sequence[str], count: int = 5, seed: int = 0, validation: float = 0.0) -> list[Split]:
    """Draw random folds: every patient is tested once.

    Parameters
    ----------
    validation : float
        Share of all patients that is kept from training as well, to stop early; 0 trains on all others.

    Raises
    ------
    ModelError
        With fewer patients than folds.
    """
    drawn = _drawn(patients, seed)
    if not 2 <= count <= len(drawn):
        raise ModelError(
            f"Found {len(drawn)} patient(s) for {count} folds; expected at least 2 folds and a patient for each.",
            "Give more patients, or fewer folds.",
        )
    parts = [drawn[k::count] for k in range(count)]
    made = []
    for k, test in enumerate(parts):
        others = [patient for other, part in enumerate(parts) if other != k for patient in part]
        kept = min(max(1, round(validation * len(drawn))), len(others) - 1) if validation > 0 else 0
        others = _drawn(others, f"{seed}/{k}")
        made.append(
            Split(tuple(sorted(others[kept:])), tuple(sorted(others[:kept])), tuple(sorted(test)), seed,
                  f"fold {k + 1} of {count}")
        )  # fmt: skip
    return made


def _drawn(patients: Sequence[str], seed: int | str) -> list[str]:
    """Every patient once, shuffled: in the order of a hash of seed and name, the same on every machine."""
    unique = sorted(set(patients))
    key = {name: hashlib.sha256(f"{seed}:{name}".encode()).digest() for name in unique}
    return sorted(unique, key=key.__getitem__)


def check_patients(split: Split, cases: Sequence[TrainCase]) -> None:
    """Refuse a split that was drawn for other patients.

    Raises
    ------
    ModelError
    """
    known, named = {case.patient for case in cases}, {*split.train, *split.validation, *split.test}
    if missing := sorted(named - known):
        raise ModelError(
            f"The split names {len(missing)} patient(s) who are not among the cases: {', '.join(missing[:5])}.",
            "Give the folder that it was drawn for, or draw a new one.",
        )
