"""What the paper's figures show, and isodose lines of the annotator's choice."""

from __future__ import annotations

import numpy as np
import pytest
from napari.components import ViewerModel
from scipy import ndimage

from doselabel.errors import DoselabelError
from doselabel.geometry import Volume
from doselabel.labels import NAMES
from doselabel.wire import OrganSegmentation
from napari_plugin import layers as scene
from napari_plugin.dosing import read_levels
from napari_plugin.paper import boxes_on, outlined


def test_organs_and_their_expanded_regions_touch_and_do_not_overlap(truth):
    spacing_mm = (5.0, 4.0, 4.0)
    drawn = outlined(truth, spacing_mm)
    assert np.array_equal(drawn == 1, truth > 0)
    away_mm = ndimage.distance_transform_edt(truth == 0, sampling=spacing_mm)
    assert away_mm[drawn == 2].max() <= 3.0 + min(spacing_mm) / 3
    assert not (drawn[(away_mm > 0) & (away_mm <= 3.0)] == 0).any()


def test_a_box_is_around_each_organ_that_the_network_has_a_score_for_on_the_slice(truth):
    z = int((truth == 1).any(axis=(1, 2)).argmax())
    said = {
        "left_kidney": OrganSegmentation(volume_ml=1, score=0.9, slices=2, first_slice=z, sureness=[0.87, 0.0]),
        "liver": OrganSegmentation(volume_ml=1, score=0.9, slices=0, first_slice=z + 1, sureness=[0.5]),
    }
    values = {name: value for value, name in NAMES.items()}
    ((words, corners),) = boxes_on(truth, z, said, values).items()
    rows, columns = np.nonzero(truth[z] == 1)
    assert words == "Left kidney 0.87"
    assert np.min(corners, axis=0) == pytest.approx([rows.min() - 0.5, columns.min() - 0.5])
    assert np.max(corners, axis=0) == pytest.approx([rows.max() + 0.5, columns.max() + 0.5])
    assert not boxes_on(truth, -1, said, values)


def test_isodoses_are_read_as_a_person_writes_them():
    assert read_levels("20 40, 80 %", 50.0) == [10.0, 20.0, 40.0]
    assert read_levels("12.5 5 Gy", 50.0) == [5.0, 12.5]
    for wrong in ("", "20 40", "Gy", "ten Gy", "0 Gy", " ".join(["1"] * 3) + " mGy", "-5 Gy"):
        with pytest.raises(DoselabelError, match="no isodoses"):
            read_levels(wrong, 50.0)


def test_lines_are_where_the_dose_reaches_their_levels(make_case):
    case, viewer = make_case(), ViewerModel()
    dose = np.linspace(0, 10, case.ct.array.size, dtype=np.float32).reshape(case.ct.array.shape)
    image, _ = scene.add_dose(viewer, Volume(dose, case.ct.geometry), case.ct.geometry, [2.0])
    levels = [1.0, 4.0, 9.0]
    lines = scene.isodose_layer(image, scene.isodose_lines(dose, levels), levels)
    assert np.array_equal(lines.data, np.digitize(dose, levels))
    assert lines.data_to_world((1, 2, 3)) == pytest.approx(image.data_to_world((1, 2, 3)))
