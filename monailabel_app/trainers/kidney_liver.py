"""Retraining on submitted label maps: a request → `doselabel.model.train.train` → a candidate and a decision.

It works on a snapshot (label versions never change), writes only into its own folder, and promotes nothing: the
server process does, when told to.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monailabel.interfaces.tasks.train import TrainTask

from doselabel import disk
from doselabel.alarms import Alarm, finding, ordered
from doselabel.errors import ModelError, Progress
from doselabel.files import file_sha256
from doselabel.labels import read_labels
from doselabel.wire import TrainingSummary
from monailabel_app.conf import REPLAY_MADE, REPLAY_NONE, Conf
from monailabel_app.datastore import StudyDatastore
from monailabel_app.models import ModelStore
from monailabel_app.request import number, plain, progress_of, staged, watch_of, yes
from monailabel_app.trainers.promotion import Decision, decidable, decide
from monailabel_app.trainers.split import validation_patients

if TYPE_CHECKING:
    from doselabel.model.cases import TrainCase

SNAPSHOT = "snapshot.json"
"""In the job's folder: the label versions that were there when the training began."""


PEAK_RATE = 3e-4
"""Of the learning rate. On six cases 60 steps at it bring as much as 200 at a third of it (docs/training.md)."""

SHOWN, LOOKS = 1, 3
"""So many validation CTs are looked at so often while it learns: that shows where it goes, and decides nothing."""


class TrainKidneyLiver(TrainTask):
    """Retrain the kidney and liver model on what was submitted."""

    def __init__(self, models: ModelStore, conf: Conf) -> None:
        super().__init__("Retrain kidneys and liver on the submitted label maps")
        self._models = models
        self._conf = conf

    def config(self) -> dict[str, Any]:
        """What a client may set."""
        return {"steps": self._conf.train_steps, "seed": 0, "promote": False}

    def __call__(self, request: dict[str, Any], datastore: StudyDatastore) -> dict[str, Any]:
        """Train; return the `TrainingSummary` under "training", the candidate's file, and whether to promote it.

        With ``"promote": true`` in the request the candidate is promoted whatever the decision; this is recorded.
        """
        from doselabel.model.cases import TrainCase
        from doselabel.model.datasets.own import spect_of
        from doselabel.model.evaluate import evaluate, summarize
        from doselabel.model.train import train

        steps = int(number(request, "steps", self._conf.train_steps, 1, 100_000) or 1)
        seed = int(number(request, "seed", 0, 0, 2**31) or 0)
        progress = progress_of(request)
        held_out = validation_patients(Path(self._conf.studies))
        final = [
            TrainCase(
                case.path, label, case.study.patient_id, spect=spect_of(case.path), absent=case.study.organs_absent
            )
            for case in datastore.cases()
            if (label := case.labels.tagged("final"))
        ]
        champion = self._models.champion()
        final, blank = _showing(final, champion)
        cases = [case for case in final if case.patient not in held_out]
        validation = [case for case in final if case.patient in held_out]
        if not cases:
            raise ModelError(
                "No label map to train on has been submitted yet"
                + (f" (those of the validation patients {', '.join(held_out)} do not count)." if held_out else "."),
                "Correct and submit at least one case first.",
            )
        snapshot = {"training": [_named(case) for case in cases], "validation": [_named(case) for case in validation]}
        out = Path(request.get("out") or self._conf.state / "runs" / f"{datetime.now(UTC):%Y%m%dT%H%M%S%f}")
        disk.make_folder(out)
        disk.write(out / SNAPSHOT, json.dumps(snapshot, indent=2))
        stages = staged(
            progress, {"replay set": 2, "loading": 1, "training": 20, "old model": 2, "new model": 2, "old domain": 2}
        )
        replay = self._replay(stages, held_out)
        result = train(
            cases,
            out / "model.safetensors",
            start=champion,
            steps=steps,
            learning_rate=PEAK_RATE,
            seed=seed,
            cache=self._conf.state / "prepared",
            replay=replay,
            card={"name": "kidney_liver", "label_versions": snapshot["training"]},
            progress=stages,
            validation=validation[:SHOWN],
            validate_every=max(1, steps // LOOKS),
            keep="last",
            watch=watch_of(request),
        )
        before, after = [], []
        if validation:
            before = evaluate(champion, validation, progress=lambda _, done: stages("old model", done))
            after = evaluate(result.checkpoint, validation, progress=lambda _, done: stages("new model", done))
        old_domain: tuple[list, list] = ([], [])
        if decidable(before):
            known = self._judging(lambda _, done: stages("old domain", done / 3), held_out)
            old_domain = (
                evaluate(champion, known, progress=lambda _, done: stages("old domain", (1 + done) / 3)),
                evaluate(result.checkpoint, known, progress=lambda _, done: stages("old domain", (2 + done) / 3)),
            )
        decision = decide(before, after, old_domain=old_domain)
        if yes(request, "promote") and not decision.promote:
            decision = Decision(True, f"Promoted because the request said so. {decision.reason}")
        (out / "history.json").write_text(json.dumps(result.history), "utf-8")
        summary = TrainingSummary(
            steps=steps,
            cases=len(cases),
            loss=[float(row["loss"]) for row in result.history],
            dice_before={name: figures["dice"] for name, figures in summarize(before).items()},
            dice_after={name: figures["dice"] for name, figures in summarize(after).items()},
            reason=decision.reason,
            model_sha256=file_sha256(result.checkpoint),
            alarms=ordered([*blank, *result.findings]),
        )
        sides = {"old_model": before, "new_model": after}
        sides |= {"old_model_on_old_domain": old_domain[0], "new_model_on_old_domain": old_domain[1]}
        scores = {side: [plain(asdict(row)) for row in rows] for side, rows in sides.items()}
        (out / "scores.json").write_text(json.dumps(scores), "utf-8")
        return {
            "training": summary.model_dump(mode="json"),
            "files": {"model": result.checkpoint.name, "history": "history.json", "snapshot": SNAPSHOT},
            "promote": decision.promote,
        }

    def _replay(self, progress: Progress, held_out: Sequence[str]) -> list[TrainCase]:
        """Earlier cases to train on again."""
        from doselabel.model.replay import replay_cases

        if self._conf.replay == REPLAY_MADE:
            return replay_cases(self._conf.state / "replay", progress)
        return self._earlier(held_out)[0]

    def _judging(self, progress: Progress, held_out: Sequence[str]) -> list[TrainCase]:
        """Other earlier cases, to see whether anything was lost."""
        from doselabel.model.replay import judging_cases

        if self._conf.replay == REPLAY_MADE:
            return judging_cases(self._conf.state / "replay", progress)
        return self._earlier(held_out)[1]

    def _earlier(self, held_out: Sequence[str]) -> tuple[list[TrainCase], list[TrainCase]]:
        from doselabel.model.datasets import cases_from
        from doselabel.model.replay import parted

        if self._conf.replay == REPLAY_NONE:
            return [], []
        return parted([case for case in cases_from(Path(self._conf.replay)) if case.patient not in held_out])


def _showing(cases: Sequence[TrainCase], champion: Path) -> tuple[list[TrainCase], list[Alarm]]:
    """Cases whose label maps show an organ of the model, and what is to be said of the others."""
    from doselabel.model.checkpoint import read_card

    classes = {*read_card(champion)[0].classes}
    shown, blank = [], []
    for case in cases:
        if classes & {*read_labels(case.labels).present()}:
            shown.append(case)
        else:
            said = f"{_named(case)} shows no organ of the model: it was left out of the training."
            blank.append(finding("label-empty", said, file=Path(case.labels).name))
    return shown, blank


def _named(case) -> str:
    return f"{case.patient}/{Path(case.labels).parent.name}/{Path(case.labels).name.removesuffix('.nii.gz')}"
