"""How unsure the network is where an organ ends, and what hangs on it. Knows arrays of one organ.

Entropy is looked at in a band around the outline: inside and far outside a network is always sure, and a large organ
would seem surer than a small one (Nazari's three planes differ there too).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from doselabel.model.cross import dilated, eroded
from doselabel.wire import SliceDoubt

BAND = 2
"""Voxels on either side of the outline."""

JUMP = 0.10
"""An area this far (as a part of the larger) from the mean of its neighbours' is worth a look. On five real CTs with
labels (497 slices 2.5 to 3 mm apart) 26 slices are; they have a mean Dice of .835, the others of .943, and 8 of the 13
slices below .85 are among them. The entropy of a slice's outline says nothing of the kind: it was left out."""


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
    band = dilated(mask, BAND) & ~eroded(mask, BAND)
    return _BITS[strength[band]], band


def slice_sureness(scores: Mapping[int, float], filled: np.ndarray) -> np.ndarray:
    """Score of what was seen on each slice, between those that were looked at linear; 0 where it was ``filled``."""
    seen = sorted(scores) or [0]
    values = np.interp(np.arange(len(filled)), seen, [scores.get(z, 1.0) for z in seen])
    return np.where(filled, 0.0, values)


def slice_doubts(
    mask: np.ndarray, filled: np.ndarray, scores: Mapping[int, float], seed: float, first: int
) -> list[SliceDoubt]:
    """What to look at again, slice by slice; the worst of what can be said of each.

    Parameters
    ----------
    mask : (z, y, x) bool array
        All of the organ.
    filled : (z,) bool array
        Slices on which nothing was seen.
    scores : dict
        Slice → score of what was seen on it.
    seed : float
        A score from here on is sure.
    first : int
        The image's slice that the arrays begin with; slices are told as the image counts them.
    """
    area = np.pad(np.count_nonzero(mask, axis=(1, 2)).astype(float), 1)
    beside = (area[:-2] + area[2:]) / 2
    jump = np.abs(area[1:-1] - beside) / np.maximum(np.maximum(area[1:-1], beside), 1)
    found = []
    for z in np.flatnonzero(area[1:-1]):
        at = first + int(z)
        if filled[z]:
            found.append(SliceDoubt(slice=at, kind="filled", text="filled in, nothing was seen here"))
        elif scores.get(int(z), 1.0) < seed:
            found.append(SliceDoubt(slice=at, kind="unsure", text=f"seen with a score of {scores[int(z)]:.2f} only"))
        elif jump[z] > JUMP:
            text = f"its area is {100 * jump[z]:.0f} % off its neighbours'"
            found.append(SliceDoubt(slice=at, kind="jump", text=text))
    return found


def dose_doubt_percent(entropy: np.ndarray, band: np.ndarray, mask: np.ndarray, uptake: np.ndarray) -> float | None:
    """Uptake of the band weighted by its entropy, in percent of the organ's; None where the organ has none."""
    inside = float(uptake[mask].sum())
    return 100 * float((entropy * uptake[band]).sum()) / inside if inside > 0 else None


def _bits() -> np.ndarray:
    p = np.clip(np.arange(256) / 255, 1e-9, 1 - 1e-9)
    bits = -(p * np.log2(p) + (1 - p) * np.log2(1 - p))
    return np.where((p < 1e-6) | (p > 1 - 1e-6), 0.0, bits).astype(np.float32)


_BITS = _bits()
