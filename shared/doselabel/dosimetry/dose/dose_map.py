"""From a map of time-integrated activity to the dose map, and every engine's mean dose by organ. Knows no files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from doselabel.dosimetry.dose import engines
from doselabel.dosimetry.dose.tia_map import DoseGrid
from doselabel.dosimetry.options import DoseOptions
from doselabel.dosimetry.physics.kernels import VoxelSKernel


@dataclass(frozen=True, eq=False)
class Absorbed:
    """Absorbed doses.

    Attributes
    ----------
    grid : DoseGrid
    kernel : VoxelSKernel
    dose_gy : (z, y, x) array
        By the engine asked for.
    by_engine_gy : dict
        Organ → engine → mean dose.
    mass_g : dict
        By organ.
    """

    grid: DoseGrid
    kernel: VoxelSKernel
    dose_gy: NDArray[np.float32]
    by_engine_gy: Mapping[str, Mapping[str, float]]
    mass_g: Mapping[str, float]

    def voxels_gy(self, name: str) -> NDArray[np.float32]:
        """Dose of an organ's voxels."""
        return self.dose_gy[self.grid.mask(name)]


def absorbed(
    grid: DoseGrid,
    tia_map_mbq_h: NDArray[np.float32],
    tia_mbq_h: Mapping[str, float],
    mass_g: Mapping[str, float],
    kernel: VoxelSKernel,
    options: DoseOptions,
    workers: int = 1,
    transfer: NDArray[np.float64] | None = None,
) -> Absorbed:
    """The chosen engine's dose map, and every engine's mean dose by organ.

    An organ's voxels together have the mass of the mask on the dose grid; its dose is brought to the mass that the
    diagnostic CT's own mask and the organ's density give, by one factor near 1. ``transfer`` as for `engines.voxel_s`.
    """
    spacing, voxel_ml = grid.geometry.spacing_mm, grid.geometry.voxel_volume_ml
    density: NDArray[np.float64] | None = None
    if options.density == "ct":
        density = engines.density_from_hu(grid.hu)
        for name in grid.organs:
            density[grid.mask(name)] = options.density_of(name)
    maps = {
        "voxel-s": engines.voxel_s(
            tia_map_mbq_h, spacing, kernel, density_g_cm3=density, workers=workers, transfer=transfer
        ),
        "local": engines.local(
            tia_map_mbq_h, spacing, kernel.nuclide, density_g_cm3=kernel.density_g_cm3 if density is None else density
        ),
    }
    by_engine: dict[str, dict[str, float]] = {}
    organ_engine = engines.organ(tia_mbq_h, mass_g, kernel.nuclide)
    for name in grid.organs:
        mask = grid.mask(name)
        used = kernel.density_g_cm3 if density is None else options.density_of(name)
        factor = float(np.count_nonzero(mask)) * voxel_ml * used / mass_g[name]
        for values in maps.values():
            values[mask] *= np.float32(factor)
        by_engine[name] = {
            "organ": organ_engine[name],
            **{engine: float(values[mask].mean(dtype=np.float64)) for engine, values in maps.items()},
        }
    chosen = maps["voxel-s" if options.engine == "organ" else options.engine]
    if options.engine == "organ":
        # Organ S-values know one dose per organ; its distribution is the voxel engine's.
        for name in grid.organs:
            mean = by_engine[name]["voxel-s"]
            chosen[grid.mask(name)] *= np.float32(organ_engine[name] / mean if mean > 0 else 0.0)
    return Absorbed(grid, kernel, chosen, by_engine, mass_g)
