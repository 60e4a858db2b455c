"""Rigid registration of two CTs of one patient by mutual information. Knows two images in HU and no organs.

Coarse to fine with SimpleITK: Mattes mutual information (32 bins, random sampling with a fixed seed), soft tissue
window, regular-step gradient descent in units of physical shift, one thread, so that the same input gives the same
output.
"""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy import ndimage

from doselabel.dosimetry.alignment.registration import Alignment, mean_shift_mm
from doselabel.errors import Progress, RegistrationError, no_progress
from doselabel.geometry import Geometry, Volume, placed, resample

CT_WINDOW_HU = (-200.0, 300.0)
CT_SPACING_MM = 3.0
SEED = 20210611
LEAST_OVERLAP = 0.3


def register_cts(
    moving: Volume,
    fixed: Volume,
    *,
    focus: NDArray[np.bool_] | None = None,
    seed: int = SEED,
    progress: Progress = no_progress,
) -> Alignment:
    """Rigid registration of two CTs by Mattes mutual information, coarse to fine; the same input gives the same output.

    Parameters
    ----------
    moving, fixed : Volume
        HU.
    focus : array, optional
        Mask on the fixed CT's grid: only what is within 15 mm of it counts, so that the organs' own position wins
        over the spine's when breathing moved them.
    seed : int
        Of the metric's random sampling.

    Returns
    -------
    Alignment
        Moving → fixed.

    Raises
    ------
    RegistrationError
        When the images share too little, or the optimiser fails.
    """
    progress("registering CTs", 0.0)
    fixed_image, moving_image = _prepared(fixed), _prepared(moving)
    method = sitk.ImageRegistrationMethod()
    # One thread: the order of sums, and so the last digits, would depend on the machine's number of cores.
    method.SetNumberOfThreads(1)
    method.SetMetricAsMattesMutualInformation(32)
    method.SetMetricSamplingStrategy(method.RANDOM)
    method.SetInterpolator(sitk.sitkLinear)
    share = min(1.0, max(0.02, 40_000 / fixed_image.GetNumberOfPixels()))
    if focus is not None and focus.any():
        method.SetMetricFixedMask(_focus(focus, fixed.geometry, fixed_image))
        share = min(1.0, 4 * share)
    method.SetMetricSamplingPercentage(share, seed)
    method.SetOptimizerAsRegularStepGradientDescent(
        learningRate=2.0, minStep=0.01, numberOfIterations=120, relaxationFactor=0.6
    )
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel([4, 2, 1])
    method.SetSmoothingSigmasPerLevel([6.0, 3.0, 0.0])
    method.SmoothingSigmasAreSpecifiedInPhysicalUnitsOn()
    levels = [0]

    def next_level() -> None:
        progress("registering CTs", levels[0] / 3)
        levels[0] += 1

    method.AddCommand(sitk.sitkMultiResolutionIterationEvent, next_level)
    start, before = _initial(method, fixed_image, moving_image)
    method.SetInitialTransform(start, inPlace=True)
    try:
        method.Execute(fixed_image, moving_image)
    except RuntimeError as error:
        raise RegistrationError(
            f"The CTs could not be registered ({str(error).strip().splitlines()[-1].strip()}).",
            "Check that both show the same body region; set the transform by hand if they do.",
        ) from error
    # SimpleITK's transform maps fixed points to moving ones.
    matrix = np.linalg.inv(_matrix_of(start))
    box = placed(moving.geometry, matrix)
    shared = _shared_fraction(box, fixed.geometry)
    if shared < LEAST_OVERLAP:
        raise RegistrationError(
            f"After registration the CTs share only {shared:.0%} of the smaller one; expected {LEAST_OVERLAP:.0%}.",
            "Check that both show the same body region; set the transform by hand if they do.",
        )
    progress("registering CTs", 1.0)
    corners = fixed.geometry.corners_lps()
    after = -float(method.GetMetricValue())
    return Alignment(matrix, "rigid", mean_shift_mm(np.eye(4), matrix, corners), before, after)


def _prepared(ct: Volume) -> sitk.Image:
    grid = ct.geometry.with_spacing((CT_SPACING_MM,) * 3)
    image = resample(ct, grid, fill=float(CT_WINDOW_HU[0])).array
    return grid.to_sitk(np.clip(image, *CT_WINDOW_HU).astype(np.float32))


def _focus(mask: NDArray[np.bool_], geometry: Geometry, image: sitk.Image) -> sitk.Image:
    grid = Geometry.from_sitk(image)
    near = resample(Volume(mask.astype(np.uint8), geometry), grid, interpolation="nearest").array != 0
    near = ndimage.distance_transform_edt(~near, sampling=grid.spacing_mm) <= 15.0
    return grid.to_sitk(near.astype(np.uint8))


def _initial(
    method: sitk.ImageRegistrationMethod, fixed: sitk.Image, moving: sitk.Image
) -> tuple[sitk.Euler3DTransform, float]:
    """As the files say, or centre on centre when that has more mutual information; and how much the former has."""
    centred = sitk.Euler3DTransform(
        sitk.CenteredTransformInitializer(
            fixed, moving, sitk.Euler3DTransform(), sitk.CenteredTransformInitializerFilter.GEOMETRY
        )
    )
    as_is = sitk.Euler3DTransform()
    as_is.SetCenter(centred.GetCenter())
    information = -_metric(method, fixed, moving, as_is)
    return (as_is if information >= -_metric(method, fixed, moving, centred) else centred), information


def _metric(
    method: sitk.ImageRegistrationMethod, fixed: sitk.Image, moving: sitk.Image, transform: sitk.Transform
) -> float:
    method.SetInitialTransform(sitk.Euler3DTransform(transform), inPlace=False)
    try:
        return float(method.MetricEvaluate(fixed, moving))
    except RuntimeError:  # no overlap at all
        return 0.0


def _matrix_of(transform: sitk.Euler3DTransform) -> np.ndarray:
    matrix = np.eye(4)
    rotation = np.reshape(transform.GetMatrix(), (3, 3))
    centre = np.asarray(transform.GetCenter())
    matrix[:3, :3] = rotation
    matrix[:3, 3] = np.asarray(transform.GetTranslation()) + centre - rotation @ centre
    return matrix


def _shared_fraction(a: Geometry, b: Geometry) -> float:
    ca, cb = a.corners_lps(), b.corners_lps()
    shared = np.prod(np.clip(np.minimum(ca.max(0), cb.max(0)) - np.maximum(ca.min(0), cb.min(0)), 0, None))
    smaller = min(float(np.prod(np.ptp(ca, axis=0))), float(np.prod(np.ptp(cb, axis=0))))
    return float(shared / smaller) if smaller > 0 else 0.0
