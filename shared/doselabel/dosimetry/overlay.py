"""How a SPECT lies on a CT, before and after registration, as a picture. Knows images and transforms, no numbers."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from doselabel.dosimetry.registration import onto
from doselabel.errors import RegistrationError
from doselabel.geometry import Volume, resample
from doselabel.labels import LabelMap

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def overlay(
    ct: Volume,
    labels: LabelMap,
    spect: Volume,
    transforms: Mapping[str, np.ndarray],
    *,
    organ: str | None = None,
    title: str = "",
) -> Figure:
    """CT, masks and SPECT on three planes through an organ, one row for each transform ("before", "after").

    Returns
    -------
    matplotlib Figure
        Not registered with pyplot; `png` makes a picture of it.
    """
    from matplotlib.figure import Figure

    names = [organ] if organ else list(labels.present())
    points = np.argwhere(np.isin(labels.array, [value for value, name in labels.names.items() if name in names]))
    if len(points) == 0:
        raise RegistrationError(f"The label map does not have {names}.", "Choose an organ that it has.")
    centre = np.round(points.mean(axis=0)).astype(int)
    dz, dy, dx = labels.geometry.spacing_mm
    figure = Figure(figsize=(11, 3.7 * len(transforms)), layout="constrained")
    axes = figure.subplots(len(transforms), 3, squeeze=False)
    shown = {name: onto(spect, labels.geometry, matrix).array for name, matrix in transforms.items()}
    top = max(float(np.percentile(a[labels.array != 0], 99)) for a in shown.values()) or 1.0
    hu = resample(ct, labels.geometry, fill=-1000.0).array if not ct.geometry.same_place(labels.geometry) else ct.array
    planes = (("axial", 0, dy / dx), ("coronal", 1, dz / dx), ("sagittal", 2, dz / dy))
    for row, (name, values) in zip(axes, shown.items(), strict=True):
        for axis, (plane, along, aspect) in zip(row, planes, strict=True):
            cutting = (slice(None),) * along + (centre[along],)
            # Slice 0 is the topmost in canonical orientation; other files run upwards.
            up = plane != "axial" and labels.geometry.affine_lps[2, 2] > 0
            origin = "lower" if up else "upper"
            axis.imshow(hu[cutting], cmap="gray", vmin=-160, vmax=240, aspect=aspect, origin=origin)
            heat = np.ma.masked_less(values[cutting], 0.1 * top)
            axis.imshow(heat, cmap="inferno", vmin=0, vmax=top, alpha=0.5, aspect=aspect, origin=origin)
            for value in np.unique(labels.array[cutting]):
                if value:
                    axis.contour(labels.array[cutting] == value, levels=[0.5], colors="#7fe0ff", linewidths=1.0)
            axis.set_title(f"{name}: {plane}", fontsize=9)
            axis.set_axis_off()
    if title:
        figure.suptitle(title)
    return figure


def png(figure: Figure, dpi: int = 90) -> bytes:
    """A figure as PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    buffer = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()
