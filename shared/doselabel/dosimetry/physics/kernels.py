"""Voxel S-values and self-dose S-values, by exact geometry from radial dose-point kernels.

Knows how energy from a point source spreads over voxels, spheres, ellipsoids and masks; nothing of activities.

The geometry is in `reduction`, the point kernels in `radial`; here are the objects, the proof that energy adds up, and
the cache. S between voxels is that of MIRD Pamphlet 17 (Bolch et al., J Nucl Med 1999;40:11S).

A kernel is even along each axis, so only its *octant* (offsets >= 0) is kept.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from doselabel.dosimetry.physics.convolution import mirrored
from doselabel.dosimetry.physics.radial import COMPONENTS, RadialKernel, load_radial, require_closure
from doselabel.dosimetry.physics.reduction import copies, energy_octant, octant_directions, outside_kev
from doselabel.errors import KernelError
from doselabel.nuclides import KEV_IN_JOULE, Nuclide

ALGORITHM = 1
"""Part of a cached kernel's key: raise it when the numbers below change."""

SMALLEST_VOXEL_MM, LARGEST_VOXEL_MM = 0.05, 50.0

MAX_OFFSET = 640
"""Largest offset along an axis: the octant of a 512³ image fits, one of 0.1 mm voxels by mistake does not."""

DEFAULT_OFFSET = 128
DEFAULT_OUTSIDE = 0.001
"""Without an extent a kernel reaches until this part of the energy lies outside, or 128 voxels."""

MGY_PER_MBQ_S_G_PER_KEV = KEV_IN_JOULE * 1e3 * 1e6 / 1e-3
"""S (mGy/(MBq·s)) of 1 keV per decay absorbed in 1 g."""


@dataclass(frozen=True)
class KernelEnergy:
    """Where one decay's energy goes, keV per decay: inside the kernel's box, and outside by the radial kernel."""

    electron_inside_kev: float
    electron_outside_kev: float
    photon_inside_kev: float
    photon_outside_kev: float

    @property
    def outside_fraction(self) -> float:
        """Part of the energy that leaves the box."""
        outside = self.electron_outside_kev + self.photon_outside_kev
        return outside / (outside + self.electron_inside_kev + self.photon_inside_kev)


@dataclass(frozen=True, eq=False)
class VoxelSKernel:
    """Absorbed dose to a voxel per decay in another, for every offset between them.

    Parameters
    ----------
    nuclide : Nuclide
    spacing_mm : tuple of float
        Voxel size (z, y, x) in mm.
    medium, material : str
        The medium asked for, and the one of the radial kernel that serves it.
    density_g_cm3 : float
    octant_mgy_per_mbq_s : (nz + 1, ny + 1, nx + 1) array of float32
        S at offsets 0 … n voxels along z, y, x, in mGy/(MBq·s).
    energy : KernelEnergy
    decay_data, radial_sha256, sha256 : str
        Decay data, hash of the radial kernel, hash of these values.
    """

    nuclide: Nuclide
    spacing_mm: tuple[float, float, float]
    medium: str
    material: str
    density_g_cm3: float
    octant_mgy_per_mbq_s: NDArray[np.float32]
    energy: KernelEnergy
    decay_data: str
    radial_sha256: str
    sha256: str

    @property
    def values_mgy_per_mbq_s(self) -> NDArray[np.float32]:
        """S for every offset in mGy/(MBq·s): odd-shaped (z, y, x), offset zero in the middle. Built on each call."""
        return mirrored(self.octant_mgy_per_mbq_s)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of `values_mgy_per_mbq_s`."""
        return tuple(2 * n - 1 for n in self.octant_mgy_per_mbq_s.shape)

    @property
    def voxel_mass_g(self) -> float:
        """Mass of one voxel in g."""
        return float(np.prod(self.spacing_mm)) * self.density_g_cm3 / 1e3

    @property
    def provenance(self) -> dict[str, str | float | list[float]]:
        """What made this kernel, for reports."""
        return {
            "nuclide": self.nuclide.name,
            "medium": self.medium,
            "material": self.material,
            "density_g_cm3": self.density_g_cm3,
            "spacing_mm": list(self.spacing_mm),
            "decay_data": self.decay_data,
            "radial_kernel_sha256": self.radial_sha256,
            "sha256": self.sha256,
            "energy_outside_fraction": self.energy.outside_fraction,
        }


def voxel_s_kernel(
    nuclide: str | Nuclide,
    spacing_mm: float | Sequence[float],
    *,
    medium: str = "soft_tissue",
    density_g_cm3: float = 1.04,
    extent_mm: float | Sequence[float] | None = None,
) -> VoxelSKernel:
    """Voxel S-values of a nuclide for any, also anisotropic, voxel size.

    Parameters
    ----------
    nuclide : str or Nuclide
    spacing_mm : float or (z, y, x)
        Voxel size in mm.
    medium : {"soft_tissue", "icru4", "water"}
        ``soft_tissue`` is ICRU four-component tissue for Lu-177 and water for Y-90 and I-131 (`radial.MEDIA`).
    density_g_cm3 : float
        Density of the medium; MIRD Pamphlet 17 uses 1.04 for soft tissue.
    extent_mm : float or (z, y, x), optional
        Largest distance along each axis that the kernel must cover: an image's size in mm, so that its whole photon
        field is kept. Without it, the kernel reaches until 0.1 % of the energy lies outside, at most 128 voxels.

    Returns
    -------
    VoxelSKernel

    Raises
    ------
    KernelError
        If an argument is not usable, or the energy of the kernel does not add up within 1 % (each component).

    Notes
    -----
    Kernels are kept in ``$DOSELABEL_CACHE`` (else ``~/.cache/doselabel``) under the hash of what made them; a file
    that is damaged, or whose energy does not add up, is computed again.
    """
    spacing = _triple("spacing_mm", spacing_mm, SMALLEST_VOXEL_MM, LARGEST_VOXEL_MM)
    radial = load_radial(nuclide, medium, density_g_cm3)
    if extent_mm is None:
        half = tuple(min(DEFAULT_OFFSET, int(_default_extent_mm(radial) / h) + 1) for h in spacing)
    else:
        extent = _triple("extent_mm", extent_mm, smallest=0.0, largest=1e4)
        half = tuple(int(e / h + 1e-6) for e, h in zip(extent, spacing, strict=True))
    if max(half) > MAX_OFFSET:
        raise KernelError(
            f"A kernel of {half} voxels to each side is too large; at most {MAX_OFFSET} per axis.",
            "Check that spacing_mm and extent_mm are in mm, or resample the image to larger voxels.",
        )
    path = _cache_path(radial, spacing, half)
    kernel = _read_cached(path, radial, spacing, half)
    if kernel is None:
        kernel = _build(radial, spacing, half)
        _write_cached(path, kernel)
    return kernel


# --- building -------------------------------------------------------------------------------------------------------


def _build(radial: RadialKernel, spacing: tuple[float, ...], half: tuple[int, ...]) -> VoxelSKernel:
    h = np.asarray(spacing)
    octant, inside = energy_octant(radial, h, half)
    octant *= np.float32(MGY_PER_MBQ_S_G_PER_KEV / (float(np.prod(h)) * radial.density_g_cm3 / 1e3))
    outside = [outside_kev(radial, component, h, half) for component in COMPONENTS]
    energy = KernelEnergy(float(inside[0]), outside[0], float(inside[1]), outside[1])
    kernel = _kernel(radial, spacing, octant, energy)
    _require_energy(kernel, radial)
    return kernel


def _default_extent_mm(radial: RadialKernel) -> float:
    """Radius beyond which `DEFAULT_OUTSIDE` of the energy is deposited."""
    edges = np.unique(np.concatenate([s.edges_mm for s in radial.shells.values()]))
    cumulative = np.zeros(edges.size)
    for shells in radial.shells.values():
        cumulative += np.interp(edges, shells.edges_mm, np.concatenate([[0.0], np.cumsum(shells.energy_kev)]))
    return float(edges[np.searchsorted(cumulative, (1 - DEFAULT_OUTSIDE) * cumulative[-1])])


def _require_energy(kernel: VoxelSKernel, radial: RadialKernel) -> None:
    """Raise unless Σ S·m by component equals what is emitted less what leaves the box."""
    energy = kernel.energy
    name = f"Voxel kernel of {radial.nuclide.name} at {kernel.spacing_mm} mm"
    parts = {
        "electron": energy.electron_inside_kev + energy.electron_outside_kev,
        "photon": energy.photon_inside_kev + energy.photon_outside_kev,
    }
    for component, found in parts.items():
        require_closure(f"{name} ({component}s)", found, radial.emitted_kev(component))
    octant = kernel.octant_mgy_per_mbq_s
    plane_copies = copies(octant.shape[1:])
    per_plane = [float(np.einsum("yx,yx->", plane, plane_copies, dtype=np.float64)) for plane in octant]
    total = (2 * sum(per_plane) - per_plane[0]) * kernel.voxel_mass_g / MGY_PER_MBQ_S_G_PER_KEV
    require_closure(name, total, energy.electron_inside_kev + energy.photon_inside_kev)


def _kernel(
    radial: RadialKernel, spacing: tuple[float, ...], octant: NDArray[np.float32], energy: KernelEnergy
) -> VoxelSKernel:
    return VoxelSKernel(
        nuclide=radial.nuclide,
        spacing_mm=(spacing[0], spacing[1], spacing[2]),
        medium=radial.medium,
        material=radial.material,
        density_g_cm3=radial.density_g_cm3,
        octant_mgy_per_mbq_s=octant,
        energy=energy,
        decay_data=radial.decay_data,
        radial_sha256=radial.sha256,
        sha256=hashlib.sha256(np.ascontiguousarray(octant).data).hexdigest(),
    )


def _triple(what: str, value: float | Sequence[float], smallest: float, largest: float) -> tuple[float, ...]:
    values = np.atleast_1d(np.asarray(value, dtype=float))
    if values.size == 1:
        values = np.repeat(values, 3)
    if values.shape != (3,) or not np.all(np.isfinite(values) & (values >= smallest) & (values <= largest)):
        raise KernelError(f"{what} is {value}; expected one number or three (z, y, x), {smallest} to {largest} mm.")
    return tuple(float(v) for v in values)


# --- cache ----------------------------------------------------------------------------------------------------------


def _cache_path(radial: RadialKernel, spacing: tuple[float, ...], half: tuple[int, ...]) -> Path:
    made_of = [ALGORITHM, radial.sha256, radial.nuclide.electron_kev, radial.nuclide.photon_kev]
    key = hashlib.sha256(json.dumps([made_of, radial.density_g_cm3, spacing, half]).encode()).hexdigest()
    root = os.environ.get("DOSELABEL_CACHE") or Path.home() / ".cache" / "doselabel"
    return Path(root) / "kernels" / f"{radial.nuclide.name}-{key[:32]}.npz"


def _read_cached(
    path: Path, radial: RadialKernel, spacing: tuple[float, ...], half: tuple[int, ...]
) -> VoxelSKernel | None:
    """The cached kernel, or None if there is none, or it is damaged, or its energy does not add up."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            octant, budget, digest = stored["octant"], json.loads(str(stored["energy"])), str(stored["sha256"])
        kernel = _kernel(radial, spacing, octant, KernelEnergy(**budget))
        if kernel.sha256 != digest or octant.shape != tuple(n + 1 for n in half) or octant.dtype != np.float32:
            return None
        _require_energy(kernel, radial)
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, KernelError):
        return None
    return kernel


def _write_cached(path: Path, kernel: VoxelSKernel) -> None:
    """Keep a kernel for the next time; a cache that can't be written is no reason to fail."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, suffix=".part")
    except OSError:
        return
    part = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez(
                file,
                octant=kernel.octant_mgy_per_mbq_s,
                energy=json.dumps(asdict(kernel.energy)),
                sha256=kernel.sha256,
            )
        part.replace(path)
    except OSError:
        part.unlink(missing_ok=True)


# --- self dose ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ellipsoid:
    """A uniform source with semi-axes (z, y, x) in mm."""

    semi_axes_mm: tuple[float, float, float]

    @property
    def volume_ml(self) -> float:
        """Volume in mL."""
        return float(4 / 3 * np.pi * np.prod(self.semi_axes_mm)) / 1e3


def sphere(volume_ml: float) -> Ellipsoid:
    """The sphere of a volume."""
    radius_mm = float(np.cbrt(volume_ml * 1e3 * 3 / (4 * np.pi)))
    return Ellipsoid((radius_mm, radius_mm, radius_mm))


def self_s_value(
    shape: Ellipsoid,
    nuclide: str | Nuclide,
    *,
    medium: str = "soft_tissue",
    density_g_cm3: float = 1.04,
) -> float:
    """S-value of a uniform source to itself, mGy/(MBq·s), electrons and photons.

    Two points at a distance r along u both lie in an ellipsoid with semi-axes a with probability
    (1 - s/2)² (1 + s/4), s = r |u/a| (the overlap of two spheres, stretched).

    Raises
    ------
    KernelError
        If the shape is empty or not of a usable size.

    Examples
    --------
    >>> f"{self_s_value(sphere(4.31 / 1.03), 'Lu-177', density_g_cm3=1.03):.2e}"
    '5.44e-03'
    """
    axes = np.asarray(_triple("semi_axes_mm", shape.semi_axes_mm, smallest=0.1, largest=1000.0))
    radial = load_radial(nuclide, medium, density_g_cm3)
    directions, weights = octant_directions(24)
    stretch = np.linalg.norm(directions / axes, axis=1)
    absorbed_kev = 0.0
    for shells in radial.shells.values():
        radii, energies = shells.merged(axes.min() / 100, 2 * axes.max())
        s = np.minimum(radii[:, None] * stretch, 2.0)
        absorbed_kev += float(energies @ ((1 - s / 2) ** 2 * (1 + s / 4) @ weights))
    return absorbed_kev * MGY_PER_MBQ_S_G_PER_KEV / (shape.volume_ml * density_g_cm3)
