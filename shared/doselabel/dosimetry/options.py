"""What can be chosen in a dose calculation, with every default and its reason. Knows no files and computes nothing."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import pydantic
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from doselabel.errors import DoseError, DoselabelError
from doselabel.organs import region
from doselabel.schemes import SCHEMES

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Width = Annotated[float, Field(gt=0, le=50)]

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
Densities = Annotated[dict[str, Annotated[float, Field(ge=0.1, le=10)]], BeforeValidator(_by_organ)]
Ratios = Annotated[dict[str, Annotated[float, Field(ge=0.1, le=100)]], BeforeValidator(_by_organ)]
ALPHA_BETA_GY = {"left_kidney": 2.6, "right_kidney": 2.6, "tumour": 10.0}


def _listed(value: Any) -> Any:
    """Several values from what a command line gives: ``12/11/11``."""
    return value.split("/") if isinstance(value, str) else value


PRESETS: Mapping[str, Mapping[str, Any]] = {
    "ai": {"voi": "margin", "margin_mm": 3.0},
    "expert1": {"voi": "gaussian", "gaussian_sigma_mm": 3.0},
    "expert2": {"voi": "threshold"},
}
"""How the three of Nazari et al. 2021 read activities: the network's masks grown by 3 mm; masks with a Gaussian border;
a threshold on the SPECT, corrected by hand (volumes of interest from files). An option that is stated replaces a
preset's."""


class DoseOptions(BaseModel):
    """Choices of one dose calculation; the results repeat them. The one list of options: command line, server and
    plugin offer these, with these words."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    preset: Literal["ai", "expert1", "expert2"] | None = None
    """One of the paper's three ways to read activities (`PRESETS`); options that are stated replace its own."""
    label_scheme: str | None = None
    """How label maps without names are numbered: kits, btcv, totalsegmentator … (`doselabel.labels.SCHEMES`)."""
    organs: Annotated[tuple[str, ...], BeforeValidator(_listed)] | None = None
    """Organs to report, as liver/spleen; by default all in the diagnostic CT's label map that the patient has."""
    voi: Literal["auto", "gtm", "margin", "gaussian", "threshold"] = "auto"
    """Volume-of-interest method; auto is gtm when the study states the camera's resolution, else margin."""
    margin_mm: Annotated[float, Field(ge=0, le=50)] = 3.0
    """By how much margin grows a mask; 3 mm as Nazari et al. 2021 for the network's masks."""
    gaussian_sigma_mm: Annotated[float, Field(ge=0.1, le=50)] = 3.0
    """Width of gaussian's border; 3 mm is Nazari et al. 2021, expert 1."""
    gaussian_level: Annotated[float, Field(gt=0, lt=1)] | None = 0.1587
    """Level at which gaussian's border is cut; by default one σ outside the mask."""
    threshold_percent: Annotated[float, Field(ge=1, le=99)] = 42.0
    """Of the maximum near the mask, for threshold."""
    search_mm: Annotated[float, Field(ge=0, le=100)] = 10.0
    """How far from the mask threshold looks."""
    psf_fwhm_mm: Annotated[tuple[Width, Width, Width], BeforeValidator(_listed)] | None = None
    """Replaces the study's resolution: FWHM z/y/x."""
    tac: Literal["auto", "uptake", "mono", "bi", "trapezoid", "hanscheid", "population"] = "auto"
    """Time-activity model; auto is mono unless the points speak for an uptake phase (from four points on by evidence,
    with three when the first lies on the uptake limb), and hanscheid for one point."""
    uptake_limb: Literal["refuse", "exclude", "keep"] = "refuse"
    """What mono does with a first point on the uptake limb."""
    tail: Literal["effective", "physical"] = "effective"
    """How trapezoid goes on after the last point."""
    tac_weights: Literal["relative", "equal", "poisson"] = "relative"
    """Of the points in the fit; relative goes with the assumed noise, a percentage of each activity."""
    population_half_life_h: ByOrgan = Field(default_factory=dict)
    """Effective half-life that a single time point needs; one number, or organ:number/organ:number."""
    population_half_life_sd_h: ByOrgan = Field(default_factory=dict)
    """Its standard deviation between patients; 25 % where only the half-life is stated."""
    half_life_source: str = ""
    """Where these come from, for a reader ("2 earlier cycles of the patient")."""
    half_life_prior: Literal["none", "patient"] = "none"
    """Whether an organ's half-life is estimated from its own scans alone, or weighed (Bayes) with what the population,
    the patient's other organs and earlier cycles say of it: for mono-exponential curves, and for one scan."""
    half_life_shared: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """Part of the half-lives' variance between patients that a patient's organs have in common (assumed)."""
    earlier_half_life_h: ByOrgan = Field(default_factory=dict)
    """Effective half-life by the patient's earlier cycles, for half_life_prior patient: left_kidney:51/liver:66."""
    earlier_half_life_sd_h: ByOrgan = Field(default_factory=dict)
    """Its standard deviation, 10 % where none is stated; what changes to the next cycle (10 %, assumed) is added."""
    engine: Literal["voxel-s", "local", "organ"] = "voxel-s"
    """Whose dose is reported; all three are always computed."""
    density: Literal["uniform", "ct"] = "uniform"
    """Mass of tissue outside the organs: soft tissue everywhere, or by Hounsfield units."""
    tia_map: Literal["organ_curve", "voxel_fit"] = "organ_curve"
    """Inside an organ: its curve scaled by one reference SPECT, or a curve for every voxel."""
    reference: Annotated[int, Field(ge=0)] | None = None
    """Time point (0, 1, …) whose SPECT gives the distribution; by default the one nearest 24 h, where uptake is over
    and counts are still high."""
    grid: Literal["ct", "spect"] = "ct"
    """Grid of the dose map that is written: the diagnostic CT's, or the reference SPECT's."""
    registration: Literal["auto", "stored", "identity", "organ"] = "auto"
    """SPECT to CT: stored as in the study, or refined on the organs' uptake (organ); auto takes the study's transform,
    else refines, and keeps what moves the SPECT by more than smallest_shift_mm."""
    smallest_shift_mm: Annotated[float, Field(ge=0, le=50)] = 3.0
    """Below this a refinement is within its own error and the files' alignment is kept."""
    organ_density_g_cm3: Densities = Field(default_factory=dict)
    """Density of an organ or region, in place of the label table's (1.04 for a region outside it): liver:1.06. Here and
    below tumour also stands for tumour_1, tumour_2 …"""
    alpha_beta_gy: Ratios = Field(default_factory=lambda: dict(ALPHA_BETA_GY))
    """α/β by organ; kidneys 2.6 Gy (Bodey et al. 2003), tumours 10 Gy (MIRD Pamphlet 20). Others have no BED unless
    given: liver:2.5."""
    repair_half_life_h: Annotated[float, Field(ge=0.05, le=50)] = 2.8
    """Half-time of repair of sublethal damage; 2.8 h, kidney (MIRD Pamphlet 20)."""
    v_dose_gy: Annotated[tuple[Positive, ...], BeforeValidator(_listed)] = (1.0, 2.0, 5.0, 10.0, 20.0)
    """Doses at which the volume that receives at least them is reported (V1, V2 …)."""
    marrow_mass_g: Annotated[float, Field(ge=50, le=5000)] = 1170.0
    """Active marrow; 1170 g (adult man; 900 g woman, ICRP 89), for the estimate by a region marrow_l2_l4."""
    marrow_region_share: Annotated[float, Field(gt=0, le=1)] = 0.067
    """Part of the active marrow in that region (L2 to L4: Hindorf et al. 2010)."""
    marrow_to_blood: Annotated[float, Field(gt=0, le=20)] | None = None
    """Activity per g of marrow over that per mL of blood; by default 1 (peptides), or by the haematocrit."""
    hematocrit: Annotated[float, Field(gt=0, lt=0.8)] | None = None
    """Stated, marrow over blood is 0.19/(1 - haematocrit) (Sgouros 1993)."""
    body_mass_kg: Annotated[float, Field(ge=2, le=400)] = 73.0
    """For the photons of the body in the marrow (73 kg: adult man, ICRP 89)."""
    contour_sd_percent: Annotated[float, Field(ge=0, le=100)] | None = None
    """Uncertainty of contours' volumes; by default that of the network (9.6 %)."""

    @model_validator(mode="before")
    @classmethod
    def _preset(cls, content: Any) -> Any:
        if isinstance(content, dict) and content.get("preset") in PRESETS:
            return {**PRESETS[content["preset"]], **content}
        return content

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
            unknown = any(e["type"] == "extra_forbidden" for e in error.errors())
            raise DoseError(
                f"Options of the dose calculation can't be used: {problems}.",
                f"Options are {', '.join(cls.model_fields)}."
                if unknown
                else "Correct what is named; units are in the names, and `doselabel dose --help` describes each.",
            ) from error


def of_organ(values: Mapping[str, float], name: str) -> float | None:
    """The number that holds for an organ: its own, for ``tumour_2`` that of ``tumour``, or that of all."""
    return next((values[key] for key in (name, re.sub(r"_\d+$", "", name), ANY) if key in values), None)
