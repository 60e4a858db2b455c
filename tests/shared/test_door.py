"""The door: one row for each situation seen in bug reports and real files, the entry points tried, the exact outcome.

A row names who spoils what of a good study (`SPOILT`), or makes a file of labels (`LABELS`); every entry point must
then end as the row says: refused with exit code 2, the file and the cause, no traceback; or read, and read right.
Add a row to add a situation.
"""

from __future__ import annotations

import gzip
import io
import json
import re
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from doselabel.cli import main
from doselabel.dosimetry.uptake.masks import resolve
from doselabel.errors import DoselabelError, GeometryError, LabelError
from doselabel.geometry import Geometry, Volume, read_image, write_image
from doselabel.labels import LabelMap, read_labels, write_labels
from doselabel.model.cache import prepare
from doselabel.model.cases import TrainCase
from doselabel.model.profiles import FAST
from doselabel.study import Study

GRID = Geometry((24, 48, 48), (5.0, 8.0, 8.0), (-188.0, -188.0, -60.0))


def organs() -> np.ndarray:
    """Kidneys of 115 mL, a liver of 512 mL, a spleen of 123 mL, by our table (z, y, x); x grows to the left."""
    array = np.zeros(GRID.shape, np.uint8)
    array[8:17, 26:32, 30:37] = 1
    array[8:17, 26:32, 12:19] = 2
    array[4:14, 14:24, 8:24] = 3
    array[6:14, 14:20, 34:42] = 4
    return array


def body() -> np.ndarray:
    """CT of that patient, HU."""
    ct = np.full(GRID.shape, -1000, np.int16)
    ct[:, 6:42, 4:44] = 20
    ct[organs() > 0] = 60
    return ct


def make_study(folder: Path) -> Study:
    """One patient, three scans; activity decays with 50 h."""
    points = []
    write_image(folder / "ct.nii.gz", Volume(body(), GRID))
    for number, time_h in enumerate((4.0, 24.0, 72.0), 1):
        write_image(folder / f"ct_tp{number}.nii.gz", Volume(body(), GRID))
        activity = np.where(organs() > 0, 1e6 * 0.5 ** (time_h / 50), 0).astype(np.float32)
        write_image(folder / f"spect_tp{number}.nii.gz", Volume(activity, GRID))
        points.append({"time_h": time_h, "ct": f"ct_tp{number}.nii.gz", "spect": f"spect_tp{number}.nii.gz"})
    write_labels(folder / "truth" / "ct.nii.gz", LabelMap(organs(), GRID))
    content = {"schema": "doselabel.study/1", "patient_id": folder.name, "nuclide": "Lu-177", "ct": "ct.nii.gz"}
    content |= {"injected_activity_mbq": 7400, "time_points": points}
    (folder / "study.json").write_text(json.dumps(content))
    return Study.load(folder)


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return make_study(tmp_path / "P-1")


# ---- entry points: each returns (exit code, what was said)


def check(folder: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    code = main(["study", "check", str(folder)])
    said = capsys.readouterr()
    return code, said.out + said.err


def segment(folder: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    code = main(["segment", str(next(folder.glob("ct.*"))), "--out", str(folder / "found.nii.gz")])
    return code, capsys.readouterr().err


def dose(folder: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    labels = folder / "truth" / "ct.nii.gz"
    code = main(["dose", str(folder), "--labels", str(labels), "--out", str(folder / "dose")])
    return code, capsys.readouterr().err


def evaluate(folder: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    predicted = shutil.copytree(folder / "truth", folder / "predicted", dirs_exist_ok=True)
    code = main(["evaluate", "--pred", str(predicted), "--truth", str(folder)])
    said = capsys.readouterr()
    return code, said.err


def train(folder: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Make the case ready to be trained on, which is where training reads it."""
    try:
        ct = next(file for file in folder.glob("ct.*") if file.suffix != ".raw")
        prepare([TrainCase(ct, folder / TRUTH, "P-1")], FAST, folder / "prepared")
    except DoselabelError as error:
        return 2, str(error)
    return 0, ""


def final(folder: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Submit it as the label map that counts; what is kept under another tag may be any image."""
    return submit(folder, capsys, ("final",))


def submit(
    folder: Path, capsys: pytest.CaptureFixture[str], tags: tuple[str, ...] = ("final", "draft")
) -> tuple[int, str]:
    """Submit what lies in truth/ as the server does with an upload, stock tag and ours."""
    datastore = pytest.importorskip("monailabel_app.datastore")
    file = folder / "truth" / "ct.nii.gz"
    said = []
    for tag in tags:
        try:
            datastore.StudyDatastore(folder.parent).save_label(f"{folder.name}__ct", str(file), tag, {})
        except DoselabelError as error:
            said.append(str(error))
    assert len(said) in (0, len(tags)), said
    return (2 if said else 0), " ".join(said)


# ---- spoilt studies


def cut(name: str, at: float) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: int(at * len(content))])

    return spoil


def plain(name: str, then: Callable[[Path], None] | None = None) -> Callable[[Path], None]:
    """Store a file uncompressed under its plain name and let the study name it."""

    def spoil(folder: Path) -> None:
        path = folder / name
        path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
        path.unlink()
        manifest = folder / "study.json"
        manifest.write_text(manifest.read_text().replace(f'"{name}"', f'"{name.removesuffix(".gz")}"'))
        if then:
            then(folder)

    return spoil


def flipped(name: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        content = bytearray((folder / name).read_bytes())
        content[len(content) // 2] ^= 0x10
        (folder / name).write_bytes(content)

    return spoil


def bytes_of(name: str, change: Callable[[bytearray], bytes]) -> Callable[[Path], None]:
    """Change the decoded bytes of a .nii.gz, whose checksum is then right."""

    def spoil(folder: Path) -> None:
        content = bytearray(gzip.decompress((folder / name).read_bytes()))
        (folder / name).write_bytes(gzip.compress(change(content)))

    return spoil


def header_of(name: str, change: Callable[[nibabel.Nifti1Header], None]) -> Callable[[Path], None]:
    def rewrite(content: bytearray) -> bytes:
        header = nibabel.Nifti1Header(bytes(content[:348]), check=False)
        change(header)
        return header.binaryblock + bytes(content[348:])

    return bytes_of(name, rewrite)


def set_field(field: str, value: object) -> Callable[[nibabel.Nifti1Header], None]:
    def change(header: nibabel.Nifti1Header) -> None:
        header[field] = value

    return change


def no_codes(header: nibabel.Nifti1Header) -> None:
    header["qform_code"] = header["sform_code"] = 0


def mirrored_sform(header: nibabel.Nifti1Header) -> None:
    header["srow_x"] = -header["srow_x"]


def tilted(header: nibabel.Nifti1Header) -> None:
    header["qform_code"] = 0
    header["srow_y"][2] = 5.0 * np.tan(np.deg2rad(12))
    header["pixdim"][3] = 5.0 / np.cos(np.deg2rad(12))


def as_image(name: str, suffix: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        new = name.replace(".nii.gz", suffix)
        image = sitk.ReadImage(str(folder / name))
        (folder / name).unlink()
        sitk.WriteImage(image, str(folder / new))
        manifest = folder / "study.json"
        manifest.write_text(manifest.read_text().replace(f'"{name}"', f'"{new}"'))

    return spoil


def then(*steps: Callable[[Path], None]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        for step in steps:
            step(folder)

    return spoil


def edit(name: str, old: bytes, new: bytes) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        content = (folder / name).read_bytes()
        assert old in content
        (folder / name).write_bytes(content.replace(old, new, 1))

    return spoil


def moved_data(folder: Path) -> None:
    (folder / "ct.raw").rename(folder.parent / "ct.raw")
    edit("ct.mhd", b"ct.raw", b"../ct.raw")(folder)


def text(encoding: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        content = json.loads((folder / "study.json").read_text()) | {"description": "Bjørn, Würzburg"}
        (folder / "study.json").write_bytes(json.dumps(content, ensure_ascii=False).encode(encoding))

    return spoil


def whole_of(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        (folder / name).write_bytes(change((folder / name).read_bytes()))

    return spoil


def zipped(content: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("ct.nii.gz", content)
    return file.getvalue()


def members(content: bytes) -> bytes:
    """As bgzip writes it."""
    plain = gzip.decompress(content)
    return b"".join(gzip.compress(plain[at : at + 5000]) for at in range(0, len(plain), 5000)) + gzip.compress(b"")


def no_sform(header: nibabel.Nifti1Header) -> None:
    header["srow_x"] = header["srow_y"] = header["srow_z"] = 0


def flat(header: nibabel.Nifti1Header) -> None:
    header["pixdim"][3] = 0


def unit_affine(header: nibabel.Nifti1Header) -> None:
    header.set_sform(np.eye(4), 2)
    header.set_qform(np.eye(4), 2)


def dims(*numbers: int) -> Callable[[nibabel.Nifti1Header], None]:
    def change(header: nibabel.Nifti1Header) -> None:
        header["dim"] = [*numbers, *[1] * (8 - len(numbers))]

    return change


def swapped(name: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        image = nibabel.load(folder / name)
        turned = nibabel.Nifti1Image(np.asanyarray(image.dataobj), None, image.header.as_byteswapped(">"))
        nibabel.save(turned, folder / "turned.nii.gz")
        (folder / "turned.nii.gz").replace(folder / name)

    return spoil


def same_field_twice(folder: Path) -> None:
    edit("study.json", b'"nuclide"', b'"nuclide": "Y-90", "nuclide"')(folder)


@dataclass(frozen=True)
class Spoilt:
    """A study that somebody spoilt; ``expected`` is what must be said, empty when nothing may be."""

    name: str
    spoil: Callable[[Path], None]
    entries: tuple[Callable, ...]
    expected: str


CT, SPECT, TRUTH = "ct.nii.gz", "spect_tp2.nii.gz", "truth/ct.nii.gz"
ALL = (check, segment, dose, train, evaluate)
READ = (check, train, evaluate)
MAP = (dose, train, evaluate, submit)
MAP_ALONE = (dose, train, evaluate, final)
SPOILT = [
    Spoilt("ct cut off, gzip", cut(CT, 0.6), ALL, r"ct\.nii\.gz: is cut off"),
    Spoilt("ct cut off, plain", plain(CT, cut("ct.nii", 0.7)), ALL, r"ct\.nii: is cut off.*declares 110592"),
    Spoilt("ct cut in its header", plain(CT, cut("ct.nii", 0.002)), ALL, "cannot be read"),
    Spoilt("ct empty", cut(CT, 0.0), ALL, "cannot be read"),
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
    Spoilt("ct compressed twice", whole_of(CT, gzip.compress), ALL, "does not begin with a NIfTI header"),
    Spoilt("ct a web page", whole_of(CT, lambda _: b"<!DOCTYPE html><html>404</html>"), ALL, "cannot be read"),
    Spoilt("ct a pointer to a large file", whole_of(CT, lambda _: b"version https://git-lfs.github.com/spec/v1\n"), ALL,
           "cannot be read"),
    Spoilt("ct in a zip archive", whole_of(CT, zipped), ALL, "cannot be read"),
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


# ---- label maps as other tools write them: read right, or refused with a table


def numbered(*values: int) -> np.ndarray:
    """The four organs (left kidney, right kidney, liver, spleen) under other values."""
    return np.array([0, *values], np.uint8)[organs()]


def stored(array: np.ndarray) -> Callable[[Path], Path]:
    return lambda folder: write_image(folder / "map.nii.gz", Volume(array, GRID))


def segments(names: dict[str, tuple[int, int]], layers: list[np.ndarray], crop: int = 0) -> Callable[[Path], Path]:
    """Slicer's file: name → (label value, layer); ``crop`` slices are left away at both ends."""

    def make(folder: Path) -> Path:
        grid = Geometry(
            (GRID.shape[0] - 2 * crop, *GRID.shape[1:]),
            GRID.spacing_mm,
            (*GRID.origin_mm[:2], GRID.origin_mm[2] + 5 * crop),
        )
        cropped = [layer[crop : GRID.shape[0] - crop] for layer in layers]
        stack = np.stack(cropped, axis=-1) if len(layers) > 1 else cropped[0]
        image = sitk.GetImageFromArray(stack, isVector=len(layers) > 1)
        image.SetSpacing(grid.spacing_mm[::-1])
        image.SetOrigin(grid.origin_mm)
        for number, (name, (value, layer)) in enumerate(names.items()):
            image.SetMetaData(f"Segment{number}_Name", name)
            image.SetMetaData(f"Segment{number}_LabelValue", str(value))
            image.SetMetaData(f"Segment{number}_Layer", str(layer))
        sitk.WriteImage(image, str(folder / "map.seg.nrrd"), True)
        return folder / "map.seg.nrrd"

    return make


def caret(names: dict[int, str], array: np.ndarray) -> Callable[[Path], Path]:
    """TotalSegmentator's --ml file: Caret XML in an extension of the NIfTI header."""

    def make(folder: Path) -> Path:
        path = write_image(folder / "map.nii.gz", Volume(array, GRID))
        rows = "".join(
            f'<Label Key="{v}" Red="1" Green="0" Blue="0" Alpha="1"><![CDATA[{n}]]></Label>' for v, n in names.items()
        )
        xml = (
            '<?xml version="1.0" encoding="UTF-8"?><CaretExtension><Date><![CDATA[2013-07-14T05:45:09]]></Date>'
            f'<VolumeInformation Index="0"><LabelTable>{rows}</LabelTable></VolumeInformation></CaretExtension>'
        )
        image = nibabel.Nifti1Image.from_filename(path)
        image.header.extensions.append(nibabel.nifti1.Nifti1Extension(30, xml.encode()))
        nibabel.save(image, folder / "named.nii.gz")
        return folder / "named.nii.gz"

    return make


def beside(ending: str, line: str, array: np.ndarray, names: dict[int, str]) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / f"map{ending}").write_text("# a table\n" + "".join(line.format(v=v, n=n) for v, n in names.items()))
        return write_image(folder / "map.nii.gz", Volume(array, GRID))

    return make


def one_hot(folder: Path) -> Path:
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ GRID.affine_lps
    volumes = np.stack([(organs() == v).T for v in range(5)], axis=-1).astype(np.uint8)
    nibabel.save(nibabel.Nifti1Image(volumes, affine), folder / "map.nii.gz")
    return folder / "map.nii.gz"


def second_nifti(folder: Path) -> Path:
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ GRID.affine_lps
    nibabel.save(nibabel.Nifti2Image(organs().T, affine), folder / "map.nii.gz")
    return folder / "map.nii.gz"


def elsewhere(folder: Path) -> Path:
    moved = Geometry(GRID.shape, GRID.spacing_mm, (-180.0, *GRID.origin_mm[1:]))
    return write_labels(folder / "map.nii.gz", LabelMap(organs(), moved))


TOTAL = {1: "spleen", 2: "kidney_right", 3: "kidney_left", 5: "liver", 6: "stomach"}
OURS = {1: "left_kidney", 2: "right_kidney", 3: "liver", 4: "spleen"}
NAMED = {"Left kidney": (1, 0), "right kidney": (2, 0), "Liver": (3, 0), "spleen": (4, 0)}
with_stomach = numbered(3, 2, 5, 1)
with_stomach[20:22, 30:34, 20:24] = 6
kits = numbered(1, 1, 0, 0)
exchanged = numbered(2, 1, 3, 4)


@dataclass(frozen=True)
class Labels:
    """A label map's file; ``expected`` is the refusal's text, or empty when our organs must come out."""

    name: str
    make: Callable[[Path], Path]
    expected: str = ""
    scheme: str | None = None
    organs: tuple[str, ...] = ("left_kidney", "right_kidney", "liver", "spleen")


LABELS = [
    Labels("by our numbers, without names", stored(organs())),
    Labels("floats near whole numbers", stored(organs() + np.float32(4e-4))),
    Labels("64-bit integers", stored(organs().astype(np.int64))),
    Labels("NIfTI-2", second_nifti),
    Labels("one volume for each organ", one_hot),
    Labels("Slicer, one layer", segments(NAMED, [organs()])),
    Labels("Slicer, cropped", segments(NAMED, [organs()], crop=3)),
    Labels("Slicer, two layers", segments(
        {"left kidney": (1, 0), "right kidney": (2, 0), "liver": (1, 1), "spleen": (7, 1)},
        [numbered(1, 2, 0, 0), numbered(0, 0, 1, 7)])),
    Labels("TotalSegmentator --ml", caret(TOTAL, with_stomach)),
    Labels("TotalSegmentator numbers, stated", stored(with_stomach), scheme="totalsegmentator"),
    Labels("TotalSegmentator numbers, not stated", stored(with_stomach), r"\[6\].*no organ.*--label-scheme"),
    Labels("BTCV numbers, stated", stored(numbered(3, 2, 6, 1)), scheme="btcv"),
    Labels("BTCV numbers, not stated", stored(numbered(3, 2, 6, 1)), r"\[6\].*mL.*mm to the.*--label-scheme"),
    Labels("AMOS numbers, stated", stored(numbered(3, 2, 6, 1)), scheme="amos"),
    Labels("FLARE numbers, stated", stored(numbered(13, 2, 1, 3)), scheme="flare"),
    Labels("KiTS numbers, stated", stored(kits), scheme="kits", organs=("left_kidney", "right_kidney")),
    Labels("KiTS numbers, not stated", stored(kits), "does not fit.*--label-scheme"),
    Labels("LiTS numbers, not stated", stored(numbered(0, 0, 1, 0)), "does not fit.*--label-scheme"),
    Labels("sides exchanged, without names", stored(exchanged), "right of right kidney"),
    Labels("a spleen as 1, without names", stored(numbered(0, 0, 0, 1)), "may be any organ"),
    Labels("ITK-SNAP's table beside", beside(".label", '{v:>5} 255 0 0 1 1 1 "{n}"\n', numbered(3, 2, 5, 1), TOTAL)),
    Labels("Slicer's table beside", beside(".ctbl", "{v} {n} 255 0 0 255\n", numbered(3, 2, 5, 1), TOTAL)),
    Labels("names and numbering that differ", caret(TOTAL, with_stomach), "by the numbering 'btcv'", scheme="btcv"),
    Labels("Slicer's own names, our numbers", segments({f"Segment_{v}": (v, 0) for v in (1, 2, 3, 4)}, [organs()])),
    Labels("Slicer's own names, KiTS numbers", segments({"Segment_1": (1, 0)}, [kits]), "does not fit.*--label-scheme"),
    Labels("ITK-SNAP's own names, our numbers",
           beside(".label", '{v:>5} 255 0 0 1 1 1 "{n}"\n', organs(), {v: f"Label {v}" for v in (1, 2, 3, 4)})),
    Labels("Slicer, two segments of one value", segments({"liver": (3, 0), "spleen": (3, 0)}, [organs()]),
           "both are value 3 of layer 0"),
    Labels("TG-263 names", segments(
        {"Kidney_L": (1, 0), "Kidney_R": (2, 0), "Liver": (3, 0), "Spleen": (4, 0)}, [organs()])),
    Labels("numbers of instances", stored(organs().astype(np.int16) * 300), r"values from 0 to \d+; a label map"),
    Labels("-1 where nobody looked", stored(organs().astype(np.int16) - 1), r"values from -1 to -?\d"),
    Labels("BTCV numbers said to be KiTS's", stored(numbered(3, 2, 6, 1)), "stand for no organ", scheme="kits"),
    Labels("KiTS numbers said to be LiTS's", stored(kits), "does not fit.*pieces.*mL", scheme="lits"),
    Labels("half values", stored(organs() * np.float32(0.5)), "not whole numbers.*nearest"),
    Labels("a CT", stored(body()), "-1000"),
    Labels("on another grid", elsewhere, "not on the grid of its CT"),
]  # fmt: skip


@pytest.mark.parametrize("row", LABELS, ids=lambda row: row.name)
def test_a_label_map_of_another_tool_gives_the_right_organs_or_a_refusal_that_says_how(study, row, tmp_path):
    file = row.make(tmp_path)
    if row.expected:
        with pytest.raises(DoselabelError) as caught:
            resolve(study, file, row.scheme)
        assert re.search(row.expected, str(caught.value), re.DOTALL), str(caught.value)
        return
    found = resolve(study, file, row.scheme).maps[study.ct]
    assert found.geometry.same_place(GRID)
    assert set(found.present()) | set(found.renumbered().present()) >= set(row.organs)
    for value, name in OURS.items():
        expected = organs() == value if name in row.organs else np.zeros(GRID.shape, bool)
        np.testing.assert_array_equal(found.renumbered().mask(name), expected, err_msg=name)


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


def test_values_without_a_name_are_refused_with_what_they_look_like(tmp_path):
    path = write_image(tmp_path / "map.nii.gz", Volume(numbered(3, 2, 6, 1), GRID))
    with pytest.raises(LabelError) as caught:
        read_labels(path, ct=Volume(body(), GRID))
    assert re.search(r"6: +512\.0 mL, +\d+ mm to the right of the body's middle, mean 60 HU", caught.value.message)
