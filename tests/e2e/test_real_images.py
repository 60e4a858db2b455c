"""The main job on real images, where they are: it must run, and say honestly what it finds."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

from doselabel.dosimetry.options import DoseOptions
from doselabel.dosimetry.pipeline import run

ROOT = Path(__file__).parents[2]
DATA = ROOT.parent / "shared" / "data" / "lu177_patient_voxel_phantom"

pytestmark = pytest.mark.skipif(
    not DATA.is_dir(), reason=f"the real images are not here ({DATA}); they are no part of the project"
)


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """The benchmark's study of a real 177Lu patient, with expert masks and the model's."""
    spec = importlib.util.spec_from_file_location("real_dose", ROOT / "benchmarks" / "real_dose.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["real_dose"] = module
    spec.loader.exec_module(module)
    return module.make_study(DATA, tmp_path_factory.mktemp("real") / "study")


def test_a_real_low_dose_ct_is_segmented_with_the_right_sides(real):
    _, overlap = real
    assert set(overlap) >= {"left_kidney", "right_kidney", "liver"}
    for organ in ("left_kidney", "right_kidney", "liver"):
        # The starter model was trained on this very patient: this shows that the chain works, not how well.
        assert overlap[organ] > 0.7, overlap


@pytest.mark.parametrize("side", ["expert", "model"])
def test_a_dose_is_computed_from_one_real_time_point(real, side):
    study, _ = real
    # One point needs a half-life; the images state none, so this one is assumed, like the time.
    options = DoseOptions(
        voi="margin", margin_mm=0.0, tac="hanscheid", registration="identity", population_half_life_h=30.0
    )
    results = run(study, study.folder / side, options)
    for name in ("left_kidney", "right_kidney", "liver"):
        organ = results.organs[name]
        assert 0.05 < organ.mean_dose_gy < 10
        assert organ.dose_sd_gy > 0
        assert max(organ.dose_gy_by_engine.values()) / min(organ.dose_gy_by_engine.values()) < 1.15
    assert not results.reviewed
