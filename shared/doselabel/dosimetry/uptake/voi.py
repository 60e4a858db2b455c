"""Organ activity from one SPECT: volumes of interest by margin, Gaussian border, threshold or transfer matrix.

Knows one SPECT, one label map and the camera's resolution; no times, masses or doses. Four ways to say which counts
are an organ's (Nazari et al. 2021, "Dosimetry"; Rousset et al., J Nucl Med 1998;39:904 for the last):

- `margin`: the mask grown by some millimetres, measured from its surface;
- `gaussian`: the mask blurred by a Gaussian, cut at a level or as soft weights;
- `threshold`: the SPECT's voxels above a percentage of the maximum near the mask;
- `gtm`: geometric transfer matrix. Every organ, every excluded region and the tissue around each organ is a region of
  uniform concentration; blurring each with the camera's point-spread function (PSF) tells how much of each shows in
  each volume of interest, and the linear system is solved for the concentrations. It undoes spill-out and spill-in.

Masks are taken to a subdivision of the SPECT's own voxels (2.3 mm or finer), blurred there and integrated to them
(`grids`); the SPECT itself is never resampled. A voxel belongs to one organ: where two volumes would overlap, each
keeps what is nearer to it, and no organ reaches into another's mask. An excluded part (urine, a lesion) is not
counted; an organ's tissue in it, or beyond the field of view, is taken at the organ's mean concentration.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from doselabel.dosimetry.alignment.grids import Box, sigma_from_fwhm
from doselabel.dosimetry.physics.spheres import FWHM_PER_SIGMA, sphere_recovery
from doselabel.dosimetry.uptake.scene import Scene
from doselabel.dosimetry.uptake.transfer import TransferMatrix, shell_mm, transfer_matrix
from doselabel.errors import VoiError
from doselabel.geometry import Geometry, Volume
from doselabel.labels import LabelMap

VoiMethod = Literal["margin", "gaussian", "threshold", "gtm"]

ONE_SIGMA_LEVEL = 0.1587
"""A flat border blurred by σ has this level one σ outside (Φ(−1)): cut there, a Gaussian border is σ wide."""

SMALLEST_INSIDE = 0.5
"""A threshold finds the hottest place near a mask; where less of that lies in the mask, it is not the organ."""

LEAST_RECOVERY = 0.1
"""With `gtm`, an organ that shows less of itself in its own mask (0.4 mL at 12 mm FWHM) is not measured: what is shown
would be multiplied by more than ten, and so would every error of contour and resolution."""

LEAST_UNCORRECTED_RECOVERY = 0.6
"""Without partial-volume correction, an organ whose sphere of equal volume keeps less than this within its border
(20 mL at 12 mm FWHM) is not measured: a lesion of 10 mL in a warm liver would lose a third of its activity."""


@dataclass(frozen=True, eq=False)
class OrganActivity:
    """One organ in one SPECT.

    Attributes
    ----------
    activity_mbq : float
        Activity of the whole organ when the SPECT was taken.
    mask_ml, voi_ml : float
        Volume of the mask, and of the volume of interest that was measured (sum of its weights).
    counted_fraction : float
        Part of the mask that lies in the field of view and is not excluded.
    recovery_coefficient : float or None
        Part of a uniform organ's activity that its volume of interest shows, by the PSF; for `gtm`, that its
        un-expanded mask would show. None without a PSF.
    weights : (z, y, x) array of float32
        The volume of interest on `VoiResult.geometry`, 0 to 1.
    response_ml : (z, y, x) array of float32
        What a concentration in each voxel adds to the activity: activity (Bq) = Σ response · SPECT.
    """

    activity_mbq: float
    mask_ml: float
    voi_ml: float
    counted_fraction: float
    recovery_coefficient: float | None
    weights: NDArray[np.float32]
    response_ml: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class VoiResult:
    """Organ activities of one SPECT, and the box of its voxels they were measured in.

    Attributes
    ----------
    organs : dict of str to OrganActivity
    box : tuple of slice
        Index box of the SPECT; it may reach beyond it.
    geometry : Geometry
        The box's grid, in the CT's frame.
    gtm : TransferMatrix or None
    failed : dict of str to VoiError
        Organs that were wanted and can't be measured, with the reason; the others do not suffer from it.
    warnings : tuple of str
    """

    method: str
    organs: Mapping[str, OrganActivity]
    box: Box
    geometry: Geometry
    gtm: TransferMatrix | None = None
    failed: Mapping[str, VoiError] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


def measure(
    spect: Volume,
    labels: LabelMap,
    *,
    method: VoiMethod = "margin",
    organs: Sequence[str] | None = None,
    spect_to_ct: np.ndarray | None = None,
    exclude: Mapping[str, NDArray[np.bool_]] | None = None,
    psf_fwhm_mm: Sequence[float] | None = None,
    psf_sigma_mm: Sequence[float] | None = None,
    margin_mm: float = 3.0,
    gaussian_sigma_mm: float = 3.0,
    gaussian_level: float | None = ONE_SIGMA_LEVEL,
    threshold_percent: float = 42.0,
    search_mm: float = 10.0,
    edited: Mapping[str, Volume] | None = None,
) -> VoiResult:
    """Measure the activity of organs in a SPECT.

    Parameters
    ----------
    spect : Volume
        Bq/mL, (z, y, x).
    labels : LabelMap
        On the CT's grid. Every organ in it takes part, so that neighbours are told apart.
    method : {"margin", "gaussian", "threshold", "gtm"}
    organs : sequence of str, optional
        Those to report; by default all in the map.
    spect_to_ct : (4, 4) array, optional
        Rigid, LPS mm: brings the SPECT onto the CT.
    exclude : dict, optional
        Organ name or "*" → boolean array on the grid of ``labels``: not to be counted.
    psf_fwhm_mm, psf_sigma_mm : (z, y, x), optional
        Measured PSF along the SPECT's axes, as one or the other. `gtm` needs it; the others then report recovery.
    margin_mm : float
        `margin`: how far beyond the mask's surface (3 mm: Nazari et al. 2021).
    gaussian_sigma_mm, gaussian_level : float
        `gaussian`: width, and the level at which the blurred mask is cut; None takes it as soft weights.
    threshold_percent, search_mm : float
        `threshold`: percentage of the maximum within ``search_mm`` of the mask; the connected part around it counts.
    edited : dict, optional
        Volumes of interest corrected by hand, organ → mask on any grid in the CT's frame; they replace the method's
        (not for `gtm`).

    Returns
    -------
    VoiResult

    Raises
    ------
    VoiError
        When no organ can be measured; for `gtm` without a PSF; for settings out of range.
    """
    sigma = _psf_sigma(psf_fwhm_mm, psf_sigma_mm)
    if method not in get_args(VoiMethod):
        raise VoiError(f"Unknown VOI method {method!r}; expected one of {', '.join(get_args(VoiMethod))}.")
    if method == "gtm" and sigma is None:
        raise VoiError(
            "The method 'gtm' needs the camera's resolution, and none is given.",
            "Set psf_fwhm_mm (z, y, x) in study.json as measured, or choose the method 'margin'.",
        )
    _in_range("margin_mm", margin_mm, 0, 50)
    _in_range("gaussian_sigma_mm", gaussian_sigma_mm, 0.1, 50)
    _in_range("gaussian_level", gaussian_level if gaussian_level is not None else 0.5, 1e-4, 0.9999)
    _in_range("threshold_percent", threshold_percent, 1, 99)
    _in_range("search_mm", search_mm, 0, 100)
    reach = {
        "margin": margin_mm,
        "gaussian": 4 * gaussian_sigma_mm,
        "threshold": search_mm,
        "gtm": shell_mm(sigma),
    }[method]
    pad_mm = reach + 4 * max(sigma or (0.0,)) + max(spect.geometry.spacing_mm)
    scene = Scene.of(spect, labels, organs, spect_to_ct, exclude or {}, sigma, pad_mm)
    transfer, warnings = None, list(scene.warnings)
    if method == "margin":
        weights = scene.owned({n: scene.near(n, margin_mm) for n in scene.values}, nearest=True)
    elif method == "gaussian":
        weights = _gaussian(scene, gaussian_sigma_mm, gaussian_level)
    elif method == "threshold":
        weights = _threshold(scene, threshold_percent, search_mm, edited or ())
    else:
        weights, transfer, found = transfer_matrix(scene)
        warnings += found
    if edited and method != "gtm":
        weights |= {name: scene.sub.part(v) * scene.seen for name, v in edited.items()}
    if transfer is None:
        for name in scene.wanted:
            _refuse_small(scene, name, labels.volume_ml(name), method)
    result = {}
    for name in scene.wanted:
        if name in scene.failed:
            continue
        whole = scene.filled[name]
        whole_ml = scene.ml(whole)
        if transfer is None:
            bq = float(np.vdot(weights[name], scene.bq_ml)) * scene.voxel_ml / scene.counted[name]
            response = weights[name] * np.float32(scene.voxel_ml / scene.counted[name])
        else:
            bq = transfer.concentration(name) * whole_ml
            response = transfer.response(name) * np.float32(whole_ml)
        recovery = None
        if sigma is not None:
            shown_in = weights[name] if transfer is None else scene.mean(name, whole)
            blurred = scene.blur(whole) if transfer is None or scene.excluded else transfer.blurred[name]
            recovery = float(np.vdot(shown_in, blurred)) * scene.voxel_ml / whole_ml
            if transfer is not None and recovery < LEAST_RECOVERY:
                reason = f"at this resolution its {labels.volume_ml(name):.2g} mL show {recovery:.0%} of their activity"
                scene.fail(name, reason, "Too small for this camera: leave it out, or count it with its surroundings.")
                continue
        result[name] = OrganActivity(
            activity_mbq=bq / 1e6,
            mask_ml=labels.volume_ml(name),
            voi_ml=float(weights[name].sum()) * scene.voxel_ml,
            counted_fraction=scene.counted[name],
            recovery_coefficient=recovery,
            weights=weights[name],
            response_ml=response,
        )
    if not result:
        raise next(iter(scene.failed.values()))
    failed = {name: reason for name, reason in scene.failed.items() if name in scene.wanted}
    return VoiResult(method, result, scene.box, scene.sub.coarse, transfer, failed, tuple(warnings))


# ---- the methods


def _gaussian(scene: Scene, sigma_mm: float, level: float | None) -> dict[str, NDArray[np.float32]]:
    parts = {}
    for name, filled in scene.filled.items():
        soft, box = scene.blur_fine(filled, (sigma_mm,) * 3)
        assert box is not None  # every organ in `values` has voxels
        soft = soft[box]
        parts[name] = (soft, soft if level is None else (soft >= level).astype(np.float32), box)
    return scene.owned(parts, nearest=False)


def _threshold(
    scene: Scene, percent: float, search_mm: float, by_hand: Collection[str]
) -> dict[str, NDArray[np.float32]]:
    search = scene.owned({n: scene.near(n, search_mm) for n in scene.values}, nearest=True)
    largest = np.argmax(list(search.values()), axis=0)
    weights = {}
    for i, (name, part) in enumerate(search.items()):
        region = (part >= 0.5) & (largest == i)
        if not region.any() or scene.bq_ml[region].max() <= 0:
            reason = f"the SPECT has no counts within {search_mm:g} mm of the mask"
            scene.fail(name, reason, "Check the registration, or choose the method 'margin'.")
            continue
        hot = region & (scene.bq_ml >= percent / 100 * scene.bq_ml[region].max())
        parts, _ = ndimage.label(hot)
        peak = np.where(region, scene.bq_ml, -1).argmax()
        weights[name] = (parts == parts.ravel()[peak]).astype(np.float32) * scene.seen
        inside = float(np.vdot(weights[name], scene.mean(name, scene.filled[name]))) / float(weights[name].sum())
        if inside < SMALLEST_INSIDE and name not in by_hand:
            reason = f"what exceeds {percent:g} % of the maximum lies to {1 - inside:.0%} outside its mask"
            scene.fail(name, reason, "Something hotter is beside it: exclude it, correct the volume by hand, or "
                  "choose the method 'margin'.")  # fmt: skip
    return weights


def _refuse_small(scene: Scene, name: str, volume_ml: float, method: str) -> None:
    fwhm_mm = 12.0 if scene.sigma_mm is None else float(np.prod(scene.sigma_mm) ** (1 / 3)) * FWHM_PER_SIGMA
    kept = sphere_recovery(volume_ml, fwhm_mm) if volume_ml > 0 else 0.0
    if kept < LEAST_UNCORRECTED_RECOVERY:
        reason = f"'{method}' does not correct for blur, and {volume_ml:.3g} mL keep {kept:.0%} of their activity"
        scene.fail(name, reason, "State the camera's resolution (psf_fwhm_mm) and choose the method 'gtm'.")


def _psf_sigma(fwhm_mm: Sequence[float] | None, sigma_mm: Sequence[float] | None) -> tuple[float, float, float] | None:
    if fwhm_mm is not None and sigma_mm is not None:
        raise VoiError("The PSF is given twice, as FWHM and as σ; expected one of them.")
    if fwhm_mm is None and sigma_mm is None:
        return None
    given = fwhm_mm if fwhm_mm is not None else sigma_mm
    values = [float(v) for v in given or ()]
    if len(values) != 3 or not all(0 < v <= 50 for v in values):
        raise VoiError(f"The PSF is {values}; expected three widths (z, y, x) above 0 and up to 50 mm.")
    return sigma_from_fwhm(values) if fwhm_mm is not None else (values[0], values[1], values[2])


def _in_range(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise VoiError(f"{name} is {value}; expected {low:g} to {high:g}.")
