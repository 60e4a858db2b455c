"""The three dose engines: organ S-values, local deposition, voxel S-values. Arrays and numbers in, Gy out.

Knows how a time-integrated activity (TIA) becomes absorbed dose; nothing of files, contours, curves or patients.
The engines differ in what they leave out, which is why all three are run and their spread is shown:

- `organ`: the whole organ as one uniform source and target, electrons and photons, no dose from elsewhere;
- `local`: every voxel keeps the energy of its own electrons; photons are left out altogether (19 % of what Lu-177
  emits, some 2 % of a kidney's dose; two thirds of what I-131 emits);
- `voxel_s`: electrons and photons from every voxel to every other in a uniform medium, optionally scaled by density.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from doselabel.dosimetry.physics.convolution import convolve_even
from doselabel.dosimetry.physics.kernels import VoxelSKernel, self_s_value, sphere
from doselabel.errors import DoseError, KernelError
from doselabel.nuclides import SECONDS_PER_HOUR, Nuclide
from doselabel.nuclides import nuclide as find_nuclide

SOFT_TISSUE_G_CM3 = 1.04
"""Density of soft tissue in MIRD Pamphlet 17."""

SMALLEST_DENSITY_G_CM3 = 0.1
"""Densities below (air) count as this: the dose to air is of no interest, a division by it would be."""

SPACING_TOLERANCE = 1e-3
"""Relative difference of spacing up to which a kernel fits an image."""

LARGEST_CROPPED_FRACTION = 0.01
"""Part of the energy a kernel smaller than the image may leave out."""

GY_PER_MGY = 1e-3


# --- voxel engines --------------------------------------------------------------------------------------------------


def voxel_s(
    tia_map_mbq_h: ArrayLike,
    spacing_mm: float | Sequence[float],
    kernel: VoxelSKernel,
    *,
    density_g_cm3: float | ArrayLike | None = None,
    workers: int = 1,
    transfer: NDArray[np.float64] | None = None,
) -> NDArray[np.float32]:
    """Absorbed dose by convolution of a TIA map with voxel S-values (MIRD Pamphlet 17), linear, never circular.

    Parameters
    ----------
    tia_map_mbq_h : (z, y, x) array
        Time-integrated activity per voxel in MBq·h.
    spacing_mm : float or (z, y, x)
        Voxel size of the map in mm; it must be the kernel's.
    kernel : VoxelSKernel
        From `kernels.voxel_s_kernel`, with ``extent_mm`` the size of the image.
    density_g_cm3 : float or (z, y, x) array, optional
        Density of each voxel. The energy absorbed in the kernel's uniform medium is then divided by the voxel's own
        mass (Dieudonné et al., J Nucl Med 2013;54:236): right for electrons, an approximation for photons.
    workers : int
        Threads; the result is the same to the last bit.
    transfer : array, optional
        `convolution.transfer_of` the kernel and the map's shape, where it is known.

    Returns
    -------
    (z, y, x) array of float32
        Absorbed dose in Gy.

    Raises
    ------
    DoseError
        If the map is not 3D, finite and non-negative, or its spacing is not the kernel's.
    KernelError
        If the kernel is smaller than the image and leaves out more than 1 % of the energy.
    """
    tia = _checked_map("tia_map_mbq_h", tia_map_mbq_h)
    _require_same_spacing(spacing_mm, kernel)
    _require_whole_field(tia.shape, kernel)
    dose = convolve_even(tia, kernel.octant_mgy_per_mbq_s, workers, transfer)
    dose *= SECONDS_PER_HOUR * GY_PER_MGY
    if density_g_cm3 is not None:
        dose *= kernel.density_g_cm3 / _checked_density(density_g_cm3, tia.shape)
    # The transform leaves rounding of about 1e-16 of the maximum on either side of zero.
    return np.maximum(dose, 0.0).astype(np.float32)


def local(
    tia_map_mbq_h: ArrayLike,
    spacing_mm: float | Sequence[float],
    nuclide: str | Nuclide,
    *,
    density_g_cm3: float | ArrayLike = SOFT_TISSUE_G_CM3,
) -> NDArray[np.float32]:
    """Absorbed dose if every voxel keeps the energy of its own electrons; photons deposit nothing.

    D = TIA × (local constant) / mass: 1 MBq·h of Lu-177 in 1 g gives 0.08532 Gy.

    Parameters
    ----------
    tia_map_mbq_h : (z, y, x) array
        Time-integrated activity per voxel in MBq·h.
    spacing_mm : float or (z, y, x)
    nuclide : str or Nuclide
    density_g_cm3 : float or (z, y, x) array

    Returns
    -------
    (z, y, x) array of float32
        Absorbed dose in Gy.
    """
    tia = _checked_map("tia_map_mbq_h", tia_map_mbq_h)
    voxel_ml = float(np.prod(_spacing(spacing_mm))) / 1e3
    mass_g = voxel_ml * _checked_density(density_g_cm3, tia.shape)
    constant_gy_g_per_mbq_h = find_nuclide(nuclide).local_constant_g_gy_per_gbq_h / 1e3
    return (tia * (constant_gy_g_per_mbq_h / mass_g)).astype(np.float32)


# --- organ engine ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class OrganS:
    """An organ's S-value to itself, and where it comes from."""

    s_mgy_per_mbq_s: float
    source: str


@dataclass(frozen=True)
class ReferenceS:
    """A published S-value of an organ of a reference person to itself, in mGy/(MBq·s)."""

    nuclide: str
    organ: str
    mass_g: float
    s_mgy_per_mbq_s: float


# S(kidneys←kidneys) is for both kidneys as one source. Scaling it by 310 g / (mass of one) takes one kidney as the
# whole source: right for the electrons (98 % of it), and it leaves out the photons of the other kidney.
REFERENCE_S: tuple[ReferenceS, ...] = (
    ReferenceS("Lu-177", "kidney", 310.0, 7.76e-5),
    ReferenceS("Lu-177", "liver", 1800.0, 1.37e-5),
    ReferenceS("Lu-177", "spleen", 150.0, 1.60e-4),
)
REFERENCE_SOURCE = "reference adult male (ICRP 89 masses)"


def organ_s(organ_name: str, mass_g: float, nuclide: str | Nuclide) -> OrganS:
    """S-value of an organ of a given mass to itself.

    A published value is scaled by (reference mass / mass), as MIRD recommends for self-dose by electrons. Where none
    is published, the organ counts as the sphere of equal mass (electrons and photons from the radial kernel, density
    1.04 g/cm³), which overstates the photons of a flat organ.

    Raises
    ------
    DoseError
        If the mass is not a positive number.
    """
    wanted = find_nuclide(nuclide)
    if not (np.isfinite(mass_g) and mass_g > 0):
        raise DoseError(f"mass_g of {organ_name} is {mass_g}; expected a positive mass in g.", "Is its mask empty?")
    base = organ_name.removeprefix("left_").removeprefix("right_")
    for ref in REFERENCE_S:
        if (ref.nuclide, ref.organ) == (wanted.name, base):
            source = f"{ref.s_mgy_per_mbq_s:.3g} mGy/(MBq·s) at {ref.mass_g:g} g, {REFERENCE_SOURCE}, mass-scaled"
            return OrganS(ref.s_mgy_per_mbq_s * ref.mass_g / mass_g, source)
    value = self_s_value(sphere(mass_g / SOFT_TISSUE_G_CM3), wanted, density_g_cm3=SOFT_TISSUE_G_CM3)
    return OrganS(value, f"sphere of {mass_g:.4g} g at {SOFT_TISSUE_G_CM3} g/cm³, radial dose-point kernel")


def organ(tia_mbq_h: Mapping[str, float], mass_g: Mapping[str, float], nuclide: str | Nuclide) -> dict[str, float]:
    """Mean absorbed dose of organs from their own activity: TIA × S(organ←organ), in Gy.

    Parameters
    ----------
    tia_mbq_h, mass_g : mapping from organ name to number
        Time-integrated activity in MBq·h and mass in g. `organ_s` tells which S each organ gets.

    Raises
    ------
    DoseError
        If an organ has no mass, or a number is not finite, negative, or (mass) zero.
    """
    dose_gy = {}
    for name, tia in tia_mbq_h.items():
        if not (np.isfinite(tia) and tia >= 0):
            raise DoseError(f"tia_mbq_h of {name} is {tia}; expected a finite number >= 0.")
        if name not in mass_g:
            raise DoseError(f"{name} has a TIA but no mass; masses are given for {', '.join(mass_g) or 'none'}.")
        s = organ_s(name, float(mass_g[name]), nuclide).s_mgy_per_mbq_s
        dose_gy[name] = float(tia) * SECONDS_PER_HOUR * s * GY_PER_MGY
    return dose_gy


# --- density --------------------------------------------------------------------------------------------------------

HU_DENSITY = (
    (-1000.0, 0.00121),
    (-98.0, 0.930),
    (14.0, 1.030),
    (23.0, 1.030),
    (100.0, 1.076),
    (1600.0, 1.964),
)
"""CT number (HU) and mass density (g/cm³), linear in between: the tissues of Schneider, Bortfeld & Schlegel, Phys Med
Biol 2000;45:459, eqs. 17-23. Their soft-tissue line (23 to 100 HU) jumps at 100 HU; here it joins the bone line."""


def density_from_hu(hu: ArrayLike) -> NDArray[np.float64]:
    """Mass density in g/cm³ from CT numbers in HU, constant beyond the ends of `HU_DENSITY`.

    Meant for CT without contrast: iodine raises HU, not density (a kidney of 200 HU would count 1.14 g/cm³).

    Examples
    --------
    >>> density_from_hu([-1000, 20, 100]).tolist()
    [0.00121, 1.03, 1.076]
    """
    values = np.asarray(hu, dtype=float)
    if not np.isfinite(values).all():
        raise DoseError("The CT holds values that are not finite; expected HU.")
    points, densities = zip(*HU_DENSITY, strict=True)
    return np.interp(values, points, densities)


# --- checks ---------------------------------------------------------------------------------------------------------


def _checked_map(what: str, values: ArrayLike) -> NDArray[np.floating]:
    array = np.asarray(values)
    if array.ndim != 3 or array.size == 0 or array.dtype.kind not in "fiu":
        raise DoseError(f"{what} has shape {array.shape} and type {array.dtype}; expected numbers in (z, y, x).")
    lowest, highest = float(array.min()), float(array.max())
    if not (np.isfinite(lowest) and np.isfinite(highest)):
        raise DoseError(f"{what} holds values that are not finite.", "Check the fit and the reconstruction.")
    if lowest < 0:
        raise DoseError(f"{what} holds negative values (lowest {lowest:.3g}); expected >= 0.", "Set them to zero.")
    return array


def _checked_density(density: float | ArrayLike, shape: tuple[int, ...]) -> NDArray[np.float64] | float:
    values = np.asarray(density, dtype=float)
    if values.ndim and values.shape != shape:
        raise DoseError(f"density_g_cm3 has shape {values.shape}; expected one number or the map's {shape}.")
    if not np.isfinite(values).all() or float(values.min()) < 0 or float(values.max()) > 25:
        raise DoseError(
            f"density_g_cm3 runs from {values.min():.3g} to {values.max():.3g}; expected 0 to 25 g/cm³.",
            "Convert HU by density_from_hu.",
        )
    return np.maximum(values, SMALLEST_DENSITY_G_CM3)


def _spacing(spacing_mm: float | Sequence[float]) -> NDArray[np.float64]:
    spacing = np.asarray(spacing_mm, dtype=float)
    if spacing.size == 1:
        spacing = np.repeat(spacing, 3)
    if spacing.shape != (3,) or not np.all(np.isfinite(spacing) & (spacing > 0)):
        raise DoseError(f"spacing_mm is {spacing_mm}; expected one positive number or three, (z, y, x).")
    return spacing


def _require_same_spacing(spacing_mm: float | Sequence[float], kernel: VoxelSKernel) -> None:
    spacing = _spacing(spacing_mm)
    if not np.allclose(spacing, kernel.spacing_mm, rtol=SPACING_TOLERANCE, atol=0):
        raise DoseError(
            f"The map's voxels are {tuple(spacing.tolist())} mm, the kernel's {kernel.spacing_mm} mm (z, y, x).",
            "Build the kernel with the map's spacing_mm.",
        )


def _require_whole_field(shape: tuple[int, ...], kernel: VoxelSKernel) -> None:
    reach = kernel.octant_mgy_per_mbq_s.shape
    lost = kernel.energy.outside_fraction
    if any(n > r for n, r in zip(shape, reach, strict=True)) and lost > LARGEST_CROPPED_FRACTION:
        size_mm = tuple(float(n * s) for n, s in zip(shape, kernel.spacing_mm, strict=True))
        raise KernelError(
            f"The kernel reaches {tuple(r - 1 for r in reach)} voxels, the image has {shape}: {lost:.1%} of the "
            "energy would be left out.",
            f"Build the kernel with extent_mm={size_mm}.",
        )
