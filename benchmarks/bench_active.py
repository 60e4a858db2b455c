"""Which CT to correct next: what the server's own choice brings, against chance, and against never learning.

    python benchmarks/bench_active.py --work DIR [--phantoms 40] [--rounds 5] [--each 4] [--steps 60] [--device cuda]

A cohort of another domain (`bench_retrain.shifted`, with a SPECT each). In every round a few CTs are chosen, by
"active" (`monailabel_app.strategies.active`, scores of three planes, with its own third of chance) or by "random";
their true label maps are submitted, the model of that arm is trained on all of them and on replay, and looked at on
phantoms that nobody is offered. "none" is the paper's way: whatever is corrected, the model stays as it is.

Every round is kept in DIR: the same command goes on where it was stopped. Prints Dice and error of the mean dose
(local deposition, the SPECT's mean in the found mask against that in the true one) by CTs corrected, and writes them
as ``curves.json``; ``--figure docs/images/active.svg`` draws them.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
from pathlib import Path

import numpy as np
import torch
from bench_retrain import shifted
from scipy import ndimage

from doselabel.geometry import Volume, read_image, write_image
from doselabel.labels import LabelMap, write_labels
from doselabel.model.cases import TrainCase
from doselabel.model.checkpoint import starter_path
from doselabel.model.evaluate import evaluate
from doselabel.model.replay import replay_cases
from doselabel.model.train import train
from doselabel.study import Study
from doselabel.versions import ORIGINAL
from doselabel.wire import LabelSubmission
from monailabel_app.datastore import StudyDatastore
from monailabel_app.infers.kidney_liver import KidneyLiver
from monailabel_app.models import ModelStore
from monailabel_app.strategies import Random, Strategy, todo
from monailabel_app.strategies.active import Active
from monailabel_app.trainers.kidney_liver import PEAK_RATE

ARMS = ("active", "random", "none")
UPTAKE = {"left_kidney": 8.0, "right_kidney": 8.0, "liver": 2.0}
BODY_UPTAKE, FWHM_MM = 0.3, 12.0
Row = dict[str, float | int | str | dict[str, float]]


def spect_of(ct: Volume, labels: LabelMap) -> Volume:
    """What a camera sees of an uptake that is even in each organ."""
    activity = np.where(ct.array > -300, BODY_UPTAKE, 0.0)
    for value, name in labels.names.items():
        activity[labels.array == value] = UPTAKE.get(name, BODY_UPTAKE)
    sigma = [FWHM_MM / 2.355 / spacing for spacing in ct.geometry.spacing_mm]
    return Volume(ndimage.gaussian_filter(activity, sigma).astype(np.float32), ct.geometry)


def make(folder: Path, number: int) -> None:
    """One phantom as a patient, its truth beside the cohort."""
    name = f"shifted-{number:03d}"
    if (folder / name / "study.json").is_file():
        return
    ct, labels = shifted(number)
    write_image(folder / name / "ct.nii.gz", ct)
    write_image(folder / name / "spect.nii.gz", spect_of(ct, labels))
    write_labels(folder.parent / "truth" / f"{name}.nii.gz", labels)
    point = {"time_h": 24.0, "ct": "ct.nii.gz", "spect": "spect.nii.gz"}
    about = {"schema": "doselabel.study/1", "patient_id": name, "nuclide": "Lu-177", "injected_activity_mbq": 7400}
    Study.model_validate(about | {"ct": "ct.nii.gz", "time_points": [point]}).save(folder / name)


class Arm:
    """One way to choose, with a cohort, a model and a strategy of its own."""

    def __init__(self, name: str, work: Path, given: argparse.Namespace) -> None:
        self.name, self.given = name, given
        self.folder = work / name
        self.truth = work / "truth"
        if not (self.folder / "studies").is_dir():
            shutil.copytree(work / "studies", self.folder / "copying", dirs_exist_ok=True)
            (self.folder / "copying").rename(self.folder / "studies")
        self.store = StudyDatastore(self.folder / "studies")
        self.strategy: Strategy = Active(self.folder / "active.jsonl") if name == "active" else Random()

    def model(self, after: int) -> Path:
        """What answers after a round; at first the model that everything began with."""
        return self.folder / f"round-{after}" / "model.safetensors" if after else self.given.checkpoint

    def choose(self, number: int) -> list[str]:
        """The CTs of one round, which are submitted as they truly are."""
        if self.name == "active":
            self._predict(number)
        random.seed(1000 * self.given.seed + number)
        chosen = [case for case in self.store.cases() if self._round_of(case.image_id) == number]
        while len(chosen) < self.given.each and (left := todo({}, self.store)):
            found = self.strategy({"user": f"round {number}, {len(chosen)}"}, self.store)
            case = next(case for case in left if found and case.image_id == found["id"])
            said = LabelSubmission(author="bench", comment=f"round {number}")
            self.store.submit(case.image_id, self.truth / f"{case.study.patient_id}.nii.gz", said)
            chosen.append(case)
        return [case.image_id for case in chosen]

    def _round_of(self, image_id: str) -> int:
        final = self.store.case(image_id).labels.final()
        return int(final.comment.split()[1]) if final else 0

    def _predict(self, number: int) -> None:
        """Predictions by the model as it is, for those that wait."""
        model = ModelStore(self.folder / "no promotions", self.model(number - 1))
        task = KidneyLiver(model, planes="all", device=self.given.device)
        out = self.folder / "predicted"
        out.mkdir(exist_ok=True)
        for case in todo({}, self.store):
            known = case.labels.tag_info(ORIGINAL).get("params", {}).get("segmentation", {})
            if known.get("model_sha256") != model.sha256():
                asked = {"image": str(case.path), "out": str(out), "dose_doubt": True}
                file, answer = task(asked)
                self.store.put_tag(case.image_id, ORIGINAL, Path(file), {"params": answer})

    def learn(self, number: int) -> None:
        """Train on everything that was submitted so far."""
        cases = [
            TrainCase(case.path, case.labels.tagged("final"), case.study.patient_id)
            for case in self.store.cases()
            if case.labels.count()
        ]
        replay = [] if self.given.replay == "none" else replay_cases(self.folder.parent / "replay")
        train(
            cases,
            self.folder / f"round-{number}",
            start=self.model(number - 1),
            steps=self.given.steps,
            learning_rate=PEAK_RATE,
            seed=self.given.seed + number,
            device=self.given.device,
            replay=replay,
            checkpoint_every=50,
            cache=self.folder.parent / "prepared",
        )


def look(model: Path, cases: list[TrainCase], spects: dict[str, Volume], device: str) -> dict[str, dict]:
    """Dice and error of the mean dose (%), means over phantoms that nobody is offered."""
    dose: dict[str, list[float]] = {}

    def seen(case: TrainCase, found: LabelMap, truth: LabelMap, _: object) -> None:
        spect = spects[case.patient].array
        for value, name in truth.names.items():
            own = [v for v, n in found.names.items() if n == name]
            mask = np.isin(found.array, own)
            wanted = spect[truth.array == value].mean()
            dose.setdefault(name, []).append(100 * abs(spect[mask].mean() / wanted - 1) if mask.any() else 100.0)

    rows = evaluate(model, cases, device=device, seen=seen)
    organs = sorted({row.organ for row in rows})
    dice = {organ: float(np.mean([row.dice for row in rows if row.organ == organ])) for organ in organs}
    return {"dice": dice, "dose_error_percent": {organ: float(np.mean(dose[organ])) for organ in organs}}


def run(given: argparse.Namespace) -> list[Row]:
    """All arms and rounds, those that are done from what is kept."""
    work, kept = given.work, given.work / "curves.json"
    for number in range(given.phantoms):
        make(work / "studies", number)
    for number in range(given.phantoms, given.phantoms + given.unseen):
        make(work / "unseen", number)
    names = [f"shifted-{n:03d}" for n in range(given.phantoms, given.phantoms + given.unseen)]
    cases = [TrainCase(work / "unseen" / n / "ct.nii.gz", work / "truth" / f"{n}.nii.gz", n) for n in names]
    spects = {n: read_image(work / "unseen" / n / "spect.nii.gz") for n in names}
    rows: list[Row] = json.loads(kept.read_text("utf-8")) if kept.is_file() else []
    done = {(row["arm"], row["round"]) for row in rows}
    start = None
    for number in range(given.rounds + 1):
        for name in given.arms:
            if (name, number) in done:
                continue
            arm, corrected = None if name == "none" else Arm(name, work, given), given.each * number
            chosen: list[str] = []
            if arm and number:
                chosen = arm.choose(number)
                corrected = sum(case.labels.count() > 0 for case in arm.store.cases())
                arm.learn(number)
            if arm and number:
                figures = look(arm.model(number), cases, spects, given.device)
            else:  # the model that all began with
                start = start or look(given.checkpoint, cases, spects, given.device)
                figures = start
            rows.append({"arm": name, "round": number, "corrected": corrected, "chosen": chosen, **figures})
            kept.write_text(json.dumps(rows, indent=1), "utf-8")
            print(words(rows[-1]), flush=True)
    return rows


def words(row: Row) -> str:
    """One row of the table."""
    dice, dose = row["dice"], row["dose_error_percent"]
    shown = "  ".join(f"{organ} {dice[organ]:.3f} {dose[organ]:5.1f} %" for organ in dice)  # type: ignore[index,call-overload]
    return f"{row['arm']:8}{row['corrected']:4} corrected   {shown}"


def draw(rows: list[Row], file: Path) -> None:
    """Curves of the kidneys: mean Dice, and mean error of the mean dose, by CTs corrected."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "doselabel"
    from matplotlib import pyplot

    panels = (("dice", "Dice, kidneys"), ("dose_error_percent", "error of the mean dose, kidneys, %"))
    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    for axis, (key, title) in zip(axes, panels, strict=True):
        for arm, colour in zip(ARMS, ("tab:orange", "tab:blue", "tab:gray"), strict=True):
            own = sorted((row for row in rows if row["arm"] == arm), key=lambda row: int(row["round"]))  # type: ignore[arg-type]
            kidneys = [(row[key]["left_kidney"] + row[key]["right_kidney"]) / 2 for row in own]  # type: ignore[index,call-overload]
            axis.plot([row["corrected"] for row in own], kidneys, "o-", color=colour, label=arm)
        axis.set(title=title, xlabel="CTs corrected", xticks=sorted({row["corrected"] for row in rows}))
        axis.grid(alpha=0.3)
    axes[0].legend()
    figure.savefig(file, metadata={"Date": None})


def main() -> int:
    """Run what is not done yet, and print everything."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--checkpoint", type=Path, default=starter_path(), help="default: the starter model")
    parser.add_argument("--arms", type=lambda text: text.split(","), default=list(ARMS))
    parser.add_argument("--phantoms", type=int, default=40)
    parser.add_argument("--unseen", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--each", type=int, default=4, help="CTs corrected in a round")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--replay", choices=("made", "none"), default="made")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--figure", type=Path, help="where the curves are drawn (.svg)")
    given = parser.parse_args()
    torch.set_num_threads(1)
    given.work.mkdir(parents=True, exist_ok=True)
    print("Dice, error of the mean dose")
    rows = run(given)
    for row in sorted(rows, key=lambda row: (str(row["arm"]), row["round"])):
        print(words(row))
    if given.figure:
        draw(rows, given.figure)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
