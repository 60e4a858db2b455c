"""Multi-frame objects with functional groups (enhanced CT, PET and NM): the same study as of their slices."""

from __future__ import annotations

import math
from datetime import timedelta

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import RLELossless, generate_uid

from doselabel.geometry import Volume
from doselabel.reading import read_spect
from doselabel.study import Study
from tests.shared.dicom import makers as make

hd = pytest.importorskip("highdicom")
ENHANCED_PET = "1.2.840.10008.5.1.4.1.1.130"
TIME_H = 24.0
START = make.start_of(TIME_H)


def by_highdicom(kind, slices, monkeypatch):
    """Slices as highdicom puts them together."""
    monkeypatch.setattr(pydicom.config, "datetime_conversion", True)
    study = generate_uid()
    for ds in slices:
        ds.StudyInstanceUID, ds.PatientPosition, ds.SliceThickness, ds.AcquisitionNumber = study, "FFS", 6.0, 1
        ds.AcquisitionDate, ds.AcquisitionTime = str(ds.AcquisitionDate), str(ds.AcquisitionTime)  # parsed again
    return kind(slices, generate_uid(), 7, generate_uid(), 1)


def item(**values):
    ds = Dataset()
    for keyword, value in values.items():
        setattr(ds, keyword, value)
    return Sequence([ds])


def put_together(slices, sop, mapped=False, **more):
    """Slices as an enhanced object; ``mapped``: their slopes are real-world value mappings in Bq/ml alone."""
    first = slices[0]
    ds = make.base(sop, None, Modality=first.Modality, ImageType=["ORIGINAL", "PRIMARY", "RECON TOMO", "EMISSION"])
    ds.FrameOfReferenceUID = first.FrameOfReferenceUID
    ds.RadiopharmaceuticalInformationSequence = first.RadiopharmaceuticalInformationSequence
    shared = Dataset()
    shared.PlaneOrientationSequence = item(ImageOrientationPatient=first.ImageOrientationPatient)
    shared.PixelMeasuresSequence = item(PixelSpacing=first.PixelSpacing, SliceThickness=1.0)
    ds.SharedFunctionalGroupsSequence, ds.PerFrameFunctionalGroupsSequence = Sequence([shared]), Sequence([])
    for each in slices[::-1]:  # in any order
        frame = Dataset()
        frame.PlanePositionSequence = item(ImagePositionPatient=each.ImagePositionPatient)
        frame.FrameContentSequence = item(
            FrameAcquisitionDateTime=START.strftime("%Y%m%d%H%M%S"), FrameAcquisitionDuration=make.SCAN_MIN * 60_000
        )
        slope = 1 if mapped else each.RescaleSlope
        frame.PixelValueTransformationSequence = item(RescaleSlope=slope, RescaleIntercept=0, RescaleType="US")
        if mapped:
            frame.RealWorldValueMappingSequence = Sequence([make.mapping("Bq/ml", float(each.RescaleSlope))])
        ds.PerFrameFunctionalGroupsSequence.append(frame)
    for keyword, value in more.items():
        setattr(ds, keyword, value)
    return make.pixels(ds, np.stack([each.pixel_array for each in slices[::-1]]))


def spect(decay="NONE", one_slope=False):
    """Slices of the SPECT, corrected for decay."""
    hours = {"NONE": 0.0, "START": make.SCAN_MIN / 120, "ADMIN": TIME_H}[decay]
    volume = make.spect_volume(TIME_H)
    volume = Volume(volume.array * math.exp(make.LAMBDA * hours), volume.geometry)
    slices, slope = make.pet(volume, START, decay), float(volume.array.max()) / 32000
    for ds, plane in zip(slices, volume.array, strict=True) if one_slope else ():
        ds.RescaleSlope = f"{slope:.10g}"
        make.pixels(ds, np.rint(plane / slope).astype(np.int16))
    return slices


@pytest.fixture
def ct():
    return make.ct_slices(make.ct_volume(2), START + timedelta(minutes=25))


def with_ct(run, folder, objects, ct):
    make.save(folder, ct, "ct")
    return run(make.save(folder, [objects], "spect"))


def same(run, folder, made, ct, decay):
    """Import it with the CT: the SPECT that is known."""
    code, said, studies = with_ct(run, folder, made, ct)
    assert code in (0, 1), said  # 1: one time point is an alarm
    study = Study.load(Study.find(studies)[0])
    got, wanted = read_spect(study, 0), make.spect_volume(TIME_H)
    assert got.geometry.same_place(wanted.geometry, 0.01)
    assert got.array == pytest.approx(wanted.array, rel=1e-3, abs=1e-4 * float(wanted.array.max()))
    assert study.time_points[0].time_h == pytest.approx(TIME_H, abs=1e-4)
    assert study.time_points[0].scan_duration_min == make.SCAN_MIN
    assert study.decay_corrected_to == decay
    assert study.injected_activity_mbq == pytest.approx(make.ACTIVITY_MBQ)
    for word in ("attenuation", "scatter", "which time decay"):  # all of it is known
        assert word not in said
    assert np.array_equal(study.read(study.ct).array, make.ct_volume(2).array)
    assert study.read(study.ct).geometry.same_place(make.CT_GRID, 0.01)


def enhanced_ct(ct, monkeypatch):
    return by_highdicom(hd.legacy.LegacyConvertedEnhancedCTImage, ct, monkeypatch)


@pytest.mark.parametrize("packed", [False, True])
def test_an_enhanced_ct_by_highdicom_is_its_slices(packed, ct, run, tmp_path, monkeypatch):
    enhanced = enhanced_ct(ct, monkeypatch)
    if packed:
        enhanced.compress(RLELossless)
    same(run, tmp_path / "src", make.nm(make.spect_volume(TIME_H), START), [enhanced], "none")


def test_an_enhanced_ct_without_its_scale_is_refused(ct, run, tmp_path, monkeypatch):
    enhanced = enhanced_ct(ct, monkeypatch)
    del enhanced.PerFrameFunctionalGroupsSequence[3].PixelValueTransformationSequence
    code, said, _ = with_ct(run, tmp_path / "src", make.nm(make.spect_volume(TIME_H), START), [enhanced])
    assert code == 2
    assert "a CT without RescaleSlope and RescaleIntercept" in said


def test_a_pet_that_highdicom_made_enhanced_is_its_slices(ct, run, tmp_path, monkeypatch):
    """Units, corrections and injection are put away by the conversion; slopes are lost by it, and put back here."""
    slices = spect("START")
    made = by_highdicom(hd.legacy.LegacyConvertedEnhancedPETImage, slices, monkeypatch)
    code, said, _ = with_ct(run, tmp_path / "lost", made, ct)
    assert code == 2
    assert "states BQML and no RescaleSlope" in said
    for frame, ds in zip(made.PerFrameFunctionalGroupsSequence, slices, strict=True):
        scale = item(RescaleSlope=ds.RescaleSlope, RescaleIntercept=0, RescaleType="US")
        frame.PixelValueTransformationSequence = scale
    same(run, tmp_path / "src", made, ct, "scan_start")


def test_an_nm_with_functional_groups_is_its_slices(ct, run, tmp_path):
    made = put_together(spect(), make.NM_SOP, Units="BQML", CorrectedImage=["ATTN", "SCAT"], DecayCorrection="NONE")
    made.RadiopharmaceuticalInformationSequence = make.isotope(make.ACTIVITY_MBQ)
    same(run, tmp_path / "src", made, ct, "none")


SAID = {"AttenuationCorrected": "YES", "ScatterCorrected": "YES", "DecayCorrected": "YES"}


def enhanced_pet(decay, **more):
    return put_together(spect(decay, one_slope=True), ENHANCED_PET, mapped=True, **{**SAID, **more})


@pytest.mark.parametrize(
    ("decay", "stated", "known"),
    [
        ("START", {"DecayCorrectionDateTime": START.strftime("%Y%m%d%H%M%S")}, "scan_start"),
        ("ADMIN", {"DecayCorrectionDateTime": make.INJECTED_AT.strftime("%Y%m%d%H%M%S")}, "injection"),
        ("NONE", {"DecayCorrected": "NO"}, "none"),
    ],
)
def test_an_enhanced_pet_is_its_slices(decay, stated, known, ct, run, tmp_path):
    same(run, tmp_path / "src", enhanced_pet(decay, **stated), ct, known)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"DecayCorrectionDateTime": "20260303120000"}, "neither the start of the scan nor the injection"),
        ({}, "does not say to which time decay is corrected"),
        ({"DecayCorrected": "NO", "AttenuationCorrected": "NO"}, "is not corrected for attenuation"),
    ],
)
def test_an_enhanced_pet_that_can_not_be_used_says_why(change, why, ct, run, tmp_path):
    code, said, _ = with_ct(run, tmp_path / "src", enhanced_pet("NONE", **change), ct)
    assert code == 2
    assert why in said
