"""Whether a study can be used, and whether it can be true: every file looked into, everything found kept.

Knows studies, images' values and their plausibility; computes no doses. What is *refused* here is what the server or a
dose calculation would refuse; *alarms* do not stop the work. One broken file hides neither another file nor a study.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from doselabel.alarms import Alarm, finding, ordered
from doselabel.dosimetry.alignment.tissues import Lattice, places
from doselabel.errors import DoselabelError, StudyError
from doselabel.geometry import Geometry, Volume, placed, read_grid
from doselabel.image_findings import of_image
from doselabel.image_values import check_ct, check_exclusion, check_spect
from doselabel.nuclides import Nuclide
from doselabel.nuclides import nuclide as find_nuclide
from doselabel.organs import ALL_ORGANS, region
from doselabel.plausibility import judge
from doselabel.reading import read_spect
from doselabel.spect_figures import Seen, look
from doselabel.study import MANIFEST, Study, image_id
from doselabel.study_images import Images

State = Literal["ok", "alarm", "refused"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


class Refusal(_Frozen):
    """Why a study can't be used, and what to do."""

    message: str
    hint: str = ""


class ScanFigures(_Frozen):
    """One time point's figures; activities at the middle of the scan, the share of the injected decayed to then."""

    time_point: int
    time_h: float
    spect: str
    ct: str
    ct_grid: str = ""
    spect_grid: str = ""
    total_mbq: float | None = None
    percent_of_injected: float | None = None
    largest_bq_ml: float | None = None


class StudyReport(_Frozen):
    """What a look into one study folder found."""

    folder: str
    patient_id: str = ""
    nuclide: str = ""
    injected_activity_mbq: float | None = None
    decay_corrected_to: str = "none"
    ct_grid: str = ""
    time_points: tuple[ScanFigures, ...] = ()
    refused: tuple[Refusal, ...] = ()
    alarms: tuple[Alarm, ...] = ()
    state: State = "ok"

    def refuse(self, reason: StudyError) -> StudyReport:
        """The same, refused for one more reason."""
        more = (*self.refused, Refusal(message=reason.message, hint=reason.hint))
        return self.model_copy(update={"refused": more, "state": "refused"})

    def count(self, severity: str) -> int:
        """Findings of a severity."""
        return sum(alarm.severity == severity for alarm in self.alarms)


class FolderReport(_Frozen):
    """What a look into a folder of studies found."""

    schema_: Literal["doselabel.check/1"] = Field(default="doselabel.check/1", alias="schema")
    root: str
    studies: tuple[StudyReport, ...]

    model_config = ConfigDict(frozen=True, populate_by_name=True)

    def count(self, state: State) -> int:
        """Studies in a state."""
        return sum(study.state == state for study in self.studies)


def check(study: Study, images: Images | None = None) -> list[Alarm]:
    """Look into every image of a study; what does not stop the work comes back, the gravest first.

    ``images`` hands on what is read.

    Raises
    ------
    StudyError
        Naming file and field of everything that can't be used.
    """
    report = examine(study, images)
    if report.refused:
        raise StudyError(
            " ".join(reason.message for reason in report.refused),
            " ".join(dict.fromkeys(reason.hint for reason in report.refused if reason.hint)),
        )
    return list(report.alarms)


def examine(study: Study, images: Images | None = None) -> StudyReport:
    """Look into every image of a study; ``images`` hands on what is read."""
    return _Examination(study, images).report()


def examine_folder(root: str | Path) -> FolderReport:
    """Look into a study, or every study of a folder, and whether they can live together.

    Raises
    ------
    StudyError
        When there is none.
    """
    folders = Study.find(root)
    if not folders:
        raise StudyError(
            f"{root}: holds no study.json, neither itself nor in its subfolders.",
            "Give a study folder or a folder of studies; `doselabel sample DIR` makes some.",
        )
    studies = []
    for folder in folders:
        try:
            studies.append(examine(Study.load(folder)))
        except DoselabelError as error:
            said = Refusal(message=error.message, hint=error.hint)
            studies.append(StudyReport(folder=str(folder), refused=(said,), state="refused"))
    by_id: dict[str, list[str]] = {}
    for study in studies:
        if study.patient_id:
            by_id.setdefault(study.patient_id, []).append(Path(study.folder).name)
    for i, study in enumerate(studies):
        twins = [name for name in by_id.get(study.patient_id, []) if name != Path(study.folder).name]
        if twins:
            studies[i] = study.refuse(
                StudyError(
                    f"{Path(study.folder) / MANIFEST}: field 'patient_id' is '{study.patient_id}', as in "
                    f"{', '.join(repr(name) for name in twins)}; the server knows patients by it.",
                    "Give every study its own patient_id; two therapy cycles of one patient are P-017-1 and P-017-2.",
                )
            )
    return FolderReport(root=str(root), studies=tuple(studies))


class _Examination:
    """One look into one study, collecting refusals and findings."""

    def __init__(self, study: Study, images: Images | None) -> None:
        self._study, self._where = study, study.folder / MANIFEST
        self._images = images
        self._refused: list[Refusal] = []
        self._found: list[Alarm] = []
        self._seen: list[Seen] = []
        self._scans: list[ScanFigures] = []
        self._lattices: list[Lattice] = []
        self._looked_at = {study.ct}

    def _read(self, field: str, name: str) -> Volume:
        # Without somebody to hand it on to, no image is kept.
        return (self._images or Images(self._study)).read(field, name)

    def _spect(self, index: int, stored: Volume) -> Volume:
        return self._images.spect(index) if self._images is not None else read_spect(self._study, index, stored)

    def report(self) -> StudyReport:
        study = self._study
        nuclide: Nuclide | None = None
        with self._refusing("nuclide"):
            nuclide = find_nuclide(study.nuclide)
        self._same_stems()
        self._conventions()
        self._stated()
        ct_grid = ""
        with self._refusing():
            ct = self._read("ct", study.ct)
            ct_grid = _grid(ct.geometry)
            check_ct(ct, f"{self._where}: field 'ct' ({study.ct})")
            self._found += of_image(ct, "ct", f"ct ({study.ct})", file=study.ct)
        for index in range(len(study.time_points)):
            self._time_point(index, nuclide)
        sized = not any(alarm.code == "image-size" for alarm in self._found)  # else totals are wrong as well
        if nuclide is not None and len(self._seen) == len(study.time_points) and sized:
            self._found += judge(self._seen, nuclide, study.injected_activity_mbq)
        if len(self._lattices) == len(study.time_points):
            self._found += places(self._lattices, [point.time_h for point in study.time_points])
        alarms = tuple(ordered(self._found))
        grave = any(alarm.severity == "alarm" for alarm in alarms)
        return StudyReport(
            folder=str(study.folder),
            patient_id=study.patient_id,
            nuclide=study.nuclide,
            injected_activity_mbq=study.injected_activity_mbq,
            decay_corrected_to=study.decay_corrected_to,
            ct_grid=ct_grid,
            time_points=tuple(self._scans),
            refused=tuple(dict.fromkeys(self._refused)),
            alarms=alarms,
            state="refused" if self._refused else "alarm" if grave else "ok",
        )

    @contextmanager
    def _refusing(self, field: str = "") -> Iterator[None]:
        """Keep what is refused inside and go on behind it."""
        try:
            yield
        except DoselabelError as error:
            message = f"{self._where}: field '{field}': {error.message}" if field else error.message
            self._refused.append(Refusal(message=message, hint=error.hint))

    def _time_point(self, index: int, nuclide: Nuclide | None) -> None:
        study, point, field = self._study, self._study.time_points[index], f"time_points[{index}]"
        figures: dict[str, object] = {}
        ct = spect = None
        with self._refusing():
            ct = self._read(f"{field}.ct", point.ct)
            figures["ct_grid"] = _grid(ct.geometry)
            check_ct(ct, f"{self._where}: field '{field}.ct' ({point.ct})")
            if point.ct not in self._looked_at:
                self._looked_at.add(point.ct)
                self._found += of_image(ct, "ct", f"{field}.ct ({point.ct})", time_point=index, file=point.ct)
        with self._refusing():
            stored = self._read(f"{field}.spect", point.spect)
            figures["spect_grid"] = _grid(stored.geometry)
            check_spect(stored, f"{self._where}: field '{field}.spect' ({point.spect})")
            spect = stored if nuclide is None else self._spect(index, stored)
            self._found += of_image(
                stored, "spect", f"{field}.spect ({point.spect})", time_point=index, file=point.spect
            )
            seen = look(spect, index, point.spect, point.time_h, stored.array)
            self._seen.append(seen)
            figures |= {"total_mbq": seen.total_mbq, "largest_bq_ml": seen.largest}
            if nuclide is not None:
                figures["percent_of_injected"] = 100 * seen.share(nuclide, study.injected_activity_mbq)
        if ct is not None and spect is not None:
            with self._refusing():
                self._same_room(spect.geometry, ct.geometry, index)
                if self._images is None:  # else they are for a calculation, which judges places by its masks
                    self._lattices.append(Lattice.of(spect, ct, np.asarray(point.spect_to_ct.matrix)))
        for name, file in point.exclude.items():
            with self._refusing(f"{field}.exclude.{name}"):
                if name != ALL_ORGANS:
                    region(name)
            with self._refusing():
                mask = self._read(f"{field}.exclude.{name}", file)
                check_exclusion(mask, ct, f"{self._where}: field '{field}.exclude.{name}' ({file})", point.ct)
                if not mask.array.any():
                    sentence = f"{field}.exclude.{name} ({file}): the mask is 0 everywhere, so nothing is left out."
                    self._found.append(finding("exclusion-empty", sentence, time_point=index, file=file))
        self._scans.append(
            ScanFigures(time_point=index, time_h=point.time_h, spect=point.spect, ct=point.ct, **figures)  # type: ignore[arg-type]
        )

    def _same_room(self, spect: Geometry, ct: Geometry, index: int) -> None:
        point = self._study.time_points[index]
        if not placed(spect, np.asarray(point.spect_to_ct.matrix)).overlaps(ct):
            raise StudyError(
                f"{self._where}: field 'time_points[{index}].spect' ({point.spect}) lies outside the CT '{point.ct}' "
                "in patient space.",
                "Check the origins, or store the right spect_to_ct.",
            )

    def _same_stems(self) -> None:
        """CTs that the server and label folders could not tell apart: they know a CT by its file name alone."""
        study, by_id = self._study, dict[str, list[str]]()
        for name in dict.fromkeys([study.ct, *(point.ct for point in study.time_points)]):
            by_id.setdefault(image_id(study.patient_id, name), []).append(name)
        for names in (names for names in by_id.values() if len(names) > 1):
            with self._refusing():
                raise StudyError(
                    f"{self._where}: the CTs {', '.join(map(repr, names))} have one name without folder and suffix, by "
                    "which label maps and the server know them.",
                    "Give every CT its own file name (ct_tp3.nii.gz, ct_tp4.nii.gz).",
                )

    def _stated(self) -> None:
        """Places that are stated of no file, or of one that says itself where it is, and otherwise."""
        study, named = self._study, {name for _, name in self._study.files()}
        for name in study.stated_places:
            field = f"{self._where}: field 'stated_places'"
            with self._refusing():
                if name not in named:
                    raise StudyError(
                        f"{field}: names '{name}', which is no image of the study.", "Correct the name, or delete it."
                    )
                try:
                    own = read_grid(study.path(name), within=study.folder)
                except DoselabelError:
                    continue  # what is wrong with the file is said where it is read
                stated = study.stated_place(name)
                assert stated is not None
                there = stated.grid(own.shape)
                if not np.allclose([*there.direction, *there.spacing_mm], [*own.direction, *own.spacing_mm], atol=1e-2):
                    raise StudyError(
                        f"{field}: states of '{name}' axes to {stated.orientation} and {stated.spacing_mm} mm; the "
                        f"file says itself where it is: {own.words()}.",
                        "Delete the entry, or correct the file.",
                    )

    def _conventions(self) -> None:
        points = self._study.time_points
        unstated = [i for i, point in enumerate(points) if point.scan_duration_min is None]
        self._dead_time()
        if self._study.decay_corrected_to == "scan_start" and unstated:
            sentence = (
                "The SPECTs are corrected to their scans' start and the duration of "
                f"{', '.join(f'time_points[{i}]' for i in unstated)} is not stated; their middle is taken for the "
                "start."
            )
            self._found.append(finding("scan-duration-unknown", sentence, numbers={"scans": len(unstated)}))

    def _dead_time(self) -> None:
        """What was stated for a correction of dead time and can't make one."""
        study, camera = self._study, None
        with self._refusing():
            camera = study.camera_file()
        known = study.spect_unit == "counts" and camera is not None and camera.dead_time is not None
        stated = [f"time_points[{i}]" for i, p in enumerate(study.time_points) if p.count_rate_cps is not None]
        unstated = [f"time_points[{i}]" for i, p in enumerate(study.time_points) if p.count_rate_cps is None]
        if known and unstated:
            sentence = f"The camera file has a dead time, and count_rate_cps of {', '.join(unstated)} is not stated"
        elif stated and not known:
            why = "the camera file has no dead time" if study.spect_unit == "counts" else "the SPECTs are in Bq/mL"
            sentence = f"count_rate_cps of {', '.join(stated)} is stated, and {why}"
        else:
            return
        left = len(unstated) if known else len(stated)
        self._found.append(
            finding("dead-time-uncorrected", f"{sentence}: not corrected for dead time.", numbers={"scans": left})
        )


def _grid(geometry: Geometry) -> str:
    """Voxels and their size, x first as users know it."""
    shape = "×".join(str(n) for n in reversed(geometry.shape))
    return f"{shape}, {' × '.join(f'{s:.3g}' for s in reversed(geometry.spacing_mm))} mm"
