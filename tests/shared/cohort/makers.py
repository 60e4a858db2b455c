"""Small patients, made in milliseconds: two kidneys on one CT, with two SPECTs that are registered already."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from doselabel.geometry import Geometry, Volume, write_image
from doselabel.labels import NAMES, LabelMap, write_labels
from doselabel.study import Registration, Study, TimePoint

CT = Geometry((30, 30, 44), (5.0, 5.0, 5.0), (-107.5, -72.5, -72.5))
SPECT = Geometry((19, 19, 28), (8.0, 8.0, 8.0), (-108.0, -72.0, -72.0))
KIDNEYS = {"left_kidney": (0.0, 20.0, 60.0), "right_kidney": (-5.0, 20.0, -60.0)}
VALUES = {name: value for value, name in NAMES.items()}
TIMES_H = (24.0, 96.0)


def _inside(grid: Geometry, centre_mm, semi_mm) -> np.ndarray:
    z, y, x = np.meshgrid(*(np.arange(n) for n in grid.shape), indexing="ij", sparse=True)
    dz, dy, dx = grid.spacing_mm
    x0, y0, z0 = grid.origin_mm
    at = (z0 + dz * z - centre_mm[0], y0 + dy * y - centre_mm[1], x0 + dx * x - centre_mm[2])
    return sum((a / s) ** 2 for a, s in zip(at, semi_mm, strict=True)) <= 1


def make_patient(folder: Path, number: int, *, masks: str = "final", registered: bool = True) -> Study:
    """A patient of their own size, uptake and injected activity; masks as a tag of the study."""
    semi = (48.0 + number % 5, 27.0 + number % 3, 25.0)
    hu = np.where(_inside(CT, (0, 0, 0), (1e4, 68, 100)), 40, -1000).astype(np.int16)
    labels = np.zeros(CT.shape, np.uint8)
    activity = np.where(_inside(SPECT, (0, 0, 0), (1e4, 68, 100)), 2e3, 0.0)
    for name, centre in KIDNEYS.items():
        labels[_inside(CT, centre, semi)] = VALUES[name]
        activity[_inside(SPECT, centre, semi)] = 6e5 * (1 + number / 10)
    hu[labels > 0] = 160
    write_image(folder / "ct.nii.gz", Volume(hu, CT))
    (folder / "labels" / masks).mkdir(parents=True)
    write_labels(folder / "labels" / masks / "ct.nii.gz", LabelMap(labels, CT))
    points = []
    for k, time_h in enumerate(TIMES_H, start=1):
        decayed = (activity * np.exp(-time_h * np.log(2) / 60)).astype(np.float32)
        write_image(folder / f"spect_tp{k}.nii.gz", Volume(decayed, SPECT))
        stored = Registration(matrix=np.eye(4).tolist(), method="manual") if registered else Registration()
        points.append(TimePoint(time_h=time_h, ct="ct.nii.gz", spect=f"spect_tp{k}.nii.gz", spect_to_ct=stored))
    study = Study(
        patient_id=folder.name,
        nuclide="Lu-177",
        injected_activity_mbq=7000 + 50 * number,
        ct="ct.nii.gz",
        time_points=points,
        psf_fwhm_mm=(12.0, 12.0, 12.0),
    )
    study.save(folder)
    return Study.load(folder)
