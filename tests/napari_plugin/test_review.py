"""What the submit sheet says: change against the start, and warnings about what is probably wrong."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from doselabel.anatomy import regions
from doselabel.geometry import Volume
from doselabel.label_findings import findings
from doselabel.labels import NAMES
from napari_plugin.session.review import review

LEFT, RIGHT, LIVER = 1, 2, 3


@pytest.fixture
def ct(make_case) -> Volume:
    """The small patient with voxels so large that the organs have an adult's volumes."""
    small = make_case().ct
    return Volume(small.array, replace(small.geometry, spacing_mm=(9.0, 7.0, 7.0)))


def warnings(ct, labels, start=None, absent=()) -> str:
    return " ".join(review(labels, start, ct, absent).warnings)


def test_good_labels_give_no_warning_and_no_change(ct, truth):
    found = review(truth, truth.copy(), ct)
    assert found.warnings == ()
    assert [(o.name, o.change_ml, o.dice) for o in found.organs][:2] == [("left_kidney", 0, 1), ("right_kidney", 0, 1)]


def test_change_is_told_in_millilitres_and_dice(ct, truth):
    labels = truth.copy()
    planes = np.flatnonzero((labels == LEFT).any(axis=(1, 2)))
    half = np.isin(np.arange(len(labels)), planes[: len(planes) // 2])[:, None, None]
    labels[(labels == LEFT) & half] = 0
    kidney = review(labels, truth, ct).organs[0]
    assert kidney.change_ml == pytest.approx(-kidney.volume_ml)
    assert kidney.dice == pytest.approx(2 / 3)


def test_without_a_start_there_is_no_change_to_tell(ct, truth):
    kidney = review(truth, None, ct).organs[0]
    assert (kidney.change_ml, kidney.dice) == (None, None)


def test_what_is_missing_or_removed_is_named_unless_the_patient_has_none(ct, truth):
    labels = np.where(truth == LEFT, 0, truth).astype(np.uint8)
    assert "Left kidney is not drawn." in warnings(ct, labels)
    assert "Left kidney was removed." in warnings(ct, labels, truth)
    assert warnings(ct, labels, None, ["left_kidney"]) == ""
    assert "said to have none" in warnings(ct, truth, None, ["left_kidney"])


def test_fragments_edges_and_foreign_values_are_named(ct, truth):
    labels = truth.copy()
    labels[3, 20, 40] = LEFT
    labels[0:5, 18, 12:14] = LIVER
    labels[5, 30, 30] = 77
    said = warnings(ct, labels)
    assert "Left kidney is in 2 parts" in said
    assert "Liver ends at the image's edge" in said
    assert "Label 77 is outside the label table: 0.4 mL." in said


def test_exchanged_kidneys_and_wrong_volumes_are_named_as_wherever_a_map_is_read(ct, truth):
    swapped = np.select([truth == LEFT, truth == RIGHT], [RIGHT, LEFT], truth).astype(np.uint8)
    said = warnings(ct, swapped)
    assert said
    assert all(alarm.sentence in said for alarm in findings(regions(swapped, NAMES, ct.geometry), ct))
