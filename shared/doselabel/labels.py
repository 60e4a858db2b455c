"""Label maps, and the organs that the numbers in them stand for. Knows no networks and no doses.

The table of organs is `doselabel.organs`; a label file carries its own names, so a map written elsewhere, or with
another table, is read by name and never by guesswork.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from doselabel.alarms import Alarm, finding, ordered
from doselabel.anatomy import describe, into_organs, middle_x_mm, regions, split_kidneys
from doselabel.errors import LabelError, OffGridError
from doselabel.geometry import Geometry, StatedGrid, Volume, write_image
from doselabel.images import MAX_BYTES, read_header
from doselabel.images.header import Header
from doselabel.label_findings import contradictions, findings, lone
from doselabel.label_names import METADATA_KEY, Carried, carried, is_of_segments
from doselabel.label_values import Values, read_values
from doselabel.organs import (
    NAMES,
    ORGANS,
    REGION_DENSITY_G_CM3,
    SEGMENTED,
    Organ,
    lies_in_organ,
    organ,
    plain_name,
    region,
    title,
)
from doselabel.schemes import KIDNEYS, LESIONS, SCHEMES

__all__ = [
    "NAMES",
    "ORGANS",
    "REGION_DENSITY_G_CM3",
    "SEGMENTED",
    "LabelMap",
    "Organ",
    "inspected",
    "known_name",
    "organ",
    "read_labels",
    "region",
    "title",
    "write_labels",
]

_BOTH_KIDNEYS = {"kidney", "kidneys", "both_kidneys"}
_NIFTI_COMMENT = 6  # NIfTI-1 extension code of a plain-text comment


@dataclass(frozen=True)
class LabelMap:
    """A label map and the names of its values.

    Attributes
    ----------
    array : (z, y, x) uint8 array
        0 is background.
    geometry : Geometry
        The grid, that of the CT it was drawn on.
    names : dict
        Value → organ name.
    findings : tuple of Alarm
        What was odd when it was read, the gravest first.
    """

    array: np.ndarray
    geometry: Geometry
    names: Mapping[int, str] = field(default_factory=lambda: dict(NAMES))
    findings: tuple[Alarm, ...] = ()

    @property
    def volume(self) -> Volume:
        """The array on its grid."""
        return Volume(self.array, self.geometry)

    def present(self) -> tuple[str, ...]:
        """Names of the organs that have at least one voxel."""
        return tuple(self.names[v] for v in _values(self.array) if v != 0)

    def value(self, name: str) -> int | None:
        """The value that stands for an organ, None when the map does not know it."""
        return next((v for v, n in self.names.items() if n == name), None)

    def mask(self, name: str) -> np.ndarray:
        """Boolean array (z, y, x) of one organ; all False when it is not there."""
        value = self.value(name)
        return np.zeros(self.array.shape, bool) if value is None else self.array == value

    def volume_ml(self, name: str) -> float:
        """Volume of one organ, mL."""
        return float(np.count_nonzero(self.mask(name))) * self.geometry.voxel_volume_ml

    def renumbered(self, known: Mapping[int, str] = NAMES) -> LabelMap:
        """Return the same organs under the values of `ORGANS`; other regions follow in the order of their names.

        ``known`` are other values to use, with those of `ORGANS` among them.
        """
        plain = {v: region(self.names[v]).name for v in _values(self.array) if v != 0}
        names = dict(known)
        names |= dict(enumerate(sorted(set(plain.values()) - set(names.values())), start=max(names) + 1))
        indices = {name: index for index, name in names.items()}
        lut = np.zeros(256, np.uint8)
        for value, name in plain.items():
            lut[value] = indices[name]
        return LabelMap(lut[self.array], self.geometry, names, self.findings)


def _values(array: np.ndarray) -> list[int]:
    """The values in a uint8 array, ascending; background is passed over eight voxels at a time."""
    there = np.zeros(256, bool)
    for plane in array:
        flat = np.ravel(plane)
        words = flat[: flat.size // 8 * 8].view(np.uint64)
        drawn = words != 0
        there[0] |= not drawn.all()
        for part in (words[drawn].view(np.uint8), flat[words.size * 8 :]):
            there |= np.bincount(part, minlength=256) > 0
    return [int(v) for v in np.flatnonzero(there)]


def read_labels(
    path: str | Path,
    *,
    scheme: str | None = None,
    names: Mapping[int, str] | None = None,
    names_assumed: bool = False,
    unnamed_is_background: bool = False,
    expect: Geometry | None = None,
    stated: StatedGrid | None = None,
    within: str | Path | None = None,
    max_bytes: int = MAX_BYTES,
    ct: Volume | Callable[[], Volume] | None = None,
    merge_lesions: bool = False,
) -> LabelMap:
    """Read a label map and the names that go with it; without names, it is taken by `ORGANS` only if it fits a body.

    Parameters
    ----------
    path : path
    scheme : str, optional
        A key of `SCHEMES`: how the values are numbered. Organs of the table and lesions are kept, all else is
        background. Kidneys that share one value are parted by their side in the patient.
    names : dict, optional
        Value → organ, instead of what the file carries.
    names_assumed : bool
        Nobody stated ``names``: the map is refused, like one without names, when its anatomy does not fit them.
    unnamed_is_background : bool
        Whether values without a name are left out instead of refused.
    expect : Geometry, optional
        The CT's grid. Another grid is refused before a voxel is read, save for Slicer's segments, which it stores
        cropped to what was drawn: those are put in place.
    stated, within, max_bytes
        As `doselabel.images.read_image` takes them.
    ct : Volume, or callable that reads it, optional
        The CT it was drawn on, HU; tells the body's middle, and what the masks lie on. Read after the map's header.
    merge_lesions : bool
        Count tumours and cysts to the organ that they lie in.

    Returns
    -------
    LabelMap
        Its ``findings`` say what is odd (`doselabel.label_findings`).

    Raises
    ------
    LabelError
        When values are not whole numbers from 0 to 255, one has no name, or values that nobody named, or that
        ``scheme`` named, do not lie where those organs do.
    GeometryError
        When the file is not an image, or not on the grid expected.
    """
    header = read_header(Path(path), stated=stated, within=within, max_bytes=max_bytes)
    offset = _place_in(header, expect)
    found = carried(header)
    wanted = dict(names) if names is not None else _numbering(scheme) if scheme is not None else dict(found.names)
    values, geometry = read_values(header, found), header.grid
    array = values.array
    if offset is not None and expect is not None:
        array, geometry = _placed(array, offset, expect), expect
    labels = LabelMap(array, geometry, {v: known_name(n) for v, n in (wanted or NAMES).items()})
    present = [v for v in _values(array) if v]
    _refuse_contradiction(header.path, present, found, scheme)
    drawn_on = ct() if callable(ct) else ct
    unknown = [v for v in present if v not in labels.names]
    if unknown and not unnamed_is_background:
        raise _unnamed(header.path, f"has the value(s) {unknown}, which stand for no organ", labels, found, drawn_on)
    told = [*_of_segments(values, array, found), *_joined(labels, present)]
    as_drawn = labels
    if names is None and (scheme is not None or found.atlas):
        labels = _named(labels, {*NAMES.values(), KIDNEYS, *LESIONS})
    elif unknown or len(set(labels.names.values())) < len(labels.names):
        labels = _named(labels, set(labels.names.values()))
    if KIDNEYS in labels.names.values():
        labels, parted = _kidneys_parted(labels, drawn_on)
        told += parted
    masks = regions(labels.array, labels.names, geometry)
    odd = findings(masks, drawn_on)
    if not wanted or scheme is not None or names_assumed:
        why = [alarm.sentence for alarm in contradictions(odd, stated=bool(wanted))]
        if not wanted and (only := lone(masks)):
            why.append(f"a single value, {only}, may be any organ.")
        if why:
            raise _unnamed(header.path, f"does not fit: {why[0].rstrip('.')}", as_drawn, found, drawn_on, scheme)
    if not masks:
        told.append(finding("label-empty", "The label map has no voxel of any organ."))
    if not wanted and masks:
        told.append(finding("label-numbering-assumed", "The label map carries no names; it was read by our numbering."))
    labels = _lesions_merged(labels) if merge_lesions else labels
    return replace(labels, findings=tuple(ordered([*odd, *told])))


def inspected(labels: LabelMap, ct: Volume | None = None) -> LabelMap:
    """A map that came another way than through `read_labels`, with what is odd about it added to its findings."""
    odd = findings(regions(labels.array, labels.names, labels.geometry), ct)
    return replace(labels, findings=tuple(ordered([*odd, *labels.findings])))


def _of_segments(values: Values, array: np.ndarray, found: Carried) -> list[Alarm]:
    """What Slicer's segments had that one map can't hold."""
    told = []
    for number, own in values.voxels.items():
        name = found.names[number]
        kept = int(np.count_nonzero(array == number)) if own else 0
        if not own:
            told.append(finding("label-segment-empty", f"The segment '{name}' is empty.", organ=known_name(name)))
        elif kept < own:
            lost = (
                f"{own - kept} of {own} voxels of the segment '{name}' are in smaller segments, too; they went there."
            )
            numbers = {"voxels": own - kept, "of_voxels": own}
            told.append(finding("label-segments-overlap", lost, numbers=numbers, organ=known_name(name)))
    return told


def _joined(labels: LabelMap, present: list[int]) -> list[Alarm]:
    """Organs that several values stand for."""
    told = []
    for name in dict.fromkeys(labels.names.get(value, "") for value in present):
        values = [value for value in present if labels.names.get(value) == name]
        if name and len(values) > 1:
            sentence = f"The values {', '.join(map(str, values))} are all called '{name}'; they were joined."
            told.append(finding("label-values-joined", sentence, numbers={"values": len(values)}, organ=name))
    return told


def known_name(name: str) -> str:
    """An organ's name as our table or `KIDNEYS` has it; any other name as it is."""
    plain = plain_name(name)
    return KIDNEYS if plain in _BOTH_KIDNEYS else plain if plain in NAMES.values() else name


def _place_in(header: Header, expect: Geometry | None) -> tuple[int, int, int] | None:
    """Index (z, y, x) of a crop's first voxel on the grid expected; None when there is nothing to place.

    Of a map that no tool is known to have cropped, the missing slices were lost, and would count as background.
    """
    if expect is None or header.grid.same_place(expect):
        return None
    first = expect.lps_to_index(np.asarray(header.grid.origin_mm))
    last = expect.lps_to_index(header.grid.corners_lps()[-1])
    start, stop = np.round(first).astype(int), np.round(last).astype(int) + 1
    crop = (
        np.allclose(first, start, atol=1e-2)
        and np.allclose(last, stop - 1, atol=1e-2)
        and (start >= 0).all()
        and (stop <= expect.shape).all()
        and tuple(stop - start) == header.grid.shape
    )
    if not (crop and is_of_segments(header)):
        missing = " It is a part of it: slices or rows are missing." if crop else ""
        raise OffGridError(
            f"{header.path}: is not on the grid of its CT: it has {header.grid.words()}; the CT {expect.words()}."
            f"{missing}",
            "Draw the map on that CT, or resample it onto the CT's grid.",
        )
    return int(start[0]), int(start[1]), int(start[2])


def _placed(array: np.ndarray, offset: tuple[int, int, int], grid: Geometry) -> np.ndarray:
    whole = np.zeros(grid.shape, array.dtype)
    whole[tuple(slice(o, o + n) for o, n in zip(offset, array.shape, strict=True))] = array
    return whole


def _refuse_contradiction(path: Path, values: list[int], found: Carried, scheme: str | None) -> None:
    """A file that names its values and a scheme that names them otherwise can't both be right."""
    if scheme is None or not found.names or found.layers:
        return
    for value in values:
        own, theirs = found.names.get(value), SCHEMES[scheme].get(value)
        if own and theirs and known_name(own) != theirs and region(known_name(own)).name != theirs:
            raise LabelError(
                f"{path}: says ({found.source}) that {value} is '{own}'; by the numbering '{scheme}' it is '{theirs}'.",
                "Leave --label-scheme out if the file is right.",
            )


def _unnamed(
    path: Path, misfit: str, labels: LabelMap, found: Carried, ct: Volume | None, scheme: str | None = None
) -> LabelError:
    """The refusal of values that nobody named, or a numbering that does not fit, with what they look like."""
    rows = "\n".join(f"    {row}" for row in describe(labels.array, labels.geometry, ct))
    names = ", ".join(f"{value} {name}" for value, name in list(labels.names.items())[:12])
    read_by = f"with the names of {found.source}" if found.source else "carries no names; read by the numbering"
    if scheme is not None:
        read_by = f"read by the numbering '{scheme}', as stated"
    return LabelError(
        f"{path}: {read_by} ({names}), it {misfit}. Found:\n{rows}\n ",
        f"Say what it is: --label-scheme {'|'.join(SCHEMES)} (label_scheme in an upload's params), or save it with "
        "names (a .seg.nrrd from Slicer, an ITK-SNAP label description beside it); names are believed, with an alarm.",
    )


def _numbering(scheme: str) -> dict[int, str]:
    try:
        return dict(SCHEMES[scheme])
    except KeyError:
        raise LabelError(
            f"'{scheme}' is no numbering of label maps; expected one of {', '.join(SCHEMES)}.",
            "Each name stands for the data set or tool that numbers so.",
        ) from None


def _named(labels: LabelMap, kept: set[str]) -> LabelMap:
    """Keep the organs of these names, each under one value; the rest becomes background."""
    first: dict[str, int] = {}
    lut = np.zeros(256, np.uint8)
    for value in _values(labels.array):
        name = labels.names.get(value)
        if value and name in kept:
            lut[value] = first.setdefault(name, value)
    return LabelMap(lut[labels.array], labels.geometry, {value: name for name, value in first.items()})


def _kidneys_parted(labels: LabelMap, ct: Volume | None) -> tuple[LabelMap, list[Alarm]]:
    value = labels.value(KIDNEYS)
    assert value is not None
    if not (labels.array == value).any():
        return LabelMap(labels.array, labels.geometry, {v: n for v, n in labels.names.items() if v != value}), []
    left, right = split_kidneys(labels.array == value, labels.geometry, middle_x_mm(ct) if ct is not None else None)
    names = {v: n for v, n in labels.names.items() if v != value}
    array = labels.array.copy()
    both = {"left": left, "right": right}
    for name, mask in (("left_kidney", left), ("right_kidney", right)):
        known = next((v for v, n in names.items() if n == name), None)
        own = known or next(v for v in range(1, 256) if v not in names)
        names[own] = name
        array[mask] = own
    ml = {f"{side}_ml": float(np.count_nonzero(m)) * labels.geometry.voxel_volume_ml for side, m in both.items()}
    sentence = (
        f"Both kidneys had one value; they were parted by their sides: left {ml['left_ml']:.0f} mL, right "
        f"{ml['right_ml']:.0f} mL."
    )
    parted = LabelMap(array, labels.geometry, dict(sorted(names.items())))
    return parted, [finding("label-kidneys-parted", sentence, numbers=ml)]


def _lesions_merged(labels: LabelMap) -> LabelMap:
    lesions = [value for value, name in labels.names.items() if lies_in_organ(name)]
    names = {value: name for value, name in labels.names.items() if value not in lesions}
    array = labels.array.copy()
    found = into_organs(np.isin(array, lesions), {name: array == value for value, name in names.items()})
    for value, name in names.items():
        array[found[name]] = value
    left = set(_values(array)) & set(lesions)
    return LabelMap(array, labels.geometry, names | {value: labels.names[value] for value in left})


def write_labels(path: str | Path, labels: LabelMap) -> Path:
    """Write a label map atomically, with its names inside the file."""
    names = {str(v): n for v, n in sorted(labels.names.items())}
    text = json.dumps(names, separators=(",", ":"))
    volume = Volume(np.asarray(labels.array, dtype=np.uint8), labels.geometry)
    path = Path(path)
    if not path.name.lower().endswith((".nii", ".nii.gz")):
        return write_image(path, volume, {METADATA_KEY: text})
    import nibabel

    staged, named = path.with_name(f".names-{path.name}"), path.with_name(f".named-{path.name}")
    try:
        write_image(staged, volume)
        image = nibabel.nifti1.Nifti1Image.from_filename(staged)
        comment = nibabel.nifti1.Nifti1Extension(_NIFTI_COMMENT, f"{METADATA_KEY}={text}".encode())
        image.header.extensions.append(comment)
        nibabel.save(image, named)
        named.replace(path)
    finally:
        staged.unlink(missing_ok=True)
        named.unlink(missing_ok=True)
    return path
