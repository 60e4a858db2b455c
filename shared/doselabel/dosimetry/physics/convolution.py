"""Linear convolution of an image with a kernel that is even along every axis. Knows nothing of dose.

Such a kernel is given by its *octant*: the values at offsets 0, 1, 2, … voxels along (z, y, x). The transform of an
even sequence is real and is the type-I cosine transform of the octant, so neither the mirrored kernel nor the
zero-padded image is ever held in memory.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import fft

CHUNK_BYTES = 64 * 2**20


def mirrored(octant: NDArray[np.floating]) -> NDArray[np.floating]:
    """The whole kernel, odd-shaped (2n - 1 per axis) with offset zero in the middle."""
    for axis in range(octant.ndim):
        negative = np.flip(octant, axis)[(slice(None),) * axis + (slice(0, -1),)]
        octant = np.concatenate([negative, octant], axis)
    return octant


def transfer_of(octant: NDArray[np.floating], shape: tuple[int, ...], workers: int = 1) -> NDArray[np.float64]:
    """The transform of a kernel, for images of a shape; what `convolve_even` may be handed for the next one."""
    half = tuple(fft.next_fast_len(n, real=True) for n in shape)
    transfer = np.zeros(tuple(h + 1 for h in half))
    used = tuple(slice(0, min(n, m)) for n, m in zip(shape, octant.shape, strict=True))
    transfer[used] = octant[used]
    return np.asarray(fft.dctn(transfer, type=1, overwrite_x=True, workers=workers))


def convolve_even(
    image: NDArray[np.floating],
    octant: NDArray[np.floating],
    workers: int = 1,
    transfer: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """Convolve linearly, same shape as the image.

    Parameters
    ----------
    image : (nz, ny, nx) array
    octant : (mz, my, mx) array
        Kernel at non-negative offsets. Offsets the image is too small for are not used; offsets the octant does not
        reach count as zero.
    workers : int
        Threads; each row is transformed as ever, so the result is the same to the last bit.
    transfer : array, optional
        `transfer_of` this kernel and the image's shape, where it is known.

    Returns
    -------
    (nz, ny, nx) array of float64
        ``out[i] = sum_j image[j] * kernel[i - j]``: nothing wraps around the border.
    """
    nz, ny, nx = image.shape
    half = tuple(fft.next_fast_len(n, real=True) for n in image.shape)
    if transfer is None:
        transfer = transfer_of(octant, image.shape, workers)
    pz, py, px = (2 * h for h in half)

    # One axis at a time, so that rows of padding are transformed only where they are no longer zero.
    spectrum = fft.rfft(np.asarray(image, dtype=np.float64), px, axis=2, workers=workers)
    kx = spectrum.shape[2]
    step = max(1, CHUNK_BYTES // (16 * pz * py))
    for x in range(0, kx, step):
        columns = slice(x, min(x + step, kx))
        block = fft.fft(spectrum[:, :, columns], py, axis=1, workers=workers)
        block = fft.fft(block, pz, axis=0, workers=workers)
        block[: half[0] + 1, : half[1] + 1] *= transfer[:, :, columns]
        block[half[0] + 1 :, : half[1] + 1] *= transfer[half[0] - 1 : 0 : -1, :, columns]
        block[: half[0] + 1, half[1] + 1 :] *= transfer[:, half[1] - 1 : 0 : -1, columns]
        block[half[0] + 1 :, half[1] + 1 :] *= transfer[half[0] - 1 : 0 : -1, half[1] - 1 : 0 : -1, columns]
        block = fft.ifft(block, axis=0, overwrite_x=True, workers=workers)[:nz]
        spectrum[:, :, columns] = fft.ifft(block, axis=1, overwrite_x=True, workers=workers)[:, :ny]
    return fft.irfft(spectrum, px, axis=2, overwrite_x=True, workers=workers)[:, :, :nx]
