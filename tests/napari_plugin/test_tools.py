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


# ---- clicks, growing, opening and closing


def scene(noise_hu: float = 10.0) -> tuple[np.ndarray, np.ndarray]:
    """A kidney-like ball (value 1) in fat, a spleen-like ball (4) that touches it, and their CT."""
    kidney = ball((40, 80, 80), (60, 60, 55), 28)
    spleen = ball((40, 80, 80), (60, 60, 100), 25) & ~kidney
    hu = np.select([kidney, spleen], [160.0, 115.0], -100.0)
    rng = np.random.default_rng(3)
    return np.where(kidney, 1, np.where(spleen, 4, 0)).astype(np.uint8), hu + rng.normal(0, noise_hu, hu.shape)


@pytest.mark.parametrize("noise_hu", [5.0, 25.0])
def test_a_click_brings_back_a_missing_pole(noise_hu):
    truth, hu = scene(noise_hu)
    labels = truth.copy()
    labels[23:][labels[23:] == 1] = 0
    before = labels.copy()
    labels = applied(labels, tools.correct(labels, 1, SPACING, hu, [tools.Click((26, 40, 37), True)]))
    assert dice(before == 1, truth == 1) < 0.85
    assert dice(labels == 1, truth == 1) > 0.97
    assert np.array_equal(labels == 4, before == 4)


def test_a_click_takes_a_leak_away_and_leaves_the_organ():
    truth, hu = scene()
    leak = (truth == 4) & ball(truth.shape, (60, 60, 55), 45)
    labels = ((truth == 1) | leak).astype(np.uint8)
    assert dice(labels == 1, truth == 1) < 0.9
    labels = applied(labels, tools.correct(labels, 1, SPACING, hu, [tools.Click((20, 40, 62), False)]))
    assert dice(labels == 1, truth == 1) > 0.97


def test_without_any_step_of_hu_a_leak_is_cut_at_its_neck():
    truth, _ = scene()
    flat = np.where(truth > 0, 40.0, -100.0) + np.random.default_rng(5).normal(0, 15, truth.shape)
    labels = (truth > 0).astype(np.uint8)
    labels = applied(labels, tools.correct(labels, 1, SPACING, flat, [tools.Click((20, 40, 68), False)]))
    assert dice(labels == 1, truth == 1) > 0.9


@pytest.mark.parametrize("belongs", [True, False])
def test_a_click_changes_nothing_beyond_its_reach(belongs):
    truth, hu = scene()
    labels = np.where(truth == 4, 1, truth).astype(np.uint8) if not belongs else np.zeros_like(truth)
    at = (20, 40, 66 if not belongs else 37)
    change = tools.correct(labels, 1, SPACING, hu, [tools.Click(at, belongs)], reach_mm=10.0)
    away_mm = np.sqrt(sum(((i - a) * s) ** 2 for i, a, s in zip(change.indices, at, SPACING, strict=True)))
    assert change.voxels > 50
    assert away_mm.max() <= 10.0


def test_an_earlier_click_stays_true():
    truth, hu = scene()
    labels = np.where(truth == 1, 1, 0).astype(np.uint8)
    labels[:, :, 30:] = 0
    no, yes = tools.Click((20, 40, 50), False), tools.Click((20, 40, 36), True)
    alone = applied(labels, tools.correct(labels, 1, SPACING, hu, [yes]))
    both = applied(labels, tools.correct(labels, 1, SPACING, hu, [no, yes]))
    assert alone[20, 40, 50] == 1
    assert both[20, 40, 50] == 0


def test_clicks_on_another_organ_or_on_nothing_of_ones_own_change_nothing():
    truth, hu = scene()
    assert tools.correct(truth, 1, SPACING, hu, [tools.Click((20, 40, 66), True)]) is None
    assert tools.correct(truth, 1, SPACING, hu, [tools.Click((2, 2, 2), False)]) is None


def test_finer_voxels_are_walked_on_coarsely_with_the_same_outcome():
    spacing = (1.5, 0.7, 0.7)
    truth = ball((60, 100, 100), (45, 35, 35), 24, spacing).astype(np.uint8)
    hu = np.where(truth, 150.0, -100.0) + np.random.default_rng(1).normal(0, 15, truth.shape)
    labels = truth.copy()
    labels[36:] = 0
    labels = applied(labels, tools.correct(labels, 1, spacing, hu, [tools.Click((40, 50, 50), True)]))
    assert dice(labels == 1, truth == 1) > 0.97


def test_seeds_grow_to_the_edges_of_the_ct_and_not_into_others():
    truth, hu = scene()
    labels = np.where(truth == 4, 4, 0).astype(np.uint8)
    labels[14:27, 32:49, 28:46] = 1
    grown = applied(labels, tools.grow_from_seeds(labels, 1, SPACING, hu, reach_mm=25.0))
    assert dice(grown == 1, truth == 1) > 0.95
    assert np.array_equal(grown == 4, truth == 4)


def test_opening_removes_a_spike_and_closing_fills_a_cleft(organ):
    spiked, cleft = organ.copy(), organ.copy()
    spiked[14:16, 29:31, 46:56] = 1
    cleft[:, 29:31, 40:] = 0
    assert dice(applied(spiked, tools.opened(spiked, 1, SPACING, radius_mm=4.0)) == 1, organ == 1) > 0.985
    assert applied(spiked, tools.opened(spiked, 1, SPACING, radius_mm=4.0))[15, 30, 52] == 0
    filled = applied(cleft, tools.closed(cleft, 1, SPACING, radius_mm=4.0))
    assert dice(filled == 1, organ == 1) > dice(cleft == 1, organ == 1)
    assert filled[15, 30, 42] == 1
    assert np.all(filled[cleft == 1] == 1)


def test_a_threshold_takes_what_lies_above_a_percentage_of_the_highest_near_the_organ():
    x = np.linspace(-45, 45, 60)
    hot = 100 * np.exp(-0.5 * (x / 12.0) ** 2)  # 42 % at 1.317 σ = 15.8 mm
    spect = np.broadcast_to(hot, (30, 60, 60)) * np.ones((30, 60, 1))
    labels = np.zeros((30, 60, 60), np.uint8)
    labels[10:20, 20:40, 25:35], labels[:, :, 38:] = 1, 2
    change = tools.threshold_spect(labels, 1, SPACING, lambda box: spect[box], search_mm=40.0)
    now = applied(labels, change)
    assert np.all(now[labels == 2] == 2)
    line = np.flatnonzero(now[15, 30] == 1)
    assert x[line[0]] == pytest.approx(-12 * np.sqrt(2 * np.log(1 / 0.42)), abs=1.6)
    assert line[-1] == 37  # up to the other organ
