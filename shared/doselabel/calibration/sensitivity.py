"""Sensitivity from a point source, a petri dish or a large cylinder. Knows an image in counts and what was filled in.

*Source*: all counts within a distance of the object, less background; for an object in air, whatever its size.
*Cylinder*: the concentration inside, away from the walls, against what was filled in; for a reconstruction that
corrects attenuation and scatter. NEMA NU 1; EANM dosimetry guidance on 177Lu (Ljungberg et al., J Nucl Med 57:151,
2016, MIRD 26).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from doselabel.camera import Sensitivity
from doselabel.errors import CalibrationError
from doselabel.geometry import Volume

ACTIVITY_RELATIVE_SD = 0.02
"""Assumed for an activity meter: between EANM's 1 % for a reference meter and 5 % in daily use."""
VOLUME_RELATIVE_SD = 0.01
MARGIN_MM = 40.0
"""How far from the source counts are taken for its own: some four widths of a medium-energy collimator's PSF."""
BACKGROUND_MM = 20.0
WALL_MM = 25.0
"""Inside a cylinder, what lies nearer to its wall is blurred: two widths of the PSF."""
BLOCKS = 3


@dataclass(frozen=True, eq=False)
class MeasuredSensitivity:
    """A sensitivity, its parts of uncertainty (relative, k = 1), and what a figure needs.

    Attributes
    ----------
    profile_mm, profile : ndarray
        Distance, and counts within it (source); or distance from the wall and mean counts (cylinder).
    """

    sensitivity: Sensitivity
    parts: dict[str, float]
    profile_mm: NDArray[np.float64]
    profile: NDArray[np.float64]
    profile_of: str


def of_source(
    image: Volume,
    *,
    activity_mbq: float,
    duration_s: float,
    activity_relative_sd: float = ACTIVITY_RELATIVE_SD,
    margin_mm: float = MARGIN_MM,
) -> MeasuredSensitivity:
    """Sensitivity from all counts of a source in air (point source, petri dish; a planar image is one slice).

    Parameters
    ----------
    image : Volume
        Counts.
    activity_mbq : float
        In the source, in the middle of the scan.
    duration_s : float
    margin_mm : float
        Counts within this distance of the object's half-maximum are its own; background is the shell beyond.

    Raises
    ------
    CalibrationError
        When there is no object, or it is too near the edge.
    """
    _check(image, activity_mbq, duration_s)
    counts = image.array.astype(float)
    inside = _object(counts)
    flat = counts.shape[0] == 1
    spacing = image.geometry.spacing_mm
    distance = ndimage.distance_transform_edt(~inside, sampling=spacing)
    own = distance <= margin_mm
    shell = (distance > margin_mm) & (distance <= margin_mm + BACKGROUND_MM)
    for axis in range(1 if flat else 0, 3):
        if inside.any(axis=tuple(a for a in range(3) if a != axis))[[0, -1]].any():
            raise CalibrationError("The source touches the edge of the image.", "Give an image that holds it whole.")
    if not shell.any():
        raise CalibrationError(
            f"Nothing of the image is farther than {margin_mm:g} mm from the source: background can't be measured.",
            "Give a larger image, or a smaller margin.",
        )
    background = float(counts[shell].mean())
    radii = np.linspace(0, margin_mm, 41)
    order = np.argsort(distance, axis=None)
    summed = np.concatenate([[0.0], np.cumsum(counts.ravel()[order] - background)])
    within = summed[np.searchsorted(distance.ravel()[order], radii, side="right")]
    net = float(counts[own].sum() - background * own.sum())
    if net <= 0:
        raise CalibrationError("The source has no more counts than the background.", "Check the image.")
    noise = math.sqrt(max(float(counts[own].sum()), 1.0))
    background_sd = float(counts[shell].std()) / math.sqrt(shell.sum()) * own.sum()
    tail = abs(net - float(within[np.searchsorted(radii, 0.75 * margin_mm)]))
    parts = {
        "counts": math.hypot(noise, background_sd) / net,
        "tails of the PSF": tail / net / math.sqrt(3.0),
        "activity": activity_relative_sd,
    }
    how = f"source of {activity_mbq:g} MBq, counts within {margin_mm:g} mm less background"
    return _measured(net / duration_s / activity_mbq, parts, how, radii, within, "counts within the distance")


def of_cylinder(
    image: Volume,
    *,
    activity_mbq: float,
    volume_ml: float,
    duration_s: float,
    activity_relative_sd: float = ACTIVITY_RELATIVE_SD,
    volume_relative_sd: float = VOLUME_RELATIVE_SD,
    wall_mm: float = WALL_MM,
) -> MeasuredSensitivity:
    """Sensitivity from the uniform inside of a large cylinder.

    Parameters
    ----------
    image : Volume
        Counts per voxel, reconstructed as patients are.
    activity_mbq, volume_ml : float
        Filled in; the activity in the middle of the scan.
    wall_mm : float
        What lies nearer to the wall is not used.

    Raises
    ------
    CalibrationError
        When nothing lies that far inside.
    """
    _check(image, activity_mbq, duration_s)
    if not (math.isfinite(volume_ml) and volume_ml > 0):
        raise CalibrationError(f"volume_ml is {volume_ml}; expected a number above 0.")
    counts = image.array.astype(float)
    depth = ndimage.distance_transform_edt(_object(counts), sampling=image.geometry.spacing_mm)
    core = depth > wall_mm
    if core.sum() < 100:
        raise CalibrationError(
            f"Only {int(core.sum())} voxels lie more than {wall_mm:g} mm inside the cylinder; expected 100 at least.",
            "Use a larger cylinder, or calibrate from a point source.",
        )
    mean = float(counts[core].mean())
    blocks = _block_means(counts, core)
    edges = np.linspace(0, float(depth.max()), 31)
    of = np.digitize(depth, edges)
    profile = np.array([counts[of == i].mean() if (of == i).any() else np.nan for i in range(1, len(edges))])
    parts = {
        "counts and uniformity": float(blocks.std(ddof=1)) / math.sqrt(len(blocks)) / mean,
        "activity": activity_relative_sd,
        "volume": volume_relative_sd,
    }
    rate_per_ml = mean / image.geometry.voxel_volume_ml / duration_s
    how = f"cylinder of {volume_ml:g} mL with {activity_mbq:g} MBq, {core.sum()} voxels beyond {wall_mm:g} mm"
    return _measured(
        rate_per_ml / (activity_mbq / volume_ml), parts, how, edges[:-1], profile, "mean counts, distance from the wall"
    )


def _measured(
    cps_per_mbq: float, parts: dict[str, float], how: str, x: NDArray[np.float64], y: NDArray[np.float64], what: str
) -> MeasuredSensitivity:
    relative = math.sqrt(sum(p**2 for p in parts.values()))
    found = Sensitivity(cps_per_mbq=cps_per_mbq, sd_cps_per_mbq=relative * cps_per_mbq, how=how)
    return MeasuredSensitivity(found, parts, x, y, what)


def _object(counts: NDArray[np.float64]) -> NDArray[np.bool_]:
    """The largest connected part above half of a robust maximum."""
    smooth = ndimage.uniform_filter(counts, [min(3, n) for n in counts.shape])
    top = float(smooth.max())
    wide = float(np.median(smooth[smooth > 0.5 * top])) if top > 0 else 0.0
    parts, count = ndimage.label(smooth > 0.5 * wide)
    if top <= 0 or count == 0:
        raise CalibrationError("The image holds no counts.", "Give the scan of the phantom.")
    sizes = ndimage.sum_labels(smooth, parts, range(1, count + 1))
    return np.asarray(parts == int(np.argmax(sizes)) + 1)


def _block_means(counts: NDArray[np.float64], core: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Means over blocks of a region: their scatter holds the noise with its correlation, and what is not uniform."""
    box = ndimage.find_objects(core.view(np.uint8))[0]
    index = [np.minimum(np.arange(s.stop - s.start) * BLOCKS // max(s.stop - s.start, 1), BLOCKS - 1) for s in box]
    block = index[0][:, None, None] * BLOCKS**2 + index[1][None, :, None] * BLOCKS + index[2][None, None, :]
    labels = np.where(core[box], block + 1, 0)
    sizes = np.bincount(labels.ravel(), minlength=BLOCKS**3 + 1)[1:]
    sums = np.bincount(labels.ravel(), weights=counts[box].ravel(), minlength=BLOCKS**3 + 1)[1:]
    kept = sizes >= 0.3 * sizes.max()
    return np.asarray(sums[kept] / sizes[kept])


def _check(image: Volume, activity_mbq: float, duration_s: float) -> None:
    for name, value in (("activity_mbq", activity_mbq), ("duration_s", duration_s)):
        if not (math.isfinite(value) and value > 0):
            raise CalibrationError(f"{name} is {value}; expected a number above 0.")
    if not np.isfinite(image.array).all() or float(image.array.min()) < -0.01 * float(image.array.max()):
        raise CalibrationError("The image holds negative or non-finite values; expected counts.", "Export it again.")
