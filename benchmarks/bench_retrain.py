"""From the starter to a promoted model: six corrected cases of another domain, retrained by the server's own task.

    python benchmarks/bench_retrain.py [--checkpoint FILE] [--steps 60] [--work DIR]

The domain: unenhanced CTs, in thick slices, of patients with anasarca: fluid where fat frames the organs elsewhere, so
that kidneys stand out by some 30 HU instead of 130, and bowel full of contrast medium. Six of them are "corrected"
(their true label maps are submitted), five others decide, four more are looked at only at the end, by nobody else.
Prints CPU-seconds, Dice before and after, what is lost on the old domain, and the decision with its reason.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from doselabel.geometry import Geometry, Volume, write_image
from doselabel.labels import NAMES, LabelMap, write_labels
from doselabel.model.cases import TrainCase
from doselabel.model.evaluate import evaluate, summarize
from doselabel.study import Study
from doselabel.wire import LabelSubmission
from monailabel_app.conf import Conf
from monailabel_app.datastore import StudyDatastore
from monailabel_app.models import ModelStore
from monailabel_app.trainers.kidney_liver import TrainKidneyLiver
from monailabel_app.trainers.split import VALIDATION
from sample_data.anatomy import Anatomy
from sample_data.ct import Protocol, axes_of, hounsfield, take
from sample_data.plan import Plan
from sample_data.tissues import Tissue, labels_of

CORRECTED, DECIDING, UNSEEN = 6, 5, 4
THICK = Protocol((50, 112, 112), (6.0, 3.5, 3.5), 14.0, 1.5, False)


def shifted(number: int) -> tuple[Volume, LabelMap]:
    """One CT of the other domain, and its true label map."""
    rng = np.random.default_rng([77, number])
    anatomy = Anatomy(Plan.draw(rng, "misaligned"))
    hu = hounsfield(rng, None)
    hu[[Tissue.VISCERAL_FAT, Tissue.RENAL_FAT]] = rng.uniform(2, 14), rng.uniform(-25, 5)
    hu[Tissue.FAT] = rng.uniform(-60, -20)
    hu[Tissue.BOWEL_CONTENT] = rng.uniform(150, 420)
    ct, tissue = take(anatomy, axes_of(THICK, (0.0, 0.0, 10.0)), THICK, hu, rng)
    return ct, LabelMap(labels_of(tissue), ct.geometry, dict(NAMES))


def make_studies(root: Path) -> tuple[list[str], list[TrainCase]]:
    """Studies of the other domain with submitted labels; the deciding patients, and the cases nobody is shown."""
    unseen, deciding = [], []
    for number in range(CORRECTED + DECIDING + UNSEEN):
        ct, labels = shifted(number)
        name = f"shifted-{number:02d}"
        if number >= CORRECTED + DECIDING:
            image = write_image(root.parent / "unseen" / f"{name}.nii.gz", ct)
            truth = write_labels(root.parent / "unseen" / f"{name}_label.nii.gz", labels)
            unseen.append(TrainCase(Path(image), truth, name, unlabelled=()))
            continue
        folder = root / name
        write_image(folder / "ct.nii.gz", ct)
        coarse = Geometry((8, 8, 8), (40.0, 40.0, 40.0), (-140.0, -140.0, -140.0))
        write_image(folder / "spect.nii.gz", Volume(np.ones(coarse.shape, np.float32), coarse))
        point = {"time_h": 24.0, "ct": "ct.nii.gz", "spect": "spect.nii.gz"}
        about = {"schema": "doselabel.study/1", "patient_id": name, "nuclide": "Lu-177", "injected_activity_mbq": 7400}
        Study.model_validate(about | {"ct": "ct.nii.gz", "time_points": [point]}).save(folder)
        write_labels(root.parent / "truth" / f"{name}.nii.gz", labels)
        deciding += [name] if number >= CORRECTED else []
    (root / VALIDATION).write_text(json.dumps({"patients": deciding}), "utf-8")
    store = StudyDatastore(root)
    for case in store.cases():
        file = root.parent / "truth" / f"{case.study.patient_id}.nii.gz"
        store.submit(case.image_id, file, LabelSubmission(author="bench", comment="the phantom's own truth"))
    return deciding, unseen


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--checkpoint", type=Path, help="default: the starter model")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--work", type=Path, help="folder to work in; keeps what is made (default: a temporary one)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        run(options.work or Path(folder), options.checkpoint, options.steps)
    return 0


def run(work: Path, checkpoint: Path | None, steps: int) -> None:
    root = work / "studies"
    began = time.process_time()
    _, unseen = make_studies(root)
    conf = Conf(str(root), checkpoint=str(checkpoint or ""))
    models = ModelStore(conf.state / "model", checkpoint)
    marks: dict[str, float] = {"making patients": time.process_time() - began}

    now_at: dict = {"stage": "", "since": time.process_time()}

    def watch(stage: str, _: float) -> None:
        now = time.process_time()
        if now_at["stage"]:
            marks[now_at["stage"]] = marks.get(now_at["stage"], 0.0) + now - now_at["since"]
        now_at.update(stage=stage, since=now)

    task, out = TrainKidneyLiver(models, conf), work / "run"
    out.mkdir(parents=True, exist_ok=True)
    answer = task({"steps": steps, "out": str(out), "progress": watch}, StudyDatastore(root))
    watch("", 0)
    training = answer["training"]
    for stage, seconds in marks.items():
        print(f"{seconds:8.1f} CPU-s  {stage}")
    print(f"promoted: {answer['promote']}. {training['reason']}")
    print(f"Dice of the deciding patients before {training['dice_before']}, after {training['dice_after']}")
    both = [summarize(evaluate(model, unseen)) for model in (models.champion(), out / answer["files"]["model"])]
    print(f"{'four unseen patients':24}{'before':>8}{'after':>8}{'volume error % before':>24}{'after':>8}")
    for organ in both[0]:
        old, new = both[0][organ], both[1][organ]
        print(
            f"{organ:24}{old['dice']:8.3f}{new['dice']:8.3f}"
            f"{old['volume_error_percent']:24.1f}{new['volume_error_percent']:8.1f}"
        )


if __name__ == "__main__":
    raise SystemExit(main())
