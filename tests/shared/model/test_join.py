"""What is joined must continue the organ, and planes that agree must not lose what one of them missed.

Each test paints a small body, and the detections that led a network's joining astray on a real CT; no network is
needed.
"""

import dataclasses

import numpy as np
import pytest

from doselabel.model.consensus import fill_gaps
from doselabel.model.evaluate import dice
from doselabel.model.join import join
from doselabel.model.profiles import FAST, PAPER
from doselabel.model.slices import PLANES
from doselabel.model.track import Detection

SPACING = (3.0, 2.0, 2.0)
SHAPE = (70, 120, 160)
BODY = (slice(0, 70), slice(0, 120), slice(0, 160))
Z, Y, X = np.meshgrid(*(np.arange(n) for n in SHAPE), indexing="ij")
LABELS = {"left": 1, "right": 2, "liver": 3}


def ball(z, y, x, rz, ry, rx):
    return ((Z - z) / rz) ** 2 + ((Y - y) / ry) ** 2 + ((X - x) / rx) ** 2 < 1


KIDNEY = ball(40, 70, 115, 17, 14, 12)
"""A left kidney: 102 × 56 × 48 mm."""

LIVER = ball(30, 55, 45, 25, 35, 32)


def body(**organs):
    """HU of a body of fat with a spine, and organs painted into it as (mask, HU)."""
    hu = np.full(SHAPE, -100, np.int16)
    hu[(Y - 95) ** 2 + (X - 80) ** 2 < 100] = 400
    for mask, value in organs.values():
        hu[mask] = value
    return hu


def seen(mask, which, plane="axial", *, score=0.97, step=1, without=()):
    """Detections of a mask, slice by slice; scores are one number, or a function of the slice's index."""
    found = []
    axis = PLANES[plane]
    for index in range(0, mask.shape[axis], step):
        shown = np.take(mask, index, axis)
        if not shown.any() or index in without:
            continue
        rows, columns = (np.flatnonzero(shown.any(1 - k)) for k in (0, 1))
        parts = [slice(int(n[0]), int(n[-1]) + 1) for n in (rows, columns)]
        where = (*parts[:axis], slice(index, index + 1), *parts[axis:])
        sure = score(index) if callable(score) else score
        group = "liver" if which == "liver" else "kidney"
        found.append(Detection(plane, index, group, LABELS[which], sure, where, (mask[where] * 255).astype(np.uint8)))
    return found


def cuts_of(*planes):
    return {p: list(range(0, SHAPE[PLANES[p]], 1 if p == "axial" else 2)) for p in planes}


def joined(detections, hu, planes=("axial",), consensus="mean", profile=FAST):
    return join(detections, cuts_of(*planes), hu, SPACING, profile, midline_box=BODY, consensus=consensus)


def test_contrast_filled_bowel_below_a_kidney_is_not_joined_to_it():
    bowel = ball(64, 76, 120, 5, 10, 10)
    labels, _, _ = joined(seen(KIDNEY, "left") + seen(bowel, "left"), body(k=(KIDNEY, 150), b=(bowel, 320)))
    assert np.array_equal(labels == 1, KIDNEY)


def test_bowel_of_the_kidneys_own_density_beside_its_pole_is_not_joined_to_it():
    bowel = ball(63, 60, 132, 7, 12, 14)
    labels, _, _ = joined(seen(KIDNEY, "left") + seen(bowel, "left"), body(k=(KIDNEY, 150), b=(bowel, 150)))
    assert np.array_equal(labels == 1, KIDNEY)


@pytest.mark.parametrize("score", [0.86, lambda z: 0.6 if z < 59 else 0.97])
def test_a_long_run_of_bowel_is_not_followed_however_sure_only_the_step_to_it_counts(score):
    """Seen on a CT with oral contrast and on phantoms: 90 mm of bowel from the kidney's lower end downward."""
    bowel = ball(62, 72, 117, 30, 9, 9) & (Z > 56)
    found = seen(KIDNEY, "left") + seen(bowel, "left", score=score)
    labels, _, _ = joined(found, body(k=(KIDNEY, 170), b=(bowel, 205)))
    assert np.array_equal(labels == 1, KIDNEY)


def test_a_kidneys_end_is_found_beside_the_bowel_that_was_followed_first():
    """Two masks show kidney and bowel as one, below them each has its own: the bowel's run is the longer one."""
    bowel = ball(62, 58, 117, 24, 11, 11) & (Z > 46) & ~KIDNEY
    below = Z >= 50
    found = seen(KIDNEY & (Z < 48), "left") + seen((KIDNEY | bowel) & (Z >= 48) & ~below, "left")
    found += seen(KIDNEY & below, "left", score=0.96)
    found += seen(bowel & below, "left", score=lambda z: 0.6 if z < 51 else 0.97)
    labels, _, _ = joined(found, body(k=(KIDNEY, 170), b=(bowel, 210)))
    assert not (labels[bowel & (Z > 51)] == 1).any()
    assert (labels[KIDNEY & (Z > 51)] == 1).all()


def test_the_heart_is_not_joined_to_the_liver():
    heart = (ball(4, 45, 70, 9, 25, 25) & ~LIVER) & (Z < 9)
    labels, _, _ = joined(seen(LIVER, "liver") + seen(heart, "liver", score=0.95), body(l=(LIVER, 110), h=(heart, 160)))
    assert not (labels[heart] == 3).any()
    assert dice(labels == 3, LIVER) > 0.99


def test_the_spleen_above_a_kidney_is_not_joined_to_it():
    spleen = ball(14, 68, 125, 12, 20, 18) & ~KIDNEY & (Z < 24)
    unsure = seen(spleen, "left", score=lambda z: 0.6 + 0.02 * (z % 12))
    hu = body(k=(KIDNEY, 145), s=(spleen, 112))
    labels, _, _ = joined(seen(KIDNEY, "left") + unsure, hu)
    assert not (labels[spleen & ~KIDNEY] == 1).any()
    assert dice(labels == 1, KIDNEY) > 0.98


def test_of_two_detections_on_a_slice_the_one_that_continues_the_organ_counts_not_the_surest():
    bowel = ball(40, 35, 125, 2, 9, 9)
    hu = body(k=(KIDNEY, 150), b=(bowel, 150))
    labels, _, _ = joined(seen(KIDNEY, "left", score=0.91) + seen(bowel, "left", score=0.99), hu)
    assert np.array_equal(labels == 1, KIDNEY)


def test_a_gap_within_the_organ_is_filled_and_its_far_part_kept():
    gap = range(38, 42)
    labels, organs, _ = joined(seen(KIDNEY, "left", without=gap), body(k=(KIDNEY, 150)))
    kidney = organs["left_kidney"]
    assert kidney.slices_interpolated == 4
    assert dice(labels == 1, KIDNEY) > 0.99
    # told slice by slice, in the image's own count
    assert [(doubt.slice, doubt.kind) for doubt in kidney.doubts] == [(z, "filled") for z in gap]
    shown = np.flatnonzero((labels == 1).any(axis=(1, 2)))
    assert (kidney.first_slice, len(kidney.sureness)) == (shown[0], len(shown))
    assert [z for z, sure in zip(shown, kidney.sureness, strict=True) if sure == 0] == list(gap)


def test_a_slice_seen_unsurely_and_one_whose_area_jumps_are_told():
    odd = KIDNEY.copy()
    odd[45] &= Y[45] < 70  # half of the kidney is missing on one slice
    unsure = seen(odd, "left", score=lambda z: 0.7 if z == 36 else 0.97)
    _, organs, _ = joined(unsure, body(k=(KIDNEY, 150)))
    doubts = {doubt.slice: doubt.kind for doubt in organs["left_kidney"].doubts}
    assert doubts[36] == "unsure"
    assert doubts[45] == "jump"
    assert set(doubts) <= {36, 44, 45, 46}
    _, organs, _ = joined(seen(KIDNEY, "left"), body(k=(KIDNEY, 150)))
    assert organs["left_kidney"].doubts == []


@pytest.mark.parametrize(("without", "filled"), [((), 0), ((40,), 3), ((38, 40), 5)])
def test_of_thin_slices_looked_at_one_by_one_in_two_only_a_missed_one_counts_as_filled(without, filled):
    cuts = {"axial": list(range(0, SHAPE[0], 2))}
    detections = seen(KIDNEY, "left", step=2, without=without)
    labels, organs, _ = join(detections, cuts, body(k=(KIDNEY, 150)), SPACING, FAST, midline_box=BODY)
    assert organs["left_kidney"].slices_interpolated == filled
    assert dice(labels == 1, KIDNEY) > 0.97


@pytest.mark.parametrize("consensus", ["mean", "vote"])
@pytest.mark.parametrize("missed", ["axial", "coronal", "sagittal"])
def test_a_plane_that_lost_part_of_an_organ_does_not_shrink_it(missed, consensus):
    """Half of the cuts of one plane show nothing."""
    found = []
    for plane in PLANES:
        middle = {"axial": 40, "coronal": 70, "sagittal": 115}[plane]
        without = range(middle, 200) if plane == missed else ()
        found += seen(KIDNEY, "left", plane, step=1 if plane == "axial" else 2, without=without)
    labels, organs, _ = joined(found, body(k=(KIDNEY, 150)), tuple(PLANES), consensus)
    assert dice(labels == 1, KIDNEY) > 0.97
    assert organs["left_kidney"].slices_interpolated == 0


@pytest.mark.parametrize("consensus", ["mean", "vote"])
@pytest.mark.parametrize("blind", [("coronal",), ("sagittal",), ("coronal", "sagittal"), ("axial",)])
def test_planes_that_saw_nothing_have_no_vote(blind, consensus):
    found = [
        d for plane in set(PLANES) - set(blind) for d in seen(KIDNEY, "left", plane, step=1 if plane == "axial" else 2)
    ]
    labels, _, _ = joined(found, body(k=(KIDNEY, 150)), tuple(PLANES), consensus)
    assert dice(labels == 1, KIDNEY) > 0.97


def test_a_plane_that_follows_another_organ_is_left_out_and_flagged():
    spleen = ball(18, 68, 125, 12, 20, 18) & ~KIDNEY
    found = seen(KIDNEY, "left") + seen(KIDNEY, "left", "coronal", step=2)
    found += seen(spleen, "left", "sagittal", step=2, score=0.93)
    hu = body(k=(KIDNEY, 145), s=(spleen, 112))
    labels, organs, _ = joined(found, hu, tuple(PLANES))
    assert dice(labels == 1, KIDNEY) > 0.98
    assert organs["left_kidney"].plane_disagreement > 0.15
    assert any(flag.startswith("planes disagree: by 0.") for flag in organs["left_kidney"].flags)


def test_two_planes_outvote_the_third():
    """Bowel that one plane takes for the kidney's end goes, what two planes show stays."""
    wrong = KIDNEY | (ball(55, 70, 115, 6, 10, 9))
    found = seen(wrong, "left")
    for plane in ("coronal", "sagittal"):
        found += seen(KIDNEY, "left", plane, step=2)
    for consensus in ("mean", "vote"):
        labels, _, _ = joined(found, body(k=(wrong, 150)), tuple(PLANES), consensus)
        assert dice(labels == 1, KIDNEY) > dice(wrong, KIDNEY) + 0.01
        assert dice(labels == 1, KIDNEY) > 0.98


def test_a_horseshoe_kidney_is_cut_at_the_spine():
    bridge = ball(52, 66, 80, 4, 6, 40)
    horseshoe = KIDNEY | ball(40, 70, 45, 17, 14, 12) | bridge
    labels, organs, _ = joined(seen(horseshoe, "left"), body(k=(horseshoe & (Y < 85), 150)))
    assert abs(int((labels == 1).sum()) - int((labels == 2).sum())) < 0.05 * (labels == 1).sum()
    assert any(flag.startswith("crosses the midline: ") for flag in organs["left_kidney"].flags)


def test_both_ways_to_fill_a_gap_keep_what_both_neighbours_show():
    broken = np.stack([(Y[0] - 60) ** 2 + (X[0] - 80) ** 2 < radius**2 for radius in (20, 0, 0, 14)])
    by_distance, count = fill_gaps(broken, 3.0, how="distance")
    linear, same = fill_gaps(broken, 3.0, how="linear")
    assert count == same == 2
    assert by_distance[1].sum() == pytest.approx(np.pi * 18**2, rel=0.03)
    assert by_distance[2].sum() == pytest.approx(np.pi * 16**2, rel=0.03)
    # Linear between two masks, cut at one half, shows the nearer of them.
    assert np.array_equal(linear[1], broken[0])
    assert np.array_equal(linear[2], broken[3])


def test_the_paper_fills_linearly_and_knows_no_detection_below_its_threshold():
    assert (PAPER.gap_fill, PAPER.score_accept, FAST.gap_fill) == ("linear", 0.9, "distance")
    gap = range(30, 33)
    hu = body(k=(KIDNEY, 150))
    by_profile = [
        joined(seen(KIDNEY, "left", without=gap), hu, profile=dataclasses.replace(FAST, gap_fill=how))[0]
        for how in ("linear", "distance")
    ]
    assert not np.array_equal(*by_profile)
    for labels in by_profile:
        assert dice(labels == 1, KIDNEY) > 0.98
