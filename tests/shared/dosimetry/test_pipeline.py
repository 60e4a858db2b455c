"""The chain from study to dose against analytic phantoms (T10 of the dosimetry design), and what it refuses."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import ndimage

from doselabel.dosimetry import pipeline
from doselabel.dosimetry.options import DoseOptions
from doselabel.dosimetry.physics.kernels import Ellipsoid, self_s_value
from doselabel.dosimetry.results import read_dose, store_registration
from doselabel.dosimetry.uptake.masks import resolve
from doselabel.errors import (
    Cancelled,
    DoseError,
    DoselabelError,
    FitError,
    GeometryError,
    LabelError,
    StudyError,
    VoiError,
)
from doselabel.geometry import Geometry, Volume, read_image, resample, write_image
from doselabel.labels import LabelMap, organ, read_labels, write_labels
from doselabel.study import Study, image_id
from doselabel.wire import DoseResults, LabelVersion

PLAIN = DoseOptions(registration="stored")


@pytest.fixture(scope="module")
def one_kidney(tmp_path_factory: pytest.TempPathFactory, known: SimpleNamespace) -> Study:
    """T10: one ellipsoid of known activity, curve and PSF; nothing else in the body."""
    return known.make_study(
        tmp_path_factory.mktemp("t10") / "one",
        known.ONE_KIDNEY,
        spect_grid=known.centred((40, 32, 32), (4.42, 4.42, 4.42)),
        ct_grid=known.centred((52, 42, 42), (3.0, 3.0, 3.0)),
        body_mm=(1e4, 55.0, 55.0),
    )


@pytest.fixture(scope="module")
def done(three_organs: Study, tmp_path_factory: pytest.TempPathFactory) -> tuple[DoseResults, Path, Path]:
    """A run on the three-organ study: results, output folder, cache folder."""
    out, cache = tmp_path_factory.mktemp("out"), tmp_path_factory.mktemp("cache")
    return pipeline.run(three_organs, three_organs.folder / "truth", out=out, cache=cache), out, cache


def analytic_gy(shape: object, density_g_cm3: float) -> float:
    """TIA × S of the ellipsoid itself, from the radial kernel by exact geometry: no voxels."""
    s = self_s_value(Ellipsoid(shape.semi_mm), "Lu-177", density_g_cm3=density_g_cm3)
    return shape.tia_mbq_h * 3600 * s / 1000


@pytest.mark.parametrize("engine", ["voxel-s", "organ"])
def test_t10_dose_is_within_two_percent_of_the_analytic_value(
    one_kidney: Study, known: SimpleNamespace, engine: str
) -> None:
    result = pipeline.run(one_kidney, one_kidney.folder / "truth", DoseOptions(engine=engine)).organs["left_kidney"]
    true = known.ONE_KIDNEY["left_kidney"]
    assert result.mean_dose_gy == pytest.approx(analytic_gy(true, 1.06), rel=0.02)
    assert result.tia_mbq_h == pytest.approx(true.tia_mbq_h, rel=0.01)
    assert result.effective_half_life_h == pytest.approx(50, rel=0.01)
    assert result.activity_mbq == pytest.approx([true.activity_mbq(t) for t in known.TIME_H], rel=0.01)


def test_three_organs_in_a_warm_body_with_one_scan_eight_millimetres_off(done: tuple, known: SimpleNamespace) -> None:
    results = done[0]
    for name, true in known.KIDNEYS_AND_LIVER.items():
        found = results.organs[name]
        assert found.tia_mbq_h == pytest.approx(true.tia_mbq_h, rel=0.01)
        # Photons from the other organs and the body add up to some per cent: the analytic value is the self-dose.
        assert 0.99 < found.mean_dose_gy / analytic_gy(true, organ(name).density_g_cm3) < 1.03
        assert found.mass_g == pytest.approx(true.volume_ml * organ(name).density_g_cm3, rel=0.01)
    moved = results.registration[2]
    assert moved["method"] == "organ"
    assert moved["shift_mm"] == pytest.approx(8.06, abs=0.5)
    assert [r["method"] for r in results.registration[:2]] == ["identity", "identity"]
    assert any("8.1 mm apart" in text for text in results.warnings)


def test_a_margin_is_biased_as_the_design_predicts(one_kidney: Study, known: SimpleNamespace) -> None:
    margin = pipeline.run(one_kidney, one_kidney.folder / "truth", DoseOptions(voi="margin"))
    found, true = margin.organs["left_kidney"], known.ONE_KIDNEY["left_kidney"]
    # 0.908 for σ 5.1 mm; SPECT voxels of 4.42 mm blur a little more.
    assert found.tia_mbq_h / true.tia_mbq_h == pytest.approx(0.908, abs=0.015)
    assert found.recovery_coefficient[0] == pytest.approx(found.tia_mbq_h / true.tia_mbq_h, abs=0.01)


def test_the_map_the_histogram_and_the_table_agree(done: tuple) -> None:
    results, out, _ = done
    written = read_image(out / "dose.nii.gz")
    assert written.array.dtype == np.float32
    masks = read_labels(out / "masks_ct.nii.gz")
    assert written.geometry.same_place(masks.geometry)
    for name, found in results.organs.items():
        assert float(written.array[masks.mask(name)].mean()) == pytest.approx(found.mean_dose_gy, rel=1e-3)
        assert found.dvh.mean_gy == pytest.approx(found.mean_dose_gy, rel=1e-3)
        assert found.dose_gy_by_engine["voxel-s"] == pytest.approx(found.mean_dose_gy)
        assert found.dvh.d_gy["D98"] < found.dvh.d_gy["D50"] < found.dvh.d_gy["D2"]
        assert found.bed_gy is None or found.bed_gy > found.mean_dose_gy


def test_what_is_written_can_be_read_and_says_what_made_it(done: tuple, three_organs: Study) -> None:
    results, out, _ = done
    again, _ = read_dose(out)
    assert again == results
    content = json.loads((out / "results.json").read_text("utf-8"))
    assert content["schema"] == "doselabel.results/1"
    made = content["provenance"]
    assert len(made["inputs"]["ct.nii.gz"]) == 64
    assert set(three_organs.cts().values()) <= set(made["inputs"])
    assert made["kernel"]["nuclide"] == "Lu-177"
    assert made["software"]["doselabel"]
    assert content["options"]["voi"] == "gtm"
    regions = read_labels(out / "voi_tp1.nii.gz")
    assert set(regions.present()) == set(results.organs)


def test_a_finer_ct_gives_the_same_dose_and_a_map_on_its_own_grid(
    one_kidney: Study, known: SimpleNamespace, tmp_path: Path
) -> None:
    study = copied(one_kidney, tmp_path)
    grid = known.centred((78, 105, 105), (2.0, 1.2, 1.2))
    ct = read_image(study.path("ct.nii.gz"))
    write_image(study.path("ct.nii.gz"), resample(ct, grid, fill=-1000))
    write_labels(study.folder / "truth" / "ct.nii.gz", known.label_map(grid, known.ONE_KIDNEY))
    done = pipeline.compute(study, study.folder / "truth", PLAIN)
    found = done.results.organs["left_kidney"]
    assert found.mean_dose_gy == pytest.approx(analytic_gy(known.ONE_KIDNEY["left_kidney"], 1.06), rel=0.02)
    assert done.dose.geometry.same_place(grid)
    inside = done.dose.array[done.labels["ct.nii.gz"].mask("left_kidney")]
    assert float(inside.mean()) == pytest.approx(found.mean_dose_gy, rel=1e-3)
    assert float(inside.std()) < 0.06 * found.mean_dose_gy


def test_the_map_can_lie_on_the_spects_grid(one_kidney: Study) -> None:
    done = pipeline.compute(one_kidney, one_kidney.folder / "truth", DoseOptions(grid="spect", registration="stored"))
    spect = read_image(one_kidney.path("spect_tp3.nii.gz"))
    assert done.dose.geometry.same_place(spect.geometry)
    hottest = np.unravel_index(done.dose.array.argmax(), done.dose.array.shape)
    assert spect.array[hottest] > 0.5 * spect.array.max()


def test_voxel_wise_fits_and_density_give_nearly_the_same_mean(one_kidney: Study) -> None:
    truth = one_kidney.folder / "truth"
    plain = pipeline.run(one_kidney, truth, PLAIN).organs["left_kidney"]
    for options in (
        DoseOptions(tia_map="voxel_fit", registration="stored"),
        DoseOptions(density="ct", registration="stored"),
    ):
        found = pipeline.run(one_kidney, truth, options).organs["left_kidney"]
        assert found.mean_dose_gy == pytest.approx(plain.mean_dose_gy, rel=0.01)


def test_the_diagnostic_mask_alone_is_carried_to_the_time_points(known: SimpleNamespace, tmp_path: Path) -> None:
    grid = known.centred((66, 68, 90), (4.0, 4.0, 4.0))
    study = known.make_study(
        tmp_path / "file",
        known.KIDNEYS_AND_LIVER,
        spect_grid=known.centred((60, 64, 84), (4.42, 4.42, 4.42)),
        ct_grid=known.centred((88, 92, 120), (3.0, 3.0, 3.0)),
        times_h=(72.0,),
        tp_ct_grid=grid,
    )
    cache = tmp_path / "cache"
    one_point = DoseOptions(population_half_life_h=50.0)
    results = pipeline.run(study, study.folder / "truth" / "ct.nii.gz", one_point, cache=cache)
    assert any("brought over by rigid registration" in text for text in results.warnings)
    for name, true in known.KIDNEYS_AND_LIVER.items():
        assert results.organs[name].activity_mbq[0] == pytest.approx(true.activity_mbq(72.0), rel=0.03)
    again = pipeline.run(study, study.folder / "truth" / "ct.nii.gz", one_point, cache=cache)
    assert "registration of 'ct_tp1.nii.gz' to the diagnostic CT" in again.provenance["reused"]


def test_an_organ_missing_at_one_time_point_is_filled_in_and_said_so(known: SimpleNamespace, tmp_path: Path) -> None:
    study = known.make_study(
        tmp_path / "gap",
        known.KIDNEYS_AND_LIVER,
        spect_grid=known.centred((60, 64, 84), (4.42, 4.42, 4.42)),
        ct_grid=known.centred((88, 92, 120), (3.0, 3.0, 3.0)),
        times_h=(6.0, 72.0),
        tp_ct_grid=known.centred((66, 68, 90), (4.0, 4.0, 4.0)),
    )
    path = study.folder / "truth" / "ct_tp2.nii.gz"
    labels = read_labels(path)
    write_labels(path, LabelMap(np.where(labels.array == 3, 0, labels.array).astype(np.uint8), labels.geometry))
    results = pipeline.run(study, study.folder / "truth", PLAIN)
    assert any("lack Liver" in text for text in results.warnings)
    true = known.KIDNEYS_AND_LIVER["liver"].activity_mbq(72.0)
    assert results.organs["liver"].activity_mbq[1] == pytest.approx(true, rel=0.03)


def test_a_label_edit_at_one_time_point_recomputes_only_that(done: tuple, three_organs: Study, tmp_path: Path) -> None:
    results, _, cache = done
    again = pipeline.run(three_organs, three_organs.folder / "truth", cache=cache)
    assert {name: o.mean_dose_gy for name, o in again.organs.items()} == {
        name: o.mean_dose_gy for name, o in results.organs.items()
    }
    assert len(again.provenance["reused"]) == 8
    assert "organ activities of time point 3" in again.provenance["reused"]
    study = copied(three_organs, tmp_path)
    for i in (1, 2, 3, 4):
        for folder in ("", "truth"):
            shutil.copy(study.folder / folder / "ct.nii.gz", study.folder / folder / f"ct_tp{i}.nii.gz")
        study.time_points[i - 1].ct = f"ct_tp{i}.nii.gz"
    labels = read_labels(study.folder / "truth" / "ct_tp2.nii.gz")
    edited = labels.array.copy()
    edited[:, 30:32, :] = 0
    write_labels(study.folder / "truth" / "ct_tp2.nii.gz", LabelMap(edited, labels.geometry))
    fresh = pipeline.run(study, study.folder / "truth", cache=cache)
    assert fresh.provenance["reused"] == [
        f"{what} of time point {i}" for i in (1, 3, 4) for what in ("registration", "organ activities")
    ]


def test_an_absent_organ_with_a_mask_is_left_out_and_said_so(three_organs: Study, tmp_path: Path) -> None:
    study = copied(three_organs, tmp_path)
    study.organs_absent = ("right_kidney",)
    results = pipeline.run(study, study.folder / "truth", PLAIN)
    assert set(results.organs) == {"left_kidney", "liver"}
    assert any("said to be absent" in text for text in results.warnings)


def test_urine_excluded_at_one_time_point_by_a_mask_of_the_study_or_drawn_in_the_labels(
    three_organs: Study, known: SimpleNamespace, tmp_path: Path
) -> None:
    study = copied(three_organs, tmp_path)
    spect = read_image(study.path("spect_tp1.nii.gz"))
    urine = ndimage.gaussian_filter(known.inside(spect.geometry, (0, 26, 44), (12, 10, 9), 4), 5.1 / 4.42)
    write_image(study.path("spect_tp1.nii.gz"), Volume(spect.array + (6e6 * urine).astype(np.float32), spect.geometry))
    grid = read_image(study.path("ct.nii.gz")).geometry
    shut = (known.inside(grid, (0, 26, 44), (13, 11, 10), 2) > 0).astype(np.uint8)
    write_image(study.path("exclude.nii.gz"), Volume(shut, grid))
    margin = {"voi": "margin", "registration": "stored", "tac": "trapezoid"}
    hot = pipeline.run(study, study.folder / "truth", DoseOptions(**margin)).organs["left_kidney"]
    study.time_points[0].exclude = {"*": "exclude.nii.gz"}
    clear = pipeline.run(study, study.folder / "truth", DoseOptions(**margin)).organs["left_kidney"]
    true = known.KIDNEYS_AND_LIVER["left_kidney"].activity_mbq(0.5)
    assert hot.activity_mbq[0] > 1.2 * clear.activity_mbq[0]
    corrected = pipeline.run(study, study.folder / "truth", PLAIN).organs["left_kidney"]
    assert corrected.activity_mbq[0] == pytest.approx(true, rel=0.03)
    study.time_points[0].exclude = {}
    map_ = study.folder / "truth" / "ct.nii.gz"
    drawn = read_labels(map_)
    array = np.where((shut > 0) & (drawn.mask("left_kidney") | (drawn.array == 0)), 77, drawn.array).astype(np.uint8)
    write_labels(map_, LabelMap(array, grid, {**drawn.names, 77: "Renal pelvis TP1"}))
    by_drawing = pipeline.run(study, study.folder / "truth", PLAIN)
    assert set(by_drawing.organs) == {"left_kidney", "right_kidney", "liver"}
    kidney = by_drawing.organs["left_kidney"]
    assert kidney.activity_mbq[0] == pytest.approx(true, rel=0.03)
    assert kidney.activity_mbq[1:] == pytest.approx(corrected.activity_mbq[1:], rel=0.01)
    assert kidney.mass_g == pytest.approx(corrected.mass_g, rel=0.01)


def test_a_volume_of_interest_corrected_by_hand_is_used(one_kidney: Study, tmp_path: Path) -> None:
    options = DoseOptions(voi="threshold", registration="stored")
    first = pipeline.run(one_kidney, one_kidney.folder / "truth", options, out=tmp_path)
    drawn = read_labels(tmp_path / "voi_tp2.nii.gz")
    drawn.array[: drawn.array.shape[0] // 2] = 0
    second = pipeline.run(one_kidney, one_kidney.folder / "truth", options, edited_vois={1: drawn})
    a, b = (r.organs["left_kidney"].activity_mbq for r in (first, second))
    assert b[1] == pytest.approx(a[1] / 2, rel=0.1)
    assert b[0] == a[0]


def test_transforms_found_can_be_kept_in_the_study(done: tuple, three_organs: Study, tmp_path: Path) -> None:
    study = copied(three_organs, tmp_path)
    store_registration(study, done[0])
    again = Study.load(study.folder)
    assert again.time_points[2].spect_to_ct.method == "organ"
    results = pipeline.run(again, study.folder / "truth")
    for name, found in results.organs.items():
        assert found.mean_dose_gy == pytest.approx(done[0].organs[name].mean_dose_gy, rel=1e-6)


def test_progress_runs_from_zero_to_one_and_can_stop_the_work(one_kidney: Study) -> None:
    seen: list[float] = []
    pipeline.run(one_kidney, one_kidney.folder / "truth", PLAIN, progress=lambda stage, part: seen.append(part))
    assert seen == sorted(seen)
    assert (seen[0], seen[-1]) == (0.0, 1.0)

    def stop(stage: str, fraction: float) -> None:
        if "time point 2" in stage:
            raise Cancelled

    with pytest.raises(Cancelled):
        pipeline.run(one_kidney, one_kidney.folder / "truth", PLAIN, progress=stop)


# ---- where masks come from


def test_labels_are_found_by_tag_folder_or_file(three_organs: Study, tmp_path: Path) -> None:
    study = copied(three_organs, tmp_path)
    final = study.folder / "labels" / "final"
    final.mkdir(parents=True)
    shutil.copy(study.folder / "truth" / "ct.nii.gz", final / "ct.nii.gz")
    assert resolve(study, "final").origin == "tag 'final' of the study"
    assert not resolve(study, "final").reviewed
    versions = study.folder / "labels" / "versions" / "ct"
    versions.mkdir(parents=True)
    shutil.copy(final / "ct.nii.gz", versions / "v0001.nii.gz")
    submitted = LabelVersion(image_id=image_id(study.patient_id, "ct.nii.gz"), version=1, created=datetime.now(UTC))
    (versions / "v0001.json").write_text(submitted.model_dump_json())
    assert not resolve(study, "final").reviewed
    (versions / "v0001.review.json").write_text('{"approved": true}')
    assert resolve(study, "final").reviewed
    assert set(resolve(study, study.folder / "truth").maps) == {"ct.nii.gz"}
    assert set(resolve(study, final / "ct.nii.gz").maps) == {"ct.nii.gz"}
    with pytest.raises(LabelError, match="no such file or folder"):
        resolve(study, "first-draft")


# ---- what is refused, each by a typed error with a remedy


def copied(study: Study, tmp_path: Path) -> Study:
    shutil.copytree(study.folder, tmp_path / "copy")
    return Study.load(tmp_path / "copy")


def refused(study: Study, kind: type[DoselabelError], match: str, options: DoseOptions = PLAIN) -> None:
    with pytest.raises(kind, match=match) as caught:
        pipeline.run(study, study.folder / "truth", options)
    assert caught.value.hint, "an error must say what to do"


def test_a_spect_that_is_not_finite_or_is_negative_is_refused(one_kidney: Study, tmp_path: Path) -> None:
    study = copied(one_kidney, tmp_path)
    spect = read_image(study.path("spect_tp2.nii.gz"))
    for value, match in ((np.nan, "not finite"), (-1e6, "negative")):
        broken = spect.array.copy()
        broken[5, 5, 5] = value
        write_image(study.path("spect_tp2.nii.gz"), Volume(broken, spect.geometry))
        refused(study, StudyError, rf"time_points\[1\].spect.*{match}")


def test_masks_that_do_not_fit_are_refused(one_kidney: Study, tmp_path: Path) -> None:
    study = copied(one_kidney, tmp_path)
    path = study.folder / "truth" / "ct.nii.gz"
    labels = read_labels(path)
    z, y, x = labels.geometry.spacing_mm
    stretched = Geometry(labels.geometry.shape, (z, y, x * 1.1), labels.geometry.origin_mm)
    write_labels(path, LabelMap(labels.array, stretched))
    refused(study, GeometryError, "3 × 3 × 3.3 mm")
    write_labels(path, LabelMap(np.zeros_like(labels.array), labels.geometry))
    refused(study, VoiError, "no organ")
    path.unlink()
    refused(study, LabelError, "no label map for the diagnostic CT")


def test_a_spect_outside_the_ct_is_refused(one_kidney: Study, tmp_path: Path) -> None:
    study = copied(one_kidney, tmp_path)
    spect = read_image(study.path("spect_tp1.nii.gz"))
    away = Geometry(spect.geometry.shape, spect.geometry.spacing_mm, (3000.0, 0.0, 0.0))
    write_image(study.path("spect_tp1.nii.gz"), Volume(spect.array, away))
    refused(study, StudyError, "outside the CT")


def test_times_that_do_not_increase_are_refused(one_kidney: Study, tmp_path: Path) -> None:
    study = copied(one_kidney, tmp_path)
    manifest = study.folder / "study.json"
    content = json.loads(manifest.read_text("utf-8"))
    content["time_points"][1]["time_h"] = 0.25
    manifest.write_text(json.dumps(content))
    with pytest.raises(StudyError, match="not increasing"):
        Study.load(study.folder)


def test_fewer_points_than_the_model_needs_are_refused(one_kidney: Study, tmp_path: Path) -> None:
    study = copied(one_kidney, tmp_path)
    study.time_points = study.time_points[2:]
    refused(study, FitError, "left_kidney: .*at least 3", DoseOptions(tac="uptake", registration="stored"))
    two = pipeline.run(study, study.folder / "truth", PLAIN).organs["left_kidney"]
    assert two.tac.model == "mono"


def test_a_ct_in_other_units_is_refused(one_kidney: Study, tmp_path: Path) -> None:
    study = copied(one_kidney, tmp_path)
    ct = read_image(study.path("ct.nii.gz"))
    write_image(study.path("ct.nii.gz"), Volume((ct.array + 1024).astype(np.int16), ct.geometry))
    refused(study, StudyError, "Hounsfield")


def test_options_that_cannot_be_are_refused(one_kidney: Study, tmp_path: Path) -> None:
    with pytest.raises(DoseError, match="'margin_mm'"):
        DoseOptions.read({"margin_mm": -2})
    with pytest.raises(DoseError, match="'marge'"):
        DoseOptions.read({"marge": 3})
    refused(one_kidney, VoiError, "no Spleen", DoseOptions(organs=("spleen",)))
    refused(one_kidney, DoseError, "reference time point is 7", DoseOptions(reference=7, registration="stored"))
    study = copied(one_kidney, tmp_path)
    study.psf_fwhm_mm = None
    refused(study, VoiError, "resolution", DoseOptions(voi="gtm", registration="stored"))
    assert pipeline.run(study, study.folder / "truth", PLAIN).options["voi"] == "margin"
    with pytest.raises(DoseError, match="no such file"):
        read_dose(tmp_path)


def test_a_low_dose_ct_in_other_units_is_refused(one_kidney: Study, tmp_path: Path) -> None:
    study = copied(one_kidney, tmp_path)
    name = study.time_points[0].ct
    ct = read_image(study.path(name))
    write_image(study.path(name), Volume((ct.array + 1024).astype(np.int16), ct.geometry))
    refused(study, StudyError, "Hounsfield")
