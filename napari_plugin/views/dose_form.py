"""The options of a dose as a form that magicgui makes; which there are, and their defaults, `DoseOptions` says."""

from __future__ import annotations

from collections.abc import Mapping
from types import NoneType
from typing import get_args

from magicgui.widgets import ComboBox, Container, FloatSpinBox, LineEdit
from qtpy.QtWidgets import QLabel, QSizePolicy

from doselabel.dosimetry.options import DoseOptions

WORDS: Mapping[str, str] = {
    "auto": "automatic",
    "gtm": "transfer matrix (PSF)",
    "margin": "mask + margin",
    "gaussian": "Gaussian border",
    "threshold": "SPECT threshold",
    "ai": "as the paper's AI",
    "expert1": "as the paper's expert 1",
    "expert2": "as the paper's expert 2",
    "uptake": "uptake and washout",
    "mono": "mono-exponential",
    "bi": "bi-exponential",
    "hanscheid": "one time point (Hänscheid)",
    "population": "one time point (half-life)",
    "voxel-s": "voxel S values",
    "local": "local deposition",
    "organ": "on the organs",
    "stored": "as stored",
    "identity": "none",
    "none": "each organ's own scans",
    "patient": "the patient as a whole",
}
"""What a person reads for an option's values; which there are, `DoseOptions` says."""

OFFERED: Mapping[str, tuple[str, ...]] = {
    "Activity from": ("voi", "preset"),
    "Curve": ("tac",),
    "Half-life from": ("half_life_prior",),
    "Dose engine": ("engine",),
    "SPECT to CT": ("registration",),
}
"""Title → options whose values are offered in one list."""

EXTENTS: Mapping[str, tuple[str, str, str, float]] = {
    "margin": ("Margin", "margin_mm", " mm", 0.5),
    "gaussian": ("Border's σ", "gaussian_sigma_mm", " mm", 0.5),
    "threshold": ("Threshold", "threshold_percent", " %", 1.0),
}
"""Method of volumes of interest → title, option, unit and step of its one number."""

WRITTEN: Mapping[str, str] = {
    "Half-life, h": "population_half_life_h",
    "Earlier T½, h": "earlier_half_life_h",
    "Density, g/cm³": "organ_density_g_cm3",
    "α/β, Gy": "alpha_beta_gy",
    "Repair, h": "repair_half_life_h",
}
"""Title → option that is written, as on the command line: one number, or ``liver:1.06/tumour:1.00``."""

LABEL_PX = 100


def choices(options: tuple[str, ...]) -> dict[str, tuple[str, str]]:
    """What a person reads → option and value, for all values that `DoseOptions` knows of these options."""
    values = [(o, v) for o in options for v in get_args(DoseOptions.model_fields[o].annotation) if v is not NoneType]
    spelled = [(o, v) for o, v in values for v in (get_args(v) or (v,))]
    return {"organ S values" if pair == ("engine", "organ") else WORDS.get(pair[1], pair[1]): pair for pair in spelled}


class DoseForm(Container):
    """Fields by their option's name; ``form["tac"].value`` is read and set."""

    def __init__(self) -> None:
        lists = {options[0]: _list(title, options) for title, options in OFFERED.items()}
        self._extents = {method: _number(*extent) for method, extent in EXTENTS.items()}
        written = [_line(title, option) for title, option in WRITTEN.items()]
        activity, *others = lists.values()
        super().__init__()
        self.extend([activity, *self._extents.values(), *others, *written])
        self._lists, self._written = list(lists.values()), written
        self.margins = (6, 0, 0, 0)
        for label in self.native.findChildren(QLabel):
            label.setMinimumWidth(LABEL_PX)  # magicgui measures words before napari's style makes them larger
        for field in self:
            field.native.setMinimumWidth(0)
            field.native.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
        activity.changed.connect(self._show_extent)
        self._show_extent(activity.value)

    @property
    def options(self) -> dict[str, object]:
        """What is chosen, as `DoseOptions` reads it; what is as usual is left out."""
        found: dict[str, object] = dict(field.value for field in self._lists)
        if (extent := self._extents.get(str(found.get("voi")))) is not None:
            found[extent.name] = extent.value
        return found | {line.name: text for line in self._written if (text := line.value.strip())}

    def _show_extent(self, chosen: tuple[str, str]) -> None:
        for method, field in self._extents.items():
            field.visible = chosen == ("voi", method)


def _list(title: str, options: tuple[str, ...]) -> ComboBox:
    return ComboBox(name=options[0], label=title, choices=list(choices(options).items()), tooltip=_tip(options[0]))


def _number(title: str, option: str, unit: str, step: float) -> FloatSpinBox:
    field = DoseOptions.model_fields[option]
    low, high = (next(getattr(limit, end) for limit in field.metadata if hasattr(limit, end)) for end in ("ge", "le"))
    made = FloatSpinBox(
        name=option, label=title, value=field.default, min=low, max=high, step=step, tooltip=_tip(option)
    )
    made.native.setSuffix(unit)
    made.native.setDecimals(1 if step < 1 else 0)
    return made


def _line(title: str, option: str) -> LineEdit:
    made = LineEdit(name=option, label=title, tooltip=_tip(option))
    made.native.setPlaceholderText("as usual")
    return made


def _tip(option: str) -> str:
    return DoseOptions.model_fields[option].description or ""
