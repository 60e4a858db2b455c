"""A plan carried out: images and manifest become a study, or are added to the one there is. The source is only read.

A new study is made in a folder of its own and checked there; it gets its name when nothing refuses it.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np

from doselabel import disk
from doselabel.camera import Camera
from doselabel.dicom.answers import Answers
from doselabel.dicom.plan import Plan, Point
from doselabel.dicom.pseudonym import Key
from doselabel.dicom.series import Series
from doselabel.dicom.volume import ct_volume, read_volume
from doselabel.errors import DicomError, Progress, no_progress
from doselabel.geometry import Volume, write_image
from doselabel.nuclides import nuclide as find_nuclide
from doselabel.study import MANIFEST, ORIGIN, Study, TimePoint
from doselabel.study_check import StudyReport, examine
from doselabel.study_fields import Reporting

_ONE_INJECTION = timedelta(hours=1)
_CYCLES_APART = timedelta(days=7)
_CAMERA = "camera.json"


@dataclass(frozen=True)
class Imported:
    """What an import did."""

    folder: Path
    added: tuple[str, ...]
    report: StudyReport
    labels: tuple[str, ...] = ()
    """What became of drawn organs."""


def import_study(
    plan: Plan, answers: Answers, studies: str | Path, key: Key, progress: Progress = no_progress
) -> Imported:
    """Write a plan that has no question left as a study, or add its new time points to the study there is.

    Raises
    ------
    DicomError
        When questions are open, the study there is says otherwise, or `study check` would refuse the result.
    """
    if plan.questions:
        raise DicomError(
            "The files do not say all that a dose needs: " + " ".join(q.text for q in plan.questions),
            "Answer: " + ", ".join(dict.fromkeys(q.flag for q in plan.questions)) + "; docs/clinic.md.",
        )
    studies = Path(studies)
    studies.mkdir(parents=True, exist_ok=True)
    folder, existing = _place(plan, answers, studies, key)
    key.save()  # first: a study without its key can't be found again
    if existing is not None:
        done = _extend(existing, plan, key, progress)
        return replace(done, labels=_drawn(Study.load(folder), plan, key))
    staged = Path(tempfile.mkdtemp(prefix=".importing-", dir=studies))
    try:
        _write_new(staged, folder.name, plan, answers, key, progress)
        report = _checked(staged)
        labels = _drawn(Study.load(staged), plan, key)
        os.chmod(staged, 0o755)
        staged.rename(folder)
    except BaseException:
        shutil.rmtree(staged, ignore_errors=True)
        raise
    report = report.model_copy(update={"folder": str(folder)})
    return Imported(folder, tuple(p.spect for p in Study.load(folder).time_points), report, labels)


def _drawn(study: Study, plan: Plan, key: Key) -> tuple[str, ...]:
    """Drawn organs as label versions."""
    if not plan.drawn:
        return ()
    from doselabel.dicom.labels import add_versions

    files = {entry["series_uid"]: name for name, entry in origin_of(study.folder).items()}
    placed = [(d, files[uid], plan.stacks[d.ct.number]) for d in plan.drawn if (uid := key.uid(d.ct.uid)) in files]
    said = add_versions(study, placed, key)
    key.save()
    return tuple(said)


def origin_of(folder: Path) -> dict[str, dict[str, str]]:
    """File → what it came from, as `import_study` wrote it; empty for a study that was not imported."""
    try:
        return dict(json.loads((folder / ORIGIN).read_text("utf-8"))["files"])
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DicomError(f"{folder / ORIGIN}: can't be read ({error}).", "Restore it from a backup.") from error


def _place(plan: Plan, answers: Answers, studies: Path, key: Key) -> tuple[Path, Study | None]:
    """The study that the plan belongs to, or the name of a new one: each injection is a study of its own."""
    base = answers.patient_id or key.patient(plan.identity)
    if answers.patient_id is not None and not key.plain:
        key.patients[base] = plan.identity
    assert plan.injection_time is not None
    injected = key.moved(plan.identity, plan.injection_time)
    number = 1
    while True:
        folder = studies / (base if number == 1 else f"{base}-{number}")
        if not (folder / MANIFEST).is_file():
            if folder.exists():
                raise DicomError(f"{folder}: is there and is no study.", "Move it away.")
            return folder, None
        study = Study.load(folder)
        if study.injection_time is None or not origin_of(folder):
            raise DicomError(
                f"{folder}: was not made by an import from DICOM, and has the patient's name.", "Give --patient-id."
            )
        apart = abs(study.injection_time.replace(tzinfo=None) - injected)
        if apart <= _ONE_INJECTION:
            return folder, study
        if apart < _CYCLES_APART:
            raise DicomError(
                f"{folder}: has an injection {apart.total_seconds() / 3600:.1f} h apart from this one.",
                "Give the same --injection-time as before; another cycle is at least a week away.",
            )
        number += 1


def _write_new(folder: Path, name: str, plan: Plan, answers: Answers, key: Key, progress: Progress) -> None:
    origin: dict[str, dict[str, str]] = {}
    points = _time_points(folder, plan, plan.points, 1, key, origin, progress, known={})
    assert plan.diagnostic is not None
    ct = next((n for n, o in origin.items() if o["series_uid"] == key.uid(plan.diagnostic.uid)), None)
    if ct is None:
        ct = _write_ct(folder / "ct.nii.gz", plan.diagnostic, plan, key, origin)
    camera = None
    if answers.camera is not None:
        Camera.load(answers.camera)
        shutil.copyfile(answers.camera, folder / _CAMERA)
        camera = _CAMERA
    head = plan.points[0].scan.series.head
    corrections = sorted(plan.points[0].scan.series.corrections or ())
    assert plan.injection_time is not None
    Study(
        patient_id=name,
        description="Imported from DICOM.",
        nuclide=plan.nuclide,
        injected_activity_mbq=plan.activity_mbq,
        injection_time=key.moved(plan.identity, plan.injection_time),
        ct=ct,
        time_points=points,
        camera=camera,
        spect_unit="Bq/mL" if _in_bq(plan.points[0]) else "counts",
        decay_corrected_to=_common_decay(plan),  # type: ignore[arg-type]
        reporting=Reporting(
            radiopharmaceutical=plan.drug[:64],
            camera=" ".join(str(head.get(k) or "") for k in ("Manufacturer", "ManufacturerModelName")).strip(),
            corrections=", ".join(corrections),
        ),
    ).save(folder)
    _write_origin(folder, origin)


def _extend(study: Study, plan: Plan, key: Key, progress: Progress) -> Imported:
    """Add the scans that a study does not have yet; what is there stays as it is."""
    folder, origin = study.folder, origin_of(study.folder)
    known = {entry["sop_uid"] for entry in origin.values()}
    fresh = [p for p in plan.points if key.uid(_sop(p.scan.series)) not in known]
    if not fresh:
        return Imported(folder, (), examine(study))
    unit = "Bq/mL" if _in_bq(fresh[0]) else "counts"
    stated = {
        "nuclide": (study.nuclide, plan.nuclide),
        "injected activity": (round(study.injected_activity_mbq, 3), round(plan.activity_mbq, 3)),
        "unit of the SPECTs": (study.spect_unit, unit),
    }
    for what, (there, now) in stated.items():
        if there != now:
            raise DicomError(
                f"{folder}: its {what} is {there}; the new files say {now}.", "Correct the answer, or study.json."
            )
    before = study.model_copy(deep=True)
    before._folder = folder
    number = 1 + max((int("".join(filter(str.isdigit, p.spect)) or 0) for p in study.time_points), default=0)
    by_series = {entry["series_uid"]: name for name, entry in origin.items()}
    written: dict[str, dict[str, str]] = {}
    try:
        decay = study.decay_corrected_to
        points = _time_points(folder, plan, fresh, number, key, written, progress, known=by_series, decay=decay)
        study.time_points = sorted([*study.time_points, *points], key=lambda point: point.time_h)
        report = examine(study)
        if report.refused:
            raise DicomError(" ".join(r.message for r in report.refused), "The study is as it was.")
    except BaseException:
        for name in written:
            (folder / name).unlink(missing_ok=True)
        raise
    study.save()
    _write_origin(folder, {**origin, **written})
    return Imported(folder, tuple(p.spect for p in points), report)


def _time_points(
    folder: Path,
    plan: Plan,
    points: list[Point],
    first: int,
    key: Key,
    origin: dict[str, dict[str, str]],
    progress: Progress,
    known: dict[str, str],
    decay: str | None = None,
) -> list[TimePoint]:
    decay = _common_decay(plan) if decay is None else decay
    done, known = [], dict(known)
    for number, point in enumerate(points, start=first):
        progress(f"time point {number}", (number - first) / len(points))
        scan, spect = point.scan, f"spect_tp{number}.nii.gz"
        values = read_volume(scan.stack, scan.scale.values)
        factor = scan.duration_s if scan.scale.unit == "counts/s" else 1.0
        factor = (factor or 1.0) * _undone(plan, point, decay)
        write_image(folder / spect, Volume((values.array * factor).astype(np.float32), values.geometry))
        origin[spect] = _origin(scan.series, key)
        uid = key.uid(point.ct.uid)
        if uid not in known:
            known[uid] = _write_ct(folder / f"ct_tp{number}.nii.gz", point.ct, plan, key, origin)
        minutes = None if scan.duration_s is None else round(scan.duration_s / 60, 4)
        done.append(TimePoint(time_h=point.time_h, ct=known[uid], spect=spect, scan_duration_min=minutes))
    return done


def _write_ct(path: Path, series: Series, plan: Plan, key: Key, origin: dict[str, dict[str, str]]) -> str:
    write_image(path, ct_volume(plan.stacks[series.number]))
    origin[path.name] = _origin(series, key)
    return path.name


def _in_bq(point: Point) -> bool:
    return point.scan.scale.unit == "Bq/mL"


def _common_decay(plan: Plan) -> str:
    """The convention of all scans; where they differ, each is brought to the middle of its scan."""
    kinds = {point.scan.decay for point in plan.points}
    return kinds.pop() if len(kinds) == 1 else "none"


def _undone(plan: Plan, point: Point, wanted: str) -> float:
    """What brings a scan's values from its own convention to the study's."""
    scan, per_h = point.scan, find_nuclide(plan.nuclide).decay_constant_per_h
    if scan.decay == wanted:
        return 1.0
    half_h = (scan.duration_s or 0.0) / 7200
    since = {"none": 0.0, "injection": point.time_h, "scan_start": half_h}
    if wanted not in since:
        raise DicomError(
            f"The study's SPECTs are corrected to '{wanted}', which new files can't be.", "Make the study anew."
        )
    return math.exp(-per_h * (since[scan.decay] - since[wanted]))


def _sop(series: Series) -> str:
    return min(str(i.header.SOPInstanceUID) for i in series.instances)


def _origin(series: Series, key: Key) -> dict[str, str]:
    return {
        "series_uid": key.uid(series.uid),
        "sop_uid": key.uid(_sop(series)),
        "frame_of_reference_uid": key.uid(series.frame_of_reference),
    }


def _write_origin(folder: Path, files: dict[str, dict[str, str]]) -> None:
    content: dict[str, Any] = {"schema": "doselabel.dicom/1", "files": files}
    disk.write(folder / ORIGIN, json.dumps(content, indent=1) + "\n")


def _checked(folder: Path) -> StudyReport:
    report = examine(Study.load(folder))
    if report.refused:
        raise DicomError(
            "The study would not be usable: "
            + " ".join(
                r.message.replace(str(folder.resolve()) + "/", "").replace(str(folder) + "/", "")
                for r in report.refused
            ),
            " ".join(dict.fromkeys(r.hint for r in report.refused if r.hint)) + " Nothing was written.",
        )
    return report


def write_images(plan_series: list[Series], out: Path, key: Key) -> list[Path]:
    """Write every CT and SPECT alone, without a study: CTs to train on, a SPECT to look at, in its file's own unit."""
    from doselabel.dicom.scale import scale_of
    from doselabel.dicom.volume import stacked

    written = []
    for series in (s for s in plan_series if s.kind in ("ct", "spect")):
        stack = stacked(series)
        volume = ct_volume(stack) if series.kind == "ct" else read_volume(stack, scale_of(series).values)
        name = key.patient(series.instances[0].text("PatientID") or series.instances[0].text("PatientName"))
        path = out / f"{name}_{series.number:02d}_{series.kind}.nii.gz"
        written.append(write_image(path, volume))
    key.save()
    return written
