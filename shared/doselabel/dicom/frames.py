"""Where each plane of a series lies, and the factor its file states for its values. Knows headers only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from doselabel.dicom.need import Dataset
from doselabel.dicom.series import NM, Series
from doselabel.dicom.sort import Instance
from doselabel.errors import DicomError


@dataclass(frozen=True, eq=False)
class Plane:
    """One plane: its place (LPS, mm), and what turns stored values into stated ones."""

    instance: Instance
    index: int
    position_mm: np.ndarray
    orientation: np.ndarray
    """Row and column direction, (2, 3)."""
    spacing_mm: tuple[float, float]
    """Between rows, between columns."""
    slope: float | None
    intercept: float
    number: int | None


def planes_of(series: Series) -> list[Plane]:
    """All planes of a series, in the order of the files.

    Raises
    ------
    DicomError
        When one does not say where it lies.
    """
    found: list[Plane] = []
    for instance in series.instances:
        if "PerFrameFunctionalGroupsSequence" in instance.header:
            found += _enhanced(instance, series)
        elif str(instance.header.SOPClassUID) == NM:
            found += _nuclear(instance, series)
        else:
            found.append(_single(instance, series))
    return found


def _single(instance: Instance, series: Series) -> Plane:
    header = instance.header
    return _plane(instance, series, 0, header, header, header, header, _whole(header.get("InstanceNumber")))


def _enhanced(instance: Instance, series: Series) -> list[Plane]:
    header = instance.header
    shared = (header.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]

    def group(frame: Dataset, name: str) -> Dataset:
        for place in (frame, shared):
            if place.get(name):
                return place[name].value[0]
        return Dataset()

    return [
        _plane(
            instance, series, i, group(frame, "PlanePositionSequence"), group(frame, "PlaneOrientationSequence"),
            group(frame, "PixelMeasuresSequence"), group(frame, "PixelValueTransformationSequence"), None,
        )
        for i, frame in enumerate(header.PerFrameFunctionalGroupsSequence)
    ]  # fmt: skip


def _nuclear(instance: Instance, series: Series) -> list[Plane]:
    """Planes of a reconstructed NM object: the first one's place, then steps along the normal.

    PS3.3 C.8.4.15: the sign of SpacingBetweenSlices tells the direction of stacking along the normal.
    """
    header = instance.header
    count = int(header.get("NumberOfFrames") or 1)
    place = (header.get("DetectorInformationSequence") or [header])[0]
    if "ImagePositionPatient" not in place or "ImageOrientationPatient" not in place:
        place = header
    _one_image_only(instance, series, count)
    first = _plane(instance, series, 0, place, place, header, header, 1)
    step = _number(header.get("SpacingBetweenSlices"))
    if step is None and count > 1:
        raise DicomError(
            f"{series.words()}: {instance.name} has {count} planes and no SpacingBetweenSlices.",
            "Export it with its geometry: slice thickness does not say how far slices are apart.",
        )
    if count > 1 and not 0.1 <= abs(step or 0.0) <= 50:
        raise DicomError(
            f"{series.words()}: {instance.name} states slices {step:g} mm apart.", "Export it with its geometry."
        )
    normal = np.cross(*first.orientation)
    return [
        Plane(
            instance, i, first.position_mm + i * (step or 0.0) * normal, first.orientation, first.spacing_mm,
            first.slope, first.intercept, i + 1,
        )
        for i in range(count)
    ]  # fmt: skip


def _one_image_only(instance: Instance, series: Series, count: int) -> None:
    header = instance.header
    for name, what in (("NumberOfEnergyWindows", "energy windows"), ("NumberOfTimeSlots", "time slots"),
                       ("NumberOfRRIntervals", "R-R intervals")):  # fmt: skip
        stacked = int(header.get(name) or 1) > 1 and int(header.get("NumberOfSlices") or count) < count
        if stacked:
            raise DicomError(
                f"{series.words()}: {instance.name} holds {header.get(name)} {what} in one object.",
                "Export the one reconstruction that a dose is to be computed from.",
            )
    order = header.get("SliceVector")
    if order is not None and count > 1:
        numbers = [int(v) for v in np.atleast_1d(np.asarray(order, dtype=float))]
        if numbers != list(range(1, count + 1)):
            raise DicomError(
                f"{series.words()}: the SliceVector of {instance.name} does not count its {count} planes from 1 on.",
                "Export one reconstruction, its slices in order.",
            )


def _plane(
    instance: Instance,
    series: Series,
    index: int,
    at: Dataset,
    along: Dataset,
    measured: Dataset,
    scaled: Dataset,
    number: int | None,
) -> Plane:
    where = f"{series.words()}: {instance.name}" + (f", plane {index + 1}" if index else "")
    position = _numbers(at.get("ImagePositionPatient"), 3, f"{where}: ImagePositionPatient")
    cosines = _numbers(along.get("ImageOrientationPatient"), 6, f"{where}: ImageOrientationPatient").reshape(2, 3)
    spacing = _numbers(measured.get("PixelSpacing"), 2, f"{where}: PixelSpacing")
    if not ((spacing > 0.05) & (spacing < 50)).all():
        raise DicomError(f"{where}: PixelSpacing is {spacing.tolist()} mm.", "Export it with its geometry.")
    lengths, across = np.linalg.norm(cosines, axis=1), abs(float(np.dot(*cosines)))
    if not np.allclose(lengths, 1, atol=1e-2) or across > 1e-2:
        raise DicomError(
            f"{where}: ImageOrientationPatient {np.round(cosines.ravel(), 4).tolist()} is no pair of axes at right "
            "angles.",
            "Export it with its geometry.",
        )
    row = cosines[0] / lengths[0]
    column = cosines[1] - np.dot(cosines[1], row) * row
    slope = _number(scaled.get("RescaleSlope"))
    return Plane(
        instance, index, position, np.array([row, column / np.linalg.norm(column)]),
        (float(spacing[0]), float(spacing[1])), slope, _number(scaled.get("RescaleIntercept")) or 0.0, number,
    )  # fmt: skip


def _numbers(value: object, count: int, what: str) -> np.ndarray:
    try:
        numbers = np.array([float(v) for v in value])  # type: ignore[attr-defined]
    except (TypeError, ValueError):
        numbers = np.zeros(0)
    if numbers.shape != (count,) or not np.isfinite(numbers).all():
        found = "missing" if value is None else f"{str(value)[:60]!r}"
        raise DicomError(
            f"{what} is {found}; expected {count} numbers.", "Export it with its geometry; nothing is guessed."
        )
    return numbers


def _number(value: object) -> float | None:
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return number if np.isfinite(number) else None


def _whole(value: object) -> int | None:
    number = _number(value)
    return None if number is None else int(number)
