"""Makes studies of made-up patients, with their ground truth, in the format of `doselabel.study`.

Each patient is drawn from (seed, number) alone: the same pair gives the same voxels, whatever else is made. None of
them is, or was made from, a real person.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from doselabel.errors import Progress, StudyError, no_progress
from doselabel.geometry import Geometry, Volume, write_image
from doselabel.labels import ORGANS, LabelMap, write_labels
from doselabel.study import Study, TimePoint
from sample_data import truth
from sample_data.anatomy import Anatomy
from sample_data.ct import (
    DIAGNOSTIC,
    DIAGNOSTIC_FULL,
    LOW_DOSE,
    LOW_DOSE_FULL,
    PHASES,
    Protocol,
    axes_of,
    hounsfield,
    take,
)
from sample_data.kinetics import Kinetics
from sample_data.plan import VARIANTS, Plan
from sample_data.shapes import Axes
from sample_data.spect import Camera, acquire, grid_around
from sample_data.tissues import LABEL_OF, Tissue, labels_of

TIMES_H = (0.5, 6.0, 24.0, 72.0)
FINE_MM = 2.4
"""Voxels of the map that activities, volumes and doses are taken from."""

MISALIGNED_POINT = 1
MISALIGNMENT_MM = (1.6, -2.4, 7.463)
"""How far the SPECT of that time point lies from its CT (x, y, z): 8.00 mm."""

TURNED_POINT = 2
TURNED = "PIR"
"""Some patients have one CT stored in another orientation, as real studies do."""

PELVES = (Tissue.LEFT_PELVIS, Tissue.RIGHT_PELVIS)
NOTE = "Synthetic phantom made by doselabel; not a real person and not made from one."


def generate(
    out: str | Path,
    *,
    patients: int = 4,
    seed: int = 0,
    full: bool = False,
    progress: Progress = no_progress,
) -> list[Path]:
    """Make patients with a diagnostic CT, four low-dose CTs, four 177Lu SPECT and ground truth.

    Parameters
    ----------
    out : path
        Folder of studies; patients that are there already are made again.
    patients : int
        The variants of `plan.VARIANTS` come in turn, so four show all.
    seed : int
        Same seed, same patients.
    full : bool
        Clinical matrices (CT 512×512 in plane) instead of small ones.

    Returns
    -------
    list of Path
        The study folders.
    """
    out = Path(out)
    if out.exists() and not out.is_dir():
        raise StudyError(f"{out}: is a file; expected a folder to put patients in.", "Name another place.")
    folders = []
    for number in range(patients):

        def part(stage: str, fraction: float, number: int = number) -> None:
            progress(f"patient {number + 1} of {patients}: {stage}", (number + fraction) / patients)

        folders.append(patient(out, seed, number, full=full, progress=part))
    progress("sample patients are ready", 1.0)
    return folders


@dataclass(frozen=True)
class _Body:
    """One patient's fine tissue map, at rest."""

    axes: Axes
    tissue: np.ndarray
    labels: np.ndarray
    voxel_ml: float

    @classmethod
    def of(cls, anatomy: Anatomy, geometry: Geometry) -> _Body:
        corners = geometry.corners_lps()
        half_width, half_depth = anatomy.plan.half_width_mm + 12, anatomy.plan.half_depth_mm + 12
        low = np.maximum(corners.min(0) - 15, (-half_width, -half_depth, -1e4))
        high = np.minimum(corners.max(0) + 15, (half_width, half_depth, 1e4))
        axes = Axes.covering(tuple(low), tuple(high), FINE_MM)
        tissue, _ = anatomy.render(axes, np.zeros(256))
        return cls(axes, tissue, labels_of(tissue), float(np.prod(axes.spacing_mm)) / 1000)

    def sum_over(self, label: int, table: np.ndarray) -> float:
        """Integral over an organ of a quantity per mL given by tissue."""
        return float(table[self.tissue[self.labels == label]].sum() * self.voxel_ml)


def patient(out: Path, seed: int, number: int, *, full: bool = False, progress: Progress = no_progress) -> Path:
    """Make one of the patients of a seed, from 0; the others need not be made before."""
    rng = np.random.default_rng([seed, number])
    variant = VARIANTS[number % len(VARIANTS)]
    anatomy = Anatomy(Plan.draw(rng, variant))
    name = f"sample-{seed}-{number + 1:03d}"
    folder = out / name
    if folder.exists():
        shutil.rmtree(folder)
    injected_mbq = float(np.round(rng.uniform(7000, 7800)))
    kinetics = Kinetics.draw(rng, injected_mbq, hot_pelvis=variant == "hot_pelvis")
    centre = (float(rng.normal(0, 4)), float(rng.normal(0, 4)), 10 + float(rng.normal(0, 4)))
    camera = Camera(grid_around(centre, full=full), _float3(rng.uniform(12.0, 15.0) * rng.uniform(0.96, 1.04, 3)))

    progress("anatomy", 0.0)
    body = _Body.of(anatomy, camera.geometry)
    progress("diagnostic CT", 0.15)
    tissues_seed = rng.integers(2**63)
    phase = str(rng.choice(PHASES))
    _take_ct(folder, "ct", anatomy, DIAGNOSTIC_FULL if full else DIAGNOSTIC, centre, 0.0, tissues_seed, phase, rng)
    points, misalignment = [], None
    for i, time_h in enumerate(TIMES_H):
        progress(f"SPECT/CT at {time_h:g} h", 0.3 + 0.15 * i)
        breath_mm = float(rng.normal(0, 4))
        stem = f"ct_tp{i + 1}"
        turned = variant == "hot_pelvis" and i == TURNED_POINT
        low_dose = LOW_DOSE_FULL if full else LOW_DOSE
        tissue, grid = _take_ct(
            folder, stem, anatomy, low_dose, centre, breath_mm, tissues_seed, None, rng, TURNED if turned else ""
        )
        moved = np.array((0.0, 0.0, breath_mm))
        if variant == "misaligned" and i == MISALIGNED_POINT:
            moved = moved + MISALIGNMENT_MM
            misalignment = {"time_point": i, "shift_mm": list(MISALIGNMENT_MM), "spect_to_ct": _shift(MISALIGNMENT_MM)}
        table = kinetics.table_mbq_ml(time_h)
        if i == 0 and kinetics.hot_pelvis_mbq_ml:
            table[list(PELVES)] = kinetics.hot_pelvis_mbq_ml
        spect = acquire(camera, body.axes, table[body.tissue].astype(np.float32), _float3(moved), rng)
        write_image(folder / f"spect_tp{i + 1}.nii.gz", spect)
        point = TimePoint(time_h=time_h, ct=f"{stem}.nii.gz", spect=f"spect_tp{i + 1}.nii.gz")
        if i == 0 and kinetics.hot_pelvis_mbq_ml:
            point.exclude = {"*": "exclude_tp1.nii.gz"}
            write_image(folder / "exclude_tp1.nii.gz", Volume(np.isin(tissue, PELVES).astype(np.uint8), grid))
        points.append(point)

    progress("ground truth", 0.9)
    content = _truth(body, kinetics, rng)
    absent = tuple(f"{side}_kidney" for side in ("left", "right") if side not in {k.side for k in anatomy.plan.kidneys})
    content |= {"note": NOTE, "variant": variant, "seed": seed, "patient": number, "misalignment": misalignment}
    content |= {"psf_fwhm_mm": camera.fwhm_mm, "time_h": TIMES_H}
    (folder / "truth" / "truth.json").write_text(json.dumps(content, indent=1) + "\n", "utf-8")
    Study(
        patient_id=name,
        description=f"{NOTE} Variant: {variant.replace('_', ' ')}.",
        nuclide="Lu-177",
        injected_activity_mbq=injected_mbq,
        ct="ct.nii.gz",
        time_points=points,
        organs_absent=absent,
        psf_fwhm_mm=camera.fwhm_mm,
    ).save(folder)
    return folder


def _take_ct(
    folder: Path,
    stem: str,
    anatomy: Anatomy,
    protocol: Protocol,
    centre_mm: tuple[float, float, float],
    breath_mm: float,
    tissues_seed: int,
    phase: str | None,
    rng: np.random.Generator,
    orientation: str = "",
) -> tuple[np.ndarray, Geometry]:
    """Write a CT and its true label map; return the tissue map on the CT's grid as it was taken."""
    hu = hounsfield(np.random.default_rng(tissues_seed), phase)
    ct, tissue = take(anatomy, axes_of(protocol, centre_mm), protocol, hu, rng, breath_mm)
    labels = Volume(labels_of(tissue), ct.geometry)
    if orientation:
        ct, labels = (Volume.from_sitk(sitk.DICOMOrient(v.to_sitk(), orientation)) for v in (ct, labels))
    write_image(folder / f"{stem}.nii.gz", ct)
    write_labels(folder / "truth" / f"{stem}.nii.gz", LabelMap(labels.array, labels.geometry))
    return tissue, ct.geometry


def _truth(body: _Body, kinetics: Kinetics, rng: np.random.Generator) -> dict:
    organs = [row for row in ORGANS if (body.labels == row.index).any()]
    volume_ml = {row.index: float(np.count_nonzero(body.labels == row.index)) * body.voxel_ml for row in organs}
    mass_g = {row.index: volume_ml[row.index] * row.density_g_cm3 for row in organs}
    tia = kinetics.table_mbq_h_ml()
    doses = truth.dose(body.axes, body.labels, tia[body.tissue], mass_g, rng)
    content = {}
    for row in organs:
        main = next(tissue for tissue, label in LABEL_OF.items() if label == row.index)
        content[row.name] = {
            "volume_ml": volume_ml[row.index],
            "mass_g": mass_g[row.index],
            "density_g_cm3": row.density_g_cm3,
            "activity_mbq": [body.sum_over(row.index, kinetics.table_mbq_ml(t)) for t in TIMES_H],
            "tia_mbq_h": body.sum_over(row.index, tia),
            "effective_half_life_h": kinetics.of[main].effective_half_life_h,
            "mean_dose_gy": doses[row.index].mean_dose_gy,
            "mean_dose_sd_gy": doses[row.index].sd_gy,
        }
    return {"organs": content}


def _shift(spect_moved_mm: tuple[float, float, float]) -> list[list[float]]:
    """The 4×4 matrix that takes a moved SPECT back onto its CT."""
    matrix = np.eye(4)
    matrix[:3, 3] = -np.asarray(spect_moved_mm)
    return matrix.tolist()


def _float3(values: np.ndarray) -> tuple[float, float, float]:
    a, b, c = (float(v) for v in values)
    return a, b, c
