"""What is odd about a label map is said, by its code, wherever the map enters: one row for each kind of oddity."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage

from doselabel.alarms import Alarm
from doselabel.anatomy import filled, regions
from doselabel.cli import main
from doselabel.dosimetry.uptake.masks import resolve
from doselabel.errors import LabelError, ModelError
from doselabel.geometry import Geometry, Volume, write_image
from doselabel.io.evaluation import evaluate_files
from doselabel.label_findings import findings
from doselabel.labels import NAMES, LabelMap, read_labels, write_labels
from doselabel.model.cache import prepare
from doselabel.model.cases import TrainCase
from doselabel.model.profiles import FAST
from doselabel.study import Study

GRID = Geometry((26, 48, 48), (5.0, 8.0, 8.0), (-188.0, -188.0, -60.0))
"""Voxels of 0.32 mL; x grows to the patient's left, and the body's middle is near 0."""
LEFT, RIGHT = np.s_[8:17, 27:33, 30:37], np.s_[8:17, 27:33, 12:19]
LIVER, SPLEEN = np.s_[4:16, 14:26, 6:24], np.s_[6:14, 14:20, 34:42]


def organs(**places: tuple[slice, ...]) -> np.ndarray:
    """Kidneys of 121 mL, a liver of 829 mL, a spleen of 123 mL, by our table, unless placed elsewhere."""
    where = {"left_kidney": LEFT, "right_kidney": RIGHT, "liver": LIVER, "spleen": SPLEEN} | places
    array = np.zeros(GRID.shape, np.uint8)
    for value, name in NAMES.items():
        if name in where:
            array[where[name]] = value
    return array


def body() -> np.ndarray:
    """CT of the patient on a table, with air between the two, and lungs (HU)."""
    ct = np.full(GRID.shape, -1000, np.int16)
    ct[:, 10:38, 4:44] = 20
    ct[20:, 14:34, 8:40] = -850
    ct[organs() > 0] = 60
    ct[:, 42:44, 4:44] = -100
    return ct


@pytest.fixture
def study(tmp_path: Path) -> Study:
    folder = tmp_path / "studies" / "P-1"
    write_image(folder / "ct.nii.gz", Volume(body(), GRID))
    write_labels(folder / "truth" / "ct.nii.gz", LabelMap(organs(), GRID))
    points = []
    for number, time_h in enumerate((24.0, 72.0), 1):
        activity = np.where(organs() > 0, 1e6 * 0.5 ** (time_h / 50), 0).astype(np.float32)
        write_image(folder / f"spect_tp{number}.nii.gz", Volume(activity, GRID))
        points.append({"time_h": time_h, "ct": "ct.nii.gz", "spect": f"spect_tp{number}.nii.gz"})
    content = {"schema": "doselabel.study/1", "patient_id": "P-1", "nuclide": "Lu-177", "ct": "ct.nii.gz"}
    (folder / "study.json").write_text(json.dumps(content | {"injected_activity_mbq": 7400, "time_points": points}))
    return Study.load(folder)


# ---- the ways in: each gives the findings for one file


def dose(study: Study, file: Path, scheme: str | None) -> Sequence[Alarm]:
    return resolve(study, file, scheme).findings


def train(study: Study, file: Path, scheme: str | None) -> Sequence[Alarm]:
    case = TrainCase(study.path(study.ct), file, "P-1", scheme=scheme, merge_lesions=False)
    return prepare([case], FAST, study.folder / "prepared")[0].findings


def evaluate(study: Study, file: Path, scheme: str | None) -> Sequence[Alarm]:
    predicted = study.folder / "predicted" / file.name.replace(file.name.partition(".")[0], "P-1", 1)
    predicted.parent.mkdir()
    for part in file.parent.glob(f"{file.name.partition('.')[0]}.*"):
        (predicted.parent / part.name.replace(file.name.partition(".")[0], "P-1", 1)).write_bytes(part.read_bytes())
    return evaluate_files(predicted.parent, study.folder, predicted_scheme=scheme, merge_lesions=False).alarms


def submit(study: Study, file: Path, scheme: str | None) -> Sequence[Alarm]:
    datastore = pytest.importorskip("monailabel_app.datastore", reason="needs the extra 'server'")
    store = datastore.StudyDatastore(study.folder.parent)
    info = {"label_scheme": scheme} if scheme else {}
    kept = store.keep("P-1__ct", file, "final", info)
    assert store.case("P-1__ct").labels.final().alarms == kept
    if scheme is None:
        assert store.keep("P-1__ct", file, "draft", info) == kept
    return kept


WAYS = (dose, train, evaluate, submit)


# ---- files


def named(array: np.ndarray) -> Callable[[Path], Path]:
    return lambda folder: write_labels(folder / "map.nii.gz", LabelMap(array, GRID))


def unnamed(array: np.ndarray) -> Callable[[Path], Path]:
    return lambda folder: write_image(folder / "map.nii.gz", Volume(array, GRID))


def segments(layers: Sequence[np.ndarray], *rows: tuple[str, int, int]) -> Callable[[Path], Path]:
    """Slicer's file; rows of (name, value, layer)."""

    def make(folder: Path) -> Path:
        image = sitk.GetImageFromArray(np.stack(layers, axis=-1) if len(layers) > 1 else layers[0])
        image.SetSpacing(GRID.spacing_mm[::-1])
        image.SetOrigin(GRID.origin_mm)
        for number, row in enumerate(rows):
            for key, value in zip(("Name", "LabelValue", "Layer"), row, strict=True):
                image.SetMetaData(f"Segment{number}_{key}", str(value))
        sitk.WriteImage(image, str(folder / "map.seg.nrrd"), True)
        return folder / "map.seg.nrrd"

    return make


def kits() -> np.ndarray:
    return np.isin(organs(), (1, 2)).astype(np.uint8)


OURS = [("left kidney", 1, 0), ("right kidney", 2, 0), ("liver", 3, 0), ("spleen", 4, 0)]
WITHOUT_NUMBERS = ("label-empty", "label-segment-empty", "label-numbering-assumed")
MIRRORED = organs(
    left_kidney=RIGHT, right_kidney=LEFT, liver=np.s_[4:16, 14:26, 24:42], spleen=np.s_[6:14, 14:20, 6:14]
)
AIR = np.s_[8:17, 0:6, 30:37]


@dataclass(frozen=True)
class Odd:
    """A label map; ``codes`` are exactly what must be said of it, with the organ after a colon."""

    name: str
    make: Callable[[Path], Path]
    codes: tuple[str, ...]
    scheme: str | None = None


ODD = [
    Odd("nothing", named(organs()), ()),
    Odd("nobody drew anything", named(organs() * np.uint8(0)), ("label-empty",)),
    Odd("kidneys exchanged", named(organs(left_kidney=RIGHT, right_kidney=LEFT)), ("label-sides-exchanged",)),
    Odd("all mirrored", named(MIRRORED), ("label-sides-exchanged",)),
    Odd("liver on the left", named(organs(liver=np.s_[4:16, 14:26, 26:44], spleen=np.s_[0:0])),
        ("label-wrong-side:liver",)),
    Odd("spleen on the right", named(organs(liver=np.s_[0:0], spleen=np.s_[6:14, 14:20, 6:14])),
        ("label-wrong-side:spleen",)),
    Odd("both kidneys as the left one", segments([organs()], ("left kidney", 1, 0), ("kidney_left", 2, 0), *OURS[2:]),
        ("label-wrong-side:left_kidney", "label-values-joined:left_kidney")),
    Odd("a small kidney", named(organs(left_kidney=np.s_[8:13, 27:31, 30:34])),
        ("label-volume-implausible:left_kidney",)),
    Odd("a rarely small kidney", named(organs(left_kidney=np.s_[8:14, 27:32, 30:35])),
        ("label-volume-unusual:left_kidney",)),
    Odd("a kidney as large as a liver", named(organs(left_kidney=np.s_[2:19, 15:35, 27:33])),
        ("label-volume-unusual:left_kidney",)),
    Odd("a kidney larger than any", named(organs(left_kidney=np.s_[1:21, 12:36, 27:33], spleen=np.s_[0:0])),
        ("label-volume-implausible:left_kidney",)),
    Odd("liver cut by the image's edge", named(organs(liver=np.s_[0:12, 14:26, 6:24])), ("label-cut:liver",)),
    Odd("a kidney on air in front of the body", named(organs(left_kidney=AIR)), ("label-outside-body:left_kidney",
        "label-cut:left_kidney")),
    Odd("a kidney on the table", named(organs(left_kidney=np.s_[8:25, 42:45, 30:37])),
        ("label-outside-body:left_kidney",)),
    Odd("a kidney in the lung", named(organs(left_kidney=np.s_[20:25, 27:33, 28:38])),
        ("label-wrong-tissue:left_kidney",)),
    Odd("an empty segment", segments([organs()], *OURS, ("spare", 9, 0)), ("label-segment-empty:spare",)),
    Odd("segments that overlap", segments(
        [np.where(organs() == 3, 3, 0).astype(np.uint8),
         organs(right_kidney=np.s_[8:17, 24:30, 12:19], liver=np.s_[0:0])],
        ("liver", 3, 0), ("left kidney", 1, 1), ("right kidney", 2, 1), ("spleen", 4, 1)),
        ("label-segments-overlap:liver",)),
    Odd("both kidneys as one value", unnamed(kits()), ("label-kidneys-parted",), scheme="kits"),
    Odd("no names", unnamed(organs()), ("label-numbering-assumed",)),
]  # fmt: skip


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
@pytest.mark.parametrize("row", ODD, ids=lambda row: row.name)
def test_what_is_odd_is_said_by_every_way_in(study, row, way, tmp_path):
    if row.codes == ("label-empty",) and way is train:
        with pytest.raises(ModelError, match="shows none of"):
            way(study, row.make(tmp_path), row.scheme)
        return
    found = way(study, row.make(tmp_path), row.scheme)
    told = [f"{alarm.code}:{alarm.organ}".rstrip(":") for alarm in found]
    assert sorted(told) == sorted(row.codes), [alarm.sentence for alarm in found]
    assert all(alarm.numbers or alarm.code in WITHOUT_NUMBERS for alarm in found)
    assert [alarm.severity for alarm in found] == sorted(
        (alarm.severity for alarm in found), key=("alarm", "warning", "note").index
    )


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
@pytest.mark.parametrize(
    ("name", "array", "scheme"),
    [
        ("KiTS numbers said to be LiTS's", kits(), "lits"),
        ("LiTS numbers said to be KiTS's", np.where(organs() == 3, 1, 0).astype(np.uint8), "kits"),
        ("BTCV numbers said to be FLARE's", np.array([0, 3, 2, 6, 1], np.uint8)[organs()], "flare"),
        ("our numbers said to be TotalSegmentator's", organs(), "totalsegmentator"),
        ("TotalSegmentator's said to be BTCV's", np.array([0, 3, 2, 5, 1], np.uint8)[organs(liver=SPLEEN)], None),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_numbering_that_does_not_fit_the_anatomy_is_refused_with_a_table(study, way, name, array, scheme, tmp_path):
    with pytest.raises(LabelError, match=r"(?s)does not fit|stand for no organ") as caught:
        way(study, unnamed(array)(tmp_path), scheme)
    assert "mL" in caught.value.message
    assert "--label-scheme" in caught.value.hint


def test_a_dose_by_a_mirrored_map_says_so_first(study, tmp_path, capsys):
    file = named(MIRRORED)(tmp_path)
    out = tmp_path / "dose"
    assert main(["dose", str(study.folder), "--labels", str(file), "--out", str(out), "--no-report"]) == 0
    assert not list(out.glob("report.*"))
    results = json.loads((out / "results.json").read_text("utf-8"))
    assert results["alarms"][0]["code"] == "label-sides-exchanged"
    assert results["alarms"][0]["sentence"] in capsys.readouterr().out
    assert "label map of ct.nii.gz" in results["warnings"][0]


@pytest.mark.parametrize("orientation", ["LPS", "RAI", "PIR", "ASL"])
def test_findings_do_not_depend_on_how_the_array_is_stored(orientation):
    def turned(array: np.ndarray) -> Volume:
        return Volume.from_sitk(sitk.DICOMOrient(Volume(array, GRID).to_sitk(), orientation))

    array = organs(left_kidney=RIGHT, right_kidney=AIR, liver=np.s_[0:12, 14:26, 6:24])
    map_ = turned(array)
    found = findings(regions(map_.array, NAMES, map_.geometry), turned(body()))
    assert {(alarm.code, alarm.organ) for alarm in found} == {
        ("label-sides-exchanged", ""),
        ("label-outside-body", "right_kidney"),
        ("label-cut", "right_kidney"),
        ("label-cut", "liver"),
    }


@pytest.mark.parametrize(
    ("name", "organ"),
    [("Kidney_L", "left_kidney"), ("Kidney R", "right_kidney"), ("LeftKidney", "left_kidney"),
     ("Rt Kidney", "right_kidney"), ("kidney-left", "left_kidney"), ("Tumor", "tumour"),
     ("kidney_cyst_left", "kidney_cyst_left"), ("left kidney 2", "left_kidney_2")],
)  # fmt: skip
def test_kidneys_are_known_by_the_names_that_tools_give_them(tmp_path, name, organ):
    file = segments([np.where(organs() == 1, 1, 0).astype(np.uint8)], (name, 1, 0))(tmp_path)
    assert read_labels(file).renumbered().present() == (organ,)


def test_holes_are_those_that_scipy_fills():
    for seed in range(20):
        plane = np.random.default_rng(seed).random((37, 51)) > 0.4
        assert (filled(plane) == ndimage.binary_fill_holes(plane)).all()
        assert filled(plane).sum() > plane.sum()
