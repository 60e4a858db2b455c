"""What the server was told at its start (`--conf key value`). Knows names and defaults, nothing of what they do."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from filelock import FileLock, Timeout

from doselabel.errors import ServerError

STATE = ".doselabel"
"""Folder beside the patients that holds models, jobs and logs: what is learned belongs to the studies."""

USERS = "users.json"
"""In it: who may use the server (see `monailabel_app.users`)."""

TOKEN = "DOSELABEL_TOKEN"
"""Environment variable: a token for programs; who brings it (``Authorization: Bearer …``) is an admin."""

ORIGINS = "DOSELABEL_ORIGINS"
"""Environment variable: web origins that may call the server, with commas. MONAI Label's own setting for this,
MONAI_LABEL_CORS_ORIGINS, ends its 0.8.5 at the start (its URLs can't be logged as JSON)."""

PARENT = "DOSELABEL_PARENT"
"""Environment variable, set by `monailabel_app.launch`: the process that the server must not outlive."""

MONAI_OWN = ("server_mode", "models", "preload", "skip_trainers", "skip_scoring", "skip_strategies")
"""Options that scripts give every MONAI Label app; this one has one set of models, always loaded before it is asked."""

REPLAY_MADE, REPLAY_NONE = "made", "none"

SMALL_CPUS = 4
"""On a machine with so many processors or fewer, a training stands still while somebody waits."""

ROLES = ("annotator", "reviewer", "admin")
"""Every role may do what the ones before it may."""

SAFE = re.compile(r"https://.+|http://(127\.0\.0\.1|\[::1\])(:\d+)?(/.*)?")
"""Where passwords may go, and where keys may come from: by TLS, or on this machine."""

PLANES = {"axial": ("axial",), "all": ("axial", "coronal", "sagittal")}


_CHOICES = {
    "planes": tuple(PLANES),
    "pause_training": ("auto", "yes", "no"),
    "train_role": ROLES,
    "review": ("optional", "required"),
}


def take_over(state: Path) -> FileLock:
    """Make sure that one server alone works on these studies, until the lock is given back or the process ends.

    Raises
    ------
    ServerError
        When another one does: two would undo each other's promotions and jobs.
    """
    state.mkdir(parents=True, exist_ok=True)
    lock = FileLock(str(state / "server.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise ServerError(f"Another server is at work on {state.parent}.", "Use that one, or stop it first.") from error
    return lock


@dataclass(frozen=True)
class Conf:
    """Options of the server.

    Attributes
    ----------
    studies : str
        Folder of patient folders.
    checkpoint : str
        Model to start with; empty: the starter model of the package.
    paper_checkpoint : str
        Model of the profile ``paper`` for the task ``kidney_liver_paper``; empty: the one that answers otherwise, read
        as in the paper.
    planes : str
        "axial" (fast) or "all" (consensus of three planes).
    device : str
        "cpu", "cuda", "cuda:1".
    train_steps : int
        Steps of a retraining, unless the request says otherwise.
    replay : str
        What is mixed into every retraining, so that what was known is not lost: "made" (phantoms and painted CTs,
        `doselabel.model.replay`), a folder of earlier cases (`doselabel.model.datasets.cases_from`), or "none".
    grace_s : float
        How long a cancelled job may take to stop by itself before its worker is ended.
    login_h : float
        How long a login is good.
    memory_gb : float
        What one worker process may write to, in GiB; what it asks for beyond fails, and that job alone. 0: no limit.
    pause_training : str
        Whether a training stands still while a segmentation or a dose is waited for: "yes", "no", or "auto": on a
        machine with at most `SMALL_CPUS` processors.
    train_role : str
        From which role on somebody may start and stop a training.
    oidc_issuer : str
        OpenID Connect issuer whose users may use the server; empty: those of the studies folder.
    oidc_client : str
        What this server is called there.
    oidc_roles : str
        Where its tokens have roles, with dots.
    score_at : str
        "HH:MM": when, every night, CTs are predicted by three planes for active learning; empty: on demand only.
    workers : str
        Address of a Dask scheduler (``tcp://host:8786``) whose workers do the jobs; empty: this machine does.
    parallel : int
        How many jobs of a lane run side by side; trainings never do.
    review : str
        "optional": a label map counts when it is submitted, until one of its CT is approved. "required": only an
        approved one counts.
    """

    studies: str
    checkpoint: str = ""
    paper_checkpoint: str = ""
    planes: str = "axial"
    device: str = "cpu"
    train_steps: int = 60
    replay: str = REPLAY_MADE
    grace_s: float = 1.0
    login_h: float = 10.0
    memory_gb: float = 12.0
    pause_training: str = "auto"
    train_role: str = "admin"
    oidc_issuer: str = ""
    oidc_client: str = "doselabel"
    oidc_roles: str = "realm_access.roles"
    score_at: str = ""
    workers: str = ""
    parallel: int = 1
    review: str = "optional"

    @property
    def state(self) -> Path:
        """Folder for models, jobs and logs."""
        return Path(self.studies) / STATE

    @property
    def pauses_training(self) -> bool:
        """Whether a training stands still while somebody waits."""
        small = (os.cpu_count() or 1) <= SMALL_CPUS
        return not self.workers and (self.pause_training == "yes" or (self.pause_training == "auto" and small))

    @classmethod
    def read(cls, studies: str, options: Mapping[str, str]) -> Conf:
        """Read MONAI Label's ``--conf`` pairs.

        Raises
        ------
        ServerError
            On an option that is not known, or a value that can't be read.
        """
        known = {field.name: field for field in fields(cls) if field.name != "studies"}
        values: dict[str, str | int | float] = {}
        for key, text in options.items():
            if key in MONAI_OWN:
                continue
            if key not in known:
                raise ServerError(
                    f"--conf {key}: is not an option of this app; it has {', '.join(known)}.",
                    "Correct the name.",
                )
            kind: type[str | int | float] = type(getattr(cls, key))
            try:
                values[key] = kind(text)
            except ValueError as error:
                raise ServerError(f"--conf {key}: found '{text}', expected {kind.__name__}.") from error
        conf = cls(str(Path(studies).resolve()), **values)  # type: ignore[arg-type]
        for key, allowed in _CHOICES.items():
            if (found := getattr(conf, key)) not in allowed:
                raise ServerError(f"--conf {key}: found '{found}', expected {' or '.join(allowed)}.")
        if conf.score_at and not re.fullmatch(r"([01]\d|2[0-3]):[0-5]\d", conf.score_at):
            raise ServerError(f"--conf score_at: found '{conf.score_at}', expected a time such as 02:30.")
        if conf.oidc_issuer and not SAFE.fullmatch(conf.oidc_issuer):
            raise ServerError(f"--conf oidc_issuer: found '{conf.oidc_issuer}', expected an https:// address.")
        if conf.parallel < 1:
            raise ServerError(f"--conf parallel: found {conf.parallel}, expected 1 or more.")
        if conf.workers and not re.fullmatch(r"(tcp|tls)://[^/\s]+:\d+", conf.workers):
            raise ServerError(f"--conf workers: found '{conf.workers}', expected an address such as tcp://host:8786.")
        for key in ("checkpoint", "paper_checkpoint", "replay"):
            path = getattr(conf, key)
            if path and path not in (REPLAY_MADE, REPLAY_NONE) and not Path(path).exists():
                raise ServerError(f"--conf {key}: there is no '{path}'.", "Give an absolute path that exists.")
        return conf

    def to_json(self) -> str:
        """Write down for a worker process."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Conf:
        """Read what `to_json` wrote."""
        return cls(**json.loads(text))
