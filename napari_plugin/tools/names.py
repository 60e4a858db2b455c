"""Tools by the name that buttons and programs call them. Knows each tool's arguments, and which ones need the CT."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from doselabel.errors import DoselabelError, LabelError
from doselabel.geometry import Volume
from doselabel.labels import organ
from napari_plugin.tools.crop import Change
from napari_plugin.tools.islands import keep_largest, remove_small
from napari_plugin.tools.shape import clear, fill_holes, limit_to_hu, margin, smooth
from napari_plugin.tools.sides import mirror, swap
from napari_plugin.tools.slices import fill_between_slices

PLAIN = {"keep_largest": keep_largest, "fill_holes": fill_holes, "clear": clear}
SPACED = {
    "fill_between_slices": fill_between_slices,
    "remove_small": remove_small,
    "smooth": smooth,
    "margin": margin,
}
"""Those that measure in millimetres."""


def by_name(name: str, labels: np.ndarray, value: int, ct: Volume, params: Mapping[str, Any]) -> Change | None:
    """Change that a tool makes to an organ.

    Parameters
    ----------
    labels : (z, y, x) uint8 array
        On the CT's grid.
    value : int
        The organ; for "mirror" the kidney to copy.

    Raises
    ------
    DoselabelError
        When there is no such tool, or it can't work on this organ.
    """
    left, right = organ("left_kidney").index, organ("right_kidney").index
    if name == "swap":
        return swap(labels, left, right)
    if name == "mirror":
        if value not in (left, right):
            raise LabelError("Only a kidney can be mirrored.", "Select the kidney to copy to the other side.")
        return mirror(labels, value, right if value == left else left, ct.array)
    if name == "limit_to_hu":
        return limit_to_hu(labels, value, ct.array, **params)
    if name in PLAIN:
        return PLAIN[name](labels, value)
    if name in SPACED:
        return SPACED[name](labels, value, ct.geometry.spacing_mm, **params)
    raise DoselabelError(f"There is no tool '{name}'.", "See napari_plugin.tools.")
