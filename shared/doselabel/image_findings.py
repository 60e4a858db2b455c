"""Whether an image's voxels can be a body scanned from plane to plane, as its header says. Knows one image at a time.

A header whose sizes, type or spacing are not those of its voxels, slices put together in another order, a file that a
reader has filled up with zeros: each gives an image that is whole, finite, and wrong. What the limits rest on: in 27
real CTs, a real SPECT and the sample patients no plane is nearer to one far away than half of its distance to its
neighbours, and neighbouring voxels along any axis have at least 0.91 of their variance in common (SPECT: 0.68); sorted
by name (1, 10, 100, 11 …) one plane in ten is out of place, read by other sizes similarity falls to 0.7 and less.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from doselabel.alarms import Alarm, finding
from doselabel.geometry import Geometry, Volume

Kind = Literal["ct", "spect"]

SMALLEST_WIDTH_MM = 200.0
"""A field of view whose wider side across the body is smaller shows no trunk."""
LARGEST_WIDTH_MM: dict[Kind, float] = {"ct": 1000.0, "spect": 750.0}
LARGEST_LENGTH_MM = 2200.0
LEAST_ALIKE: dict[Kind, float] = {"ct": 0.75, "spect": 0.3}
"""Of neighbouring voxels, along any axis: 1 − their mean squared difference over twice the variance."""
FEWEST_VOXELS = 16
"""Along an axis, for neighbours to be compared."""
MISPLACED_PLANES, NEAR_PLANES = 3, 3
PADDING_HU = -500.0
"""Planes that hold one value below this are padding."""
AIR_HU, NO_TISSUE_HU, LEAST_AIR = (-1150.0, -850.0), -500.0, 0.02
"""What there is of air is near −1000 HU: at least this share of what is no tissue."""
_SEEN_HU = (-1000, 400)
_BLOCKS = 24


def of_image(volume: Volume, kind: Kind, where: str, *, time_point: int | None = None, file: str = "") -> list[Alarm]:
    """What is odd about an image; ``where`` names it in sentences."""
    planes = _Planes.of(volume.array, kind)
    found = {
        "image-size": _size(volume.geometry, kind),
        "image-planes-blank": planes.blank(kind),
        "image-scrambled": planes.scrambled(kind, axial=_along(volume.geometry) == 0),
        "ct-scale": _scale(volume.array) if kind == "ct" else None,
    }
    return [
        finding(code, f"{where}: {said[0]}", numbers=said[1], time_point=time_point, file=file)
        for code, said in found.items()
        if said
    ]


_Said = tuple[str, dict[str, float]] | None


def _size(grid: Geometry, kind: Kind) -> _Said:
    sides_mm = [n * s for n, s in zip(grid.shape, grid.spacing_mm, strict=True)]
    along = _along(grid)
    width_mm = max(side for axis, side in enumerate(sides_mm) if axis != along)
    if SMALLEST_WIDTH_MM <= width_mm <= LARGEST_WIDTH_MM[kind] and sides_mm[along] <= LARGEST_LENGTH_MM:
        return None
    sentence = (
        f"covers {width_mm:.4g} mm across the body and {sides_mm[along]:.4g} mm along it; expected "
        f"{SMALLEST_WIDTH_MM:g} to {LARGEST_WIDTH_MM[kind]:g} mm, and at most {LARGEST_LENGTH_MM:g} mm: is its voxel "
        "size right, and in mm?"
    )
    return sentence, {"width_mm": width_mm, "length_mm": sides_mm[along]}


def _along(grid: Geometry) -> int:
    """The array's axis that lies along the body."""
    return 2 - int(np.abs(np.reshape(grid.direction, (3, 3))[2]).argmax())


def _scale(hu: NDArray[np.number]) -> _Said:
    """CT values doubled, halved or shifted: air is not where it belongs."""
    none = np.count_nonzero(hu < NO_TISSUE_HU)
    air = none - np.count_nonzero(hu < AIR_HU[0]) - np.count_nonzero((hu > AIR_HU[1]) & (hu < NO_TISSUE_HU))
    if none < 0.005 * hu.size or air >= LEAST_AIR * none:
        return None
    sentence = (
        f"only {air / none:.1%} of what is below {NO_TISSUE_HU:g} HU is air near −1000 HU; expected at least "
        f"{LEAST_AIR:.0%}: are these Hounsfield units, by the right slope and intercept?"
    )
    return sentence, {"air_percent": 100 * air / none}


@dataclass(frozen=True, eq=False)
class _Planes:
    """What the planes of an array (z, y, x) look like from afar.

    Attributes
    ----------
    thumbs : (z, n) array
        Means of each plane in some hundred blocks.
    low, high : (z,) array
    alike : float
        The least similarity of neighbours along z (of blocks), y and x.
    """

    thumbs: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    alike: float

    @classmethod
    def of(cls, array: NDArray[np.number], kind: Kind) -> _Planes:
        rows, columns = (np.linspace(0, n, min(n, _BLOCKS), endpoint=False).astype(int) for n in array.shape[1:])
        sizes = np.outer(np.diff([*rows, array.shape[1]]), np.diff([*columns, array.shape[2]]))
        blocks, low, high, apart = [], [], [], []
        total = square = 0.0
        for plane in array:
            seen = (np.clip(plane, *_SEEN_HU) if kind == "ct" else plane).astype(np.float32)
            blocks.append((np.add.reduceat(np.add.reduceat(seen, rows, 0), columns, 1) / sizes).ravel())
            low.append(float(plane.min()))
            high.append(float(plane.max()))
            total += float(seen.sum(dtype=np.float64))
            square += float(np.square(seen, dtype=np.float64).sum())
            apart.append([_apart(seen, axis) for axis in (0, 1)])
        seen_from_afar = np.array(blocks, dtype=np.float64)
        variance = square / array.size - (total / array.size) ** 2
        unlike = [_apart(seen_from_afar, 0) / (2 * seen_from_afar.var() + 1e-30)]
        unlike += [float(v) / (2 * variance + 1e-30) for v in np.mean(apart, axis=0)]
        judged = [value for value, count in zip(unlike, array.shape, strict=True) if count >= FEWEST_VOXELS]
        return cls(seen_from_afar, np.array(low), np.array(high), 1 - max(judged, default=0.0))

    def blank(self, kind: Kind) -> _Said:
        """Planes of one value: what a reader fills up where voxels are missing."""
        one = self.low == self.high
        lit = np.flatnonzero(~one)
        if not len(lit):
            return None
        odd = one & (self.low > PADDING_HU) if kind == "ct" else one.copy()
        if kind == "spect":  # whose reconstruction may end before its grid does
            odd[: lit[0]] = odd[lit[-1] :] = False
        if not odd.any():
            return None
        first, last = np.flatnonzero(odd)[[0, -1]]
        count = int(np.count_nonzero(odd))
        sentence = (
            f"{count} of its {len(one)} planes (from {first} to {last}) hold one value only, {self.low[first]:g}: part "
            "of the image was lost before it was saved."
        )
        return sentence, {"blank_planes": count}

    def scrambled(self, kind: Kind, *, axial: bool) -> _Said:
        """Planes out of order (of axial ones, as scanners make them), or voxels where the header does not put them."""
        misplaced = self._misplaced() if axial else 0
        if misplaced >= MISPLACED_PLANES:
            sentence = (
                f"{misplaced} of its {len(self.low)} planes resemble a far plane more than their neighbours: were the "
                "slices put together in their order (by position, not by name)?"
            )
            return sentence, {"misplaced_planes": misplaced}
        if self.alike >= LEAST_ALIKE[kind]:
            return None
        sentence = (
            f"neighbouring voxels have {self.alike:.2f} of their variance in common; expected at least "
            f"{LEAST_ALIKE[kind]:g}: are the header's sizes and type those of the voxels?"
        )
        return sentence, {"alike": self.alike}

    def _misplaced(self) -> int:
        """Planes much nearer to one far away than to their neighbours, where the object is not just symmetric."""
        seen, count = self.thumbs, len(self.thumbs)
        if count < 4 * NEAR_PLANES or seen.var() == 0:
            return 0
        lengths = np.square(seen).sum(1)
        apart = np.maximum(lengths[:, None] + lengths[None, :] - 2 * seen @ seen.T, 0) / seen.shape[1]
        steps = np.abs(np.subtract.outer(np.arange(count), np.arange(count)))
        beside = np.where(steps == 1, apart, np.inf).min(1)
        like = np.maximum(4 * apart, 0.05 * beside[:, None])
        mirrored, repeated = np.ones(apart.shape, bool), np.ones(apart.shape, bool)  # planes around it resemble as well
        mirrored[:-1, 1:] &= apart[1:, :-1] <= like[:-1, 1:]
        mirrored[1:, :-1] &= apart[:-1, 1:] <= like[1:, :-1]
        repeated[:-1, :-1] &= apart[1:, 1:] <= like[:-1, :-1]
        repeated[1:, 1:] &= apart[:-1, :-1] <= like[1:, 1:]
        far = np.where((steps > NEAR_PLANES) & ~mirrored & ~repeated, apart, np.inf).min(1)
        return int(np.count_nonzero((far < beside / 2) & (beside > 0.02 * seen.var())))


def _apart(values: NDArray[np.floating], axis: int) -> float:
    """Mean squared difference of neighbours; 0 where there are none."""
    steps = np.diff(values, axis=axis)
    return float(np.square(steps, dtype=np.float64).mean()) if steps.size else 0.0
