"""Images that come as folders: a DICOM series, a stack of PNG masks, one mask per organ. Knows files and grids."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from doselabel.alarms import Alarm, finding
from doselabel.errors import GeometryError
from doselabel.geometry import SUFFIXES, Geometry, Volume, read_image
from doselabel.labels import LabelMap

_POSITION, _ORIENTATION = "0020|0032", "0020|0037"
_EVEN_MM = 0.1
"""Slices count as evenly spaced within this: scanners round positions."""


def read_dicom_series(folder: Path) -> Volume:
    """Read the one CT series of a folder (HU), slices in the order of their positions.

    The files are ordered by ImagePositionPatient along the slice normal (DICOM PS3.3 C.7.6.2.1.1), not by name or
    series UID: data sets that were made anonymous file by file have neither.

    Raises
    ------
    GeometryError
        When the files are no DICOM images, of different grids, or a slice is missing or there twice.
    """
    files = _dicom_files(folder)
    along, files = _in_space(files)
    gaps = np.diff(along)
    if len(gaps) and (gaps.min() < _EVEN_MM or gaps.max() - gaps.min() > _EVEN_MM):
        raise GeometryError(
            f"{folder}: its slices are {gaps.min():.2f} to {gaps.max():.2f} mm apart; expected one even series.",
            "Is a slice missing or there twice, or are there two series? Put each into a folder of its own.",
        )
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames([str(file) for file in files])
    try:
        return Volume.from_sitk(reader.Execute())
    except RuntimeError as error:
        raise GeometryError(
            f"{folder}: its files are not the slices of one image ({str(error).strip().splitlines()[-1].strip()}).",
            "Put each series into a folder of its own.",
        ) from error


def read_png_stack(folder: Path, dicom: Path) -> np.ndarray:
    """Read PNG masks (z, y, x), one for each file of a DICOM series, in the order of the series' positions.

    The k-th PNG belongs to the k-th DICOM file, both by name: how CHAOS numbers them.

    Raises
    ------
    GeometryError
        When there are more or fewer masks than slices, or they differ in size.
    """
    masks, files = sorted(folder.glob("*.png"), key=_by_number), _dicom_files(dicom)
    if len(masks) != len(files):
        raise GeometryError(
            f"{folder}: has {len(masks)} PNG masks; {dicom} has {len(files)} slices.",
            "Every slice needs its mask: unpack the data set again.",
        )
    of_file = dict(zip(files, masks, strict=True))
    slices = [sitk.GetArrayFromImage(sitk.ReadImage(str(of_file[file]))) for file in _in_space(files)[1]]
    if len({one.shape for one in slices}) > 1 or slices[0].ndim != 2:
        raise GeometryError(f"{folder}: its masks differ in size or are not grey.", "Unpack the data set again.")
    return np.stack(slices)


def read_masks(folder: Path, organs: dict[str, str]) -> LabelMap:
    """Read a folder with one mask file per structure into one label map.

    Parameters
    ----------
    organs : dict
        File name without suffix → organ name; several files may make one organ. Files that are absent are skipped.
    """
    array, geometry = None, None
    names: dict[int, str] = {}
    told: list[Alarm] = []
    for stem, organ in organs.items():
        path = next((p for suffix in SUFFIXES if (p := folder / f"{stem}{suffix}").is_file()), None)
        if path is None:
            continue
        mask = read_image(path)
        if array is None or geometry is None:
            array, geometry = np.zeros(mask.array.shape, np.uint8), mask.geometry
        if not mask.geometry.same_place(geometry):
            raise GeometryError(f"{path}: lies on another grid than the masks beside it.", "Export the masks again.")
        value = next((v for v, name in names.items() if name == organ), len(names) + 1)
        names[value] = organ
        drawn = mask.array > 0
        taken = int(np.count_nonzero(drawn & (array > 0) & (array != value)))
        if taken:
            sentence = f"{taken} voxels of '{stem}' are in another mask, too; they stayed there."
            told.append(finding("label-segments-overlap", sentence, numbers={"voxels": taken}, organ=organ))
        array[drawn & (array == 0)] = value
    if array is None or geometry is None:
        raise GeometryError(
            f"{folder}: has none of the masks {', '.join(organs)}.", "Expected one .nii.gz file for each organ."
        )
    return LabelMap(array, geometry, names, tuple(told))


def ordered(geometry: Geometry, array: np.ndarray) -> Volume:
    """Put a stack that was read slice by slice on the grid of the series it belongs to."""
    if array.shape != geometry.shape:
        raise GeometryError(
            f"The masks have {array.shape} voxels, their CT {geometry.shape} (z, y, x).",
            "Do the masks belong to this CT? Unpack the data set again.",
        )
    return Volume(array, geometry)


def _dicom_files(folder: Path) -> list[Path]:
    files = [p for p in folder.iterdir() if p.is_file() and not p.name.startswith(".")] if folder.is_dir() else []
    chosen = [p for p in files if p.suffix.lower() in (".dcm", ".ima")] or [p for p in files if not p.suffix]
    if not chosen:
        raise GeometryError(f"{folder}: has no DICOM files.", "Expected the slices of one CT, .dcm each.")
    return sorted(chosen, key=_by_number)


def _in_space(files: list[Path]) -> tuple[np.ndarray, list[Path]]:
    """Positions along the slice normal (mm, ascending) and the files in that order."""
    normal, along = None, []
    reader = sitk.ImageFileReader()
    for file in files:
        reader.SetFileName(str(file))
        try:
            reader.ReadImageInformation()
            position, axes = (
                [float(v) for v in reader.GetMetaData(key).split("\\")] for key in (_POSITION, _ORIENTATION)
            )
        except (RuntimeError, ValueError) as error:
            raise GeometryError(
                f"{file}: is no DICOM slice with a position in the patient.", "Export the series again."
            ) from error
        if normal is None:
            normal = np.cross(axes[:3], axes[3:])
        along.append(float(np.dot(normal, position)))
    order = np.argsort(along, kind="stable")
    return np.asarray(along)[order], [files[k] for k in order]


def _by_number(path: Path) -> tuple:
    return tuple(int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path.name))
