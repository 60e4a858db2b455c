"""One CT with its label map, as training and evaluation see it, whatever the files look like.

It knows how a case is read; which cases there are is found by `doselabel.model.datasets`. No network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from doselabel.errors import LabelError
from doselabel.geometry import Volume
from doselabel.image_values import check_hu
from doselabel.labels import LabelMap, inspected, read_labels
from doselabel.model import series
from doselabel.model.parenchyma import parenchyma
from doselabel.reading import folder_of, read_of_study

ORGAN_MASKS = {
    "liver": "liver",
    "kidney_left": "left_kidney",
    "kidney_right": "right_kidney",
    "spleen": "spleen",
}
"""Mask file of a TotalSegmentator subject → organ."""
CYST_MASKS = {"kidney_cyst_left": "left_kidney", "kidney_cyst_right": "right_kidney"}


@dataclass(frozen=True)
class TrainCase:
    """One CT and its label map, of one patient.

    Attributes
    ----------
    ct : Path
        Image file, or the folder of a DICOM series.
    labels : Path
        Label map, or a folder of masks: one for each organ, or one PNG for each slice of the DICOM series.
    patient : str
        Cases are drawn and split by patient.
    names : mapping, optional
        Value → organ name, where the label map does not carry the right names itself.
    unlabelled : tuple of str, optional
        Organs that nobody drew here: 0 does not mean absent, and nothing is taught about them. Default: the organs
        of which the map has no voxel, save those in ``absent``. An empty tuple says that everything was drawn.
    spect : Path, optional
        SPECT of the same patient in the CT's space, for profiles with a SPECT channel.
    scheme : str, optional
        How a public data set numbers its maps: a key of `doselabel.schemes.SCHEMES`.
    merge_lesions : bool
        Count tumours and cysts to the organ they lie in (the paper does); else they are no part of it.
    absent : tuple of str
        Organs the patient does not have.
    parenchyma : bool
        Leave pelvis, sinus and vessels out of the kidneys that were drawn (`doselabel.model.parenchyma`).
    ready : Path, optional
        Folder in which the case lies prepared already (`doselabel.model.carry`); CT and labels are not read.
    names_assumed : bool
        The names are a layout's custom, stated by nobody: the map is refused when it does not fit a body.
    """

    ct: Path
    labels: Path
    patient: str
    names: Mapping[int, str] | None = field(default=None, hash=False)
    unlabelled: tuple[str, ...] | None = None
    spect: Path | None = None
    scheme: str | None = None
    merge_lesions: bool = True
    absent: tuple[str, ...] = ()
    parenchyma: bool = False
    ready: Path | None = None
    names_assumed: bool = False


def case_ct(case: TrainCase) -> Volume:
    """Read a case's CT, HU.

    Raises
    ------
    GeometryError, ModelError
        When it can't be read, or is no CT by its values.
    """
    ct = series.read_dicom_series(case.ct) if case.ct.is_dir() else read_of_study(case.ct)
    check_hu(ct.array, str(case.ct))
    return ct


def case_labels(case: TrainCase, ct: Volume | None = None) -> LabelMap:
    """Read a case's label map on its CT's grid.

    Parameters
    ----------
    case : TrainCase
    ct : Volume, optional
        Its CT when it has been read already; a map with both kidneys as one value needs it to tell their sides.

    Raises
    ------
    LabelError, GeometryError
        When it can't be read, or lies elsewhere than the CT that is given.
    """
    if ct is None and case.parenchyma:
        ct = case_ct(case)
    labels = _read(case, ct)
    if ct is not None and not labels.geometry.same_place(ct.geometry):
        raise LabelError(
            f"{case.labels}: has {labels.geometry.shape} voxels (z, y, x) of {_mm(labels.geometry.spacing_mm)} mm; its "
            f"CT {case.ct} has {ct.geometry.shape} of {_mm(ct.geometry.spacing_mm)} mm, or lies elsewhere.",
            "Give label maps on their CT's own grid.",
        )
    return _of_parenchyma(labels, ct) if case.parenchyma and ct is not None else labels


def _of_parenchyma(labels: LabelMap, ct: Volume) -> LabelMap:
    array = labels.array.copy()
    for side in ("left", "right"):
        if (mask := labels.mask(f"{side}_kidney")).any():
            array[mask & ~parenchyma(ct.array, mask, labels.geometry, side)] = 0
    return replace(labels, array=array)


def _read(case: TrainCase, ct: Volume | None) -> LabelMap:
    if case.labels.is_dir() and case.scheme == "chaos_ct":
        array = series.read_png_stack(case.labels, case.ct)
        ct = ct or case_ct(case)
        liver = LabelMap(series.ordered(ct.geometry, (array > 0).astype("uint8")).array, ct.geometry, {1: "liver"})
        return inspected(liver, ct)
    if case.labels.is_dir():
        return inspected(series.read_masks(case.labels, ORGAN_MASKS | (CYST_MASKS if case.merge_lesions else {})), ct)
    return read_labels(
        case.labels,
        scheme=case.scheme,
        names=case.names,
        names_assumed=case.names_assumed,
        unnamed_is_background=case.names is not None,
        expect=ct.geometry if ct is not None else None,
        within=folder_of(case.labels),
        ct=ct if ct is not None or not case.ct.exists() else partial(case_ct, case),
        merge_lesions=case.merge_lesions,
    )


def unlabelled(case: TrainCase, labels: LabelMap, organs: Sequence[str]) -> tuple[str, ...]:
    """Which of ``organs`` a case says nothing about."""
    if case.unlabelled is not None:
        return tuple(name for name in organs if name in case.unlabelled)
    return tuple(name for name in organs if name not in case.absent and not labels.mask(name).any())


def _mm(spacing: tuple[float, float, float]) -> str:
    return "×".join(f"{value:.2f}" for value in spacing)
