"""What scanners and workstations do each in their own way: the plan says it, and values are what they mean."""

from __future__ import annotations

import shutil

import numpy as np
import pydicom
import pytest
from pydicom.fileset import FileSet
from pydicom.uid import RLELossless

from doselabel.camera import Camera, Sensitivity
from doselabel.dicom.answers import Answers
from doselabel.dicom.plan import planned
from doselabel.dicom.series import sorted_series
from doselabel.dicom.sort import gathered
from doselabel.dicom.volume import ct_volume, read_volume, stacked
from doselabel.geometry import Geometry, Volume
from doselabel.reading import read_spect
from doselabel.study import Study
from tests.shared.dicom import makers as make

TIME_H = 24.0
START = make.start_of(TIME_H)
SPECT = make.spect_volume(TIME_H)


@pytest.fixture(scope="module")
def ct(tmp_path_factory):
    return make.save(tmp_path_factory.mktemp("ct") / "ct", make.ct_slices(make.ct_volume(1), START), "ct")


@pytest.fixture
def folder(ct, tmp_path):
    return shutil.copytree(ct, tmp_path / "src")


def plan_of(folder, *objects, **answers):
    """The plan of the CT and some objects."""
    make.save(folder, list(objects), "more")
    with gathered(folder) as found:
        return planned(sorted_series(found.instances), Answers(**answers))


def same():
    """The SPECT, within half a step of 16 bits."""
    return pytest.approx(SPECT.array, rel=1e-3, abs=float(SPECT.array.max()) / 64000)


def values_of(plan):
    (point,) = plan.points
    return read_volume(point.scan.stack, point.scan.scale.values).array


def test_a_dicomdir_is_read_and_what_it_misses_is_named(folder, tmp_path, run):
    make.save(folder, [make.nm(SPECT, START)], "spect")
    media = FileSet()
    for file in sorted(folder.iterdir()):
        media.add(file)
    media.write(tmp_path / "media")
    file = tmp_path / "media" / "DICOMDIR"
    code, said, studies = run(file)
    assert code in (0, 1), said  # 1: one time point is an alarm
    study = Study.load(Study.find(studies)[0])
    assert np.array_equal(study.read(study.ct).array, make.ct_volume(1).array)

    last = max((f for f in file.parent.rglob("*") if f.is_file() and f != file), key=lambda f: f.stat().st_mtime_ns)
    last.unlink()
    with gathered(file) as found:
        assert len(found.instances) == 30
        listed = last.relative_to(file.parent).as_posix()
        assert found.words == [f"DICOMDIR lists 1 file(s) that are not there, the first {listed}."]


def test_uneven_gaps_are_resampled_to_even_ones(tmp_path):
    """A ramp of 2 HU/mm along z: where slices are moved to, its value is known."""
    heights = np.cumsum([0.0] + [5.0] * 12 + [7.5] * 9)
    grid = Geometry((len(heights), 20, 20), (5.0, 2.0, 2.0), (-60.0, -20.0, -20.0))
    array = np.broadcast_to((2 * heights).astype(np.int16)[:, None, None], grid.shape)
    slices = make.ct_slices(Volume(np.ascontiguousarray(array), grid), START)
    for ds, z in zip(slices, heights, strict=True):
        ds.ImagePositionPatient[2] = -60.0 + z
    with gathered(make.save(tmp_path / "src", slices, "ct")) as found:
        stack = stacked(sorted_series(found.instances)[0])
        volume = ct_volume(stack)
    assert "uneven gaps (5 to 7.5 mm): resampled to slices 5 mm apart" in stack.words[0]
    assert volume.geometry.spacing_mm[0] == pytest.approx(5.0)
    wanted = 2 * 5.0 * np.arange(volume.geometry.shape[0])
    assert wanted[-1] == pytest.approx(2 * heights[-1], abs=5.0)
    inside = wanted <= 2 * heights[-1]
    assert np.abs(volume.array[inside] - wanted[inside, None, None]).max() <= 1


def test_what_is_no_volume_is_left_out_by_its_name_and_the_rest_is_planned(folder):
    localiser, rendering = (make.ct_slices(make.ct_volume(1), START)[0] for _ in range(2))
    localiser.ImageType, rendering.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"], ["DERIVED", "SECONDARY", "VRT"]
    iodine = make.ct_slices(make.ct_volume(1), START)[0]
    iodine.ImageType = ["DERIVED", "SECONDARY", "AXIAL", "DE_IODINE"]
    plan = plan_of(folder, make.nm(SPECT, START), localiser, rendering, iodine)
    fates = " ".join(plan.fate.values())
    for word in ("a localiser (LOCALIZER)", "a projection (VRT)", "a map (DE IODINE), not HU"):
        assert word in fates
    assert len(plan.points) == 1
    assert not plan.questions


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"CorrectedImage": ["ATTN"]}, "is not corrected for scatter: activities are too large"),
        ({"CorrectedImage": None}, "does not say whether it is corrected for attenuation and scatter"),
        ({"RotationInformationSequence": None}, "its hours count to its start"),
        ({"RadiopharmaceuticalInformationSequence": make.isotope(7.4e9)},
         "7400 MBq (stated as 7.4e+09 Bq, though such objects state MBq): confirm it"),
    ],
)  # fmt: skip
def test_what_the_dose_hangs_on_is_said(folder, change, words):
    plan = plan_of(folder, make.nm(SPECT, START, **change))
    assert words in " ".join(plan.words)
    assert plan.points[0].time_h == pytest.approx(TIME_H - ("start" in words) * make.SCAN_MIN / 120, abs=1e-4)
    assert plan.activity_mbq == pytest.approx(make.ACTIVITY_MBQ)


def test_philips_counts_have_their_factor_in_a_private_tag(folder):
    factor = 321.5
    slices = make.pet(Volume(SPECT.array / factor, SPECT.geometry), START, "NONE", Units="CNTS")
    for ds in slices:
        ds.private_block(0x7053, "Philips PET Private Group", create=True).add_new(0x09, "DS", str(factor))
    plan = plan_of(folder, *slices)
    assert plan.points[0].scan.scale.unit == "Bq/mL"
    assert values_of(plan) == same()
    for ds in slices:
        ds[0x7053, 0x1009].value = "0"  # there is none
    (question,) = plan_of(folder, *slices).questions
    assert question.field == "camera"


@pytest.mark.parametrize(("unit", "factor"), [("Bq/ml", 1.0), ("kBq/ml", 1e3), ("MBq/mL", 1e6)])
def test_a_mapping_counts_more_than_a_slope_without_a_unit(folder, unit, factor):
    slope = float(SPECT.array.max()) / 32000 / factor
    spect = make.nm(SPECT, START, RealWorldValueMappingSequence=[make.mapping(unit, slope)], Units="")
    spect.RescaleSlope = 1
    assert values_of(plan_of(folder, spect)) == same()


def test_starguide_states_its_duration_in_a_comment_alone(folder):
    spect = make.nm(SPECT, START, scale="counts", Units="CNTS", ManufacturerModelName="StarGuide",
                    ImageComments="Scan duration 1200000 ms", RotationInformationSequence=None)  # fmt: skip
    plan = plan_of(folder, spect, camera="camera.json")
    assert plan.points[0].scan.duration_s == 1200
    spect.ManufacturerModelName = "Another"  # whose comment may be anything
    questions = plan_of(folder, spect, camera="camera.json").questions
    assert [question.field for question in questions] == ["scan_duration_min"]


def test_counts_per_second_are_counts_of_the_scan(folder, tmp_path, run):
    camera = tmp_path / "camera.json"
    Camera(sensitivity=Sensitivity(cps_per_mbq=make.CPS_PER_MBQ, sd_cps_per_mbq=0.1)).save(camera)
    per_cps = 1e6 / (make.CPS_PER_MBQ * SPECT.geometry.voxel_volume_ml)
    rate = Volume(SPECT.array / per_cps, SPECT.geometry)
    make.save(folder, [make.nm(rate, START, Units="CPS")], "spect")
    code, said, studies = run(folder, "--camera", camera)
    assert code in (0, 1), said
    got = read_spect(Study.load(Study.find(studies)[0]), 0).array
    assert got == same()


def test_packed_slices_hold_the_same_values(folder, run):
    make.save(folder, [make.nm(SPECT, START)], "spect")
    for file in folder.iterdir():
        ds = pydicom.dcmread(file)
        ds.compress(RLELossless)
        ds.save_as(file)
    code, said, studies = run(folder)
    assert code in (0, 1), said
    study = Study.load(Study.find(studies)[0])
    assert np.array_equal(study.read(study.ct).array, make.ct_volume(1).array)
    assert read_spect(study, 0).array == same()
