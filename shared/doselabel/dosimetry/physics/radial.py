"""Radial dose-point kernels: energy left by one decay at a distance from a point source, in a uniform medium.

Knows the shipped files, that their energy must add up, and how distance scales with density. Knows nothing of
voxels. A *shell* is the space between two spheres around the source; a *component* is the electrons (β, conversion,
Auger, with their bremsstrahlung) or the photons.
"""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import dataclass
from importlib import resources

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline

from doselabel.errors import KernelError
from doselabel.nuclides import Nuclide, nuclide

Array = NDArray[np.float64]

COMPONENTS = ("electron", "photon")
FILE_COMPONENTS = {"electron": ("beta", "mono"), "photon": ("photon",)}

MEDIA = {"soft_tissue": ("icru4", "water"), "icru4": ("icru4",), "water": ("water",)}
"""What a medium may be served by, best first: ICRU soft tissue exists for Lu-177 only, water for all."""

CLOSURE_TOLERANCE = 0.01
"""Largest relative difference between deposited and emitted energy of a component."""

NEGLIGIBLE_KEV = 0.1
"""A component below this energy per decay (the photons of Y-90) is neither required nor checked."""

MM_PER_CM = 10.0


@dataclass(frozen=True, eq=False)
class Shells:
    """Energy per decay in shells around a point source, one component.

    Parameters
    ----------
    edges_mm : (n + 1,) array
        Radii of the spheres between the shells in mm, increasing from 0.
    energy_kev : (n,) array
        Energy per decay left in each shell in keV.
    range_mm : float
        Where the particles themselves end (electrons); 0 for photons.
    """

    edges_mm: Array
    energy_kev: Array
    range_mm: float

    def merged(self, width_mm: float, up_to_mm: float = np.inf) -> tuple[Array, Array]:
        """Radii (energy-weighted, mm) and energies (keV) of shells ``width_mm`` wide, up to a radius.

        Wide shells, of bremsstrahlung or of far photons, are smooth: they are cut to four times the width only.
        """
        shells = slice(0, int(np.searchsorted(self.edges_mm, up_to_mm)))
        widths, energy_kev = np.diff(self.edges_mm)[shells], self.energy_kev[shells]
        parts = np.ceil(widths / (4 * width_mm)).astype(int)
        index = np.repeat(np.arange(widths.size), parts)
        within = np.arange(index.size) - np.repeat(np.cumsum(parts) - parts, parts)
        radius = self.edges_mm[index] + (within + 0.5) * (widths / parts)[index]
        energy = (energy_kev / parts)[index]
        keep = (radius < up_to_mm) & (energy > 0)
        radius, energy = radius[keep], energy[keep]
        group = (radius / width_mm).astype(int)
        total: Array = np.bincount(group, energy).astype(float)
        moment: Array = np.bincount(group, energy * radius).astype(float)
        filled = total > 0
        return moment[filled] / total[filled], total[filled]

    def tail(self, from_mm: float) -> CubicSpline | None:
        """Energy per decay within a radius (keV), smooth in the radius (mm) from ``from_mm`` outwards.

        A cubic spline through the cumulative energy at knots a tenth of the radius apart (at most 2 cm; twice that
        for the few, noisy bremsstrahlung shells): it keeps the energy between any two knots exactly, and its
        derivative is the smooth energy per mm that a far voxel needs.
        """
        if from_mm >= self.edges_mm[-1]:
            return None
        noisy = 2.0 if self.range_mm > 0 else 1.0
        knots = [0]
        for i, edge in enumerate(self.edges_mm):
            last = self.edges_mm[knots[-1]]
            if edge >= max(from_mm / 2, self.range_mm) and edge - last >= noisy * min(0.1 * edge, 20.0):
                knots.append(i)
        if len(knots) < 5:
            return None
        cumulative = np.concatenate([[0.0], np.cumsum(self.energy_kev)])
        return CubicSpline(self.edges_mm[knots[1:]], cumulative[knots[1:]])


@dataclass(frozen=True, eq=False)
class RadialKernel:
    """A dose-point kernel at a given density.

    Parameters
    ----------
    nuclide : Nuclide
    medium, material : str
        The medium asked for and the one whose file serves it (``"icru4"`` or ``"water"``).
    density_g_cm3 : float
    shells : dict of str to Shells
        By component, ``"electron"`` and ``"photon"``.
    decay_data, sha256 : str
        Decay data of the Monte Carlo run, and the hash of the file.
    """

    nuclide: Nuclide
    medium: str
    material: str
    density_g_cm3: float
    shells: dict[str, Shells]
    decay_data: str
    sha256: str

    def emitted_kev(self, component: str) -> float:
        """Energy per decay of a component in keV, from the decay data."""
        return self.nuclide.electron_kev if component == "electron" else self.nuclide.photon_kev


def load_radial(name: str | Nuclide, medium: str = "soft_tissue", density_g_cm3: float = 1.04) -> RadialKernel:
    """Read a shipped dose-point kernel, check it, and stretch it to a density.

    Distances scale as 1/density at equal composition (Fano's theorem; exact for the shells' g/cm²).

    Raises
    ------
    KernelError
        If there is no kernel for the nuclide and medium, the density is not usable, the file is not the one that
        was shipped, or its energy does not add up to the emitted energy within 1 % per component.
    """
    wanted = nuclide(name)
    if medium not in MEDIA:
        raise KernelError(f"Medium {medium!r} is not known; expected one of {', '.join(MEDIA)}.")
    if not (np.isfinite(density_g_cm3) and 0.1 <= density_g_cm3 <= 5.0):
        raise KernelError(f"density_g_cm3 is {density_g_cm3}; expected 0.1 to 5 g/cm³ (soft tissue is 1.04).")
    folder = resources.files("doselabel.dosimetry.physics") / "data"
    index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
    by_material = {e["medium"]: e for e in index["kernels"] if e["nuclide"] == wanted.name}
    entry = next((by_material[m] for m in MEDIA[medium] if m in by_material), None)
    if entry is None:
        known = ", ".join(f"{e['nuclide']} in {e['medium']}" for e in index["kernels"])
        raise KernelError(
            f"There is no dose-point kernel for {wanted.name} in {medium}; there is {known}.",
            "doselabel/dosimetry/physics/data/PROVENANCE.md says how to add one.",
        )
    raw = (folder / entry["file"]).read_bytes()
    digest = hashlib.sha256(raw).hexdigest()
    if digest != entry["sha256"]:
        raise KernelError(
            f"{entry['file']} has SHA-256 {digest[:12]}…, expected {entry['sha256'][:12]}…: the file was changed.",
            "Reinstall doselabel.",
        )
    with np.load(io.BytesIO(raw), allow_pickle=False) as arrays:
        shells = {c: _read_component(arrays, FILE_COMPONENTS[c], density_g_cm3) for c in COMPONENTS}
    kernel = RadialKernel(wanted, medium, entry["medium"], density_g_cm3, shells, index["decay_data"], digest)
    for component in COMPONENTS:
        deposited = float(shells[component].energy_kev.sum())
        require_closure(f"{entry['file']} ({component}s)", deposited, kernel.emitted_kev(component))
    return kernel


def require_closure(what: str, found_kev: float, expected_kev: float) -> None:
    """Raise `KernelError` unless two energies per decay agree within `CLOSURE_TOLERANCE`."""
    if expected_kev < NEGLIGIBLE_KEV and abs(found_kev - expected_kev) < NEGLIGIBLE_KEV:
        return
    if not abs(found_kev - expected_kev) <= CLOSURE_TOLERANCE * expected_kev:
        raise KernelError(
            f"{what}: energy does not add up: {found_kev:.3f} keV per decay, expected {expected_kev:.3f} "
            f"within {CLOSURE_TOLERANCE:.0%}.",
            "Do not use this kernel.",
        )


def _read_component(arrays: np.lib.npyio.NpzFile, names: tuple[str, ...], density_g_cm3: float) -> Shells:
    """The sum of the components ``names`` of a file, on shells fine enough for each of them."""
    parts = []
    for name in names:
        if f"{name}_r_mid_g_cm2" in arrays.files:
            middle, width = arrays[f"{name}_r_mid_g_cm2"], arrays[f"{name}_dr_g_cm2"]
            edges = np.concatenate([[0.0], np.round(middle + width / 2, 9)])
            # The narrow shells end where the electrons do (PROVENANCE.md); photons have no such end.
            narrow = width < 1.5 * width[0]
            reach = float(edges[1:][narrow][-1]) if name != "photon" else 0.0
            parts.append((edges, np.concatenate([[0.0], np.cumsum(arrays[f"{name}_E_keV_per_decay"])]), reach))
    if not parts:
        return Shells(np.array([0.0, 1.0]), np.zeros(1), 0.0)
    edges = np.unique(np.concatenate([e for e, _, _ in parts]))
    cumulative = sum(np.interp(edges, e, c) for e, c, _ in parts)
    to_mm = MM_PER_CM / density_g_cm3
    return Shells(edges * to_mm, np.diff(cumulative), max(reach for *_, reach in parts) * to_mm)
