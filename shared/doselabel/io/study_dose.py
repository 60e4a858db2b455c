"""A study's dose, with all that belongs to it, in one folder: what `doselabel dose` leaves, and `doselabel batch`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from doselabel.dosimetry import pipeline
from doselabel.dosimetry.options import DoseOptions
from doselabel.dosimetry.results import write_dose
from doselabel.errors import Progress, no_progress, part
from doselabel.io.report import write_report
from doselabel.labels import LabelMap
from doselabel.study import Study
from doselabel.wire import DoseResults


def dose_study(
    study: Study,
    labels: str | Path,
    options: DoseOptions,
    out: Path,
    *,
    cache: Path | None = None,
    edited_vois: Mapping[int, LabelMap] | None = None,
    report: bool = True,
    progress: Progress = no_progress,
) -> DoseResults:
    """Compute a study's doses and write them, with their report; parameters as for `pipeline.run`."""
    done = pipeline.compute(
        study,
        labels,
        options,
        cache=cache or out / ".cache",
        edited_vois=edited_vois,
        progress=part(progress, 0.0, 0.8),
    )
    write_dose(done, study, out)
    if report:
        rest = part(progress, 0.8, 1.0)
        write_report(done.results, study, done.labels, done.dose, out, truth=truth_of(study), progress=rest)
    progress("done", 1.0)
    return done.results


def truth_of(study: Study) -> Path | None:
    """What is known of a sample patient."""
    truth = study.folder / "truth" / "truth.json"
    return truth if truth.is_file() else None
