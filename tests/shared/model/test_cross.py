"""Growing and shrinking a mask is scipy's, at edges and in arrays thinner than what is taken off too."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from doselabel.model.cross import dilated, eroded


@pytest.mark.parametrize("voxels", [1, 2, 3])
@pytest.mark.parametrize("shape", [(9, 12, 7), (1, 8, 8), (2, 3, 1), (4, 0, 5), (5, 30, 31)])
def test_both_are_scipys(shape, voxels):
    rng = np.random.default_rng(1)
    for share in (0.05, 0.5, 0.97):
        mask = rng.random(shape) < share
        before = mask.copy()
        assert np.array_equal(dilated(mask, voxels), ndimage.binary_dilation(mask, iterations=voxels))
        assert np.array_equal(eroded(mask, voxels), ndimage.binary_erosion(mask, iterations=voxels))
        assert np.array_equal(mask, before)
