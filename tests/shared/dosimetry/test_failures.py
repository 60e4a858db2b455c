"""One organ's failure stays its own: it is reported with its reason, and the others come out unchanged."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from doselabel.dosimetry import pipeline
from doselabel.dosimetry.failures import Failures, OrganFailures, with_the_rest
from doselabel.dosimetry.options import DoseOptions
from doselabel.errors import DoseError, FitError, LabelError, VoiError
from doselabel.geometry import Volume, read_image, write_image
from doselabel.labels import LabelMap, read_labels, write_labels
from doselabel.study import Study

OTHERS = ("left_kidney", "liver")


@pytest.fixture(scope="module")
def small(known: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Kidneys and liver on a small grid with a body of its own, three time points."""
    return known.make_study(
        tmp_path_factory.mktemp("failures") / "study",
        known.KIDNEYS_AND_LIVER,
        spect_grid=known.centred((40, 44, 56), (6.0, 6.0, 6.0)),
        ct_grid=known.centred((60, 66, 84), (4.0, 4.0, 4.0)),
        times_h=(24.0, 72.0, 120.0),
        background_bq_ml=2000.0,
    )


def with_an_excluded_kidney(study: Study) -> DoseOptions:
    labels = read_labels(study.folder / "truth" / "ct.nii.gz")
    write_image(study.path("shut.nii.gz"), Volume(labels.mask("right_kidney").astype(np.uint8), labels.geometry))
    study.time_points[1].exclude = {"right_kidney": "shut.nii.gz"}
    return DoseOptions(registration="stored")


def with_a_kidney_that_is_still_filling(study: Study) -> DoseOptions:
    """Nothing of it in the first SPECT, so that no falling exponential passes through its points."""
    spect = read_image(study.path("spect_tp1.nii.gz"))
    half = np.where(np.arange(spect.array.shape[2]) < 24, 0.05, 1.0)
    write_image(study.path("spect_tp1.nii.gz"), Volume((spect.array * half).astype(np.float32), spect.geometry))
    return DoseOptions(registration="stored", tac="mono", organs=(OTHERS[0], "right_kidney"))


def with_a_kidney_beyond_a_low_dose_ct(study: Study) -> DoseOptions:
    """The low-dose CT of the second time point ends before the right kidney begins."""
    ct = read_image(study.path("ct.nii.gz"))
    kept = slice(38, None)
    from doselabel.dosimetry.alignment.grids import cut

    geometry = cut(ct.geometry, (slice(0, 60), slice(0, 66), slice(38, 84)))
    write_image(study.path("ct_tp2.nii.gz"), Volume(ct.array[:, :, kept], geometry))
    labels = read_labels(study.folder / "truth" / "ct.nii.gz")
    write_labels(study.folder / "truth" / "ct_tp2.nii.gz", LabelMap(labels.array[:, :, kept], geometry))
    study.time_points[1].ct = "ct_tp2.nii.gz"
    return DoseOptions(registration="stored", organs=(OTHERS[0], "right_kidney"))


def with_a_hot_spot_in_a_kidney(study: Study) -> DoseOptions:
    """Two voxels of the second SPECT ten times as hot: a threshold of their maximum finds them alone."""
    spect = read_image(study.path("spect_tp2.nii.gz"))
    array = spect.array.astype(np.float32)
    array[18, 27, 15:17] *= 10
    write_image(study.path("spect_tp2.nii.gz"), Volume(array, spect.geometry))
    return DoseOptions(registration="stored", voi="threshold", organs=(OTHERS[0], "right_kidney"))


@pytest.mark.parametrize(
    ("spoil", "failing", "reason"),
    [
        (with_an_excluded_kidney, "right_kidney", r"Time point 2: Only \d+% of 'right_kidney' can be counted"),
        (with_a_kidney_that_is_still_filling, "right_kidney", "right_kidney: .*uptake limb"),
        (with_a_kidney_beyond_a_low_dose_ct, "right_kidney", "Time point 2: Right kidney lies outside the CT"),
        (with_a_hot_spot_in_a_kidney, "right_kidney", r"Time point 2: 'right_kidney': .* 'threshold' finds holds \d%"),
    ],
)
def test_the_others_come_out_as_if_the_organ_had_not_been_asked_for(
    small: Study, tmp_path: Path, spoil: Callable[[Study], DoseOptions], failing: str, reason: str
) -> None:
    shutil.copytree(small.folder, tmp_path / "study")
    study = Study.load(tmp_path / "study")
    options = spoil(study)
    found = pipeline.compute(study, study.folder / "truth", options)
    assert set(found.results.failed) == {failing}
    told = found.results.failed[failing]
    assert told.hint
    assert told.code in ("voi", "fit")
    assert re.search(reason, told.message)
    assert failing not in found.results.organs
    assert any("could not be computed" in text and told.message in text for text in found.results.warnings)

    rest = tuple(found.results.organs)
    alone = pipeline.compute(study, study.folder / "truth", options.model_copy(update={"organs": rest}))
    assert alone.results.failed == {}
    assert alone.results.organs == found.results.organs
    np.testing.assert_array_equal(alone.dose.array, found.dose.array)


def test_an_organ_that_is_not_in_the_map_does_not_stop_those_that_are(small: Study) -> None:
    asked = DoseOptions(registration="stored", organs=("left_kidney", "spleen"))
    results = pipeline.run(small, small.folder / "truth", asked)
    assert set(results.organs) == {"left_kidney"}
    assert "no Spleen" in results.failed["spleen"].message
    plain = pipeline.run(small, small.folder / "truth", DoseOptions(registration="stored", organs=("left_kidney",)))
    assert results.organs == plain.organs


def test_names_that_nobody_has_are_said_and_those_that_are_meant_count(small: Study, tmp_path: Path) -> None:
    shutil.copytree(small.folder, tmp_path / "study")
    study = Study.load(tmp_path / "study")
    labels = read_labels(study.folder / "truth" / "ct.nii.gz")
    array = np.zeros(labels.array.shape, np.uint8)
    array[labels.mask("left_kidney")] = np.arange(labels.mask("left_kidney").sum()) % 4 == 0
    write_image(study.path("urine.nii.gz"), Volume(array, labels.geometry))
    study.time_points[0].exclude = {"Kidney_L": "urine.nii.gz", "rigth kidney": "urine.nii.gz"}
    assert list(study.time_points[0].exclude) == ["left_kidney", "rigth_kidney"]
    options = DoseOptions.read(
        {
            "registration": "stored",
            "organ_density_g_cm3": "lver:1.1/spleen:1.04",  # the patient may have no spleen; nobody has a lver
            "alpha_beta_gy": "liver:2.5/tumour_5:10",
            "earlier_half_life_h": "liver:60",
        }
    )
    found = pipeline.run(study, study.folder / "truth", options)
    has = "and the label map has left_kidney, right_kidney, liver: it changes nothing."
    said = [text for text in found.warnings if "changes nothing" in text or "not used" in text]
    assert said == [
        f"organ_density_g_cm3 names lver, {has}",
        f"alpha_beta_gy names tumour_5, {has}",
        f"time_points[0].exclude names rigth_kidney, {has}",
        "earlier_half_life_h is stated and not used: half_life_prior is 'none'.",
    ]
    plain = pipeline.run(small, small.folder / "truth", DoseOptions(registration="stored"))
    changed = [n for n, o in found.organs.items() if o.activity_mbq[0] != plain.organs[n].activity_mbq[0]]
    assert "left_kidney" in changed


@pytest.mark.parametrize("field", ["population_half_life_h", "earlier_half_life_h"])
def test_a_half_life_beyond_the_physical_one_is_refused_by_its_name(small: Study, field: str) -> None:
    options = DoseOptions.read({field: "liver:900", "half_life_prior": "patient"})
    with pytest.raises(DoseError, match=rf"{field} of liver is 900 h; .* Lu-177 is at most .* 159\.5 h"):
        pipeline.run(small, small.folder / "truth", options)


@pytest.mark.parametrize(
    "given",
    [
        {"organ_density_g_cm3": "liver:1060"},  # kg/m³
        {"alpha_beta_gy": "liver:250"},
        {"repair_half_life_h": 168},  # minutes
        {"marrow_mass_g": 1.17},  # kg
        {"psf_fwhm_mm": "120/120/120"},
    ],
    ids=lambda given: next(iter(given)),
)
def test_a_number_in_another_unit_is_refused_by_its_option(given: dict) -> None:
    (name,) = given
    with pytest.raises(DoseError, match=name) as caught:
        DoseOptions.read(given)
    assert "units are in the names" in caught.value.hint


def test_an_organ_that_a_lesion_covers_whole_and_a_region_without_voxels_are_said(small: Study, tmp_path: Path) -> None:
    labels = read_labels(small.folder / "truth" / "ct.nii.gz")
    names = {**labels.names, 7: "tumour_1", 8: "cyst 2"}
    array = np.where(labels.mask("liver"), 7, labels.array).astype(np.uint8)
    write_labels(tmp_path / "ct.nii.gz", LabelMap(array, labels.geometry, names))
    results = pipeline.run(small, tmp_path, DoseOptions(registration="stored"))
    assert set(results.organs) == {"left_kidney", "right_kidney", "tumour_1"}
    said = " ".join(results.warnings)
    assert "Liver has no mask on the diagnostic CT, so no dose" in said
    assert "Cyst 2 has a name and no voxels" in said
    write_labels(tmp_path / "ct.nii.gz", LabelMap(array, labels.geometry, {**names, 7: "1st lesion!"}))
    with pytest.raises(LabelError, match=r"ct\.nii\.gz: '1st lesion!' is no name for a region"):
        pipeline.run(small, tmp_path, DoseOptions(registration="stored"))


def test_when_no_organ_is_left_the_first_reason_is_raised() -> None:
    def compute(organs: tuple[str, ...]) -> str:
        raise OrganFailures({organs[0]: FitError(f"{organs[0]}: no curve.", "Add points.")})

    with pytest.raises(FitError, match=r"liver: no curve\. \(Nor could Spleen be computed\.\)") as caught:
        with_the_rest(("liver", "spleen"), {}, compute)
    assert caught.value.hint == "Add points."


def test_the_first_reason_of_an_organ_counts_and_other_errors_pass() -> None:
    failures = Failures()
    for text in ("first", "second"):
        with failures.of("liver"):
            raise VoiError(text)
    failures.add({"liver": DoseError("third"), "spleen": DoseError("own")})
    with pytest.raises(OrganFailures) as caught:
        failures.settle()
    assert {name: error.message for name, error in caught.value.reasons.items()} == {"liver": "first", "spleen": "own"}
    with pytest.raises(ZeroDivisionError), failures.of("liver"):
        _ = 1 / 0
