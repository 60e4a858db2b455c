"""A patient's DICOM becomes the study that the same patient's NIfTI files would be."""

from __future__ import annotations

import io
import json
import math
import subprocess
import sys
import zipfile
from datetime import timedelta

import numpy as np
import pydicom
import pytest

from doselabel.camera import Camera, Sensitivity
from doselabel.cli import main
from doselabel.reading import read_spect
from doselabel.study import Study
from doselabel.study_check import examine_folder
from tests.shared.dicom import makers as make

KINDS = ("nm", "nm down", "nm rwvm", "nm counts", "pet NONE", "pet START", "pet ADMIN")
DECAY = {"pet START": "scan_start", "pet ADMIN": "injection"}


@pytest.mark.parametrize("kind", KINDS)
def test_doses_are_those_of_the_nifti_route(kind, reference, run, tmp_path):
    from doselabel.dosimetry import pipeline
    from doselabel.dosimetry.options import DoseOptions

    camera = tmp_path / "camera.json"
    Camera(sensitivity=Sensitivity(cps_per_mbq=make.CPS_PER_MBQ, sd_cps_per_mbq=0.1)).save(camera)
    code, said, studies = run(
        make.patient(tmp_path / "src", kind), *(("--camera", camera) if kind == "nm counts" else ())
    )
    assert code == 0, said
    assert examine_folder(studies).count("refused") == 0
    (folder,) = Study.find(studies)
    study, (wanted, done) = Study.load(folder), reference
    assert study.decay_corrected_to == DECAY.get(kind, "none")
    assert [p.time_h for p in study.time_points] == pytest.approx(make.TIMES_H, abs=1e-4)
    assert {p.scan_duration_min for p in study.time_points} == {make.SCAN_MIN}
    for i, point in enumerate(study.time_points):
        volume, other = read_spect(study, i), read_spect(wanted, i)
        assert volume.geometry.same_place(other.geometry, 0.01)
        assert volume.array == pytest.approx(other.array, abs=2e-3 * float(other.array.max()))
        assert np.array_equal(study.read(point.ct).array, wanted.read(wanted.time_points[i].ct).array)
    assert np.array_equal(study.read(study.ct).array, wanted.read(wanted.ct).array)
    make.write_masks(study)
    doses = pipeline.compute(study, "drawn", DoseOptions(registration="identity")).results.organs
    assert set(doses) == {"left_kidney", "right_kidney", "liver"}
    for name, organ in doses.items():
        assert organ.mean_dose_gy == pytest.approx(done.results.organs[name].mean_dose_gy, rel=1e-3), name


def test_a_second_import_adds_what_is_new_and_nothing_else(source, run, tmp_path):
    files = sorted(source.iterdir())
    before = {f.name: f.read_bytes() for f in files}
    first = tmp_path / "first"
    first.mkdir()
    for f in files:
        if "3_" not in f.name:
            (first / f.name).write_bytes(f.read_bytes())
    assert run(first)[0] == 0
    code, _, studies = run(first)
    assert code == 0
    (folder,) = Study.find(studies)
    manifest = (folder / "study.json").read_bytes()
    assert len(Study.load(folder).time_points) == 2
    assert run(first)[0] == 0
    assert (folder / "study.json").read_bytes() == manifest
    code, said, _ = run(source)
    assert code == 0, said
    assert Study.find(studies) == [folder]
    assert [p.time_h for p in Study.load(folder).time_points] == pytest.approx(make.TIMES_H)
    assert {f.name: f.read_bytes() for f in sorted(source.iterdir())} == before


def test_nothing_that_names_the_patient_is_written(source, run, tmp_path):
    _, _, studies = run(source)
    (folder,) = Study.find(studies)
    uids = {str(pydicom.dcmread(f, stop_before_pixels=True).SeriesInstanceUID) for f in source.iterdir()}
    names = make.PATIENT_NAME.split("^")[0], make.PATIENT_ID, make.INSTITUTION
    assert make.files_that_hold(folder, *names, '"19600101"', "1960-01-01", "2026-03-", *uids) == []
    key = tmp_path / "key.json"
    assert key.stat().st_mode & 0o077 == 0
    assert json.loads(key.read_text("utf-8"))["patients"] == {folder.name: make.PATIENT_ID}
    assert Study.load(folder).injection_time.time() == make.INJECTED_AT.time()


def test_archives_are_read_like_folders(source, run, tmp_path):
    archive = tmp_path / "patient.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        for file in source.iterdir():
            packed.write(file, f"DICOM/{file.name}")
        packed.writestr("README.TXT", "exported")
    code, _, studies = run(archive)
    assert code == 0
    assert len(Study.load(Study.find(studies)[0]).time_points) == 3


def test_the_plan_is_shown_and_nothing_is_written(source, run):
    code, said, studies = run(source, "--dry-run")
    assert code == 0
    assert not studies.exists()
    assert "SPECT of time point 2, 24.00 h" in said
    assert "diagnostic CT" in said
    assert "7400 MBq (stated as 7400 MBq): confirm it" in said


def test_answers_come_from_flags_or_a_file(run, tmp_path):
    source = make.patient(tmp_path / "src")
    for file in source.glob("spect*"):
        ds = pydicom.dcmread(file)
        ds.RadiopharmaceuticalInformationSequence[0].RadionuclideTotalDose = 0
        del ds.RadiopharmaceuticalInformationSequence[0].RadiopharmaceuticalStartDateTime
        del ds.RadiopharmaceuticalInformationSequence[0].RadionuclideCodeSequence
        del ds.Units
        ds.save_as(file)
    code, said, studies = run(source)
    assert code == 2
    assert not Study.find(studies)
    for word in ("Which nuclide?", "How much was injected", "When was it injected?", "what do its values mean?"):
        assert word in said
    answers = tmp_path / "answers.yaml"
    answers.write_text("nuclide: 177Lu\ninjected_activity_mbq: 7000\nunit: Bq/mL\n")
    code, said, studies = run(
        source, "--answers", answers, "--injection-time", "2026-03-02T09:15", "--injected-activity-mbq", "7400"
    )
    assert code == 0, said
    study = Study.load(Study.find(studies)[0])
    assert (study.nuclide, study.injected_activity_mbq) == ("Lu-177", 7400)


def unstated(folder):
    """The patient, of whom no file says what was injected, and when."""
    source = make.patient(folder)
    for file in source.glob("spect*"):
        ds = pydicom.dcmread(file)
        del ds.RadiopharmaceuticalInformationSequence
        ds.save_as(file)
    return source


class Terminal(io.StringIO):
    """Somebody who types."""

    def isatty(self):
        return True


def test_on_a_terminal_a_wrong_answer_is_asked_for_again(run, tmp_path, monkeypatch):
    typed = ["kryptonite", "Lu-177", "a lot", "7400", "2027-01-01T00:00", "2026-03-02T09:15", "y"]
    monkeypatch.setattr("sys.stdin", Terminal("\n".join(typed) + "\n"))
    code, said, studies = run(unstated(tmp_path / "src"))
    assert code == 0, said
    for wrong in ("kryptonite", "injected_activity_mbq", "before the injection"):
        assert wrong in said
    study = Study.load(Study.find(studies)[0])
    assert (study.nuclide, study.injected_activity_mbq) == ("Lu-177", 7400)


def test_on_a_terminal_no_answer_writes_nothing(run, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.stdin", Terminal("Lu-177\n"))
    code, _, studies = run(unstated(tmp_path / "src"))
    assert code == 130
    assert not studies.exists()


def test_of_two_reconstructions_the_corrected_one_is_taken(source, run, tmp_path):
    folder = tmp_path / "src"
    folder.mkdir()
    for file in source.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    for i, time_h in enumerate(make.TIMES_H, start=1):
        plain = make.nm(
            make.spect_volume(time_h), make.start_of(time_h), CorrectedImage=["UNIF"], SeriesDescription="NAC"
        )
        make.save(folder, [plain], f"a_nac{i}")
    code, said, studies = run(folder)
    assert code == 0, said
    assert said.count("another reconstruction of the scan") == 3
    study = Study.load(Study.find(studies)[0])
    assert len(study.time_points) == 3


def test_scans_of_several_conventions_are_brought_to_one(reference, run, tmp_path):
    source = make.patient(tmp_path / "src", "pet START")
    for file in source.glob("spect2*"):
        file.unlink()
    frame = pydicom.dcmread(next(source.glob("ct2*"))).FrameOfReferenceUID
    late = make.spect_volume(24.0)
    admin = make.pet(type(late)(late.array * math.exp(make.LAMBDA * 24), late.geometry), make.start_of(24.0), "ADMIN",
                     FrameOfReferenceUID=frame)  # fmt: skip
    make.save(source, admin, "spect2")
    code, said, studies = run(source)
    assert code == 0, said
    study = Study.load(Study.find(studies)[0])
    assert study.decay_corrected_to == "none"
    for i in range(3):
        assert read_spect(study, i).array.sum() == pytest.approx(read_spect(reference[0], i).array.sum(), rel=1e-3)


def test_a_tilted_gantry_is_straightened(source, run, tmp_path):
    """Ground truth is the untilted CT: a plane that is placed elsewhere must be found there."""
    folder = tmp_path / "src"
    make.save(folder, _tilted(make.ct_volume(9), degrees=15.0), "ct")
    out = tmp_path / "out"
    assert main(["import", str(folder), str(out), "--images", "--key", str(tmp_path / "k.json")]) == 0
    from doselabel.geometry import read_image, resample

    (file,) = out.glob("*.nii.gz")
    got, wanted = read_image(file), make.ct_volume(9)
    there = resample(got, wanted.geometry, fill=-1000).array
    inner = np.s_[6:24, 12:28, 12:36]
    assert np.abs(there[inner] - wanted.array[inner]).mean() < 12  # noise is 8 HU; a shift of one voxel gives > 40
    assert run(folder, "--dry-run")[0] == 2  # a CT alone is no study


def _tilted(volume, degrees):
    """Slices of a tilted gantry: each is displaced along its columns, and shows what lies there."""
    from scipy.ndimage import shift

    grid, slices = volume.geometry, make.ct_slices(volume, make.INJECTED_AT)
    for z, ds in enumerate(slices):
        displaced = z * grid.spacing_mm[0] * math.tan(math.radians(degrees)) - 20
        plane = shift(volume.array[z].astype(float), (-displaced / grid.spacing_mm[1], 0), order=1, cval=-1000)
        ds.ImagePositionPatient[1] += displaced
        ds.PixelData = (np.rint(plane) + 1024).astype("<i2").tobytes()
    return slices


def test_another_cycle_is_another_study(source, run, tmp_path):
    _, _, studies = run(source)
    later = tmp_path / "later"
    for file in sorted(source.iterdir()):
        ds = pydicom.dcmread(file)
        day = lambda text: (pydicom.valuerep.DA(text) + timedelta(days=56)).strftime("%Y%m%d")  # noqa: E731
        ds.AcquisitionDate = day(ds.AcquisitionDate)
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid(entropy_srcs=[file.name])
        ds.SeriesInstanceUID = pydicom.uid.generate_uid(entropy_srcs=[ds.SeriesInstanceUID])
        if "RadiopharmaceuticalInformationSequence" in ds:
            at = make.INJECTED_AT + timedelta(days=56)
            ds.RadiopharmaceuticalInformationSequence = make.isotope(make.ACTIVITY_MBQ, at)
        make.save(later, [ds], file.stem)
    code, said, _ = run(later)
    assert code == 0, said
    a, b = (Study.load(folder) for folder in Study.find(studies))
    assert b.patient_id == f"{a.patient_id}-2"
    assert b.injection_time - a.injection_time == timedelta(days=56)


def test_without_the_extra_the_command_says_how_to_get_it(tmp_path):
    code = (
        "import sys; sys.modules['pydicom'] = None\n"
        "from doselabel.cli import main; sys.exit(main(['import', '.', 'out', '--dry-run']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, encoding="utf-8", check=False
    )
    assert done.returncode == 2
    assert "pip install 'doselabel[dicom]'" in done.stderr
    assert "Traceback" not in done.stderr
