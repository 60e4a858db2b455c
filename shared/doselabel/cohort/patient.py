"""One patient of a cohort: segment, register, dose, train-data, evaluate, each by the function that its command calls.

Everything is written to the patient's folder in the cohort; the study is only read. What is finished is not done again
(`doselabel.cohort.record`).
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from doselabel.cohort.record import once
from doselabel.dosimetry import pipeline
from doselabel.dosimetry.options import DoseOptions
from doselabel.dosimetry.results import DOSE_MAP, RESULTS, read_results
from doselabel.dosimetry.uptake.masks import where
from doselabel.errors import Cancelled, DoselabelError, LabelError, Progress, no_progress, part
from doselabel.geometry import SUFFIXES, write_image
from doselabel.io.compare import labels_of
from doselabel.io.study_dose import dose_study, truth_of
from doselabel.labels import read_labels, write_labels
from doselabel.study import MANIFEST, Study, image_id
from doselabel.submitted import Submitted

TASKS = ("segment", "register", "dose", "train-data", "evaluate")
DATASET = "dataset"
"""Folder of what `train-data` makes, in the cohort's."""


@dataclass(frozen=True)
class Job:
    """What is to be done of one patient.

    Attributes
    ----------
    study : Path
        The study's folder.
    out : Path
        The cohort's folder.
    tasks : tuple of str
        Of `TASKS`.
    labels : str
        Tag, folder or file of the label maps that count; where a study has none for its diagnostic CT, those that
        `segment` made count.
    checkpoint : Path, optional
        Default: the starter model.
    reading : dict
        ``planes``, ``consensus``, ``score_threshold``, ``gap_fill`` of `doselabel.model.predict.segment`.
    options : dict
        Of the dose.
    report : bool
        Whether each patient's dose gets a report.
    """

    study: Path
    out: Path
    tasks: tuple[str, ...]
    labels: str = "final"
    checkpoint: Path | None = None
    reading: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    report: bool = True


@dataclass
class Outcome:
    """What came of one patient.

    Attributes
    ----------
    name : str
        The study folder's.
    patient_id : str
    computed, reused : list of str
        Steps that were done now, or before.
    results : dict
        Step → what it says of itself.
    error : dict, optional
        ``step``, ``message`` and ``hint``: why the rest was not done.
    """

    name: str
    patient_id: str = ""
    computed: list[str] = field(default_factory=list)
    reused: list[str] = field(default_factory=list)
    results: dict[str, Any] = field(default_factory=dict)
    error: dict[str, str] | None = None


def work(job: Job, progress: Progress = no_progress) -> Outcome:
    """Do what is left to do of one patient; what a user can mend is in the outcome's ``error``, nothing is raised."""
    from filelock import FileLock

    found = Outcome(job.study.name)
    step = "study"
    home = job.out / job.study.name
    try:
        home.mkdir(parents=True, exist_ok=True)
        with FileLock(str(home / ".lock")):  # another worker may still be at it, for a client that is gone
            study = Study.load(job.study)
            found.patient_id = study.patient_id
            for number, step in enumerate(t for t in TASKS if t in job.tasks):
                share = part(progress, number / len(job.tasks), (number + 1) / len(job.tasks))
                _STEPS[step](_Patient(study, job, home, found), share)
    except DoselabelError as error:
        found.error = {"step": step, "message": error.message, "hint": error.hint}
    except Cancelled:
        raise
    except Exception as error:  # a defect of ours, a full disk: told, and the other patients go on
        found.error = {"step": step, "message": f"{type(error).__name__}: {error}", "hint": ""}
    return found


@dataclass(frozen=True)
class _Patient:
    study: Study
    job: Job
    home: Path
    found: Outcome

    def once(self, name: str, inputs: list[Path], options: Any, made: list[Path], make: Any) -> Any:
        record = self.home / f"{name.replace('/', '_')}.json"
        done = once(record, inputs, {"step": name, "options": options}, made, make)
        (self.found.reused if done.reused else self.found.computed).append(name)
        self.found.results[name] = done.result
        return done.result

    def final(self, ct: str) -> Path | None:
        """The submitted label map of a CT that counts."""
        return Submitted.of(self.study, ct).final_path()

    def predicted(self, ct: str) -> Path:
        """Where `segment` puts a CT's label map."""
        return self.home / "segment" / f"{self.stem(ct)}.nii.gz"

    def stem(self, ct: str) -> str:
        return image_id(self.study.patient_id, ct).partition("__")[2]

    def masks(self) -> tuple[str | Path, list[Path], bool]:
        """Whose masks the dose takes, as `doselabel dose --labels` is told; their files; whether all are approved."""
        labels: str | Path = labels_of(self.study, self.job.labels)
        try:
            files, _, reviewed = where(self.study, labels)
        except LabelError as error:
            if not self.predicted(self.study.ct).is_file():
                hint = error.hint if "segment" in self.job.tasks else f"{error.hint} Or add the task 'segment'."
                raise LabelError(error.message, hint) from error
            labels = self.home / "segment"
            files, _, reviewed = where(self.study, labels)
        return labels, sorted(files.values()), reviewed

    def drawn(self) -> bool:
        """Whether the study has masks for its diagnostic CT."""
        try:
            where(self.study, labels_of(self.study, self.job.labels))
        except LabelError:
            return False
        return True

    def files(self) -> list[Path]:
        """All that the study's manifest names, and itself."""
        names = [name for _, name in self.study.files()]
        names += [name for name in (self.study.camera, self.study.blood_samples) if name]
        return [self.study.folder / MANIFEST, *(self.study.path(name) for name in dict.fromkeys(names))]


# ---- the steps


def _segment(one: _Patient, progress: Progress) -> None:
    """Those CTs whose masks are needed: all of a patient without any, and to evaluate those that somebody drew."""
    drawn = one.drawn()
    wanted = [ct for ct in one.study.cts().values() if not drawn or ("evaluate" in one.job.tasks and one.final(ct))]
    if not wanted:  # no need to load the network
        return
    from doselabel.model.checkpoint import starter_path

    checkpoint = one.job.checkpoint or starter_path()
    for number, ct in enumerate(wanted):
        share = part(progress, number / len(wanted), (number + 1) / len(wanted))
        stated = one.study.stated_places.get(ct)
        options = {**one.job.reading, "stated": stated and stated.model_dump(mode="json")}
        out = one.predicted(ct)

        def make(ct: str = ct, out: Path = out, share: Progress = share) -> dict[str, Any]:
            return _segment_ct(one.study.path(ct), checkpoint, one.job.reading, out, share)

        inputs = [one.study.path(ct), checkpoint]
        one.once(f"segment/{one.stem(ct)}", inputs, options, [out], make)


def _segment_ct(
    ct: Path, checkpoint: Path, reading: Mapping[str, Any], out: Path, progress: Progress
) -> dict[str, Any]:
    from doselabel.model.datasets.own import spect_of
    from doselabel.model.predict import segment
    from doselabel.reading import read_of_study

    ready = _loaded(checkpoint, checkpoint.stat().st_mtime_ns)
    there = spect_of(ct) if ready.profile.spect else None
    found = segment(
        read_of_study(ct),
        ready,
        spect=read_of_study(there) if there else None,
        name=str(ct),
        progress=progress,
        **reading,
    )
    out.parent.mkdir(exist_ok=True)
    write_labels(out, found.labels)
    return found.summary.model_dump(mode="json")


@lru_cache(maxsize=1)
def _loaded(checkpoint: Path, _mtime_ns: int) -> Any:
    from doselabel.model.checkpoint import load

    return load(checkpoint)


def _register(one: _Patient, progress: Progress) -> None:
    labels, files, _ = one.masks()
    options = DoseOptions.read(dict(one.job.options))

    def make() -> list[dict[str, Any]]:
        return pipeline.register(one.study, labels, options, cache=one.home / ".cache", progress=progress)

    one.once("register", [*one.files(), *files], options.model_dump(mode="json"), [], make)


def _dose(one: _Patient, progress: Progress) -> None:
    labels, files, reviewed = one.masks()
    options, out = DoseOptions.read(dict(one.job.options)), one.home / "dose"
    truth = truth_of(one.study)

    def make() -> dict[str, Any]:
        cache = one.home / ".cache"
        results = dose_study(one.study, labels, options, out, cache=cache, report=one.job.report, progress=progress)
        shutil.rmtree(cache, ignore_errors=True)  # for a step that is interrupted; `register` keeps what it says
        left_out = {"organs": {"__all__": {"dvh", "tac"}}, "provenance": True}
        told = results.model_dump(mode="json", exclude=left_out)  # type: ignore[arg-type]
        return told | {"report": one.job.report}

    made = [out / RESULTS, out / DOSE_MAP, *([out / "report.html"] if one.job.report else [])]
    told = {**options.model_dump(mode="json"), "report": one.job.report, "reviewed": reviewed}
    one.once("dose", [*one.files(), *files, *([truth] if truth else [])], told, made, make)


def _train_data(one: _Patient, progress: Progress) -> None:
    """The CTs with a label map that counts, as ``dataset/<patient>/<ct>`` and ``dataset/<patient>/truth/<ct>``."""
    home = one.job.out / DATASET / one.job.study.name
    for ct, labels in _finals(one):
        source = one.study.path(ct)
        suffix = next(s for s in SUFFIXES if source.name.lower().endswith(s))
        stated = one.study.stated_place(ct)
        image = home / f"{one.stem(ct)}{'.nii.gz' if stated else suffix}"
        mask = home / "truth" / f"{one.stem(ct)}.nii.gz"

        def make(ct: str = ct, labels: Path = labels, image: Path = image, mask: Path = mask) -> dict[str, Any]:
            mask.parent.mkdir(parents=True, exist_ok=True)
            if one.study.stated_place(ct):
                write_image(image, one.study.read(ct))
            else:
                shutil.copyfile(one.study.path(ct), image)
            shutil.copyfile(labels, mask)
            version = Submitted.of(one.study, ct).final()
            assert version is not None
            return {"patient_id": one.study.patient_id, "ct": image.name} | version.model_dump(
                mode="json", include={"image_id", "version", "author", "approved", "sha256", "organs_ml", "created"}
            )

        one.once(f"train-data/{one.stem(ct)}", [source, labels], {}, [image, mask], make)


def _finals(one: _Patient) -> Iterator[tuple[str, Path]]:
    for ct in one.study.cts().values():
        if labels := one.final(ct):
            yield ct, labels


def _evaluate(one: _Patient, progress: Progress) -> None:
    """What the network draws against what counts: volumes of every CT that has both, and doses by both."""
    pairs = [(ct, final, one.predicted(ct)) for ct, final in _finals(one)]
    if missing := [ct for ct, _, predicted in pairs if not predicted.is_file()]:
        raise LabelError(
            f"{one.study.folder.name}: {', '.join(missing)}: was not segmented, so there is nothing to compare.",
            "Add the task 'segment'.",
        )
    if not pairs:
        one.found.results["evaluate"] = {"scores": [], "doses": {}}
        return
    options = DoseOptions.read(dict(one.job.options))
    both = [path for _, final, predicted in pairs for path in (final, predicted)]

    def make() -> dict[str, Any]:
        return {"scores": _scores(one, pairs), "doses": _both_doses(one, pairs, options, progress)}

    one.once("evaluate", [*one.files(), *both], options.model_dump(mode="json"), [], make)


def _scores(one: _Patient, pairs: list[tuple[str, Path, Path]]) -> list[dict[str, Any]]:
    from doselabel.model.evaluate import compare

    rows = []
    for ct, final, predicted in pairs:
        truth, found = read_labels(final), read_labels(predicted)
        names = [name for name in truth.present() if name in found.names.values()]
        scores = compare(found, truth, names, patient=one.study.patient_id, ct=ct)
        rows += [{name: value for name, value in vars(score).items() if value == value} for score in scores]
    return rows


def _both_doses(
    one: _Patient, pairs: list[tuple[str, Path, Path]], options: DoseOptions, progress: Progress
) -> dict[str, dict[str, float]]:
    """Organ → mean dose by the network's masks (``ai``) and by those that count (``final``), Gy."""
    if one.study.ct not in {ct for ct, _, _ in pairs}:
        return {}
    cache, finished = one.home / ".cache", one.home / "dose" / RESULTS
    by_final = (
        read_results(finished)
        if "dose" in one.found.results and one.job.labels == "final"
        else pipeline.run(one.study, "final", options, cache=cache, progress=part(progress, 0.0, 0.5))
    )
    drawn = one.home / "compared"  # the same CTs on both sides
    drawn.mkdir(exist_ok=True)
    for _, _, predicted in pairs:
        shutil.copyfile(predicted, drawn / predicted.name)
    by_ai = pipeline.run(one.study, drawn, options, cache=cache, progress=part(progress, 0.5, 1.0))
    shutil.rmtree(cache, ignore_errors=True)
    shutil.rmtree(drawn)
    return {
        name: {"ai": by_ai.organs[name].mean_dose_gy, "final": organ.mean_dose_gy}
        for name, organ in by_final.organs.items()
        if name in by_ai.organs
    }


_STEPS = {
    "segment": _segment,
    "register": _register,
    "dose": _dose,
    "train-data": _train_data,
    "evaluate": _evaluate,
}
