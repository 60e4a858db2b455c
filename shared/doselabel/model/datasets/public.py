"""Public data sets as they are unpacked: KiTS, LiTS, MSD liver, AMOS, BTCV, FLARE, TotalSegmentator, CHAOS.

Only names decide; the numbering of the label maps is that of `doselabel.schemes`. Sources of the layouts: each data
set's own README or download page.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from doselabel.errors import ModelError
from doselabel.labels import NAMES
from doselabel.model.cases import ORGAN_MASKS, TrainCase
from doselabel.schemes import KIDNEYS, SCHEMES

IMAGE_FOLDERS = {
    "imagesTr": "labelsTr",
    "imagesVa": "labelsVa",
    "images": "labels",
    "img": "label",
    "image": "label",
    "TrainingImg": "TrainingMask",
}
"""Folder of the CTs → folder of their label maps, beside it."""
_NUMBERED = re.compile(r"(imagesTr|imagesVa)(\d+)")  # FLARE23: imagesTr2200 with labelsTr2200
_NIFTI = re.compile(r"\.nii(\.gz)?$", re.IGNORECASE)
_LESION_WORDS = {"tumor", "tumour", "cancer", "lesion", "masses", "tumors", "tumours", "lesions"}


def kits(root: Path) -> list[TrainCase]:
    """KiTS19, 21 and 23: ``case_00000/imaging.nii.gz`` with ``segmentation.nii.gz``.

    KiTS21 has three annotations of each case: ``aggregated_MAJ_seg.nii.gz``, their majority, is taken.
    """
    cases = []
    for folder in sorted(p for p in _below(root, "case_*") if re.fullmatch(r"case_\d{5}", p.name)):
        labels = [p for stem in ("aggregated_MAJ_seg", "segmentation") if (p := _nifti(folder, stem))]
        ct = _nifti(folder, "imaging")
        if labels and ct:
            cases.append(TrainCase(ct, labels[0], folder.name, unlabelled=_not_in("kits"), scheme="kits"))
        elif labels and not ct:
            raise ModelError(
                f"{folder}: has a label map and no imaging.nii.gz.",
                "The KiTS repositories hold the labels alone: run their download script for the CTs.",
            )
    return cases


def lits(root: Path) -> list[TrainCase]:
    """LiTS: ``volume-0.nii`` with ``segmentation-0.nii``, in one folder or two."""
    pattern = re.compile(r"(volume|segmentation)-(\d+)\.nii(\.gz)?", re.IGNORECASE)
    found: dict[str, dict[int, Path]] = {"volume": {}, "segmentation": {}}
    for path in sorted(root.rglob("*-*.nii*")):
        if match := pattern.fullmatch(path.name):
            found[match[1].lower()].setdefault(int(match[2]), path)
    return [
        TrainCase(ct, found["segmentation"][n], f"lits_{n}", unlabelled=_not_in("lits"), scheme="lits")
        for n, ct in sorted(found["volume"].items())
        if n in found["segmentation"]
    ]


def totalsegmentator(root: Path) -> list[TrainCase]:
    """TotalSegmentator: ``s0000/ct.nii.gz`` with ``s0000/segmentations/liver.nii.gz`` and the other structures."""
    cases = []
    for folder in sorted(p for p in _below(root, "segmentations") if _nifti(p.parent, "ct")):
        drawn = {organ for stem, organ in ORGAN_MASKS.items() if _nifti(folder, stem)}
        ct = _nifti(folder.parent, "ct")
        if drawn and ct:
            missing = tuple(name for name in NAMES.values() if name not in drawn)
            cases.append(TrainCase(ct, folder, folder.parent.name, unlabelled=missing, scheme="totalsegmentator"))
    return cases


def chaos_ct(root: Path) -> list[TrainCase]:
    """CHAOS, CT part: ``CT/1/DICOM_anon/*.dcm`` with ``CT/1/Ground/liver_GT_000.png`` (the liver alone)."""
    return [
        TrainCase(
            folder.parent / "DICOM_anon", folder, f"chaos_{folder.parent.name}",
            unlabelled=_not_in("chaos_ct"), scheme="chaos_ct",
        )
        for folder in sorted(_below(root, "Ground"))
        if (folder.parent / "DICOM_anon").is_dir() and any(folder.glob("liver_GT_*.png"))
    ]  # fmt: skip


def msd(root: Path) -> list[TrainCase]:
    """Medical Segmentation Decathlon, task 3, and nnU-Net folders: ``imagesTr``, ``labelsTr``, ``dataset.json``.

    The organs are those that ``dataset.json`` names; a data set that names none of ours, or is no CT, has no cases.
    """
    cases = []
    for ct, labels, key in _image_folders(root):
        about = _dataset_json(ct.parent.parent)
        names = _names_of(about)
        if names and set(names.values()) & {*NAMES.values(), KIDNEYS}:
            cases.append(TrainCase(ct, labels, key, names, unlabelled=_not_among(names.values())))
    return cases


def amos(root: Path) -> list[TrainCase]:
    """AMOS 2022: ``imagesTr/amos_0001.nii.gz`` with ``labelsTr/amos_0001.nii.gz``; numbers above 500 are MRI."""
    pattern = re.compile(r"amos_(\d{4})")
    return [
        TrainCase(ct, labels, key, unlabelled=_not_in("amos"), scheme="amos")
        for ct, labels, key in _image_folders(root)
        if (match := pattern.fullmatch(key)) and int(match[1]) <= 500
    ]


def btcv(root: Path) -> list[TrainCase]:
    """BTCV (Synapse): ``img/img0001.nii.gz`` with ``label/label0001.nii.gz``; also ``image``, or ``imagesTr``."""
    return [
        TrainCase(ct, labels, f"btcv_{key}", unlabelled=_not_in("btcv"), scheme="btcv")
        for ct, labels, key in _image_folders(root)
        if re.fullmatch(r"\d{4}", key)
    ]


def flare(root: Path) -> list[TrainCase]:
    """FLARE 2021 to 2023: ``…Tr_0001_0000.nii.gz`` with ``…Tr_0001.nii.gz``, or ``train_000_0000`` with ``train_000``.

    Maps of 2023 are partly labelled: an organ without a voxel was not drawn.
    """
    cases = []
    for ct, labels, key in _image_folders(root):
        if re.fullmatch(r"FLARE2[23]\w*", key):
            whole = key.startswith("FLARE22")
            cases.append(TrainCase(ct, labels, key, unlabelled=_not_in("flare") if whole else None, scheme="flare"))
        elif re.fullmatch(r"train_\d{3}", key):
            cases.append(TrainCase(ct, labels, f"flare21_{key}", unlabelled=_not_in("flare21"), scheme="flare21"))
    return cases


# ---- what they share


def _image_folders(root: Path) -> Iterator[tuple[Path, Path, str]]:
    """CT, label map and key of each pair in folders of CTs and label maps side by side."""
    for folder in sorted(p for p in [root, *root.rglob("*")] if p.is_dir()):
        beside = IMAGE_FOLDERS.get(folder.name) or _NUMBERED.sub(lambda m: IMAGE_FOLDERS[m[1]] + m[2], folder.name)
        labels = folder.with_name(beside)
        if beside == folder.name or not labels.is_dir():
            continue
        maps = {_key(path): path for path in _niftis(labels)}
        for ct in _niftis(folder):
            if (key := _key(ct)) in maps:
                yield ct, maps[key], key


def _niftis(folder: Path) -> list[Path]:
    """NIfTI files; some archives unpack each into a folder of its own name."""
    found = []
    for path in sorted(p for p in folder.iterdir() if _NIFTI.search(p.name) and not p.name.startswith(".")):
        inside = path / path.name
        found += [inside] if path.is_dir() and inside.is_file() else [path] if path.is_file() else []
    return found


def _key(path: Path) -> str:
    """File name without suffix, without nnU-Net's channel ``_0000``, without BTCV's ``img`` or ``label``."""
    stem = re.sub(r"_0000$", "", _NIFTI.sub("", path.name))
    return re.sub(r"^(img|label)(?=\d{4}$)", "", stem)


def _dataset_json(folder: Path) -> dict:
    path = folder / "dataset.json"
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ModelError(f"{path}: is not JSON ({error}).", "Unpack the data set again.") from error
    return content if isinstance(content, dict) else {}


def _names_of(about: dict) -> dict[int, str]:
    """Value → organ name from ``dataset.json``: MSD writes value: name, nnU-Net name: value or values."""
    channels = about.get("modality") or about.get("channel_names") or {}
    if channels and not any("CT" in str(name).upper() for name in channels.values()):
        return {}
    named: list[tuple[int, str]] = []
    for key, value in (about.get("labels") or {}).items():
        if str(key).isdigit():
            named.append((int(key), str(value)))
        elif isinstance(value, int):
            named.append((value, str(key)))
        elif isinstance(value, Sequence) and not isinstance(value, str):  # a region: its first value is its own
            named += [(int(v), str(key)) for v in value]
    names: dict[int, str] = {}
    for value, name in named:
        plain = _plain(name)
        if value and (value not in names or plain in ("tumour", "cyst")):
            names[value] = plain
    return names


def _plain(name: str) -> str:
    words = [word for word in re.split(r"[\s_\-]+", name.strip().lower()) if word]
    side = next((word for word in ("left", "right") if word in words), "")
    if words and words[-1] in _LESION_WORDS:
        return "tumour"
    if "cyst" in words:
        return "cyst"
    if "kidney" in words or "kidneys" in words:
        return f"{side}_kidney" if side else KIDNEYS
    return "_".join(words)


def _not_in(scheme: str) -> tuple[str, ...]:
    return _not_among(SCHEMES[scheme].values())


def _not_among(drawn) -> tuple[str, ...]:
    """Organs of the table that a data set does not draw."""
    known = set(drawn)
    if KIDNEYS in known:
        known |= {"left_kidney", "right_kidney"}
    return tuple(name for name in NAMES.values() if name not in known)


def _nifti(folder: Path, stem: str) -> Path | None:
    return next((p for suffix in (".nii.gz", ".nii") if (p := folder / f"{stem}{suffix}").is_file()), None)


def _below(root: Path, pattern: str) -> list[Path]:
    """Folders of a name below a folder, or itself."""
    own = [root] if root.match(pattern) else []
    return own + [path for path in root.rglob(pattern) if path.is_dir()]
