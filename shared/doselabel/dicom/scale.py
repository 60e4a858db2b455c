"""What a SPECT's stored values mean: the factor, the unit, and the time to which decay is corrected."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Literal

import numpy as np

from doselabel.dicom.frames import Plane, planes_of
from doselabel.dicom.need import Dataset
from doselabel.dicom.series import NM, Series
from doselabel.dicom.timing import moment, started
from doselabel.errors import DicomError

Unit = Literal["Bq/mL", "counts", "counts/s"]
DecayTo = Literal["none", "injection", "scan_start"]

_UNITS: dict[str, tuple[Unit, float]] = {
    "bqml": ("Bq/mL", 1.0), "bq/ml": ("Bq/mL", 1.0), "bq/cc": ("Bq/mL", 1.0), "bq/cm3": ("Bq/mL", 1.0),
    "kbq/ml": ("Bq/mL", 1e3), "kbqml": ("Bq/mL", 1e3), "mbq/ml": ("Bq/mL", 1e6), "mbqml": ("Bq/mL", 1e6),
    "cnts": ("counts", 1.0), "counts": ("counts", 1.0), "{counts}": ("counts", 1.0), "count": ("counts", 1.0),
    "cps": ("counts/s", 1.0), "{counts}/s": ("counts/s", 1.0), "counts/s": ("counts/s", 1.0),
    "counts/sec": ("counts/s", 1.0),
}  # fmt: skip
_USELESS = {
    "propcnts": "proportional to counts (PROPCNTS), by a factor nobody states",
    "propcps": "proportional to counts per second (PROPCPS), by a factor nobody states",
    "gml": "standardised uptake values (SUV, g/mL)",
    "g/ml": "standardised uptake values (SUV, g/mL)",
    "cm2ml": "standardised uptake values by body surface (SUV)",
}
_SAME_TIME = timedelta(minutes=1)
_PHILIPS_ACTIVITY = (0x7053, 0x1009)
"""Philips PET: factor from counts to Bq/mL; 0 when there is none."""


@dataclass(frozen=True)
class Scale:
    """How stored values are read; ``unit`` None when the file does not say.

    ``mapped`` is a slope and intercept of a real-world value mapping, which counts instead of the rescale slope.
    """

    unit: Unit | None
    factor: float = 1.0
    mapped: tuple[float, float] | None = None
    last_mapped: float | None = None
    source: str = ""

    def values(self, plane: Plane, stored: np.ndarray) -> np.ndarray:
        """Stored values of a plane in `unit`."""
        if self.mapped is not None:
            if self.last_mapped is not None and stored.max(initial=0) > self.last_mapped:
                raise DicomError(
                    f"{plane.instance.name}: stored values up to {stored.max()} lie beyond {self.last_mapped:g}, the "
                    "last that its real-world value mapping knows.",
                    "Export it again.",
                )
            slope, intercept = self.mapped
        else:
            slope, intercept = 1.0 if plane.slope is None else plane.slope, plane.intercept
        return (stored.astype(np.float64) * slope + intercept) * self.factor

    def stated(self, unit: Unit) -> Scale:
        """The same with the unit that a user states."""
        return replace(self, unit=unit, source=f"{unit} as stated")


def scale_of(series: Series) -> Scale:
    """What a SPECT's values are.

    Raises
    ------
    DicomError
        When they are of a unit that no dose can be computed from, or by a table.
    """
    header, where = series.head, series.words()
    mapping = _mapping(series)
    if mapping is not None:
        return mapping
    text = str(header.get("Units") or "").strip()
    if not text:
        slope = header.get("RescaleSlope")
        said = f"RescaleSlope {slope}, no unit" if slope is not None else "neither unit nor scale"
        return Scale(None, source=said)
    unit, factor = _unit(text, where)
    philips = header.get(_PHILIPS_ACTIVITY)
    if unit == "counts" and philips is not None and (vendor := _positive(philips.value)):
        return Scale("Bq/mL", vendor, source="CNTS with Philips' factor (7053,1009)")
    if str(header.SOPClassUID) != NM and any(plane.slope is None for plane in planes_of(series)):
        raise DicomError(f"{where}: states {text} and no RescaleSlope.", "Export it with its scale.")
    return Scale(unit, factor, source=f"{text}, by its rescale slope")


def _mapping(series: Series) -> Scale | None:
    """The real-world value mapping in Bq/mL, or the one there is; all instances must agree."""
    found: list[Scale] = []
    for items in (items for instance in series.instances for items in _mappings(instance.header)):
        own = [_mapped(item, series.words()) for item in items]
        known = [s for s in own if s is not None]
        if not known:
            return None
        found.append(min(known, key=lambda s: ("Bq/mL", "counts", "counts/s").index(s.unit or "counts")))
    if len({(s.unit, s.factor, s.mapped) for s in found}) > 1:
        if all(i.text("Units") for i in series.instances):
            return None  # slice by slice the rescale slope, whose unit is stated, says the same
        raise DicomError(
            f"{series.words()}: its slices have different real-world value mappings and no unit beside them.",
            "Export it with RescaleSlope and Units.",
        )
    return found[0] if found else None


def _mappings(header: Dataset) -> list[list[Dataset]]:
    """Of each frame that has its own, else of the whole object."""
    groups = header.get("SharedFunctionalGroupsSequence") or []
    whole = [item for place in (header, *groups) for item in place.get("RealWorldValueMappingSequence") or []]
    frames = header.get("PerFrameFunctionalGroupsSequence") or []
    return [[*(frame.get("RealWorldValueMappingSequence") or []), *whole] for frame in frames] or [whole]


def _mapped(item: Dataset, where: str) -> Scale | None:
    codes = item.get("MeasurementUnitsCodeSequence") or []
    text = str(codes[0].get("CodeValue") or "") if codes else str(item.get("LUTLabel") or "")
    if not text or text == "1":
        return None
    slope = _positive(item.get("RealWorldValueSlope"))
    plain = _plain(text)
    if slope is None:
        if "RealWorldValueLUTData" in item and plain in _UNITS:
            raise DicomError(f"{where}: its scale is a table (RealWorldValueLUTData).", "Export it with a slope.")
        return None
    if plain not in _UNITS:
        return None
    unit, factor = _UNITS[plain]
    intercept = float(item.get("RealWorldValueIntercept") or 0.0)
    last = item.get("DoubleFloatRealWorldValueLastValueMapped") or item.get("RealWorldValueLastValueMapped")
    last_mapped = float(last) if isinstance(last, int | float) and last > 0 else None
    return Scale(unit, factor, (slope, intercept), last_mapped, f"{text}, by its real-world value mapping")


def _plain(text: str) -> str:
    return re.sub(r"\s", "", text).lower()


def _unit(text: str, where: str) -> tuple[Unit, float]:
    plain = _plain(text)
    if plain in _UNITS:
        return _UNITS[plain]
    raise DicomError(
        f"{where}: its values are {_USELESS.get(plain, f'in {text!r}')}; expected Bq/mL, counts or counts per second.",
        "Export the reconstruction in Bq/mL (BQML), or in counts and give a camera file.",
    )


def decay_of(series: Series) -> DecayTo | None:
    """To which time its values are corrected for decay; None when it does not say.

    Raises
    ------
    DicomError
        For a word that the standard does not know, or a time that is neither.
    """
    text = str(series.head.get("DecayCorrection") or "").strip().upper()
    if not text and str(series.head.get("DecayCorrected") or "").upper() == "NO":
        text = "NONE"
    at = moment(series.head.get("DecayCorrectionDateTime"))
    if not text and at is not None:
        return _decay_to(series, at)
    known: dict[str, DecayTo] = {"NONE": "none", "START": "scan_start", "ADMIN": "injection"}
    if text and text not in known:
        raise DicomError(
            f"{series.words()}: DecayCorrection is '{text}'; expected NONE, START or ADMIN.",
            "State it: --decay-corrected-to none|scan_start|injection.",
        )
    return known.get(text)


def _decay_to(series: Series, at: datetime) -> DecayTo | None:
    """Which of the known times an enhanced PET means by a date and time."""
    drugs = series.head.get("RadiopharmaceuticalInformationSequence") or []
    injected = moment(drugs[0].get("RadiopharmaceuticalStartDateTime")) if drugs else None
    times: list[tuple[DecayTo, datetime | None]] = [("scan_start", started(series)), ("injection", injected)]
    for kind, when in times:
        if when is not None and abs(at - when) <= _SAME_TIME:
            return kind
    if injected is None:
        return None
    raise DicomError(
        f"{series.words()}: is corrected for decay to {at:%Y-%m-%d %H:%M}, neither the start of the scan nor the "
        "injection.",
        "Export it corrected to one of them, or not at all.",
    )


def _positive(value: object) -> float | None:
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return number if np.isfinite(number) and number > 0 else None
