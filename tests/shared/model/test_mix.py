"""A mix is a small file: what it names is found or made, and what it holds out is never trained on."""

import json

import numpy as np
import pytest

from doselabel.errors import ModelError
from doselabel.geometry import Geometry, Volume, read_image, write_image
from doselabel.labels import write_labels
from doselabel.model.cases import case_labels
from doselabel.model.mix import read_mix
from doselabel.model.paint import paint

NAMES = {1: "spleen", 2: "kidney_right", 3: "kidney_left", 5: "liver", 7: "small_bowel", 9: "vertebrae_L1"}
PLACES = {  # (z, y, x) of the middle and half sizes, in voxels of 4 mm
    "spleen": ((26, 20, 34), (5, 5, 4)),
    "kidney_right": ((14, 24, 10), (7, 4, 4)),
    "kidney_left": ((15, 24, 30), (7, 4, 4)),
    "liver": ((26, 16, 14), (8, 9, 9)),
    "small_bowel": ((10, 12, 22), (6, 5, 8)),
    "vertebrae_L1": ((20, 27, 20), (18, 3, 3)),
}


@pytest.fixture(scope="module")
def body():
    z, y, x = np.indices((40, 36, 44))
    array = np.zeros(z.shape, np.uint8)
    for value, name in NAMES.items():
        (cz, cy, cx), (rz, ry, rx) = PLACES[name]
        array[((z - cz) / rz) ** 2 + ((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 < 1] = value
    return Volume(array, Geometry(array.shape, (4.0, 4.0, 4.0), (0.0, 0.0, 0.0)))


@pytest.fixture(scope="module")
def painted(body):
    return [paint(body, NAMES, np.random.default_rng([0, n])) for n in range(12)]


def means(painted, name):
    return np.array([ct.array[labels.mask(name)].mean() for ct, labels in painted])


def test_painted_ct_run_from_unenhanced_to_nephrographic(painted):
    kidneys = means(painted, "left_kidney")
    unenhanced = (kidneys < 60).mean()
    assert 0.2 < unenhanced < 0.6  # 40 % are meant
    assert kidneys.max() > 140
    assert all(np.median(ct.array[0]) < -50 for ct, _ in painted)  # air and fat about the body


def test_bowel_is_sometimes_as_bright_as_an_enhanced_organ(painted):
    bright = [((ct.array > 120) & (ct.array < 450)).mean() for ct, _ in painted]
    assert np.max(bright) > 3 * np.median(bright)


def test_painted_labels_carry_our_names_whatever_the_values_were(body):
    other = np.zeros_like(body.array)
    other[body.array == 5], other[body.array == 2], other[body.array == 3] = 90, 14, 15
    names = {90: "liver", 14: "kidney_right", 15: "kidney_left"}
    _, labels = paint(Volume(other, body.geometry), names, np.random.default_rng(1))
    assert {name for name in ("liver", "right_kidney", "left_kidney", "spleen") if labels.mask(name).any()} == {
        *("liver", "right_kidney", "left_kidney")
    }
    x = [np.nonzero(labels.mask(name))[2].mean() for name in ("right_kidney", "left_kidney")]
    assert x[0] < x[1]


def test_the_same_seed_paints_the_same(body):
    first, second = (paint(body, NAMES, np.random.default_rng(3))[0].array for _ in range(2))
    assert np.array_equal(first, second)


@pytest.fixture
def data(tmp_path, body, patient):
    folder = tmp_path / "data"
    (folder / "maps").mkdir(parents=True)
    write_image(folder / "maps" / "a_labels.nii.gz", body)
    (folder / "maps" / "labels.json").write_text(json.dumps(NAMES))
    for name in ("one", "two"):
        write_image(folder / "real" / name / "ct.nii.gz", patient[0])
        write_labels(folder / "real" / name / "labels.nii.gz", patient[1])
    return folder


MIX = """
sources:
  - {name: real, share: 0.7, cases: $DATA/real, names: {1: left_kidney, 2: right_kidney, 3: liver}}
  - {name: painted, share: 0.3, paint: $DATA/maps, per_body: 2}
validation: [two]
profile: fast
settings: {steps: 7, learning_rate: 2e-4, start: weights.safetensors}
attribution: [from a colleague]
"""


def test_a_mix_finds_makes_and_holds_out(tmp_path, data):
    (tmp_path / "mix.yaml").write_text(MIX)
    seen = []
    mix = read_mix(tmp_path / "mix.yaml", tmp_path / "work", data, progress=lambda stage, f: seen.append(stage))
    assert [(source.name, source.share, len(source.cases)) for source in mix.sources] == [
        ("real", 0.7, 1),
        ("painted", 0.3, 2),
    ]
    assert [case.patient for case in mix.validation] == ["two"]
    assert (mix.settings.steps, mix.settings.start) == (7, tmp_path / "weights.safetensors")
    assert mix.profile.name == "fast"
    assert mix.attribution == ("from a colleague",)
    assert "painting" in seen
    made = mix.sources[1].cases[0]
    assert case_labels(made).mask("liver").any()
    assert read_image(made.ct).geometry.same_place(case_labels(made).geometry)
    stamp = made.ct.stat().st_mtime_ns
    read_mix(tmp_path / "mix.yaml", tmp_path / "work", data)
    assert made.ct.stat().st_mtime_ns == stamp  # what was made stays


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("two]", "three]"), "names three, which no source has"),
        (("share: 0.3, ", ""), "source 2 lacks a name or a share"),
        (("steps: 7", "stepps: 7"), "no training setting stepps"),
        (("profile: fast", "profile: quick"), "names the profile 'quick'"),
        (("attribution:", "attributions:"), "unknown entries"),
        (("$DATA/maps", "$DATA/nowhere"), "no label maps to paint"),
        (("paint: $DATA/maps", "draw: x"), "neither cases, paint nor sample"),
    ],
)
def test_a_mix_that_is_wrong_says_where(tmp_path, data, change, message):
    (tmp_path / "mix.yaml").write_text(MIX.replace(*change))
    with pytest.raises(ModelError, match=message):
        read_mix(tmp_path / "mix.yaml", tmp_path / "work", data)


def test_a_mix_that_wants_data_says_how_to_give_it(tmp_path, data):
    (tmp_path / "mix.yaml").write_text(MIX)
    with pytest.raises(ModelError) as told:
        read_mix(tmp_path / "mix.yaml", tmp_path / "work")
    assert "--data" in told.value.hint
