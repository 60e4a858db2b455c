"""Drawn organs become label versions of their CT, with author and state; a second import adds nothing.

Contours are filled even–odd at voxel centres, so that a hole is a contour of its own or a keyhole.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import highdicom as hd
import numpy as np

from doselabel.alarms import Alarm, finding, ordered
from doselabel.dicom.drawn import Drawn
from doselabel.dicom.pseudonym import Key
from doselabel.dicom.volume import Stack
from doselabel.errors import DicomError, DoselabelError
from doselabel.geometry import Volume
from doselabel.labels import NAMES, LabelMap, read_labels, write_labels
from doselabel.study import Study
from doselabel.versions import LabelStore
from doselabel.wire import LabelReview, LabelSubmission

_HALF = 0.5
"""A fractional segment's voxel is the organ's above this."""
_NOBODY = "not stated"
"""Not "": that is an annotator who gives no name, whose draft must not go."""


def add_versions(study: Study, drawn: Sequence[tuple[Drawn, str, Stack]], key: Key) -> list[str]:
    """Store each drawn object as a version of its CT's label map.

    Parameters
    ----------
    study : Study
    drawn : sequence of (Drawn, str, Stack)
        With the CT's file in the study, and its planes.
    key : Key

    Returns
    -------
    list of str
        What was stored, or why not; nothing for what was there.
    """
    said = []
    for each, ct, stack in drawn:
        try:
            said += _add(study, each, ct, stack, key)
        except DoselabelError as error:
            said.append(f"{each.series.words()}: no label version: {error.message}")
    return said


def _add(study: Study, each: Drawn, ct: str, stack: Stack, key: Key) -> list[str]:
    store = LabelStore.of(study, ct)
    own = f"dicom {key.uid(str(each.series.head.SOPInstanceUID))}"
    version, said = next((v for v in store.versions() if v.key == own), None), []
    if version is None:
        labels = label_map(each, stack, study.read(ct))
        submission = LabelSubmission(
            author=key.person(each.author) or _NOBODY,
            origin="imported",
            started_from=f"DICOM {each.series.kind.upper()}",
            key=own,
        )
        version = store.add(labels, submission)
        state = "approved" if each.approved else version.state
        said.append(
            f"{each.series.words()}: version {version.version} of the label map of {ct} ({state}"
            f", by {version.author}): {', '.join(labels.present())}"
        )
        said += [f"  {alarm.severity}: {alarm.sentence}" for alarm in labels.findings]
    if each.approved and store.review_of(version.version) is None:
        reviewer = key.person(each.reviewer or each.author)
        store.review(version.version, LabelReview(approved=True, reviewer=reviewer, comment="as DICOM states"))
    return said


def label_map(each: Drawn, stack: Stack, ct: Volume) -> LabelMap:
    """The label map of drawn organs on their CT's grid, with what is odd about it.

    Raises
    ------
    DicomError, LabelError
        When voxels can't be read, or there are none.
    """
    voxels = _of_segments(each, stack) if each.series.kind == "seg" else _of_contours(each, stack)
    masks: dict[str, np.ndarray] = {}
    told: list[Alarm] = []
    for number, name in each.names.items():
        if not len(voxels[number]):
            told.append(finding("label-segment-empty", f"The segment '{name}' is empty.", organ=name))
        masks[name] = np.union1d(masks[name], voxels[number]) if name in masks else voxels[number]
    if not any(len(mask) for mask in masks.values()):
        raise DicomError("its organs have no voxel on the CT")
    values = {name: value for value, name in NAMES.items()}
    for name in masks:
        values.setdefault(name, max(values.values()) + 1)
    if max(values.values()) > np.iinfo(np.uint8).max:
        raise DicomError(f"it holds {len(masks)} organs and lesions, more than a label map has values for")
    flat = np.zeros(_shape(stack), np.uint8).ravel()
    for name in sorted(masks, key=lambda name: -len(masks[name])):  # the smaller one is on top, as a lesion is
        lost = np.bincount(flat[masks[name]], minlength=256)
        flat[masks[name]] = values[name]
        for other in set(masks) - {name}:
            if count := int(lost[values[other]]):
                words = f"{count} voxels of '{other}' are in '{name}', too, which is smaller; they went there."
                told.append(finding("label-segments-overlap", words, numbers={"voxels": count}, organ=other))
    array = _straightened(flat.reshape(_shape(stack)), stack)
    with tempfile.TemporaryDirectory(prefix="doselabel-dicom-") as folder:
        names = {value: name for name, value in values.items() if name in masks}
        file = write_labels(Path(folder) / "drawn.nii", LabelMap(array, stack.geometry, names))
        labels = read_labels(file, expect=ct.geometry, ct=ct)
    return replace(labels.renumbered(), findings=tuple(ordered([*labels.findings, *told])))


def _shape(stack: Stack) -> tuple[int, int, int]:
    return len(stack.planes), *stack.geometry.shape[1:]


def _straightened(array: np.ndarray, stack: Stack) -> np.ndarray:
    """What lies on the source's planes on the grid that the CT was resampled to, by the nearest voxel."""
    if stack.regular:
        return array
    grid, first = stack.geometry, stack.planes[0]
    out = np.zeros(grid.shape, np.uint8)
    rows, columns = np.arange(grid.shape[1]), np.arange(grid.shape[2])
    for z in range(grid.shape[0]):
        height = stack.heights_mm[0] + z * grid.spacing_mm[0]
        k = int(np.abs(stack.heights_mm - height).argmin())
        along_row, along_column = stack.shifts_mm[k]
        r = np.rint(rows - along_column / first.spacing_mm[0]).astype(int)
        c = np.rint(columns - along_row / first.spacing_mm[1]).astype(int)
        there = np.ix_((r >= 0) & (r < len(rows)), (c >= 0) & (c < len(columns)))
        out[z][there] = array[k][np.ix_(r[(r >= 0) & (r < len(rows))], c[(c >= 0) & (c < len(columns))])]
    return out


def _of_segments(each: Drawn, stack: Stack) -> dict[int, np.ndarray]:
    """Voxels (flat indices on the CT's planes) of each segment."""
    instance, shape = each.series.instances[0], _shape(stack)
    try:
        segments = hd.seg.segread(instance.path)
        frames = segments.pixel_array.reshape(-1, int(segments.Rows), int(segments.Columns))
        fractional = segments.segmentation_type == hd.seg.SegmentationTypeValues.FRACTIONAL
    except Exception as error:  # highdicom raises whatever a damaged file makes it raise
        raise DicomError(f"{instance.name} can't be read ({type(error).__name__}: {error})") from error
    above = _HALF * float(segments.MaximumFractionalValue) if fractional else 0
    found = {}
    for number, places in each.places.items():
        parts = [np.zeros(0, np.int64)]
        for z, index, row, column in places:
            r, c = np.nonzero(frames[index] > above)
            r, c = r + row, c + column
            if len(r) and (min(r.min(), c.min()) < 0 or r.max() >= shape[1] or c.max() >= shape[2]):
                raise DicomError(f"its frame {index + 1} reaches beyond the CT")
            parts.append(np.ravel_multi_index((np.full_like(r, z), r, c), shape))
        found[number] = np.unique(np.concatenate(parts))
    return found


def _of_contours(each: Drawn, stack: Stack) -> dict[int, np.ndarray]:
    shape, found = _shape(stack), {}
    for number, places in each.places.items():
        parts = [np.zeros(0, np.int64)]
        for z in sorted({z for z, _ in places}):
            mask = filled([loop for k, loop in places if k == z], shape[1:])
            parts.append(np.flatnonzero(mask) + z * shape[1] * shape[2])
        found[number] = np.concatenate(parts)
    return found


def filled(loops: Sequence[np.ndarray], shape: tuple[int, int]) -> np.ndarray:
    """Pixels whose centres lie in an odd number of closed loops, (n, 2) rows and columns each.

    A centre on an edge is inside at the loop's lower side, and outside at its upper one, in rows and in columns.

    Examples
    --------
    >>> filled([np.array([[0.5, 0.5], [0.5, 2.5], [2.5, 2.5], [2.5, 0.5]])], (3, 4)).astype(int).tolist()
    [[0, 0, 0, 0], [0, 1, 1, 0], [0, 1, 1, 0]]
    """
    start = np.concatenate(loops)
    end = np.concatenate([np.roll(loop, -1, axis=0) for loop in loops])
    first, last = (np.ceil(f(start[:, 0], end[:, 0])).astype(int) for f in (np.minimum, np.maximum))
    first, last = first.clip(0, shape[0]), last.clip(0, shape[0])
    rows_of = last - first
    edge = np.repeat(np.arange(len(start)), rows_of)
    row = np.arange(len(edge)) - np.repeat(np.cumsum(rows_of) - rows_of, rows_of) + first[edge]
    (y0, x0), (y1, x1) = start[edge].T, end[edge].T
    column = np.ceil(x0 + (row - y0) * (x1 - x0) / (y1 - y0)).astype(int).clip(0, shape[1])
    crossed = np.zeros((shape[0], shape[1] + 1), np.int64)
    np.add.at(crossed, (row, column), 1)
    return (np.cumsum(crossed, axis=1)[:, :-1] & 1).astype(bool)
