"""From a radial dose-point kernel to energy per voxel, by exact geometry. Knows no activities, no files, no dose.

An isotropic displacement of length r from a uniform point of a voxel of size h ends in the voxel at offset n with
probability ``mean over directions u of Π_i tri(r u_i / h_i - n_i)``, where ``tri(x) = max(0, 1 - |x|)`` is the
overlap of two unit boxes. So each shell's energy is spread over a sphere of directions and shared trilinearly among
the eight offsets around each: no point sampling, no singular centre, and every keV lands somewhere. From a few
voxels on, where the field is smooth over a voxel, its second-order average over the same triangles is used instead.

The result is even along each axis, so only its *octant* (offsets >= 0, axes z, y, x) is computed.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from doselabel.dosimetry.physics.radial import COMPONENTS, Array, RadialKernel

NEAR_VOXELS = 6.0
"""Exact spreading reaches this many (largest) voxel sizes; the smooth average beyond errs by some (1/6)^4."""

TABLE_STEP_MM = 0.5


def energy_octant(radial: RadialKernel, h: Array, half: tuple[int, ...]) -> tuple[NDArray[np.float32], Array]:
    """Energy per decay left in the voxel at every offset 0 … ``half`` from the source voxel.

    Parameters
    ----------
    radial : RadialKernel
    h : (3,) array
        Voxel size (z, y, x) in mm.
    half : tuple of int
        Largest offset along z, y, x.

    Returns
    -------
    (nz + 1, ny + 1, nx + 1) array of float32
        Energy in keV, all components.
    (2,) array
        Energy in keV of each of `COMPONENTS`, summed over the whole box -half … half.
    """
    beyond_electrons_mm = radial.shells["electron"].range_mm + 2 * float(np.linalg.norm(h))
    near_mm = max(NEAR_VOXELS * float(h.max()), beyond_electrons_mm)
    near = [_near_energy(radial, component, h, near_mm) for component in COMPONENTS]
    tables = [_far_table(radial, component, near_mm) for component in COMPONENTS]
    octant = np.empty(tuple(n + 1 for n in half), dtype=np.float32)
    inside_kev = np.zeros(len(COMPONENTS))
    plane_copies = copies(octant.shape[1:])
    for k in range(octant.shape[0]):
        energy = _far_energy(k, octant.shape[1:], h, near_mm, tables)
        for c, block in enumerate(near):
            if k < block.shape[0]:
                ny, nx = (min(a, b) for a, b in zip(block.shape[1:], octant.shape[1:], strict=True))
                exact = block[k, :ny, :nx]
                # Outside the sphere of exact offsets the block is NaN, and the smooth average stays.
                energy[c, :ny, :nx] = np.where(np.isnan(exact), energy[c, :ny, :nx], exact)
        inside_kev += (2 if k else 1) * np.einsum("cyx,yx->c", energy, plane_copies, dtype=np.float64)
        octant[k] = energy.sum(axis=0)
    return octant, inside_kev


def _near_energy(radial: RadialKernel, component: str, h: Array, near_mm: float) -> Array:
    """Energy (keV per decay) at the offsets within ``near_mm``, exactly; NaN at the others. An octant."""
    reach_mm = near_mm + 2 * float(np.linalg.norm(h))
    # Electrons stop within a voxel or two, where the place of a shell matters; the photons' field is flat there.
    width_mm = h.min() / (40 if component == "electron" else 8)
    radii, energies = radial.shells[component].merged(width_mm, reach_mm)
    shape = tuple(int(n) for n in np.ceil(reach_mm / h).astype(int) + 2)
    total = np.zeros(shape)
    if energies.size == 0:
        return total
    # A direction per quarter of a voxel on the sphere's surface is enough: neighbouring shells average the kinks.
    nodes = 8 * np.ceil((10 + 4 * radii / h.min()) / 8).astype(int)
    for count in np.unique(nodes):
        directions, weights = octant_directions(int(count))
        chosen = np.flatnonzero(nodes == count)
        step = max(1, 500_000 // weights.size)
        for i in range(0, chosen.size, step):
            part = chosen[i : i + step]
            _spread(total, radii[part, None, None] * directions / h, energies[part, None] * weights)
    # Offsets with a zero are reached from both sides of that axis, and each octant holds one eighth.
    total *= 1 / 8
    for axis in range(3):
        total[(slice(None),) * axis + (0,)] *= 2
    total[_distance_mm(shape, h) > near_mm] = np.nan
    return total


def _spread(total: Array, points: Array, energies: Array) -> None:
    """Add energies at points (in voxels, non-negative) to the eight offsets around each, trilinearly, in place."""
    points, energies = points.reshape(-1, 3), energies.ravel()
    corner = points.astype(np.int64)
    fraction = points - corner
    _, sy, sx = total.shape
    flat = (corner[:, 0] * sy + corner[:, 1]) * sx + corner[:, 2]
    shares = np.stack([1 - fraction, fraction])
    for dz in (0, 1):
        for dy in (0, 1):
            plane = energies * shares[dz, :, 0] * shares[dy, :, 1]
            for dx in (0, 1):
                where = flat + (dz * sy + dy) * sx + dx
                total += np.bincount(where, plane * shares[dx, :, 2], total.size).reshape(total.shape)


def octant_directions(count: int) -> tuple[Array, Array]:
    """Unit vectors (z, y, x) over the positive octant, Gauss-Legendre in cos θ and φ; their weights sum to one."""
    nodes, weights = np.polynomial.legendre.leggauss(count)
    cos, phi = (nodes[:, None] + 1) / 2, (nodes[None, :] + 1) * np.pi / 4
    sin = np.sqrt(1 - cos**2)
    vectors = np.stack(np.broadcast_arrays(cos, sin * np.sin(phi), sin * np.cos(phi)), axis=-1)
    return vectors.reshape(-1, 3), (weights[:, None] * weights[None, :] / 4).ravel()


def _far_table(radial: RadialKernel, component: str, near_mm: float) -> NDArray[np.float32]:
    """Energy per mm of radius, and its derivative, every `TABLE_STEP_MM` from ``near_mm`` on; (2, n), ends in 0."""
    spline = radial.shells[component].tail(near_mm)
    if spline is None:
        return np.zeros((2, 2), dtype=np.float32)
    radius = np.arange(near_mm, spline.x[-1], TABLE_STEP_MM)
    table = np.stack([np.clip(spline(radius, 1), 0, None), spline(radius, 2)])
    return np.pad(table, ((0, 0), (0, 2))).astype(np.float32)


def _far_energy(
    k: int, plane: tuple[int, ...], h: Array, near_mm: float, tables: list[NDArray[np.float32]]
) -> NDArray[np.float32]:
    """Energy (keV per decay) at offsets (k, y, x) from the smooth radial field; (component, y, x).

    The mean of a field f over the triangle weights is f + Σ h_i²/12 ∂²f/∂x_i² (a triangle of half-width h has
    variance h²/6). With f = V g(r) / (4π r²), q = Σ h_i² x_i² / r² and Q = Σ h_i²:
    V / (4π r²) · [g · (1 + (8q - 2Q) / (12 r²)) + g' · (Q - 5q) / (12 r)], g'' being negligible.
    """
    z2 = np.float32((k * h[0]) ** 2)
    y2, x2 = (((np.arange(n) * s) ** 2).astype(np.float32) for n, s in zip(plane, h[1:], strict=True))
    h2 = (h**2).astype(np.float32)
    r2 = np.maximum(z2 + y2[:, None] + x2[None, :], np.float32(near_mm**2) / 4)
    r = np.sqrt(r2)
    q = (h2[0] * z2 + (h2[1] * y2)[:, None] + (h2[2] * x2)[None, :]) / r2
    position = np.maximum(r - np.float32(near_mm), 0) / np.float32(TABLE_STEP_MM)
    field = np.float32(np.prod(h) / (4 * np.pi)) / r2
    even = field * (1 + (8 * q - 2 * h2.sum()) / (12 * r2))
    odd = field * (h2.sum() - 5 * q) / (12 * r)
    energy = np.empty((len(tables), *plane), dtype=np.float32)
    for c, table in enumerate(tables):
        index = np.minimum(position, table.shape[1] - 2).astype(np.int32)
        t = np.minimum(position - index, 1)
        g = table[:, index] * (1 - t) + table[:, index + 1] * t
        energy[c] = g[0] * even + g[1] * odd
    return energy


def outside_kev(radial: RadialKernel, component: str, h: Array, half: tuple[int, ...]) -> float:
    """Energy per decay that leaves the kernel's box, from the radial kernel alone.

    The triangles of offsets -n … n along an axis add up to one up to n·h and fall to zero at (n + 1)·h.
    """
    n = np.asarray(half)
    radii, energies = radial.shells[component].merged(min(2.0, float(((n + 1) * h).min()) / 16))
    directions, weights = octant_directions(48)
    inside = 0.0
    for i in range(0, radii.size, 200):
        offsets = radii[i : i + 200, None, None] * (directions / h)
        inside += float(energies[i : i + 200] @ (np.clip(n + 1 - offsets, 0, 1).prod(axis=-1) @ weights))
    return float(energies.sum()) - inside


def copies(shape: tuple[int, ...]) -> Array:
    """How many offsets of the whole kernel each offset of an octant (or quadrant) stands for."""
    copies = np.ones(shape)
    for axis in range(len(shape)):
        copies[(slice(None),) * axis + (slice(1, None),)] *= 2
    return copies


def _distance_mm(shape: tuple[int, ...], h: Array) -> Array:
    z, y, x = (np.arange(n) * s for n, s in zip(shape, h, strict=True))
    return np.sqrt((z**2)[:, None, None] + (y**2)[:, None] + x**2)
