"""A patient's study on disk: which files there are, what they mean, and whether they fit together.

One folder per patient, with a manifest ``study.json`` that a person can write (see docs/study.md)::

    {"schema": "doselabel.study/1", "patient_id": "P-017", "nuclide": "Lu-177",
     "injected_activity_mbq": 7400, "injection_time": "2026-03-02T09:15:00", "ct": "ct.nii.gz",
     "time_points": [{"time_h": 0.5, "ct": "ct_tp1.nii.gz", "spect": "spect_tp1.nii.gz"}]}

It knows files and units; whether they can be true is `doselabel.study_check`'s. It computes no doses.
"""

from __future__ import annotations

import itertools
import math
import os
import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
from pydantic import ConfigDict, Field, PrivateAttr, field_validator, model_validator

from doselabel.alarms import Alarm
from doselabel.camera import Camera
from doselabel.errors import DoselabelError, StudyError
from doselabel.geometry import SUFFIXES, Geometry, StatedGrid, Volume, read_grid, read_image
from doselabel.manifest import explain, file_inside, image_inside, read_object
from doselabel.nuclides import nuclide as find_nuclide
from doselabel.nuclides import nuclide_name
from doselabel.organs import organ
from doselabel.study_fields import IDENTITY, Registration, Reporting, StatedPlace, Strict, TimePoint

__all__ = ["IDENTITY", "MANIFEST", "ORIGIN", "SCHEMA", "Registration", "StatedPlace", "Study", "TimePoint", "image_id"]

SCHEMA = "doselabel.study/1"
MANIFEST = "study.json"
ORIGIN = "dicom.json"
"""Beside the manifest of a study that was imported from DICOM: from which series each file came, by remapped UIDs."""
ID_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")


class Study(Strict):
    """A patient's study; paths in it are relative to ``folder``.

    Attributes
    ----------
    patient_id : str
        Pseudonym: letters, digits, ``_`` and ``-``.
    nuclide : str
        "Lu-177", "Y-90" or "I-131".
    injected_activity_mbq : float
        MBq at ``injection_time``.
    ct : str
        Diagnostic CT (HU): organ masses come from it.
    time_points : list of TimePoint
        In the order of time.
    organs_absent : tuple of str
        Organs the patient does not have.
    decay_corrected_to : {"none", "injection", "scan_start", "first_scan"}
        The time at which the SPECTs' values hold: as measured, in the middle of each scan ("none"); at injection; at
        each scan's start; in the middle of the first scan. See `decay_factor`.
    psf_fwhm_mm : tuple of float, optional
        Measured resolution of the SPECT as FWHM (z, y, x), mm; without it, the camera file's.
    camera : str, optional
        Camera file in the study folder (`doselabel calibrate`): resolution, and what turns counts into Bq/mL.
    spect_unit : {"Bq/mL", "counts"}
        What the SPECTs' voxels hold. Counts need a camera file with a sensitivity, and each scan's duration.
    stated_places : dict
        File name → orientation and spacing, for images that state none.
    blood_samples : str, optional
        CSV in the study folder (``time_h``, ``activity_kbq_ml``): gives an estimate of the marrow's dose.
    reporting : Reporting
        What a report states: radiopharmaceutical, camera, reconstruction, who is responsible …
    """

    schema_: Literal["doselabel.study/1"] = Field(default="doselabel.study/1", alias="schema")
    patient_id: str
    description: str = ""
    nuclide: str
    injected_activity_mbq: Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)]
    injection_time: datetime | None = None
    ct: str
    time_points: Annotated[list[TimePoint], Field(min_length=1)]
    organs_absent: tuple[str, ...] = ()
    psf_fwhm_mm: tuple[float, float, float] | None = None
    camera: str | None = None
    spect_unit: Literal["Bq/mL", "counts"] = "Bq/mL"
    calibration_sd_percent: Annotated[float, Field(ge=0, le=100)] = 5.0
    stated_places: dict[str, StatedPlace] = Field(default_factory=dict)
    decay_corrected_to: Literal["none", "injection", "scan_start", "first_scan"] = "none"
    blood_samples: str | None = None
    reporting: Reporting = Field(default_factory=Reporting)
    _folder: Path = PrivateAttr(default=Path())

    model_config = ConfigDict(extra="forbid", validate_assignment=True, populate_by_name=True)

    # ---- what the fields must be

    @field_validator("patient_id")
    @classmethod
    def _plain_id(cls, value: str) -> str:
        if not ID_PATTERN.fullmatch(value) or "__" in value:
            raise ValueError("expected 1–63 letters, digits, '-' and single '_', starting with a letter or digit")
        return value

    @field_validator("nuclide")
    @classmethod
    def _known_nuclide(cls, value: str) -> str:
        name = nuclide_name(value)
        if not re.fullmatch(r"[A-Z][a-z]?-\d+", name):
            raise ValueError("expected a nuclide such as 'Lu-177'")
        return name

    @field_validator("organs_absent")
    @classmethod
    def _known_organs(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        try:
            return tuple(organ(name).name for name in value)
        except DoselabelError as error:
            raise ValueError(str(error)) from error

    @field_validator("psf_fwhm_mm")
    @classmethod
    def _plausible_psf(cls, value: tuple[float, float, float] | None) -> tuple[float, float, float] | None:
        if value is not None and not all(0 < v <= 50 for v in value):
            raise ValueError("expected three widths (z, y, x) between 0 and 50 mm")
        return value

    @model_validator(mode="after")
    def _in_order(self) -> Study:
        times = [point.time_h for point in self.time_points]
        if any(b <= a for a, b in itertools.pairwise(times)):
            raise ValueError(f"time_points: times {times} h are not increasing; list each time point once, in order")
        residual = self.reporting.residual_activity_mbq
        if residual is not None and residual > self.injected_activity_mbq:
            raise ValueError(
                f"reporting.residual_activity_mbq: {residual:g} MBq were left in syringe and lines, more than the "
                f"{self.injected_activity_mbq:g} MBq injected; both are in MBq"
            )
        return self

    # ---- disk

    @classmethod
    def load(cls, path: str | Path) -> Study:
        """Read and validate a study.

        Parameters
        ----------
        path : path
            The study folder, or its ``study.json``.

        Raises
        ------
        StudyError
            Naming file and field, when the manifest can't be read or a file it names is missing.
        """
        path = Path(path)
        manifest = path / MANIFEST if path.is_dir() else path
        if not manifest.is_file():
            raise StudyError(
                f"{manifest}: there is no such file; a study is a folder with a {MANIFEST}.",
                "Make one by hand (docs/study.md) or with `doselabel sample`.",
            )
        study = cls._validated(read_object(manifest), manifest)
        study._folder = manifest.parent.resolve()
        for field, name in study.files():
            image_inside(manifest, field, name)
        study.camera_file()
        if study.blood_samples is not None:
            file_inside(manifest, "blood_samples", study.blood_samples)
        return study

    @classmethod
    def _validated(cls, content: dict[str, Any], manifest: Path) -> Study:
        if content.get("schema") != SCHEMA:
            raise StudyError(
                f"{manifest}: field 'schema' is {content.get('schema')!r}; expected '{SCHEMA}'.",
                "This version of doselabel reads that schema only.",
            )
        try:
            return cls.model_validate(content)
        except pydantic.ValidationError as error:
            raise StudyError(
                f"{manifest}: " + "; ".join(explain(e) for e in error.errors(include_url=False)) + ".",
                "Correct the field(s) named; docs/study.md describes each.",
            ) from error

    def save(self, folder: str | Path | None = None) -> Path:
        """Write the manifest atomically; ``folder`` is where, by default where it was loaded from."""
        if folder is not None:
            self._folder = Path(folder).resolve()
        self._folder.mkdir(parents=True, exist_ok=True)
        manifest = self._folder / MANIFEST
        temporary = manifest.with_suffix(".json.writing")
        temporary.write_text(self.model_dump_json(by_alias=True, indent=2, exclude_none=True) + "\n", "utf-8")
        os.replace(temporary, manifest)
        return manifest

    @staticmethod
    def find(root: str | Path) -> list[Path]:
        """Folders of all studies in ``root`` (itself, or its direct subfolders), sorted."""
        root = Path(root)
        if (root / MANIFEST).is_file():
            return [root]
        return sorted(path.parent for path in root.glob(f"*/{MANIFEST}"))

    # ---- what is where

    @property
    def folder(self) -> Path:
        """Absolute path of the study folder."""
        return self._folder

    def path(self, name: str) -> Path:
        """Absolute path of a file the manifest names."""
        return self._folder / name

    def read(self, name: str) -> Volume:
        """Read an image that the manifest names; raises GeometryError as `doselabel.images.read_image` does."""
        return read_image(self.path(name), stated=self.stated_place(name), within=self._folder)

    def grid(self, name: str) -> Geometry:
        """Read the grid of an image that the manifest names, and no voxels."""
        return read_grid(self.path(name), stated=self.stated_place(name), within=self._folder)

    def stated_place(self, name: str) -> StatedGrid | None:
        """What was stated of an image, None when it speaks for itself."""
        stated = self.stated_places.get(name)
        return StatedGrid(stated.orientation, stated.spacing_mm) if stated else None

    def files(self) -> Iterator[tuple[str, str]]:
        """All (field, file name) the manifest names."""
        yield "ct", self.ct
        for i, point in enumerate(self.time_points):
            yield f"time_points[{i}].ct", point.ct
            yield f"time_points[{i}].spect", point.spect
            for name, file in point.exclude.items():
                yield f"time_points[{i}].exclude.{name}", file

    def camera_file(self) -> Camera | None:
        """The camera file, read.

        Raises
        ------
        StudyError
            When it can't be read, or counts are to be converted and it, or a scan's duration, is missing.
        """
        where = self._folder / MANIFEST
        camera = None
        if self.camera is not None:
            path = file_inside(where, "camera", self.camera)
            try:
                camera = Camera.load(path)
            except DoselabelError as error:
                raise StudyError(f"{where}: field 'camera': {error.message}", error.hint) from error
        if self.spect_unit == "counts":
            if camera is not None and camera.nuclide and nuclide_name(camera.nuclide) != self.nuclide:
                raise StudyError(
                    f"{where}: field 'camera': {self.camera} is for {camera.nuclide}, the study's nuclide is "
                    f"{self.nuclide}; a sensitivity holds for one nuclide.",
                    "Name the camera file that was calibrated with this nuclide.",
                )
            if camera is None or camera.sensitivity is None:
                raise StudyError(
                    f"{where}: the SPECTs are in counts, and there is no camera file with a sensitivity.",
                    "Make one with `doselabel calibrate sensitivity` and name it in the field 'camera'.",
                )
            for i, point in enumerate(self.time_points):
                if point.scan_duration_min is None:
                    raise StudyError(
                        f"{where}: field 'time_points[{i}].scan_duration_min' is missing; the SPECT is in counts.",
                        "State the scan's duration, as the camera was calibrated with.",
                    )
        return camera

    @property
    def resolution_fwhm_mm(self) -> tuple[float, float, float] | None:
        """Resolution (z, y, x) as stated, or by the camera file; None when neither says."""
        if self.psf_fwhm_mm is not None:
            return self.psf_fwhm_mm
        camera = self.camera_file()
        return camera.resolution.fwhm_mm if camera is not None and camera.resolution is not None else None

    @property
    def calibration_relative_sd(self) -> float:
        """Standard uncertainty of the calibration: of counts by the camera file, else as stated."""
        camera = self.camera_file() if self.spect_unit == "counts" else None
        if camera is not None and camera.sensitivity is not None:
            return camera.sensitivity.relative_sd
        return self.calibration_sd_percent / 100

    def cts(self) -> dict[str, str]:
        """Image id → file name of every CT, the diagnostic one first."""
        names = [self.ct, *(point.ct for point in self.time_points)]
        return {image_id(self.patient_id, name): name for name in dict.fromkeys(names)}

    def decay_factor(self, index: int) -> float:
        """By what a SPECT's values are multiplied to be the activity at `time_h`, the middle of its scan.

        Exactly 1 for images that were not corrected. From a scan's start to its middle is half of its duration, taken
        as 0 where none is stated: of 177Lu 0.1 % decay in a quarter of an hour.
        """
        point = self.time_points[index]
        elapsed_h = {
            "none": 0.0,
            "injection": point.time_h,
            "scan_start": (point.scan_duration_min or 0.0) / 120,
            "first_scan": point.time_h - self.time_points[0].time_h,
        }[self.decay_corrected_to]
        return math.exp(-find_nuclide(self.nuclide).decay_constant_per_h * elapsed_h) if elapsed_h else 1.0

    def check(self) -> list[Alarm]:
        """Look into every image: readable, the right units, in the same place, and plausible together.

        Returns
        -------
        list of Alarm
            What does not stop the work, the gravest first.

        Raises
        ------
        StudyError
            Naming file and field of everything that can't be used.
        """
        from doselabel.study_check import check  # which knows studies: imported when there is one

        return check(self)


def image_id(patient_id: str, file_name: str) -> str:
    """Name by which the server and the plugin know a CT: ``<patient>__<file name without suffix>``."""
    stem = Path(file_name).name
    for suffix in SUFFIXES:
        if stem.lower().endswith(suffix):
            stem = stem[: -len(suffix)]
            break
    return f"{patient_id}__{stem}"
