"""Where a SPECT lies on its CT, as numbers: moves as they are seen, what they do to activities, and the best place."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from doselabel.geometry import Geometry, Volume, canonical, placed
from doselabel.labels import LabelMap
from napari_plugin.session import alignment
from napari_plugin.session.alignment import Judge, Place
from tests.napari_plugin.conftest import GRID, ct_hu, organs

CT = canonical(Volume(ct_hu(), GRID))
LABELS = LabelMap(canonical(Volume(organs(), GRID)).array, CT.geometry)


def spect_of(kidney: float = 1e6) -> Volume:
    """The organs as a SPECT of 10 mm resolution sees them, Bq/mL, on the CT's grid."""
    levels = np.array([0, kidney, kidney, kidney / 4], np.float32)
    sharp = levels[LABELS.array]
    sigma = 10 / 2.355 / np.asarray(CT.geometry.spacing_mm)
    return Volume(ndimage.gaussian_filter(sharp, sigma), CT.geometry)


@pytest.mark.parametrize(("axis", "lps"), [(0, (0, 0, -3)), (1, (0, 3, 0)), (2, (3, 0, 0))])
def test_a_shift_is_along_what_is_seen_to_the_feet_the_back_and_the_patients_left(axis, lps):
    assert alignment.shifted(CT.geometry, axis, 3.0)[:3, 3] == pytest.approx(lps)


def test_a_turn_is_clockwise_on_screen_about_its_point():
    about = np.array([10.0, -4.0, 7.0])
    axial = alignment.turned(CT.geometry, right=2, down=1, angle_deg=90, about_mm=about)
    # right of the point goes below it: the patient's left goes to the back
    assert (axial @ [*np.add(about, [5, 0, 0]), 1])[:3] == pytest.approx(np.add(about, [0, 5, 0]))
    coronal = alignment.turned(CT.geometry, right=2, down=0, angle_deg=90, about_mm=about)
    assert (coronal @ [*np.add(about, [5, 0, 0]), 1])[:3] == pytest.approx(np.add(about, [0, 0, -5]))
    assert alignment.moved_by(np.eye(4), axial, LABELS)[1] == pytest.approx(90)
    oblique = Geometry((4, 4, 4), (1, 1, 1), (0, 0, 0), (0, -1, 0, 1, 0, 0, 0, 0, 1))
    assert alignment.shifted(oblique, 2, 1.0)[:3, 3] == pytest.approx([0, 1, 0])


def test_the_best_place_is_found_again_and_the_activities_come_back():
    spect = spect_of()
    off = np.eye(4)
    off[:3, 3] = (7.0, -5.0, 6.0)
    moved = Volume(spect.array, placed(spect.geometry, off))
    judge = Judge(moved, LABELS, CT)
    found = judge.best(np.eye(4))
    assert found[:3, 3] == pytest.approx(-off[:3, 3], abs=1.0)
    quality = judge.quality(np.eye(4), found)
    assert quality.now > 0.97
    assert quality.now > quality.stored + 0.1
    home = Judge(spect, LABELS, CT).quality(np.eye(4), np.eye(4))
    for organ, there in zip(quality.activities, home.activities, strict=True):
        assert organ.now_mbq == pytest.approx(there.now_mbq, rel=0.03)
        assert organ.stored_mbq < organ.now_mbq
        assert organ.change_percent == pytest.approx(100 * (organ.now_mbq / organ.stored_mbq - 1))


def test_without_organs_nothing_is_claimed():
    nothing = LabelMap(np.zeros_like(LABELS.array), CT.geometry)
    quality = Judge(spect_of(), nothing, CT).quality(np.eye(4), np.eye(4))
    assert (quality.stored, quality.now, quality.activities) == (None, None, ())
    assert quality.why_not


def test_steps_are_undone_and_redone_and_a_new_one_forgets_the_undone():
    place, steps = Place(np.eye(4)), [np.diag([1, 1, 1, 1.0]) * k for k in (1, 2, 3)]
    for step in steps[:2]:
        place.add(step, "manual")
    place.at -= 1
    assert place.now is steps[0]
    place.add(steps[2], "organ")
    assert (place.at, place.method) == (1, "organ")
    assert len(place.steps) == 2
    place.at = -1
    assert place.now is place.stored
