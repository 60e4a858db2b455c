"""What is known of a camera: sensitivity, resolution, recovery, dead time, with uncertainties, in one small file.

A study names the file (``"camera": "camera.json"``); `doselabel calibrate` writes it. Units are in the names; other
units are converted here and nowhere else. It knows no images and no phantoms (`doselabel.calibration` does).
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pydantic
from pydantic import BaseModel, ConfigDict, Field

from doselabel.errors import CalibrationError

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Sd = Annotated[float, Field(ge=0, allow_inf_nan=False)]

COVERAGE_K = 2.0
"""Stated uncertainties "±" are ``COVERAGE_K`` standard uncertainties; the file holds standard uncertainties (k = 1)."""

MBQ_PER_UCI = 0.037

RECOVERY_FORM_SD = 0.015
"""How far the recovery curve's form lies from spheres blurred by a Gaussian between fitted points (0.5 to 30 mL)."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Sensitivity(_Frozen):
    """Counts per second and MBq, of the images the camera file is for (same reconstruction and corrections)."""

    cps_per_mbq: Positive
    sd_cps_per_mbq: Sd
    how: str = ""

    @property
    def relative_sd(self) -> float:
        """Standard uncertainty over value."""
        return self.sd_cps_per_mbq / self.cps_per_mbq

    def bq_ml_per_count(self, duration_s: float, voxel_ml: float) -> float:
        """Activity concentration that one count in a voxel stands for, after a scan of ``duration_s``."""
        return 1e6 / (self.cps_per_mbq * duration_s * voxel_ml)


class Resolution(_Frozen):
    """Full width at half maximum along the image's axes, mm."""

    fwhm_mm: tuple[Positive, Positive, Positive]
    sd_mm: tuple[Sd, Sd, Sd]
    how: str = ""


class Recovery(_Frozen):
    """Recovery of spheres, ``1 / (1 + (half_ml / volume)^exponent)``, and the points it was fitted to."""

    half_ml: Positive
    exponent: Positive
    covariance: tuple[tuple[float, float], tuple[float, float]]
    """Of ln(half_ml) and ln(exponent)."""
    volume_ml: tuple[Positive, ...]
    coefficient: tuple[float, ...]
    how: str = ""

    def at(self, volume_ml: float) -> tuple[float, float]:
        """Recovery coefficient of a sphere of a volume, and its standard uncertainty."""
        power = (self.half_ml / volume_ml) ** self.exponent
        value = 1.0 / (1.0 + power)
        slope = -(value**2) * power * self.exponent * np.array([1.0, math.log(self.half_ml / volume_ml)])
        return value, math.hypot(float(np.sqrt(slope @ np.asarray(self.covariance) @ slope)), RECOVERY_FORM_SD)


class DeadTime(_Frozen):
    """Dead time, and how the observed rate m follows the true rate n: n e^(-nτ), or n / (1 + nτ)."""

    tau_us: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    sd_us: Sd
    model: Literal["paralyzable", "nonparalyzable"]
    how: str = ""

    def factor(self, observed_cps: float) -> float:
        """True over observed count rate.

        Raises
        ------
        CalibrationError
            For a rate that the camera can't show.
        """
        x = observed_cps * self.tau_us * 1e-6
        highest = math.exp(-1) if self.model == "paralyzable" else 1.0
        if not 0 <= x < highest:
            raise CalibrationError(
                f"A count rate of {observed_cps:.4g} cps can't be observed with a dead time of {self.tau_us:g} µs; "
                f"the highest is {highest / (self.tau_us * 1e-6):.4g} cps.",
                "Check the rate (of one detector, whole window) and the camera file.",
            )
        if x == 0:
            return 1.0
        from scipy.special import lambertw  # with all of scipy.special, half a second

        return float(-lambertw(-x).real / x) if self.model == "paralyzable" else 1.0 / (1.0 - x)


class Camera(_Frozen):
    """A camera file, schema ``doselabel.camera/1``; what has not been measured is None."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    schema_: Literal["doselabel.camera/1"] = Field(default="doselabel.camera/1", alias="schema")
    name: str = ""
    nuclide: str = ""
    """Of the sensitivity, such as "Lu-177"; empty where it is not known."""
    sensitivity: Sensitivity | None = None
    resolution: Resolution | None = None
    recovery: Recovery | None = None
    dead_time: DeadTime | None = None

    @classmethod
    def load(cls, path: str | Path) -> Camera:
        """Read a camera file.

        Raises
        ------
        CalibrationError
            Naming the file and every field that can't be used.
        """
        path = Path(path)
        try:
            return cls.model_validate_json(path.read_bytes())
        except FileNotFoundError as error:
            raise CalibrationError(
                f"{path}: there is no such camera file.", "Make one with `doselabel calibrate`."
            ) from error
        except OSError as error:
            raise CalibrationError(f"{path}: can't be read ({error}).", "Give the camera file.") from error
        except pydantic.ValidationError as error:
            problems = "; ".join(
                f"field '{'.'.join(str(p) for p in e['loc'])}': {e['msg']}" for e in error.errors(include_url=False)
            )
            raise CalibrationError(
                f"{path}: is not a camera file ({problems}).", "Make it again with `doselabel calibrate`."
            ) from error

    def save(self, path: str | Path) -> None:
        """Write the file atomically."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        staged = path.with_name(f".writing-{path.name}")
        staged.write_text(self.model_dump_json(by_alias=True, indent=1, exclude_none=True), encoding="utf-8")
        staged.replace(path)


# ---- units of sensitivity

SENSITIVITY_UNITS = ("cps/MBq", "cps/kBq", "cps/Bq", "counts/min/µCi", "Bq/mL per count")


def cps_per_mbq(value: float, unit: str, *, duration_s: float | None = None, voxel_ml: float | None = None) -> float:
    """A sensitivity, or a calibration factor, in cps/MBq.

    Parameters
    ----------
    value : float
    unit : str
        One of `SENSITIVITY_UNITS`; "µ" may be written "u". "Bq/mL per count" also needs the scan's duration and the
        voxel's volume.

    Raises
    ------
    CalibrationError
        For another unit, or a value that is not above 0.

    Examples
    --------
    >>> round(cps_per_mbq(20.0, "counts/min/µCi"), 4)
    9.009
    """
    if not (math.isfinite(value) and value > 0):
        raise CalibrationError(f"A sensitivity is {value}; expected a number above 0.")
    plain = unit.replace("μ", "µ").replace("uCi", "µCi")
    if plain == "Bq/mL per count":
        if duration_s is None or voxel_ml is None:
            raise CalibrationError(
                "A factor in Bq/mL per count is of one scan duration and one voxel size, and they are not given.",
                "Give duration_s and voxel_ml.",
            )
        return 1e6 / (value * duration_s * voxel_ml)
    per_unit = {"cps/MBq": 1.0, "cps/kBq": 1e3, "cps/Bq": 1e6, "counts/min/µCi": 1 / (60 * MBQ_PER_UCI)}
    if plain not in per_unit:
        raise CalibrationError(f"'{unit}' is no unit of sensitivity.", f"Units are {', '.join(SENSITIVITY_UNITS)}.")
    return value * per_unit[plain]
