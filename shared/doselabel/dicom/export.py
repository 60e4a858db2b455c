"""A finished dose → DICOM objects that refer to the series it was computed on. Reads the source; changes nothing of it.

What is exported is the dose folder's own (`doselabel dose`): the masks used, the dose map, the report. They lie in the
frame of the diagnostic CT, whose instances must be at hand: everything refers to them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from doselabel.dicom import KINDS
from doselabel.dicom.need import Dataset
from doselabel.dicom.pseudonym import Key
from doselabel.dicom.series import sorted_series
from doselabel.dicom.sort import gathered
from doselabel.dicom.volume import Stack, stacked
from doselabel.dosimetry.results import masks_name, read_dose
from doselabel.errors import DicomError, Progress, no_progress
from doselabel.geometry import Volume
from doselabel.labels import LabelMap, read_labels
from doselabel.wire import DoseResults


@dataclass(frozen=True, eq=False)
class Material:
    """All that the writers need.

    ``planes`` are the masks on the source's own slices, (slice, row, column), in the order of ``images``.
    """

    images: list[Dataset]
    stack: Stack
    planes: np.ndarray
    labels: LabelMap
    dose: Volume
    results: DoseResults
    folder: Path


def material(
    patient_id: str,
    ct: str,
    origins: Mapping[str, Mapping[str, str]],
    folder: Path,
    source: Path,
    key: Path | None = None,
    progress: Progress = no_progress,
) -> Material:
    """Find the source of a study's diagnostic CT and bring the masks onto its slices.

    Parameters
    ----------
    patient_id, ct : str
        The study's, and the file of its diagnostic CT.
    origins : mapping
        File → what it came from (`doselabel.dicom.studies.origin_of`).
    folder : Path
        Of the dose.
    source : Path
        The DICOM that was imported.
    key : Path, optional
        Key file of that import; by default this user's own.
    progress : Progress

    Raises
    ------
    DicomError
        When the study was not imported, or ``source`` does not hold its diagnostic CT.
    """
    origin = origins.get(ct)
    if origin is None:
        raise DicomError(
            f"{patient_id}: was not imported from DICOM, so there is no series that results could refer to.",
            "Import the patient with `doselabel import`.",
        )
    pseudonyms = Key.open(key)
    with gathered(source, progress) as files:
        series = sorted_series(files.instances)
    found = [s for s in series if s.kind == "ct" and origin["series_uid"] in (pseudonyms.uid(s.uid), s.uid)]
    if not found:
        raise DicomError(
            "The source does not hold the series of the diagnostic CT, by the key's UIDs.",
            "Give the folder that was imported, and the --key that it was imported with.",
        )
    stack = stacked(found[0])
    images = [plane.instance.header for plane in stack.planes]
    if any(plane.index for plane in stack.planes):
        raise DicomError("The diagnostic CT is one enhanced object; results refer to single slices.", "Export it so.")
    results, dose = read_dose(folder)
    if results.patient_id != patient_id:
        raise DicomError(f"{folder}: is of {results.patient_id}, the study of {patient_id}.", "Give both of one.")
    labels = read_labels(folder / masks_name(ct))
    return Material(images, stack, _on_slices(labels, stack), labels, dose, results, folder)


def _on_slices(labels: LabelMap, stack: Stack) -> np.ndarray:
    """The label at each voxel of the source's slices: the nearest one, or the same where the grids are one."""
    if stack.regular and labels.geometry.same_place(stack.geometry):
        return labels.array
    rows, columns = stack.geometry.shape[1:]
    out = np.zeros((len(stack.planes), rows, columns), np.uint8)
    r, c = np.mgrid[:rows, :columns]
    for z, plane in enumerate(stack.planes):
        points = (
            plane.position_mm
            + c[..., None] * plane.spacing_mm[1] * plane.orientation[0]
            + r[..., None] * plane.spacing_mm[0] * plane.orientation[1]
        )
        index = np.rint(labels.geometry.lps_to_index(points)).astype(int)
        inside = ((index >= 0) & (index < labels.geometry.shape)).all(axis=-1)
        out[z][inside] = labels.array[tuple(index[inside].T)]
    return out


def export(made: Material, out: Path, kinds: tuple[str, ...] = KINDS) -> list[Path]:
    """Write the objects; SR refers to SEG, so that it brings SEG along."""
    from doselabel.dicom import write_rt, write_seg

    out.mkdir(parents=True, exist_ok=True)
    objects: dict[str, Dataset] = {}
    if "seg" in kinds or "sr" in kinds:
        objects["seg"] = write_seg.segmentation(made)
    if "sr" in kinds:
        objects["sr"] = write_seg.measurements(made, objects["seg"])
    if "rtstruct" in kinds:
        objects["rtstruct"] = write_rt.structures(made)
    if "rtdose" in kinds:
        objects["rtdose"] = write_rt.dose(made)
    if "pdf" in kinds:
        objects["pdf"] = write_rt.report(made)
    written = []
    for kind, ds in objects.items():
        path = out / f"{kind}.dcm"
        ds.save_as(path, write_like_original=False)
        written.append(path)
    return written
