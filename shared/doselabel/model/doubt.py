"""How unsure the network is where an organ ends, and what hangs on it. Knows arrays of one organ.

Entropy is looked at in a band around the outline: inside and far outside a network is always sure, and a large organ
would seem surer than a small one (Nazari's three planes differ there too).
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

BAND = 2
"""Voxels on either side of the outline."""


def band_entropy(strength: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Entropy (bits) of the voxels of a band around the outline, and the band.

    Parameters
    ----------
    strength : uint8 array
        Probability, 255 is certain.
    mask : bool array

    Returns
    -------
    entropy : (n,) float32 array
        Of the band's voxels: the whole region's, in floats, would be larger than the CT.
    band : bool array
    """
    band = ndimage.binary_dilation(mask, iterations=BAND) & ~ndimage.binary_erosion(mask, iterations=BAND)
    return _BITS[strength[band]], band


def dose_doubt_percent(entropy: np.ndarray, band: np.ndarray, mask: np.ndarray, uptake: np.ndarray) -> float | None:
    """Uptake of the band weighted by its entropy, in percent of the organ's; None where the organ has none."""
    inside = float(uptake[mask].sum())
    return 100 * float((entropy * uptake[band]).sum()) / inside if inside > 0 else None


def _bits() -> np.ndarray:
    p = np.clip(np.arange(256) / 255, 1e-9, 1 - 1e-9)
    bits = -(p * np.log2(p) + (1 - p) * np.log2(1 - p))
    return np.where((p < 1e-6) | (p > 1 - 1e-6), 0.0, bits).astype(np.float32)


_BITS = _bits()
