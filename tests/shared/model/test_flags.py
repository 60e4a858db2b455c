"""Flags name what is wrong, with numbers, and say nothing of what is well."""

from pathlib import Path

import numpy as np
import pytest

from doselabel.geometry import canonical, read_image
from doselabel.model import flags
from doselabel.model.flags import Found
from doselabel.model.join import _midline
from doselabel.model.slices import body_box
from doselabel.model.track import Detection

SHAPE, SPACING = (80, 110, 140), (4.0, 3.0, 3.0)
BODY = (slice(0, 80), slice(10, 100), slice(10, 130))
MIDDLE = 69.5
Z, Y, X = np.meshgrid(*(np.arange(n) for n in SHAPE), indexing="ij")
DATA = Path(__file__).parents[4] / "shared" / "data"
INDEX = {"left_kidney": 1, "right_kidney": 2, "liver": 3}
CENTRES = {"left_kidney": (44, 65, 95), "right_kidney": (46, 65, 44), "liver": (30, 55, 46)}
RADII = {"left_kidney": (14, 10, 9), "right_kidney": (14, 10, 9), "liver": (20, 24, 28)}
HU = {"left_kidney": 140, "right_kidney": 140, "liver": 100}


def ball(centre, radii):
    return sum(((v - c) / r) ** 2 for v, c, r in zip((Z, Y, X), centre, radii, strict=True)) < 1


def patient(centres=CENTRES, radii=RADII):
    """HU of a body with fat, muscle, a spine and three organs, and their masks."""
    rng = np.random.default_rng(3)
    hu = np.full(SHAPE, -1000.0)
    hu[(((Y - 55) / 44) ** 2 + ((X - 69.5) / 58) ** 2 < 1)] = -100
    hu[(((Y - 55) / 36) ** 2 + ((X - 69.5) / 50) ** 2 < 1)] = 55
    hu[(Y - 82) ** 2 + (X - 69.5) ** 2 < 25] = 500
    masks = {name: ball(centres[name], radii[name]) for name in centres}
    for name, mask in masks.items():
        hu[mask] = HU[name]
    return (hu + rng.normal(0, 12, SHAPE)).round().astype(np.int16), masks


def found(masks, score=0.97, labels=INDEX, **options):
    """What joining would hand on of true masks."""
    result = {}
    for name, mask in masks.items():
        z, y, x = (np.flatnonzero(mask.any(tuple({0, 1, 2} - {k}))) for k in range(3))
        box = tuple(slice(int(n[0]), int(n[-1]) + 1) for n in (z, y, x))
        own = mask[box]
        chain = [
            Detection("axial", k, "", labels[name], score, (slice(k, k + 1), *box[1:]), own[k - box[0].start][None])
            for k in range(box[0].start, box[0].stop)
        ]
        values = {"filled": 0, "disagreement": None} | options
        result[name] = Found(name, INDEX[name], box, own, own * np.uint8(255), chain, **values)
    return result


def all_flags(hu, organs, spacing=SPACING, body=BODY, middle=MIDDLE):
    placed, image = flags.of_place(organs, spacing, middle)
    own = {name: flags.of_organ(organ, hu, spacing, 0.9) + placed[name] for name, organ in organs.items()}
    image += flags.of_image(organs, hu, spacing, body)
    return image + [f"{name}: {flag}" for name, list_ in own.items() for flag in list_]


def codes(hu, organs, **options):
    texts = all_flags(hu, organs, **options)
    raised = {part for text in texts for part in text.split(": ")[:2]} & set(flags.CODES)
    assert len(raised) >= bool(texts)
    return raised


def moved(**changes):
    return CENTRES | changes


def test_a_sound_patient_has_no_flag():
    hu, masks = patient()
    assert all_flags(hu, found(masks)) == []


def test_a_mirrored_patient_has_the_liver_on_the_left():
    hu, masks = patient()
    mirrored = {
        name: np.flip(masks[other], 2)
        for name, other in (("left_kidney", "right_kidney"), ("right_kidney", "left_kidney"), ("liver", "liver"))
    }
    texts = all_flags(np.flip(hu, 2), found(mirrored))
    assert any(text.startswith("mirrored: ") for text in texts)


def test_slices_in_the_wrong_order_put_the_kidneys_above_the_liver():
    hu, masks = patient()
    turned = {name: np.flip(mask, 0) for name, mask in masks.items()}
    assert any(
        text.startswith("upside down: the kidneys lie 60 mm above") for text in all_flags(hu[::-1], found(turned))
    )


@pytest.mark.parametrize(
    ("factor", "known", "says"),
    [
        (0.5, (-1024, 3071), "too small, by about 2"),
        (0.5, (-125, 275), "too small, by about 2"),
        (2.0, (-1024, 3071), "too large, by about 2"),
    ],
)
def test_a_wrong_slope_is_named(factor, known, says):
    hu, masks = patient()
    hu = hu.clip(*known) * factor
    texts = [text for text in all_flags(hu.astype(np.int16), found(masks)) if text.startswith("intensity: ")]
    assert len(texts) == 1
    assert says in texts[0]


def test_a_window_of_known_hu_raises_no_flag():
    hu, masks = patient()
    assert all_flags(hu.clip(-125, 275), found(masks)) == []


def test_an_unenhanced_scan_is_said_to_be_one():
    hu, masks = patient()
    for name in ("left_kidney", "right_kidney"):
        hu[masks[name]] -= 107
    assert codes(hu, found(masks)) == {"unenhanced"}


def test_a_head_is_not_an_abdomen():
    """A skull with a brain in it, of which a network had made a liver."""
    head = ((Y - 55) / 32) ** 2 + ((X - 69.5) / 26) ** 2
    hu = np.where(head < 1, 900, -1000)
    hu[head < 0.72] = 35
    brain = ball((40, 55, 60), (30, 24, 16))
    organs = found({"liver": brain})
    text = next(t for t in all_flags(hu, organs, body=(BODY[0], slice(23, 88), slice(43, 97))) if "not an abdomen" in t)
    assert "162 mm wide" in text
    assert "no kidney was found" in text


@pytest.mark.parametrize(("side", "where"), [("right", np.s_[:, :, 30:]), ("left", np.s_[:, :, :98])])
def test_an_organ_cut_by_the_image_at_a_side_is_flagged(side, where):
    hu, masks = patient()
    cut = {name: mask[where] for name, mask in masks.items()}
    texts = all_flags(hu[where], found(cut), middle=MIDDLE - (30 if side == "right" else 0))
    assert any("side of the field of view: " in text and f"the image's {side} edge" in text for text in texts)


def test_an_organ_cut_by_a_round_field_of_view_is_flagged():
    hu, masks = patient()
    outside = (Y - 55) ** 2 + (X - 69.5) ** 2 > 45**2
    hu[outside] = -1024
    seen = {name: mask & ~outside for name, mask in masks.items()}
    assert any(text.startswith("liver: side of the field of view: about") for text in all_flags(hu, found(seen)))


@pytest.mark.parametrize(("part", "end"), [(slice(44, None), "upper"), (slice(0, 45), "lower")])
def test_an_organ_cut_by_the_end_of_the_scan_is_flagged(part, end):
    hu, masks = patient()
    texts = all_flags(hu[part], found({"left_kidney": masks["left_kidney"][part]}))
    assert any(f"end of scan: it touches the {end} end" in text for text in texts)


def test_a_long_kidney_and_unequal_ones_are_measured():
    hu, masks = patient(radii=RADII | {"left_kidney": (22, 10, 9)})
    texts = all_flags(hu, found(masks))
    long = next(t for t in texts if t.startswith("left_kidney: unusual length: "))
    assert 168 <= int(long.split()[3]) <= 176
    assert any(t.startswith("asymmetry: the left and right kidney measure") for t in texts)


def test_a_kidney_that_reaches_the_midline_is_flagged():
    hu, masks = patient(moved(left_kidney=(44, 65, 79)))
    assert "crosses the midline" in codes(hu, found(masks))


def test_a_kidney_in_the_pelvis_is_flagged():
    hu, masks = patient(moved(left_kidney=(65, 60, 85)))
    assert "low position" in codes(hu, found(masks))
    del masks["right_kidney"]
    texts = all_flags(hu, found(masks))
    assert any("low position: its top lies 12 mm below the liver's lower end" in text for text in texts)


def test_scores_sides_planes_and_filled_slices_are_flagged():
    hu, masks = patient()
    assert codes(hu, found(masks, score=0.7)) == {"low confidence"}
    assert codes(hu, found(masks, labels=INDEX | {"left_kidney": 2})) == {"side conflict"}
    assert codes(hu, found(masks, disagreement=0.14)) == set()
    assert codes(hu, found(masks, disagreement=0.16)) == {"planes disagree"}
    assert codes(hu, found(masks, filled=3)) == {"interpolated"}
    small = {name: mask & (Z % 4 == 0) for name, mask in masks.items()}
    assert "unusual volume" in codes(hu, found(small))


@pytest.mark.parametrize("case", ["btcv_30", "btcv_31", "btcv_37", "ircad_02", "ircad_12", "crlm_1004"])
def test_good_real_cts_with_their_expert_masks_have_no_flag(case):
    folder = next((f for f in (DATA / case, DATA / "real_ct" / case) if f.is_dir()), DATA)
    if not (folder / "ct.nii.gz").is_file():
        pytest.skip("the real CTs are not beside this checkout (../shared/data)")
    ct = canonical(read_image(folder / "ct.nii.gz"))
    labels = canonical(read_image(next(folder.glob("labels*.nii.gz")))).array
    organs = found({"liver": labels == 1, "right_kidney": labels == 2, "left_kidney": labels == 3})
    hu, spacing, body = ct.array, ct.geometry.spacing_mm, body_box(ct.array)
    middle = _midline(hu, organs["liver"].chain, body)
    assert all_flags(hu, organs, spacing, body, middle) == []
