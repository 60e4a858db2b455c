"""Drawn organs (SEG, RTSTRUCT) come in as label versions: the masks that were drawn, by whom, on which CT."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.pixel_data_handlers.numpy_handler import pack_bits
from pydicom.sequence import Sequence

from doselabel.errors import DicomError
from doselabel.labels import LabelMap, read_labels
from doselabel.study import Study
from tests.shared.dicom import makers as make

hd = pytest.importorskip("highdicom")

from doselabel.dicom import labels as labels_in  # noqa: E402
from doselabel.dicom import volume  # noqa: E402
from doselabel.dicom.drawn import drawn, recognised  # noqa: E402
from doselabel.dicom.export import Material  # noqa: E402
from doselabel.dicom.labels import filled, label_map  # noqa: E402
from doselabel.dicom.series import Series, sorted_series  # noqa: E402
from doselabel.dicom.sort import Instance, gathered  # noqa: E402
from doselabel.dicom.volume import ct_volume, stacked  # noqa: E402
from doselabel.dicom.write_rt import structures  # noqa: E402
from doselabel.dicom.write_seg import segmentation  # noqa: E402
from doselabel.versions import LabelStore  # noqa: E402

DATA = Path(__file__).parents[4] / "shared" / "data" / "dicom"
real = pytest.mark.skipif(not DATA.is_dir(), reason=f"no real DICOM in {DATA}")
NAMES = {1: "left_kidney", 2: "right_kidney", 3: "liver", 4: "spleen", 6: "tumour_1", 7: "tumour_2"}


def masks():
    labels = make.labels_array()
    labels[20, 12:16, 30:34] = 4  # a spleen of one slice
    labels[12, 22:24, 36:38] = 0  # a hole in a kidney
    labels[20:23, 12:15, 10:13] = 6  # lesions in the liver: holes of it
    labels[24, 10, 8] = 7
    return labels


@pytest.fixture(scope="module")
def ct(source):
    """Series and planes of the diagnostic CT, as an export takes them."""
    with gathered(source) as found:
        series = next(s for s in sorted_series(found.instances) if s.kind == "ct" and "diag" in s.instances[0].name)
        return series, stacked(series)


@pytest.fixture
def objects(ct):
    """Our own SEG and RTSTRUCT of the masks."""
    _, stack = ct
    images = [plane.instance.header for plane in stack.planes]
    labels = LabelMap(masks(), make.CT_GRID, NAMES)
    made = Material(images, stack, labels.array, labels, None, None, Path())
    return segmentation(made), structures(made)


def read(ds, ct, folder):
    """What is drawn in an object, and its label map."""
    make.save(folder, [ds], "drawn")
    with gathered(folder) as found:
        (series,) = sorted_series(found.instances)
    got = drawn(series, [ct[0]], {ct[0].number: ct[1]})
    return got, label_map(got, ct[1], ct_volume(ct[1]))


def assert_same(labels, wanted, names=NAMES):
    assert set(labels.present()) == {names[v] for v in np.unique(wanted) if v}
    for value, name in names.items():
        assert np.array_equal(labels.mask(name), wanted == value), name


@pytest.mark.parametrize("kind", [0, 1], ids=["seg", "rtstruct"])
def test_our_own_export_comes_back_voxel_by_voxel(objects, ct, tmp_path, kind):
    got, labels = read(objects[kind], ct, tmp_path)
    assert_same(labels, masks())
    assert not got.words
    assert not [a for a in labels.findings if a.code.startswith("label-segment")]


def seg_of(ct, segments, kind="BINARY", **more):
    """A SEG of (label, mask, type code); frames without voxels are left out."""
    described = [
        hd.seg.SegmentDescription(i, label, hd.sr.CodedConcept("123037004", "SCT", "Anatomical Structure"), code,
                                  hd.seg.SegmentAlgorithmTypeValues.MANUAL)
        for i, (label, _, code) in enumerate(segments, start=1)
    ]  # fmt: skip
    planes = np.stack([mask for _, mask, _ in segments], axis=-1)
    return hd.seg.Segmentation(
        [p.instance.header for p in ct[1].planes], planes, kind, described, pydicom.uid.generate_uid(), 1,
        pydicom.uid.generate_uid(), 1, "Maker", "Model", "1", "1", **more,
    )  # fmt: skip


LIVER = hd.sr.CodedConcept("10200004", "SCT", "Liver")
TISSUE = hd.sr.CodedConcept("85756007", "SCT", "Tissue")


def test_frames_may_come_in_any_order(objects, ct, tmp_path):
    seg = objects[0]
    seg.PixelData = pack_bits(seg.pixel_array[::-1].ravel())
    seg.PerFrameFunctionalGroupsSequence = Sequence(list(seg.PerFrameFunctionalGroupsSequence)[::-1])
    assert_same(read(seg, ct, tmp_path)[1], masks())


def test_of_a_fractional_segment_more_than_half_is_the_organ(ct, tmp_path):
    part = np.where(masks() == 3, 0.6, np.where(masks() == 1, 0.4, 0.0))
    seg = seg_of(ct, [("Liver", part, LIVER)], "FRACTIONAL", fractional_type="PROBABILITY")
    assert np.array_equal(read(seg, ct, tmp_path)[1].mask("liver"), masks() == 3)


def test_empty_unknown_coded_and_overlapping_segments(ct, tmp_path):
    liver, lesion = (masks() == 3) | (masks() == 6), masks() == 6
    seg = seg_of(ct, [("R1", liver, LIVER), ("Spleen", np.zeros_like(liver), TISSUE), ("Bone", masks() == 1, TISSUE),
                      ("Tumor 2", lesion, TISSUE)])  # fmt: skip
    got, labels = read(seg, ct, tmp_path)
    assert got.words == ("'Bone' is no organ of the table and no lesion",)
    assert set(labels.present()) == {"liver", "tumour_2"}
    assert np.array_equal(labels.mask("tumour_2"), lesion)
    told = {a.code: a for a in labels.findings}
    assert told["label-segment-empty"].organ == "spleen"
    assert told["label-segments-overlap"].numbers["voxels"] == lesion.sum()


def test_both_kidneys_in_one_segment_are_parted_and_exchanged_sides_are_an_alarm(ct, tmp_path):
    kidneys = (masks() == 1) | (masks() == 2)
    _, labels = read(seg_of(ct, [("Kidneys", kidneys, TISSUE)]), ct, tmp_path / "a")
    assert np.array_equal(labels.mask("left_kidney"), masks() == 1)
    swapped = seg_of(ct, [("Kidney_R", masks() == 1, TISSUE), ("Kidney_L", masks() == 2, TISSUE)])
    _, labels = read(swapped, ct, tmp_path / "b")
    assert "label-sides-exchanged" in {a.code for a in labels.findings}


def test_a_segmentation_of_another_grid_or_frame_is_refused(objects, ct, tmp_path):
    seg = objects[0]
    seg.PerFrameFunctionalGroupsSequence[0].PlanePositionSequence[0].ImagePositionPatient[2] += 3
    with pytest.raises(DicomError, match="not on the voxels of series"):
        read(seg, ct, tmp_path)
    seg.FrameOfReferenceUID = pydicom.uid.generate_uid()
    with pytest.raises(DicomError, match="another frame of reference"):
        read(seg, ct, tmp_path)


# ---- contours


def corners(*points):
    return np.array(points, float)


def test_filling_is_even_odd_at_voxel_centres():
    square = corners((0.5, 0.5), (0.5, 6.5), (6.5, 6.5), (6.5, 0.5))
    hole = corners((2.5, 2.5), (2.5, 4.5), (4.5, 4.5), (4.5, 2.5))
    wanted = np.zeros((8, 9), bool)
    wanted[1:7, 1:7], wanted[3:5, 3:5] = True, False
    assert np.array_equal(filled([square, hole], (8, 9)), wanted)
    keyhole = np.concatenate([square, square[:1], hole[::-1], hole[-1:]])
    assert np.array_equal(filled([keyhole], (8, 9)), wanted)
    beyond = filled([corners((-5, -5), (-5, 20), (20, 20), (20, -5))], (8, 9))
    assert beyond.all()


def test_a_filled_circle_has_its_area():
    angle = np.linspace(0, 2 * np.pi, 400, endpoint=False)
    circle = 60.3 + 40 * np.column_stack([np.sin(angle), np.cos(angle)])
    assert filled([circle], (128, 128)).sum() == pytest.approx(np.pi * 40**2, rel=2e-3)


def test_contours_that_can_not_be_taken_are_named_and_the_others_are(objects, ct, tmp_path):
    rt = objects[1]
    roi = dict(zip((r.ROIName for r in rt.StructureSetROISequence), rt.StructureSetROISequence, strict=True))
    contour = {c.ReferencedROINumber: c.ContourSequence for c in rt.ROIContourSequence}
    roi["left_kidney"].ReferencedFrameOfReferenceUID = pydicom.uid.generate_uid()
    roi["spleen"].ROIName = "PTV_60"
    of_liver, of_lesion = contour[roi["liver"].ROINumber], contour[roi["tumour_1"].ROINumber]
    opened = Dataset()
    opened.ContourGeometricType, opened.ContourData = "OPEN_PLANAR", of_liver[0].ContourData[:6]
    of_liver.append(opened)
    of_liver.append(of_liver[0])  # the same once more
    data = [float(v) for v in of_lesion[0].ContourData]
    of_lesion[0].ContourData = [f"{v + 2.5 * (i % 3 == 2):.3f}" for i, v in enumerate(data)]
    got, labels = read(rt, ct, tmp_path)
    said = got.sentence()
    assert "'left_kidney' left out: drawn in another frame of reference" in said
    assert "'tumour_1' left out: 1 of its contours lie up to 2.50 mm off" in said
    assert "'liver' has 1 open contour(s)" in said
    assert "no organs of the table and no lesions: 'PTV_60'" in said
    kept = np.where(np.isin(masks(), [2, 3, 7]), masks(), 0)
    assert_same(labels, kept, {v: NAMES[v] for v in (2, 3, 7)})


def test_a_rejected_structure_set_or_one_of_another_ct_is_refused(objects, ct, tmp_path):
    rt = objects[1]
    rt.ApprovalStatus = "REJECTED"
    with pytest.raises(DicomError, match="rejected"):
        read(rt, ct, tmp_path)
    rt.ApprovalStatus = "UNAPPROVED"
    frame = rt.ReferencedFrameOfReferenceSequence[0]
    frame.RTReferencedStudySequence[0].RTReferencedSeriesSequence[0].SeriesInstanceUID = pydicom.uid.generate_uid()
    assert_same(read(rt, ct, tmp_path)[1], masks())  # by its frame of reference and geometry
    frame.FrameOfReferenceUID = rt.FrameOfReferenceUID = pydicom.uid.generate_uid()
    for roi in rt.StructureSetROISequence:
        roi.ReferencedFrameOfReferenceUID = rt.FrameOfReferenceUID
    with pytest.raises(DicomError, match="no CT of the study"):
        read(rt, ct, tmp_path)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Kidney_L", "left_kidney"), ("RIGHT KIDNEY", "right_kidney"), ("kidneys", "kidneys"), ("Leber", ""),
        ("Tumor", "tumour"), ("GTV-1", "gtv_1"), ("Lesion 03 Doe", "lesion_3"), ("metastases", "metastasis"),
        ("GTV ring", ""), ("Liver-GTV", ""), ("PTV", ""), ("Liver", "liver"), ("", ""),
    ],
)  # fmt: skip
def test_names_are_those_of_our_table_or_a_lesions_word_and_number(text, name):
    assert recognised(text) == name


def test_what_is_drawn_on_a_tilted_gantrys_slices_goes_where_the_ct_goes(tmp_path):
    slices = make.ct_slices(make.ct_volume(), make.INJECTED_AT)
    for z, ds in enumerate(slices):
        ds.ImagePositionPatient[1] += 1.6 * z - 20  # 15 degrees
    with gathered(make.save(tmp_path, slices, "ct")) as found:
        (series,) = sorted_series(found.instances)
        stack = stacked(series)
    assert not stack.regular
    mask = make.labels_array() == 3
    by_ct = volume._straightened(mask.astype(np.float32), stack) > 0.5
    moved = labels_in._straightened(mask.astype(np.uint8), stack) > 0
    assert 2 * (moved & by_ct).sum() / (moved.sum() + by_ct.sum()) > 0.97
    assert 2 * (mask & by_ct).sum() / (mask.sum() + by_ct.sum()) < 0.9


# ---- the import


def test_an_import_stores_versions_with_author_and_state_once(source, objects, run, tmp_path):
    folder = tmp_path / "src"
    shutil.copytree(source, folder)
    seg, rt = objects
    seg.ContentCreatorName, rt.OperatorsName = "Roentgenova^Rita", "Poelzigmann^Paul"
    rt.ApprovalStatus, rt.ReviewerName = "APPROVED", "Moebiusson^Max"
    rt.StructureSetDate, seg.ContentDate = "20260310", "20260311"
    make.save(folder, [seg], "seg")
    make.save(folder, [rt], "rt")
    code, said, studies = run(folder, "--dry-run")
    assert code == 0, said
    assert "drawn on series 1, approved: left_kidney, right_kidney, liver, spleen, tumour_1" in said
    assert said.count("one of several on this CT") == 2
    code, said, studies = run(folder)
    assert code in (0, 1), said
    (place,) = Study.find(studies)
    study = Study.load(place)
    store = LabelStore.of(study, study.ct)
    versions = {v.started_from: v for v in store.versions()}
    assert versions["DICOM RTSTRUCT"].state == "approved"
    assert versions["DICOM SEG"].state == "submitted"
    assert versions["DICOM RTSTRUCT"].version < versions["DICOM SEG"].version  # in the order of their dates
    assert {v.origin for v in versions.values()} == {"imported"}
    assert all(v.author.startswith("A-") for v in versions.values())
    for version in versions.values():
        assert_same(read_labels(store.path(version.version)), masks())
    assert store.final() == versions["DICOM RTSTRUCT"].model_copy(update={"conflicts": []})
    names = "Roentgenova", "Poelzigmann", "Moebiusson", make.PATIENT_ID
    assert make.files_that_hold(place, *names, str(rt.SOPInstanceUID)) == []
    before = {f: f.read_bytes() for f in place.rglob("*") if f.is_file()}
    code, said, _ = run(folder)
    assert "nothing new in it" in said
    assert {f: f.read_bytes() for f in place.rglob("*") if f.is_file()} == before
    code, said, named = run(folder, "--keep-identity", studies=tmp_path / "named")
    (place,) = Study.find(named)
    authors = {v.author for v in LabelStore.of(Study.load(place), study.ct).versions()}
    assert authors == {"Roentgenova Rita", "Poelzigmann Paul"}


# ---- real files


def of_file(path, cts=(), stacks=None):
    with gathered(path) as found:
        (series,) = sorted_series(found.instances)
    return drawn(series, list(cts), stacks or {})


@real
def test_the_real_segmentation_of_a_liver_is_where_highdicom_has_it():
    folder = DATA / "seg_liver_dcmqi"
    with gathered(folder) as found:
        ct = next(s for s in sorted_series(found.instances) if s.kind == "ct")
        stack = stacked(ct)
        got = of_file(folder / "liver.dcm", [ct], {ct.number: stack})
        labels = label_map(got, stack, ct_volume(stack))
    uids = [str(p.instance.header.SOPInstanceUID) for p in stack.planes]
    wanted = hd.seg.segread(folder / "liver.dcm").get_pixels_by_source_instance(
        uids, assert_missing_frames_are_empty=True, ignore_spatial_locations=True
    )
    assert np.array_equal(labels.mask("liver"), wanted[..., 0] > 0)
    with pytest.raises(DicomError, match="'GREEN' is no organ of the table"):
        of_file(folder / "partial_overlaps.dcm", [ct], {ct.number: stack})
    with pytest.raises(DicomError, match="no CT of the study"):
        of_file(folder / "seg.dcm", [ct], {ct.number: stack})


@real
@pytest.mark.parametrize("name", ["binary", "binary_fractional", "binary_overlap", "true_fractional"])
def test_the_real_segmentations_of_a_ct_that_is_not_there_are_refused(name, ct):
    with pytest.raises(DicomError, match="no CT of the study"):
        of_file(DATA / "seg_highdicom" / f"seg_image_ct_{name}.dcm", [ct[0]], {ct[0].number: ct[1]})


@real
def test_the_real_contours_enclose_their_area():
    """Lung1's CT is not at hand: planes where its contours lie stand for it. Volumes are the polygons' areas."""
    path = DATA / "ct_rtstruct_lung1" / "1-1.dcm"
    ds = pydicom.dcmread(path)
    with pytest.raises(DicomError, match="no CT of the study"):
        of_file(path)
    frame = ds.ReferencedFrameOfReferenceSequence[0]
    uid = frame.RTReferencedStudySequence[0].RTReferencedSeriesSequence[0].SeriesInstanceUID
    gtv = next(c for c in ds.ROIContourSequence if c.ReferencedROINumber == 2).ContourSequence
    loops = [np.array(c.ContourData, float).reshape(-1, 3) for c in gtv]
    low = min(float(loop[0, 2]) for loop in loops) - 30
    instances = []
    for z in range(60):
        header = make.base(make.CT_SOP, None, SeriesInstanceUID=uid, FrameOfReferenceUID=frame.FrameOfReferenceUID)
        header.ImagePositionPatient, header.ImageOrientationPatient = [-249.5, -460.5, low + 3 * z], [1, 0, 0, 0, 1, 0]
        header.PixelSpacing, header.Rows, header.Columns = [0.9765625, 0.9765625], 512, 512
        instances.append(Instance(path, f"{z}", header))
    ct = Series(1, "ct", "", tuple(instances))
    stack = stacked(ct)
    got = of_file(path, [ct], {1: stack})
    assert set(got.names.values()) == {"gtv_1"}
    assert "'Spinal-Cord', 'Lung-Left', 'Lung-Right'" in got.sentence()
    area = sum(abs(np.dot(p[:, 0], np.roll(p[:, 1], 1)) - np.dot(p[:, 1], np.roll(p[:, 0], 1))) / 2 for p in loops)
    (voxels,) = labels_in._of_contours(got, stack).values()
    assert len(voxels) * 0.9765625**2 == pytest.approx(area, rel=0.02)


@real
def test_a_real_structure_set_without_organs_is_refused(ct):
    ds = pydicom.dcmread(DATA / "rt_pydicom" / "rtstruct.dcm", force=True)
    with pytest.raises(DicomError, match="no CT of the study"):
        of_file(DATA / "rt_pydicom" / "rtstruct.dcm", [ct[0]], {ct[0].number: ct[1]})
    assert not any(recognised(str(roi.ROIName)) for roi in ds.StructureSetROISequence)
