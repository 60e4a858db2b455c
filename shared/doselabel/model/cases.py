"""Which CTs there are to learn from, and whose label map belongs to each. Knows files, no pixels and no network."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from doselabel.errors import ModelError
from doselabel.labels import LabelMap, read_labels


@dataclass(frozen=True)
class TrainCase:
    """One CT and its label map, of one patient.

    Attributes
    ----------
    ct, labels : Path
    patient : str
        Cases are drawn and split by patient.
    names : mapping, optional
        Value → organ name, where the label map does not carry the right names itself.
    unlabelled : tuple of str, optional
        Organs that nobody drew here: 0 does not mean absent, and nothing is taught about them. Default: the organs
        of which the map has no voxel. An empty tuple says that everything there is was drawn.
    spect : Path, optional
        SPECT of the same patient in the CT's space, for profiles with a SPECT channel.
    scheme : str, optional
        How the label map is numbered, a key of `doselabel.labels.SCHEMES`.
    """

    ct: Path
    labels: Path
    patient: str
    names: Mapping[int, str] | None = field(default=None, hash=False)
    unlabelled: tuple[str, ...] | None = None
    spect: Path | None = None
    scheme: str | None = None


def case_labels(case: TrainCase) -> LabelMap:
    """Read a case's label map; values without a name are background.

    Raises
    ------
    LabelError, GeometryError
        When it can't be read.
    """
    return read_labels(case.labels, names=case.names, scheme=case.scheme, unnamed_is_background=case.names is not None)


def unlabelled(case: TrainCase, labels: LabelMap, organs: Sequence[str]) -> tuple[str, ...]:
    """Which of ``organs`` a case says nothing about."""
    if case.unlabelled is not None:
        return tuple(name for name in organs if name in case.unlabelled)
    return tuple(name for name in organs if not labels.mask(name).any())


def cases_from(root: Path) -> list[TrainCase]:
    """Find CTs with label maps below a folder.

    Two layouts are known: sample patients (``<patient>/ct*.nii.gz`` with label maps of the same name in
    ``<patient>/truth``), and pairs in one folder (``<x>.nii.gz`` with ``<x>_label….nii.gz``).

    Raises
    ------
    ModelError
        When nothing is found.
    """
    root = Path(root)
    found = [
        TrainCase(ct, truth, truth.parent.parent.name)
        for truth in sorted(root.rglob("truth/*.nii.gz"))
        if (ct := truth.parent.parent / truth.name).is_file()
    ]
    for labels in sorted(root.rglob("*_label*.nii.gz")):
        stem = labels.name[: labels.name.index("_label")]
        if (ct := labels.with_name(f"{stem}.nii.gz")).is_file():
            found.append(TrainCase(ct, labels, stem))
    for labels in sorted(root.rglob("labels*.nii.gz")):
        cts = [ct for ct in sorted(labels.parent.glob("*.nii.gz")) if re.search(r"(^|_)ct[_.]", ct.name)]
        if len(cts) == 1:
            found.append(TrainCase(cts[0], labels, labels.parent.name))
    if not found:
        raise ModelError(
            f"{root}: has no CT with a label map.",
            "Expected sample patients (truth/<ct>.nii.gz) or pairs <x>.nii.gz with <x>_label.nii.gz.",
        )
    return found
