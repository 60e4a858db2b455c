"""A dose goes out as DICOM; independent readers find the same masks, the same doses, in the same places."""

from __future__ import annotations

import shutil
import subprocess
from xml.etree import ElementTree

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from matplotlib.path import Path as Outline

from doselabel.cli import main
from doselabel.dicom.write_rt import outlines
from doselabel.dosimetry.options import DoseOptions
from doselabel.geometry import Volume
from doselabel.labels import LabelMap, write_labels
from doselabel.study import Study
from tests.shared.dicom import makers as make

hd = pytest.importorskip("highdicom")


@pytest.fixture(scope="module")
def exported(source, tmp_path_factory):
    """The patient imported, its dose computed with an organ of one slice and one with a hole, and exported."""
    from doselabel.dosimetry import pipeline
    from doselabel.dosimetry.results import write_dose

    root = tmp_path_factory.mktemp("export")
    key = ["--key", str(root / "key.json")]
    assert main(["import", str(source), str(root / "studies"), *key]) == 0
    (folder,) = Study.find(root / "studies")
    study = Study.load(folder)
    make.write_masks(study)
    done = pipeline.compute(study, "drawn", DoseOptions(registration="identity", voi="margin"))
    write_dose(done, study, root / "dose")
    labels = make.labels_array()
    labels[20, 12:16, 30:34] = 4  # a spleen of one slice
    labels[12, 22:24, 36:38] = 0  # a hole in a kidney; its slices 0 to 7 are empty
    write_labels(root / "dose" / "masks_ct.nii.gz", LabelMap(labels, make.CT_GRID))
    (root / "dose" / "report.pdf").write_bytes(b"%PDF-1.4 as it is")
    arguments = ["export", str(root / "dose"), str(folder), "--source", str(source), "--out", str(root / "out"), *key]
    assert main(arguments) == 0
    return root / "out", labels, done


def test_all_refer_to_the_source(exported, source):
    out, _, _ = exported
    image = pydicom.dcmread(next(source.glob("diag*")))
    uids = {str(pydicom.dcmread(f, stop_before_pixels=True).SOPInstanceUID) for f in source.glob("diag*")}
    for name in ("seg", "rtstruct", "rtdose", "pdf", "sr"):
        ds = pydicom.dcmread(out / f"{name}.dcm")
        assert (ds.PatientID, ds.StudyInstanceUID) == (image.PatientID, image.StudyInstanceUID)
        if name in ("seg", "rtstruct", "rtdose"):
            assert ds.FrameOfReferenceUID == image.FrameOfReferenceUID
        named = {str(e.value) for e in ds.iterall() if e.keyword == "ReferencedSOPInstanceUID"}
        assert named & uids, name


def test_the_segmentation_is_the_masks(exported):
    out, labels, _ = exported
    seg = hd.seg.segread(out / "seg.dcm")
    for number in seg.segment_numbers:
        name = seg.get_segment_description(number).tracking_id
        value = LabelMap(labels, make.CT_GRID).value(name)
        whole = np.zeros(labels.shape, bool)
        frames = seg.pixel_array.reshape(-1, *labels.shape[1:])
        for frame, group in zip(frames, seg.PerFrameFunctionalGroupsSequence, strict=True):
            if group.SegmentIdentificationSequence[0].ReferencedSegmentNumber == number:
                place = np.array(group.PlanePositionSequence[0].ImagePositionPatient, float)
                index = make.CT_GRID.lps_to_index(place)
                assert index == pytest.approx(np.rint(index), abs=1e-3)
                assert index[1:] == pytest.approx([0, 0], abs=1e-3)
                whole[round(index[0])] = frame > 0
        assert np.array_equal(whole, labels == value), name
    assert len(list(seg.segment_numbers)) == 4


def test_contours_filled_by_voxel_centres_are_the_masks(exported):
    out, labels, _ = exported
    ds = pydicom.dcmread(out / "rtstruct.dcm")
    names = {roi.ROINumber: roi.ROIName for roi in ds.StructureSetROISequence}
    rows, columns = np.mgrid[: labels.shape[1], : labels.shape[2]]
    centres = np.column_stack([columns.ravel(), rows.ravel()])
    kinds = {names[o.ReferencedROINumber]: o.RTROIInterpretedType for o in ds.RTROIObservationsSequence}
    assert kinds == {name: "GTV" if name.startswith(("tumour", "lesion")) else "ORGAN" for name in names.values()}
    for roi in ds.ROIContourSequence:
        whole = np.zeros(labels.shape, bool)
        for contour in roi.ContourSequence:
            index = make.CT_GRID.lps_to_index(np.array(contour.ContourData, float).reshape(-1, 3))
            z = round(index[0, 0])
            assert np.abs(index[:, 0] - z).max() < 1e-3
            inside = Outline(index[:, :0:-1]).contains_points(centres).reshape(rows.shape)
            whole[z] ^= inside
        value = LabelMap(labels, make.CT_GRID).value(names[roi.ReferencedROINumber])
        assert np.array_equal(whole, labels == value)


def test_the_dose_map_is_read_back_by_simpleitk(exported):
    out, _, done = exported
    image = sitk.ReadImage(str(out / "rtdose.dcm"))
    ds = pydicom.dcmread(out / "rtdose.dcm")
    assert (ds.DoseUnits, ds.DoseType) == ("GY", "PHYSICAL")
    got = Volume.from_sitk(image)
    assert np.abs(got.geometry.corners_lps() - done.dose.geometry.corners_lps()).max() <= 0.01
    scale = 1.0 if got.array.max() < 1e5 else float(ds.DoseGridScaling)
    assert got.array * scale == pytest.approx(done.dose.array, rel=1e-6, abs=float(ds.DoseGridScaling) / 2)


def test_report_and_numbers_come_back(exported):
    out, _, done = exported
    assert bytes(pydicom.dcmread(out / "pdf.dcm").EncapsulatedDocument).startswith(b"%PDF-1.4 as it is")
    report = hd.sr.srread(out / "sr.dcm").content
    organs = {g.tracking_identifier: g for g in report.get_volumetric_roi_measurement_groups()}
    for name, organ in done.results.organs.items():
        measured = {m.name.meaning: (m.value, m.unit.value) for m in organs[name].get_measurements()}
        assert measured["Absorbed Radiation Dose"] == (pytest.approx(organ.mean_dose_gy, rel=1e-3), "Gy")
        assert measured["Volume"] == (pytest.approx(organ.volume_ml, rel=1e-3), "ml")


needs = {tool: pytest.mark.skipif(not shutil.which(tool), reason=f"{tool} is not installed ({package})")
         for tool, package in (("dcm2xml", "Debian: dcmtk"), ("dciodvfy", "Debian: dicom3tools"),
                               ("plastimatch", "Debian: plastimatch"))}  # fmt: skip


@needs["dcm2xml"]
@pytest.mark.parametrize("name", ["seg", "rtstruct", "rtdose", "pdf", "sr"])
def test_dcmtk_reads_what_pydicom_reads(exported, name, tmp_path):
    file = exported[0] / f"{name}.dcm"
    subprocess.run(["dcm2xml", "+Wb", str(file), str(tmp_path / "x.xml")], check=True, capture_output=True)
    read = ElementTree.parse(tmp_path / "x.xml").getroot().find("data-set")
    theirs = [(e.get("tag"), e.text) for e in read.iter("element") if e.get("vr") in ("DS", "FD", "CS", "LO", "SH")]
    ours = [e for e in pydicom.dcmread(file).iterall() if e.VR in ("DS", "FD", "CS", "LO", "SH")]
    assert [tag for tag, _ in theirs] == [f"{e.tag.group:04x},{e.tag.element:04x}" for e in ours]
    for (_, text), e in zip(theirs, ours, strict=True):
        if e.VR in ("DS", "FD") and e.VM:
            assert np.array(text.split("\\"), float) == pytest.approx(np.atleast_1d(np.array(e.value, float)))


@needs["dciodvfy"]
@pytest.mark.parametrize("name", ["seg", "rtstruct", "pdf", "sr"])  # it has no RTDOSE of 32 bits
def test_a_validator_of_the_standard_finds_no_error(exported, name):
    said = subprocess.run(
        ["dciodvfy", str(exported[0] / f"{name}.dcm")], capture_output=True, encoding="utf-8", check=False
    )
    assert said.stderr.split("\n")[0]  # the name of the object's class
    assert "Error" not in said.stderr + said.stdout


@needs["plastimatch"]
def test_plastimatch_has_the_same_masks_and_doses(exported, source, tmp_path):
    out, labels, done = exported
    for file in source.glob("diag*"):
        (tmp_path / file.name).symlink_to(file)
    masks = ["--referenced-ct", str(tmp_path), "--xor-contours", "--output-prefix", str(tmp_path / "masks")]
    line = ["plastimatch", "convert", "--input"]
    subprocess.run([*line, str(out / "rtstruct.dcm"), *masks, "--prefix-format", "nrrd"], check=True)
    subprocess.run([*line, str(out / "rtdose.dcm"), "--output-dose-img", str(tmp_path / "dose.nrrd")], check=True)
    found = {path.stem: Volume.from_sitk(sitk.ReadImage(str(path))) for path in (tmp_path / "masks").glob("*.nrrd")}
    assert set(found) == {"left_kidney", "right_kidney", "liver", "spleen"}
    for name, mask in found.items():
        assert mask.geometry.same_place(make.CT_GRID, 0.01)
        assert np.array_equal(mask.array > 0, labels == LabelMap(labels, make.CT_GRID).value(name)), name
    dose = Volume.from_sitk(sitk.ReadImage(str(tmp_path / "dose.nrrd")))
    assert np.abs(dose.geometry.corners_lps() - done.dose.geometry.corners_lps()).max() <= 0.01
    assert dose.array == pytest.approx(done.dose.array, rel=1e-3, abs=1e-6)


def test_outlines_fill_to_any_mask():
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:12, :15]
    for _ in range(20):
        mask = rng.random((12, 15)) < 0.5
        filled = np.zeros_like(mask)
        for loop in outlines(mask):
            filled ^= (
                Outline(loop).contains_points(np.column_stack([rows.ravel(), columns.ravel()])).reshape(mask.shape)
            )
        assert np.array_equal(filled, mask)


def test_a_study_that_was_not_imported_or_another_source_is_refused(exported, source, tmp_path, capsys):
    study = make.nifti_study(tmp_path / "P-9")
    code = main(["export", str(exported[0].parent / "dose"), str(study.folder), "--source", str(source), "--out", "x"])
    assert code == 2
    assert "was not imported from DICOM" in capsys.readouterr().err
    other = make.save(tmp_path / "other", make.ct_slices(make.ct_volume(1), make.INJECTED_AT), "ct")
    (folder,) = Study.find(exported[0].parent / "studies")
    code = main(["export", str(exported[0].parent / "dose"), str(folder), "--source", str(other), "--out", "x"])
    assert code == 2
    assert "does not hold the series" in capsys.readouterr().err
