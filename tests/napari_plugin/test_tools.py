"""Correction tools on shapes whose right answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from napari_plugin import tools

SPACING = (3.0, 1.5, 1.5)


def ball(shape, centre_mm, radius_mm, spacing=SPACING) -> np.ndarray:
    grid = np.ogrid[tuple(slice(0, n) for n in shape)]
    return sum((g * s - c) ** 2 for g, s, c in zip(grid, spacing, centre_mm, strict=True)) <= radius_mm**2


def applied(labels: np.ndarray, change: tools.Change | None) -> np.ndarray:
    result = labels.copy()
    if change is not None:
        result[change.indices] = change.values
    return result


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b))


@pytest.fixture
def organ() -> np.ndarray:
    return (ball((30, 60, 60), (45, 45, 45), 25)).astype(np.uint8)


def test_fill_between_slices_gives_back_the_slices_of_an_oblique_ellipsoid():
    z, y, x = np.ogrid[:40, :80, :80]
    full = ((z - 20) / 14.0) ** 2 + ((y - 40 - (z - 20)) / 10.0) ** 2 + ((x - 40) / 12.0) ** 2 <= 1
    drawn = np.zeros(full.shape, np.uint8)
    drawn[::5] = full[::5]
    between = slice(int(np.nonzero(drawn.any((1, 2)))[0][0]), int(np.nonzero(drawn.any((1, 2)))[0][-1]) + 1)
    filled = applied(drawn, tools.fill_between_slices(drawn, 1, (2.0, 1.0, 1.0)))
    assert dice(filled[between] == 1, full[between]) > 0.96
    assert np.array_equal(filled[::5], drawn[::5])


def test_fill_between_slices_spares_other_organs(organ):
    labels = organ.copy()
    labels[12:18] = 0
    labels[14, 30, 30] = 2
    filled = applied(labels, tools.fill_between_slices(labels, 1, SPACING))
    assert filled[14, 30, 30] == 2
    assert filled[14, 30, 31] == 1


def test_nothing_to_do_is_none(organ):
    assert tools.fill_between_slices(organ, 1, SPACING) is None
    assert tools.fill_holes(organ, 1) is None
    assert tools.keep_largest(organ, 1) is None
    assert tools.keep_largest(organ, 7) is None
    assert tools.smooth(organ, 7, SPACING, sigma_mm=2) is None
    assert tools.mirror(organ, 7, 2, organ) is None


def test_keep_largest_leaves_one_part(organ):
    labels = organ.copy()
    labels[2, 2:5, 2:5] = 1
    assert np.array_equal(applied(labels, tools.keep_largest(labels, 1)), organ)


def test_remove_small_goes_by_millilitres(organ):
    labels = organ.copy()
    labels[2:4, 2:12, 2:12] = 1  # 200 voxels of 6.75 µL: 1.35 mL
    assert tools.remove_small(labels, 1, SPACING, smallest_ml=1.3) is None
    assert np.array_equal(applied(labels, tools.remove_small(labels, 1, SPACING, smallest_ml=1.4)), organ)


def test_fill_holes_fills_cavities_and_holes_in_a_slice(organ):
    labels = organ.copy()
    labels[15, 29:31, 29:31] = 0
    labels[:10, 30, 30] = 0  # open to the outside in 3D, closed in each axial slice
    assert np.array_equal(applied(labels, tools.fill_holes(labels, 1)), organ)


def test_smoothing_keeps_the_volume_and_rounds_the_surface(organ):
    rng = np.random.default_rng(0)
    rough = organ.copy()
    rim = ball(organ.shape, (45, 45, 45), 27.5) & ~ball(organ.shape, (45, 45, 45), 22.5)
    rough[rim & (rng.random(organ.shape) < 0.5)] ^= 1
    smoothed = applied(rough, tools.smooth(rough, 1, SPACING, sigma_mm=3))
    assert np.count_nonzero(smoothed) == pytest.approx(np.count_nonzero(rough), rel=1e-3)
    assert dice(smoothed == 1, organ == 1) > dice(rough == 1, organ == 1) + 0.02


def radius_mm(mask: np.ndarray) -> float:
    """Radius of the ball of the same volume."""
    return (np.count_nonzero(mask) * np.prod(SPACING) * 0.75 / np.pi) ** (1 / 3)


@pytest.mark.parametrize("margin_mm", [6.0, 3.0, -3.0, -6.0])
def test_a_margin_moves_the_surface_by_millimetres_in_every_direction(organ, margin_mm):
    grown = applied(organ, tools.margin(organ, 1, SPACING, margin_mm=margin_mm)) == 1
    assert dice(grown, ball(organ.shape, (45, 45, 45), 25 + margin_mm)) > 0.97
    assert radius_mm(grown) - radius_mm(organ) == pytest.approx(margin_mm, abs=0.25)


def test_a_margin_below_a_voxel_changes_nothing(organ):
    assert tools.margin(organ, 1, SPACING, margin_mm=0.7) is None


def test_growing_stops_at_other_organs(organ):
    labels = organ.copy()
    labels[:, :, 47:50] = 2
    before = labels == 2
    assert np.array_equal(applied(labels, tools.margin(labels, 1, SPACING, margin_mm=6)) == 2, before)


def test_limit_to_hu_cuts_fat_and_bone_away(organ):
    ct = np.where(organ, 40, -1000)
    ct[15, 30, 28:32] = (-80, 40, 300, 250)
    limited = applied(organ, tools.limit_to_hu(organ, 1, ct, low_hu=-20, high_hu=250))
    assert limited[15, 30, 28:32].tolist() == [0, 1, 0, 1]
    assert np.count_nonzero(organ != limited) == 2


def test_clear_removes_one_organ_only(organ):
    labels = organ.copy()
    labels[0, 0, 0] = 2
    cleared = applied(labels, tools.clear(labels, 1))
    assert np.argwhere(cleared).tolist() == [[0, 0, 0]]


def test_swapping_twice_changes_nothing():
    labels = np.zeros((5, 6, 20), np.uint8)
    labels[1:3, 2:4, 2:5], labels[2:4, 1:5, 12:18], labels[0, 0, 8] = 1, 2, 3
    once = applied(labels, tools.swap(labels, 1, 2))
    assert np.array_equal(once == 1, labels == 2)
    assert np.array_equal(applied(once, tools.swap(once, 1, 2)), labels)


def test_mirroring_goes_across_the_middle_of_the_body_not_of_the_image():
    ct = np.full((6, 20, 40), -1000.0)
    ct[:, 4:16, 10:39] = 0  # body from x 10 to 38: middle at 24
    labels = np.zeros(ct.shape, np.uint8)
    labels[1:5, 8:12, 28:33] = 1
    labels[0, 0, 0] = 2  # an old guess, replaced
    mirrored = applied(labels, tools.mirror(labels, 1, 2, ct))
    expected = np.zeros_like(labels)
    expected[1:5, 8:12, 16:21] = 2
    expected[0, 0, 0] = 2  # lies outside the source's slices
    assert np.array_equal(mirrored == 1, labels == 1)
    assert np.array_equal(mirrored == 2, expected == 2)


def test_the_brush_is_a_sphere_in_millimetres():
    shape = (31, 61, 61)
    indices = tools.brush_indices((15, 30, 30), 12.0, SPACING, shape, (0, 1, 2))
    painted = np.zeros(shape, bool)
    painted[indices] = True
    assert np.array_equal(painted, ball(shape, (45, 45, 45), 12.0))


def test_the_flat_brush_stays_in_its_slice_and_inside_the_image():
    indices = tools.brush_indices((4, 0, 0), 6.0, SPACING, (10, 20, 20), (1, 2))
    assert set(indices[0]) == {4}
    assert min(indices[1]) == 0
    assert max(indices[1]) == 4
    assert all(i.size == 0 for i in tools.brush_indices((40, 0, 0), 6.0, SPACING, (10, 20, 20), (1, 2)))
