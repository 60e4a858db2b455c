"""The routes of `doselabel.wire`: studies, label versions, jobs. Knows HTTP; what is done is done by the app.

Handlers are plain functions, so that they run in threads and never hold up the server.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, BackgroundTasks, File, Form, Header, Query, Response, UploadFile
from fastapi.responses import FileResponse, HTMLResponse, StreamingResponse
from pydantic import ValidationError
from requests_toolbelt import MultipartEncoder
from sse_starlette import EventSourceResponse

from doselabel.errors import ModelError
from doselabel.study import ORIGIN, Registration, Study
from doselabel.wire import (
    ArmReport,
    JobRequest,
    JobResult,
    JobStatus,
    LabelEvent,
    LabelReview,
    LabelSubmission,
    LabelVersion,
    ModelEvent,
    ModelInfo,
    NextCase,
    Reopening,
    ServerInfo,
    StudyInfo,
)
from monailabel_app.door import needs
from monailabel_app.export import archive
from monailabel_app.jobs.manager import JobManager
from monailabel_app.pages import models_page
from monailabel_app.refusals import Refused, not_found
from monailabel_app.tasks import TRAIN
from monailabel_app.uploads import bounded, json_object, spooled
from monailabel_app.users import User

if TYPE_CHECKING:
    from monailabel_app.app import DoselabelApp

LOOK_S = 0.2
"""Between two looks at a job whose events are sent."""
MOST_DRAFTS = 32
"""Label maps of one patient that a draft's dose is asked for at once."""

Annotator = Annotated[User, needs("annotator")]
Reviewer = Annotated[User, needs("reviewer")]
Admin = Annotated[User, needs("admin")]


def add(router: APIRouter, app: DoselabelApp) -> None:
    """Add the routes."""
    _add_studies(router, app)
    _add_labels(router, app)
    if app.jobs is not None:
        _add_jobs(router, app, app.jobs)


def _add_studies(api: APIRouter, app: DoselabelApp) -> None:
    store = app.datastore()
    writing = threading.Lock()

    @api.get("/doselabel/info")
    def info(_: Annotator) -> ServerInfo:
        return app.server_info()

    @api.get("/doselabel/studies")
    def studies(_: Annotator) -> list[StudyInfo]:
        return store.studies()

    @api.get("/doselabel/studies/{patient_id}/file/{name:path}", response_class=FileResponse)
    def study_file(_: Annotator, patient_id: str, name: str) -> FileResponse:
        study = store.study(patient_id)
        if name == ORIGIN and (study.folder / ORIGIN).is_file():
            return FileResponse(study.folder / ORIGIN)
        if name not in {file for _, file in study.files()}:
            raise not_found("file of this study", name, "Only files that study.json names are given out.")
        return FileResponse(store.file_of(study, name), filename=study.path(name).name)

    @api.put("/doselabel/studies/{patient_id}/registration/{time_point}")
    def register(_: Annotator, patient_id: str, time_point: int, registration: Registration) -> StudyInfo:
        with writing:
            study = Study.load(store.study(patient_id).folder)
            if not 0 <= time_point < len(study.time_points):
                raise not_found("time point", str(time_point), f"There are 0 to {len(study.time_points) - 1}.")
            study.time_points[time_point].spect_to_ct = registration
            study.save()
            store.refresh()
        return store.study_info(store.study(patient_id))

    @api.get("/doselabel/next")
    def next_case(
        who: Annotator, strategy: str = "first", user: Annotated[str, Query(max_length=100)] = ""
    ) -> NextCase:
        return app.next_case(strategy, who.name or user)

    @api.post("/doselabel/active/score", status_code=202)
    def score(who: Admin) -> dict[str, int]:
        return {"images": app.score(who.name)}

    @api.get("/doselabel/active/report")
    def report(_: Annotator) -> dict[str, ArmReport]:
        return app.active.report(store)

    @api.get("/doselabel/models", response_model=list[ModelEvent])
    def models(_: Annotator, accept: Annotated[str, Header()] = "") -> Any:
        events = app.tasks.models.history()
        return HTMLResponse(models_page(events, app.tasks.models.info())) if "text/html" in accept else events

    @api.post("/doselabel/model/rollback")
    def rollback(
        who: Admin,
        user: Annotated[str, Query(max_length=100)] = "",
        sha256: Annotated[str, Query(pattern="^[0-9a-f]{0,64}$")] = "",
    ) -> ModelInfo:
        app.tasks.models.rollback(who.name or user, sha256)
        model = app.tasks.models.info()
        if model is None:
            raise ModelError("The model that was gone back to can't be read.")
        return model


def _add_labels(api: APIRouter, app: DoselabelApp) -> None:
    store = app.datastore()

    @api.get("/doselabel/labels/{image_id}")
    def versions(_: Annotator, image_id: str) -> list[LabelVersion]:
        return store.case(image_id).labels.versions()

    @api.get("/doselabel/labels/{image_id}/history")
    def history(_: Annotator, image_id: str) -> list[LabelEvent]:
        return store.case(image_id).labels.history()

    @api.put("/doselabel/labels/{image_id}/reopen")
    def reopen(who: Reviewer, image_id: str, why: Reopening) -> LabelEvent:
        return store.reopen(image_id, why.model_copy(update={"by": who.name}) if who.name else why)

    @api.get("/doselabel/export", response_class=FileResponse)
    def export(_: Reviewer, background: BackgroundTasks, approved: bool = False, images: bool = False) -> FileResponse:
        path = archive(store.cases(), store.image_of if images else None, approved=approved)
        background.add_task(path.unlink)
        return FileResponse(path, filename="labels.zip", background=background)

    @api.get("/doselabel/labels/{image_id}/{version}", response_class=FileResponse)
    def label_file(_: Annotator, image_id: str, version: int) -> FileResponse:
        path = store.case(image_id).labels.path(version)
        return FileResponse(path, filename=f"{image_id}_v{version:04d}.nii.gz")

    @api.post("/doselabel/labels/{image_id}")
    def submit(
        who: Annotator, image_id: str, file: Annotated[UploadFile, File()], params: Annotated[str, Form()] = "{}"
    ) -> LabelVersion:
        try:
            given = json_object(params)
            submission = LabelSubmission.model_validate(given | ({"author": who.name} if who.name else {}))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise Refused(f"params: field '{first['loc'][0]}': {first['msg']}.", "Correct it.") from error
        with spooled(file) as path:
            return store.submit(image_id, path, submission)

    @api.put("/doselabel/labels/{image_id}/{version}/review")
    def review(who: Reviewer, image_id: str, version: int, review: LabelReview) -> LabelVersion:
        if who.name:
            review = review.model_copy(update={"reviewer": who.name})
        return store.review(image_id, version, review)


def _add_jobs(api: APIRouter, app: DoselabelApp, jobs: JobManager) -> None:
    @api.post("/jobs/{task}", status_code=202)
    def submit(who: Annotator, task: str, request: JobRequest, response: Response) -> JobStatus:
        if task == TRAIN and not who.may(app.options.train_role):
            raise Refused(
                f"Training is for the role '{app.options.train_role}'.",
                "Ask one who has it; an admin can start the server with --conf train_role annotator.",
                status=403,
                code="role",
            )
        status = app.submit(task, request.image_id, request.params, who.name or request.user)
        response.headers["Location"] = f"/jobs/{status.id}"
        return status

    @api.post("/doselabel/draft", status_code=202)
    def draft(
        who: Annotator,
        files: Annotated[list[UploadFile], File(max_length=MOST_DRAFTS)],
        response: Response,
        params: Annotated[str, Form()] = "{}",
    ) -> JobStatus:
        with ExitStack() as stack:
            drafts = {
                str(file.filename).partition(".")[0]: bounded(stack.enter_context(spooled(file))) for file in files
            }
            status = app.submit_drafts(drafts, json_object(params), who.name)
        response.headers["Location"] = f"/jobs/{status.id}"
        return status

    @api.get("/jobs")
    def all_jobs(_: Annotator) -> list[JobStatus]:
        return jobs.list()

    @api.get("/jobs/{name}")
    def status(_: Annotator, name: str) -> JobStatus:
        return jobs.status(name)

    @api.get("/jobs/{name}/events")
    async def events(_: Annotator, name: str) -> EventSourceResponse:
        jobs.status(name)
        return EventSourceResponse(_events(jobs, name))

    @api.get("/jobs/{name}/result", response_model=JobResult)
    def result(_: Annotator, name: str, accept: Annotated[str, Header()] = "") -> Any:
        found = jobs.result(name)
        return _in_parts(jobs, found) if accept.startswith("multipart/") else found

    @api.get("/jobs/{name}/file/{file}", response_class=FileResponse)
    def file(_: Annotator, name: str, file: str) -> FileResponse:
        return FileResponse(jobs.file(name, file), filename=file)

    @api.delete("/jobs/{name}")
    def cancel(who: Annotator, name: str) -> JobStatus:
        if not who.may("admin") and jobs.status(name).user != who.name:
            raise Refused("The job is somebody else's.", "Ask them, or an admin.", status=403, code="role")
        return jobs.cancel(name)


async def _events(jobs: JobManager, name: str) -> AsyncIterator[dict[str, str]]:
    """Every change of a job until it is over."""
    last = None
    while last is None or not last.is_over:
        try:
            status = jobs.status(name)
        except Refused:  # it was forgotten
            return
        if status != last:
            last = status
            yield {"event": "status", "data": status.model_dump_json()}
        else:
            await asyncio.sleep(LOOK_S)


def _in_parts(jobs: JobManager, result: JobResult) -> StreamingResponse:
    """A result and all its files in one reply: the part "result" is its JSON, the others are named by their roles."""
    parts: dict[str, Any] = {"result": (None, result.model_dump_json(by_alias=True), "application/json")}
    for role, name in result.files.items():
        parts[role] = (name, jobs.file(result.id, name).open("rb"), "application/octet-stream")
    encoder = MultipartEncoder(parts)
    return StreamingResponse(iter(lambda: encoder.read(1 << 20), b""), media_type=encoder.content_type)
