"""Correction tools: pure functions from a label array to a `Change`. No napari, no Qt, no files.

Every tool works on the organ's bounding box plus a margin, writes over no other organ, and gives one `Change`,
which the viewer applies as one undo step.
"""

from napari_plugin.tools.brush import brush_indices
from napari_plugin.tools.clicks import Click, correct
from napari_plugin.tools.crop import Change, Spacing, difference, given_back, whole
from napari_plugin.tools.grow import grow_from_seeds, threshold_spect
from napari_plugin.tools.islands import keep_largest, part_given, remove_small
from napari_plugin.tools.names import TOOLS, Tool, by_name
from napari_plugin.tools.shape import clear, closed, fill_holes, limit_to_hu, margin, opened, smooth
from napari_plugin.tools.sides import mirror, swap
from napari_plugin.tools.slices import fill_between_slices

__all__ = [
    "TOOLS",
    "Change",
    "Click",
    "Spacing",
    "Tool",
    "brush_indices",
    "by_name",
    "clear",
    "closed",
    "correct",
    "difference",
    "fill_between_slices",
    "fill_holes",
    "given_back",
    "grow_from_seeds",
    "keep_largest",
    "limit_to_hu",
    "margin",
    "mirror",
    "opened",
    "part_given",
    "remove_small",
    "smooth",
    "swap",
    "threshold_spect",
    "whole",
]
