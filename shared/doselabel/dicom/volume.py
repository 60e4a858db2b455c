"""Planes → a volume on a regular grid. Says in words what it had to do; refuses what it would have to invent."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from doselabel.dicom.frames import Plane, planes_of
from doselabel.dicom.need import Dataset, pydicom
from doselabel.dicom.series import CT, Series
from doselabel.errors import DicomError
from doselabel.geometry import Geometry, Volume
from doselabel.grid import float3, int3

SAME_MM = 0.01
UNEVEN = 0.02
"""Gaps that differ by less, as a share of the usual one, are one gap: positions are written with few digits."""
_LARGEST_TILT_DEG = 35.0
_SCALES = ("RescaleSlope", "RescaleIntercept", "PixelValueTransformationSequence", "RealWorldValueMappingSequence",
           "ModalityLUTSequence")  # fmt: skip


@dataclass(frozen=True, eq=False)
class Stack:
    """Planes in the order of their normal, and the grid they are brought onto.

    Attributes
    ----------
    planes : list of Plane
        Along the normal of rows and columns.
    geometry : Geometry
    heights_mm : (n,) array
        Along the normal.
    shifts_mm : (n, 2) array
        How far each plane's first voxel lies off the grid's, along rows and columns: a tilted gantry's shear.
    words : tuple of str
        What was done about it.
    """

    planes: list[Plane]
    geometry: Geometry
    heights_mm: np.ndarray
    shifts_mm: np.ndarray
    words: tuple[str, ...]

    @property
    def regular(self) -> bool:
        """Whether the planes are the grid's own slices, so that nothing is interpolated."""
        return not self.words


def stacked(series: Series) -> Stack:
    """Order a series' planes and find their grid, from headers alone.

    Raises
    ------
    DicomError
        For mixed orientations or sizes, duplicate or missing slices.
    """
    planes, where = planes_of(series), series.words()
    first = planes[0]
    turned = [p for p in planes if not np.allclose(p.orientation, first.orientation, atol=2e-3)]
    if turned:
        raise DicomError(
            f"{where}: mixes orientations: {len(turned)} of {len(planes)} planes are turned against the first "
            f"({turned[0].instance.name}).",
            "Export axial slices and reformatted ones as series of their own.",
        )
    sizes = Counter((p.instance.header.Rows, p.instance.header.Columns, *np.round(p.spacing_mm, 4)) for p in planes)
    if len(sizes) > 1:
        raise DicomError(
            f"{where}: mixes planes of {len(sizes)} sizes: "
            + "; ".join(f"{n} of {s[0]}×{s[1]} at {s[2]:g} mm" for s, n in sizes.most_common(3))
            + ".",
            "Export one reconstruction.",
        )
    if len(planes) < 2:
        raise DicomError(f"{where}: is a single plane, not a volume.", "Export the whole series.")
    normal = np.cross(*first.orientation)
    heights = np.array([float(np.dot(p.position_mm, normal)) for p in planes])
    order = np.argsort(heights, kind="stable")
    planes, heights = [planes[i] for i in order], heights[order]
    _refuse_duplicates(planes, heights, where)
    gaps = np.diff(heights)
    usual = _usual(gaps)
    _refuse_missing(planes, gaps, usual, where, series)
    shifts = np.array([(p.position_mm - planes[0].position_mm) @ p.orientation.T for p in planes])
    words = []
    if np.abs(shifts).max() > max(SAME_MM * 5, 0.02 * min(first.spacing_mm)):
        tilt = float(np.degrees(np.arctan2(np.abs(np.diff(shifts, axis=0)).max(), usual)))
        if tilt > _LARGEST_TILT_DEG:
            raise DicomError(
                f"{where}: its slices are displaced against each other by up to {np.abs(shifts).max():.1f} mm, which "
                "no gantry's tilt is.",
                "Two scans may be mixed in one series: export each as its own.",
            )
        words.append(
            f"{where}: tilted gantry ({tilt:.1f}°): slices lie up to {np.abs(shifts).max():.1f} mm beside each other; "
            "resampled onto a straight grid."
        )
    if np.abs(gaps - usual).max() > UNEVEN * usual + SAME_MM:
        words.append(
            f"{where}: uneven gaps ({gaps.min():.3g} to {gaps.max():.3g} mm): resampled to slices {usual:.3g} mm apart."
        )
        count = round((heights[-1] - heights[0]) / usual) + 1
    else:
        usual, count = float((heights[-1] - heights[0]) / (len(planes) - 1)), len(planes)
    header = first.instance.header
    geometry = Geometry(
        int3((count, int(header.Rows), int(header.Columns))),
        float3((usual, *first.spacing_mm)),
        float3(planes[0].position_mm),
        tuple(float(v) for v in np.column_stack([*first.orientation, normal]).ravel()),
    )
    return Stack(planes, geometry, heights, shifts, tuple(words))


def _usual(gaps: np.ndarray) -> float:
    """The gap that most planes have."""
    values, counts = np.unique(np.round(gaps, 2), return_counts=True)
    near = np.abs(gaps - values[counts.argmax()]) <= 0.02 + UNEVEN * values[counts.argmax()]
    return float(gaps[near].mean())


def _refuse_duplicates(planes: list[Plane], heights: np.ndarray, where: str) -> None:
    twice = np.flatnonzero(np.diff(heights) < SAME_MM)
    if not len(twice):
        return
    a, b = planes[twice[0]], planes[twice[0] + 1]
    acquisitions = {p.instance.text("AcquisitionNumber") for p in planes}
    several = f"; it holds {len(acquisitions)} acquisitions" if len(acquisitions) > 1 else ""
    raise DicomError(
        f"{where}: {len(twice)} duplicate slice(s): {a.instance.name} and {b.instance.name} lie in one place{several}.",
        "Leave one of them out, or export each acquisition as a series of its own.",
    )


def _refuse_missing(planes: list[Plane], gaps: np.ndarray, usual: float, where: str, series: Series) -> None:
    """Missing: a gap of several slices that the numbering of the slices, or their steady distance, contradicts."""
    missing = 0
    times = np.round(gaps / usual)
    wide = (times >= 2) & (np.abs(gaps - times * usual) <= 0.03 * usual + SAME_MM)
    numbers = [p.number for p in planes]
    for i in np.flatnonzero(wide):
        a, b = numbers[i], numbers[i + 1]
        contiguous = a is not None and b is not None and abs(a - b) == 1
        if not contiguous:
            missing += int(times[i]) - 1
    if missing and wide.sum() <= max(3, len(gaps) // 4):
        at = int(np.flatnonzero(wide)[0])
        raise DicomError(
            f"{where}: {missing} slice(s) are missing: {len(planes)} are there, {usual:.3g} mm apart, with a gap of "
            f"{gaps[at]:.3g} mm behind {planes[at].instance.name}.",
            "Export the series again, whole.",
        )
    stated = series.head.get("NumberOfSlices")
    if series.kind == "spect" and stated and int(stated) > len(planes):
        raise DicomError(
            f"{where}: {int(stated) - len(planes)} slice(s) are missing: NumberOfSlices is {stated}, {len(planes)} "
            "are there.",
            "Export the series again, whole.",
        )


Scaling = Callable[[Plane, np.ndarray], np.ndarray]
"""Stored values of a plane → values in the unit wanted."""


def read_volume(stack: Stack, scaling: Scaling) -> Volume:
    """Read the voxels of a stack onto its grid.

    Raises
    ------
    DicomError
        When voxels can't be read, or are not finite.
    """
    slices: list[np.ndarray] = []
    held: tuple[Path, np.ndarray] | None = None
    for plane in stack.planes:
        path = plane.instance.path
        if held is None or held[0] != path:
            held = path, _stored(plane)
        values = scaling(plane, held[1][plane.index])
        if not np.isfinite(values).all():
            raise DicomError(f"{plane.instance.name}: holds values that are not finite.", "Export it again.")
        slices.append(values.astype(np.float32))
    array = np.stack(slices)
    if not stack.regular:
        array = _straightened(array, stack)
    return Volume(array, stack.geometry)


def _stored(plane: Plane) -> np.ndarray:
    """Stored values (frames, rows, columns) of a plane's file; packed ones are unpacked by GDCM."""
    path, header = plane.instance.path, plane.instance.header
    try:
        whole = pydicom.dcmread(path, force=True)
        if not hasattr(whole.file_meta, "TransferSyntaxUID"):
            whole.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian
        packed = whole.file_meta.TransferSyntaxUID.is_compressed
        array = _unpacked_by_gdcm(whole) if packed else whole.pixel_array
    except Exception as error:  # pydicom raises whatever a damaged file makes it raise
        raise DicomError(
            f"{plane.instance.name}: its voxels can't be read ({type(error).__name__}: {error}).", "Export it again."
        ) from error
    return array.reshape(-1, int(header.Rows), int(header.Columns))


def _unpacked_by_gdcm(whole: Dataset) -> np.ndarray:
    groups = [
        *(whole.get("SharedFunctionalGroupsSequence") or []),
        *(whole.get("PerFrameFunctionalGroupsSequence") or []),
    ]
    for place in (whole, *groups):
        for keyword in _SCALES:
            if keyword in place:
                delattr(place, keyword)  # so that GDCM hands out what is stored
    with tempfile.TemporaryDirectory(prefix="doselabel-dicom-") as folder:
        file = Path(folder) / "packed.dcm"
        whole.save_as(file)
        return sitk.GetArrayFromImage(sitk.ReadImage(str(file)))


def _straightened(array: np.ndarray, stack: Stack) -> np.ndarray:
    """Undo a tilt by shifting each slice within its plane, then interpolate between slices, linearly."""
    from scipy.ndimage import shift

    rows_mm, columns_mm = stack.planes[0].spacing_mm
    outside = float(array.min())
    straight = np.empty_like(array)
    for i, (along_row, along_column) in enumerate(stack.shifts_mm):
        offset = (along_column / rows_mm, along_row / columns_mm)
        straight[i] = shift(array[i], offset, order=1, mode="constant", cval=outside) if any(offset) else array[i]
    wanted = stack.heights_mm[0] + np.arange(stack.geometry.shape[0]) * stack.geometry.spacing_mm[0]
    above = np.clip(np.searchsorted(stack.heights_mm, wanted), 1, len(array) - 1)
    gap = stack.heights_mm[above] - stack.heights_mm[above - 1]
    weight = np.clip((wanted - stack.heights_mm[above - 1]) / gap, 0, 1)[:, None, None].astype(np.float32)
    return straight[above - 1] * (1 - weight) + straight[above] * weight


def ct_volume(stack: Stack) -> Volume:
    """A CT in HU; padding, which is no measurement, becomes air."""
    volume = read_volume(stack, _hounsfield)
    whole = np.rint(volume.array)
    if np.abs(whole - volume.array).max() < 1e-3 and np.abs(whole).max() < 32000:
        return Volume(whole.astype(np.int16), volume.geometry)
    return volume


def _hounsfield(plane: Plane, stored: np.ndarray) -> np.ndarray:
    values = stored.astype(np.float64) * (1.0 if plane.slope is None else plane.slope) + plane.intercept
    padding = plane.instance.header.get("PixelPaddingValue")
    if padding is not None and str(plane.instance.header.SOPClassUID) == CT:
        values[stored == np.asarray(padding).astype(stored.dtype)] = -1024.0
    return np.maximum(values, -1024.0)
