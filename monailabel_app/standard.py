"""MONAI Label's own routes where ours answer instead: same path, same form, contained and not blocking.

What they do better: a client names a CT by its id and never by a path; training is a job with real progress; nothing
uploads images or models; long work and disk work happen in threads and workers.
"""

from __future__ import annotations

import os
import re
from contextlib import ExitStack
from datetime import datetime
from typing import Annotated, Any

from fastapi import BackgroundTasks, Body, FastAPI, File, Form, Query, UploadFile
from fastapi.responses import FileResponse, Response
from monailabel.endpoints import activelearning, datastore, infer

from doselabel.wire import JobStatus
from monailabel_app.app import DoselabelApp
from monailabel_app.refusals import Refused, not_found
from monailabel_app.request import plain
from monailabel_app.tasks import TRAIN
from monailabel_app.uploads import bounded, json_object, spooled

_SESSION = re.compile(r"[0-9a-f-]{36}")


def add(api: FastAPI, app: DoselabelApp) -> None:
    """Add the routes."""
    _add_infer(api, app)
    _add_train(api, app)
    _add_datastore(api, app)
    _add_refusals(api)


def _add_infer(api: FastAPI, app: DoselabelApp) -> None:
    @api.post("/infer/{model}")
    def run(
        background: BackgroundTasks,
        model: str,
        image: str = "",
        session_id: str = "",
        params: Annotated[str, Form()] = "{}",
        file: Annotated[UploadFile | None, File()] = None,
        output: infer.ResultType | None = None,
    ) -> Any:
        request = json_object(params) | {"model": model, "image": image}
        with ExitStack() as stack:
            if file is not None and file.filename:
                result = app.infer_file(model, bounded(stack.enter_context(spooled(file))), request)
            elif session_id:
                session = app.sessions().get_session(session_id) if _SESSION.fullmatch(session_id) else None
                if session is None:
                    raise not_found("session", session_id, "It may have expired; upload the image again.")
                result = app.infer_file(model, session.image, request)
            else:
                result = app.infer(request)
        result["params"] = plain(result["params"])
        wanted = output.value if output else None
        if wanted == "image" and not result["file"]:
            raise not_found("image in the result of", model, "Ask for output=json.")
        return infer.send_response(app.datastore(), result, wanted, background)


def _add_train(api: FastAPI, app: DoselabelApp) -> None:
    jobs = app.jobs
    if jobs is None:
        return

    def trainings() -> list[JobStatus]:
        return [job for job in jobs.list() if job.task == TRAIN]

    @api.post("/train/")
    @api.post("/train/{model}")
    def start(
        model: str = "",
        params: Annotated[dict[str, Any] | None, Body()] = None,
        enqueue: bool = False,
    ) -> dict[str, Any]:
        if model and model not in app.tasks.trainers:
            raise not_found("trainer", model, f"There are {', '.join(app.tasks.trainers)}.")
        if not enqueue and any(not job.is_over for job in trainings()):
            raise Refused("A training is under way.", "Wait for it or stop it first.", status=429, code="busy")
        request = dict(params or {})
        user = str(request.pop("client_id", "") or "")
        request.pop("model", None)
        return _as_monai(app.submit(TRAIN, None, request, user))

    @api.get("/train/")
    def status(all: bool = False, check_if_running: bool = False) -> Any:
        found = trainings()
        if check_if_running:
            found = [job for job in found if not job.is_over]
        if not found:
            raise not_found("training", "", "None was started.")
        return [_as_monai(job) for job in found] if all else _as_monai(found[0])

    @api.delete("/train/")
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
        "details": [f"{job.stage} {100 * job.fraction:.0f} % {job.message}".strip()],
    }


def _add_datastore(api: FastAPI, app: DoselabelApp) -> None:
    @api.get("/info/")
    def info() -> Any:
        return app.info()

    @api.get("/datastore/")
    def content(output: datastore.ResultType | None = None) -> Any:
        return datastore.datastore(output)

    @api.put("/datastore/label")
    def save_label(
        image: str,
        label: Annotated[UploadFile, File()],
        params: Annotated[str, Form()] = "{}",
        tag: str = "final",
    ) -> dict[str, Any]:
        with spooled(label) as path:
            alarms = app.datastore().keep(image, path, tag or "final", json_object(params))
        app.on_save_label(image, image)
        return {"image": image, "label": image, "alarms": [alarm.model_dump() for alarm in alarms]}

    @api.post("/activelearning/{strategy}")
    def sample(strategy: str, params: Annotated[dict[str, Any] | None, Body()] = None) -> Any:
        request = dict(params or {})
        request.pop("strategy", None)
        return activelearning.sample(strategy, request)

    @api.get("/datastore/dataset", response_class=FileResponse)
    def dataset(background: BackgroundTasks, limit_cases: Annotated[int | None, Query(ge=1)] = None) -> Response:
        path = app.datastore().get_dataset_archive(limit_cases)
        background.add_task(os.unlink, path)
        return FileResponse(path, filename="dataset.zip")


def _add_refusals(api: FastAPI) -> None:
    @api.put("/datastore/")
    @api.put("/datastore/image")
    @api.delete("/datastore/")
    @api.delete("/datastore/image")
    def no_upload() -> None:
        raise Refused(
            "Images are not uploaded to or removed from this server.",
            "Put a patient folder with its study.json into the studies folder; it is noticed at once.",
            status=403,
        )

    @api.put("/model/{name}")
    @api.delete("/model/{name}")
    def no_model(name: str) -> None:
        raise Refused(
            "Models are not uploaded to or removed from this server.",
            "Models are trained here (POST /jobs/train) or given at the start (--conf checkpoint FILE).",
            status=403,
        )
