"""Red marrow: both estimates against numbers worked out by hand, and within the chain."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import numpy as np
import pytest

from doselabel.dosimetry import pipeline
from doselabel.dosimetry.marrow import (
    REGION,
    Samples,
    body_photons_gy,
    by_blood,
    by_region,
    implausible,
    read_samples,
    region_photons_gy,
)
from doselabel.dosimetry.options import DoseOptions
from doselabel.errors import StudyError
from doselabel.labels import LabelMap, read_labels, write_labels
from doselabel.nuclides import KEV_IN_JOULE, nuclide
from doselabel.study import Study

LU = nuclide("Lu-177")
TIME_H = (0.25, 1.0, 3.0, 8.0, 24.0, 72.0)
PLAIN = DoseOptions(registration="stored")


def blood(*times_h: float) -> Samples:
    """60 e^(-0.6 t) + 8 e^(-0.03 t) kBq/mL: 60/0.6 + 8/0.03 = 366.67 kBq·h/mL."""
    return Samples(times_h, tuple(60 * math.exp(-0.6 * t) + 8 * math.exp(-0.03 * t) for t in times_h))


def test_blood_gives_what_its_two_phases_integrate_to():
    found = by_blood(blood(*TIME_H), 1e5, LU, DoseOptions())
    # 0.36667 MBq·h/g · 0.08532 g·Gy/(MBq·h)
    assert found.self_gy == pytest.approx(0.031284, rel=2e-4)
    assert found.dose_gy == found.self_gy + found.photons_gy
    assert found.effective_half_life_h == pytest.approx(math.log(2) / 0.03, rel=1e-3)
    assert 0.3 * found.self_gy < found.dose_sd_gy < 0.5 * found.dose_gy


def test_a_haematocrit_or_a_stated_ratio_scales_it():
    plain = by_blood(blood(*TIME_H), 1e5, LU, DoseOptions()).self_gy
    by_haematocrit = by_blood(blood(*TIME_H), 1e5, LU, DoseOptions(hematocrit=0.40))
    assert by_haematocrit.self_gy == pytest.approx(plain * 0.19 / 0.60)
    assert any("0.32, by a haematocrit of 0.4" in text for text in by_haematocrit.said)
    assert by_blood(blood(*TIME_H), 1e5, LU, DoseOptions(marrow_to_blood=0.36)).self_gy == pytest.approx(0.36 * plain)


def test_few_samples_are_one_phase():
    found = by_blood(blood(8.0, 24.0, 72.0), 1e5, LU, DoseOptions())
    assert "'mono'" in found.said[0]
    assert found.self_gy == pytest.approx(8 / 0.03 / 1000 * 0.08532, rel=0.05)  # the fast phase is over by then


def test_the_photons_of_a_body():
    """0.37 of photons of 100 keV and 0.34 of 200 keV stay in a body (MIRD Pamphlet 5, revised), more of X rays."""
    gy = body_photons_gy(1e5, 73.0, LU)
    all_absorbed = 1e5 * 1e6 * 3600 * LU.photon_kev * KEV_IN_JOULE / 73.0
    assert gy / all_absorbed == pytest.approx(0.40, abs=0.05)
    assert body_photons_gy(2e5, 73.0, LU) == pytest.approx(2 * gy)
    assert body_photons_gy(1e5, 50.0, LU) > 1.2 * gy
    assert body_photons_gy(1e5, 73.0, nuclide("Y-90")) < 0.05 * gy


@pytest.fixture(scope="module")
def with_marrow(three_organs: Study, tmp_path_factory: pytest.TempPathFactory) -> Study:
    """The three organs, the right kidney called the marrow of L2 to L4, and blood samples."""
    folder = tmp_path_factory.mktemp("marrow") / "study"
    shutil.copytree(three_organs.folder, folder)
    for file in (folder / "truth").glob("*.nii.gz"):
        labels = read_labels(file)
        names = {v: REGION if n == "right_kidney" else n for v, n in labels.names.items()}
        write_labels(file, LabelMap(labels.array, labels.geometry, names))
    samples = blood(*TIME_H)
    rows = [f"{t},{c * 1000}" for t, c in zip(samples.time_h, samples.kbq_ml, strict=True)]
    (folder / "blood.csv").write_text("\n".join(["time_h,activity_bq_ml", *rows]), "utf-8")
    study = Study.load(folder)
    study.blood_samples = "blood.csv"
    study.save()
    return Study.load(folder)


def test_the_chain_gives_both(with_marrow: Study) -> None:
    results = pipeline.run(with_marrow, with_marrow.folder / "truth", PLAIN)
    image, sampled = results.marrow
    region = results.organs[REGION]
    assert (image.method, sampled.method) == ("image", "blood")
    assert image.self_gy == pytest.approx(region.tia_mbq_h / 0.067 * 0.08532 / 1170, rel=1e-3)
    assert image.photons_gy == sampled.photons_gy == pytest.approx(region_photons_gy(region))
    assert 0 < image.photons_gy < 0.2 * region.mean_dose_gy
    assert sampled.self_gy == pytest.approx(0.031284, rel=2e-4)
    woman = by_region(region, LU, DoseOptions(marrow_mass_g=900.0, marrow_region_share=0.08))
    assert woman.self_gy == pytest.approx(image.self_gy * 1170 / 900 * 0.067 / 0.08)
    assert "blood.csv" in results.provenance["inputs"]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("time_h,activity\n1,2\n3,4\n", "columns time_h, activity"),
        ("time_h,activity_kbq_ml\n1,2\n", "times (1.0,) h"),
        ("time_h,activity_kbq_ml\n3,2\n1,4\n", "times (3.0, 1.0) h"),
        ("time_h,activity_kbq_ml\n1,2\n3,many\n", "many"),
        ("time_h,activity_kbq_ml\n1,5,20\n4,0,7\n", "more values than columns"),  # decimal commas
        ("time_h;activity_kbq_ml\n1;2\n3;4\n", "columns time_h;activity_kbq_ml"),
        ("time_min,activity_kbq_ml\n1,2\n3,4\n", "columns time_min"),
        ("time_h,activity_kbq_ml,activity_bq_ml\n1,2,3\n3,4,5\n", "columns time_h, activity_kbq_ml, activity_bq_ml"),
        ("time_h,activity_kbq_ml\n-1,2\n3,4\n", "times (-1.0, 3.0) h"),
        ("time_h,activity_kbq_ml\n1,nan\n3,4\n", "nan"),
        ("time_h,activity_kbq_ml\n1\n3,4\n", "None"),
        ("", "columns none"),
    ],
)
def test_samples_that_cannot_be_read_are_said(text, found, tmp_path: Path):
    file = tmp_path / "blood.csv"
    file.write_text(text, "utf-8")
    with pytest.raises(StudyError, match="can't be read as blood samples") as caught:
        read_samples(file)
    assert found in caught.value.message
    assert "activity_kbq_ml" in caught.value.hint


def test_blood_that_holds_more_than_was_injected_is_refused_and_hardly_any_is_said() -> None:
    good = blood(*TIME_H)  # 4 % of 7400 MBq after a quarter of an hour
    assert implausible(good, 7400.0, LU, 73.0) == ""
    in_bq = Samples(good.time_h, tuple(1000 * v for v in good.kbq_ml))
    with pytest.raises(StudyError, match=r"would hold 41\.\d times what is left of the injected") as caught:
        implausible(in_bq, 7400.0, LU, 73.0)
    assert "activity_bq_ml" in caught.value.hint
    in_mbq = Samples(good.time_h, tuple(v / 1000 for v in good.kbq_ml))
    assert "Is the column's unit right?" in implausible(in_mbq, 7400.0, LU, 73.0)
    assert implausible(Samples(in_mbq.time_h[3:], in_mbq.kbq_ml[3:]), 7400.0, LU, 73.0) == ""  # late blood may be empty


def test_bad_samples_are_an_alarm_beside_the_organs(with_marrow: Study, tmp_path: Path) -> None:
    shutil.copytree(with_marrow.folder, tmp_path / "study")
    (tmp_path / "study" / "blood.csv").write_text("nothing", "utf-8")
    study = Study.load(tmp_path / "study")
    results = pipeline.run(study, study.folder / "truth", PLAIN.model_copy(update={"organs": ("liver",)}))
    assert results.marrow == []
    assert any(a.code == "organ-failed" and "Bone marrow" in a.sentence for a in results.grave())
    assert np.isfinite(results.organs["liver"].mean_dose_gy)
    both = pipeline.run(study, study.folder / "truth", PLAIN.model_copy(update={"organs": ("liver", REGION)}))
    assert [m.method for m in both.marrow] == ["image"]  # what fails by blood leaves the other way
    (tmp_path / "study" / "blood.csv").unlink()
    with pytest.raises(StudyError, match="blood_samples"):
        Study.load(tmp_path / "study")
