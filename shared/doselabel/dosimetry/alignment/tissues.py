"""Whether SPECTs can lie on their CTs as the files say, before there are masks. Knows SPECTs and CTs; no organs.

Uptake follows tissue: hardly any in air, lung and fat, most in large solid organs. So the tissues of a CT, told by
their HU and blurred as a SPECT blurs, explain a part of the SPECT (R² of its square root, in which noise is even and a
tumour does not outweigh all else), and less of it upside down, mirrored, or with voxels of another size. Of one
patient's SPECTs, wherever the table stood, one explains 0.96 and more of another; of another patient's at most 0.9.
What follows from an agreement is `placement`'s; here it is found without masks.

All lies on a lattice along the SPECT's own axes, and all shifts are looked at together: sums of products over shifts
are correlations, which are cheap by Fourier transform.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from doselabel.alarms import Alarm
from doselabel.anatomy import filled
from doselabel.dosimetry.alignment.grids import Subdivision
from doselabel.dosimetry.alignment.placement import MIRRORS, RESIZED, Placement, another_reading, compared
from doselabel.dosimetry.alignment.registration import Alignment, onto
from doselabel.geometry import Volume, canonical, placed, resample

LATTICE_MM = 10.0
REACH = 8
"""Shifts looked at, in steps of the lattice, to either side: a wrong size moves the body away from its place."""
TISSUES_HU = (-500.0, -60.0, 20.0, 90.0)
"""Between air or lung, fat, what is mixed with fat, solid tissue, and bone or contrast medium."""
BODY_HU = -300.0
BLUR_MM = 6.0
BETTER = ((0.07, 0.92),)
"""As `placement.BETTER`, for tissues, which explain less than masks do: of 24 sample SPECTs, a real one, and 12 made on
real CTs as they lie 0.40 to 0.81, at least 0.01 more than mirrored and at most 0.02 less than with other voxels."""
FEWEST = 500
"""Places of the lattice around the body, for anything to be said."""
LEAST_SHARED, LEAST_SPREAD = 0.5, 0.3
"""Part of the smaller field of view, and of its variance, on which two SPECTs are compared."""

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Lattice:
    """A time point's SPECT (square root, at most 1) and its CT's tissues on a lattice (z, y, x) of the SPECT's axes."""

    spect: Array
    tissues: tuple[Array, ...]
    there: NDArray[np.bool_]

    @classmethod
    def of(cls, spect: Volume, ct: Volume, stored: NDArray[np.float64]) -> Lattice:
        upright = canonical(spect)
        grid = placed(upright.geometry, stored).with_spacing((LATTICE_MM,) * 3)
        concentration = onto(Volume(np.maximum(upright.array, 0), upright.geometry), grid, stored).array
        sub = Subdivision.of(grid, LATTICE_MM / 2)
        hu = resample(ct, sub.fine, fill=-1000.0).array
        seen = resample(Volume(np.ones(ct.array.shape, np.uint8), ct.geometry), sub.fine, interpolation="nearest").array
        body = _body(hu)
        kind = np.digitize(hu, TISSUES_HU)
        blur = BLUR_MM / LATTICE_MM
        tissues = [ndimage.gaussian_filter(sub.mean(body & (kind == k)), blur) for k in range(len(TISSUES_HU) + 1)]
        near = ndimage.binary_dilation(sub.mean(body) > 0.1, iterations=2) & (sub.mean(seen) > 0.5)
        root = np.sqrt(concentration.astype(float))
        return cls(root / max(root.max(), 1e-30), tuple(t.astype(float) for t in tissues), near)

    @property
    def judged(self) -> bool:
        """Whether there is enough of a body to judge by."""
        return int(self.there.sum()) >= FEWEST and bool(self.spect[self.there].any())

    @cached_property
    def _transforms(self) -> list[NDArray[np.complex64]]:
        """Of an orthonormal basis of background and tissues where the CT shows the patient, and of that place."""
        columns = np.stack([np.ones(int(self.there.sum())), *(t[self.there] for t in self.tissues)], axis=1)
        basis, _ = np.linalg.qr(columns)
        found = []
        for values in (*basis.T, np.ones(len(columns))):
            whole = np.zeros(self.there.shape, np.float32)
            whole[self.there] = values
            found.append(np.conj(fft.rfftn(whole, self._padded)))
        return found

    @property
    def _padded(self) -> list[int]:
        return [fft.next_fast_len(n + REACH, real=True) for n in self.there.shape]

    def explained(self, spect: Array | None = None) -> float:
        """The part of a SPECT on this lattice (default: its own) that the tissues explain, at the best shift."""
        array = (self.spect if spect is None else spect).astype(np.float32)
        near = np.ix_(*[np.arange(-REACH, REACH + 1)] * 3)

        def sums(of: NDArray[np.complex64], values: NDArray[np.complex64]) -> Array:
            return fft.irfftn(of * values, self._padded)[near].astype(float)

        *basis, there = self._transforms
        plain = fft.rfftn(array, self._padded)
        squares = sums(there, fft.rfftn(array**2, self._padded))
        spread = squares - sums(there, plain) ** 2 / self.there.sum()
        left = squares - sum(sums(column, plain) ** 2 for column in basis)
        enough = spread > LEAST_SPREAD * spread.max()
        return float(1 - np.min(left[enough] / spread[enough], initial=1.0))

    def mirrored(self, axes: tuple[int, ...]) -> float:
        """`explained` with the SPECT's voxels in reverse order along some axes."""
        return self.explained(np.flip(self.spect, axes))

    def scaled(self, factors: tuple[float, float, float]) -> float:
        """`explained` with the SPECT's voxels larger (z, y, x), the body's middle kept."""
        middle = np.array(ndimage.center_of_mass(self.there))
        factor = np.array(factors)
        return self.explained(ndimage.affine_transform(self.spect, 1 / factor, middle - middle / factor, order=1))


def places(lattices: Sequence[Lattice], times_h: Sequence[float]) -> list[Alarm]:
    """What is odd about where the SPECTs of a study's time points lie."""
    found = [alarm for index, lattice in enumerate(lattices) if (alarm := _of_one(lattice, index))]
    if found:
        return found
    alike = np.zeros((len(lattices), len(lattices)))
    for i, j in itertools.combinations(range(len(lattices)), 2):
        alike[i, j] = alike[j, i] = likeness(lattices[i].spect ** 2, lattices[j].spect ** 2)
    given = [Placement(Alignment(np.eye(4), "identity", agreement_after=float(row.max()))) for row in alike]
    return [alarm for one in compared(given, times_h, by="the SPECT most like it explains") for alarm in one.findings]


def _of_one(lattice: Lattice, index: int) -> Alarm | None:
    if not lattice.judged:
        return None
    sizes = {factors: lattice.scaled(factors) for factors in RESIZED if len(set(factors)) == 1}
    mirrored = {how: lattice.mirrored(axes) for how, axes in MIRRORS.items()}
    return another_reading(
        lattice.explained(),
        mirrored,
        sizes,
        f"Time point {index + 1}",
        index,
        by="the tissues of its CT",
        better=BETTER,
    )


def likeness(a: Array, b: Array) -> float:
    """The part of one SPECT that another explains where both overlap, at the best of all shifts."""
    padded = [fft.next_fast_len(m + n - 1, real=True) for m, n in zip(a.shape, b.shape, strict=True)]

    def sums(x: Array, y: Array) -> Array:
        return fft.irfftn(np.conj(fft.rfftn(x, padded)) * fft.rfftn(y, padded), padded)

    ones_a, ones_b = np.ones(a.shape), np.ones(b.shape)
    count = np.maximum(sums(ones_a, ones_b), 1e-6)
    a_sum, b_sum = sums(a, ones_b), sums(ones_a, b)
    a_spread, b_spread = sums(a**2, ones_b) - a_sum**2 / count, sums(ones_a, b**2) - b_sum**2 / count
    shared = sums(a, b) - a_sum * b_sum / count
    enough = (count > LEAST_SHARED * min(a.size, b.size)) & (shared > 0)
    enough &= (a_spread > LEAST_SPREAD * a_spread.max()) & (b_spread > LEAST_SPREAD * b_spread.max())
    return float(np.max(shared[enough] ** 2 / (a_spread[enough] * b_spread[enough]), initial=0.0))


def _body(hu: NDArray[np.floating]) -> NDArray[np.bool_]:
    """The largest thing that is no air, with what it encloses in each plane: no table, no lungs left out."""
    things, count = ndimage.label(ndimage.binary_opening(hu > BODY_HU))
    if not count:
        return np.zeros(hu.shape, bool)
    sizes = np.bincount(things.ravel())
    sizes[0] = 0
    largest = things == sizes.argmax()
    return np.stack([filled(plane) for plane in largest])
