"""The MONAI Label app: which datastore, tasks and strategies there are, and where a request goes. Knows no HTTP."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import schedule
from monailabel.config import settings
from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.tasks.infer_v2 import InferTask
from monailabel.interfaces.tasks.strategy import Strategy
from monailabel.interfaces.tasks.train import TrainTask

import doselabel
from doselabel import disk
from doselabel.geometry import SUFFIXES
from doselabel.labels import NAMES
from doselabel.versions import FINAL, ORIGINAL
from doselabel.wire import ErrorInfo, JobStatus, NextCase, ServerInfo
from monailabel_app.checking import Checker
from monailabel_app.conf import TOKEN, Conf, take_over
from monailabel_app.datastore import StudyDatastore
from monailabel_app.infers.draft_dose import DRAFTS
from monailabel_app.jobs.batch import Batch
from monailabel_app.jobs.manager import JobManager
from monailabel_app.jobs.starting import FIRST, worker_command
from monailabel_app.logs import keep_logs
from monailabel_app.oidc import Issuer, accounts
from monailabel_app.process import limit_memory
from monailabel_app.refusals import JobFailed, Refused, not_found
from monailabel_app.reservations import Reservations
from monailabel_app.selfcheck import Found, self_check
from monailabel_app.startup import mark, report_start
from monailabel_app.strategies import Doubtful, First, Random, todo
from monailabel_app.strategies.active import Active, is_scored
from monailabel_app.tasks import DRAFT, TRAIN, Tasks
from monailabel_app.trainers.split import fix_split
from monailabel_app.trainers.stats import train_stats
from monailabel_app.users import Users

logger = logging.getLogger(__name__)
mark("importing MONAI Label with its libraries, and this app")

SERVER_MEMORY_BYTES = 6 << 30
"""The server's own process: it spools files and reads headers; whatever reads voxels is a process of its own."""

NOT_FROM_OUTSIDE = ("image", "label", "model", "out", "progress", "taken", "session", "folder", DRAFTS)
"""Keys of a request that the server sets; a client's params may not."""


class DoselabelApp(MONAILabelApp):
    """Kidneys, liver and their dose on patient folders.

    Parameters
    ----------
    app_dir : str
        MONAI Label's folder for logs; nothing of ours is in it.
    studies : str
        Folder of patient folders.
    conf : dict
        See `monailabel_app.conf.Conf`.
    """

    batch: Batch

    def __init__(self, app_dir: str, studies: str, conf: dict[str, str]) -> None:
        self.options = Conf.read(studies, conf)
        self.tasks = Tasks(self.options)
        self.jobs: JobManager | None = None
        self.checks: list[Found] = []
        self.active = Active(self.options.state / "active.jsonl")
        self.reservations = Reservations(self.options.state / "reserved.json")
        super().__init__(
            app_dir=app_dir,
            studies=studies,
            conf=conf,
            name="doselabel",
            description="Organ contours and patient-specific dosimetry on SPECT/CT. Research use only.",
            version=doselabel.__version__,
        )

    # ---- what MONAI Label asks for at its start

    def init_datastore(self) -> StudyDatastore:
        """Patient folders."""
        store = StudyDatastore(self.options.studies, Checker(), needs_review=self.options.review == "required")
        mark(f"looking at {len(store.cases())} CTs")
        return store

    def init_infers(self) -> dict[str, InferTask]:
        """Infer tasks."""
        return self.tasks.infers

    def init_trainers(self) -> dict[str, TrainTask]:
        """Train tasks."""
        return self.tasks.trainers

    def init_strategies(self) -> dict[str, Strategy]:
        """Active learning strategies."""
        return {"first": First(), "random": Random(), "doubtful": Doubtful(), "active": self.active}

    def datastore(self) -> StudyDatastore:
        """The datastore."""
        return self._datastore

    def on_init_complete(self) -> None:
        """Open our doors, in the server process only."""
        from monailabel.app import app as server

        from monailabel_app.join import join

        self._alone = take_over(self.options.state)
        keep_logs(self.options.state / "log")
        disk.own_temporary_folder(self.options.state / "tmp")
        limit_memory(SERVER_MEMORY_BYTES)
        self.datastore().watch()
        mark("counting label maps")
        super().on_init_complete()
        self.jobs = JobManager(
            self.options.state / "jobs",
            self.tasks.lanes,
            partial(worker_command, self.options),
            keep=(FIRST,),
            finish=self._finish,
            grace_s=self.options.grace_s,
            gives_way={"train": ("infer", "dose")} if self.options.pauses_training else None,
            width=dict.fromkeys(("infer", "dose", "draft"), self.options.parallel),
        )
        self.batch = Batch(self.jobs)
        self.jobs.start(FIRST)
        if self.options.score_at:
            schedule.every().day.at(self.options.score_at).do(self._score_at_night)  # run by MONAI Label's own loop
        users = accounts(self.options)
        self.checks = self_check(self.options, self.tasks.models, self.datastore())
        join(server, self, users)
        self._say_what_is_open(users)
        mark("jobs, self-check and routes")
        report_start()

    @staticmethod
    def _say_what_is_open(users: Users | Issuer) -> None:
        if users.any:
            logger.warning("DOSELABEL: everybody has to log in; users are kept by %s.", users.kept_by)
        elif os.environ.get(TOKEN):
            logger.warning("DOSELABEL: everybody has to bring the token of %s.", TOKEN)
        else:
            logger.warning(
                "DOSELABEL: OPEN to every program and every person on this machine, CLOSED to all others. "
                "Others can log in once there are users: doselabel users add STUDIES NAME."
            )

    # ---- requests

    def infer(self, request: dict[str, Any], datastore: StudyDatastore | None = None) -> dict[str, Any]:
        """Run an infer task on a CT of the datastore (never on a path that a client names).

        In the server process the work is done by the worker; elsewhere (a script with this app) right here.
        """
        model = str(request.get("model", ""))
        job = self.begin_infer(model, request, None, str(request.get("client_id") or ""))
        try:
            if self.jobs is not None:
                self.jobs.wait(job.id, settings.MONAI_LABEL_INFER_TIMEOUT)
            return self.end_infer(job, request)
        finally:
            self.forget(job)

    def check_infer(self, model: str, request: Mapping[str, Any]) -> None:
        """Refuse an inference that can't be."""
        if model not in self._infers:
            raise not_found("model", model, f"There are {', '.join(self._infers)}.")
        if request.get("save_label") and request.get("label_tag") == FINAL:
            raise Refused(
                "A prediction is not kept as 'final': that tag is for label maps somebody has looked at.",
                "Use the tag 'original'.",
            )

    def begin_infer(self, model: str, request: Mapping[str, Any], path: Path | None, user: str = "") -> JobStatus:
        """Queue an inference on a CT of the datastore, or on a file that the server itself put somewhere."""
        self.check_infer(model, request)
        image_id = None if path else str(request.get("image", ""))
        path = path or self.datastore().case(image_id or "").path
        wanted = {key: value for key, value in request.items() if key not in NOT_FROM_OUTSIDE}
        wanted["image"] = str(path)
        if self.jobs is None:
            raise Refused("Inferences are run by the server process only.", status=503)
        return self.jobs.submit(model, wanted, image_id=image_id, user=user)

    def end_infer(self, job: JobStatus, request: Mapping[str, Any]) -> dict[str, Any]:
        """What MONAI Label's clients are answered when an inference is over.

        Raises
        ------
        JobFailed
            When it failed, or is not over.
        """
        assert self.jobs is not None
        status = self.jobs.status(job.id)
        if not status.is_over:
            raise JobFailed(
                ErrorInfo(
                    code="timeout",
                    message=f"{job.task} took longer than {settings.MONAI_LABEL_INFER_TIMEOUT} s.",
                    hint=f"Use POST /jobs/{job.task}, which has no limit.",
                )
            )
        if status.state != "done":
            raise JobFailed(status.error or ErrorInfo(code="cancelled", message="The job was cancelled."))
        result = self.jobs.result(job.id)
        role = self._infers[job.task].role
        file = _temporary_copy(self.jobs.file(job.id, result.files[role])) if role in result.files else None
        params = result.model_dump(
            mode="json",
            by_alias=True,
            include={"label_names", "segmentation", "dose", "registration"},
            exclude_none=True,
        )
        answer = {"label": file, "tag": ORIGINAL, "file": file, "params": params}
        if request.get("save_label") and file and job.image_id:
            tag = request.get("label_tag") or ORIGINAL
            info = {"model": job.task, "params": params}
            answer["label"] = self.datastore().save_label(job.image_id, file, tag, info)
        return answer

    def score(self, user: str = "") -> int:
        """Predict anew, by three planes, the CTs to be done whose prediction tells too little to choose by.

        Returns
        -------
        int
            How many CTs.

        Raises
        ------
        Refused
            While another batch is under way.
        """
        model = self.tasks.models.sha256()
        wanted = {"planes": "all", "dose_doubt": True}
        images = [case.image_id for case in todo({}, self.datastore()) if not is_scored(case, model)]
        if images:
            self.batch.start(
                "kidney_liver",
                images,
                lambda image: self.begin_infer("kidney_liver", wanted | {"image": image}, None, user),
            )
        return len(images)

    def _score_at_night(self) -> None:
        try:
            self.score()
        except Exception:  # the next night is another one
            logger.exception("Scoring at night")

    def forget(self, job: JobStatus) -> None:
        """Cancel a job that nobody waits for any longer, or forget it when it is over."""
        if self.jobs is not None:
            with suppress(Refused):
                self.jobs.cancel(job.id)

    def submit(self, task: str, image_id: str | None, params: dict[str, Any], user: str = "") -> JobStatus:
        """Queue a job.

        Raises
        ------
        Refused
            On an unknown task or image, or params that only the server may set.
        """
        if self.jobs is None:
            raise Refused("Jobs are run by the server process only.", status=503)
        if task not in self.jobs.tasks:
            raise not_found("task", task, f"There are {', '.join(self.jobs.tasks)}.")
        if task == DRAFT:
            raise Refused("A draft's dose needs the draft.", "Send it to POST /doselabel/draft.")
        request = self._from_outside(params)
        if task == TRAIN:
            labelled = [case.study.patient_id for case, known in self.datastore().known() if FINAL in known.tags]
            fix_split(Path(self.options.studies), labelled)
        else:
            request["image"] = str(self.datastore().case(image_id or "").path)
        return self.jobs.submit(task, request, image_id=image_id, user=user)

    def submit_drafts(self, drafts: Mapping[str, Path], params: Mapping[str, Any], user: str = "") -> JobStatus:
        """Queue the dose of label maps that are not submitted: image id → file, all of one patient.

        Raises
        ------
        Refused
            On CTs of several patients, unknown ones, or params that only the server may set.
        """
        if self.jobs is None:
            raise Refused("Jobs are run by the server process only.", status=503)
        request = self._from_outside(params)
        cases = [self.datastore().case(image_id) for image_id in drafts]
        if len({case.study.patient_id for case in cases}) != 1:
            raise Refused("Drafts are of one patient at a time.", "Send those of each patient apart.")
        folder = Path(tempfile.mkdtemp(prefix="doselabel-drafts-"))
        try:
            for case in cases:
                source = drafts[case.image_id]
                shutil.copyfile(source, folder / f"{case.image_id}.{source.name.partition('.')[2]}")
            request |= {"image": str(cases[0].path), DRAFTS: str(folder)}
            job = self.jobs.submit(DRAFT, request, image_id=cases[0].image_id, user=user)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        self.jobs.when_over(job.id, partial(shutil.rmtree, folder, ignore_errors=True))
        return job

    @staticmethod
    def _from_outside(params: Mapping[str, Any]) -> dict[str, Any]:
        if wrong := [key for key in params if key in NOT_FROM_OUTSIDE]:
            raise Refused(f"params may not hold '{wrong[0]}'.", "Name the CT by image_id.")
        return dict(params)

    def _finish(self, status: JobStatus, outcome: dict[str, Any], folder: Path) -> dict[str, Any]:
        """In the server process: promote what training made, keep what a model predicted."""
        if status.task == TRAIN:
            training = dict(outcome["training"])
            if outcome.get("promote"):
                self.tasks.models.promote(folder / outcome["files"]["model"], training["reason"], status.user)
                training["promoted"] = True
            return outcome | {"training": training}
        if status.task == "kidney_liver" and status.image_id:
            params = {key: outcome[key] for key in ("label_names", "segmentation")}
            info = {"model": status.task, "params": params}
            self.datastore().put_tag(status.image_id, ORIGINAL, folder / outcome["files"]["labels"], info)
        return outcome

    def info(self) -> dict[str, Any]:
        """What MONAI Label's clients are told; of trainings, what 3D Slicer's progress and accuracy bars show."""
        known = super().info()
        if self.jobs is not None:
            known["train_stats"] = {"kidney_liver": train_stats(self.jobs)}
        return known

    # ---- the next case

    def next_sample(self, request: dict[str, Any]) -> dict[str, Any]:
        """Choose a CT and keep it for its annotator for a while."""
        strategy = request.get("strategy") or "first"
        if strategy not in self._strategies:
            raise not_found("strategy", str(strategy), f"There are {', '.join(self._strategies)}.")
        user = str(request.get("user") or request.get("client_id") or "")
        with self.reservations.lock:
            taken = self.reservations.of_others(user)
            found = self._strategies[strategy](request | {"taken": taken, "user": user}, self.datastore())
            if found and user:
                self.reservations.hold(found["id"], user)
        return found | {"path": self.datastore().get_image_uri(found["id"])} if found else {}

    def next_case(self, strategy: str, user: str) -> NextCase:
        """The same, for our own client."""
        found = self.next_sample({"strategy": strategy, "user": user})
        remaining = len(todo({}, self.datastore()))
        if found:
            return NextCase(image_id=found["id"], reason=found["reason"], remaining=remaining)
        reason = f"others are working on the last {remaining}" if remaining else "every CT has a label map"
        return NextCase(image_id=None, reason=reason, remaining=remaining)

    def server_info(self) -> ServerInfo:
        """Who answers, for our own client."""
        status = self.datastore().status()
        return ServerInfo(
            version=doselabel.__version__,
            studies=self.datastore().patients(),
            labelled=status["completed"],
            images=status["total"],
            infers=list(self._infers),
            trainers=[TRAIN],
            strategies=list(self._strategies),
            model=self.tasks.models.info(),
            organs={name: value for value, name in NAMES.items()},
        )

    def infer_wsi(self, request: dict[str, Any], datastore: Any = None) -> dict[str, Any]:
        """Refuse: there are no microscopy slides here."""
        raise not_found("model for slides", str(request.get("model", "")))


def _temporary_copy(file: Path) -> str:
    """Copy a result to where MONAI Label may delete it after its reply."""
    suffix = next((s for s in SUFFIXES if file.name.endswith(s)), file.suffix)
    handle, path = tempfile.mkstemp(prefix="doselabel-", suffix=suffix)
    os.close(handle)
    shutil.copyfile(file, path)
    return path
