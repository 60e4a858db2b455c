"""A small patient, who spoils what of it, and the ways in: what the tables of the door are made of."""

from __future__ import annotations

import gzip
import io
import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from doselabel.cli import main
from doselabel.errors import DoselabelError
from doselabel.geometry import Geometry, Volume, write_image
from doselabel.labels import LabelMap, write_labels
from doselabel.model.cache import prepare
from doselabel.model.cases import TrainCase
from doselabel.model.profiles import FAST
from doselabel.study import Study

CT, SPECT, TRUTH = "ct.nii.gz", "spect_tp2.nii.gz", "truth/ct.nii.gz"
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


def make_study(folder: Path, times_h: tuple[float, ...] = (4.0, 24.0, 72.0)) -> Study:
    """One patient, a scan at each time; activity decays with 50 h."""
    points = []
    write_image(folder / "ct.nii.gz", Volume(body(), GRID))
    for number, time_h in enumerate(times_h, 1):
        write_image(folder / f"ct_tp{number}.nii.gz", Volume(body(), GRID))
        activity = np.where(organs() > 0, 1e6 * 0.5 ** (time_h / 50), 0).astype(np.float32)
        write_image(folder / f"spect_tp{number}.nii.gz", Volume(activity, GRID))
        points.append({"time_h": time_h, "ct": f"ct_tp{number}.nii.gz", "spect": f"spect_tp{number}.nii.gz"})
    write_labels(folder / "truth" / "ct.nii.gz", LabelMap(organs(), GRID))
    content = {"schema": "doselabel.study/1", "patient_id": folder.name, "nuclide": "Lu-177", "ct": "ct.nii.gz"}
    content |= {"injected_activity_mbq": 7400, "time_points": points}
    (folder / "study.json").write_text(json.dumps(content))
    return Study.load(folder)


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
    quickly = ["--voi", "margin", "--margin-mm", "0", "--registration", "stored", "--organs", "left_kidney"]
    out = str(folder / "dose")
    code = main(["dose", str(folder), "--labels", str(labels), "--out", out, "--no-report", *quickly])
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
        manifest.write_text(manifest.read_text("utf-8").replace(f'"{name}"', f'"{name.removesuffix(".gz")}"'))
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
        manifest.write_text(manifest.read_text("utf-8").replace(f'"{name}"', f'"{new}"'))

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
        content = json.loads((folder / "study.json").read_text("utf-8")) | {"description": "Bjørn, Würzburg"}
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


def named(old: str, new: str) -> Callable[[Path], None]:
    """Let the manifest name another file."""

    def spoil(folder: Path) -> None:
        content = json.loads((folder / "study.json").read_text("utf-8"))
        content["ct"] = new if content["ct"] == old else content["ct"]
        (folder / "study.json").write_text(json.dumps(content))

    return spoil


def moved(old: str, new: str) -> Callable[[Path], None]:
    """Give a file another name, and say so to nobody."""
    return lambda folder: (folder / old).rename(folder / new) and None


def removed(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def into_folder(name: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        (folder / "img").mkdir()
        (folder / name).rename(folder / "img" / name)

    return spoil


def far_away(header: nibabel.Nifti1Header) -> None:
    header["qform_code"] = 0
    header["srow_x"][3] = 1e8


def scaling(slope: float, intercept: float) -> Callable[[nibabel.Nifti1Header], None]:
    def change(header: nibabel.Nifti1Header) -> None:
        header["scl_slope"], header["scl_inter"] = slope, intercept

    return change


def nrrd(old: str, new: str) -> Callable[[Path], None]:
    return then(as_image(CT, ".nrrd"), edit("ct.nrrd", old.encode(), new.encode()))


def mha(old: str, new: str) -> Callable[[Path], None]:
    return then(as_image(CT, ".mha"), edit("ct.mha", old.encode(), new.encode()))


def with_voxels(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        image = sitk.ReadImage(str(folder / name))
        new = sitk.GetImageFromArray(change(sitk.GetArrayFromImage(image)).astype(np.float32))
        new.CopyInformation(image)
        sitk.WriteImage(new, str(folder / name))

    return spoil


def excluding(value: int) -> Callable[[Path], None]:
    """Leave everything out, by a mask of this value."""

    def spoil(folder: Path) -> None:
        write_image(folder / "shut.nii.gz", Volume(np.full(GRID.shape, value, np.int16), GRID))
        content = json.loads((folder / "study.json").read_text("utf-8"))
        content["time_points"][0]["exclude"] = {"*": "shut.nii.gz"}
        (folder / "study.json").write_text(json.dumps(content))

    return spoil


def stated(name: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        content = json.loads((folder / "study.json").read_text("utf-8"))
        content["stated_places"] = {name: {"orientation": "RAS", "spacing_mm": [1, 1, 1]}}
        (folder / "study.json").write_text(json.dumps(content))

    return spoil
