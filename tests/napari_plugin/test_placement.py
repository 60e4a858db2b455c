"""Where images lie in the viewer, and that nothing is lost on the way there and back."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from doselabel.errors import GeometryError
from doselabel.geometry import Geometry, Volume, canonical, restore
from napari_plugin.session.placement import moved, onto_frame, place

AXES = list(itertools.permutations(range(3)))
SIGNS = list(itertools.product((1.0, -1.0), repeat=3))


def turned(permutation, signs) -> tuple[float, ...]:
    matrix = np.zeros((3, 3))
    for column, (row, sign) in enumerate(zip(permutation, signs, strict=True)):
        matrix[row, column] = sign
    return tuple(matrix.ravel())


def rotation_z(degrees: float) -> np.ndarray:
    matrix = np.eye(4)
    angle = np.radians(degrees)
    matrix[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    return matrix


@pytest.mark.parametrize(("permutation", "signs"), itertools.product(AXES, SIGNS))
def test_every_orientation_is_shown_in_world_millimetres_and_goes_back_identically(permutation, signs):
    native = Geometry((3, 4, 5), (4.0, 2.0, 1.5), (10.0, -20.0, 30.0), turned(permutation, signs))
    array = np.random.default_rng(0).integers(0, 5, native.shape).astype(np.uint8)
    upright = canonical(Volume(array, native))
    where = place(upright.geometry, upright.geometry)
    index = np.array([1, 2, 0])
    x, y, z = upright.geometry.index_to_lps(index)
    world = np.asarray(where.scale_mm) * index + where.translate_mm
    assert world == pytest.approx([-z, y, x])  # inferior, posterior, left
    back = restore(upright, native)
    assert back.geometry == native
    assert np.array_equal(back.array, array)


def test_an_oblique_ct_is_shown_along_its_own_axes():
    direction = tuple(rotation_z(20)[:3, :3].ravel())
    ct = canonical(Volume(np.zeros((3, 4, 5)), Geometry((3, 4, 5), (4, 2, 1.5), (10, -20, 30), direction))).geometry
    where = place(ct, ct)
    a, b = np.array([0, 0, 0]), np.array([2, 3, 4])
    shown = (np.asarray(where.scale_mm) * (b - a)) ** 2
    assert shown.sum() == pytest.approx(((ct.index_to_lps(b) - ct.index_to_lps(a)) ** 2).sum())


def test_a_shift_moves_the_grid_and_keeps_the_voxels():
    ct = canonical(Volume(np.zeros((3, 4, 5)), Geometry((3, 4, 5), (4, 2, 1.5)))).geometry
    spect = Volume(np.random.default_rng(0).random((3, 3, 3)), Geometry((3, 3, 3), (5, 5, 5)))
    shift = np.eye(4)
    shift[:3, 3] = (8.0, 0.0, -3.0)
    unmoved, shifted = onto_frame(spect, ct), onto_frame(spect, ct, shift)
    assert np.array_equal(unmoved.array, shifted.array)
    before, after = (np.asarray(place(v.geometry, ct).translate_mm) for v in (unmoved, shifted))
    assert after - before == pytest.approx([3.0, 0.0, 8.0])


def test_a_turned_spect_is_resampled_to_where_its_activity_is():
    ct = canonical(Volume(np.zeros((9, 41, 41)), Geometry((9, 41, 41), (4, 2, 2), (-40, -40, -16)))).geometry
    array = np.zeros((9, 41, 41), np.float32)
    array[3:6, 19:22, 33:36] = 1.0
    spect = Volume(array, Geometry((9, 41, 41), (4, 2, 2), (-40, -40, -16)))
    turn = rotation_z(90) @ rotation_z(-75)
    shown = onto_frame(spect, ct, turn)
    weights = shown.array / shown.array.sum()
    centre = shown.geometry.index_to_lps([(weights * g).sum() for g in np.indices(shown.array.shape)])
    original = spect.geometry.index_to_lps(np.array([4.0, 20.0, 34.0]))
    assert centre == pytest.approx(turn[:3, :3] @ original, abs=0.3)
    assert shown.array.sum() == pytest.approx(array.sum(), rel=0.02)


def test_moving_is_undone_by_the_inverse():
    volume = Volume(np.zeros((3, 4, 5)), Geometry((3, 4, 5), (4, 2, 1.5), (1, 2, 3)))
    turn = rotation_z(33)
    turn[:3, 3] = (5, -6, 7)
    assert moved(moved(volume, turn), np.linalg.inv(turn)).geometry.same_place(volume.geometry, 1e-9)


def test_what_is_not_parallel_can_not_be_placed():
    ct = Geometry((3, 4, 5), (4, 2, 1.5))
    turned_grid = moved(Volume(np.zeros(ct.shape), ct), rotation_z(5)).geometry
    with pytest.raises(GeometryError, match="not parallel"):
        place(turned_grid, ct)
