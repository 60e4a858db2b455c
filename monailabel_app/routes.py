"""The routes of `doselabel.wire`: studies, label versions, jobs. Knows HTTP; what is done is done by the app.

Handlers are plain functions, so that they run in threads and never hold up the server.
"""

from __future__ import annotations

import threading
from typing import Annotated

from fastapi import FastAPI, File, Form, Query, UploadFile
from fastapi.responses import FileResponse
from pydantic import ValidationError

import doselabel
from doselabel.errors import ModelError
from doselabel.study import Registration, Study
from doselabel.wire import (
    JobRequest,
    JobResult,
    JobStatus,
    LabelReview,
    LabelSubmission,
    LabelVersion,
    ModelInfo,
    NextCase,
    ServerInfo,
    StudyInfo,
)
from monailabel_app import standard
from monailabel_app.app import DoselabelApp
from monailabel_app.jobs.manager import JobManager
from monailabel_app.refusals import Refused, not_found
from monailabel_app.uploads import json_object, spooled


def make_api(app: DoselabelApp) -> FastAPI:
    """Make the FastAPI application that answers our routes, and those of MONAI Label that we answer better."""
    api = FastAPI(
        title="doselabel",
        version=doselabel.__version__,
        openapi_url="/doselabel/openapi.json",
        docs_url=None,
        redoc_url=None,
    )
    _add_studies(api, app)
    _add_labels(api, app)
    if app.jobs is not None:
        _add_jobs(api, app, app.jobs)
    standard.add(api, app)
    return api


def _add_studies(api: FastAPI, app: DoselabelApp) -> None:
    store = app.datastore()
    writing = threading.Lock()

    @api.get("/doselabel/info")
    def info() -> ServerInfo:
        return app.server_info()

    @api.get("/doselabel/studies")
    def studies() -> list[StudyInfo]:
        return store.studies()

    @api.get("/doselabel/studies/{patient_id}/file/{name:path}", response_class=FileResponse)
    def study_file(patient_id: str, name: str) -> FileResponse:
        study = store.study(patient_id)
        if name not in {file for _, file in study.files()}:
            raise not_found("file of this study", name, "Only files that study.json names are given out.")
        return FileResponse(store.file_of(study, name), filename=study.path(name).name)

    @api.put("/doselabel/studies/{patient_id}/registration/{time_point}")
    def register(patient_id: str, time_point: int, registration: Registration) -> StudyInfo:
        with writing:
            study = Study.load(store.study(patient_id).folder)
            if not 0 <= time_point < len(study.time_points):
                raise not_found("time point", str(time_point), f"There are 0 to {len(study.time_points) - 1}.")
            study.time_points[time_point].spect_to_ct = registration
            study.save()
            store.refresh()
        return store.study_info(store.study(patient_id))

    @api.get("/doselabel/next")
    def next_case(strategy: str = "first", user: Annotated[str, Query(max_length=100)] = "") -> NextCase:
        return app.next_case(strategy, user)

    @api.post("/doselabel/model/rollback")
    def rollback(user: Annotated[str, Query(max_length=100)] = "") -> ModelInfo:
        app.tasks.models.rollback(user)
        model = app.tasks.models.info()
        if model is None:
            raise ModelError("The model that was gone back to can't be read.")
        return model


def _add_labels(api: FastAPI, app: DoselabelApp) -> None:
    store = app.datastore()

    @api.get("/doselabel/labels/{image_id}")
    def versions(image_id: str) -> list[LabelVersion]:
        return store.case(image_id).labels.versions()

    @api.get("/doselabel/labels/{image_id}/{version}", response_class=FileResponse)
    def label_file(image_id: str, version: int) -> FileResponse:
        path = store.case(image_id).labels.path(version)
        return FileResponse(path, filename=f"{image_id}_v{version:04d}.nii.gz")

    @api.post("/doselabel/labels/{image_id}")
    def submit(
        image_id: str, file: Annotated[UploadFile, File()], params: Annotated[str, Form()] = "{}"
    ) -> LabelVersion:
        try:
            submission = LabelSubmission.model_validate(json_object(params))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise Refused(f"params: field '{first['loc'][0]}': {first['msg']}.", "Correct it.") from error
        with spooled(file) as path:
            return store.submit(image_id, path, submission)

    @api.put("/doselabel/labels/{image_id}/{version}/review")
    def review(image_id: str, version: int, review: LabelReview) -> LabelVersion:
        return store.case(image_id).labels.review(version, review)


def _add_jobs(api: FastAPI, app: DoselabelApp, jobs: JobManager) -> None:
    @api.post("/jobs/{task}")
    def submit(task: str, request: JobRequest) -> JobStatus:
        return app.submit(task, request.image_id, request.params, request.user)

    @api.get("/jobs")
    def all_jobs() -> list[JobStatus]:
        return jobs.list()

    @api.get("/jobs/{name}")
    def status(name: str) -> JobStatus:
        return jobs.status(name)

    @api.get("/jobs/{name}/result")
    def result(name: str) -> JobResult:
        return jobs.result(name)

    @api.get("/jobs/{name}/file/{file}", response_class=FileResponse)
    def file(name: str, file: str) -> FileResponse:
        return FileResponse(jobs.file(name, file), filename=file)

    @api.delete("/jobs/{name}")
    def cancel(name: str) -> JobStatus:
        return jobs.cancel(name)
