"""One time point: its SPECT brought onto its masks, and every organ's activity in it. Knows no curves and no doses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from doselabel.alarms import Alarm
from doselabel.dosimetry.alignment import mask_scene, placement, registration
from doselabel.dosimetry.alignment.grids import Box, cut, cut_array, inside
from doselabel.dosimetry.cache import Entry, digest, fingerprint
from doselabel.dosimetry.options import DoseOptions
from doselabel.dosimetry.uptake import voi
from doselabel.dosimetry.uptake.case import Case
from doselabel.dosimetry.uptake.errors import ActivityErrors, ScanModel, errors_of, scan_model, unknown
from doselabel.errors import DoselabelError, RegistrationError, VoiError
from doselabel.files import file_sha256
from doselabel.geometry import Geometry, Volume, placed
from doselabel.labels import LabelMap
from doselabel.organs import ALL_ORGANS
from doselabel.study import TimePoint

RATIO_LIMITS = (0.0, 4.0)
LARGEST_LOSS = -0.6
"""A volume of interest that lacks more of its organ's activity than this is something else's: blur takes a third."""


@dataclass(frozen=True, eq=False)
class Scan:
    """A time point's SPECT with its masks.

    Attributes
    ----------
    index : int
    point : TimePoint
    spect : Volume
        Bq/mL, as in the file, negative noise set to 0.
    labels : LabelMap
        On the time point's CT.
    exclude : dict
        Organ or "*" → boolean array on that CT's grid.
    key : str
        Hash of all of these.
    """

    index: int
    point: TimePoint
    spect: Volume
    labels: LabelMap
    exclude: Mapping[str, NDArray[np.bool_]]
    key: str


@dataclass(frozen=True, eq=False)
class ScanActivity:
    """What one SPECT says of the organs.

    Attributes
    ----------
    activity_mbq, recovery, voi_ml : dict
        By organ; recovery is None without a PSF.
    total_mbq : float
        All activity in the field of view.
    box : Box
        Index box of the SPECT that the arrays below cover.
    regions : (z, y, x) uint8 array
        Volume of interest that each voxel mostly belongs to: position in the organs' order, from 1.
    organs_bq_ml : (z, y, x) float32 array
        What of the SPECT the organs explain.
    shape : (z, y, x) float32 array
        Distribution inside organs, up to a factor per organ: SPECT over modelled SPECT (`gtm`; Yang et al., IEEE
        Trans Nucl Sci 1996;43:3286), which is flat to the edge of a uniform organ; else the SPECT itself.
    errors : dict of str to ActivityErrors
        What noise, place and spill may have done to each organ's activity.
    failed : dict of str to VoiError
        Organs that can't be measured here, with the reason; where there are any, the arrays are not to be used.
    """

    activity_mbq: Mapping[str, float]
    recovery: Mapping[str, float | None]
    voi_ml: Mapping[str, float]
    total_mbq: float
    box: Box
    regions: NDArray[np.uint8]
    organs_bq_ml: NDArray[np.float32]
    shape: NDArray[np.float32]
    warnings: tuple[str, ...]
    errors: Mapping[str, ActivityErrors]
    failed: Mapping[str, VoiError] = field(default_factory=dict)

    @property
    def rest_mbq(self) -> float:
        """Activity outside the organs."""
        return max(self.total_mbq - sum(self.activity_mbq.values()), 0.0)

    def rest(self, spect: Volume) -> Volume:
        """The SPECT less what the organs explain, Bq/mL, on its own grid."""
        array = spect.array.astype(np.float32, copy=True)
        there, here = inside(array.shape, self.box)
        array[there] = np.maximum(array[there] - self.organs_bq_ml[here], 0)
        return Volume(array, spect.geometry)

    def voi_map(self, geometry: Geometry, organs: Sequence[str]) -> LabelMap:
        """The volumes of interest on the SPECT's grid."""
        array = np.zeros(geometry.shape, np.uint8)
        there, here = inside(array.shape, self.box)
        array[there] = self.regions[here]
        return LabelMap(array, geometry, dict(enumerate(organs, start=1))).renumbered()


def scan_of(case: Case, index: int, labels: LabelMap) -> Scan:
    """A time point's SPECT and exclusion masks beside its label map, of a study that passed `Study.check`."""
    point = case.study.time_points[index]
    given = case.images.spect(index)
    spect = case.store.hold(digest("spect", fingerprint(given.array)), lambda: _not_negative(given.array))
    exclude = {
        name: case.images.read(f"time_points[{index}].exclude.{name}", file).array != 0
        for name, file in point.exclude.items()
    }
    if (drawn := case.labels.excluded_from(point.ct, index)) is not None:
        exclude[ALL_ORGANS] = exclude[ALL_ORGANS] | drawn if ALL_ORGANS in exclude else drawn
    geometry = [given.geometry.affine_lps, labels.geometry.affine_lps]
    key = digest(code_sha256(), fingerprint(spect), geometry, fingerprint(labels.array), dict(labels.names), exclude)
    return Scan(index, point, Volume(spect, given.geometry), labels, exclude, key)


def _not_negative(array: NDArray[Any]) -> NDArray[np.float32]:
    return np.maximum(array, 0).astype(np.float32)


@cache
def code_sha256() -> str:
    """Hash of the code that makes what is cached here: another version of it never finds this one's results."""
    rooms = (Path(__file__).parent, Path(placement.__file__).parent)
    return digest([file_sha256(file) for room in rooms for file in sorted(room.glob("*.py"))])


def align(scan: Scan, case: Case) -> placement.Placement:
    """Bring a SPECT onto its CT as the options say (see `DoseOptions.registration`); and what a reader must know."""
    options = case.options
    stored = np.asarray(scan.point.spect_to_ct.matrix, dtype=float)
    if options.registration == "identity":
        return placement.Placement(registration.identity())
    method = scan.point.spect_to_ct.method
    settled = not np.allclose(stored, np.eye(4), atol=1e-6) or method != "identity"
    if options.registration == "stored":
        sd_mm = mask_scene.SETTLED_SD_MM if settled else mask_scene.UNCHECKED_SD_MM
        return placement.Placement(registration.Alignment(stored, method, sd_mm=sd_mm))
    settings: dict[str, Any] = {
        "move": options.registration == "organ" or not settled,
        "insist": options.registration == "organ",
        "smallest_shift_mm": options.smallest_shift_mm,
        "psf_fwhm_mm": case.psf_fwhm_mm,
    }

    def make() -> Entry:
        found = placement.place(
            scan.spect, scan.labels, scan.index, stored=stored, method=method, exclude=scan.exclude, **settings
        )
        at = found.alignment
        content = {
            "method": at.method,
            "merits": [at.shift_mm, at.agreement_before, at.agreement_after, at.sd_mm],
            "findings": [alarm.model_dump() for alarm in found.findings],
        }
        return content, {"matrix": at.matrix}

    key = digest("align", scan.key, scan.index, stored, method, settings)
    what = f"registration of time point {scan.index + 1}"
    try:
        content, arrays = case.held.find(
            f"{what} {digest(scan.exclude)}", [scan.labels], lambda: case.store.fetch(what, key, make)
        )
    except RegistrationError as error:
        raise RegistrationError(f"Time point {scan.index + 1}: {error.message}", error.hint) from error
    at = registration.Alignment(arrays["matrix"], content["method"], *content["merits"])
    return placement.Placement(at, tuple(Alarm.model_validate(alarm) for alarm in content["findings"]))


def measure(
    scan: Scan,
    matrix: np.ndarray,
    organs: Sequence[str],
    case: Case,
) -> ScanActivity:
    """Measure the organs in one SPECT, or find the measurement made before."""
    psf_fwhm_mm, edited = case.psf_fwhm_mm, _edited(case, scan.index, matrix)
    method = voi_method(case.options, psf_fwhm_mm)
    settings = case.options.model_dump(
        include={"margin_mm", "gaussian_sigma_mm", "gaussian_level", "threshold_percent", "search_mm"}
    )

    def make() -> Entry:
        try:
            found = voi.measure(
                scan.spect,
                scan.labels,
                method=method,
                organs=organs,
                spect_to_ct=matrix,
                exclude=scan.exclude,
                psf_fwhm_mm=psf_fwhm_mm,
                edited=edited,
                **settings,
            )
        except DoselabelError as error:
            raise type(error)(f"Time point {scan.index + 1}: {error.message}", error.hint) from error
        errors = _errors(found, scan, matrix, case)
        lost = {name: e.bias for name, e in errors.items() if e.bias < LARGEST_LOSS and name not in edited}
        reasons = {name: _lost(method, bias) for name, bias in lost.items()}
        if len(reasons) == len(found.organs):
            (name, (message, hint)), *_ = reasons.items()
            raise VoiError(f"Time point {scan.index + 1}: '{name}': {message}.", hint)
        return _entry(found, scan.spect, organs, errors, reasons)

    drawn = {name: [v.array, v.geometry.affine_lps] for name, v in edited.items()}
    key = digest("measure", scan.key, matrix, list(organs), method, settings, psf_fwhm_mm, drawn)
    content, arrays = case.store.fetch(f"organ activities of time point {scan.index + 1}", key, make)
    z, y, x = (slice(a, b) for a, b in content["box"])
    return ScanActivity(
        activity_mbq=content["activity_mbq"],
        recovery=content["recovery"],
        voi_ml=content["voi_ml"],
        total_mbq=content["total_mbq"],
        box=(z, y, x),
        regions=arrays["regions"],
        organs_bq_ml=arrays["organs_bq_ml"],
        shape=arrays["shape"],
        warnings=tuple(content["warnings"]),
        errors={name: ActivityErrors(**values) for name, values in content["errors"].items()},
        failed={
            name: VoiError(f"Time point {scan.index + 1}: {message}", hint)
            for name, (message, hint) in content["failed"].items()
        },
    )


def voi_method(options: DoseOptions, psf_fwhm_mm: Sequence[float] | None) -> voi.VoiMethod:
    """The method ``auto`` stands for."""
    if options.voi == "auto":
        return "gtm" if psf_fwhm_mm is not None else "margin"
    return options.voi


def placed_box(spect: Geometry, box: Box, matrix: np.ndarray) -> Geometry:
    """Grid of a SPECT's box in the CT's frame."""
    return cut(placed(spect, matrix), box)


def _edited(case: Case, index: int, matrix: np.ndarray) -> dict[str, Volume]:
    """Volumes of interest corrected by hand, in the CT's frame."""
    if index not in case.edited_vois:
        return {}
    drawn = case.edited_vois[index]
    grid = placed(drawn.geometry, matrix)
    return {name: Volume(drawn.mask(name).astype(np.uint8), grid) for name in drawn.present()}


def _errors(found: voi.VoiResult, scan: Scan, matrix: np.ndarray, case: Case) -> dict[str, ActivityErrors]:
    """Errors of what was measured, by the transfer matrix on the same scan, of an assumed resolution where none is."""
    psf, organs = tuple(case.psf_fwhm_mm or mask_scene.ASSUMED_FWHM_MM), list(found.organs)

    def make() -> Entry:
        reference = found
        if found.gtm is None:
            reference = voi.measure(
                scan.spect,
                scan.labels,
                method="gtm",
                organs=organs,
                spect_to_ct=matrix,
                exclude=scan.exclude,
                psf_fwhm_mm=psf,
            )
        seen = scan_model(scan.spect, reference, psf)
        content = {
            "box": [[s.start, s.stop] for s in seen.box],
            "activity_mbq": seen.activity_mbq,
            "variance_per_bq_ml": seen.variance_per_bq_ml,
            "correlated_voxels": seen.correlated_voxels,
        }
        return content, {"unexplained": seen.unexplained}

    key = digest("scan model", scan.key, matrix, organs, psf)
    try:
        content, arrays = case.store.fetch(f"noise and spill of time point {scan.index + 1}", key, make)
    except DoselabelError:
        return {name: unknown(organ.mask_ml, psf) for name, organ in found.organs.items()}
    z, y, x = (slice(a, b) for a, b in content["box"])
    model = ScanModel(**{**content, "box": (z, y, x)}, unexplained=arrays["unexplained"])
    return errors_of(scan.spect, found, model, psf)


def _lost(method: str, bias: float) -> tuple[str, str]:
    """Why a volume of interest is not the organ's, and what to do."""
    return (
        f"the volume that '{method}' finds holds {1 + bias:.0%} of what the mask shows with its blur undone",
        "Look at that SPECT: correct the volume by hand, or choose the method 'margin' or 'gtm'.",
    )


def _entry(
    found: voi.VoiResult,
    spect: Volume,
    organs: Sequence[str],
    errors: Mapping[str, ActivityErrors],
    lost: Mapping[str, tuple[str, str]],
) -> Entry:
    values = cut_array(spect.array, found.box)
    organs = [name for name in organs if name in found.organs and name not in lost]
    weights = np.stack([found.organs[name].weights for name in organs])
    regions = np.where(weights.max(axis=0) >= 0.5, weights.argmax(axis=0) + 1, 0).astype(np.uint8)
    if found.gtm is None:
        explained = values * np.clip(weights.sum(axis=0), 0, 1)
        shape = values
    else:
        parts = {r: found.gtm.concentration(r) * found.gtm.blurred[r] for r in found.gtm.regions}
        explained = sum((parts[name] for name in organs), np.zeros_like(values))
        model = sum(parts.values(), np.zeros_like(values))
        floor = 1e-3 * float(model.max())
        shape = np.clip(values / np.maximum(model, floor), *RATIO_LIMITS)
    content = {
        "activity_mbq": {name: found.organs[name].activity_mbq for name in organs},
        "recovery": {name: found.organs[name].recovery_coefficient for name in organs},
        "voi_ml": {name: found.organs[name].voi_ml for name in organs},
        "total_mbq": float(spect.array.sum(dtype=np.float64)) * spect.geometry.voxel_volume_ml / 1e6,
        "box": [[s.start, s.stop] for s in found.box],
        "errors": {name: vars(errors[name]) for name in organs},
        "warnings": list(found.warnings),
        "failed": {name: [reason.message, reason.hint] for name, reason in found.failed.items()}
        | {name: [f"'{name}': {message}.", hint] for name, (message, hint) in lost.items()},
    }
    arrays = {"regions": regions, "organs_bq_ml": explained.astype(np.float32), "shape": shape.astype(np.float32)}
    return content, arrays
