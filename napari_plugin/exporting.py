"""A computed dose as files for reading and as DICOM objects for a PACS. Knows threads and files; draws no widgets."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from doselabel.errors import DicomError, DoselabelError, Progress, ServerError
from doselabel.study import ORIGIN
from doselabel.wire import DoseResults, StudyInfo
from napari_plugin.client import Client


@dataclass(frozen=True)
class Wanted:
    """What to write where.

    Attributes
    ----------
    files : bool
        Report, tables and dose map.
    objects : tuple of str
        Of `doselabel.dicom.KINDS`.
    source : Path or None
        The DICOM that the patient was imported from: the objects refer to it.
    key : Path or None
        Key file of that import; None for this user's own.
    """

    folder: Path
    files: bool = True
    objects: tuple[str, ...] = ()
    source: Path | None = None
    key: Path | None = None


def write_files(results: DoseResults, table: str, files: Sequence[Path], folder: Path) -> None:
    """Copy what a dosimetry made to a folder, and write its numbers beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in files:
        shutil.copyfile(path, folder / path.name)
    (folder / "results.csv").write_text(table, "utf-8")
    (folder / "results.json").write_text(results.model_dump_json(by_alias=True, indent=1), "utf-8")


def write_objects(client: Client, study: StudyInfo, dose: Path, wanted: Wanted, progress: Progress) -> None:
    """Write DICOM objects of a dose; ``dose`` is the folder that has the files of the server's job.

    Raises
    ------
    DoselabelError
        When the study was not imported, its source is not the one named, or the extra ``dicom`` is missing.
    """
    if wanted.source is None:
        raise DoselabelError(
            "No DICOM source is named.",
            "Choose the folder that the patient was imported from: the objects refer to its series.",
        )
    from doselabel.dicom.export import export, material  # brings pydicom
    from doselabel.dicom.studies import origin_of

    try:
        origins = origin_of(client.study_file(study.patient_id, ORIGIN, dose).parent)
    except ServerError as error:
        if error.code != "not_found":
            raise
        raise DicomError(
            f"{study.patient_id}: was not imported from DICOM, so there is no series that objects could refer to.",
            "Import the patient with `doselabel import`.",
        ) from error
    ct = next(image.file for image in study.images if image.role == "diagnostic")
    made = material(study.patient_id, ct, origins, dose, wanted.source, wanted.key, progress)
    progress("writing DICOM", 0.8)
    export(made, wanted.folder, wanted.objects)
