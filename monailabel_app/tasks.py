"""All tasks of the server, made from its options; the server process and its workers build the same ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from monailabel.interfaces.tasks.infer_v2 import InferTask
from monailabel.interfaces.tasks.train import TrainTask

from doselabel.errors import Progress
from monailabel_app.conf import Conf
from monailabel_app.datastore import StudyDatastore
from monailabel_app.infers.dosimetry import Dosimetry
from monailabel_app.infers.draft_dose import DraftDose
from monailabel_app.infers.kidney_liver import PAPER_READING, KidneyLiver
from monailabel_app.infers.registration import RegistrationTask
from monailabel_app.jobs.worker import Task
from monailabel_app.models import ModelStore
from monailabel_app.trainers.kidney_liver import TrainKidneyLiver

TRAIN = "train"
"""Name of the training job on the wire; MONAI Label's clients know the trainer as "kidney_liver"."""
DRAFT = "draft_dose"
"""The dose of masks that were not submitted."""


class Tasks:
    """What the server can do.

    Attributes
    ----------
    models : ModelStore
    infers, trainers : dict
        By the names MONAI Label's clients use.
    lanes : dict
        Job name → lane: neither a dose nor a training holds up a segmentation, nor a dose a draft's.
    """

    def __init__(self, conf: Conf) -> None:
        self._conf = conf
        self.models = ModelStore(conf.state / "model", Path(conf.checkpoint) if conf.checkpoint else None)
        self._kidney_liver = KidneyLiver(self.models, conf.planes, conf.device)
        self._cache = conf.state / "cache"
        paper = ModelStore(conf.state / "paper", Path(conf.paper_checkpoint)) if conf.paper_checkpoint else self.models
        self.infers: dict[str, InferTask] = {
            "kidney_liver": self._kidney_liver,
            "kidney_liver_paper": KidneyLiver(
                paper,
                device=conf.device,
                reading=PAPER_READING,
                description="Kidneys and liver, read as in Nazari 2021 (three planes, 2 of 3); research use only",
            ),
            "registration": RegistrationTask(),
            "dosimetry": Dosimetry(self._kidney_liver, self._cache),
        }
        self.trainers: dict[str, TrainTask] = {"kidney_liver": TrainKidneyLiver(self.models, conf)}
        self.lanes = {"kidney_liver": "infer", "kidney_liver_paper": "infer"}
        self.lanes |= {"registration": "dose", "dosimetry": "dose", DRAFT: "draft", TRAIN: "train"}

    def jobs(self) -> dict[str, Task]:
        """The tasks as a worker runs them."""
        jobs: dict[str, Task] = {name: _infer_job(task) for name, task in self.infers.items()}
        train = self.trainers["kidney_liver"]

        def run(request: dict[str, Any], folder: Path, progress: Progress) -> dict[str, Any]:
            return train(request | {"out": str(folder), "progress": progress}, StudyDatastore(self._conf.studies))

        return {**jobs, DRAFT: DraftDose(self._kidney_liver, self._cache), TRAIN: run}

    def warm_up(self) -> None:
        """Pay for torch and the network before the first request."""
        self._kidney_liver.warm_up()


def _infer_job(task: InferTask) -> Task:
    def run(request: dict[str, Any], folder: Path, progress: Progress) -> dict[str, Any]:
        file, params = task(request | {"out": str(folder), "progress": progress})
        files = dict(params.get("files", {}))
        if file:
            files[task.role] = Path(file).name
        return {**params, "files": files}

    return run
