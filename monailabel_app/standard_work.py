"""MONAI Label's routes for long work, trainings and batches: each is one of our jobs, in the words of its clients."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import APIRouter, Body

from doselabel.wire import JobStatus
from monailabel_app.door import needs
from monailabel_app.jobs.manager import JobManager
from monailabel_app.refusals import Refused, not_found
from monailabel_app.routes import Admin, Annotator
from monailabel_app.tasks import TRAIN

if TYPE_CHECKING:
    from monailabel_app.app import DoselabelApp


def add(router: APIRouter, app: DoselabelApp) -> None:
    """Add the routes, where jobs are run."""
    if app.jobs is not None:
        _add_train(router, app, app.jobs)
        _add_batch(router, app)


def _add_train(router: APIRouter, app: DoselabelApp, jobs: JobManager) -> None:
    def trainings() -> list[JobStatus]:
        return [job for job in jobs.list() if job.task == TRAIN]

    may_train = [needs(app.options.train_role)]

    @router.post("/train/", dependencies=may_train)
    @router.post("/train/{model}", dependencies=may_train)
    def start(
        who: Annotator,
        model: str = "",
        params: Annotated[dict[str, Any] | None, Body()] = None,
        enqueue: bool = False,
    ) -> dict[str, Any]:
        if model and model not in app.tasks.trainers:
            raise not_found("trainer", model, f"There are {', '.join(app.tasks.trainers)}.")
        if not enqueue and any(not job.is_over for job in trainings()):
            raise Refused("A training is under way.", "Wait for it or stop it first.", status=429, code="busy")
        request = dict(params or {})
        user = who.name or str(request.pop("client_id", "") or "")
        request.pop("client_id", None)
        request.pop("model", None)
        return _as_monai(app.submit(TRAIN, None, request, user))

    @router.get("/train/")
    def status(_: Annotator, all: bool = False, check_if_running: bool = False) -> Any:
        found = trainings()
        if check_if_running:
            found = [job for job in found if not job.is_over]
        if not found:
            raise not_found("training", "", "None was started.")
        return [_as_monai(job) for job in found] if all else _as_monai(found[0])

    @router.delete("/train/", dependencies=may_train)
    def stop() -> Any:
        running = [job for job in trainings() if not job.is_over]
        return _as_monai(jobs.cancel(running[-1].id)) if running else None


def _as_monai(job: JobStatus) -> dict[str, Any]:
    """A job as MONAI Label's clients know a task."""
    states = {"queued": "SUBMITTED", "running": "RUNNING", "done": "DONE", "failed": "ERROR", "cancelled": "STOPPED"}

    def local(time: datetime | None) -> str | None:
        return time.astimezone().strftime("%Y-%m-%d %H:%M:%S") if time else None

    return {
        "id": job.id,
        "status": states[job.state],
        "request": {"model": "kidney_liver"},
        "start_ts": local(job.created),
        "end_ts": local(job.ended),
        "details": [f"{job.stage} {100 * job.fraction:.0f} % {job.message}".strip(), *map(_in_words, job.rows[-19:])],
    }


def _in_words(row: Mapping[str, float]) -> str:
    """A row of a training, as a line of MONAI Label's log of it."""
    shown = {key.removeprefix("dice_"): value for key, value in row.items() if key == "loss" or "dice_" in key}
    return f"step {row['step']:.0f}: " + ", ".join(f"{name} {value:.3f}" for name, value in shown.items())


def _add_batch(router: APIRouter, app: DoselabelApp) -> None:
    batch = app.batch

    @router.post("/batch/infer/{model}")
    def start(
        who: Admin,
        model: str,
        images: Literal["all", "labeled", "unlabeled"] = "all",
        params: Annotated[dict[str, Any] | None, Body()] = None,
        run_sync: bool = False,
    ) -> dict[str, Any]:
        store = app.datastore()
        lists = {"all": store.list_images, "labeled": store.get_labeled_images, "unlabeled": store.get_unlabeled_images}
        wanted = dict(params or {})
        most = int(wanted.pop("max_batch_size", 0) or 0)
        chosen = lists[images]()[: most or None]
        app.check_infer(model, wanted)
        user = who.name or str(wanted.get("client_id") or "")
        task = batch.start(model, chosen, lambda image: app.begin_infer(model, wanted | {"image": image}, None, user))
        return batch.wait() if run_sync else task

    @router.get("/batch/infer")
    def status(_: Annotator, all: bool = False, check_if_running: bool = False) -> Any:
        task = batch.status()
        if task is None or (check_if_running and task["status"] != "RUNNING"):
            raise not_found("batch inference", "", "None is running." if check_if_running else "None was started.")
        return [task] if all else task

    @router.delete("/batch/infer")
    def stop(_: Admin) -> Any:
        return batch.stop()
