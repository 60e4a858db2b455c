"""Which organ masks belong to which CT of a study: finding the files, checking them, filling gaps. Knows no doses.

Masks come as a folder of files named like the CTs, as one file for the diagnostic CT, or as a tag: the folder
``labels/<tag>`` inside the study, where the server keeps what was submitted ("final" is the version that counts).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from scipy import ndimage

from doselabel.alarms import Alarm, finding
from doselabel.anatomy import into_organs
from doselabel.dosimetry.alignment.registration import match_masks
from doselabel.dosimetry.uptake.held import Held
from doselabel.errors import LabelError
from doselabel.geometry import SUFFIXES, Geometry, resample
from doselabel.labels import LabelMap, read_labels, title
from doselabel.organs import excluded_at, region
from doselabel.study import Study, image_id
from doselabel.study_images import Images
from doselabel.submitted import Submitted

_SUFFIXES = (*SUFFIXES, ".seg.nrrd")
_TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,39}")


EMPTY = "label-segment-empty"
NOTCH_MM = 20.0
"""What is drawn as not counted belongs to the organ as far as a ball of this radius does not enter it from outside."""

Excluded = Mapping[int, np.ndarray]


@dataclass(frozen=True, eq=False)
class LabelSet:
    """Label maps by the CT's file name; the diagnostic CT always has one.

    Attributes
    ----------
    maps : dict of str to LabelMap
    files : dict of str to Path
    origin : str
        Where they came from, for a reader.
    reviewed : bool
        Whether somebody approved every one of them.
    findings : tuple of Alarm
        What is odd about them, with the CT named.
    excluded : dict
        CT → time point (1, 2, …; 0: every one seen on it) → what was drawn there as not to be counted.
    """

    maps: Mapping[str, LabelMap]
    files: Mapping[str, Path]
    origin: str
    reviewed: bool = False
    findings: tuple[Alarm, ...] = ()
    excluded: Mapping[str, Excluded] = field(default_factory=dict)

    def excluded_from(self, ct: str, index: int) -> np.ndarray | None:
        """What is not to be counted of a time point (0, 1, …) that is seen on a CT; None: nothing is drawn."""
        drawn = [mask for at, mask in self.excluded.get(ct, {}).items() if at in (0, index + 1)]
        return np.logical_or.reduce(drawn) if drawn else None


def resolve(
    study: Study,
    labels: str | Path,
    scheme: str | None = None,
    images: Images | None = None,
    *,
    drawn_anew: bool = False,
) -> LabelSet:
    """Find and read a study's label maps.

    Parameters
    ----------
    study : Study
    labels : str or Path
        A folder with files named like the CTs, a file (the diagnostic CT's map), or a tag such as "final".
    scheme : str, optional
        How the maps are numbered (`doselabel.labels.SCHEMES`).
    images : Images, optional
        What has been read of the study already.
    drawn_anew : bool
        Whether the diagnostic CT's map will come from elsewhere, so that it need not be there (`with_drafts`).

    Raises
    ------
    LabelError
        When there are none for the diagnostic CT, or one is not a label map.
    GeometryError
        When a map is not on its CT's grid.
    """
    files, origin, reviewed = where(study, labels, drawn_anew=drawn_anew)
    maps: dict[str, LabelMap] = {}
    excluded: dict[str, Excluded] = {}
    findings: list[Alarm] = []
    images = images or Images(study)
    fields = {name: field for field, name in study.files()}
    for name, file in files.items():
        ct = images.read(fields[name], name)
        drawn = read_labels(
            file,
            scheme=scheme,
            expect=ct.geometry,
            stated=study.stated_place(name),
            within=study.folder if file.resolve().is_relative_to(study.folder) else None,
            ct=ct,
        )
        _require_names(drawn, file)
        findings += _named(drawn, name)
        if name == study.ct:  # a lesion may be drawn there alone
            told = {alarm.organ for alarm in findings if alarm.code == EMPTY}
            findings += [alarm for alarm in _empty(drawn, name) if alarm.organ not in told]
        maps[name], excluded[name] = _parted(drawn)
    return LabelSet(maps, files, origin, reviewed, tuple(findings), excluded)


def _require_names(drawn: LabelMap, file: Path) -> None:
    for name in drawn.present():
        try:
            region(name)
        except LabelError as error:
            raise LabelError(f"{file.name}: {error.message}", error.hint) from error


def _empty(drawn: LabelMap, ct: str) -> list[Alarm]:
    """Regions that a map names, beside the table that every map of ours names, and that have no voxels."""
    there = {region(name).name for name in drawn.present()}
    named = [name for name in drawn.names.values() if region(name).name not in there and region(name).index == 0]
    return [finding(EMPTY, f"{title(name)} has a name and no voxels.", organ=name).of_file(_file(ct)) for name in named]


def where(study: Study, labels: str | Path, *, drawn_anew: bool = False) -> tuple[dict[str, Path], str, bool]:
    """Find a study's label maps as `resolve` does, and read none: files by CT, their origin, and if all are approved.

    Raises
    ------
    LabelError
        When there are none for the diagnostic CT.
    """
    text = str(labels)
    tagged = study.folder / "labels" / text
    path = Path(labels)
    reviewed = False
    if _TAG.fullmatch(text) and tagged.is_dir():
        files, origin = _in_folder(study, tagged), f"tag '{text}' of the study"
        reviewed = text == "final" and all(_approved(study, name) for name in files)
    elif path.is_dir():
        files, origin = _in_folder(study, path), f"folder {path.name}"
    elif path.is_file():
        files, origin = {study.ct: path}, f"file {path.name} (diagnostic CT)"
    elif drawn_anew and _TAG.fullmatch(text):
        files, origin = {}, f"nothing submitted as '{text}'"
    else:
        tags = sorted(p.name for p in (study.folder / "labels").glob("*") if p.is_dir() and p.name != "versions")
        raise LabelError(
            f"Labels '{text}': no such file or folder, and the study has no label maps under that tag.",
            f"The study's tags: {', '.join(tags) or 'none'}. Segment and submit first, or give a folder or file.",
        )
    if study.ct not in files and not drawn_anew:
        raise LabelError(
            f"{origin}: has no label map for the diagnostic CT '{study.ct}'; found "
            f"{', '.join(sorted(p.name for p in files.values())) or 'none'}.",
            f"Organ masses come from that CT: name its label map '{_stem(study, study.ct)}.nii.gz'.",
        )
    return files, origin, reviewed


def with_drafts(given: LabelSet, drafts: Mapping[str, LabelMap]) -> LabelSet:
    """The same set with maps that nobody has submitted, by the CT's file name, in place of its own."""
    parted = {name: _parted(drawn) for name, drawn in drafts.items()}
    maps = {**given.maps, **{name: organs for name, (organs, _) in parted.items()}}
    excluded = {**given.excluded, **{name: masks for name, (_, masks) in parted.items()}}
    findings: list[Alarm] = []
    for name in maps:
        own = [alarm for alarm in given.findings if alarm.file == _file(name)]
        findings += _named(drafts[name], name) if name in drafts else own
    files = {name: file for name, file in given.files.items() if name not in drafts}
    origin = f"draft, not submitted ({', '.join(drafts)}); else {given.origin}"
    return LabelSet(maps, files, origin, False, tuple(findings), excluded)


def _parted(drawn: LabelMap) -> tuple[LabelMap, Excluded]:
    """The organs, whole, and what was drawn as not to be counted of them."""
    at = {value: when for value, name in drawn.names.items() if (when := excluded_at(name)) is not None}
    if not at or not (there := [value for value in at if (drawn.array == value).any()]):
        return drawn, {}
    masks: dict[int, np.ndarray] = {}
    for value in there:
        mask = drawn.array == value
        masks[at[value]] = mask | masks[at[value]] if at[value] in masks else mask
    names = {value: name for value, name in drawn.names.items() if value not in at}
    array = np.where(np.isin(drawn.array, there), 0, drawn.array).astype(np.uint8)
    organs = {name: array == value for value, name in names.items()}
    for name, mask in into_organs(np.logical_or.reduce(list(masks.values())), organs).items():
        if mask.any():
            array[mask & _without_hole(organs[name], mask, drawn.geometry)] = drawn.value(name)
    return LabelMap(array, drawn.geometry, names, drawn.findings), masks


def _without_hole(organ: np.ndarray, hole: np.ndarray, geometry: Geometry) -> np.ndarray:
    """An organ's outline as it was before a part of it was drawn as something else: notches and holes are closed."""
    found = np.zeros(organ.shape, bool)
    depth = [int(np.ceil(2 * NOTCH_MM / s)) for s in geometry.spacing_mm]
    (span,) = ndimage.find_objects((organ | hole).astype(np.uint8))
    box = tuple(slice(max(0, s.start - d), s.stop + d) for s, d in zip(span, depth, strict=True))
    around = ndimage.distance_transform_edt(~organ[box], sampling=geometry.spacing_mm) <= NOTCH_MM
    found[box] = ndimage.distance_transform_edt(around, sampling=geometry.spacing_mm) > NOTCH_MM
    return found | organ


def _named(labels: LabelMap, ct: str) -> list[Alarm]:
    return [alarm.of_file(_file(ct)) for alarm in labels.findings]


def _file(ct: str) -> str:
    return f"label map of {ct}"


def carried(diagnostic: LabelMap, grid: Geometry, ct_to_diagnostic: np.ndarray) -> LabelMap:
    """The diagnostic CT's masks on another CT's grid; ``ct_to_diagnostic`` maps that CT's LPS points to the former."""
    moved = resample(diagnostic.volume, grid, interpolation="label", transform=np.linalg.inv(ct_to_diagnostic))
    return LabelMap(moved.array, grid, diagnostic.names)


def completed(
    labels: LabelMap, diagnostic: LabelMap, organs: tuple[str, ...], held: Held, ct: str
) -> tuple[LabelMap, list[str]]:
    """Fill in organs that the map of a time point's CT lacks, from the diagnostic CT, moved as the others moved.

    Returns
    -------
    LabelMap
        Renumbered by the label table.
    list of str
        The organs that were filled in.
    """
    own = labels.renumbered()
    present = own.present()
    missing = [name for name in organs if name not in present]
    if not missing:
        return own, []
    theirs = diagnostic.renumbered()
    shared = [name for name in organs if name not in missing]
    move = partial(match_masks, own, theirs, shared)
    matrix = held.find(f"organs of '{ct}' {shared}", [own, theirs], move)[""].matrix if shared else np.eye(4)
    brought = carried(theirs, own.geometry, matrix)
    array, names = own.array.copy(), dict(own.names)
    for name in missing:
        value = own.value(name) or max(names) + 1
        names[value] = name
        array[brought.mask(name) & (array == 0)] = value
    return LabelMap(array, own.geometry, names), missing


def _in_folder(study: Study, folder: Path) -> dict[str, Path]:
    found = {}
    for name in study.cts().values():
        stem = _stem(study, name)
        candidates = (folder / f"{s}{suffix}" for s in (stem, f"{study.patient_id}__{stem}") for suffix in _SUFFIXES)
        file = next((p for p in candidates if p.is_file()), None)
        if file is not None:
            found[name] = file
    return found


def _approved(study: Study, ct: str) -> bool:
    """Whether the version that counts was approved."""
    final = Submitted.of(study, ct).final()
    return final is not None and final.approved


def _stem(study: Study, name: str) -> str:
    return image_id(study.patient_id, name).partition("__")[2]
