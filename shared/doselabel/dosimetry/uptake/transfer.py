"""The geometric transfer matrix: how regions of uniform concentration blur into each other, solved for what they hold.

After Rousset et al., J Nucl Med 1998;39:904. Knows one scene (`scene`); what is an organ's and what is reported is
`voi`'s.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, optimize

from doselabel.dosimetry.uptake.scene import Scene
from doselabel.errors import VoiError
from doselabel.organs import ALL_ORGANS

GTM_LEVEL = 0.1587
"""`gtm` measures an organ where its blurred mask exceeds this: wide enough that an uneven uptake hardly matters."""

SPILL_LEVEL = 0.05
"""... and where no excluded region's blurred mask exceeds this: urine ten times hotter than the kidney, drawn a
millimetre too large, would otherwise take 9 % of the kidney's activity."""

SMALLEST_CLEAR = 0.2
"""With less than this part of an organ clear of excluded regions, all of it but those regions is measured."""

SMALLEST_CORE = 0.5
"""An organ whose volume of interest would be less than this part of its mask is measured in its mask: a small lesion
is nowhere stronger than the liver it lies in, once both are blurred."""

SHELL_SIGMAS = 5.0
"""Tissue within this many σ of the PSF (and at least 20 mm) around an organ is one region of the transfer matrix."""

SMALLEST_SHELL_MM = 20.0
LARGEST_CONDITION = 1e4


@dataclass(frozen=True, eq=False)
class TransferMatrix:
    """What `gtm` solved: regions, their concentrations, and how each blurs into the SPECT.

    Attributes
    ----------
    regions : tuple of str
        Organ names, then ``excluded:1`` …, then ``around:<organ>``.
    concentration_bq_ml : (n,) array
    matrix : (n, n) array
        Part of region j's concentration that shows as mean value in volume of interest i.
    condition : float
    blurred : dict of str to (z, y, x) array
        Each region's blurred mask on `VoiResult.geometry`.
    weights : dict of str to (z, y, x) array
        Each region's volume of interest there.
    """

    regions: tuple[str, ...]
    concentration_bq_ml: NDArray[np.float64]
    matrix: NDArray[np.float64]
    condition: float
    blurred: Mapping[str, NDArray[np.float32]]
    weights: Mapping[str, NDArray[np.float32]]

    def response(self, region: str) -> NDArray[np.float32]:
        """What each voxel of the image adds to a region's concentration."""
        row = np.linalg.inv(self.matrix)[self.regions.index(region)]
        out = np.zeros_like(self.weights[region])
        for factor, name in zip(row, self.regions, strict=True):
            weights = self.weights[name]
            out += np.float32(factor / float(weights.sum(dtype=np.float64))) * weights
        return out

    def concentration(self, region: str) -> float:
        """Concentration of one region, Bq/mL."""
        return float(self.concentration_bq_ml[self.regions.index(region)])


def transfer_matrix(scene: Scene) -> tuple[dict[str, NDArray[np.float32]], TransferMatrix, list[str]]:
    """Rousset's geometric transfer matrix, with the tissue around each organ as a region of its own."""
    sigma = scene.sigma_mm or (0.0, 0.0, 0.0)
    organs = list(scene.values)
    masks = {name: scene.open(name) for name in organs} | _excluded_regions(scene)
    blurred = {name: scene.blur(mask) for name, mask in masks.items()}
    within = {name: scene.mean(name, mask) for name, mask in masks.items()}
    hot = [blurred[name] for name in masks if name not in organs]
    clear = np.maximum.reduce(hot) < SPILL_LEVEL if hot else np.ones(scene.seen.shape, bool)
    strongest = np.maximum.reduce([blurred[name] for name in organs])
    weights = {}
    cores = {name: ((blurred[name] >= GTM_LEVEL) & (blurred[name] >= strongest)) * scene.seen for name in organs}
    nested = [name for name in organs if cores[name].sum() < SMALLEST_CORE * (within[name] * scene.seen).sum()]
    outside_nested = 1 - np.clip(sum((within[name] for name in nested), np.zeros_like(scene.seen)), 0, 1)
    for name in organs:
        mine = within[name] * scene.seen if name in nested else cores[name] * outside_nested
        weights[name] = mine * clear
        if weights[name].sum() < SMALLEST_CLEAR * mine.sum():
            weights[name] = mine * np.clip(1 - sum(within[r] for r in masks if r not in organs), 0, 1)
    for name in masks:
        if name not in organs:
            weights[name] = within[name] * scene.seen
    occupied = np.clip(sum(within.values(), np.zeros_like(scene.seen)), 0, 1)
    taken = sum((weights[name] > 0 for name in weights), np.zeros(scene.seen.shape, bool))
    reach_mm = shell_mm(sigma)
    filled = np.maximum.reduce([within[name] for name in organs]) >= 0.5
    distance, nearest = ndimage.distance_transform_edt(
        ~filled, sampling=scene.sub.coarse.spacing_mm, return_indices=True
    )
    strongest_here = np.argmax([within[name] for name in organs], axis=0)
    owner = strongest_here[tuple(nearest)]
    in_voxels = np.asarray(sigma) / np.asarray(scene.sub.coarse.spacing_mm)
    for i, name in enumerate(organs):
        around = np.where((owner == i) & (distance <= reach_mm), 1 - occupied, 0).astype(np.float32)
        usable = around * (distance <= reach_mm - 2 * max(sigma)) * ~taken * clear * scene.seen
        if float(usable.sum()) * scene.voxel_ml < 1.0:
            continue  # an organ walled in by others has no tissue around it to measure
        blurred[f"around:{name}"] = ndimage.gaussian_filter(around, in_voxels, mode="constant", truncate=4.0)
        weights[f"around:{name}"] = usable
    lost = [r for r in weights if not weights[r].sum() > 0]
    for name in lost:
        scene.fail(name, "nothing of it is left to measure", "Check registration and exclusion masks.")
    regions = tuple(r for r in weights if r not in lost)
    if not any(r in organs for r in regions):
        raise VoiError(
            f"Nothing is left to measure in {', '.join(lost)}.",
            "Check registration and exclusion masks, or choose the method 'margin'.",
        )
    totals = np.array([float(weights[r].sum()) for r in regions])
    shown = np.array([float(np.vdot(weights[r], scene.bq_ml)) for r in regions]) / totals
    matrix = np.array([[float(np.vdot(weights[i], blurred[j])) for j in regions] for i in regions])
    matrix /= totals[:, None]
    while not (condition := float(np.linalg.cond(matrix))) < LARGEST_CONDITION:
        # The region whose concentration hangs most on the errors of all is the one that can't be told apart.
        worst = int(np.argmax(np.linalg.norm(np.linalg.pinv(matrix), axis=1)))
        if regions[worst] not in organs:
            raise VoiError(
                f"The regions can't be told apart at this resolution (condition {condition:.2g}, {regions[worst]}).",
                "An exclusion mask is much smaller than the PSF; remove it, or choose the method 'margin'.",
            )
        scene.fail(regions[worst], "it can't be told from its surroundings at this resolution",
              "It is much smaller than the camera's resolution: leave it out.")  # fmt: skip
        keep = [i for i in range(len(regions)) if i != worst]
        regions, shown, matrix = tuple(regions[i] for i in keep), shown[keep], matrix[np.ix_(keep, keep)]
    concentration = np.linalg.solve(matrix, shown)
    warnings = []
    if (concentration < 0).any():
        low = [r for r, c in zip(regions, concentration, strict=True) if c < 0]
        concentration, _ = optimize.nnls(matrix, shown)
        warnings += [f"{r}: no activity is left after partial-volume correction." for r in low if r in organs]
    return weights, TransferMatrix(regions, concentration, matrix, condition, blurred, weights), warnings


def _excluded_regions(scene: Scene) -> dict[str, NDArray[np.float32]]:
    """Each connected excluded part, less the organs that it is not excluded from."""
    if not scene.excluded:
        return {}
    union = np.zeros(scene.sampled.shape, bool)
    for key, mask in scene.excluded.items():
        touched = [0, *(value for name, value in scene.values.items() if key in (ALL_ORGANS, name))]
        union |= mask & np.isin(scene.sampled, touched)
    parts, count = ndimage.label(union)
    # Parts below some 0.3 mL are specks of a drawn mask: they join the first.
    sizes = ndimage.sum_labels(union, parts, range(1, count + 1)) * scene.dense.fine.voxel_volume_ml
    large = [i for i, ml in enumerate(np.atleast_1d(sizes), start=1) if ml >= 0.3] or list(range(1, count + 1))[:1]
    return {f"excluded:{n}": scene.dense.mean(parts == i) for n, i in enumerate(large, start=1)}


def shell_mm(sigma_mm: Sequence[float] | None) -> float:
    """How far from an organ tissue counts as its surroundings."""
    return max(SHELL_SIGMAS * max(sigma_mm or (0.0,)), SMALLEST_SHELL_MM)
