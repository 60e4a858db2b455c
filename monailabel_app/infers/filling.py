"""The model's masks of CTs that nobody has submitted a label map of, kept: a dose and its drafts look at a CT once."""

from __future__ import annotations

from collections.abc import Container
from pathlib import Path

from doselabel.dosimetry.cache import digest
from doselabel.errors import Progress
from doselabel.labels import write_labels
from doselabel.study import Study
from doselabel.versions import FINAL
from monailabel_app.cases import Case, cases_of
from monailabel_app.infers.kidney_liver import KidneyLiver


def filled_in(kidney_liver: KidneyLiver, cache: Path, case: Case, progress: Progress) -> Path:
    """The label map that the model draws on a CT; the one kept in ``cache`` if neither has changed since."""
    key = digest("filling", kidney_liver.answers_by(case.path), case.image_id)
    path = cache / "masks" / f"{case.image_id}_{key[:16]}.nii.gz"
    if not path.is_file():
        labels, _ = kidney_liver.segment(case.path, {"progress": progress})
        path.parent.mkdir(parents=True, exist_ok=True)
        write_labels(path, labels)
    return path


def missing(study: Study, besides: Container[str] = ()) -> list[Case]:
    """CTs that nobody has submitted a label map of, but for those of these files."""
    return [case for case in cases_of(study) if case.file not in besides and case.labels.tagged(FINAL) is None]
