"""Points on a grid, smooth random fields and implicit shapes. It knows mathematics and no anatomy.

A shape is a function of points that gives a *level*: about the distance to its surface in mm, positive inside.
Levels are combined by minimum (and), maximum (or) and sign change (not), sharp or rounded off.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Points:
    """Coordinates in patient space (LPS, mm); three arrays that broadcast to (z, y, x).

    A box of points knows the points it was taken from: what many boxes need is computed there, once.
    """

    x: np.ndarray
    y: np.ndarray
    z: np.ndarray
    whole: Points | None = field(default=None, repr=False)
    box: tuple[slice, slice, slice] = (slice(None),) * 3
    known: dict[str, np.ndarray] = field(default_factory=dict, repr=False)

    def __getitem__(self, box: tuple[slice, slice, slice]) -> Points:
        return Points(self.x[box], self.y[box], self.z[box], self, box)

    def once(self, name: str, level: Callable[[Points], np.ndarray]) -> np.ndarray:
        """Return the values of a level here, computed once for all points and boxes of them."""
        points = self.whole or self
        if name not in points.known:
            points.known[name] = level(points)
        return points.known[name][self.box]


@dataclass(frozen=True)
class Axes:
    """The three axes of a grid that is not rotated: voxel centres along x, y and z in LPS mm, increasing."""

    x: np.ndarray
    y: np.ndarray
    z: np.ndarray

    @classmethod
    def covering(cls, low_mm: tuple[float, ...], high_mm: tuple[float, ...], spacing_mm: float) -> Axes:
        """Cover a box (x, y, z) with cubes of one size."""
        return cls(*(np.arange(a + spacing_mm / 2, b, spacing_mm) for a, b in zip(low_mm, high_mm, strict=True)))

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels (z, y, x)."""
        return len(self.z), len(self.y), len(self.x)

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Voxel size (z, y, x), mm."""
        dz, dy, dx = (float((a[-1] - a[0]) / (len(a) - 1)) for a in (self.z, self.y, self.x))
        return dz, dy, dx

    def shifted(self, dx: float = 0.0, dy: float = 0.0, dz: float = 0.0) -> Axes:
        """Return the axes moved by some millimetres."""
        return Axes(self.x + dx, self.y + dy, self.z + dz)

    def slab(self, z: slice) -> Axes:
        """Return some of the slices."""
        return Axes(self.x, self.y, self.z[z])


@dataclass(frozen=True)
class Waves:
    """A smooth random field: a sum of plane waves.

    Attributes
    ----------
    k : (n, 3) array
        Wave vectors (x, y, z), rad/mm.
    phase, amplitude : (n,) arrays
        rad; the field's own unit.
    """

    k: np.ndarray
    phase: np.ndarray
    amplitude: np.ndarray

    @classmethod
    def random(cls, rng: np.random.Generator, sd: float, wavelength_mm: tuple[float, float], n: int = 10) -> Waves:
        """Draw a field of a given standard deviation and range of wavelengths."""
        direction = rng.normal(size=(n, 3))
        direction /= np.linalg.norm(direction, axis=1, keepdims=True)
        k = direction * (2 * np.pi / rng.uniform(*wavelength_mm, size=(n, 1)))
        return cls(k, rng.uniform(0, 2 * np.pi, n), np.full(n, sd * np.sqrt(2 / n)))

    def __call__(self, axes: Axes) -> np.ndarray:
        """Values (z, y, x) float32 on a grid: one matrix product, as a plane wave separates by axes."""
        ez, ey, ex = (
            np.exp(1j * np.outer(k, a)) for k, a in zip(self.k.T[::-1], (axes.z, axes.y, axes.x), strict=True)
        )
        ez = ez * (self.amplitude * np.exp(1j * self.phase))[:, None]
        zy = (ez[:, :, None] * ey[:, None, :]).reshape(len(self.k), -1)
        left = np.concatenate([zy.real, -zy.imag]).astype(np.float32)
        right = np.concatenate([ex.real, ex.imag]).astype(np.float32)
        return (left.T @ right).reshape(axes.shape)


def ellipsoid(p: Points, centre: tuple[float, float, float], radii: tuple[float, float, float]) -> np.ndarray:
    """Level of an ellipsoid (first-order distance, Quilez 2016)."""
    d = [(a - c) / r for a, c, r in zip((p.x, p.y, p.z), centre, radii, strict=True)]
    k0 = np.sqrt(d[0] ** 2 + d[1] ** 2 + d[2] ** 2)
    k1 = np.sqrt(sum((a / r) ** 2 for a, r in zip(d, radii, strict=True))) + 1e-6
    return k0 * (1 - k0) / k1 + (k0 < 0.05) * min(radii)


def ellipse(
    u: np.ndarray, v: np.ndarray, a: float | np.ndarray, b: float | np.ndarray, power: float = 2.0
) -> np.ndarray:
    """Level of a (super-)ellipse: distance along the ray from its centre, at most 1000."""
    q = (np.abs(u / a) ** power + np.abs(v / b) ** power) ** (1 / power) + 1e-6
    return np.minimum((1 / q - 1) * np.hypot(u, v), 1000.0)


def capsule(p: Points, a: tuple[float, ...], b: tuple[float, ...], r0: float, r1: float) -> np.ndarray:
    """Level of a rounded cone from point ``a`` (radius r0) to point ``b`` (radius r1)."""
    start, axis = np.asarray(a, float), np.subtract(b, a).astype(float)
    px, py, pz = p.x - start[0], p.y - start[1], p.z - start[2]
    t = np.clip((px * axis[0] + py * axis[1] + pz * axis[2]) / (axis @ axis), 0, 1)
    away = np.sqrt((px - t * axis[0]) ** 2 + (py - t * axis[1]) ** 2 + (pz - t * axis[2]) ** 2)
    return r0 + t * (r1 - r0) - away


def both(a: np.ndarray, b: np.ndarray, rounding_mm: float = 0.0) -> np.ndarray:
    """Intersection of two shapes, its edge rounded off."""
    if rounding_mm <= 0:
        return np.minimum(a, b)
    h = np.maximum(rounding_mm - np.abs(a - b), 0) / rounding_mm
    return np.minimum(a, b) - h * h * rounding_mm / 4


def either(a: np.ndarray, b: np.ndarray, rounding_mm: float = 0.0) -> np.ndarray:
    """Union of two shapes, its seam rounded off."""
    return -both(-a, -b, rounding_mm)
