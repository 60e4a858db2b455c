"""What a calculation starts from: a study's files, each read once, its masks, and what was chosen. Computes nothing."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from doselabel.alarms import Alarm
from doselabel.dosimetry.cache import Cache, fingerprint
from doselabel.dosimetry.options import ANY, DoseOptions
from doselabel.dosimetry.uptake.held import Held
from doselabel.dosimetry.uptake.masks import LabelSet
from doselabel.errors import DoseError, DoselabelError, VoiError
from doselabel.geometry import Volume
from doselabel.labels import LabelMap, title
from doselabel.nuclides import Nuclide
from doselabel.nuclides import nuclide as find_nuclide
from doselabel.organs import ORGANS, SEGMENTED
from doselabel.study import Study
from doselabel.study_images import Images


@dataclass(frozen=True, eq=False)
class Case:
    """A patient to be computed; the same whichever organs are asked for.

    Attributes
    ----------
    study : Study
    images : Images
        Its files, as far as they have been read.
    ct : Volume
        Diagnostic CT.
    labels : LabelSet
        Masks by CT.
    diagnostic : LabelMap
        Those of the diagnostic CT, renumbered.
    options : DoseOptions
    store : Cache
        What was computed before.
    psf_fwhm_mm : (z, y, x) or None
        Resolution of the SPECT.
    calibration_relative_sd : float
    edited_vois : dict
        Time point → volumes of interest corrected by hand.
    findings : tuple
        What must be said of the files.
    asked : tuple of str
        Organs to compute.
    missing : dict
        Organs asked for that can't be, with the reason.
    workers : int
        Threads that may work on it at once; the results do not depend on it.
    held : Held
        How images lie to each other, as far as that is held from masks nearly the same.
    """

    study: Study
    images: Images
    ct: Volume
    labels: LabelSet
    diagnostic: LabelMap
    options: DoseOptions
    store: Cache
    nuclide: Nuclide
    psf_fwhm_mm: tuple[float, float, float] | None
    calibration_relative_sd: float
    edited_vois: Mapping[int, LabelMap]
    findings: tuple[Alarm | str, ...]
    asked: tuple[str, ...]
    missing: Mapping[str, DoselabelError]
    workers: int
    held: Held

    @classmethod
    def of(
        cls,
        images: Images,
        checked: Sequence[Alarm],
        labels: LabelSet,
        options: DoseOptions,
        store: Cache,
        edited_vois: Mapping[int, LabelMap] | None = None,
        workers: int = 1,
        held: Held | None = None,
    ) -> Case:
        """A study whose files were looked into (``checked``), with the masks that shall count."""
        study = images.study
        drawn = labels.maps[study.ct]
        key = f"renumbered {fingerprint(drawn.array)} {sorted(drawn.names.items())}"
        diagnostic = store.hold(key, drawn.renumbered)
        _refuse_half_lives(options, find_nuclide(study.nuclide))
        asked, missing, notes = _organs(study, diagnostic, options)
        notes += _meant_for_nobody(study, diagnostic, options)
        return cls(
            study=study,
            images=images,
            ct=images.read("ct", study.ct),
            labels=labels,
            diagnostic=diagnostic,
            options=options,
            store=store,
            nuclide=find_nuclide(study.nuclide),
            psf_fwhm_mm=options.psf_fwhm_mm or study.resolution_fwhm_mm,
            calibration_relative_sd=study.calibration_relative_sd,
            edited_vois=edited_vois or {},
            findings=(*checked, *labels.findings, *notes),
            asked=asked,
            missing=missing,
            workers=workers,
            held=held or Held(),
        )

    @property
    def times_h(self) -> list[float]:
        """Of the time points."""
        return [point.time_h for point in self.study.time_points]

    def mass_g(self, name: str) -> float:
        """Mass of an organ: its un-expanded mask on the diagnostic CT, times its density."""
        return self.diagnostic.volume_ml(name) * self.options.density_of(name)


def _organs(
    study: Study, diagnostic: LabelMap, options: DoseOptions
) -> tuple[tuple[str, ...], dict[str, DoselabelError], list[str]]:
    """The organs to compute, those asked for that can't be, with why, and what a reader must know."""
    present = diagnostic.present()
    warnings = [
        f"{title(name)} is said to be absent (organs_absent) but has a mask; it is left out."
        for name in present
        if name in study.organs_absent
    ]
    asked = options.organs if options.organs is not None else present
    if options.organs is None:
        warnings += [
            f"{title(name)} has no mask on the diagnostic CT, so no dose; organs_absent may say that there is none."
            for name in SEGMENTED
            if name not in (*present, *study.organs_absent)
        ]
    wanted = tuple(name for name in asked if name not in study.organs_absent)
    missing: dict[str, DoselabelError] = {
        name: VoiError(
            f"The diagnostic CT's label map has no {title(name)}; it has "
            f"{', '.join(map(title, present)) or 'no organ at all'}.",
            "Draw the organ, or leave it out of the organs asked for.",
        )
        for name in wanted
        if name not in present
    }
    if not wanted:
        raise VoiError("The diagnostic CT's label map has no organ to compute a dose for.", "Segment the CT first.")
    return wanted, missing, warnings


HALF_LIVES = ("population_half_life_h", "earlier_half_life_h")


def _refuse_half_lives(options: DoseOptions, nuclide: Nuclide) -> None:
    """Raise DoseError for a stated effective half-life that no organ can have."""
    for field in HALF_LIVES:
        for name, half_life_h in getattr(options, field).items():
            if half_life_h > nuclide.half_life_h:
                raise DoseError(
                    f"{field} of {title(name).lower() if name != ANY else 'all organs'} is {half_life_h:g} h; an "
                    f"effective half-life of {nuclide.name} is at most the physical one, {nuclide.half_life_h:.1f} h.",
                    "State the effective half-life in hours.",
                )


def _meant_for_nobody(study: Study, diagnostic: LabelMap, options: DoseOptions) -> list[str]:
    """Names in options and exclusion masks that neither the label map nor the table has: misspelt, most likely."""
    present = diagnostic.present()
    known = {ANY, *(o.name for o in ORGANS), *present, *(re.sub(r"_\d+$", "", name) for name in present)}
    said: dict[str, Mapping[str, object]] = {
        "organ_density_g_cm3": options.organ_density_g_cm3,
        "alpha_beta_gy": options.alpha_beta_gy,
        "population_half_life_h": options.population_half_life_h,
        "population_half_life_sd_h": options.population_half_life_sd_h,
        **{f"time_points[{i}].exclude": point.exclude for i, point in enumerate(study.time_points)},
    }
    strangers = {field: [name for name in names if name not in known] for field, names in said.items()}
    notes = [
        f"{field} names {', '.join(names)}, and the label map has {', '.join(present)}: it changes nothing."
        for field, names in strangers.items()
        if names
    ]
    if options.earlier_half_life_h and options.half_life_prior == "none":
        notes.append("earlier_half_life_h is stated and not used: half_life_prior is 'none'.")
    return notes
