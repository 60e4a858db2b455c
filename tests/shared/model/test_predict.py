"""What the network sees becomes organs: sides by patient space, gaps filled, nothing silent.

The detector here finds bright blobs and calls every kidney "left": only the geometry is under test.
"""

import dataclasses
from itertools import permutations, product

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from scipy import ndimage
from torchvision.ops import roi_align

from doselabel.errors import Cancelled, ModelError
from doselabel.geometry import Geometry, Volume, resample
from doselabel.model.checkpoint import Checkpoint
from doselabel.model.evaluate import compare, dice, surface_agreement
from doselabel.model.join import fill_gaps
from doselabel.model.network import mask_boxes
from doselabel.model.predict import check_hu, segment
from doselabel.model.profiles import FAST

PROFILE = dataclasses.replace(FAST, pixel_mm=5.0)
ORIENTATIONS = [
    "".join(axes)
    for order in permutations(("LR", "PA", "SI"))
    for axes in product(*order)
]  # fmt: skip


class BrightBlobs(torch.nn.Module):
    """Finds blobs of kidney (0.7–0.8) and liver (about 0.6) brightness; believes every kidney is a left one."""

    def __init__(self, score=0.95, blind=()):
        super().__init__()
        self.score, self.blind, self.seen = score, blind, 0

    def forward(self, images):
        middle = images[0][len(images[0]) // 2].numpy()
        self.seen += 1
        masks, labels = [], []
        for label, low, high in ((1, 0.68, 0.85), (3, 0.5, 0.66)):
            parts, count = ndimage.label((middle > low) & (middle < high))
            for number in range(1, count + 1):
                if (parts == number).sum() >= 12:
                    masks.append(torch.from_numpy(parts == number))
                    labels.append(label)
        if not masks or self.seen in self.blind:
            empty = torch.zeros(0)
            return [{"boxes": torch.zeros(0, 4), "labels": empty, "scores": empty, "masks": torch.zeros(0, 1, 28, 28)}]
        stacked = torch.stack(masks)
        boxes = mask_boxes(stacked)
        targets = torch.cat(
            [roi_align(m[None, None].float(), [b[None]], 28, 1.0) for m, b in zip(stacked, boxes, strict=True)]
        )
        return [
            {
                "boxes": boxes,
                "labels": torch.tensor(labels),
                "scores": torch.full((len(labels),), self.score),
                "masks": targets,
            }
        ]


def ready(**options):
    return Checkpoint(BrightBlobs(**options), PROFILE, {}, "fake")


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_left_is_left_in_every_orientation(patient, orientation):
    ct, truth = patient
    turned = Volume.from_sitk(sitk.DICOMOrient(ct.to_sitk(), orientation))
    expected = sitk.GetArrayFromImage(sitk.DICOMOrient(truth.volume.to_sitk(), orientation))
    result = segment(turned, ready())
    assert result.labels.geometry == turned.geometry
    for value, name in ((1, "left_kidney"), (2, "right_kidney")):
        assert dice(result.labels.mask(name), expected == value) > 0.85
    assert any("side conflict" in flag for flag in result.summary.organs["right_kidney"].flags)
    assert not any("side conflict" in flag for flag in result.summary.organs["left_kidney"].flags)


def test_an_oblique_image_gets_labels_on_its_own_grid(patient):
    angle = np.deg2rad(12)
    turn = (np.cos(angle), -np.sin(angle), 0, np.sin(angle), np.cos(angle), 0, 0, 0, 1)
    g = patient[0].geometry
    oblique = Geometry(g.shape, g.spacing_mm, g.origin_mm, tuple(float(v) for v in turn))
    result = segment(Volume(patient[0].array, oblique), ready())
    assert result.labels.geometry == oblique
    assert dice(result.labels.mask("left_kidney"), patient[1].mask("left_kidney")) > 0.85


@pytest.mark.parametrize("consensus", ["mean", "vote"])
def test_three_planes_agree_on_what_all_see(patient, consensus):
    result = segment(patient[0], ready(), planes=("axial", "coronal", "sagittal"), consensus=consensus)
    assert dice(result.labels.mask("left_kidney"), patient[1].mask("left_kidney")) > 0.85
    assert result.summary.organs["left_kidney"].plane_disagreement < 0.2
    assert result.summary.planes == ["axial", "coronal", "sagittal"]


def test_a_slice_the_network_missed_is_filled_and_said_so(patient):
    complete = segment(patient[0], ready())
    network = BrightBlobs()
    z = np.flatnonzero(patient[1].mask("left_kidney").any((1, 2)))
    middle_canonical = patient[0].geometry.shape[0] - 1 - int(z.mean())
    network.blind = (middle_canonical + 1,)  # 10 mm slices: every slice is a locator slice, in order
    result = segment(patient[0], Checkpoint(network, PROFILE, {}, ""))
    organ = result.summary.organs["left_kidney"]
    assert organ.slices_interpolated == 1
    assert any("interpolation" in flag for flag in organ.flags)
    assert organ.slices == complete.summary.organs["left_kidney"].slices
    assert dice(result.labels.mask("left_kidney"), complete.labels.mask("left_kidney")) > 0.97


def test_an_empty_result_is_said_loudly(patient):
    water = Volume(np.where(patient[0].array > -300, 0, patient[0].array), patient[0].geometry)
    result = segment(water, ready())
    assert not result.labels.array.any()
    assert result.summary.flags[0].startswith("NOTHING WAS FOUND")
    assert all(organ.volume_ml == 0 and organ.flags for organ in result.summary.organs.values())


def test_unsure_detections_are_kept_with_a_flag_and_dropped_below_the_threshold(patient):
    unsure = segment(patient[0], ready(score=0.6))
    assert any("low confidence" in flag for flag in unsure.summary.organs["left_kidney"].flags)
    assert not segment(patient[0], ready(score=0.4)).labels.array.any()


def test_the_profile_says_which_score_counts_unless_the_caller_does(patient):
    strict = dataclasses.replace(PROFILE, score_accept=0.9)
    model = Checkpoint(BrightBlobs(score=0.85), strict, {}, "fake")
    assert not segment(patient[0], model).labels.array.any()
    assert segment(patient[0], model, score_threshold=0.5).labels.array.any()


def test_the_profile_says_how_planes_agree_unless_the_caller_does(patient):
    planes = ("axial", "coronal", "sagittal")
    voting = Checkpoint(BrightBlobs(), dataclasses.replace(PROFILE, consensus="vote"), {}, "fake")
    mean, vote = (segment(patient[0], ready(), planes=planes, consensus=how).labels.array for how in ("mean", "vote"))
    assert not np.array_equal(mean, vote)
    assert np.array_equal(segment(patient[0], voting, planes=planes).labels.array, vote)
    assert np.array_equal(segment(patient[0], voting, planes=planes, consensus="mean").labels.array, mean)


@pytest.mark.parametrize("option", [{"consensus": "any"}, {"gap_fill": "cubic"}])
def test_an_unknown_choice_is_named(patient, option):
    with pytest.raises(ModelError, match=next(iter(option))):
        segment(patient[0], ready(), **option)


def test_slices_far_from_the_organs_are_not_looked_at_and_none_of_an_organ_is_lost(patient):
    """The organs with 240 mm of empty body above and below; blobs end between the locator's slices.

    The slices are 1 mm thin: of the organs' too, every second is looked at, so that an end may be off by one.
    """
    ct, truth = patient
    fine = Geometry((720, *ct.geometry.shape[1:]), (1.0, *ct.geometry.spacing_mm[1:]))
    thin = np.repeat(np.where(ct.array > -300, np.where(truth.array > 0, ct.array, 0), -1000), 10, axis=0).astype(
        np.int16
    )
    organs = np.repeat(truth.array, 10, axis=0)
    hu = np.repeat(np.where(ct.array[:1] > -300, 0, -1000), 720, axis=0).astype(np.int16)
    hu[240:480], inside = thin, np.zeros(hu.shape, bool)
    inside[240:480] = organs > 0
    network = BrightBlobs()
    result = segment(Volume(hu, fine), Checkpoint(network, PROFILE, {}, ""))
    shown = np.flatnonzero(inside.any((1, 2)))
    assert network.seen < ((shown[-1] - shown[0]) + 40) / 2 + 720 / 10
    assert dice(result.labels.array > 0, inside) > 0.85
    found = np.flatnonzero(result.labels.array.any((1, 2)))
    assert np.abs([found[0] - shown[0], found[-1] - shown[-1]]).max() <= 1


def test_hu_of_any_type_and_order_give_the_same_labels(patient):
    ct = patient[0]
    expected = segment(ct, ready()).labels.array
    for array in (ct.array.astype(np.float32), ct.array.astype(np.float64), np.asfortranarray(ct.array)):
        assert np.array_equal(segment(Volume(array, ct.geometry), ready()).labels.array, expected)


def test_volumes_in_the_summary_are_those_of_the_map(patient):
    result = segment(patient[0], ready())
    for name, organ in result.summary.organs.items():
        assert organ.volume_ml == pytest.approx(result.labels.volume_ml(name), abs=0.01)


@pytest.mark.parametrize(
    ("array", "found"),
    [
        (np.linspace(0, 2.4e6, 1000), "0 to 2.4e\\+06"),
        (np.linspace(0, 3000, 1000), "0 to 3000"),
        (np.linspace(-1, 1, 1000), "-1 to 1"),
        (np.where(np.arange(1000) == 5, -1000, 1200), "soft tissue"),
        (np.array([np.nan, -1000, 40]), "not numbers"),
    ],
)
def test_what_is_not_hu_is_refused_with_what_was_found(array, found):
    with pytest.raises(ModelError, match=found):
        check_hu(np.asarray(array, float).reshape(-1, 1, 1))


def test_the_refusal_names_the_image(patient):
    stored = Volume(patient[0].array + 1024, patient[0].geometry)
    with pytest.raises(ModelError, match=r"^P-001/ct\.nii\.gz: values run from 24 to 1424.*rescale slope"):
        segment(stored, ready(), name="P-001/ct.nii.gz")


def test_hu_in_any_number_type_is_accepted(patient):
    for kind in (np.int16, np.int32, np.float32):
        check_hu(patient[0].array.astype(kind))


def test_two_planes_or_unknown_ones_are_refused(patient):
    for planes in ((), ("axial", "coronal"), ("oblique",)):
        with pytest.raises(ModelError, match="planes"):
            segment(patient[0], ready(), planes=planes)


def test_prediction_stops_when_cancelled_and_restores_the_threads(patient):
    def stop(stage, fraction):
        if stage == "axial slices" or fraction > 0.3:
            raise Cancelled

    before = torch.get_num_threads()
    with pytest.raises(Cancelled):
        segment(patient[0], ready(), progress=stop)
    assert torch.get_num_threads() == before


def test_gaps_are_filled_by_the_shape_between():
    y, x = np.meshgrid(np.arange(40), np.arange(40), indexing="ij")
    cone = np.stack([(y - 20) ** 2 + (x - 20) ** 2 < (16 - 2 * k) ** 2 for k in range(5)])
    broken = cone.copy()
    broken[2] = False
    filled, count = fill_gaps(broken, 3.0)
    assert count == 1
    assert dice(filled[2], cone[2]) > 0.97
    assert np.array_equal(filled[[0, 1, 3, 4]], cone[[0, 1, 3, 4]])
    assert fill_gaps(broken, 30.0)[1] == 0


def test_scores_of_a_shifted_cube_are_those_known_by_hand():
    a, b = np.zeros((2, 20, 20, 20), bool)
    a[5:15, 5:15, 5:15] = True
    b[5:15, 5:15, 7:17] = True
    assert dice(a, b) == pytest.approx(0.8)
    surface, hd95 = surface_agreement(a, b, (1.0, 1.0, 1.0))
    assert surface == 1.0
    assert hd95 == pytest.approx(2.0)
    assert surface_agreement(a, b, (1.0, 1.0, 3.0))[1] == pytest.approx(6.0)


def test_volume_and_mass_errors_are_signed(patient):
    truth = patient[1]
    shrunk = dataclasses.replace(truth, array=np.where(truth.array == 3, 0, truth.array))
    rows = {row.organ: row for row in compare(shrunk, truth, FAST.classes)}
    assert rows["liver"].volume_error_percent == -100
    assert rows["liver"].mass_error_g == pytest.approx(-1.05 * truth.volume_ml("liver"))
    assert rows["left_kidney"].dice == 1


class Channels(torch.nn.Module):
    """Finds nothing, and keeps what it was shown."""

    def __init__(self):
        super().__init__()
        self.shown = []

    def forward(self, images):
        self.shown.append(images[0].clone())
        empty = torch.zeros(0)
        return [{"boxes": torch.zeros(0, 4), "labels": empty, "scores": empty, "masks": torch.zeros(0, 1, 28, 28)}]


def shown_channel(ct, spect):
    """The SPECT channel of all slices (z, H, W) as a network with one sees it."""
    network = Channels()
    segment(ct, Checkpoint(network, dataclasses.replace(PROFILE, spect=True), {}, ""), spect=spect)
    # 10 mm slices: the locator looks at each of them, in order.
    return torch.stack([picture[-1] for picture in network.shown[: ct.array.shape[0]]])


def test_the_spect_is_shown_where_it_lies_in_the_patient_whatever_its_grid(patient):
    ct, labels = patient
    kidney = labels.mask("left_kidney")
    own = Volume(np.where(kidney, 3e6, 1e4).astype(np.float32), ct.geometry)
    g = ct.geometry.with_spacing((8.0, 8.0, 8.0))
    other = resample(own, g)
    seen, coarse = shown_channel(ct, own), shown_channel(ct, other)
    assert seen.max() == pytest.approx(1.0, abs=0.1)
    expected = np.flatnonzero(kidney[::-1].any((1, 2)))  # the network looks from above
    bright = np.flatnonzero(((seen > 0.5).sum((1, 2)) > 0).numpy())
    assert bright.tolist() == expected.tolist()
    columns = np.flatnonzero((seen > 0.5).any(0).any(0).numpy())
    assert columns.min() > seen.shape[2] / 2  # index x grows to the patient's left
    assert float(((seen > 0.5) != (coarse > 0.5)).float().mean()) < 0.01
    turned = Volume.from_sitk(sitk.DICOMOrient(own.to_sitk(), "PIR"))
    assert torch.allclose(shown_channel(ct, turned), seen, atol=1e-3)


def test_a_model_with_a_spect_channel_says_when_there_is_no_spect(patient):
    model = Checkpoint(Channels(), dataclasses.replace(PROFILE, spect=True), {}, "")
    without, given = (segment(patient[0], model, spect=s).summary.flags for s in (None, patient[0]))
    assert any("no SPECT was given" in flag for flag in without)
    assert not any("SPECT" in flag for flag in given)
    assert float(shown_channel(patient[0], None).abs().max()) == 0
