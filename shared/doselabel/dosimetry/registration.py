"""Bringing SPECT and CT together: rigid transforms, how they are found and how good they are.

Knows two images or an image and a label map; no doses, no time. A transform is a 4×4 matrix that maps LPS points (mm)
of the moving image to the fixed one's frame, as `doselabel.study.Registration` stores it. It is rigid, so it is
reversible and conserves counts: a SPECT is moved by moving its grid (`grids.placed`), never by interpolation, and
where a map on another grid is needed, `onto` integrates over voxels.

*Figure of merit.* `agreement` is R², the part of the SPECT's variance around the organs (within 25 mm) that the
organs' blurred masks explain, each at its own best concentration, plus a flat background: 1 is perfect; a kidney
8 mm off loses some 0.2. It is what `refine` maximises, and it is reported before and after.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, optimize
from scipy.spatial.transform import Rotation

from doselabel.dosimetry.grids import (
    Subdivision,
    box_around,
    cut,
    mask_corners_mm,
    sigma_from_fwhm,
)
from doselabel.errors import Progress, RegistrationError, no_progress
from doselabel.geometry import Geometry, Volume, check_rigid, placed, resample
from doselabel.labels import LabelMap
from doselabel.study import Registration

Freedom = Literal["translation", "rigid"]

AROUND_MM = 25.0
GRID_MM = 5.0
ASSUMED_FWHM_MM = (12.0, 12.0, 12.0)
"""Taken for the SPECT's resolution where none was measured; the best place hardly depends on it."""

SEARCH_MM = 24.0

UNCHECKED_SD_MM = 3.0
"""Assumed of a place that nobody checked, along each axis: patients breathe, and move between SPECT and CT."""

SETTLED_SD_MM = 2.0
"""Assumed of a transform that a study states."""

SMALLEST_SD_MM = 1.0
"""No place is known better: the organs move one by one with the breath, and masks have errors of their own."""


@dataclass(frozen=True, eq=False)
class Alignment:
    """A rigid transform, how it was found, and what it changed.

    Attributes
    ----------
    matrix : (4, 4) array
        LPS points (mm) of the moving image → the fixed image's frame.
    method : str
        "identity", "manual", "rigid", "organ" or "masks".
    shift_mm : float
        Mean displacement, over the organs (or the fixed image's box), against the transform it started from.
    agreement_before, agreement_after : float or None
        Figure of merit (see the module) at the start and now; for CT to CT, mutual information (nats).
    sd_mm : float
        Standard deviation of the place along each axis.
    """

    matrix: NDArray[np.float64]
    method: str
    shift_mm: float = 0.0
    agreement_before: float | None = None
    agreement_after: float | None = None
    sd_mm: float = SETTLED_SD_MM

    def registration(self) -> Registration:
        """What a study stores."""
        comment = f"moved {self.shift_mm:.1f} mm"
        if self.agreement_before is not None and self.agreement_after is not None:
            comment += f"; agreement {self.agreement_before:.3f} → {self.agreement_after:.3f}"
        rows = [tuple(float(v) for v in row) for row in self.matrix]
        return Registration(matrix=tuple(rows), method=self.method, comment=comment)  # type: ignore[arg-type]


def identity() -> Alignment:
    """Leave the images where their files say they are."""
    return Alignment(np.eye(4), "identity", sd_mm=UNCHECKED_SD_MM)


def manual(
    shift_mm: Sequence[float],
    rotation_deg: Sequence[float] = (0.0, 0.0, 0.0),
    *,
    about_mm: Sequence[float] = (0.0, 0.0, 0.0),
    start: np.ndarray | None = None,
) -> Alignment:
    """Move by hand: rotate about a point, then shift, after ``start``.

    Parameters
    ----------
    shift_mm : (x, y, z)
        LPS, mm.
    rotation_deg : (x, y, z)
        Right-handed about the LPS axes, in this order, degrees.
    about_mm : (x, y, z)
        Centre of the rotation, LPS mm.
    """
    values = [*shift_mm, *rotation_deg, *about_mm]
    if len(values) != 9 or not np.isfinite(values).all():
        raise RegistrationError(f"A manual offset is {values}; expected three finite numbers each (x, y, z).")
    moved = _rigid(np.asarray(shift_mm), np.radians(rotation_deg), np.asarray(about_mm))
    matrix = moved @ (np.eye(4) if start is None else check_rigid(start))
    return Alignment(matrix, "manual", float(np.linalg.norm(shift_mm)))


# ---- SPECT to organ masks


def agreement(
    spect: Volume,
    labels: LabelMap,
    *,
    matrix: np.ndarray | None = None,
    psf_fwhm_mm: Sequence[float] | None = None,
    exclude: Mapping[str, NDArray[np.bool_]] | None = None,
    organs: Sequence[str] | None = None,
) -> float:
    """Figure of merit of a SPECT's place on organ masks (R², see the module); parameters as for `refine`."""
    scene = _MaskScene.of(spect, labels, psf_fwhm_mm, exclude or {}, organs)
    return scene.agreement(np.eye(4) if matrix is None else check_rigid(matrix))


def refine(
    spect: Volume,
    labels: LabelMap,
    *,
    start: np.ndarray | None = None,
    freedom: Freedom = "translation",
    psf_fwhm_mm: Sequence[float] | None = None,
    exclude: Mapping[str, NDArray[np.bool_]] | None = None,
    organs: Sequence[str] | None = None,
    search_mm: float = SEARCH_MM,
    progress: Progress = no_progress,
) -> Alignment:
    """Move a SPECT so that its uptake agrees best with the organs' masks.

    Parameters
    ----------
    spect : Volume
        Bq/mL.
    labels : LabelMap
        On the CT's grid.
    start : (4, 4) array, optional
        Where to start, SPECT → CT.
    freedom : {"translation", "rigid"}
        Three shifts, or also three rotations about the organs' centre.
    psf_fwhm_mm : (z, y, x), optional
        By which masks are blurred; 12 mm where unknown.
    exclude : dict, optional
        Organ name or "*" → boolean array on the grid of ``labels``: the SPECT there is not looked at.
    organs : sequence of str, optional
        Which organs to go by; all by default. One organ alone follows its own breathing.
    search_mm : float
        Largest shift along an axis.

    Returns
    -------
    Alignment

    Raises
    ------
    RegistrationError
        When there is no uptake around the organs, or the best place is at the edge of the search.
    """
    begin = np.eye(4) if start is None else check_rigid(start)
    scene = _MaskScene.of(spect, labels, psf_fwhm_mm, exclude or {}, organs)
    before = scene.agreement(begin)
    thin = scene.thinned(4000)
    steps = np.arange(-search_mm, search_mm + 1e-6, 8.0)
    best, best_cost = np.zeros(3), np.inf
    for i, dz in enumerate(steps):
        progress("searching the shift", 0.6 * i / len(steps))
        for dy in steps:
            for dx in steps:
                cost = thin.cost(_rigid(np.array([dx, dy, dz]), np.zeros(3), scene.centre_mm) @ begin)
                if cost < best_cost:
                    best, best_cost = np.array([dx, dy, dz]), cost

    def moved(x: np.ndarray) -> np.ndarray:
        turn = x[3:] / 50.0 if len(x) == 6 else np.zeros(3)  # one unit turns a point 50 mm away by 1 mm
        return _rigid(x[:3], turn, scene.centre_mm) @ begin

    x0 = np.zeros(6 if freedom == "rigid" else 3)
    x0[:3] = best
    progress("refining the shift", 0.6)
    found = optimize.minimize(
        lambda x: scene.cost(moved(x)),
        x0,
        method="Nelder-Mead",
        options={
            "initial_simplex": np.vstack([x0, x0 + 3.0 * np.eye(len(x0))]),
            "xatol": 0.05,
            "fatol": 1e-6,
            "maxfev": 400,
        },
    )
    if np.abs(found.x[:3]).max() > search_mm + 4.0:
        raise RegistrationError(
            f"The SPECT agrees best with the masks {np.abs(found.x[:3]).max():.0f} mm away, beyond the search of "
            f"{search_mm:g} mm.",
            "Check that SPECT and CT are of one session; move the SPECT by hand first.",
        )
    matrix = moved(found.x)
    progress("refining the shift", 1.0)
    shift_mm = mean_shift_mm(begin, matrix, scene.organ_points_mm)
    return Alignment(matrix, "organ", shift_mm, before, scene.agreement(matrix), scene.place_sd_mm(matrix))


@dataclass(frozen=True, eq=False)
class _MaskScene:
    """Points around the organs, the organs' blurred masks there, and the SPECT as a spline."""

    points_mm: NDArray[np.float64]
    basis: NDArray[np.float64]  # (points, n): an orthonormal basis of blurred masks and background
    spline: NDArray[np.float64]
    spect: Geometry
    centre_mm: NDArray[np.float64]
    organ_points_mm: NDArray[np.float64]
    resolution_mm3: float

    @classmethod
    def of(
        cls,
        spect: Volume,
        labels: LabelMap,
        psf_fwhm_mm: Sequence[float] | None,
        exclude: Mapping[str, NDArray[np.bool_]],
        organs: Sequence[str] | None,
    ) -> _MaskScene:
        names = [n for n in labels.present() if organs is None or n in organs]
        if not names:
            raise RegistrationError(
                f"None of {list(organs or [])} is in the label map, which has {list(labels.present())}.",
                "Segment the CT first.",
            )
        values = [value for value, name in labels.names.items() if name in names]
        wanted = np.isin(labels.array, values)
        sigma = sigma_from_fwhm(psf_fwhm_mm or ASSUMED_FWHM_MM)
        grid = labels.geometry.with_spacing((GRID_MM,) * 3)
        pad = AROUND_MM + 4 * max(sigma)
        sub = Subdivision.of(cut(grid, box_around(mask_corners_mm(wanted, labels.geometry), grid, pad)), 2.6)
        fine = sub.sample(labels.volume)
        h = np.asarray(sub.fine.spacing_mm)
        # The PSF is along the SPECT's axes and the grid along the CT's; their mean width serves both.
        width = np.full(3, float(np.sqrt(np.mean(np.square(sigma))))) / h
        blurred = [
            sub.mean(ndimage.gaussian_filter((fine == labels.value(n)).astype(np.float32), width, truncate=4.0))
            for n in names
        ]
        occupied = sub.mean(np.isin(fine, values))
        near = ndimage.distance_transform_edt(occupied < 0.5, sampling=grid.spacing_mm) <= AROUND_MM
        others = sub.mean((fine != 0) & ~np.isin(fine, values))
        near &= ndimage.maximum_filter(others, 3) == 0
        for mask in exclude.values():
            shut = sub.mean(sub.sample(Volume(mask.astype(np.uint8), labels.geometry)).astype(bool))
            near &= ndimage.gaussian_filter(shut, np.asarray(sigma) / GRID_MM) < 0.02
        index = np.argwhere(near)
        columns = np.stack([np.ones(len(index)), *(b[near] for b in blurred)], axis=1)
        orthonormal, _ = np.linalg.qr(columns.astype(float))
        points = sub.coarse.index_to_lps(index)
        organ_points = sub.coarse.index_to_lps(np.argwhere(occupied >= 0.5))
        if len(organ_points) == 0:
            organ_points = labels.geometry.index_to_lps(np.argwhere(wanted))
        return cls(
            points_mm=points,
            basis=orthonormal,
            spline=ndimage.spline_filter(spect.array.astype(np.float64), order=3),
            spect=spect.geometry,
            centre_mm=organ_points.mean(axis=0),
            organ_points_mm=organ_points,
            resolution_mm3=float(np.prod(np.asarray(psf_fwhm_mm or ASSUMED_FWHM_MM) * 2.0)),
        )

    def thinned(self, count: int) -> _MaskScene:
        """The same with fewer points, for a coarse search."""
        step = max(1, len(self.points_mm) // count)
        basis, _ = np.linalg.qr(self.basis[::step])
        return replace(self, points_mm=self.points_mm[::step], basis=basis)

    def values(self, matrix: np.ndarray) -> NDArray[np.float64]:
        """The moved SPECT at the points."""
        index = placed(self.spect, matrix).lps_to_index(self.points_mm)
        return ndimage.map_coordinates(self.spline, index.T, order=3, prefilter=False, mode="constant", cval=0.0)

    def cost(self, matrix: np.ndarray) -> float:
        """One minus R²."""
        values = self.values(matrix)
        explained = self.basis @ (self.basis.T @ values)
        spread = float(np.sum((values - values.mean()) ** 2))
        return float(np.sum((values - explained) ** 2)) / spread if spread > 0 else 1.0

    def place_sd_mm(self, matrix: np.ndarray, step_mm: float = 4.0) -> float:
        """Standard deviation of the best place along an axis, mm: from how the misfit rises beside it.

        Misfits of points closer than two resolutions are one misfit: least squares with that many residuals has the
        variance 2 · misfit / (residuals · curvature). An axis along which nothing changes counts as unchecked.
        """
        least = self.cost(matrix)
        residuals = max(len(self.points_mm) * GRID_MM**3 / self.resolution_mm3, 1.0)
        variances = []
        for axis in range(3):
            sides = [
                self.cost(_rigid(s * step_mm * np.eye(3)[axis], np.zeros(3), self.centre_mm) @ matrix) for s in (-1, 1)
            ]
            curvature = max(sum(sides) - 2 * least, 0.0) / step_mm**2
            found = 2 * least / (residuals * curvature) if curvature > 0 else np.inf
            variances.append(min(found, UNCHECKED_SD_MM**2))
        return float(np.hypot(np.sqrt(np.mean(variances)), SMALLEST_SD_MM))

    def agreement(self, matrix: np.ndarray) -> float:
        if not np.any(self.values(matrix) > 0):
            raise RegistrationError(
                "The SPECT has no counts around the organs.",
                "Check that SPECT and CT are of one session and their origins right.",
            )
        return 1.0 - self.cost(matrix)


# ---- label maps, and maps on other grids


def centroids_mm(labels: LabelMap) -> dict[str, NDArray[np.float64]]:
    """Centre of each organ's mask, LPS (x, y, z) mm."""
    found = {}
    for value, box in enumerate(ndimage.find_objects(labels.array), start=1):
        if box is not None:
            index = np.argwhere(labels.array[box] == value).mean(axis=0) + [s.start for s in box]
            found[labels.names[value]] = labels.geometry.index_to_lps(index)
    return found


def match_masks(moving: LabelMap, fixed: LabelMap, organs: Sequence[str]) -> dict[str, Alignment]:
    """Shifts that bring organs drawn on one CT onto the same organs drawn on another.

    Returns
    -------
    dict
        Organ → its own shift, for those that both maps have; "" → their mean, weighted by volume.
    """
    there, here = centroids_mm(fixed), centroids_mm(moving)
    shifts = {name: there[name] - here[name] for name in organs if name in there and name in here}
    if not shifts:
        raise RegistrationError(
            f"The two label maps share none of {list(organs)}.", "Segment the same organs on both CTs."
        )
    shifts[""] = np.average(list(shifts.values()), axis=0, weights=[fixed.volume_ml(name) for name in shifts])
    found = {}
    for name, shift in shifts.items():
        matrix = np.eye(4)
        matrix[:3, 3] = shift
        found[name] = Alignment(matrix, "masks", float(np.linalg.norm(shift)))
    return found


def onto(spect: Volume, geometry: Geometry, matrix: np.ndarray | None = None) -> Volume:
    """Concentration on another grid: linear, averaged over each voxel, so that activity is conserved.

    Where voxels of ``geometry`` are larger than the SPECT's they are subdivided first. What lies outside ``geometry``
    is lost, and reported by nobody: choose a grid that covers the SPECT when the total matters.
    """
    source = spect if matrix is None else Volume(spect.array, placed(spect.geometry, matrix))
    sub = Subdivision.of(geometry, min(spect.geometry.spacing_mm))
    return Volume(sub.mean(resample(source, sub.fine).array), geometry)


# ---- small parts


def _rigid(shift_mm: np.ndarray, rotation_rad: np.ndarray, about_mm: np.ndarray) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("xyz", rotation_rad).as_matrix()
    matrix[:3, 3] = about_mm + shift_mm - matrix[:3, :3] @ about_mm
    return matrix


def mean_shift_mm(before: np.ndarray, after: np.ndarray, points_mm: np.ndarray) -> float:
    """Mean distance (mm) between where two transforms bring points (n, 3), taken as they lie after the first."""
    change = after @ np.linalg.inv(before)
    moved = points_mm @ change[:3, :3].T + change[:3, 3]
    return float(np.linalg.norm(moved - points_mm, axis=1).mean())
