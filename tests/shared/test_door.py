"""The door: one row for each situation seen in bug reports and real files, the entry points tried, the exact outcome.

A row names who spoils what of a good study; every entry point must then end as the row says: refused with exit code 2,
the file and the cause, no traceback; or read, and read right. Add a row to add a situation.
"""

from __future__ import annotations

import bz2
import gzip
import os
import re
import shutil
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
import pytest

from doselabel.cli import main
from doselabel.errors import GeometryError
from doselabel.geometry import Geometry, Volume, read_image, write_image
from doselabel.labels import LabelMap, read_labels, write_labels
from doselabel.study import Study
from tests.shared.door_makers import (
    CT,
    GRID,
    SPECT,
    TRUTH,
    as_image,
    body,
    bytes_of,
    check,
    cut,
    dims,
    dose,
    edit,
    evaluate,
    excluding,
    far_away,
    final,
    flat,
    flipped,
    header_of,
    into_folder,
    make_study,
    members,
    mha,
    mirrored_sform,
    moved,
    moved_data,
    named,
    no_codes,
    no_sform,
    nrrd,
    organs,
    plain,
    removed,
    same_field_twice,
    scaling,
    segment,
    set_field,
    stated,
    submit,
    swapped,
    text,
    then,
    tilted,
    train,
    unit_affine,
    whole_of,
    with_voxels,
    zipped,
)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_study(tmp_path_factory.mktemp("good") / "P-1", times_h=(4.0, 24.0)).folder


@pytest.fixture
def study(good: Path, tmp_path: Path) -> Study:
    return Study.load(shutil.copytree(good, tmp_path / "P-1"))


@dataclass(frozen=True)
class Spoilt:
    """A study that somebody spoilt; ``expected`` is what must be said, empty when nothing may be."""

    name: str
    spoil: Callable[[Path], None]
    entries: tuple[Callable, ...]
    expected: str


ALL = (check, segment, dose, train, evaluate)
DOSED = (check, dose)
READ = (check, train, evaluate)
MAP = (dose, train, evaluate, submit)
MAP_ALONE = (dose, train, evaluate, final)
SPOILT = [
    Spoilt("ct cut off, gzip", cut(CT, 0.6), ALL, r"ct\.nii\.gz: is cut off"),
    Spoilt("ct cut off, plain", plain(CT, cut("ct.nii", 0.7)), ALL, r"ct\.nii: is cut off.*declares 110592"),
    Spoilt("ct cut in its header", plain(CT, cut("ct.nii", 0.002)), ALL, "cannot be read"),
    Spoilt("ct empty", cut(CT, 0.0), ALL, "cannot be read.*it is empty"),
    Spoilt("ct with a flipped byte", flipped(CT), ALL, "is damaged|is cut off"),
    Spoilt("ct with its gzip length wrong", bytes_of(CT, lambda c: bytes(c[:-100])), ALL, "is cut off"),
    Spoilt("ct with more voxels than declared", bytes_of(CT, lambda c: bytes(c) + b"\1" * 500), ALL,
           "more voxels"),
    Spoilt("ct with fewer slices declared", header_of(CT, lambda h: h["dim"].__setitem__(3, 20)), ALL, "more voxels"),
    Spoilt("ct with a size below 0", header_of(CT, lambda h: h["dim"].__setitem__(1, -48)), ALL,
           "declares a size of -48"),
    Spoilt("ct of colours", header_of(CT, set_field("datatype", 128)), ALL, "colours"),
    Spoilt("ct of an unknown type", header_of(CT, set_field("datatype", 3)), ALL, "unknown data type 3"),
    Spoilt("ct in metres", header_of(CT, set_field("xyzt_units", 1)), ALL, "metres"),
    Spoilt("ct whose voxels are elsewhere", header_of(CT, set_field("magic", b"ni1")), ALL, "pair of files"),
    Spoilt("ct as ANALYZE", header_of(CT, set_field("magic", b"")), ALL, "ANALYZE"),
    Spoilt("ct without orientation", header_of(CT, no_codes), ALL, "codes are 0.*study place"),
    Spoilt("ct with two orientations", header_of(CT, mirrored_sform), ALL, "qform says axes LPS.*sform says"),
    Spoilt("ct with gantry tilt", header_of(CT, tilted), ALL, "12.0° off.*resample first"),
    Spoilt("ct a text file", lambda f: (f / CT).write_text("no image") and None, ALL, "cannot be read"),
    Spoilt("spect cut off", cut(SPECT, 0.5), (check, dose), r"time_points\[1\]\.spect.*is cut off"),
    Spoilt("spect cut off, plain", plain(SPECT, cut("spect_tp2.nii", 0.9)), (check, dose), "is cut off"),
    Spoilt("spect with a flipped byte", flipped(SPECT), (check, dose), "is damaged|is cut off"),
    Spoilt("spect of complex numbers", header_of(SPECT, set_field("datatype", 32)), (check, dose), "complex"),
    Spoilt("nrrd without space", then(as_image(CT, ".nrrd"), edit("ct.nrrd", b"space: left", b"#pace: left")), ALL,
           "does not say where.*no 'space'"),
    Spoilt("nrrd cut off", then(as_image(CT, ".nrrd"), cut("ct.nrrd", 0.5)), ALL, "is cut off"),
    Spoilt("mha without direction", then(as_image(CT, ".mha"), edit("ct.mha", b"TransformMatrix", b"TransformMatrlx")),
           ALL, "does not say where"),
    Spoilt("mha cut off", then(as_image(CT, ".mha"), cut("ct.mha", 0.9)), ALL, "is cut off"),
    Spoilt("mhd beside its voxels", as_image(CT, ".mhd"), READ, ""),
    Spoilt("ct compressed twice", whole_of(CT, gzip.compress), ALL, "gzip data .compressed twice"),
    Spoilt("ct a web page", whole_of(CT, lambda _: b"<!DOCTYPE html><html>404</html>"), ALL, "looks like a web page"),
    Spoilt("ct a pointer to a large file", whole_of(CT, lambda _: b"version https://git-lfs.github.com/spec/v1\n"), ALL,
           "a pointer of Git LFS"),
    Spoilt("ct in a zip archive", whole_of(CT, zipped), ALL, "looks like a zip archive"),
    Spoilt("ct with other bytes after its end", whole_of(CT, lambda c: c + b"rubbish"), ALL, "follow other bytes"),
    Spoilt("ct in many gzip members", whole_of(CT, members), READ, ""),
    Spoilt("ct padded with zeros", whole_of(CT, lambda c: c + bytes(5000)), READ, ""),
    Spoilt("ct with a wrong length at its end", whole_of(CT, lambda c: c[:-1] + b"\x7f"), ALL, "is damaged"),
    Spoilt("ct with a wrong checksum", whole_of(CT, lambda c: c[:-8] + b"\x7f" + c[-7:]), ALL, "is damaged"),
    Spoilt("ct with a slope of 0", header_of(CT, set_field("scl_slope", 0)), READ, ""),
    Spoilt("ct with a slope that is no number", header_of(CT, set_field("scl_slope", np.nan)), READ, ""),
    Spoilt("ct with a qfac of 0", header_of(CT, lambda h: h["pixdim"].__setitem__(0, 0)), READ, ""),
    Spoilt("ct with an empty sform", header_of(CT, no_sform), ALL, "voxel size is 0 × 0 × 0 mm"),
    Spoilt("ct with a slice distance of 0", header_of(CT, flat), ALL, "voxel size|two sizes of a voxel"),
    Spoilt("ct in five dimensions", header_of(CT, dims(5, 48, 48, 24, 1, 2)), ALL, "dimensions"),
    Spoilt("ct of one slice", header_of(CT, dims(2, 48, 48 * 24)), ALL, "2 dimensions"),
    Spoilt("ct a time series", header_of(CT, dims(4, 48, 48, 12, 2)), ALL, "2 values per voxel"),
    Spoilt("ct of the other byte order", swapped(CT), READ, ""),
    Spoilt("mhd with its voxels elsewhere", then(as_image(CT, ".mhd"), moved_data), ALL, "outside the study folder"),
    Spoilt("label cut off", cut(TRUTH, 0.7), MAP, "is cut off"),
    Spoilt("label with a flipped byte", flipped(TRUTH), MAP, "is damaged|is cut off"),
    Spoilt("label without orientation", header_of(TRUTH, no_codes), MAP, "codes are 0"),
    Spoilt("label with two orientations", header_of(TRUTH, mirrored_sform), MAP, "qform says"),
    Spoilt("label as the array's affine is forgotten", header_of(TRUTH, unit_affine), MAP_ALONE, "not on the grid of"),
    Spoilt("label with a slope of 1.00001", header_of(TRUTH, set_field("scl_slope", 1.00001)), MAP, ""),
    Spoilt("label with a slope of 0.1", header_of(TRUTH, set_field("scl_slope", 0.1)), MAP_ALONE, "not whole numbers"),
    Spoilt("label in metres", header_of(TRUTH, set_field("xyzt_units", 1)), MAP, "metres"),
    Spoilt("label of colours", header_of(TRUTH, set_field("datatype", 128)), MAP, "colours"),
    Spoilt("study.json with a mark", text("utf-8-sig"), (check,), ""),
    Spoilt("study.json in Latin-1", text("latin-1"), (check,), ""),
    Spoilt("study.json in UTF-16", text("utf-16"), (check,), ""),
    Spoilt("study.json with a field twice", same_field_twice, (check, dose), "'nuclide' is there twice"),
    Spoilt("ct in bzip2", whole_of(CT, bz2.compress), DOSED, "looks like bzip2 data"),
    Spoilt("ct a picture", whole_of(CT, lambda _: b"\x89PNG\r\n\x1a\n" + bytes(500)),
           DOSED, "looks like a PNG picture"),
    Spoilt("ct a DICOM file", whole_of(CT, lambda _: bytes(128) + b"DICM" + bytes(500)),
           DOSED, "looks like a DICOM file"),
    Spoilt("ct NRRD under another name", then(as_image(CT, ".nrrd"), moved("ct.nrrd", CT), named("ct.nrrd", CT)), DOSED,
           "looks like an NRRD file"),
    Spoilt("ct of zeros", whole_of(CT, lambda c: bytes(len(c))), DOSED, "begins with zeros only"),
    Spoilt("ct a folder", lambda f: (f / "dcm").mkdir() or named(CT, "dcm")(f), DOSED, "which is a folder.*DICOM"),
    Spoilt("ct a pipe", then(removed(CT), lambda f: os.mkfifo(f / CT)), DOSED, "no ordinary file"),
    Spoilt("ct a label map", named(CT, TRUTH), DOSED, "looks like a label map"),
    Spoilt("ct a loop of links", then(removed(CT), lambda f: (f / CT).symlink_to(CT)), DOSED, "leads in a circle"),
    Spoilt("ct a link to nothing", then(removed(CT), lambda f: (f / CT).symlink_to("gone")), DOSED, "target is gone"),
    Spoilt("ct a link to elsewhere", then(removed(CT), lambda f: (f / CT).symlink_to("/etc/hostname")), DOSED,
           "outside the study folder"),
    Spoilt("ct by a name with a NUL", named(CT, "ct\0.nii.gz"), DOSED, "can be no file's name"),
    Spoilt("ct by half a letter", named(CT, "ct\ud800.nii.gz"), DOSED, "can be no file's name"),
    Spoilt("ct by a name of 300 letters", named(CT, "c" * 300 + ".nii.gz"), DOSED, "can be no file's name"),
    Spoilt("ct by no name", named(CT, ""), DOSED, "field 'ct' is empty"),
    Spoilt("ct by a Windows path", then(into_folder(CT), named(CT, "img\\ct.nii.gz")), DOSED, "'img/ct.nii.gz'"),
    Spoilt("ct by its name in capitals", named(CT, "CT.nii.gz"), DOSED, "There is 'ct.nii.gz'"),
    Spoilt("ct by other accents", then(moved(CT, unicodedata.normalize("NFD", "ctü.nii.gz")), named(CT, "ctü.nii.gz")),
           DOSED, "how its accents"),
    Spoilt("ct by a name in Chinese", then(moved(CT, "ct 肝.nii.gz"), named(CT, "ct 肝.nii.gz")), (check,), ""),
    Spoilt("ct whose voxels begin nowhere", header_of(CT, set_field("vox_offset", np.nan)), DOSED, "begin at byte nan"),
    Spoilt("ct of nine dimensions", header_of(CT, lambda h: h["dim"].__setitem__(0, 9)),
           DOSED, "declares 9 dimensions"),
    Spoilt("ct of a kind to come", header_of(CT, set_field("magic", b"n+3")),
           DOSED, "does not begin with a NIfTI header"),
    Spoilt("ct at no place", header_of(CT, set_field("qoffset_x", np.nan)), DOSED, r"first voxel is at \(.*nan"),
    Spoilt("ct 100 km away", header_of(CT, far_away), DOSED, "first voxel is at"),
    Spoilt("ct of an infinite slope", header_of(CT, set_field("scl_slope", np.inf)), DOSED, "which is no scaling"),
    Spoilt("ct of no slope and an intercept", header_of(CT, scaling(0, -1024)), DOSED, "which is no scaling"),
    Spoilt("ct of bits", header_of(CT, set_field("datatype", 1)), DOSED, "single bits"),
    Spoilt("ct as another type of one size", header_of(CT, set_field("datatype", 512)), DOSED, "saved as unsigned"),
    Spoilt("nrrd of another dimension", nrrd("dimension: 3", "dimension: 4"),
           DOSED, "'dimension' is 4 and its 'sizes'"),
    Spoilt("nrrd with an origin that is none", nrrd("origin: (-188,-188,-60)", "origin: -188 -188 -60"), DOSED,
           "not those of three axes"),
    Spoilt("nrrd without origin", nrrd("space origin", "#pace origin"), DOSED, "no 'space origin'"),
    Spoilt("nrrd with a skip that is none", nrrd("endian:", "byte skip: x\nendian:"), DOSED, "its 'byte skip' is 'x'"),
    Spoilt("nrrd with a field twice", nrrd("endian:", "sizes: 24 48 48\nendian:"), DOSED, "'sizes' twice"),
    Spoilt("nrrd packed, it says", nrrd("encoding: raw", "encoding: gzip"), DOSED, "are packed .gzip.; they are not"),
    Spoilt("nrrd of text", nrrd("encoding: raw", "encoding: ascii"), DOSED, "encoded as 'ascii'"),
    Spoilt("nrrd of no byte order", nrrd("endian: little", "endian: middle"), DOSED, "'endian' is 'middle'"),
    Spoilt("nrrd of the other byte order, it says", nrrd("endian: little", "endian: big"), DOSED,
           "bytes of each value"),
    Spoilt("mha of the other byte order, it says", mha("ByteOrderMSB = False", "ByteOrderMSB = True"), DOSED,
           "bytes of each value"),
    Spoilt("ct of three values per voxel", header_of(CT, dims(5, 48, 48, 8, 1, 3)), DOSED, "3 values per voxel"),
    Spoilt("ct that states no header", header_of(CT, set_field("sizeof_hdr", 0)), DOSED, "header of 0 bytes"),
    Spoilt("nrrd of a list", nrrd("kinds: domain domain domain", "kinds: list domain domain"),
           DOSED, "of the kind 'list'"),
    Spoilt("nrrd of quantised values", nrrd("endian:", "old min: 0\nold max: 1\nendian:"), DOSED, "stand for others"),
    Spoilt("nrrd in cm", nrrd("endian:", 'space units: "cm" "cm" "cm"\nendian:'), DOSED, "grid in cm"),
    Spoilt("nrrd of a later version", nrrd("NRRD0004", "NRRD0009"), DOSED, "its version is 9"),
    Spoilt("mha of two sizes", mha("NDims = 3", "NDims = 4"), DOSED, "'NDims' is 4 and its 'DimSize'"),
    Spoilt("mha of half a voxel", mha("DimSize = 48", "DimSize = 48.5"), DOSED, "expected whole numbers"),
    Spoilt("mha of two spacings", mha("ElementSpacing = 8 8 5", "ElementSpacing = 8 8"), DOSED, "has 2 numbers"),
    Spoilt("mha of a negative spacing", mha("ElementSpacing = 8", "ElementSpacing = -8"), DOSED, "voxel size is -8"),
    Spoilt("mha without offset", mha("Offset", "0ffset"), DOSED, "no 'Offset'"),
    Spoilt("mha with a header of no size", mha("NDims", "HeaderSize =\nNDims"), DOSED, "HeaderSize"),
    Spoilt("mha packed, it says", mha("CompressedData = False", "CompressedData = True"),
           DOSED, "are packed .zlib.; they"),
    Spoilt("mha of scaled values", mha("NDims", "ElementToIntensityFunctionSlope = 2\nNDims"),
           DOSED, "are to be scaled"),
    Spoilt("mha in cm", mha("NDims", "DistanceUnits = cm\nNDims"), DOSED, "grid in cm"),
    Spoilt("mha of a mesh", mha("ObjectType = Image", "ObjectType = Mesh"), DOSED, "type 'Mesh'"),
    Spoilt("spect of one value", with_voxels(SPECT, lambda a: 0 * a + 5), DOSED, "is 5 everywhere"),
    Spoilt("spect turned negative", with_voxels(SPECT, lambda a: -a), DOSED, "and none positive"),
    Spoilt("spect given as ct", named(CT, SPECT), DOSED, "is it the SPECT"),
    Spoilt("ct as grey levels", with_voxels(CT, lambda a: (a + 1000) / 8), DOSED, "grey levels"),
    Spoilt("all is to be left out", excluding(1), DOSED, "would all be left out"),
    Spoilt("a ct as mask of what is left out", excluding(-1000), DOSED, "values run from -1000"),
    Spoilt("a place stated of no file", stated("ct2.nii.gz"), (check, dose), "no image of the study"),
    Spoilt("a place stated of a file that says another", stated(CT), (check, dose), "the file says itself"),
    Spoilt("study.json empty", whole_of("study.json", lambda _: b""), (check, dose), "is empty"),
    Spoilt("study.json of no text", whole_of("study.json", lambda _: bytes(range(128, 160))),
           (check, dose), "is not text"),
    Spoilt("study.json of brackets", whole_of("study.json", lambda _: b"[" * 100_000),
           (check, dose), "nested without end"),
    Spoilt("study.json with a decimal comma", edit("study.json", b"24.0", b"24,0"), (check, dose), "a decimal comma"),
    Spoilt("study.json with an answer", edit("study.json", b"7400", b"true"),
           (check, dose), "expected a number or text"),
    Spoilt("study.json cut off", whole_of("study.json", lambda c: c[:-30]), (check, dose), "is not JSON"),
]  # fmt: skip


@pytest.mark.parametrize("row", SPOILT, ids=lambda row: row.name)
def test_what_is_spoilt_is_refused_by_its_true_cause_at_every_entry(study, row, capsys):
    row.spoil(study.folder)
    for entry in row.entries:
        code, said = entry(study.folder, capsys)
        assert "Traceback" not in said
        if not row.expected:
            assert code == 0, said
            continue
        assert code == 2, (entry.__name__, said)
        assert re.search(row.expected, said, re.DOTALL), (entry.__name__, said)


@pytest.mark.parametrize(
    ("name", "entry"), [(CT, check), (CT, segment), (CT, dose), (CT, train), (SPECT, check), (SPECT, dose)]
)
@pytest.mark.parametrize("kind", [".nii", ".nii.gz"])
def test_a_file_cut_at_ten_places_is_refused_at_each(study, name, kind, entry, capsys):
    if kind == ".nii":
        plain(name)(study.folder)
    path = study.folder / name.replace(".nii.gz", kind)
    content = path.read_bytes()
    for at in np.random.default_rng(7).integers(0, len(content), 10):
        path.write_bytes(content[:at])
        code, said = entry(study.folder, capsys)
        assert code == 2, (at, said)
        assert "is cut off" in said or "cannot be read" in said, (at, said)


@pytest.mark.parametrize("kind", [".nii", ".nii.gz"])
def test_a_label_map_cut_at_ten_places_is_refused_at_each(study, kind, tmp_path):
    path = write_labels(tmp_path / f"label{kind}", LabelMap(organs(), GRID))
    content = path.read_bytes()
    for at in np.random.default_rng(7).integers(0, len(content), 10):
        path.write_bytes(content[:at])
        with pytest.raises(GeometryError, match=r"is cut off|cannot be read"):
            read_labels(path, expect=GRID)


@pytest.mark.parametrize(("beside", "named"), [("map.nii", "map.nii.gz"), ("map.nii.gz", "map.nii")])
def test_the_file_named_is_the_file_read(tmp_path, beside, named):
    write_image(tmp_path / beside, Volume(np.full(GRID.shape, 7, np.int16), GRID))
    write_image(tmp_path / named, Volume(body(), GRID))
    np.testing.assert_array_equal(read_image(tmp_path / named).array, body())


def test_axes_off_perpendicular_by_rounding_are_read(study):
    def bent(header: nibabel.Nifti1Header) -> None:
        header["srow_x"][1] += 3e-4 * 8

    header_of(CT, bent)(study.folder)
    assert np.abs(study.read(CT).geometry.corners_lps() - GRID.corners_lps()).max() < 0.2


def test_orientation_that_the_user_states_is_kept_in_the_study(study, capsys):
    header_of(CT, no_codes)(study.folder)
    command = ["study", "place", str(study.folder), CT, "--orientation", "lpS", "--spacing-mm", "8", "8", "5"]
    assert main(command) == 0
    again = Study.load(study.folder)
    assert again.stated_places[CT].orientation == "lpS"
    assert again.read(CT).geometry == Geometry(GRID.shape, GRID.spacing_mm)
    assert main(["study", "place", str(study.folder), SPECT, *command[4:]]) == 2
    assert "says itself" in capsys.readouterr().err


@pytest.mark.parametrize("line", ["data file: /etc/hostname", "data file: ../secret.raw", "datafile: secret.raw"])
def test_a_header_that_points_at_another_file_is_refused_and_nothing_of_it_read(tmp_path, line):
    (tmp_path / "secret.raw").write_bytes(bytes(64))
    (tmp_path / "label.nrrd").write_text(
        "NRRD0004\ntype: uint8\ndimension: 3\nspace: left-posterior-superior\nsizes: 4 4 4\nencoding: raw\n"
        f"space directions: (1,0,0) (0,1,0) (0,0,1)\nspace origin: (0,0,0)\n{line}\n"
    )
    with pytest.raises(GeometryError, match=r"in another file.*not read"):
        read_labels(tmp_path / "label.nrrd")


def test_a_small_file_that_declares_a_huge_grid_is_refused_by_its_header(study, tmp_path):
    header = nibabel.Nifti1Header()
    header.set_data_dtype(np.uint8)
    header.set_data_shape((1500, 1000, 1000))
    header.set_sform(np.eye(4), 1)
    header["vox_offset"] = 352
    path = tmp_path / "bomb.nii.gz"
    path.write_bytes(gzip.compress(header.binaryblock + bytes(4 + (1 << 20)), 9))
    with pytest.raises(GeometryError, match="not on the grid of its CT"):
        read_labels(path, expect=GRID)
    with pytest.raises(GeometryError, match="is cut off"):
        read_labels(path)
