"""A small client of the doselabel server: its routes as methods (doselabel.wire lists them). Knows no Qt."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import httpx

from doselabel.errors import Cancelled, Progress, ServerError, no_progress
from doselabel.study import Registration
from doselabel.wire import (
    ErrorInfo,
    JobRequest,
    JobResult,
    JobStatus,
    LabelReview,
    LabelSubmission,
    LabelVersion,
    ModelEvent,
    ModelInfo,
    NextCase,
    ServerInfo,
    StudyInfo,
)
from napari_plugin.client.transport import CONNECT_TIMEOUT_S, Transport, Unreachable, inside, normal_url, server_error

__all__ = ["Client", "Unreachable", "inside", "normal_url"]

UPLOAD_TIMEOUT_S = 300.0
POLL_S = 0.5
DRAFT_POLL_S = 0.1
LOST_CONTACT_S = 30.0
"""A running job survives a server that does not answer for this long; then following it is given up, unless told
to be more patient."""

Answer = TypeVar("Answer")


class Client(Transport):
    """One server.

    Attributes
    ----------
    lacks : mapping
        What can't be asked of it → why: nothing of a doselabel server.
    """

    lacks: Mapping[str, str] = {}

    def __enter__(self) -> Client:
        return self

    # ---- who answers, and what it has

    def info(self, timeout_s: float | None = None) -> ServerInfo:
        """Ask who answers; tells a MONAI Label server with another app from one that is none at all."""
        try:
            return self._model(ServerInfo, "GET", "/doselabel/info", **within(timeout_s))
        except ServerError as error:
            if error.code != "http_404":
                raise
            raise self._not_doselabel() from error

    def studies(self) -> list[StudyInfo]:
        """List patients, also those that can't be used (their ``error`` says why)."""
        return self._models(StudyInfo, "GET", "/doselabel/studies")

    def study_file(
        self, patient_id: str, name: str, folder: Path, progress: Callable[[float], None] | None = None
    ) -> Path:
        """Fetch an image of a study into ``folder``; a file already there and unchanged is kept."""
        route = f"/doselabel/studies/{quote(patient_id, safe='')}/file/{quote(name)}"
        return self._download(route, inside(folder, name), progress)

    def set_registration(self, patient_id: str, time_point: int, registration: Registration) -> StudyInfo:
        """Store how a time point's SPECT is brought onto its CT."""
        return self._model(
            StudyInfo,
            "PUT",
            f"/doselabel/studies/{quote(patient_id, safe='')}/registration/{time_point}",
            json=registration.model_dump(mode="json"),
        )

    def next_case(self, strategy: str = "", user: str = "") -> NextCase:
        """Ask which case to annotate next, and why."""
        query = {key: value for key, value in (("strategy", strategy), ("user", user)) if value}
        return self._model(NextCase, "GET", "/doselabel/next", params=query)

    # ---- labels

    def label_versions(self, image_id: str, timeout_s: float | None = None) -> list[LabelVersion]:
        """List the label maps of a CT, newest first."""
        route = f"/doselabel/labels/{quote(image_id, safe='')}"
        return self._models(LabelVersion, "GET", route, **within(timeout_s))

    def label_file(self, image_id: str, version: int, path: Path) -> Path:
        """Fetch one version of a label map to ``path``."""
        return self._download(f"/doselabel/labels/{quote(image_id, safe='')}/{version}", path)

    def submit_label(self, image_id: str, path: Path, submission: LabelSubmission) -> LabelVersion:
        """Store a label map as a new version."""
        with path.open("rb") as file:
            return self._model(
                LabelVersion,
                "POST",
                f"/doselabel/labels/{quote(image_id, safe='')}",
                data={"params": submission.model_dump_json()},
                files={"file": (path.name, file, "application/octet-stream")},
                timeout=httpx.Timeout(UPLOAD_TIMEOUT_S, connect=CONNECT_TIMEOUT_S),
            )

    def review_label(self, image_id: str, version: int, review: LabelReview) -> LabelVersion:
        """Say of a version that it is approved, flagged, or neither."""
        route = f"/doselabel/labels/{quote(image_id, safe='')}/{version}/review"
        return self._model(LabelVersion, "PUT", route, json=review.model_dump(mode="json"))

    # ---- models

    def models(self) -> list[ModelEvent]:
        """List every change of the model that answers, newest first."""
        return self._models(ModelEvent, "GET", "/doselabel/models")

    def rollback(self, sha256: str, user: str = "") -> ModelInfo:
        """Let an earlier model answer again."""
        query = {"sha256": sha256} | ({"user": user} if user else {})
        return self._model(ModelInfo, "POST", "/doselabel/model/rollback", params=query)

    # ---- jobs

    def start_job(self, task: str, request: JobRequest) -> JobStatus:
        """Start a job: an infer task's name, or "train"."""
        return self._model(JobStatus, "POST", f"/jobs/{quote(task, safe='')}", json=request.model_dump(mode="json"))

    def jobs(self) -> list[JobStatus]:
        """List the server's jobs."""
        return self._models(JobStatus, "GET", "/jobs")

    def job(self, job_id: str) -> JobStatus:
        """Ask how far a job is."""
        return self._model(JobStatus, "GET", f"/jobs/{quote(job_id, safe='')}")

    def job_result(self, job_id: str) -> JobResult:
        """Fetch what a finished job made."""
        return self._model(JobResult, "GET", f"/jobs/{quote(job_id, safe='')}/result")

    def job_file(self, job_id: str, name: str, path: Path, progress: Callable[[float], None] | None = None) -> Path:
        """Fetch a file of a job's result to ``path``."""
        return self._download(f"/jobs/{quote(job_id, safe='')}/file/{quote(name)}", path, progress)

    def cancel_job(self, job_id: str) -> JobStatus:
        """Cancel a job."""
        return self._model(JobStatus, "DELETE", f"/jobs/{quote(job_id, safe='')}")

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
        """Start a job and follow it to its end; if ``progress`` raises, the job is cancelled on the server.

        Parameters
        ----------
        progress : Progress
            Called at every poll with the job's stage and fraction.
        on_status : callable, optional
            Called with every `JobStatus` seen, for those who want more than stage and fraction.
        patience_s : float
            How long a server that does not answer is waited for; `math.inf` until ``progress`` raises.

        Raises
        ------
        ServerError
            When the job fails (with the server's own code, message and hint) or contact is lost.
        Cancelled
            When ``progress`` raised it, or somebody else cancelled the job.
        """
        return self.follow(self.start_job(task, request), progress, on_status, poll_s, patience_s)

    def draft_dose(
        self, drafts: Mapping[str, Path], params: Mapping[str, Any], progress: Progress = no_progress
    ) -> JobResult:
        """Compute the dose of label maps that are not submitted: image id → file, all of one patient."""
        with contextlib.ExitStack() as stack:
            named = {f"{image_id}{_suffix(path)}": path for image_id, path in drafts.items()}
            files = [
                ("files", (name, stack.enter_context(path.open("rb")), "application/octet-stream"))
                for name, path in named.items()
            ]
            status = self._model(
                JobStatus,
                "POST",
                "/doselabel/draft",
                data={"params": json.dumps(dict(params))},
                files=files,
                timeout=httpx.Timeout(UPLOAD_TIMEOUT_S, connect=CONNECT_TIMEOUT_S),
            )
        return self.follow(status, progress, poll_s=DRAFT_POLL_S)

    def follow(
        self,
        status: JobStatus,
        progress: Progress = no_progress,
        on_status: Callable[[JobStatus], None] | None = None,
        poll_s: float = POLL_S,
        patience_s: float = LOST_CONTACT_S,
    ) -> JobResult:
        """Follow a job that was started to its end; see `run_job`."""
        try:
            while not status.is_over:
                if on_status is not None:
                    on_status(status)
                progress(status.stage or status.state, status.fraction)
                time.sleep(poll_s)
                status = self.patiently(
                    partial(self.job, status.id),
                    partial(progress, f"{status.stage} (no answer, waiting)", status.fraction),
                    patience_s,
                )
        except ServerError as error:
            if error.code == "not_found":
                raise ServerError(f"{self.url} was restarted and forgot this job.", "Start it again.") from error
            raise
        except BaseException:
            self._cancel_quietly(status.id)
            raise
        if on_status is not None:
            on_status(status)
        if status.state == "cancelled":
            raise Cancelled(status.message or "cancelled on the server")
        if status.state == "failed":
            raise server_error(status.error or ErrorInfo(code="server", message=status.message or "The job failed."))
        progress("done", 1.0)
        waiting = lambda: progress("fetching the result (no answer, waiting)", 1.0)  # noqa: E731
        return self.patiently(lambda: self.job_result(status.id), waiting, patience_s)

    def patiently(
        self, ask: Callable[[], Answer], waiting: Callable[[], None], patience_s: float = LOST_CONTACT_S
    ) -> Answer:
        """Ask, and ask again while the server does not answer; ``waiting`` may raise to give up earlier."""
        deadline = time.monotonic() + patience_s
        while True:
            try:
                return ask()
            except Unreachable:
                if time.monotonic() > deadline:
                    raise
            waiting()
            time.sleep(1.0)

    def _cancel_quietly(self, job_id: str) -> None:
        # The work is being given up in any case; the reason for that must reach the caller.
        with contextlib.suppress(ServerError):
            self.cancel_job(job_id)

    def _not_doselabel(self) -> ServerError:
        try:
            name = self._send("GET", "/info/").json().get("name", "unnamed")
        except (ServerError, ValueError, AttributeError):
            return ServerError(f"{self.url} answers, but is no doselabel server.", "Check address and port.")
        return OtherApp(f"{self.url} is a MONAI Label server, but its app is '{name}'.")


class OtherApp(ServerError):
    """A MONAI Label server whose app is not doselabel's."""

    code = "other_app"


def within(timeout_s: float | None) -> dict[str, httpx.Timeout]:
    """Options of a request that must be answered in a time of its own."""
    return {} if timeout_s is None else {"timeout": httpx.Timeout(timeout_s)}


def _suffix(path: Path) -> str:
    return ".nii.gz" if path.name.endswith(".nii.gz") else path.suffix
