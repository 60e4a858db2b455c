"""Layouts of our own: studies, sample patients, a folder for each case, pairs of files. Knows names of files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from doselabel.errors import StudyError
from doselabel.geometry import SUFFIXES
from doselabel.images import read_header
from doselabel.label_names import carried
from doselabel.model.cases import TrainCase
from doselabel.study import IDENTITY, Study
from doselabel.submitted import Submitted

UNIFIED = {1: "liver", 2: "right_kidney", 3: "left_kidney", 4: "spleen"} | dict.fromkeys(range(5, 256), "tumour")
"""Numbering in `case_folders`, where a map does not carry names of its own."""


def submitted(root: Path) -> list[TrainCase]:
    """Studies: of every CT the submitted label map that counts; CTs without one are left out.

    An organ that the patient lacks (``organs_absent``) is known to be absent; another one without a voxel was not
    drawn.
    """
    cases = []
    for folder in Study.find(root):
        study = _load(folder)
        for ct in study.cts().values() if study else ():
            if study and (labels := Submitted.of(study, ct).final_path()):
                spect = _spect(study, ct)
                cases.append(
                    TrainCase(study.path(ct), labels, study.patient_id, spect=spect, absent=study.organs_absent)
                )
    return cases


def truth(root: Path) -> list[TrainCase]:
    """Sample patients: ``<patient>/ct*.nii.gz`` with label maps of the same name in ``<patient>/truth``."""
    cases = []
    for labels in sorted(root.rglob("truth/*")):
        folder = labels.parent.parent
        suffix = next((s for s in (".seg.nrrd", *SUFFIXES) if labels.name.lower().endswith(s)), None)
        stem = labels.name[: -len(suffix)] if suffix else ""
        kinds = (p for s in SUFFIXES if (p := folder / f"{stem}{s}").is_file())
        if suffix and (ct := next(kinds, None)):
            study = _load(folder)
            patient = study.patient_id if study else folder.name
            spect = _spect(study, ct.name) if study else None
            cases.append(TrainCase(ct, labels, patient, spect=spect, absent=study.organs_absent if study else ()))
    return cases


def case_folders(root: Path) -> list[TrainCase]:
    """A folder for each case: one ``ct….nii.gz`` (or ``…_ct.nii.gz``) with one ``labels….nii.gz``.

    Maps without names are read as numbered by `UNIFIED`, if their anatomy fits that; an organ without a voxel was not
    drawn. A quantitative SPECT beside them is ``activity….nii.gz`` or ``spect….nii.gz``.
    """
    cases = []
    for labels in sorted(root.rglob("labels*")):
        folder = labels.parent
        if not labels.is_file() or not labels.name.lower().endswith(SUFFIXES):
            continue
        images = [p for p in sorted(folder.iterdir()) if p.is_file() and p.name.lower().endswith(SUFFIXES)]
        cts = [p for p in images if p.name.startswith("ct") or "_ct." in p.name]
        if len(cts) != 1 or sum(p.name.startswith("labels") for p in images) != 1:
            continue
        spect = next((p for p in images if p.name.startswith(("activity", "spect"))), None)
        named = bool(carried(read_header(labels)).names)
        case = TrainCase(cts[0], labels, folder.name, spect=spect)
        cases.append(case if named else replace(case, names=UNIFIED, names_assumed=True))
    return cases


def pairs(root: Path) -> list[TrainCase]:
    """Pairs in one folder: ``<x>.nii.gz`` with ``<x>_label….nii.gz`` or ``<x>_seg….nii.gz``."""
    cases = []
    for mark in ("_label", "_seg"):
        for labels in sorted(path for path in root.rglob(f"*{mark}*") if path.name.lower().endswith(SUFFIXES)):
            stem = labels.name[: labels.name.index(mark)]
            ct = next((p for suffix in SUFFIXES if (p := labels.with_name(f"{stem}{suffix}")).is_file()), None)
            if ct and ct != labels:
                cases.append(TrainCase(ct, labels, stem))
    return cases


def spect_of(ct: Path) -> Path | None:
    """The SPECT of a study that lies in the space of this CT as it is."""
    study = _load(ct.parent)
    return _spect(study, ct.name) if study else None


def _load(folder: Path) -> Study | None:
    try:
        return Study.load(folder)
    except StudyError:
        if (folder / "study.json").is_file():
            raise
        return None


def _spect(study: Study, ct: str) -> Path | None:
    """The SPECT that lies in a CT's space as it is."""
    for point in study.time_points:
        if point.ct == ct and np.array_equal(point.spect_to_ct.matrix, IDENTITY):
            return study.path(point.spect)
    return None
