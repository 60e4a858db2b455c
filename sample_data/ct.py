"""CT images of a made-up patient: Hounsfield units, contrast phase, texture, blur and noise. No anatomy of its own."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from doselabel.geometry import Geometry, Volume
from sample_data.anatomy import Anatomy
from sample_data.shapes import Axes, Waves
from sample_data.tissues import Tissue

_PLAIN = {
    "AIR": -1000, "SKIN": 20, "FAT": -105, "MUSCLE": 54, "VISCERAL_FAT": -102, "CORTICAL_BONE": 620,
    "SPONGIOSA": 190, "DISC": 85, "CORD": 28, "LUNG": -840, "HEART": 42, "AORTA": 42, "CAVA": 40,
    "BOWEL_WALL": 38, "BOWEL_CONTENT": 18, "GAS": -960, "STOMACH_CONTENT": 22, "PANCREAS": 36, "SPLEEN": 48,
    "LIVER": 57, "LIVER_VESSEL": 42, "LIVER_LESION": 40, "GALLBLADDER": 8, "RENAL_FAT": -92, "RENAL_ARTERY": 40,
    "RENAL_VEIN": 38, "TABLE": -820,
    "CORTEX": 34, "MEDULLA": 32, "PELVIS": 6, "CYST": 6,
}  # fmt: skip
_GAIN = {
    "AORTA": (220, 110, 90), "CAVA": (60, 110, 90), "HEART": (200, 110, 90), "LIVER": (15, 55, 45),
    "LIVER_VESSEL": (20, 115, 80), "LIVER_LESION": (25, 15, 20), "SPLEEN": (70, 75, 55), "PANCREAS": (60, 50, 35),
    "MUSCLE": (4, 10, 10), "BOWEL_WALL": (25, 45, 35), "CORTEX": (150, 150, 130), "MEDULLA": (40, 120, 130),
    "PELVIS": (0, 5, 90), "RENAL_ARTERY": (210, 105, 85), "RENAL_VEIN": (120, 120, 95), "SPONGIOSA": (10, 20, 20),
}  # fmt: skip
PHASES = ("arterial", "portal", "nephrographic")
_SPREAD = {"LIVER": 7, "SPLEEN": 4, "CORTEX": 4, "MUSCLE": 5, "SPONGIOSA": 45, "CORTICAL_BONE": 90, "FAT": 5,
           "VISCERAL_FAT": 5, "BOWEL_CONTENT": 12, "STOMACH_CONTENT": 15, "LUNG": 25}  # fmt: skip


@dataclass(frozen=True)
class Protocol:
    """How a CT is taken.

    Attributes
    ----------
    shape : tuple of int
        Voxels (z, y, x).
    spacing_mm : tuple of float
        Voxel size (z, y, x), mm.
    noise_hu : float
        Standard deviation of the noise in the body's middle, HU.
    blur_mm : float
        Standard deviation of the in-plane resolution.
    contrast : bool
        With contrast medium.
    """

    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    noise_hu: float
    blur_mm: float
    contrast: bool


DIAGNOSTIC = Protocol((96, 128, 128), (3.0, 3.0, 3.0), 11.0, 1.0, True)
LOW_DOSE = Protocol((58, 112, 112), (5.0, 3.5, 3.5), 24.0, 1.5, False)
DIAGNOSTIC_FULL = Protocol((120, 512, 512), (2.5, 0.78, 0.78), 14.0, 0.7, True)
LOW_DOSE_FULL = Protocol((75, 512, 512), (4.0, 0.9766, 0.9766), 30.0, 1.1, False)


def hounsfield(rng: np.random.Generator, phase: str | None) -> np.ndarray:
    """HU of every tissue for one patient and contrast phase (None: without contrast).

    The patient's own part is drawn first, whatever the phase, so that all CTs of a patient agree.
    """
    own = {name: rng.normal(0, sd) for name, sd in _SPREAD.items()}
    strength = rng.uniform(0.75, 1.2)
    oral = rng.uniform(120, 260) if rng.uniform() < 0.2 else 0.0
    table = np.zeros(256)
    for tissue in Tissue:
        name = tissue.name.removeprefix("LEFT_").removeprefix("RIGHT_")
        value = _PLAIN[name] + own.get("CORTEX" if name == "MEDULLA" else name, 0.0)
        if phase is not None:
            value += strength * _GAIN.get(name, (0, 0, 0))[PHASES.index(phase)]
        if name in ("BOWEL_CONTENT", "STOMACH_CONTENT"):
            value += oral
        table[tissue] = value
    return table


def take(
    anatomy: Anatomy,
    axes: Axes,
    protocol: Protocol,
    hu: np.ndarray,
    rng: np.random.Generator,
    breathing_mm: float = 0.0,
) -> tuple[Volume, np.ndarray]:
    """Take a CT.

    Returns
    -------
    ct : Volume
        int16 HU, on ``axes`` (index grows to the left, backwards and up).
    tissue : (z, y, x) uint8 array
        `Tissue` on the same grid.
    """
    tissue, image = anatomy.render(axes, hu, breathing_mm)
    soft = np.isin(tissue, [t for t in Tissue if t not in (Tissue.AIR, Tissue.GAS, Tissue.TABLE, Tissue.LUNG)])
    image += soft * (Waves.random(rng, 3.0, (25, 70), 16)(axes) + Waves.random(rng, 2.5, (8, 20), 24)(axes))
    dz, dy, dx = axes.spacing_mm
    # Thick slices average along z: a Gaussian of 0.3 slices stands for the slice profile.
    image = ndimage.gaussian_filter(image, (0.3 if dz > 2 * dx else 0.2, protocol.blur_mm / dy, protocol.blur_mm / dx))
    image += _noise(axes, protocol, rng)
    image = np.clip(np.round(image), -1024, 3071).astype(np.int16)
    return Volume(image, geometry_of(axes)), tissue


def _noise(axes: Axes, protocol: Protocol, rng: np.random.Generator) -> np.ndarray:
    """Noise with the grain of a reconstruction: neighbouring voxels correlated, strongest in the body's middle."""
    width_mm = 1.6 * protocol.blur_mm
    white = rng.standard_normal(axes.shape, dtype=np.float32)
    grain = ndimage.gaussian_filter(white, (0.3, width_mm / axes.spacing_mm[1], width_mm / axes.spacing_mm[2]))
    grain *= protocol.noise_hu / grain.std()
    far = (axes.x[None, :] / 170) ** 2 + (axes.y[:, None] / 125) ** 2
    return grain * (0.45 + 0.6 * np.exp(-0.9 * far)).astype(np.float32)


def axes_of(protocol: Protocol, centre_mm: tuple[float, float, float]) -> Axes:
    """Voxel centres of a protocol's grid around a point (x, y, z)."""
    return Axes(
        *(
            c + (np.arange(n) - (n - 1) / 2) * d
            for c, n, d in zip(centre_mm, protocol.shape[::-1], protocol.spacing_mm[::-1], strict=True)
        )
    )


def geometry_of(axes: Axes) -> Geometry:
    """Grid of some axes."""
    return Geometry(axes.shape, axes.spacing_mm, (float(axes.x[0]), float(axes.y[0]), float(axes.z[0])))
