"""Cases in one file: what comes out on the other machine is what was packed, and the same recipe trains on it."""

import zipfile
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from doselabel.cli import main
from doselabel.errors import ModelError
from doselabel.model.cache import Prepared, prepare
from doselabel.model.carry import STEP_HU, pack, packed_cases
from doselabel.model.profiles import FAST_SPECT
from doselabel.model.slices import CLIP_HU
from doselabel.model.train import Source, train
from tests.shared.model.conftest import SMALL


@pytest.fixture
def packed(tmp_path, case):
    file = tmp_path / "cases.zip"
    size = pack([Source("real", 1.0, [case])], SMALL, file, tmp_path / "prepared")
    assert size == file.stat().st_size
    return file


def test_hu_come_back_within_half_a_step_and_classes_exactly(tmp_path, case, packed):
    (was,) = prepare([case], SMALL, tmp_path / "prepared")
    (came,) = prepare(packed_cases(packed, tmp_path / "there")["real"], SMALL, tmp_path / "nowhere")
    clipped = was.hu.clip(*CLIP_HU).astype(float)
    assert np.abs(came.hu - clipped).max() <= STEP_HU / 2 + 0.5  # HU are whole numbers
    assert np.array_equal(came.classes, was.classes)
    names = [field.name for field in fields(Prepared) if field.name not in ("home", "hu", "classes")]
    assert [getattr(came, name) for name in names] == [getattr(was, name) for name in names]
    assert packed.stat().st_size < 0.5 * (was.hu.size + was.classes.size)


def test_training_on_them_is_training_on_the_cases(tmp_path, case, packed):
    torch.set_num_threads(1)
    ready = packed_cases(packed, tmp_path / "there")["real"]
    told = dict(profile=SMALL, steps=4, batch=2, seed=1)
    here, there = (
        train([Source("real", 1.0, cases)], tmp_path / name, **told) for name, cases in (("a", [case]), ("b", ready))
    )
    losses = [[row["loss"] for row in result.history] for result in (here, there)]
    assert losses[0] == pytest.approx(losses[1], rel=0.02)  # the rounding of HU is all that differs


RECIPE = """
sources: [{name: real, share: 1.0, cases: $DATA}]
validation: [two]
profile: fast
settings: {steps: 1, batch: 1}
"""


def test_one_command_packs_and_the_other_machine_needs_no_data(tmp_path, case):
    for name in ("one", "two"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for file, source in (("ct.nii.gz", case.ct), ("labels.nii.gz", case.labels)):
            (tmp_path / "data" / name / file).write_bytes(source.read_bytes())
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE)
    file = tmp_path / "cases.zip"
    told = ["train", "--recipe", str(recipe), "--out"]
    main([*told, str(tmp_path / "here"), "--data", str(tmp_path / "data"), "--pack", str(file)])
    with zipfile.ZipFile(file) as archive:
        assert {name.split("/")[1] for name in archive.namelist()} == {"0000"}  # the validation patient stays
    assert not (tmp_path / "here" / "model.safetensors").exists()
    main([*told, str(tmp_path / "there"), "--packed", str(file)])
    assert load_file(tmp_path / "there" / "model.safetensors")


def test_another_file_of_the_same_name_is_unpacked_anew(tmp_path, case, packed):
    packed_cases(packed, tmp_path / "there")
    pack([Source("real", 1.0, [replace(case, patient="another")])], SMALL, packed, tmp_path / "prepared")
    (came,) = packed_cases(packed, tmp_path / "there")["real"]
    assert came.patient == "another"


def test_what_does_not_fit_is_refused(tmp_path, case, packed):
    (ready,) = packed_cases(packed, tmp_path / "there")["real"]
    for other in (SMALL.of_organs(["liver"]), replace(SMALL, classes=SMALL.classes[::-1])):  # numbers mean other organs
        with pytest.raises(ModelError, match="was packed for"):
            prepare([ready], other, tmp_path / "nowhere")
    with pytest.raises(ModelError, match="parenchyma where the CTs are"):
        train([ready], tmp_path / "run", profile=SMALL, stages="all:1:1e-3:parenchyma", steps=1)
    with pytest.raises(ModelError, match="SPECT can't be packed"):
        pack([Source("real", 1.0, [case])], FAST_SPECT, tmp_path / "no.zip", tmp_path / "prepared")
    data = packed.read_bytes()
    for damaged in (data[: len(data) // 2], b"", data[:2000] + b"\xff" * 400 + data[2400:]):
        packed.write_bytes(damaged)
        with pytest.raises(ModelError, match="damaged"):
            packed_cases(packed, tmp_path / "damaged")
