"""Tools by the name that buttons and programs call them: one table, from which palette, keys and programs are made."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, get_type_hints

import numpy as np

from doselabel.errors import DoselabelError, LabelError
from doselabel.geometry import Volume, resample
from doselabel.grid import Geometry, int3
from doselabel.labels import organ
from napari_plugin.tools.clicks import correct
from napari_plugin.tools.crop import Box, Change, given_back
from napari_plugin.tools.grow import grow_from_seeds, threshold_spect
from napari_plugin.tools.islands import keep_largest, remove_small
from napari_plugin.tools.shape import clear, closed, fill_holes, limit_to_hu, margin, opened, smooth
from napari_plugin.tools.sides import mirror, swap
from napari_plugin.tools.slices import fill_between_slices

LEFT, RIGHT = organ("left_kidney").index, organ("right_kidney").index


@dataclass(frozen=True)
class Tool:
    """One tool as people meet it.

    Attributes
    ----------
    function : callable
        Called with ``labels, value``, then with ``spacing_mm``, ``ct_hu``, ``spect_in`` or ``clicks`` where it has such
        an argument, then with its own parameters, which are those after the ``*``.
    """

    title: str
    tip: str
    function: Callable[..., Change | None]

    @property
    def pointed(self) -> bool:
        """Whether it works at clicks into the image."""
        return "clicks" in inspect.signature(self.function).parameters

    @property
    def parameters(self) -> dict[str, inspect.Parameter]:
        """Its own parameters; their annotations say how far they go."""
        hints = get_type_hints(self.function, include_extras=True)
        found = inspect.signature(self.function).parameters.values()
        return {p.name: p.replace(annotation=hints[p.name]) for p in found if p.kind is p.KEYWORD_ONLY}


def swap_kidneys(labels: np.ndarray, value: int) -> Change | None:
    """Exchange left and right kidney, whichever organ is chosen."""
    return swap(labels, LEFT, RIGHT)


def mirror_kidney(labels: np.ndarray, value: int, ct_hu: np.ndarray) -> Change | None:
    """Replace the other kidney by the chosen one's mirror image."""
    if value not in (LEFT, RIGHT):
        raise LabelError("Only a kidney can be mirrored.", "Select the kidney to copy to the other side.")
    return mirror(labels, value, RIGHT if value == LEFT else LEFT, ct_hu)


TOOLS: Mapping[str, Tool] = {
    "correct": Tool(
        "Clicks",
        "Click what belongs to the organ; with the right button, or Ctrl, what does not (key A)",
        correct,
    ),
    "grow_from_seeds": Tool(
        "Grow from seeds", "Draw a few strokes, grow them over the CT up to its edges", grow_from_seeds
    ),
    "fill_between_slices": Tool(
        "Fill between slices", "Draw some slices, get those between (key G)", fill_between_slices
    ),
    "fill_holes": Tool("Fill holes", "Fill what the organ encloses", fill_holes),
    "keep_largest": Tool("Keep largest part", "Remove all but the largest connected part (key K)", keep_largest),
    "remove_small": Tool("Remove small parts", "Remove connected parts below a volume", remove_small),
    "smooth": Tool("Smooth", "Smooth the surface with a Gaussian of this σ, keep the volume", smooth),
    "open": Tool("Open", "Remove spikes and bridges thinner than this", opened),
    "close": Tool("Close", "Fill notches and gaps narrower than this", closed),
    "margin": Tool("Margin", "Grow (+) or shrink (−) by a distance", margin),
    "limit_to_hu": Tool("Limit to HU", "Remove the organ's voxels outside this range of HU", limit_to_hu),
    "threshold_spect": Tool(
        "SPECT", "Make the organ the SPECT's voxels above a percentage of the highest near it", threshold_spect
    ),
    "mirror": Tool("Mirror kidney", "Copy the chosen kidney to the other side as a first guess", mirror_kidney),
    "swap": Tool("Swap left and right", "Exchange left and right kidney", swap_kidneys),
    "clear": Tool("Clear organ", "Remove the chosen organ altogether", clear),
}
"""Name → tool, in the order of the palette."""


def by_name(
    name: str,
    labels: np.ndarray,
    value: int,
    ct: Volume,
    params: Mapping[str, Any],
    *,
    spect: Volume | None = None,
    inner: Sequence[int] = (),
) -> Change | None:
    """Change that a tool makes to an organ, or to a region that lies in one.

    Such a region takes voxels of the organs, and gives them back where it is taken away.

    Parameters
    ----------
    labels : (z, y, x) uint8 array
        On the CT's grid.
    value : int
        The organ; for "mirror" the kidney to copy.
    params : mapping
        The tool's own parameters, and ``clicks`` for one that works at clicks.
    spect : Volume, optional
        The SPECT on screen, in the CT's frame.
    inner : sequence of int
        Values of regions that lie in organs, such as lesions.

    Raises
    ------
    DoselabelError
        When there is no such tool, or it can't work on this organ.
    """
    if name not in TOOLS:
        raise DoselabelError(f"There is no tool '{name}'.", f"There are {', '.join(TOOLS)}.")
    tool = TOOLS[name]

    def spect_in(box: Box) -> np.ndarray | None:
        return None if spect is None else resample(spect, _part(ct.geometry, box)).array

    there = {"spacing_mm": ct.geometry.spacing_mm, "ct_hu": ct.array, "spect_in": spect_in}
    wanted = inspect.signature(tool.function).parameters
    given = {key: there[key] for key in there if key in wanted}
    if value not in inner:
        return tool.function(labels, value, **given, **params)
    seen = np.zeros(256, labels.dtype)
    seen[list(inner)] = inner
    change = tool.function(seen[labels], value, **given, **params)
    if change is None or not (left := change.values == 0).any():
        return change
    z, y, x = change.indices
    values = change.values.copy()
    values[left] = given_back(labels, (z[left], y[left], x[left]), inner)
    return Change(change.indices, values)


def _part(grid: Geometry, box: Box) -> Geometry:
    """Grid of a box of voxels."""
    start = np.array([s.start for s in box], dtype=float)
    x, y, z = (float(at) for at in grid.index_to_lps(start))
    return replace(grid, shape=int3([s.stop - s.start for s in box]), origin_mm=(x, y, z))
