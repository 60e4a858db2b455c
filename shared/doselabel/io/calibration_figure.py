"""The figure of one calibration: what was measured and what was fitted. Computes nothing."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
from numpy.typing import ArrayLike

from doselabel.io.document import STYLE, new_figure


def draw(
    path: Path,
    title: str,
    x: ArrayLike,
    measured: ArrayLike,
    *,
    x_label: str,
    y_label: str,
    fitted_x: ArrayLike | None = None,
    fitted: ArrayLike | None = None,
    log_x: bool = False,
) -> Path:
    """Write points and, where there is one, the fitted curve."""
    with matplotlib.rc_context(STYLE):
        figure = new_figure(140, 80)
        axes = figure.add_subplot()
        axes.plot(np.asarray(x), np.asarray(measured), "o", markersize=3, label="measured")
        if fitted is not None:
            axes.plot(np.asarray(x if fitted_x is None else fitted_x), np.asarray(fitted), "-", label="fitted")
            axes.legend()
        if log_x:
            axes.set_xscale("log")
        axes.set_title(title, loc="left")
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        axes.grid(True)
        figure.tight_layout()
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=150)
    return path
