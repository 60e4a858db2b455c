"""Organ masks as a SPECT sees them, and how well a SPECT at some place agrees. Knows one SPECT and one label map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, optimize
from scipy.spatial.transform import Rotation

from doselabel.dosimetry.alignment.grids import Subdivision, box_around, cut, mask_corners_mm, sigma_from_fwhm
from doselabel.errors import Progress, RegistrationError, no_progress
from doselabel.geometry import Geometry, Volume
from doselabel.labels import LabelMap

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
class MaskScene:
    """Points around the organs, the organs' blurred masks there, and the SPECT, also as a spline."""

    points_mm: NDArray[np.float64]
    basis: NDArray[np.float64]  # (points, n): an orthonormal basis of blurred masks and background
    image: NDArray[np.float64]
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
    ) -> MaskScene:
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
        image = spect.array.astype(np.float64)
        return cls(
            points_mm=points,
            basis=orthonormal,
            image=image,
            spline=ndimage.spline_filter(image, order=3),
            spect=spect.geometry,
            centre_mm=organ_points.mean(axis=0),
            organ_points_mm=organ_points,
            resolution_mm3=float(np.prod(np.asarray(psf_fwhm_mm or ASSUMED_FWHM_MM) * 2.0)),
        )

    def thinned(self, count: int) -> MaskScene:
        """The same with fewer points, for a coarse search."""
        step = max(1, len(self.points_mm) // count)
        basis, _ = np.linalg.qr(self.basis[::step])
        return replace(self, points_mm=self.points_mm[::step], basis=basis)

    def values(self, matrix: np.ndarray) -> NDArray[np.float64]:
        """The SPECT, moved rigidly, at the points."""
        back = np.linalg.inv(matrix)
        index = self.spect.lps_to_index(self.points_mm @ back[:3, :3].T + back[:3, 3])
        return ndimage.map_coordinates(self.spline, index.T, order=3, prefilter=False, mode="constant", cval=0.0)

    def best(
        self,
        begin: np.ndarray,
        *,
        turns: bool = False,
        search_mm: float = SEARCH_MM,
        step_mm: float = 8.0,
        within_mm: float = 0.03,
        progress: Progress = no_progress,
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The transform of most agreement: on a lattice of shifts, then downhill; and its shift from ``begin``."""
        steps = np.arange(-search_mm, search_mm + 1e-6, step_mm)
        lattice = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1).reshape(-1, 3)[:, ::-1]
        thin, costs = self.thinned(4000), []
        for i, layer in enumerate(np.split(lattice, len(steps))):
            progress("searching the shift", 0.6 * i / len(steps))
            costs.append(thin._rough_costs(begin, layer))
        best = lattice[np.argmin(np.concatenate(costs))]

        def moved(x: np.ndarray) -> np.ndarray:
            turn = x[3:] / 50.0 if len(x) == 6 else np.zeros(3)  # one unit turns a point 50 mm away by 1 mm
            return rigid(x[:3], turn, self.centre_mm) @ begin

        x0 = np.zeros(6 if turns else 3)
        x0[:3] = best
        progress("refining the shift", 0.6)
        # A smooth function that is slow to evaluate: models of second order need a third of a simplex's evaluations.
        found = optimize.minimize(
            lambda x: self.cost(moved(x)),
            x0,
            method="COBYQA",
            options={"initial_tr_radius": 3.0, "final_tr_radius": within_mm, "maxfev": 400},
        )
        progress("refining the shift", 1.0)
        return moved(found.x), found.x[:3]

    def _rough_costs(self, begin: np.ndarray, shifts_mm: np.ndarray) -> NDArray[np.float64]:
        """`cost`, roughly, of many shifts (n, 3; x, y, z) after ``begin``."""
        back = np.linalg.inv(begin)
        points = (self.points_mm - shifts_mm[:, None]).reshape(-1, 3)
        index = self.spect.lps_to_index(points @ back[:3, :3].T + back[:3, 3])
        found = ndimage.map_coordinates(self.image, index.T, order=1, prefilter=False, mode="constant", cval=0.0)
        return self._misfit(found.reshape(len(shifts_mm), -1))

    def mirrored(self, axes: tuple[int, ...]) -> MaskScene:
        """With the SPECT's voxels in reverse order along some of its axes (z, y, x)."""
        return replace(self, image=np.flip(self.image, axes), spline=np.flip(self.spline, axes))

    def scaled(self, factors: tuple[float, float, float]) -> MaskScene:
        """With the SPECT's voxels larger (z, y, x), the organs' centre kept."""
        grid = self.spect
        centre = grid.lps_to_index(self.centre_mm[None])[0]
        spacing = tuple(float(s * f) for s, f in zip(grid.spacing_mm, factors, strict=True))
        larger = Geometry(grid.shape, spacing, grid.origin_mm, grid.direction)  # type: ignore[arg-type]
        origin = np.asarray(grid.origin_mm) + self.centre_mm - larger.index_to_lps(centre[None])[0]
        there = Geometry(grid.shape, spacing, tuple(map(float, origin)), grid.direction)  # type: ignore[arg-type]
        return replace(self, spect=there)

    def cost(self, matrix: np.ndarray) -> float:
        """One minus R²."""
        return float(self._misfit(self.values(matrix)[None])[0])

    def _misfit(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """One minus R² of several readings (n, points) of the SPECT."""
        spread = np.sum((values - values.mean(axis=1, keepdims=True)) ** 2, axis=1)
        left = np.sum((values - (values @ self.basis) @ self.basis.T) ** 2, axis=1)
        return np.divide(left, spread, out=np.ones_like(left), where=spread > 0)

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
                self.cost(rigid(s * step_mm * np.eye(3)[axis], np.zeros(3), self.centre_mm) @ matrix) for s in (-1, 1)
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


def rigid(shift_mm: np.ndarray, rotation_rad: np.ndarray, about_mm: np.ndarray) -> np.ndarray:
    """A turn about a point (LPS x, y, z axes in this order), then a shift, 4×4."""
    matrix = np.eye(4)
    if np.any(rotation_rad):
        matrix[:3, :3] = Rotation.from_euler("xyz", rotation_rad).as_matrix()
    matrix[:3, 3] = about_mm + shift_mm - matrix[:3, :3] @ about_mm
    return matrix
