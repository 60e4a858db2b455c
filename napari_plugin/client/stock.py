"""A client of MONAI Label servers whose app is not doselabel's: the same methods, on MONAI Label's own routes.

Such a server has images and, for each, one label map, which a submission overwrites; it infers, chooses the next image,
and trains. What it has not is in `LACKS`. Label maps go over the wire with the app's numbering and without names:
they are given names when they come, and the app's numbers when they leave. Knows no Qt.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import quote, urlencode

import httpx

from doselabel.errors import Cancelled, Progress, ServerError, no_progress
from doselabel.labels import SEGMENTED, known_name, read_labels, write_labels
from doselabel.wire import (
    ImageInfo,
    JobRequest,
    JobResult,
    JobStatus,
    LabelSubmission,
    LabelVersion,
    ModelEvent,
    NextCase,
    SegmentationSummary,
    ServerInfo,
    StudyInfo,
)
from napari_plugin.client.http import LOST_CONTACT_S, POLL_S, UPLOAD_TIMEOUT_S, Client, within
from napari_plugin.client.numbering import named, numbered, numbering_of
from napari_plugin.client.transport import CONNECT_TIMEOUT_S, inside

STOCK = "MONAI Label (stock)"
"""What a MONAI Label server with another app than doselabel's is called; its app's name follows."""
MISSING = (
    "This server's app is not doselabel's: images, inference, next case, training and labels work. Missing: SPECT, "
    "registration, dose, older versions and their review, history of models. A submission overwrites the label there."
)
FINAL = "final"
TRAIN = "train"
WATCH_S = 0.2

_NEEDS = "This server is a stock MONAI Label: {} needs doselabel's own app (`doselabel serve STUDIES`)."
LACKS: Mapping[str, str] = {
    "register": _NEEDS.format("moving a SPECT"),
    "dose": _NEEDS.format("the dose"),
    "review": _NEEDS.format("comparing and judging versions"),
    "models": _NEEDS.format("a list of models to go back to"),
}
"""What has no counterpart there → why, as a person reads it."""


class StockClient(Client):
    """One MONAI Label server that runs another app than doselabel's."""

    lacks = LACKS

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._about: dict[str, Any] = {}
        self._made = Path(tempfile.mkdtemp(prefix="doselabel-stock-"))

    def close(self) -> None:
        """Close all connections, and forget results that were not fetched."""
        super().close()
        shutil.rmtree(self._made, ignore_errors=True)

    # ---- who answers, and what it has

    def info(self, timeout_s: float | None = None) -> ServerInfo:
        """Ask who answers."""
        self._about = about = self._json("GET", "/info/", **within(timeout_s))
        stats = about.get("datastore") or {}
        return ServerInfo(
            name=f"{STOCK}: {about.get('name') or 'unnamed app'}",
            version=str(about.get("version", "")),
            studies=int(stats.get("total", 0)),
            images=int(stats.get("total", 0)),
            labelled=int(stats.get("completed", 0)),
            infers=self._models_of("models"),
            trainers=list(about.get("trainers") or {}),
            strategies=list(about.get("strategies") or {}),
            organs={name: value for value, name in self.numbering().items()},
        )

    def numbering(self, model: str = "") -> dict[int, str]:
        """Value → name in the label maps of a model, or of the app: all its models' together."""
        return numbering_of(self._about, model)

    def studies(self) -> list[StudyInfo]:
        """List the images, each as a patient of its own."""
        objects = self._json("GET", "/datastore/?output=all").get("objects") or {}
        return [_study(image_id, row) for image_id, row in sorted(objects.items())]

    def study_file(
        self, patient_id: str, name: str, folder: Path, progress: Callable[[float], None] | None = None
    ) -> Path:
        """Fetch an image."""
        return self._download(f"/datastore/image?{urlencode({'image': patient_id})}", inside(folder, name), progress)

    def next_case(self, strategy: str = "", user: str = "") -> NextCase:
        """Ask which image to annotate next."""
        strategy = strategy or next(iter(self._about.get("strategies") or {}), "random")
        found = self._json("POST", f"/activelearning/{quote(strategy, safe='')}", json={"client_id": user})
        image_id = found.get("id")
        return NextCase(image_id=image_id, reason=f"chosen by '{strategy}'" if image_id else "All images are labelled.")

    # ---- labels

    def label_versions(self, image_id: str, timeout_s: float | None = None) -> list[LabelVersion]:
        """The label map of an image, if it has one. Its "version" is when it was stored, so that another is told."""
        query = urlencode({"label": image_id, "tag": FINAL})
        found = self._json("GET", f"/datastore/label/info?{query}", **within(timeout_s))
        return [_version(image_id, found)] if found else []

    def label_file(self, image_id: str, version: int, path: Path) -> Path:
        """Fetch the label map to ``path``, its names inside."""
        there = self.label_versions(image_id)
        if not there or there[0].version != version:
            raise ServerError(
                f"The label map of {image_id} that was stored before was overwritten.",
                "A stock MONAI Label server keeps one; open the case again to see it.",
            )
        raw = self._download(f"/datastore/label?{urlencode({'label': image_id, 'tag': FINAL})}", _beside(path))
        return named(raw, path, self.numbering())

    def submit_label(self, image_id: str, path: Path, submission: LabelSubmission) -> LabelVersion:
        """Store a label map in place of the one that is there."""
        before = self.label_versions(image_id)
        if before and submission.key and before[0].key == submission.key:
            return before[0]
        if before and submission.seen is not None and before[0].version > submission.seen:
            raise ServerError(
                f"{before[0].author or 'Somebody'} stored a label map of {image_id} at "
                f"{before[0].created.astimezone():%H:%M}, while you worked; yours would overwrite it and was not sent.",
                "Press Submit again: it shows theirs to compare, and sends yours if you keep it.",
            )
        labels, numbers = numbered(read_labels(path), self.numbering())
        renumbered = write_labels(_beside(path), labels)
        about = submission.model_dump(mode="json", exclude_defaults=True)
        about["label_info"] = [{"name": name, "idx": value} for name, value in numbers.items()]
        try:
            with renumbered.open("rb") as file:
                self._send(
                    "PUT",
                    f"/datastore/label?{urlencode({'image': image_id, 'tag': FINAL})}",
                    data={"params": json.dumps(about)},
                    files={"label": (f"{image_id}.nii.gz", file, "application/octet-stream")},
                    timeout=httpx.Timeout(UPLOAD_TIMEOUT_S, connect=CONNECT_TIMEOUT_S),
                )
        finally:
            renumbered.unlink(missing_ok=True)
        stored = self.label_versions(image_id)
        if not stored:
            raise ServerError(f"{self.url} took the label map of {image_id} and does not list it.", "See its log.")
        return stored[0]

    # ---- jobs: a stock server answers when it is done

    def run_job(
        self,
        task: str,
        request: JobRequest,
        progress: Progress = no_progress,
        *,
        on_status: Callable[[JobStatus], None] | None = None,
        poll_s: float = POLL_S,
        patience_s: float = LOST_CONTACT_S,
    ) -> JobResult:
        """Infer, or train, and wait for the end; ``progress`` may raise to give up waiting."""
        if task == TRAIN:
            return self._trained(request, progress, poll_s)
        if task in LACKS or request.image_id is None:
            raise ServerError(LACKS.get(task, f"{self.url} knows no task '{task}'."))
        return self._inferred(request, progress)

    def job_file(self, job_id: str, name: str, path: Path, progress: Callable[[float], None] | None = None) -> Path:
        """Move a file of a result to ``path``."""
        path.parent.mkdir(parents=True, exist_ok=True)
        return Path(shutil.move(inside(self._made, f"{job_id}/{name}"), path))

    def _inferred(self, request: JobRequest, progress: Progress) -> JobResult:
        model = self._model_for(str(request.params.get("model", "")))
        query = urlencode({"image": request.image_id, "output": "image"})
        answer = _InThread(
            lambda: self._send(
                "POST",
                f"/infer/{quote(model, safe='')}?{query}",
                data={"params": json.dumps({"client_id": request.user})},
                timeout=httpx.Timeout(None, connect=CONNECT_TIMEOUT_S),
            )
        )
        response = answer.wait(progress, f"'{model}' works (a stock server tells no progress)")
        job = uuid.uuid4().hex
        raw = self._made / job / f"raw-{_file_name(response)}"
        raw.parent.mkdir(parents=True)
        raw.write_bytes(response.content)
        labels = named(raw, raw.with_name("labels.nii.gz"), self.numbering(model))
        about = SegmentationSummary(organs={}, model_sha256=f"model {model}")
        return JobResult(id=job, task=model, files={"labels": labels.name}, segmentation=about)

    def _model_for(self, wanted: str) -> str:
        """The model asked for, or the one that draws most of our organs."""
        models = self._models_of("models")
        if not models:
            raise ServerError(f"{self.url} has no model that segments.", "Start it with one: --conf models NAME.")
        if wanted:
            return wanted
        return max(models, key=lambda name: len({known_name(n) for n in self.numbering(name).values()} & {*SEGMENTED}))

    def _models_of(self, kind: str) -> list[str]:
        models = self._about.get(kind) or {}
        plain = [name for name, one in models.items() if not isinstance(one, dict) or _whole(one)]
        return plain or list(models)

    def _trained(self, request: JobRequest, progress: Progress, poll_s: float) -> JobResult:
        trainers = list(self._about.get("trainers") or {})
        if not trainers:
            raise ServerError(f"{self.url} has no trainer.", "Its app must offer one.")
        wanted = str(request.params.get("model") or trainers[0])
        steps = request.params.get("steps")
        params = {"max_epochs": int(steps)} if steps else {}
        task = self._json("POST", f"/train/{quote(wanted, safe='')}?enqueue=true", json=params)
        while _state(task) in ("SUBMITTED", "RUNNING"):
            try:
                progress(f"training '{wanted}' (a stock server tells no progress)", 0.5)
            except Cancelled:
                self._send("DELETE", "/train/")
                raise
            time.sleep(poll_s)
            rows = self._json_list("GET", "/train/?all=true")
            task = next((row for row in rows if row.get("id") == task.get("id")), {"status": "ERROR"})
        if _state(task) == "STOPPED":
            raise Cancelled("cancelled on the server")
        if _state(task) != "DONE":
            last = (task.get("details") or ["it does not say why"])[-1]
            raise ServerError(f"The training of '{wanted}' failed: {last}", "Its log (GET /logs/) may say why.")
        progress("done", 1.0)
        return JobResult(id=str(task.get("id", "")), task=TRAIN)

    # ---- what has no counterpart

    def models(self) -> list[ModelEvent]:
        """Tell that no model was exchanged: a stock server keeps no history."""
        return []

    def jobs(self) -> list[JobStatus]:
        """Tell that nothing runs: a stock server lists no jobs."""
        return []

    def _no(self, what: str) -> NoReturn:
        raise ServerError(LACKS[what])

    def set_registration(self, *_: Any, **__: Any) -> NoReturn:
        """Refuse."""
        self._no("register")

    def review_label(self, *_: Any, **__: Any) -> NoReturn:
        """Refuse."""
        self._no("review")

    def rollback(self, *_: Any, **__: Any) -> NoReturn:
        """Refuse."""
        self._no("models")

    def draft_dose(self, *_: Any, **__: Any) -> NoReturn:
        """Refuse."""
        self._no("dose")

    # ---- small things

    def _json(self, method: str, route: str, **options: Any) -> dict[str, Any]:
        found = self._any_json(method, route, **options)
        if not isinstance(found, dict):
            raise ServerError(
                f"{self.url}{route} answered something else than expected (no object).", "Is it MONAI Label?"
            )
        return found

    def _json_list(self, method: str, route: str) -> list[dict[str, Any]]:
        found = self._any_json(method, route)
        return [row for row in found if isinstance(row, dict)] if isinstance(found, list) else []

    def _any_json(self, method: str, route: str, **options: Any) -> Any:
        response = self._send(method, route, **options)
        try:
            return response.json()
        except ValueError as error:
            raise ServerError(
                f"{self.url}{route} answered something else than expected (no JSON).", "Is it MONAI Label?"
            ) from error


class _InThread:
    """A request that is waited for, and can be left."""

    def __init__(self, ask: Callable[[], httpx.Response]) -> None:
        self._ask = ask
        self._answer: httpx.Response | None = None
        self._error: Exception | None = None
        self._over = threading.Event()
        threading.Thread(target=self._work, name="stock-infer", daemon=True).start()

    def _work(self) -> None:
        try:
            self._answer = self._ask()
        except Exception as error:  # it belongs to who waits
            self._error = error
        finally:
            self._over.set()

    def wait(self, progress: Progress, stage: str) -> httpx.Response:
        """The answer; ``progress`` may raise to leave it: a stock server goes on, and its answer is thrown away."""
        while not self._over.wait(WATCH_S):
            progress(stage, 0.5)
        if self._error is not None:
            raise self._error
        assert self._answer is not None
        return self._answer


def _state(task: Mapping[str, Any]) -> str:
    return str(task.get("status") or "").upper()


def _whole(model: Mapping[str, Any]) -> bool:
    """Whether a model segments without being asked by points or scribbles."""
    return model.get("type", "segmentation") in ("segmentation", "detection", "others")


def _study(image_id: str, row: Mapping[str, Any]) -> StudyInfo:
    labels = row.get("labels") or {}
    final = (labels.get(FINAL) or {}).get("info") or {}
    author = str(final.get("author") or final.get("client_id") or "")
    image = ImageInfo(
        image_id=image_id,
        file=image_id + str((row.get("image") or {}).get("ext", ".nii.gz")),
        role="diagnostic",
        labelled=FINAL in labels,
        versions=int(FINAL in labels),
        state="submitted" if FINAL in labels else None,
        authors=[author] if author else [],
    )
    return StudyInfo(patient_id=image_id, nuclide="", injected_activity_mbq=0.0, images=[image], time_points=[])


def _version(image_id: str, info: Mapping[str, Any]) -> LabelVersion:
    stored_s = float(info.get("ts") or 0)
    stated = {key: info[key] for key in ("author", "comment", "origin", "started_from", "key") if info.get(key)}
    stated.setdefault("author", str(info.get("client_id") or ""))
    return LabelVersion.model_validate(
        {
            "image_id": image_id,
            "version": max(1, int(stored_s)),
            "created": datetime.fromtimestamp(stored_s, UTC),
        }
        | stated
    )


def _beside(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.with_name(f"stock-{path.name}")


def _file_name(response: httpx.Response) -> str:
    """The name that a file came with, whose end says what it is."""
    stated = response.headers.get("content-disposition", "")
    name = Path(stated.rpartition("filename=")[2].strip('"; ')).name
    return name if "." in name else "labels.nii.gz"
