"""What can be chosen in a dose calculation, with every default and its reason. Knows no files and computes nothing."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import pydantic
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator

from doselabel.errors import DoseError, DoselabelError
from doselabel.labels import SCHEMES, region

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


ANY = "*"
"""Stands for every organ that has no number of its own."""


def _by_organ(value: Any) -> Any:
    """Numbers by organ from what a command line gives: ``liver:1.06``, several in a list, or one number for all."""
    if isinstance(value, str):
        value = value.split("/")
    if isinstance(value, int | float) or (isinstance(value, list) and len(value) == 1 and ":" not in str(value[0])):
        value = {ANY: value[0] if isinstance(value, list) else value}
    if isinstance(value, list | tuple):
        pairs = [str(item).partition(":") for item in value]
        if not all(colon for _, colon, _ in pairs):
            raise ValueError("expected organ:number, several of them as organ:number/organ:number")
        value = {name: number for name, _, number in pairs}
    if isinstance(value, dict):
        try:
            value = {name if name == ANY else region(name).name: number for name, number in value.items()}
        except DoselabelError as error:
            raise ValueError(str(error)) from error
    return value


ByOrgan = Annotated[dict[str, Positive], BeforeValidator(_by_organ)]
ALPHA_BETA_GY = {"left_kidney": 2.6, "right_kidney": 2.6, "tumour": 10.0}


class DoseOptions(BaseModel):
    """Choices of one dose calculation; the results repeat them.

    Attributes
    ----------
    label_scheme : str, optional
        How the label maps' values are numbered when the maps carry no names (`doselabel.labels.SCHEMES`).
    organs : tuple of str, optional
        Organs to report; by default all in the diagnostic CT's label map that the patient is not said to lack.
    voi : {"auto", "gtm", "margin", "gaussian", "threshold"}
        Volume-of-interest method. ``auto`` is `gtm` when the study states the camera's resolution, else `margin`.
    margin_mm : float
        3 mm as Nazari et al. 2021 use for the network's masks.
    gaussian_sigma_mm, gaussian_level, threshold_percent, search_mm
        As in `doselabel.dosimetry.uptake.voi.measure`; σ 3 mm is Nazari et al. 2021, expert 1.
    psf_fwhm_mm : (z, y, x), optional
        Replaces the study's resolution, FWHM in mm.
    tac : {"auto", "uptake", "mono", "bi", "trapezoid", "hanscheid", "population"}
        Time-activity model. ``auto`` is `mono` unless the points speak for an uptake phase (from four points on by
        evidence, see `curves`; with three when the first lies on the uptake limb), `hanscheid` for one point.
    uptake_limb, tail
        As in `doselabel.dosimetry.curves.fit.fit`.
    tac_weights : {"relative", "equal", "poisson"}
        Of the points in the fit. ``relative`` goes with the assumed noise, a percentage of each activity.
    population_half_life_h, population_half_life_sd_h : float, or by organ
        Effective half-life and its standard deviation between patients (25 % where only the former is stated), which
        a single time point needs.
    half_life_source : str
        Where these come from, for a reader ("2 earlier cycles of the patient").
    engine : {"voxel-s", "local", "organ"}
        Whose dose is reported; all three are always computed.
    density : {"uniform", "ct"}
        Mass of tissue outside the organs: soft tissue everywhere, or by Hounsfield units. Organs always have the
        density of the label table.
    tia_map : {"organ_curve", "voxel_fit"}
        Inside an organ: the organ's curve scaled by one reference SPECT, or a curve for every voxel.
    reference : int, optional
        Time point (0, 1, …) whose SPECT gives the distribution; by default the one nearest 24 h, where uptake is
        over and counts are still high.
    grid : {"ct", "spect"}
        Grid of the dose map that is written: the diagnostic CT's, or the reference SPECT's.
    registration : {"auto", "stored", "identity", "organ"}
        SPECT to CT. ``stored``: as in the study. ``organ``: refined on the organs' uptake. ``auto``: stored if the
        study has a transform, else refined, and the result taken when it moves the SPECT by more than
        ``smallest_shift_mm``. CTs that have no masks of their own get the diagnostic CT's by rigid registration.
    smallest_shift_mm : float
        Below this a refinement is within its own error and the files' alignment is kept.
    organ_density_g_cm3 : dict
        Organ or region → density that replaces the label table's (1.04 for a region outside it). Here and below,
        "tumour" also stands for ``tumour_1``, ``tumour_2`` …; as text, ``liver:1.06/tumour:1.00``.
    alpha_beta_gy : dict
        Organ → α/β; kidneys 2.6 Gy (dosimetry design; Bodey et al. 2003), tumours 10 Gy (MIRD Pamphlet 20, early
        responding tissue). Others have no BED unless given.
    repair_half_life_h : float
        2.8 h, kidney.
    contour_sd_percent : float, optional
        Uncertainty of contours; by default that of the network (`uncertainty.CONTOUR_RELATIVE_SD`).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    label_scheme: str | None = None
    organs: tuple[str, ...] | None = None
    voi: Literal["auto", "gtm", "margin", "gaussian", "threshold"] = "auto"
    margin_mm: Annotated[float, Field(ge=0, le=50)] = 3.0
    gaussian_sigma_mm: Annotated[float, Field(ge=0.1, le=50)] = 3.0
    gaussian_level: Annotated[float, Field(gt=0, lt=1)] | None = 0.1587
    threshold_percent: Annotated[float, Field(ge=1, le=99)] = 42.0
    search_mm: Annotated[float, Field(ge=0, le=100)] = 10.0
    psf_fwhm_mm: tuple[Positive, Positive, Positive] | None = None
    tac: Literal["auto", "uptake", "mono", "bi", "trapezoid", "hanscheid", "population"] = "auto"
    uptake_limb: Literal["refuse", "exclude", "keep"] = "refuse"
    tail: Literal["effective", "physical"] = "effective"
    tac_weights: Literal["relative", "equal", "poisson"] = "relative"
    population_half_life_h: ByOrgan = Field(default_factory=dict)
    population_half_life_sd_h: ByOrgan = Field(default_factory=dict)
    half_life_source: str = ""
    engine: Literal["voxel-s", "local", "organ"] = "voxel-s"
    density: Literal["uniform", "ct"] = "uniform"
    tia_map: Literal["organ_curve", "voxel_fit"] = "organ_curve"
    reference: Annotated[int, Field(ge=0)] | None = None
    grid: Literal["ct", "spect"] = "ct"
    registration: Literal["auto", "stored", "identity", "organ"] = "auto"
    smallest_shift_mm: Annotated[float, Field(ge=0, le=50)] = 3.0
    organ_density_g_cm3: ByOrgan = Field(default_factory=dict)
    alpha_beta_gy: ByOrgan = Field(default_factory=lambda: dict(ALPHA_BETA_GY))
    repair_half_life_h: Positive = 2.8
    contour_sd_percent: Annotated[float, Field(ge=0, le=100)] | None = None

    @field_validator("label_scheme")
    @classmethod
    def _known_scheme(cls, value: str | None) -> str | None:
        if value is not None and value not in SCHEMES:
            raise ValueError(f"expected one of {', '.join(SCHEMES)}")
        return value

    @field_validator("organs")
    @classmethod
    def _known(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        try:
            return None if value is None else tuple(dict.fromkeys(region(name).name for name in value))
        except DoselabelError as error:
            raise ValueError(str(error)) from error

    @field_validator("alpha_beta_gy")
    @classmethod
    def _beside_the_defaults(cls, value: dict[str, float]) -> dict[str, float]:
        return {**ALPHA_BETA_GY, **value}

    def density_of(self, name: str) -> float:
        """Density of an organ or region, g/cm³."""
        stated = of_organ(self.organ_density_g_cm3, name)
        return region(name).density_g_cm3 if stated is None else stated

    @classmethod
    def read(cls, content: dict[str, Any]) -> DoseOptions:
        """Options from what a command line or a request gives.

        Raises
        ------
        DoseError
            Naming every option that is unknown or out of range.
        """
        try:
            return cls.model_validate(content)
        except pydantic.ValidationError as error:
            problems = "; ".join(
                f"'{'.'.join(str(p) for p in e['loc'])}': {e['msg']} (found {e.get('input')!r})"
                for e in error.errors(include_url=False)
            )
            raise DoseError(
                f"Options of the dose calculation can't be used: {problems}.",
                f"Options are {', '.join(cls.model_fields)}.",
            ) from error


def of_organ(values: Mapping[str, float], name: str) -> float | None:
    """The number that holds for an organ: its own, for ``tumour_2`` that of ``tumour``, or that of all."""
    return next((values[key] for key in (name, re.sub(r"_\d+$", "", name), ANY) if key in values), None)
