"""Parts of a study's manifest: a time point, how its SPECT is brought onto its CT, and what a user states of a file."""

from __future__ import annotations

from datetime import date
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from doselabel.errors import DoselabelError
from doselabel.geometry import StatedGrid, check_rigid
from doselabel.organs import ALL_ORGANS, region

LONGEST_H = 2000.0

Matrix = tuple[tuple[float, float, float, float], ...]
IDENTITY: Matrix = tuple(tuple(float(i == j) for j in range(4)) for i in range(4))  # type: ignore[misc]


class Strict(BaseModel):
    """No field that is not known, and no true or false: nothing in a study is answered by yes or no."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True)

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth(cls, value: Any) -> Any:
        if isinstance(value, bool):
            raise ValueError("expected a number or text")
        return value


class Registration(Strict):
    """How a time point's SPECT is brought onto its CT.

    ``matrix`` maps LPS points (mm) of the SPECT to LPS points of the time point's CT.
    """

    matrix: Matrix = IDENTITY
    method: str = "identity"
    comment: str = ""

    @field_validator("matrix")
    @classmethod
    def _rigid(cls, matrix: Matrix) -> Matrix:
        if matrix == IDENTITY:  # nearly all are
            return matrix
        try:
            check_rigid(np.asarray(matrix))
        except (DoselabelError, ValueError) as error:
            raise ValueError(str(error)) from error
        return matrix


def _plain(name: str) -> str:
    """An organ's or region's name as label maps have it; what can't be one is refused where a study is examined."""
    try:
        return name if name == ALL_ORGANS else region(name).name
    except DoselabelError:
        return name


class TimePoint(Strict):
    """One SPECT/CT after injection.

    Attributes
    ----------
    time_h : float
        Hours after injection at the middle of the SPECT.
    ct, spect : str
        File names inside the study folder. The SPECT holds Bq/mL (see `Study.decay_corrected_to`).
    exclude : dict
        Organ name (or "*" for all) → mask file on the CT's grid: what is not to be counted, such as urine in the
        renal pelvis.
    spect_to_ct : Registration
        Brings the SPECT onto the CT.
    scan_duration_min : float, optional
        From the first to the last projection, as the camera was calibrated with; a SPECT in counts, or corrected to
        its scan's start, needs it.
    count_rate_cps : float, optional
        Observed count rate of one detector; corrects for the camera file's dead time.
    """

    time_h: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    ct: str
    spect: str
    exclude: dict[str, str] = Field(default_factory=dict)
    spect_to_ct: Registration = Field(default_factory=Registration)
    scan_duration_min: Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False)] | None = None
    count_rate_cps: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None

    @field_validator("exclude")
    @classmethod
    def _plain_names(cls, value: dict[str, str]) -> dict[str, str]:
        plain = {name: _plain(name) for name in value}
        if len(set(plain.values())) < len(plain):
            raise ValueError(f"names one organ twice: {', '.join(value)}; give it one mask")
        return {plain[name]: file for name, file in value.items()}

    @field_validator("time_h")
    @classmethod
    def _in_hours(cls, value: float) -> float:
        if value > LONGEST_H:
            raise ValueError(f"expected hours after injection, at most {LONGEST_H:g}; is it in minutes?")
        return value


class Reporting(Strict):
    """What a report states and no calculation needs (EANM guidance on dosimetry reporting, 2024); all of it optional.

    Attributes
    ----------
    radiopharmaceutical : str
        Such as "177Lu-DOTATATE".
    cycle : int, optional
        Counted from 1.
    residual_activity_mbq : float, optional
        Left in syringe and lines; not part of `Study.injected_activity_mbq`.
    camera, collimator : str
    matrix : str
        Of the acquisition; without it, the files'.
    reconstruction, corrections : str
        Algorithm, iterations, filter; attenuation, scatter, collimator.
    calibration : str
        How and with what.
    calibration_date : date, optional
    dead_time : str
        What was done about it; a camera file with a dead time says it itself.
    responsible : str
        Who answers for the calculation.
    """

    radiopharmaceutical: str = ""
    cycle: Annotated[int, Field(ge=1, le=100)] | None = None
    residual_activity_mbq: Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)] | None = None
    camera: str = ""
    collimator: str = ""
    matrix: str = ""
    reconstruction: str = ""
    corrections: str = ""
    calibration: str = ""
    calibration_date: date | None = None
    dead_time: str = ""
    responsible: str = ""


class StatedPlace(Strict):
    """What the user states of an image that does not say where its voxels are (`doselabel.grid.StatedGrid`)."""

    orientation: str
    spacing_mm: tuple[float, float, float]

    @model_validator(mode="after")
    def _sensible(self) -> StatedPlace:
        try:
            StatedGrid(self.orientation, self.spacing_mm)
        except DoselabelError as error:
            raise ValueError(str(error)) from error
        return self
