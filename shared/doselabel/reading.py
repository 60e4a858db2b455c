"""Images of a study, by their path or their field in the manifest, in the units that the rest of the package takes.

Knows studies and image files; knows no organs.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from doselabel.errors import DoselabelError, StudyError
from doselabel.geometry import StatedGrid, Volume, read_image
from doselabel.study import MANIFEST, Study


def read_of_study(path: str | Path, *, stated: StatedGrid | None = None) -> Volume:
    """Read an image by its path; one of a study with what its study says of it."""
    path, folder = Path(path), folder_of(path)
    if folder is None:
        return read_image(path, stated=stated)
    try:
        study = Study.load(folder)
    except StudyError:  # another file of the study is amiss: this one may be read all the same
        return read_image(path, stated=stated, within=folder)
    name = path.resolve().relative_to(folder).as_posix()
    return read_image(path, stated=stated or study.stated_place(name), within=folder)


def folder_of(path: str | Path) -> Path | None:
    """The folder of the study that a file lies in, None when it lies in none."""
    return next((folder for folder in Path(path).resolve().parents[:4] if (folder / MANIFEST).is_file()), None)


def read_field(study: Study, field: str, name: str) -> Volume:
    """Read an image of a study; errors name the manifest's field."""
    try:
        return study.read(name)
    except DoselabelError as error:
        raise StudyError(f"{study.folder / MANIFEST}: field '{field}': {error.message}", error.hint) from error


def read_spect(study: Study, index: int, stored: Volume | None = None) -> Volume:
    """Read a time point's SPECT (or take what was read) in Bq/mL in the middle of its scan.

    Counts are converted by the camera file's sensitivity and dead time, and decay correction is undone, here alone.
    """
    point, decay = study.time_points[index], study.decay_factor(index)
    volume = stored or read_field(study, f"time_points[{index}].spect", point.spect)
    if study.spect_unit == "Bq/mL":
        return volume if decay == 1.0 else Volume((volume.array * decay).astype(np.float32), volume.geometry)
    factor = _bq_ml_per_count(study, index, volume.geometry.voxel_volume_ml)
    return Volume((volume.array * factor * decay).astype(np.float32), volume.geometry)


def bq_ml_per_value(study: Study, index: int) -> float:
    """What `read_spect` multiplies a time point's stored values by; no voxels are read. Raises as it does."""
    decay, spect = study.decay_factor(index), study.time_points[index].spect
    if study.spect_unit == "Bq/mL":
        return decay
    return _bq_ml_per_count(study, index, study.grid(spect).voxel_volume_ml) * decay


def _bq_ml_per_count(study: Study, index: int, voxel_volume_ml: float) -> float:
    point, camera = study.time_points[index], study.camera_file()
    assert camera is not None  # or `camera_file` raised
    assert camera.sensitivity is not None
    assert point.scan_duration_min is not None
    factor = camera.sensitivity.bq_ml_per_count(60 * point.scan_duration_min, voxel_volume_ml)
    if camera.dead_time is not None and point.count_rate_cps is not None:
        try:
            factor *= camera.dead_time.factor(point.count_rate_cps)
        except DoselabelError as error:
            field = f"time_points[{index}].count_rate_cps"
            raise StudyError(f"{study.folder / MANIFEST}: field '{field}': {error.message}", error.hint) from error
    return factor
