"""What `results.json` holds: the doses of one cycle, and of a course of several."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import ConfigDict, Field

from doselabel.alarms import Alarm
from doselabel.wire.base import ErrorInfo, Frozen


class DvhCurve(Frozen):
    """Dose-volume histogram and its usual numbers; dose in Gy, volume in percent.

    ``volume_percent[i]`` receives at least ``dose_gy[i]``; ``differential_percent_per_gy[i]`` is the volume per Gy
    between ``dose_gy[i]`` and the next.
    """

    dose_gy: list[float]
    volume_percent: list[float]
    differential_percent_per_gy: list[float] = Field(default_factory=list)
    d_gy: dict[str, float]
    """``{"D2": …, "D30": …, "D50": …, "D70": …, "D90": …, "D98": …}``."""
    d_sd_gy: dict[str, float] = Field(default_factory=dict)
    """Standard uncertainty of each (k = 1)."""
    v_percent: dict[str, float] = Field(default_factory=dict)
    """Volume that receives at least 1, 2, … Gy: ``{"V1": …, "V2": …}``."""
    min_gy: float
    max_gy: float
    mean_gy: float


class HalfLife(Frozen):
    """An effective half-life and its standard deviation."""

    half_life_h: float
    sd_h: float


class HalfLifePrior(HalfLife):
    """What was known of an organ's half-life before its own scans were looked at, and from what."""

    sources: dict[str, HalfLife]
    own: HalfLife | None = None
    """What its own scans alone say."""


class TimeActivity(Frozen):
    """One organ's fitted time-activity curve."""

    model: str
    parameters: dict[str, float]
    parameter_sd: dict[str, float] = Field(default_factory=dict)
    time_h: list[float]
    activity_mbq: list[float]
    activity_sd_mbq: list[float] = Field(default_factory=list)
    residual_mbq: list[float]
    curve_time_h: list[float]
    curve_activity_mbq: list[float]
    extrapolated_fraction: float
    degrees_of_freedom: int
    tia_mbq_h_by_model: dict[str, float] = Field(default_factory=dict)
    tia_mbq_h_without: list[float | None] = Field(default_factory=list)
    """TIA when each point in turn is left out; given where a point lies far off the curve."""
    half_life_prior: HalfLifePrior | None = None
    """Given where the curve weighs its points with what was known before."""


class OrganDose(Frozen):
    """All numbers of one organ. Activities are at the time of measurement; masses from the un-expanded mask."""

    volume_ml: float
    density_g_cm3: float
    mass_g: float
    activity_mbq: list[float]
    recovery_coefficient: list[float] = Field(default_factory=list)
    tia_mbq_h: float
    tia_sd_mbq_h: float
    effective_half_life_h: float
    mean_dose_gy: float
    dose_sd_gy: float
    dose_gy_by_engine: dict[str, float]
    dose_gy_per_gbq: float
    bed_gy: float | None = None
    bed_sd_gy: float | None = None
    eqd2_gy: float | None = None
    eqd2_sd_gy: float | None = None
    dvh: DvhCurve
    tac: TimeActivity
    uncertainty_percent: dict[str, float] = Field(default_factory=dict)
    warnings: list[str] = Field(default_factory=list)


class MarrowDose(Frozen):
    """An estimate of the red marrow's dose by ``blood`` samples or an ``image`` region; ``said`` is what it assumes."""

    method: Literal["blood", "image"]
    self_gy: float
    photons_gy: float
    dose_gy: float
    dose_sd_gy: float
    effective_half_life_h: float
    said: list[str]


class DoseResults(Frozen):
    """`results.json`, schema ``doselabel.results/1``."""

    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True)

    schema_: Literal["doselabel.results/1"] = Field(default="doselabel.results/1", alias="schema")
    patient_id: str
    nuclide: str
    injected_activity_mbq: float
    injection_time: datetime | None = None
    cycle: int | None = None
    """Of the therapy, counted from 1, as the study states it."""
    time_h: list[float]
    organs: dict[str, OrganDose]
    failed: dict[str, ErrorInfo] = Field(default_factory=dict)
    """Organs that could not be computed, and why; the others are as if these had not been asked for."""
    marrow: list[MarrowDose] = Field(default_factory=list)
    """Estimates of the red marrow's dose, by up to two ways; no organ, and not in any sum."""
    options: dict[str, Any]
    registration: list[dict[str, Any]] = Field(default_factory=list)
    labels_origin: str = ""
    """Where the masks came from, and whether somebody reviewed them."""
    reviewed: bool = False
    alarms: list[Alarm] = Field(default_factory=list)
    """What has a code (see `doselabel.alarms`), the gravest first."""
    warnings: list[str] = Field(default_factory=list)
    """All sentences, those of ``alarms`` among them and alarms first."""
    provenance: dict[str, Any]

    def grave(self) -> list[Alarm]:
        """What says that a number is probably wrong until somebody has looked."""
        return [alarm for alarm in self.alarms if alarm.severity == "alarm"]

    def other_warnings(self) -> list[str]:
        """The sentences that are no alarms, in their order."""
        said = {alarm.sentence for alarm in self.grave()}
        return [text for text in dict.fromkeys(self.warnings) if text not in said]


# ---- several cycles


class CourseCycle(Frozen):
    """One cycle of a course, and which results it came from."""

    name: str
    patient_id: str
    injection_time: datetime | None = None
    cycle: int | None = None
    injected_activity_mbq: float
    voi: str = ""
    results_sha256: str = ""


class Constraint(Frozen):
    """A limit on the cumulative ``dose`` or ``bed``, and what remains; nothing remains stated where no sum is."""

    kind: Literal["dose", "bed"]
    limit_gy: float
    remains_gy: float | None = None
    remains_sd_gy: float | None = None
    likely_exceeded_percent: float | None = None
    """Probability that the limit is exceeded already, for normal errors."""
    cycles_like_last: float | None = None


class OrganCourse(Frozen):
    """One organ over all cycles; lists follow the cycles, None where an organ has no dose."""

    dose_gy: list[float | None]
    dose_sd_gy: list[float | None]
    bed_gy: list[float | None]
    bed_sd_gy: list[float | None]
    mass_g: list[float | None]
    total_dose_gy: float
    total_dose_sd_gy: float
    total_bed_gy: float | None = None
    total_bed_sd_gy: float | None = None
    missing: list[str] = Field(default_factory=list)
    constraints: list[Constraint] = Field(default_factory=list)


class CourseResults(Frozen):
    """`results.json` of a course, schema ``doselabel.course/1``."""

    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True)

    schema_: Literal["doselabel.course/1"] = Field(default="doselabel.course/1", alias="schema")
    patient_id: str
    nuclide: str
    cycles: list[CourseCycle]
    organs: dict[str, OrganCourse]
    alarms: list[Alarm] = Field(default_factory=list)
    """Cycles that are missing, limits that are near, and the cycles' own alarms."""
    warnings: list[str] = Field(default_factory=list)
    created: str = ""
