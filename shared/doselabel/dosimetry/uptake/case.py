"""What a calculation starts from: a study's files, each read once, its masks, and what was chosen. Computes nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from doselabel.alarms import Alarm
from doselabel.dosimetry.cache import Cache, fingerprint
from doselabel.dosimetry.options import DoseOptions
from doselabel.dosimetry.uptake.masks import LabelSet
from doselabel.errors import DoselabelError, VoiError
from doselabel.geometry import Volume
from doselabel.labels import LabelMap, title
from doselabel.nuclides import Nuclide
from doselabel.nuclides import nuclide as find_nuclide
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
    workers: int = 1

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
    ) -> Case:
        """A study whose files were looked into (``checked``), with the masks that shall count."""
        study = images.study
        drawn = labels.maps[study.ct]
        key = f"renumbered {fingerprint(drawn.array)} {sorted(drawn.names.items())}"
        diagnostic = store.hold(key, drawn.renumbered)
        asked, missing, notes = _organs(study, diagnostic, options)
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
