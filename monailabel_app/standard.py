"""MONAI Label's routes, for 3D Slicer, OHIF and its own client: same path, same form, contained and not blocking.

What they do better: a client names a CT by its id and never by a path; long work is a job with real progress; nothing
uploads images or models; an `/infer` that is waited for holds no thread, and ends when its client hangs up. Who may
do what is as MONAI Label has it, save that to review is for reviewers.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, BackgroundTasks, Body, File, Form, Query, Request, UploadFile
from fastapi.responses import FileResponse, PlainTextResponse, Response
from monailabel.config import settings
from monailabel.endpoints import datastore, infer
from starlette.concurrency import run_in_threadpool

from doselabel.wire import JobStatus
from monailabel_app import standard_work
from monailabel_app.door import is_here
from monailabel_app.jobs.manager import JobManager
from monailabel_app.refusals import Refused, not_found
from monailabel_app.request import plain
from monailabel_app.routes import Admin, Annotator, Reviewer
from monailabel_app.uploads import bounded, json_object, spooled

if TYPE_CHECKING:
    from monailabel_app.app import DoselabelApp

_SESSION = re.compile(r"[0-9a-f-]{36}")
_HANGS_UP_S = 0.5
"""A client that hangs up is noticed within this time."""


def add(router: APIRouter, app: DoselabelApp) -> None:
    """Add the routes."""
    _add_infer(router, app)
    standard_work.add(router, app)
    _add_scoring(router, app)
    _add_datastore(router, app)
    _add_labels(router, app)
    _add_sessions(router, app)
    _add_operation(router, app)
    _add_refusals(router)


def _add_infer(router: APIRouter, app: DoselabelApp) -> None:
    @router.post("/infer/{model}")
    async def run(
        who: Annotator,
        asked: Request,
        background: BackgroundTasks,
        model: str,
        image: str = "",
        session_id: str = "",
        params: Annotated[str, Form()] = "{}",
        file: Annotated[UploadFile | None, File()] = None,
        output: infer.ResultType | None = None,
    ) -> Any:
        request = json_object(params) | {"model": model, "image": image}
        user = who.name or str(request.get("client_id") or "")
        with ExitStack() as stack:
            path = None
            if file is not None and file.filename:
                path = bounded(await run_in_threadpool(stack.enter_context, spooled(file)))
            elif session_id:
                path = await run_in_threadpool(_session_image, app, session_id)
            job = await run_in_threadpool(app.begin_infer, model, request, path, user)
            try:
                await _over(app.jobs, job, asked)
                result = await run_in_threadpool(app.end_infer, job, request)
            finally:
                await run_in_threadpool(app.forget, job)
        result["params"] = plain(result["params"])
        wanted = output.value if output else None
        if wanted == "image" and not result["file"]:
            raise not_found("image in the result of", model, "Ask for output=json.")
        return await run_in_threadpool(infer.send_response, app.datastore(), result, wanted, background)


async def _over(jobs: JobManager | None, job: JobStatus, asked: Request) -> None:
    """Wait for a job without holding a thread, as long as somebody listens and the time allows."""
    if jobs is None:
        return
    loop, over = asyncio.get_running_loop(), asyncio.Event()
    jobs.when_over(job.id, lambda: loop.call_soon_threadsafe(over.set))
    end = loop.time() + settings.MONAI_LABEL_INFER_TIMEOUT
    while not over.is_set() and loop.time() < end:
        try:
            await asyncio.wait_for(over.wait(), _HANGS_UP_S)
        except TimeoutError:
            if await asked.is_disconnected():
                raise Refused("The client hung up.", status=499, code="cancelled") from None


def _session_image(app: DoselabelApp, session_id: str) -> Path:
    session = app.sessions().get_session(session_id) if _SESSION.fullmatch(session_id) else None
    if session is None:
        raise not_found("session", session_id, "It may have expired; upload the image again.")
    return Path(session.image)


def _add_scoring(router: APIRouter, app: DoselabelApp) -> None:
    hint = "Label maps are compared by `doselabel compare` and models by `doselabel evaluate`."

    @router.post("/scoring/")
    def run_all(_: Annotator) -> dict[str, Any]:
        return {}

    @router.post("/scoring/{method}")
    def run(_: Annotator, method: str) -> None:
        raise not_found("scoring method", method, hint)

    @router.get("/scoring/")
    def status(_: Annotator) -> None:
        raise not_found("scoring", "", hint)

    @router.delete("/scoring/")
    def stop(_: Annotator) -> None:
        return None


def _add_datastore(router: APIRouter, app: DoselabelApp) -> None:
    store = app.datastore()

    @router.get("/info/")
    def info(_: Annotator) -> Any:
        return plain(app.info())

    @router.get("/datastore/")
    def content(_: Annotator, asked: Request, output: datastore.ResultType | None = None) -> Any:
        if output == datastore.ResultType.all:
            return _told(plain(store.json()), asked)
        if output == datastore.ResultType.train:
            if not is_here(asked):
                raise Refused(
                    "Where files lie is told on the server's own machine only.",
                    "Use GET /datastore/dataset.",
                    status=403,
                )
            return store.datalist()
        return store.status()

    @router.head("/datastore/image")
    def has_image(_: Annotator, image: str, check_sum: str = "") -> dict[str, Any]:
        known = store.checksum(image)
        if check_sum and check_sum.rpartition(":")[2].lower() != known.rpartition(":")[2]:
            raise not_found("image with this checksum", image)
        return {}

    @router.get("/datastore/image", response_class=FileResponse)
    def image_file(_: Annotator, image: str) -> FileResponse:
        return FileResponse(store.get_image_uri(image), filename=store.name_of(image))

    @router.get("/datastore/image/info")
    def image_info(_: Annotator, asked: Request, image: str) -> Any:
        return _told(plain(store.get_image_info(image)), asked)

    @router.put("/datastore/image/info")
    def note(who: Annotator, image: str, info: Annotated[str, Form()] = "{}") -> None:
        store.update_image_info(image, json_object(info) | ({"user": who.name} if who.name else {}))

    @router.post("/activelearning/{strategy}")
    def sample(
        who: Annotator, asked: Request, strategy: str, params: Annotated[dict[str, Any] | None, Body()] = None
    ) -> Any:
        user = who.name or str((params or {}).get("client_id") or "")
        found = app.next_sample({**(params or {}), "strategy": strategy, "user": user})
        return _told(plain({**store.get_image_info(found["id"]), **found}), asked) if found else {}

    @router.get("/datastore/dataset", response_class=FileResponse)
    def dataset(
        _: Annotator, background: BackgroundTasks, limit_cases: Annotated[int | None, Query(ge=1)] = None
    ) -> Response:
        path = store.get_dataset_archive(limit_cases)
        background.add_task(os.unlink, path)
        return FileResponse(path, filename="dataset.zip")


def _told(info: Any, asked: Request) -> Any:
    """What is known of images, without where they lie for those who sit elsewhere.

    3D Slicer opens a path that it is told when it finds a file there: on another machine that is another file.
    """
    if is_here(asked):
        return info
    if isinstance(info, Mapping):
        return {key: _told(value, asked) for key, value in info.items() if key != "path"}
    return info


def _add_labels(router: APIRouter, app: DoselabelApp) -> None:
    store = app.datastore()

    @router.put("/datastore/label")
    def save_label(
        who: Annotator,
        image: str,
        label: Annotated[UploadFile, File()],
        params: Annotated[str, Form()] = "{}",
        tag: str = "final",
    ) -> dict[str, Any]:
        info = json_object(params) | ({"author": who.name} if who.name else {})
        with spooled(label) as path:
            alarms = store.keep(image, path, tag or "final", info)
        app.on_save_label(image, image)
        return {"image": image, "label": image, "alarms": [alarm.model_dump() for alarm in alarms]}

    @router.head("/datastore/label")
    def has_label(_: Annotator, image: str, tag: str) -> dict[str, Any]:
        if not store.get_label_uri(image, tag):
            raise not_found(f"label map '{tag[:40]}' of", image)
        return {}

    @router.get("/datastore/label", response_class=FileResponse)
    def label_file(_: Annotator, label: str, tag: str) -> FileResponse:
        path = store.get_label_uri(label, tag)
        if not path:
            raise not_found(f"label map '{tag[:40]}' of", label)
        return FileResponse(path, filename=store.label_name(label, tag))

    @router.get("/datastore/label/info")
    def label_info(_: Annotator, label: str, tag: str) -> Any:
        return plain(store.get_label_info(label, tag))

    @router.put("/datastore/label/info")
    def put_label_info(who: Reviewer, label: str, tag: str, info: Annotated[str, Form()] = "{}") -> Any:
        store.update_label_info(label, tag, json_object(info) | ({"user": who.name} if who.name else {}))
        return plain(store.get_label_info(label, tag))

    @router.put("/datastore/updatelabelinfo")
    def review(who: Reviewer, label: str, tag: str = "final", params: Annotated[str, Form()] = "{}") -> Any:
        return put_label_info(who, label, tag or "final", params)

    @router.delete("/datastore/label")
    def remove(_: Admin, id: str, tag: str) -> dict[str, Any]:
        store.remove_label(id, tag)
        return {}


def _add_sessions(router: APIRouter, app: DoselabelApp) -> None:
    @router.put("/session/")
    def create(
        _: Annotator,
        files: Annotated[list[UploadFile], File()],
        uncompress: bool = False,
        expiry: Annotated[int, Query(ge=0, le=7 * 86400)] = 0,
    ) -> dict[str, Any]:
        if uncompress or len(files) != 1:
            raise Refused(
                "A session takes one image file; archives are not unpacked.", "Upload a NIfTI file.", status=403
            )
        with spooled(files[0]) as path:
            bounded(path)
            kept = shutil.move(path, path.with_name(f"image{''.join(path.suffixes)}"))
            session_id, info = app.sessions().add_session(str(kept), expiry, False)
        return {"session_id": session_id, "session_info": info.to_json() | {"path": "", "image": ""}}

    @router.get("/session/{session_id}")
    def get(_: Annotator, session_id: str, update_ts: bool = False, image: bool = False) -> Any:
        path = _session_image(app, session_id)
        if image:
            return FileResponse(path, filename=path.name)
        info = app.sessions().get_session(session_id, update_ts=update_ts).to_json()
        return info | {"path": "", "image": ""}

    @router.delete("/session/{session_id}")
    def remove(_: Annotator, session_id: str) -> dict[str, Any]:
        _session_image(app, session_id)
        app.sessions().remove_session(session_id)
        return {}


def _add_operation(router: APIRouter, app: DoselabelApp) -> None:
    @router.get("/model/info/{model}")
    def model_info(_: Admin, model: str) -> Any:
        if model not in app.tasks.trainers:
            raise not_found("model", model, f"There are {', '.join(app.tasks.trainers)}.")
        return plain(app.model_info(model))

    @router.get("/model/{model}", response_class=FileResponse)
    def model_file(_: Admin, model: str) -> FileResponse:
        if model not in app.tasks.trainers:
            raise not_found("model", model, f"There are {', '.join(app.tasks.trainers)}.")
        return FileResponse(app.tasks.models.champion(), filename=f"{model}.safetensors")

    @router.get("/logs/")
    def logs(_: Admin, lines: Annotated[int, Query(ge=1, le=10_000)] = 300) -> PlainTextResponse:
        path = Path(settings.MONAI_LABEL_APP_DIR) / "logs" / "app.log"
        if not path.is_file():
            raise not_found("log", path.name)
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 500 * lines))
            text = file.read().decode("utf-8", "replace")
        return PlainTextResponse("\n".join(text.splitlines()[-lines:]))


def _add_refusals(router: APIRouter) -> None:
    @router.put("/datastore/")
    @router.put("/datastore/image")
    @router.delete("/datastore/")
    @router.delete("/datastore/image")
    def no_upload(_: Annotator) -> None:
        raise Refused(
            "Images are not uploaded to or removed from this server.",
            "Put a patient folder with its study.json into the studies folder; it is noticed at once.",
            status=403,
        )

    @router.put("/model/{name}")
    @router.delete("/model/{name}")
    def no_model(_: Annotator, name: str) -> None:
        raise Refused(
            "Models are not uploaded to or removed from this server.",
            "Models are trained here (POST /jobs/train) or given at the start (--conf checkpoint FILE).",
            status=403,
        )
