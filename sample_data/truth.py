"""Absorbed dose of a made-up patient by an independent way: Monte Carlo over point pairs, with no dose code of ours.

Decays are drawn in the fine tissue map in proportion to their number, a direction at random, and a distance from the
radial dose-point kernel's distribution of energy over distance; the energy is scored in the organ at the end. Only the
kernel's physics (energy by distance in ICRU four-component soft tissue, scaled to 1.04 g/cm³) is shared with the
product; geometry, integration and code are not.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources

import numpy as np

from sample_data.shapes import Axes

DENSITY_G_CM3 = 1.04
"""Of the tissue the energy travels through."""

KEV_TO_J = 1.602176634e-16
DECAYS_PER_MBQ_H = 3.6e9
COMPONENTS = ("beta", "mono", "photon")
HISTORIES = 200_000
"""Per source region and component."""


@dataclass(frozen=True)
class OrganTruth:
    """Mean absorbed dose and its statistical standard deviation, Gy."""

    mean_dose_gy: float
    sd_gy: float


def dose(
    axes: Axes,
    labels: np.ndarray,
    mbq_h_ml: np.ndarray,
    mass_g: dict[int, float],
    rng: np.random.Generator,
    *,
    nuclide: str = "Lu-177",
    medium: str = "icru4",
    histories: int = HISTORIES,
) -> dict[int, OrganTruth]:
    """Mean absorbed dose of each organ.

    Parameters
    ----------
    axes : Axes
        Grid of the maps.
    labels : (z, y, x) integer array
        Organ of each voxel, 0 elsewhere.
    mbq_h_ml : (z, y, x) array
        Time-integrated activity concentration, MBq·h/mL.
    mass_g : dict
        Organ's label → its mass.
    """
    name = f"dpk_{nuclide}_{medium}.npz"
    with resources.as_file(resources.files("doselabel") / "dosimetry" / "physics" / "data" / name) as path:
        kernel = dict(np.load(path))
    spacing = np.asarray(axes.spacing_mm)
    voxel_ml = float(spacing.prod()) / 1000
    energy_j = dict.fromkeys(mass_g, 0.0)
    variance = dict.fromkeys(mass_g, 0.0)
    for region in (0, *mass_g):
        inside = (labels == region).ravel()
        weight = np.where(inside, mbq_h_ml.ravel(), 0.0)
        total = float(weight.sum()) * voxel_ml * DECAYS_PER_MBQ_H
        if total == 0:
            continue
        active = np.flatnonzero(weight)
        cumulative = np.cumsum(weight[active])
        for component in COMPONENTS:
            if f"{component}_r_mid_g_cm2" not in kernel:
                continue
            start = np.searchsorted(cumulative, rng.uniform(0, cumulative[-1], histories), side="right")
            voxel = active[np.minimum(start, active.size - 1)]
            point = np.stack(np.unravel_index(voxel, labels.shape), axis=1)
            point = point + rng.uniform(-0.5, 0.5, (histories, 3))
            distance, kev = _distances(kernel, component, histories, rng)
            end = np.rint(point + _directions(histories, rng) * distance[:, None] / spacing).astype(int)
            seen = ((end >= 0) & (end < labels.shape)).all(axis=1)
            hit = labels[tuple(end[seen].T)]
            for organ in mass_g:
                part = np.count_nonzero(hit == organ) / histories
                joule = total * kev * KEV_TO_J
                energy_j[organ] += joule * part
                variance[organ] += joule**2 * part * (1 - part) / histories
    return {
        organ: OrganTruth(energy_j[organ] / (mass / 1000), float(np.sqrt(variance[organ])) / (mass / 1000))
        for organ, mass in mass_g.items()
    }


def _distances(
    kernel: dict[str, np.ndarray], component: str, count: int, rng: np.random.Generator
) -> tuple[np.ndarray, float]:
    """Distances (mm) at which energy is deposited, and the energy of the component, keV per decay."""
    kev = kernel[f"{component}_E_keV_per_decay"]
    middle, width = kernel[f"{component}_r_mid_g_cm2"], kernel[f"{component}_dr_g_cm2"]
    shell = rng.choice(kev.size, size=count, p=kev / kev.sum())
    r_g_cm2 = middle[shell] + width[shell] * rng.uniform(-0.5, 0.5, count)
    return r_g_cm2 / DENSITY_G_CM3 * 10, float(kev.sum())


def _directions(count: int, rng: np.random.Generator) -> np.ndarray:
    """Isotropic unit vectors."""
    vectors = rng.standard_normal((count, 3))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
