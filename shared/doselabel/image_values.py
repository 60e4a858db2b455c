"""What the values of a CT, a SPECT and an exclusion mask must be like. Knows arrays and their units; reads no files."""

from __future__ import annotations

import numpy as np

from doselabel.errors import ModelError, StudyError
from doselabel.geometry import Volume

DEEPEST_NOISE, LARGEST_NEGATIVE_SHARE, FEWEST_NOISE_VOXELS = 0.5, 0.5, 8
"""Negative voxels of filtered back-projection and of filters reach some 10 % of the maximum and, in late scans, a third
of the total; a CT taken for a SPECT is mostly negative, and a few deep voxels alone are damage."""
LARGEST_EXCLUSION = 0.5
FEWEST_GREYS = 32
"""A picture has more values than these; a label map fewer, most often."""
_RESCALE = "Apply the rescale slope and intercept of the DICOM files, or convert to HU, and save again."


def _like_hu(values: np.ndarray) -> bool:
    return bool(-4096 <= values.min() <= -200 and 50 <= values.max() <= 4096)


def check_ct(volume: Volume, where: str) -> None:
    """Raise StudyError unless a CT is in Hounsfield units.

    Air is near −1000 HU and is in every field of view, so an image without any value below −200 is not in HU;
    attenuation coefficients (0 to 0.3 /cm), rescaled greys and raw stored values (0 to 4095) are told apart.
    """
    low, high = float(volume.array.min()), float(volume.array.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise StudyError(f"{where}: holds values that are not finite.", "Export the CT again.")
    if low > -200 or high < 50 or low < -9000 or high > 40000:
        found, remedy = "this is not a CT's range", _RESCALE
        if low == high:
            found, remedy = "there is one value only", "Export the CT again."
        elif volume.array.dtype.kind == "i" and _like_hu(volume.array.byteswap()):
            found = "the bytes of each value seem to be exchanged: the header states the other byte order"
            remedy = "Correct the header's byte order (endian, MSB), or convert the series again."
        elif low >= 0 and high <= 255 and not (volume.array % 1).any() and len(np.unique(volume.array)) < FEWEST_GREYS:
            found, remedy = "this looks like a label map", "Give the CT."
        elif low >= 0 and high <= 5:
            found = "this looks like attenuation coefficients or a scaled image"
        elif low >= 0 and high <= 255:
            found, remedy = "this looks like grey levels of a picture", "Convert the DICOM series itself."
        elif low >= 0 and high >= 2**16 - 3072 and volume.array.dtype.kind == "u":
            found, remedy = "negative values seem to have been saved as unsigned", "Save it as signed integers."
        elif low >= 0 and high <= 9000:
            found = "this looks like stored values without the rescale intercept (−1024)"
        elif low >= 0:
            found, remedy = "this is not a CT's range; is it the SPECT?", "Give the CT."
        raise StudyError(
            f"{where}: values run from {low:g} to {high:g}; expected Hounsfield units, air near −1000 and tissue "
            f"near 0–100; {found}.",
            remedy,
        )


def check_hu(array: np.ndarray, name: str = "The image") -> None:
    """Refuse what a network can't take for a CT in Hounsfield units; one clipped to soft tissue, as published, will do.

    Raises
    ------
    ModelError
    """
    if array.dtype.kind == "f" and not all(np.isfinite(part).all() for part in array):
        raise ModelError(f"{name}: holds values that are not numbers.", "Export the CT again.")
    low, high = float(array.min()), float(array.max())
    found = f"{name}: values run from {low:g} to {high:g}"
    expected = "; a CT in HU has fat near −100, soft tissue near 50 and usually air near −1000."
    if low >= -50:
        hint = "Stored values are often HU + 1024: apply rescale slope and intercept when converting the CT."
        if high < 50 or high > 5000:
            hint = "Is it a SPECT or a dose map, or was the CT normalised? Give the CT in HU."
        raise ModelError(found + expected, hint)
    if high - low < 200 or high < 0 or low < -20000 or high > 60000:
        raise ModelError(found + expected, "Give the CT in HU, not scaled or normalised.")
    sample = array[tuple(slice(None, None, max(1, n // 64)) for n in array.shape)]
    soft = float(np.mean((sample > -200) & (sample < 300)))
    if soft < 0.01:
        raise ModelError(
            f"{found}, but only {100 * soft:.1f} % of the voxels are soft tissue (−200 to 300 HU)" + expected,
            "Check the rescale slope and intercept of the CT.",
        )


def check_exclusion(mask: Volume, ct: Volume | None, where: str, of: str) -> None:
    """Raise StudyError unless an exclusion mask is a mask, on its CT's grid, and leaves something to be counted."""
    if ct is not None and not mask.geometry.same_place(ct.geometry):
        raise StudyError(f"{where} is not on the grid of '{of}'.", "Draw the mask on that CT.")
    low, high, shut = float(mask.array.min()), float(mask.array.max()), np.count_nonzero(mask.array) / mask.array.size
    if low < 0 or high > 255:
        raise StudyError(
            f"{where}: values run from {low:g} to {high:g}; a mask is 0 where activity counts.", "Is it a CT?"
        )
    if shut > LARGEST_EXCLUSION:
        raise StudyError(
            f"{where}: is not 0 in {shut:.0%} of the image, which would all be left out.",
            "A mask is 0 where activity counts; is it the other way round?",
        )


def check_spect(volume: Volume, where: str) -> None:
    """Raise StudyError unless a SPECT is finite, not empty, and negative only as noise is."""
    if not np.isfinite(volume.array).all():
        raise StudyError(f"{where}: holds values that are not finite.", "Export the SPECT again.")
    low, high = float(volume.array.min()), float(volume.array.max())
    negative = volume.array < 0
    count = int(np.count_nonzero(negative))
    if low < -0.01 * max(high, 0.0):
        lost, kept = -float(volume.array[negative].sum(dtype=np.float64)), float(volume.array[~negative].sum())
        few = count < FEWEST_NOISE_VOXELS and low < -0.05 * high
        if low < -DEEPEST_NOISE * high or lost > LARGEST_NEGATIVE_SHARE * kept or few:
            share = f"{lost / kept:.0%} of the positive sum" if kept > 0 else "and none positive"
            raise StudyError(
                f"{where}: has {count} negative values (lowest {low:g}, highest {high:g}; {share}); expected Bq/mL. "
                "Noise of a reconstruction is shallower and spread over many voxels.",
                "Is it the CT, or were large values saved as signed integers? Give the quantitative SPECT.",
            )
    if low == high:
        what = "zero" if high == 0 else f"{high:g}"
        raise StudyError(
            f"{where}: is {what} everywhere; expected activity concentration in Bq/mL.", "Export the SPECT again."
        )
    if high <= 0:
        raise StudyError(f"{where}: has no positive value; expected Bq/mL.", "Export the SPECT again.")
