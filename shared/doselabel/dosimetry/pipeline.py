"""From a study and its masks to organ doses: masks → registration → activities → curves → dose map → results.

The one place that knows the order of the steps. Each step is another module's; what they are, and why, stands there.

Frames. A time point's masks, SPECT and exclusion masks meet in the frame of that time point's CT. Masses, the dose
map and the histograms are in the frame of the diagnostic CT; the reference SPECT is brought there organ by organ, by
the shift between the organ's mask on its own CT and on the diagnostic one, so that breathing between the two does not
move dose out of the organ.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from doselabel.alarms import Alarm, finding, told
from doselabel.dosimetry.cache import Cache, digest, fingerprint
from doselabel.dosimetry.curves.choice import OrganCurve, fit_organ, fit_rest
from doselabel.dosimetry.curves.fit import TacFit
from doselabel.dosimetry.curves.voxel import fit_voxels
from doselabel.dosimetry.dose.dose_map import Absorbed, absorbed
from doselabel.dosimetry.dose.engines import SOFT_TISSUE_G_CM3
from doselabel.dosimetry.dose.tia_map import DoseGrid, Source, in_frame, on_ct, organ_shares, tia_map
from doselabel.dosimetry.failures import Failures, with_the_rest
from doselabel.dosimetry.marrow import estimates
from doselabel.dosimetry.options import DoseOptions
from doselabel.dosimetry.organ_results import organ_result, provenance
from doselabel.dosimetry.physics.convolution import transfer_of
from doselabel.dosimetry.physics.kernels import VoxelSKernel, voxel_s_kernel
from doselabel.dosimetry.priors import known_of, own_half_life
from doselabel.dosimetry.results import DoseComputation, write_dose
from doselabel.dosimetry.uptake.activity import placed_box, voi_method
from doselabel.dosimetry.uptake.case import Case
from doselabel.dosimetry.uptake.masks import resolve
from doselabel.dosimetry.uptake.time_points import Uptake, measured
from doselabel.errors import DoseError, FitError, Progress, VoiError, no_progress
from doselabel.geometry import Volume, placed, resample
from doselabel.labels import LabelMap, title
from doselabel.study import Study
from doselabel.study_check import check
from doselabel.study_images import Images
from doselabel.wire import DoseResults, ErrorInfo, HalfLife, HalfLifePrior, MarrowDose, OrganDose

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
    case = _read(study, labels, options, cache, edited_vois, progress)
    return compute_case(case, progress)


def register(
    study: Study,
    labels: str | Path,
    options: DoseOptions | None = None,
    *,
    cache: str | Path | None = None,
    progress: Progress = no_progress,
) -> list[dict[str, Any]]:
    """Only bring every SPECT onto its CT; parameters as for `run`. `compute` with the same cache goes on from there.

    Returns
    -------
    list of dict
        What `results.json` will say of each time point's registration.
    """
    case = _read(study, labels, options, cache, None, progress)
    uptakes, _ = with_the_rest(case.asked, case.missing, lambda o: measured(case, o, Failures(), [], progress))
    return [uptake.registration() for uptake in uptakes]


def _read(
    study: Study,
    labels: str | Path,
    options: DoseOptions | None,
    cache: str | Path | None,
    edited_vois: Mapping[int, LabelMap] | None,
    progress: Progress,
) -> Case:
    options, images = options or DoseOptions(), Images(study)
    progress("reading", 0.0)
    checked = check(study, images)
    label_set = resolve(study, labels, options.label_scheme, images)
    store = Cache(Path(cache) if cache is not None else None)
    case = Case.of(images, checked, label_set, options, store, edited_vois)
    if case.edited_vois and voi_method(options, case.psf_fwhm_mm) == "gtm":
        raise VoiError(
            "Volumes of interest were corrected by hand, and the method 'gtm' has none that could be.",
            "Choose the method they were made with (voi threshold, margin or gaussian), or leave them out.",
        )
    return case


def compute_case(case: Case, progress: Progress = no_progress) -> DoseComputation:
    """Compute the doses of a patient whose files have been read."""
    forward = _never_back(progress)
    done, failed = with_the_rest(case.asked, case.missing, lambda organs: _chain(case, organs, forward))
    if not failed:
        return done
    reasons = {name: ErrorInfo(code=e.code, message=e.message, hint=e.hint) for name, e in failed.items()}
    lost = [finding("organ-failed", f"{title(n)} could not be computed: {e}", organ=n) for n, e in failed.items()]
    alarms, sentences = told([*lost, *done.results.alarms, *done.results.warnings])
    results = done.results.model_copy(update={"failed": reasons, "alarms": alarms, "warnings": sentences})
    return replace(done, results=results)


def _chain(case: Case, organs: tuple[str, ...], progress: Progress) -> DoseComputation:
    """The chain for the given organs; raises OrganFailures for those that can't be computed."""
    failures, said = Failures(), list(case.findings)
    with ThreadPoolExecutor(1) as aside:
        laid = aside.submit(_grid, case, organs)  # hangs on the diagnostic CT alone
        uptakes = measured(case, organs, failures, said, progress)

        progress("time-activity curves", 0.64)
        curves = _curves(case, organs, uptakes, failures)
    rest = fit_rest(case.times_h, [u.activity.rest_mbq for u in uptakes], case.nuclide.name, case.options)

    progress("activity map", 0.68)
    grid = laid.result()
    tia_mbq_h = _tia_map(case, grid, uptakes, curves, rest[0], failures)

    progress("dose kernel", 0.72)
    kernel = _kernel(case, grid)
    progress("dose map", 0.8)
    tia = {name: curve.fit.tia_mbq_h for name, curve in curves.items()}
    masses = {name: case.mass_g(name) for name in organs}
    doses = absorbed(grid, tia_mbq_h, tia, masses, kernel, case.options, case.workers, _transfer(case, grid, kernel))

    progress("organ doses", 0.9)
    results = {}
    for name in organs:
        with failures.of(name):
            results[name] = organ_result(name, case, uptakes, curves[name], doses)
            said += [far.finding(name)] if (far := curves[name].far) else []
            said += [f"{title(name)}: {text}" for text in results[name].warnings]
    failures.settle()
    marrow = _marrow(case, results, rest[0], said)
    alarms, sentences = told(said)
    study = case.study
    total = DoseResults(
        patient_id=study.patient_id,
        nuclide=case.nuclide.name,
        injected_activity_mbq=study.injected_activity_mbq,
        injection_time=study.injection_time,
        cycle=study.reporting.cycle,
        time_h=case.times_h,
        organs=results,
        marrow=marrow,
        options=case.options.model_dump(mode="json")
        | {
            "voi": voi_method(case.options, case.psf_fwhm_mm),
            "psf_fwhm_mm": None if case.psf_fwhm_mm is None else list(case.psf_fwhm_mm),
            "reference": _reference(case),
        },
        registration=[u.registration() for u in uptakes],
        labels_origin=case.labels.origin,
        reviewed=case.labels.reviewed,
        alarms=alarms,
        warnings=sentences,
        provenance=provenance(case, doses, rest),
    )
    used = {study.ct: case.diagnostic} | {u.scan.point.ct: u.scan.labels for u in uptakes}
    vois = [u.activity.voi_map(u.scan.spect.geometry, organs) for u in uptakes]
    return DoseComputation(total, _written(case, uptakes, doses, results), used, vois)


def _never_back(progress: Progress) -> Progress:
    """Progress that stands still while something is done again."""
    furthest = 0.0

    def report(stage: str, fraction: float) -> None:
        nonlocal furthest
        furthest = max(furthest, fraction)
        progress(stage, furthest)

    return report


# ---- the steps


def _curves(case: Case, organs: tuple[str, ...], uptakes: list[Uptake], failures: Failures) -> dict[str, OrganCurve]:
    """Each organ's time-activity curve; with a prior, each is weighed with what the others' points say."""
    activities = {name: [u.activity.activity_mbq[name] for u in uptakes] for name in organs}

    def fitted(name: str, prior: HalfLifePrior | None = None) -> OrganCurve:
        noise = [u.noise(name) for u in uptakes]
        given = (name, case.times_h, activities[name], case.nuclide.name, case.options, noise, prior)
        key = digest("curve", *given[:4], case.options.model_dump(), noise, prior and prior.model_dump())
        return case.store.hold(key, partial(fit_organ, *given))

    priors = {}
    if case.options.half_life_prior == "patient":
        own: dict[str, HalfLife] = {}
        for name in organs:
            with suppress(FitError):  # what its own points can't carry, a prior may
                if (alone := own_half_life(fitted(name).fit)) is not None:
                    own[name] = alone
        for name in organs:
            known = known_of(name, own, case.options, case.nuclide.name)
            priors[name] = known and known.model_copy(update={"own": own.get(name)})
    curves = {}
    for name in organs:
        with failures.of(name):
            curves[name] = fitted(name, priors.get(name))
    failures.settle()
    return curves


def _reference(case: Case) -> int:
    """The time point whose SPECT says how activity is distributed."""
    if case.options.reference is None:
        return int(np.argmin(np.abs(np.asarray(case.times_h) - REFERENCE_TIME_H)))
    if case.options.reference >= len(case.times_h):
        raise DoseError(
            f"The reference time point is {case.options.reference}; the study has {len(case.times_h)}, counted from 0.",
            "Choose one of the study's time points.",
        )
    return case.options.reference


def _grid(case: Case, organs: tuple[str, ...]) -> DoseGrid:
    key = digest("grid", fingerprint(case.ct.array), fingerprint(case.diagnostic.array), list(organs))
    return case.store.hold(key, lambda: DoseGrid.around(case.ct, case.diagnostic, organs))


def _tia_map(
    case: Case,
    grid: DoseGrid,
    uptakes: list[Uptake],
    curves: Mapping[str, OrganCurve],
    rest_tia_mbq_h: float,
    failures: Failures,
) -> NDArray[np.float32]:
    """Time-integrated activity of every voxel of the dose grid, MBq·h."""
    reference = _reference(case)
    needed = range(len(uptakes)) if case.options.tia_map == "voxel_fit" else [reference]
    sources = {i: _source(uptakes[i]) for i in needed}
    shares = {}
    for name in grid.organs:
        with failures.of(name):
            if case.options.tia_map == "organ_curve":
                shares[name] = organ_shares(grid, sources[reference], name)
            else:
                points = [
                    organ_shares(grid, s, name) * uptakes[i].activity.activity_mbq[name] for i, s in sources.items()
                ]
                shares[name] = _fitted_shares(case, name, points, curves[name].fit)
    failures.settle()
    tia = {name: curve.fit.tia_mbq_h for name, curve in curves.items()}
    rest_mbq = uptakes[reference].activity.rest_mbq
    rest_h = rest_tia_mbq_h / rest_mbq if rest_mbq > 0 else 0.0
    return tia_map(grid, shares, tia, sources[reference], rest_h)


def _source(uptake: Uptake) -> Source:
    matrix, spect, found = uptake.alignment.matrix, uptake.scan.spect, uptake.activity
    return Source(
        shape=Volume(found.shape, placed_box(spect.geometry, found.box, matrix)),
        rest=in_frame(found.rest(spect), matrix),
        to_diagnostic=uptake.to_diagnostic,
    )


def _fitted_shares(case: Case, name: str, points: list[NDArray[np.float64]], fitted: TacFit) -> NDArray[np.float64]:
    """Share of an organ's time-integrated activity in each of its voxels, by a curve for each voxel."""
    if fitted.model not in ("uptake", "mono"):
        raise FitError(
            f"Voxel-wise fits know the models 'uptake' and 'mono'; {title(name)} was fitted by '{fitted.model}'.",
            "Choose tia_map 'organ_curve', or the model 'uptake'.",
        )
    found = fit_voxels(
        case.times_h,
        np.stack(points),
        nuclide=fitted.nuclide,
        model=fitted.model,  # type: ignore[arg-type]
        weights=fitted.sd_mbq**-2.0,
        uptake_limb=case.options.uptake_limb,
    )
    tia = found.tia_mbq_h.astype(float)
    return tia / tia.sum()


def _kernel(case: Case, grid: DoseGrid) -> VoxelSKernel:
    spacing, shape = grid.geometry.spacing_mm, grid.geometry.shape
    extent = [n * s for n, s in zip(shape, spacing, strict=True)]

    def make() -> VoxelSKernel:
        return voxel_s_kernel(case.nuclide, spacing, density_g_cm3=SOFT_TISSUE_G_CM3, extent_mm=extent)

    return case.store.hold(digest("kernel", case.nuclide.name, list(spacing), extent), make)


def _marrow(
    case: Case, organs: Mapping[str, OrganDose], rest_mbq_h: float, said: list[Alarm | str]
) -> list[MarrowDose]:
    """What can be said of the bone marrow; what fails there fails alone."""
    samples, injected_mbq = case.study.blood_samples, case.study.injected_activity_mbq
    blood = None if samples is None else case.study.path(samples)
    return estimates(organs, blood, rest_mbq_h, case.nuclide, case.options, injected_mbq=injected_mbq, said=said)


def _transfer(case: Case, grid: DoseGrid, kernel: VoxelSKernel) -> NDArray[np.float64]:
    """The kernel's transform; an edit leaves it as it is while the dose grid keeps its shape."""
    shape, octant = grid.geometry.shape, kernel.octant_mgy_per_mbq_s
    key = digest("transfer", fingerprint(octant), list(shape))
    return case.store.hold(key, partial(transfer_of, octant, shape, case.workers))


def _written(case: Case, uptakes: list[Uptake], doses: Absorbed, organs: Mapping[str, OrganDose]) -> Volume:
    """The dose map on the grid asked for, Gy."""
    means = {name: organ.mean_dose_gy for name, organ in organs.items()}
    on_diagnostic = on_ct(doses.grid, doses.dose_gy, case.diagnostic, means)
    if case.options.grid == "ct":
        return on_diagnostic
    seen = uptakes[_reference(case)]
    onto = placed(seen.scan.spect.geometry, seen.alignment.matrix)
    there = resample(on_diagnostic, onto, transform=np.linalg.inv(seen.to_diagnostic[""])).array
    return Volume(there, seen.scan.spect.geometry)
