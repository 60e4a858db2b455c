"""Broken and misleading DICOM: each its own message, no traceback, no study."""

# ruff: noqa: E501  (the table is read line by line)

from __future__ import annotations

import shutil

import numpy as np
import pydicom
import pytest
from pydicom.sequence import Sequence

from doselabel.study import Study
from tests.shared.dicom import makers as make


def every(pattern, change):
    """Change objects of the patient's folder."""

    def broken(folder):
        files = sorted(folder.glob(pattern))
        assert files, pattern
        for i, file in enumerate(files):
            ds = pydicom.dcmread(file)
            change(ds, i)
            ds.save_as(file)

    return broken


def gone(keyword):
    return lambda ds, i: ds.__delattr__(keyword)


def put(**values):
    def change(ds, i):
        for keyword, value in values.items():
            setattr(ds, keyword, value)

    return change


def remove(pattern):
    return lambda folder: [f.unlink() for f in folder.glob(pattern)]


def detector(**values):
    return lambda ds, i: [setattr(ds.DetectorInformationSequence[0], k, v) for k, v in values.items()]


def drug(**values):
    return lambda ds, i: [setattr(ds.RadiopharmaceuticalInformationSequence[0], k, v) for k, v in values.items()]


def cut(folder):
    file = next(folder.glob("spect2*"))
    file.write_bytes(file.read_bytes()[:-5000])


def cut_in_header(folder):
    file = next(folder.glob("spect2*"))
    file.write_bytes(file.read_bytes()[:600])


def cut_slice(shorter):
    def broken(folder):
        file = folder / "ct2_029.dcm"  # the last one: no gap tells of it
        file.write_bytes(shorter(file.read_bytes()))

    return broken


def duplicate(folder):
    ds = pydicom.dcmread(folder / "ct2_005.dcm")
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
    ds.save_as(folder / "ct2_905.dcm")


def altered_twin(folder):
    ds = pydicom.dcmread(folder / "ct2_005.dcm")
    ds.RescaleSlope = 2
    ds.save_as(folder / "ct2_905.dcm")


def second_ac(folder):
    make.save(folder, [make.nm(make.spect_volume(24.0), make.start_of(24.0))], "spect2b")


def two_windows(ds, i):
    ds.NumberOfEnergyWindows, ds.NumberOfSlices = 2, len(ds.SliceVector) // 2


def no_mapping_unit(ds, i):
    del ds.RescaleSlope, ds.Units
    ds.RealWorldValueMappingSequence = Sequence([make.mapping("{foo}", 2.0)])


def beyond(ds, i):
    del ds.RescaleSlope, ds.Units
    item = make.mapping("Bq/ml", 2.0)
    item[0x00409211].value = 100
    ds.RealWorldValueMappingSequence = Sequence([item])


def nan_spacing(ds, i):
    ds.SpacingBetweenSlices = None


CASES = {
    "two patients": (every("spect2*", put(PatientID="0815")), "2 patients in one folder: 'MRN-0047-11', '0815'"),
    "two births": (every("ct2*", put(PatientBirthDate="19700101")), "different dates of birth"),
    "no spect": (remove("spect*"), "There is no reconstructed SPECT"),
    "no ct": (lambda f: [x.unlink() for p in ("ct*", "diag*") for x in f.glob(p)], "There is no CT"),
    "planar": (every("spect*", put(ImageType=["ORIGINAL", "PRIMARY", "STATIC", "EMISSION"])), r"planar (STATIC)"),
    "projections": (every("spect*", put(ImageType=["ORIGINAL", "PRIMARY", "TOMO", "EMISSION"])), "not reconstructed yet"),
    "gated": (every("spect*", put(ImageType=["DERIVED", "PRIMARY", "RECON GATED TOMO", "EMISSION"])), "reconstruct it ungated"),
    "transmission": (every("spect*", put(ImageType=["DERIVED", "PRIMARY", "RECON TOMO", "TRANSMISSION"])), "an attenuation map"),
    "mip": (every("spect*", put(ImageType=["DERIVED", "SECONDARY", "MIP", "EMISSION"])), "a projection (MIP)"),
    "lossy": (every("spect*", put(LossyImageCompression="01")), "lossy pixel data"),
    "uncorrected": (every("spect*", put(CorrectedImage=["UNIF"])), "not corrected for attenuation"),
    "suv": (every("spect*", put(Units="GML")), "standardised uptake values"),
    "propcnts": (every("spect*", put(Units="PROPCNTS")), "proportional to counts"),
    "unit unknown": (every("spect*", put(Units="FURLONGS")), "'FURLONGS'; expected Bq/mL"),
    "counts, no camera": (every("spect*", put(Units="CNTS")), "a camera file turns them into Bq/mL"),
    "mixed units": (every("spect2*", put(Units="CNTS")), "Some SPECTs are in Bq/mL and some in counts"),
    "mapping of another unit": (every("spect*", no_mapping_unit), "what do its values mean?"),
    "beyond the mapping": (every("spect1*", beyond), "the last that its real-world value mapping knows"),
    "no spacing": (every("spect2*", nan_spacing), "no SpacingBetweenSlices"),
    "no position": (every("spect2*", lambda ds, i: ds.DetectorInformationSequence[0].__delattr__("ImagePositionPatient")),
                    "ImagePositionPatient is missing"),
    "skewed axes": (every("spect2*", detector(ImageOrientationPatient=[1, 0, 0, 0.5, 1, 0])), "no pair of axes at right angles"),
    "two windows": (every("spect2*", two_windows), "energy windows in one object"),
    "vector": (every("spect2*", lambda ds, i: ds.__setattr__("SliceVector", ds.SliceVector[::-1])), "does not count its 24 planes"),
    "missing slice": (remove("ct2_0[12]0*"), "2 slice(s) are missing"),
    "duplicate slice": (duplicate, "1 duplicate slice(s)"),
    "altered twin": (altered_twin, "state one SOPInstanceUID and differ"),
    "mixed orientations": (every("ct2_00*", put(ImageOrientationPatient=[0, 1, 0, 0, 0, -1])), "mixes orientations"),
    "mixed sizes": (every("ct2_00*", put(PixelSpacing=[1, 1])), "mixes planes of 2 sizes"),
    "displaced": (every("ct2_00[2-5]*", lambda ds, i: ds.ImagePositionPatient.__setitem__(0, 95.0)), "which no gantry's tilt is"),
    "no rescale": (lambda f: [every(p, gone("RescaleSlope"))(f) for p in ("ct*", "diag*")], "without RescaleSlope and RescaleIntercept"),
    "cut off": (cut, "it is cut off"),
    "cut off in the header": (cut_in_header, "spect2_000.dcm is damaged"),
    "a slice cut off": (cut_slice(lambda content: content[:-500]), "ct2_029.dcm is damaged: it is cut off"),
    "a slice cut off in the header": (cut_slice(lambda content: content[:-3900]), "is not whole without it"),
    "a slice of which nothing is left": (cut_slice(lambda content: content[:140]), "It may be a part of a CT or SPECT"),
    "no time": (every("spect2*", gone("AcquisitionTime")), "does not state when it was acquired"),
    "dose 0": (every("spect*", drug(RadionuclideTotalDose=0)), "state no injected activity (0 or nothing)"),
    "dose impossible": (every("spect*", drug(RadionuclideTotalDose=7.4)), "no therapy's activity in Bq or MBq"),
    "doses differ": (every("spect2*", drug(RadionuclideTotalDose=3700)), "3700, 7400 MBq"),
    "another nuclide": (every("spect*", lambda ds, i: ds.__setattr__("RadiopharmaceuticalInformationSequence",
                        make.isotope(7400, name="^99m^Technetium"))), "Technetium"),
    "injection after the scan": (every("spect*", drug(RadiopharmaceuticalStartDateTime="20260303120000")), "before the injection"),
    "injections differ": (every("spect2*", drug(RadiopharmaceuticalStartDateTime="20260301120000")), "different times"),
    "years apart": (every("spect2*", put(AcquisitionDate="20280303")), "days after the injection"),
    "two reconstructions": (second_ac, "nothing tells which is to be taken"),
    "not at one place": (every("spect2*", detector(ImagePositionPatient=[900, 900, 900])), "lies outside of"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_it_is_refused_for_its_own_reason(name, source, run, tmp_path):
    breaking, reason = CASES[name]
    folder = tmp_path / "src"
    shutil.copytree(source, folder)
    breaking(folder)
    code, said, studies = run(folder)
    assert code == 2
    assert reason in said
    assert "Traceback" not in said
    assert "→" in said
    assert not studies.exists() or not [p for p in studies.iterdir()]


def test_an_empty_folder_and_one_of_other_files(run, tmp_path):
    (tmp_path / "src").mkdir()
    assert "holds no DICOM object" in run(tmp_path / "src")[1]
    (tmp_path / "src" / "notes").write_bytes(b"x" * 500)
    code, said, _ = run(tmp_path / "src")
    assert code == 2
    assert "holds no DICOM object" in said
    (tmp_path / "bad.zip").write_bytes(b"PK\x03\x04" + b"0" * 300)
    assert run(tmp_path / "bad.zip")[0] == 2
    assert "no such file" in run(tmp_path / "nowhere")[1]


def test_a_broken_addition_leaves_the_study_as_it_was(source, run, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    shutil.copytree(source, first, ignore=shutil.ignore_patterns("*3_*"))
    shutil.copytree(source, second)
    _, _, studies = run(first)
    (folder,) = Study.find(studies)
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    every("spect3*", lambda ds, i: ds.__setattr__("PixelData", np.zeros(24 * 36 * 40, "<i2").tobytes()))(second)
    code, said, _ = run(second)
    assert code == 2, said
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before


def test_a_damaged_file_that_nothing_needs_is_named_and_the_others_are_imported(source, run, tmp_path):
    folder = tmp_path / "src"
    shutil.copytree(source, folder)
    whole = make.base(
        "1.2.840.10008.5.1.4.1.1.7",
        make.start_of(4.0),
        Rows=64,
        Columns=64,
        BitsAllocated=8,
        SamplesPerPixel=1,
        PixelData=bytes(64 * 64),
    )
    make.save(folder, [whole], "picture")
    (picture,) = folder.glob("picture*")
    picture.write_bytes(picture.read_bytes()[:-1000])
    code, said, studies = run(folder)
    assert code == 0, said
    assert f"damaged: {picture.name}: it is cut off" in said
    (study,) = Study.find(studies)
    assert len(Study.load(study).time_points) == 3


def test_a_series_with_a_damaged_slice_may_be_left_out(source, run, tmp_path):
    folder = tmp_path / "src"
    shutil.copytree(source, folder)
    cut_slice(lambda content: content[:-500])(folder)
    code, said, _ = run(folder)
    assert code == 2
    number = said.split("--leave-out ")[1].split(".")[0]
    _, said, _ = run(folder, "--leave-out", number)
    assert "is not whole" not in said
    assert "left out as stated" in said
