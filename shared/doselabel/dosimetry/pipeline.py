"""From a study and its masks to organ doses: masks → registration → activities → curves → dose map → results.

The one place that knows the order of the steps. Each step is another module's; what they are, and why, stands there.

Frames. A time point's masks, SPECT and exclusion masks meet in the frame of that time point's CT. Masses, the dose
map and the histograms are in the frame of the diagnostic CT; the reference SPECT is brought there organ by organ, by
the shift between the organ's mask on its own CT and on the diagnostic one, so that breathing between the two does not
move dose out of the organ.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from doselabel.alarms import Alarm, finding, told
from doselabel.dosimetry.alignment import placement
from doselabel.dosimetry.cache import Cache
from doselabel.dosimetry.curves import choice
from doselabel.dosimetry.curves.fit import TacFit
from doselabel.dosimetry.curves.voxel import fit_voxels
from doselabel.dosimetry.dose import tia_map
from doselabel.dosimetry.dose.dose_map import dose_map
from doselabel.dosimetry.dose.engines import SOFT_TISSUE_G_CM3
from doselabel.dosimetry.failures import Failures, with_the_rest
from doselabel.dosimetry.options import DoseOptions
from doselabel.dosimetry.organ_results import Patient, organ_result, provenance
from doselabel.dosimetry.physics.kernels import voxel_s_kernel
from doselabel.dosimetry.results import DoseComputation, write_dose
from doselabel.dosimetry.uptake import activity
from doselabel.dosimetry.uptake.consistency import time_point_off
from doselabel.dosimetry.uptake.frames import Frames, organs_of
from doselabel.dosimetry.uptake.masks import LabelSet, resolve
from doselabel.errors import DoseError, FitError, Progress, no_progress
from doselabel.geometry import Geometry, Volume, placed, resample
from doselabel.labels import LabelMap, title
from doselabel.nuclides import nuclide as find_nuclide
from doselabel.reading import read_field
from doselabel.study import Study
from doselabel.wire import DoseResults, ErrorInfo

REFERENCE_TIME_H = 24.0


def run(
    study: Study,
    labels: str | Path,
    options: DoseOptions | None = None,
    *,
    out: str | Path | None = None,
    cache: str | Path | None = None,
    edited_vois: Mapping[int, LabelMap] | None = None,
    progress: Progress = no_progress,
) -> DoseResults:
    """Compute a study's doses and write them.

    Parameters
    ----------
    study : Study
    labels : str or Path
        Folder of label maps named like the CTs, file of the diagnostic CT's map, or a tag (see `masks.resolve`).
    options : DoseOptions, optional
    out : path, optional
        Folder for ``results.json``, ``dose.nii.gz`` (Gy, float32), ``masks_<CT>.nii.gz`` (the masks used) and
        ``voi_tp1.nii.gz`` … (the volumes of interest on each SPECT). Nothing is written without it.
    cache : path, optional
        Folder of intermediate results: a second run after a label edit computes only what changed.
    edited_vois : dict, optional
        Time point (0, 1, …) → volumes of interest corrected by hand, on any grid in the SPECT's frame; the organs in
        it replace the method's (not for `gtm`).
    progress : Progress

    Returns
    -------
    DoseResults

    Raises
    ------
    DoselabelError
        Of the kind of the step that failed; the message says what was found, the hint what to do.
    """
    done = compute(study, labels, options, cache=cache, edited_vois=edited_vois, progress=progress)
    if out is not None:
        progress("writing", 0.95)
        write_dose(done, study, out)
    progress("done", 1.0)
    return done.results


def compute(
    study: Study,
    labels: str | Path,
    options: DoseOptions | None = None,
    *,
    cache: str | Path | None = None,
    edited_vois: Mapping[int, LabelMap] | None = None,
    progress: Progress = no_progress,
) -> DoseComputation:
    """Compute a study's doses; parameters as for `run`. An organ that can't be computed does not stop the others."""
    options = options or DoseOptions()
    progress("reading", 0.0)
    checked = study.check()
    ct = read_field(study, "ct", study.ct)
    label_set = resolve(study, labels, options.label_scheme, ct=ct)
    diagnostic = label_set.maps[study.ct].renumbered()
    asked, missing, notes = organs_of(study, diagnostic, options)
    inputs = _Inputs(study, label_set, ct, diagnostic, options, Path(cache) if cache is not None else None, edited_vois)
    findings: list[Alarm | str] = [*checked, *label_set.findings, *notes]
    forward = _never_back(progress)
    done, failed = with_the_rest(asked, missing, lambda organs: _of_organs(inputs, organs, findings, forward))
    if not failed:
        return done
    reasons = {name: ErrorInfo(code=e.code, message=e.message, hint=e.hint) for name, e in failed.items()}
    lost = [finding("organ-failed", f"{title(n)} could not be computed: {e}", organ=n) for n, e in failed.items()]
    alarms, sentences = told([*lost, *done.results.alarms, *done.results.warnings])
    results = done.results.model_copy(update={"failed": reasons, "alarms": alarms, "warnings": sentences})
    return replace(done, results=results)


@dataclass(frozen=True, eq=False)
class _Inputs:
    """What a calculation starts from, the same whichever organs are asked for."""

    study: Study
    label_set: LabelSet
    ct: Volume
    diagnostic: LabelMap
    options: DoseOptions
    cache: Path | None
    edited_vois: Mapping[int, LabelMap] | None


def _never_back(progress: Progress) -> Progress:
    """Progress that stands still while something is done again."""
    furthest = 0.0

    def report(stage: str, fraction: float) -> None:
        nonlocal furthest
        furthest = max(furthest, fraction)
        progress(stage, furthest)

    return report


def _of_organs(
    inputs: _Inputs, organs: tuple[str, ...], findings: list[Alarm | str], progress: Progress
) -> DoseComputation:
    """The chain for the given organs; raises OrganFailures for those that can't be computed."""
    study, label_set, ct, diagnostic = inputs.study, inputs.label_set, inputs.ct, inputs.diagnostic
    options, edited_vois, store = inputs.options, inputs.edited_vois, Cache(inputs.cache)
    nuclide = find_nuclide(study.nuclide)
    psf = options.psf_fwhm_mm or study.resolution_fwhm_mm
    frames = Frames(study, ct, diagnostic, label_set, organs, store)

    failures, warnings = Failures(), list(findings)
    scans, placements, measured = [], [], []
    count = len(study.time_points)
    for i, point in enumerate(study.time_points):

        def step(name: str, part: float, i: int = i) -> None:
            progress(f"time point {i + 1} of {count}: {name}", 0.02 + 0.6 * (i + part) / count)

        step("masks", 0.0)
        label_map, notes, lost = frames.masks(i)
        warnings += notes
        failures.add(lost)
        step("registration", 0.2)
        scan = activity.read_scan(study, i, label_map)
        placed_there = activity.align(scan, options, psf, store)
        aligned = placed_there.alignment
        step("organ activities", 0.6)
        measurable = tuple(name for name in organs if name not in lost)
        if not measurable:
            continue
        found = activity.measure(
            scan, aligned.matrix, measurable, options, psf, store, _edited(edited_vois, i, aligned.matrix)
        )
        failures.add(found.failed)
        warnings += [f"Time point {i + 1} ({point.time_h:g} h): {text}" for text in found.warnings]
        scans.append(scan)
        placements.append(placed_there)
        measured.append(found)

    failures.settle()
    times = [p.time_h for p in study.time_points]
    placements = placement.compared(placements, times)
    alignments = [p.alignment for p in placements]
    warnings += [alarm for p in placements for alarm in p.findings]
    warnings += time_point_off(times, {name: [m.activity_mbq[name] for m in measured] for name in organs})

    progress("time-activity curves", 0.64)
    fits = {}
    for name in organs:
        with failures.of(name):
            activities = [m.activity_mbq[name] for m in measured]
            noise = [
                np.hypot(m.errors[name].counts, m.errors[name].place(a.sd_mm))
                for m, a in zip(measured, alignments, strict=True)
            ]
            fits[name] = choice.fit_organ(name, times, activities, nuclide.name, options, noise)
    failures.settle()
    rest_tia, rest_model = choice.fit_rest(times, [m.rest_mbq for m in measured], nuclide.name, options)

    progress("activity map", 0.68)
    reference = _reference(times, options)
    grid = tia_map.DoseGrid.around(ct, diagnostic, organs)
    sources = {
        i: _source(scans[i], alignments[i].matrix, measured[i], frames.to_diagnostic(i))
        for i in (range(count) if options.tia_map == "voxel_fit" else [reference])
    }
    tia = {name: fits[name].fit.tia_mbq_h for name in organs}
    rest_h = rest_tia / measured[reference].rest_mbq if measured[reference].rest_mbq > 0 else 0.0
    shares = {}
    for name in organs:
        with failures.of(name):
            shares[name] = _shares(grid, sources, reference, name, measured, times, fits[name].fit, options)
    failures.settle()
    tia_mbq_h = tia_map.tia_map(grid, shares, tia, sources[reference], rest_h)

    progress("dose kernel", 0.72)
    extent = [n * s for n, s in zip(grid.geometry.shape, grid.geometry.spacing_mm, strict=True)]
    kernel = voxel_s_kernel(nuclide, grid.geometry.spacing_mm, density_g_cm3=SOFT_TISSUE_G_CM3, extent_mm=extent)
    progress("dose map", 0.8)
    masses = {name: diagnostic.volume_ml(name) * options.density_of(name) for name in organs}
    dose_gy, by_engine = dose_map(grid, tia_mbq_h, tia, masses, kernel, options)

    progress("organ doses", 0.9)
    own_masks = [p.ct != study.ct and p.ct in label_set.maps for p in study.time_points]
    places = [a.sd_mm for a in alignments]
    doubts = [p.relative_sd for p in placements]
    patient = Patient(study, diagnostic, ct.geometry, measured, places, doubts, own_masks, psf, options)
    results = {}
    for name in organs:
        with failures.of(name):
            voxels_gy = dose_gy[grid.mask(name)]
            results[name] = organ_result(name, patient, masses[name], fits[name], by_engine[name], voxels_gy)
            warnings += [far.finding(name)] if (far := fits[name].far) else []
            warnings += [f"{title(name)}: {text}" for text in results[name].warnings]
    failures.settle()
    means = {name: results[name].mean_dose_gy for name in organs}
    written = tia_map.on_ct(grid, dose_gy, diagnostic, means)
    if options.grid == "spect":
        onto = placed(scans[reference].spect.geometry, alignments[reference].matrix)
        back = np.linalg.inv(frames.to_diagnostic(reference)[""])
        there = resample(written, onto, transform=back).array
        written = Volume(there, scans[reference].spect.geometry)
    alarms, sentences = told(warnings)
    total = DoseResults(
        patient_id=study.patient_id,
        nuclide=nuclide.name,
        injected_activity_mbq=study.injected_activity_mbq,
        injection_time=study.injection_time,
        time_h=times,
        organs=results,
        options=options.model_dump(mode="json")
        | {
            "voi": activity.voi_method(options, psf),
            "psf_fwhm_mm": None if psf is None else list(psf),
            "reference": reference,
        },
        registration=[
            {
                "time_point": i,
                "method": a.method,
                "shift_mm": a.shift_mm,
                "merit_before": a.agreement_before,
                "merit_after": a.agreement_after,
                "sd_mm": a.sd_mm,
                "matrix": a.matrix.tolist(),
                "ct_to_diagnostic": frames.to_diagnostic(i)[""].tolist() if frames.known(i) else None,
                "center_mm": _centre(scans[i].spect.geometry),
            }
            for i, a in enumerate(alignments)
        ],
        labels_origin=label_set.origin,
        reviewed=label_set.reviewed,
        alarms=alarms,
        warnings=sentences,
        provenance=provenance(study, label_set, kernel, grid, rest_tia, rest_model, options, store),
    )
    used = {study.ct: diagnostic} | {scan.point.ct: scan.labels for scan in scans}
    vois = [_voi_map(m, s, organs) for m, s in zip(measured, scans, strict=True)]
    return DoseComputation(total, written, used, vois)


def _edited(edited: Mapping[int, LabelMap] | None, index: int, matrix: np.ndarray) -> dict[str, Volume] | None:
    if not edited or index not in edited:
        return None
    drawn = edited[index]
    grid = placed(drawn.geometry, matrix)
    return {name: Volume(drawn.mask(name).astype(np.uint8), grid) for name in drawn.present()}


# ---- from activity to dose


def _reference(times: list[float], options: DoseOptions) -> int:
    if options.reference is None:
        return int(np.argmin(np.abs(np.asarray(times) - REFERENCE_TIME_H)))
    if options.reference >= len(times):
        raise DoseError(
            f"The reference time point is {options.reference}; the study has {len(times)}, counted from 0.",
            "Choose one of the study's time points.",
        )
    return options.reference


def _source(
    scan: activity.Scan,
    matrix: np.ndarray,
    found: activity.ScanActivity,
    to_diagnostic: Mapping[str, np.ndarray],
) -> tia_map.Source:
    box = activity.placed_box(scan.spect.geometry, found.box, matrix)
    return tia_map.Source(
        shape=Volume(found.shape, box),
        rest=tia_map.in_frame(found.rest(scan.spect), matrix),
        to_diagnostic=to_diagnostic,
    )


def _shares(
    grid: tia_map.DoseGrid,
    sources: Mapping[int, tia_map.Source],
    reference: int,
    name: str,
    measured: list[activity.ScanActivity],
    times: list[float],
    fitted: TacFit,
    options: DoseOptions,
) -> NDArray[np.float64]:
    """Share of an organ's time-integrated activity in each of its voxels."""
    if options.tia_map == "organ_curve":
        return tia_map.organ_shares(grid, sources[reference], name)
    if fitted.model not in ("uptake", "mono"):
        raise FitError(
            f"Voxel-wise fits know the models 'uptake' and 'mono'; {title(name)} was fitted by '{fitted.model}'.",
            "Choose tia_map 'organ_curve', or the model 'uptake'.",
        )
    activities = np.stack(
        [tia_map.organ_shares(grid, sources[i], name) * measured[i].activity_mbq[name] for i in range(len(times))]
    )
    found = fit_voxels(
        times,
        activities,
        nuclide=fitted.nuclide,
        model=fitted.model,  # type: ignore[arg-type]
        weights=fitted.sd_mbq**-2.0,
        uptake_limb=options.uptake_limb,
    )
    tia = found.tia_mbq_h.astype(float)
    return tia / tia.sum()


def _voi_map(found: activity.ScanActivity, scan: activity.Scan, organs: tuple[str, ...]) -> LabelMap:
    regions = found.region_map(scan.spect.geometry)
    return LabelMap(regions.array, regions.geometry, dict(enumerate(organs, start=1))).renumbered()


def _centre(geometry: Geometry) -> list[float]:
    return [float(v) for v in geometry.index_to_lps((np.asarray(geometry.shape) - 1) / 2)]
