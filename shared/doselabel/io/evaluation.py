"""Evaluating masks: whose label map is compared with whose, what their doses differ by, what is written.

It knows files, cases and studies; the metrics are `doselabel.model.evaluate`'s, the doses `doselabel.dosimetry`'s.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from doselabel.alarms import Alarm, ordered
from doselabel.dosimetry import pipeline
from doselabel.errors import DoselabelError, ModelError, Progress, no_progress
from doselabel.geometry import SUFFIXES
from doselabel.io.evaluation_figures import box_plots, overlay
from doselabel.labels import SEGMENTED, LabelMap, read_labels, write_labels
from doselabel.model.cases import TrainCase, case_ct, case_labels, unlabelled
from doselabel.model.datasets import cases_from
from doselabel.model.evaluate import compare, evaluate
from doselabel.model.scores import OrganScore, write_scores
from doselabel.reading import folder_of
from doselabel.study import MANIFEST, Study

WORST = 4
"""How many of the worst masks are drawn."""


@dataclass
class Evaluation:
    """Scores, and what is kept to draw the worst of them.

    Attributes
    ----------
    rows : list of OrganScore
    notes : list of str
        What could not be compared or computed, and why.
    worst : list of (OrganScore, TrainCase, LabelMap)
        The lowest Dice of different CTs with a CT to draw on, and what was predicted there; the lowest first.
    about : dict
        What was compared.
    alarms : list of Alarm
        What was odd about the label maps, the gravest first.
    """

    rows: list[OrganScore] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    worst: list[tuple[OrganScore, TrainCase, LabelMap]] = field(default_factory=list)
    about: dict = field(default_factory=dict)
    alarms: list[Alarm] = field(default_factory=list)

    def hear(self, labels: LabelMap, whose: str) -> None:
        """Take what was odd about a label map."""
        self.alarms = ordered([*self.alarms, *(alarm.of_file(whose) for alarm in labels.findings)])

    def add(self, case: TrainCase, predicted: LabelMap, rows: Sequence[OrganScore]) -> None:
        """Take the scores of one CT."""
        self.rows += rows
        if rows:
            lowest = min(rows, key=lambda row: row.dice)
            self.worst = sorted([*self.worst, (lowest, case, predicted)], key=lambda kept: kept[0].dice)[:WORST]

    def write(self, out: Path) -> list[Path]:
        """Write ``scores.csv``, ``scores.json``, ``scores.png`` (box plots) and ``worst_1.png`` …"""
        out = Path(out)
        files = list(
            write_scores(
                self.rows, out, {**self.about, "alarms": [a.model_dump() for a in self.alarms], "notes": self.notes}
            )
        )
        for old in out.glob("worst_*.png"):
            old.unlink()
        if self.rows:
            files.append(box_plots(self.rows, out / "scores.png"))
        for number, (row, case, predicted) in enumerate(self.worst, start=1):
            ct = case_ct(case)
            files.append(overlay(row, ct, predicted, case_labels(case, ct), out / f"worst_{number}.png"))
        return files


def evaluate_model(
    checkpoint: Path,
    cases: Sequence[TrainCase],
    *,
    planes: Sequence[str] = ("axial",),
    reading: Mapping[str, Any] | None = None,
    doses: bool = False,
    progress: Progress = no_progress,
) -> Evaluation:
    """Segment cases with a checkpoint and score them.

    Parameters
    ----------
    planes, reading
        As in `doselabel.model.evaluate.evaluate`.
    doses : bool
        Compute doses with both masks, for those cases that are CTs of a study.
    """
    told = {name: value for name, value in (reading or {}).items() if value is not None}
    result = Evaluation(about={"checkpoint": str(checkpoint), "planes": list(planes), **told})
    with TemporaryDirectory(prefix="doselabel-doses-") as folder:

        def seen(case: TrainCase, predicted: LabelMap, truth: LabelMap, rows: list[OrganScore]) -> None:
            result.add(case, predicted, rows)
            result.hear(truth, f"{case.patient}/{case.labels.name}")
            if doses:
                _keep(case, predicted, truth, Path(folder))

        share = 0.7 if doses else 1.0
        evaluate(
            checkpoint, cases, planes=planes, reading=reading, seen=seen,
            progress=lambda stage, fraction: progress(stage, share * fraction),
        )  # fmt: skip
        if doses:
            _add_doses(result, cases, Path(folder), lambda stage, f: progress(stage, share + (1 - share) * f))
    return result


def evaluate_files(
    predicted: Path,
    truth: Path,
    *,
    predicted_scheme: str | None = None,
    truth_scheme: str | None = None,
    layout: str | None = None,
    organs: Sequence[str] = (),
    merge_lesions: bool = True,
    doses: bool = False,
    progress: Progress = no_progress,
) -> Evaluation:
    """Compare label maps with label maps.

    Parameters
    ----------
    predicted, truth : Path
        Two files; or two folders. ``truth`` may be any folder of cases (`doselabel.model.datasets`), whose CTs are
        then known, or a folder of label maps. A prediction belongs to the case whose patient, CT or label map has
        its name: ``P-017.nii.gz``, ``P-017__ct.nii.gz``, ``P-017/ct.nii.gz``.
    predicted_scheme, truth_scheme : str, optional
        How the values are numbered, when maps don't carry our names.
    layout : str, optional
        Of ``truth``.
    organs : sequence of str
        Default: what the network segments, and what else is in both.

    Raises
    ------
    ModelError
        When a file is missing or nothing fits together.
    """
    result = Evaluation(about={"predicted": str(predicted), "truth": str(truth)})
    matched = _matched(Path(predicted), Path(truth), truth_scheme, layout, result.notes)
    with TemporaryDirectory(prefix="doselabel-doses-") as folder:
        for number, (file, matching) in enumerate(matched):
            progress("comparing", number / len(matched))
            case = dataclasses.replace(matching, merge_lesions=merge_lesions)
            ct = case_ct(case) if case.ct.exists() else None
            true_map = case_labels(case, ct)
            map_ = read_labels(
                file, scheme=predicted_scheme, within=folder_of(file), ct=ct, merge_lesions=merge_lesions
            )
            result.hear(true_map, f"truth {case.patient}/{case.labels.name}")
            result.hear(map_, f"prediction {file.name}")
            names = organs or [
                name
                for name in dict.fromkeys([*SEGMENTED, *true_map.present()])
                if name in true_map.present() and (name in SEGMENTED or name in map_.present())
            ]
            drawn = [name for name in names if name not in unlabelled(case, true_map, names)]
            rows = compare(map_, true_map, drawn, patient=case.patient, ct=case.ct.name)
            if case.ct.exists():
                result.add(case, map_, rows)
            else:
                result.rows += rows
            if doses:
                _keep(case, map_, true_map, Path(folder))
        if doses:
            _add_doses(result, [case for _, case in matched], Path(folder), progress)
    progress("comparing", 1.0)
    if not result.rows:
        raise ModelError(
            f"{truth}: none of the {len(matched)} map(s) shows an organ to compare"
            + (f" ({', '.join(organs)})." if organs else "."),
            "State how its values are numbered: --label-scheme.",
        )
    return result


# ---- which prediction belongs to which truth


def _matched(
    predicted: Path, truth: Path, scheme: str | None, layout: str | None, notes: list[str]
) -> list[tuple[Path, TrainCase]]:
    for path in (predicted, truth):
        if not path.exists():
            raise ModelError(f"{path}: there is no such file or folder.", "Check the path.")
    if predicted.is_file() and truth.is_file():
        return [(predicted, TrainCase(_no_ct(truth), truth, _stem(truth), scheme=scheme))]
    if predicted.is_file() or truth.is_file():
        raise ModelError(
            f"{predicted} and {truth}: one is a file, the other a folder.", "Give two files, or two folders."
        )
    files = sorted(p for p in predicted.rglob("*") if p.is_file() and p.name.lower().endswith(SUFFIXES))
    cases = _true_cases(truth, scheme, layout)
    matched, left = [], list(files)
    for case in cases:
        file = next((p for name in _names(case, cases) for p in left if _relative(p, predicted) == name), None)
        if file is None:
            notes.append(f"no prediction for {case.patient}/{case.ct.name}")
            continue
        left.remove(file)
        matched.append((file, case))
    notes += [f"no truth for {file}" for file in left]
    if not matched:
        raise ModelError(
            f"{predicted}: none of its {len(files)} label map(s) is named like one of the {len(cases)} case(s) "
            f"of {truth}.",
            f"Name them by patient or CT, for example {next(iter(_names(cases[0], cases)))}.nii.gz.",
        )
    return matched


def _true_cases(truth: Path, scheme: str | None, layout: str | None) -> list[TrainCase]:
    try:
        return cases_from(truth, layout, scheme=scheme, truth_first=True)
    except ModelError:
        files = sorted(p for p in truth.rglob("*") if p.is_file() and p.name.lower().endswith(SUFFIXES))
        if layout or not files:
            raise
    return [TrainCase(_no_ct(file), file, _relative(file, truth), scheme=scheme) for file in files]


def _names(case: TrainCase, cases: Sequence[TrainCase]) -> dict[str, None]:
    """Names a prediction of this case may have, the surest first."""
    ct, own = _stem(case.ct), _stem(case.labels)
    names = [f"{case.patient}/{ct}", f"{case.patient}__{ct}", f"{case.patient}/{own}"]
    if sum(other.patient == case.patient for other in cases) == 1:
        names.append(case.patient)
    names += [name for name in (ct, own) if sum(name in (_stem(o.ct), _stem(o.labels)) for o in cases) == 1]
    return dict.fromkeys(names)


def _relative(file: Path, root: Path) -> str:
    return str(file.relative_to(root).with_name(_stem(file)))


def _stem(path: Path) -> str:
    stem = next((path.name[: -len(s)] for s in SUFFIXES if path.name.lower().endswith(s)), path.name)
    return re.sub(r"(_0000|_labels?|_seg|_pred|\.seg)$", "", stem)


def _no_ct(labels: Path) -> Path:
    """A label map that is compared by itself: there is no CT to draw on."""
    return labels.with_name(f"{_stem(labels)} (no CT)")


# ---- doses


def _keep(case: TrainCase, predicted: LabelMap, truth: LabelMap, folder: Path) -> None:
    """Keep both maps on disk until all CTs of the study have been seen."""
    if (case.ct.parent / MANIFEST).is_file():
        for side, labels in (("predicted", predicted), ("truth", truth)):
            write_labels(folder / case.patient / side / f"{_stem(case.ct)}.nii.gz", labels)


def _add_doses(result: Evaluation, cases: Sequence[TrainCase], folder: Path, progress: Progress) -> None:
    """Put the dose errors into the rows of the studies' diagnostic CTs."""
    studies = {case.patient: case.ct.parent for case in cases if (folder / case.patient).is_dir()}
    if not studies:
        result.notes.append("no doses: none of the cases is a CT of a study with SPECT")
    for number, (patient, path) in enumerate(sorted(studies.items())):
        progress(f"doses of {patient}", number / len(studies))
        study = Study.load(path)
        try:
            errors = dose_errors_percent(study, folder / patient / "predicted", folder / patient / "truth")
        except DoselabelError as error:
            result.notes.append(f"no doses of {patient}: {error.message}")
            continue
        result.rows = [
            dataclasses.replace(row, dose_error_percent=errors[row.organ])
            if row.patient == patient and row.ct == Path(study.ct).name and row.organ in errors
            else row
            for row in result.rows
        ]


def dose_errors_percent(study: Study, predicted: Path, truth: Path) -> dict[str, float]:
    """Mean absorbed dose of each organ with one folder of masks over that with another, minus 1, in percent.

    The rest of the calculation is the same on both sides: the study's default method.
    """
    with TemporaryDirectory(prefix="doselabel-doses-") as cache:
        sides = [pipeline.run(study, labels, cache=cache).organs for labels in (predicted, truth)]
    return {
        name: 100 * (sides[0][name].mean_dose_gy / true.mean_dose_gy - 1)
        for name, true in sides[1].items()
        if name in sides[0] and true.mean_dose_gy > 0
    }
