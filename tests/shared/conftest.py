"""A small hand-written study, the smallest thing that is valid."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from doselabel.geometry import Geometry, Volume, write_image
from doselabel.study import Study, TimePoint

CT_GRID = Geometry((8, 10, 12), (5.0, 4.0, 20.0), (-110.0, -18.0, -17.5))
SPECT_GRID = Geometry((8, 8, 10), (5.0, 5.0, 25.0), (-110.0, -18.0, -17.5))


def write_small_study(folder: Path, patient_id: str = "P-001") -> Study:
    ct = np.full(CT_GRID.shape, -1000, np.int16)
    ct[1:7, 2:8, 2:10] = 40
    ct[1:7, 6:8, 5:7] = 400
    spect = np.zeros(SPECT_GRID.shape, np.float32)
    spect[2:6, 2:6, 2:8] = 1e5
    write_image(folder / "ct.nii.gz", Volume(ct, CT_GRID))
    points = []
    for number, time_h in enumerate((0.5, 6.0, 24.0, 72.0), start=1):
        write_image(folder / f"ct_tp{number}.nii.gz", Volume(ct, CT_GRID))
        write_image(folder / f"spect_tp{number}.nii.gz", Volume(spect, SPECT_GRID))
        points.append(TimePoint(time_h=time_h, ct=f"ct_tp{number}.nii.gz", spect=f"spect_tp{number}.nii.gz"))
    study = Study(
        patient_id=patient_id, nuclide="177Lu", injected_activity_mbq=7400, ct="ct.nii.gz", time_points=points
    )
    study.save(folder)
    return Study.load(folder)


@pytest.fixture
def small_study(tmp_path: Path) -> Study:
    return write_small_study(tmp_path / "P-001")
