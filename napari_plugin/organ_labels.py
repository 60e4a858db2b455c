"""The labels layer an annotator paints on: named organs, a brush that can be masked by HU, one event for every edit.

Knows napari's layer model; knows no Qt, no files and no server. napari has no public word for "a stroke is under way",
"there is a step to undo" and "the axes that are painted on": `PRIVATE` names are used here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
from napari.layers import Labels
from napari.utils.colormaps import DirectLabelColormap
from napari.utils.events import Event
from scipy import ndimage
from skimage.draw import polygon

from doselabel.errors import DoselabelError
from doselabel.organs import NAMES, lies_in_organ, region, title
from napari_plugin.tools import Change, brush_indices, given_back, part_given

PRIVATE = ("_block_history", "_undo_history", "_redo_history", "_get_shape_and_dims_to_paint")


class OrganLabels(Labels):
    """Labels of one case; made anew for each case, because swapping ``data`` keeps the old undo history.

    Parameters
    ----------
    data : (z, y, x) uint8 array
        Edited in place.
    ct_hu : array
        The CT on the same grid, for the HU mask.

    Events
    ------
    edited(how)
        After every stroke, fill and tool (``how`` is "edit"), "undo" and "redo" that changed something: each is one
        step of the history. (napari's ``paint`` leaves out undo and redo, its ``set_data`` also fires when only
        another slice is shown.)
    """

    def __init__(self, data: np.ndarray, *, ct_hu: np.ndarray, **kwargs: Any) -> None:
        super().__init__(data, colormap=organ_colormap(NAMES), features=organ_features(NAMES), **kwargs)
        self._names: Mapping[int, str] = NAMES
        self._inner: list[int] = inner_values(NAMES)
        self._ct_hu = ct_hu
        self._hu_range: tuple[float, float] | None = None
        self.events.add(edited=Event, hu_range=Event)
        self.events.paint.connect(self._on_paint)
        self.preserve_labels = True

    def refuse_another_napari(self) -> None:
        """Raise when napari has changed beneath this layer, before anything is painted on it."""
        if gone := [name for name in PRIVATE if not hasattr(self, name)]:
            raise DoselabelError(
                f"napari {version('napari')} has no '{gone[0]}' in its labels layer any more: undo can't be kept safe.",
                "Install the napari that doselabel was made for: pip install 'napari>=0.9.2,<0.10'.",
            )

    @property
    def _type_string(self) -> str:
        return "labels"  # napari would derive "organlabels", which no writer knows

    @property
    def names(self) -> Mapping[int, str]:
        """What the values stand for: organs, and regions beside or in them."""
        return self._names

    @names.setter
    def names(self, names: Mapping[int, str]) -> None:
        self._names, self._inner = names, inner_values(names)
        self.colormap = organ_colormap(names)
        self.features = organ_features(names)
        self.metadata: dict[str, Any] = {**self.metadata, "names": dict(names)}

    @property
    def painting(self) -> bool:
        """Whether a stroke is under way: its voxels are drawn, but it is no step of the history yet."""
        return bool(self._block_history)

    @property
    def hu_range(self) -> tuple[float, float] | None:
        """Range of HU in which brush, eraser, fill and polygon work; None for everywhere."""
        return self._hu_range

    @hu_range.setter
    def hu_range(self, value: tuple[float, float] | None) -> None:
        self._hu_range = value
        self.events.hu_range()

    @property
    def painted_axes(self) -> tuple[int, ...]:
        """Axes the brush extends along: those on screen, or all for the 3D brush."""
        return tuple(self._get_shape_and_dims_to_paint()[1])

    @property
    def finest_mm(self) -> float:
        """What one unit of ``brush_size`` is: the finest spacing along the painted axes, mm."""
        return float(min(abs(self.scale[axis]) for axis in self.painted_axes))

    @property
    def brush_mm(self) -> float:
        """Diameter of the brush, mm (napari's brush covers an odd number of voxels)."""
        return (2 * np.floor(self.brush_size / 2) + 1) * self.finest_mm

    @brush_mm.setter
    def brush_mm(self, diameter_mm: float) -> None:
        beside = max(0, round((diameter_mm / self.finest_mm - 1) / 2))  # voxels on each side of the middle one
        self.brush_size = 2 * beside + 1

    def paint(self, coord: Any, new_label: int, refresh: bool = True) -> None:
        """Paint a disk or sphere, only where the CT lies in ``hu_range`` when there is one."""
        if self._hu_range is None and self.selected_label not in self._inner:
            super().paint(coord, new_label, refresh)
            return
        radius_mm = self.brush_mm / 2
        self._write(
            brush_indices(coord, radius_mm, np.abs(self.scale), self.data.shape, self.painted_axes), new_label, refresh
        )

    def fill(self, coord: Any, new_label: int, refresh: bool = True) -> None:
        """Give a connected part of an organ to another.

        In three dimensions only the organ's own box is looked at (napari looks at all of a CT, for 0.2 s), and the
        background is not filled: it would be the whole CT. With a range of HU, in a slice, what hangs together within
        it is filled.
        """
        at = tuple(round(float(c)) for c in coord)
        inside = all(0 <= i < n for i, n in zip(at, self.data.shape, strict=True))
        if len(self.painted_axes) == 3 and self.contiguous:
            old = int(self.data[at]) if inside else 0
            change = None if old in (0, new_label) else part_given(self.data, at, new_label)
            if change is not None and self._hu_range is None:
                self.data_setitem(change.indices, change.values, refresh)
            elif change is not None:
                self._write(change.indices, new_label, refresh)
        elif self._hu_range is None or not self.contiguous or len(self.painted_axes) != 2:
            super().fill(coord, new_label, refresh)
        elif inside:
            here = tuple(slice(None) if axis in self.painted_axes else i for axis, i in enumerate(at))
            parts, _ = ndimage.label((self.data[here] == self.data[at]) & self._in_range(self._ct_hu[here]))
            seed = parts[tuple(at[axis] for axis in self.painted_axes)]
            if seed:
                self._write(self._in_slice(at, np.nonzero(parts == seed)), new_label, refresh)

    def paint_polygon(self, points: Any, new_label: int) -> None:
        """Paint what a polygon holds, only where the CT lies in ``hu_range`` when there is one."""
        plain = self._hu_range is None and self.selected_label not in self._inner
        if plain or len(self.painted_axes) != 2:
            super().paint_polygon(points, new_label)
            return
        corners = np.asarray(points, int)
        rows, columns = (corners[:, axis] for axis in self.painted_axes)
        shape = tuple(self.data.shape[axis] for axis in self.painted_axes)
        self._write(self._in_slice(tuple(corners[0].tolist()), polygon(rows, columns, shape)), new_label, True)

    def _in_slice(self, at: tuple[int, ...], flat: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
        """Indices of voxels of the slice through ``at`` that is painted on."""
        found = dict(zip(self.painted_axes, flat, strict=True))
        return tuple(found.get(axis, np.full(len(flat[0]), i)) for axis, i in enumerate(at))

    def _in_range(self, hu: np.ndarray) -> np.ndarray:
        if self._hu_range is None:
            return np.ones(hu.shape, bool)
        low, high = self._hu_range
        return (hu >= low) & (hu <= high)

    def _write(self, indices: tuple[np.ndarray, ...], new_label: int, refresh: bool) -> None:
        """Write a label where the CT lies in ``hu_range``, sparing other organs when they are protected.

        A region in an organ, such as a lesion, takes voxels of the organ, and gives them back where it is erased.
        """
        wanted, old = self._in_range(self._ct_hu[indices]), self.data[indices]
        inner = self.selected_label in self._inner
        if self.preserve_labels:
            spared = np.isin(old, self._inner) if inner else old != 0
            wanted &= old == self.selected_label if new_label == 0 else ~spared
        at = tuple(index[wanted] for index in indices)
        beneath = inner and new_label == 0 and at[0].size
        self.data_setitem(at, given_back(self.data, at, self._inner) if beneath else new_label, refresh)

    def apply(self, change: Change) -> None:
        """Apply a tool's change as one undo step."""
        self.data_setitem(change.indices, change.values)

    def undo(self) -> None:
        """Undo the last step."""
        if self._undo_history and not self.painting:
            super().undo()
            self.events.edited(how="undo")

    def redo(self) -> None:
        """Redo the last undone step."""
        if self._redo_history and not self.painting:
            super().redo()
            self.events.edited(how="redo")

    def _on_paint(self, _: Event) -> None:
        self.events.edited(how="edit")


def inner_values(names: Mapping[int, str]) -> list[int]:
    """Values of regions that lie in organs."""
    return [value for value, name in names.items() if lies_in_organ(name)]


def organ_colormap(names: Mapping[int, str]) -> DirectLabelColormap:
    """Colours of organs and regions; values without a name are drawn in grey, not hidden."""
    colours: dict[int | None, Any] = {value: region(name).color for value, name in names.items()}
    return DirectLabelColormap(color_dict={0: "transparent", None: "#808080", **colours})


def organ_features(names: Mapping[int, str]) -> dict[str, list]:
    """Table by which napari shows an organ's name under the cursor."""
    return {"index": list(names), "organ": [title(name) for name in names.values()]}
