"""From a map of time-integrated activity to the dose map, and every engine's mean dose by organ. Knows no files."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from doselabel.dosimetry.dose import engines
from doselabel.dosimetry.dose.tia_map import DoseGrid
from doselabel.dosimetry.options import DoseOptions
from doselabel.dosimetry.physics.kernels import VoxelSKernel


def dose_map(
    grid: DoseGrid,
    tia_mbq_h: NDArray[np.float32],
    tia: Mapping[str, float],
    masses: Mapping[str, float],
    kernel: VoxelSKernel,
    options: DoseOptions,
) -> tuple[NDArray[np.float32], dict[str, dict[str, float]]]:
    """The chosen engine's dose map, and every engine's mean dose by organ.

    An organ's voxels together have the mass of the mask on the dose grid; its dose is brought to the mass that the
    diagnostic CT's own mask and the organ's density give, by one factor near 1.
    """
    spacing, voxel_ml = grid.geometry.spacing_mm, grid.geometry.voxel_volume_ml
    density: NDArray[np.float64] | None = None
    if options.density == "ct":
        density = engines.density_from_hu(grid.hu)
        for name in grid.organs:
            density[grid.mask(name)] = options.density_of(name)
    maps = {
        "voxel-s": engines.voxel_s(tia_mbq_h, spacing, kernel, density_g_cm3=density),
        "local": engines.local(
            tia_mbq_h, spacing, kernel.nuclide, density_g_cm3=kernel.density_g_cm3 if density is None else density
        ),
    }
    by_engine: dict[str, dict[str, float]] = {}
    organ_engine = engines.organ(tia, masses, kernel.nuclide)
    for name in grid.organs:
        mask = grid.mask(name)
        used = kernel.density_g_cm3 if density is None else options.density_of(name)
        factor = float(np.count_nonzero(mask)) * voxel_ml * used / masses[name]
        for values in maps.values():
            values[mask] *= np.float32(factor)
        by_engine[name] = {
            "organ": organ_engine[name],
            **{engine: float(values[mask].mean(dtype=np.float64)) for engine, values in maps.items()},
        }
    if options.engine != "organ":
        return maps[options.engine], by_engine
    # Organ S-values know one dose per organ; its distribution is the voxel engine's.
    chosen = maps["voxel-s"]
    for name in grid.organs:
        mean = by_engine[name]["voxel-s"]
        chosen[grid.mask(name)] *= np.float32(organ_engine[name] / mean if mean > 0 else 0.0)
    return chosen, by_engine
