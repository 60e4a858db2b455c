"""Every real DICOM file at hand: taken for what it is, or left out for the right reason. Skipped where they are not."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pydicom")

from doselabel.cli import main
from doselabel.dicom import volume
from doselabel.dicom.frames import Plane, planes_of
from doselabel.dicom.injection import stated
from doselabel.dicom.scale import scale_of
from doselabel.dicom.series import sorted_series
from doselabel.dicom.sort import gathered
from doselabel.dicom.volume import ct_volume, read_volume, stacked
from doselabel.geometry import canonical, read_image

DATA = Path(__file__).parents[4] / "shared" / "data"
pytestmark = pytest.mark.skipif(not (DATA / "dicom").is_dir(), reason=f"no real DICOM in {DATA}")

CAPTURE, LOSSY, PLANAR = "a secondary capture", "a secondary capture: .*lossy", "planar"
TABLE = {
    "ct_rtstruct_lung1/1-1.dcm": ("rtstruct", ""),
    "enhanced_pydicom_data/eCT_Supplemental.dcm": ("left out", r"a map \(PERFUSION\), not HU"),
    "enhanced_pydicom_data/emri_small.dcm": ("left out", "an MR image"),
    "enhanced_pydicom_data/liver.dcm": ("seg", ""),
    "enhanced_pydicom_data/parametric_map_float.dcm": ("left out", "a parametric map"),
    "nm_planar_scintigraphy/poumonsReins.dcm": ("left out", r"planar \(STATIC\)"),
    "nm_planar_scintigraphy/testImage.dcm": ("left out", r"planar \(STATIC\)"),
    "nm_planar_scintigraphy/testImage2.dcm": ("left out", r"planar \(STATIC\)"),
    "nm_planar_wg04/NM1_J2KI": ("left out", LOSSY),
    "nm_planar_wg04/NM1_J2KR": ("left out", CAPTURE),
    "nm_planar_wg04/NM1_JLSL": ("left out", CAPTURE),
    "nm_planar_wg04/NM1_JLSN": ("left out", LOSSY),
    "nm_planar_wg04/NM1_JPLL": ("left out", CAPTURE),
    "nm_planar_wg04/NM1_JPLY": ("left out", LOSSY),
    "nm_planar_wg04/NM1_RLE": ("left out", CAPTURE),
    "own_nm_recon_tomo/pos.dcm": ("spect", ""),
    "own_nm_recon_tomo/rwv.dcm": ("spect", ""),
    "rt_pydicom/CT_small.dcm": ("ct", ""),
    "rt_pydicom/JPEG-lossy.dcm": ("left out", LOSSY),
    "rt_pydicom/JPEG2000.dcm": ("left out", LOSSY),
    "rt_pydicom/rtdose.dcm": ("left out", r"a dose map \(RTDOSE\)"),
    "rt_pydicom/rtdose_1frame.dcm": ("left out", r"a dose map \(RTDOSE\)"),
    "rt_pydicom/rtdose_expb.dcm": ("left out", r"a dose map \(RTDOSE\)"),
    "rt_pydicom/rtdose_rle.dcm": ("left out", r"a dose map \(RTDOSE\)"),
    "rt_pydicom/rtstruct.dcm": ("rtstruct", ""),
    "seg_highdicom/ct_image.dcm": ("ct", ""),
    "seg_highdicom/seg_image_ct_binary.dcm": ("seg", ""),
    "seg_highdicom/seg_image_ct_binary_fractional.dcm": ("seg", ""),
    "seg_highdicom/seg_image_ct_binary_overlap.dcm": ("seg", ""),
    "seg_highdicom/seg_image_ct_true_fractional.dcm": ("seg", ""),
    "seg_liver_dcmqi/01.dcm": ("ct", ""),
    "seg_liver_dcmqi/02.dcm": ("ct", ""),
    "seg_liver_dcmqi/03.dcm": ("ct", ""),
    "seg_liver_dcmqi/liver.dcm": ("seg", ""),
    "seg_liver_dcmqi/partial_overlaps.dcm": ("seg", ""),
    "seg_liver_dcmqi/rwvm.dcm": ("left out", "a real-world value mapping"),
    "seg_liver_dcmqi/seg.dcm": ("seg", ""),
    "seg_liver_dcmqi/sparse-labelmap-noppv.dcm": ("left out", "LABELMAP"),
    "seg_liver_dcmqi/sr.dcm": ("left out", "a structured report"),
}


@pytest.mark.parametrize("name", TABLE)
def test_each_file_is_taken_for_what_it_is(name):
    kind, reason = TABLE[name]
    with gathered(DATA / "dicom" / name) as found:
        assert not found.broken
        (series,) = sorted_series(found.instances)
    assert series.kind == kind
    assert re.search(reason, series.reason)
    assert bool(reason) == bool(series.reason)


def test_the_table_has_every_file():
    there = {p.relative_to(DATA / "dicom").as_posix() for p in (DATA / "dicom").rglob("*") if p.is_file()}
    assert {n for n in there if not n.endswith((".txt", ".md"))} == set(TABLE)


@pytest.mark.parametrize("name", ["pos.dcm", "rwv.dcm"])
def test_the_reconstructed_spect_has_the_activity_and_the_place_that_are_known(name):
    """SOURCE.txt: maximum 518596 Bq/mL at RAS 63.0 -39.6 16.4 mm."""
    with gathered(DATA / "dicom" / "own_nm_recon_tomo" / name) as found:
        (series,) = sorted_series(found.instances)
        scale = scale_of(series)
        assert scale.unit == (
            "Bq/mL" if name == "rwv.dcm" else None
        )  # the other states a slope and no unit: a question
        volume = read_volume(stacked(series), scale.values)
    where = np.unravel_index(volume.array.argmax(), volume.array.shape)
    assert volume.array.max() == pytest.approx(518596, rel=1e-5)
    assert volume.geometry.index_to_lps(np.array(where)) == pytest.approx([-63.0, 39.6, 16.4], abs=0.05)


def test_lossless_codings_of_one_image_hold_the_same_values():
    """JPEG 2000, JPEG-LS, JPEG and RLE of one NM image, unpacked as a plane's file is."""
    images = []
    for name in ("NM1_RLE", "NM1_J2KR", "NM1_JLSL", "NM1_JPLL"):
        with gathered(DATA / "dicom" / "nm_planar_wg04" / name) as found:
            (instance,) = found.instances
            images.append(volume._stored(Plane(instance, 0, np.zeros(3), np.eye(3)[:2], (1.0, 1.0), None, 0.0, None)))
    assert images[0].shape == (1, 1024, 256)
    assert images[0].max() > 0
    assert all(np.array_equal(image, images[0]) for image in images[1:])


def test_a_planar_dose_of_zero_is_not_stated():
    with gathered(DATA / "dicom" / "nm_planar_scintigraphy" / "poumonsReins.dcm") as found:
        said = stated(sorted_series(found.instances))
    assert said.activity_mbq is None
    assert "0 or nothing" in said.activity_why


def test_the_feet_first_ct_is_where_it_was(tmp_path):
    """41 GE slices, FFS, numbered against z, in an archive: as its NIfTI, which other software made."""
    out = tmp_path / "out"
    arguments = ["import", str(DATA / "crlm_1004" / "dicom.tar.xz"), str(out), "--key", str(tmp_path / "key.json")]
    assert main([*arguments, "--images"]) == 0
    (file,) = out.glob("*_ct.nii.gz")
    ours, theirs = canonical(read_image(file)), canonical(read_image(DATA / "crlm_1004" / "ct.nii.gz"))
    assert ours.geometry.same_place(theirs.geometry, 0.01)
    assert np.array_equal(ours.array, np.maximum(theirs.array, -1024))


def test_slices_thicker_than_their_gap_keep_their_gap():
    """dcmqi: SliceThickness 1.25 mm, 1.0 mm apart."""
    with gathered(DATA / "dicom" / "seg_liver_dcmqi") as found:
        series = next(s for s in sorted_series(found.instances) if s.kind == "ct")
        stack = stacked(series)
        assert ct_volume(stack).array.shape == (3, 512, 512)
    assert stack.geometry.spacing_mm[0] == pytest.approx(1.0, abs=1e-3)
    assert len(planes_of(series)) == 3
