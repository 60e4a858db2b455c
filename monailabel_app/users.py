"""Who may use a server, as what, and the tokens that say so. Knows files, hashes and clocks; knows no HTTP.

``<studies>/.doselabel/users.json`` holds ``{"schema": "doselabel.users/1", "users": {name: {"role", "password"}}}``;
a password is kept as its Argon2id hash only. Every role may do what the ones before it may. A token is signed
(HS256, RFC 7519) with the server's own key, ends by itself, and is void as soon as its user is gone or has another
password.
"""

from __future__ import annotations

import argparse
import getpass
import hashlib
import hmac
import json
import re
import secrets
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jwt
from filelock import FileLock
from pwdlib import PasswordHash
from pwdlib.hashers.argon2 import Argon2Hasher

from doselabel import disk
from doselabel.errors import ServerError
from monailabel_app.conf import ROLES, STATE, USERS

KEY = "token.key"
SCHEMA = "doselabel.users/1"
LEAST_PASSWORD = 8
TOKEN_S = 10 * 3600.0
"""A token is good for a working day."""
TRIES, TRIES_S = 10, 300.0
"""After so many wrong passwords for a name within this time, further ones are not looked at."""

WAITING = 12
"""More logins than this at a time are refused, to be tried again."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_ALGORITHM = "HS256"


@dataclass(frozen=True)
class User:
    """Who asks; a ``name`` of "" is somebody on the server's own machine, where nobody need log in."""

    name: str
    role: str

    def may(self, role: str) -> bool:
        """Whether this user has a role, or one above it."""
        return ROLES.index(self.role) >= ROLES.index(role)

    @property
    def roles(self) -> list[str]:
        """The role and all below it."""
        return list(ROLES[: ROLES.index(self.role) + 1])


class WrongLogin(ServerError):
    """A name and password that do not fit, or a token that is no good."""

    code = "login"
    status = 401


class TooManyTries(ServerError):
    """Too many wrong passwords."""

    code = "busy"
    status = 429
    retry_after_s = 10


class Users:
    """The users of one studies folder.

    Parameters
    ----------
    state : Path
        ``<studies>/.doselabel``.
    lifetime_s : float
        How long a token is good.
    """

    client_id = "doselabel"
    kept_by = "`doselabel users`"

    def __init__(self, state: Path, lifetime_s: float = TOKEN_S) -> None:
        self._state = state
        self.lifetime_s = lifetime_s
        # OWASP's parameters for Argon2id: 19 MiB and two passes, so that ten logins at once hurt nobody else
        self._hasher = PasswordHash((Argon2Hasher(time_cost=2, memory_cost=19 * 1024, parallelism=1),))
        self._nobody = ""
        self._hashing = threading.Semaphore(2)
        self._waiting = 0
        self._lock = threading.Lock()
        self._read: tuple[tuple[int, int, int], dict[str, dict[str, Any]]] | None = None
        self._wrong: dict[str, list[float]] = {}

    @property
    def any(self) -> bool:
        """Whether somebody has to log in at all; a damaged file counts, so that it opens nothing."""
        return (self._state / USERS).exists()

    def grant(self, name: str, password: str) -> dict[str, Any]:
        """Log in: a token, as OAuth 2.0 (RFC 6749 section 5.1) has it.

        Raises
        ------
        WrongLogin, TooManyTries
        """
        token = self.token(self.login(name, password).name)
        return {"access_token": token, "token_type": "bearer", "expires_in": int(self.lifetime_s)}

    def login(self, name: str, password: str) -> User:
        """Check a password.

        Raises
        ------
        WrongLogin, TooManyTries
        """
        now = time.monotonic()
        with self._lock:
            self._wrong = {k: kept for k, v in self._wrong.items() if (kept := [t for t in v if now - t < TRIES_S])}
            if len(self._wrong.get(name, ())) >= TRIES:
                raise TooManyTries(f"Too many wrong passwords for '{name[:64]}'.", "Wait five minutes.")
        row = self._rows().get(name)
        with self._turn():
            if row is None and not self._nobody:  # so that a name that is not there takes as long as one that is
                self._nobody = self._hasher.hash(secrets.token_hex(16))
            fits = self._hasher.verify(password, row["password"] if row else self._nobody)
        if not row or not fits:
            with self._lock:
                self._wrong.setdefault(name, []).append(now)
            raise WrongLogin("Name and password do not fit.", "Try again; an admin can set another password.")
        with self._lock:
            self._wrong.pop(name, None)
        return User(name, row["role"])

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Two passwords are checked at a time; few wait, so that strangers' logins do not take all threads."""
        with self._lock:
            if self._waiting >= WAITING:
                raise TooManyTries("Too many log in at this moment.", "Try again in a few seconds.")
            self._waiting += 1
        try:
            with self._hashing:
                yield
        finally:
            with self._lock:
                self._waiting -= 1

    def token(self, name: str) -> str:
        """A token for a user."""
        now = time.time()
        claims = {"sub": name, "iat": now, "exp": now + self.lifetime_s, "pw": _mark(self._rows()[name])}
        return jwt.encode(claims, self._key(), algorithm=_ALGORITHM)

    def bearer(self, token: str) -> User:
        """The user a token was given to.

        Raises
        ------
        WrongLogin
            When it was not given by this server, is out of date, or its user has changed.
        """
        try:
            claims = jwt.decode(
                token, self._key(), algorithms=[_ALGORITHM], options={"require": ["exp", "sub"], "verify_iat": False}
            )
        except jwt.ExpiredSignatureError as error:
            raise WrongLogin("The login has run out.", "Log in again.") from error
        except jwt.InvalidTokenError as error:
            raise WrongLogin("The token is not one of this server's.", "Log in again.") from error
        row = self._rows().get(claims["sub"])
        if not row or not hmac.compare_digest(str(claims.get("pw", "")), _mark(row)):
            raise WrongLogin("The user of this token is gone, or has another password.", "Log in again.")
        return User(claims["sub"], row["role"])

    # ---- keeping them

    def put(self, name: str, password: str, role: str) -> None:
        """Add a user, or give one another password and role.

        Raises
        ------
        ServerError
            On a name, password or role that can't be.
        """
        if not _NAME.fullmatch(name):
            raise ServerError(f"'{name[:64]}' is no user name; expected letters, digits and . _ @ -.")
        if role not in ROLES:
            raise ServerError(f"'{role}' is no role; expected {', '.join(ROLES)}.")
        if len(password) < LEAST_PASSWORD:
            raise ServerError(f"The password has {len(password)} characters; expected {LEAST_PASSWORD} or more.")
        self._change(name, {"role": role, "password": self._hasher.hash(password)})

    def remove(self, name: str) -> None:
        """Remove a user; tokens given to it are void at once."""
        if name not in self._rows():
            raise ServerError(f"There is no user '{name}'.", f"There are {', '.join(self._rows()) or 'none'}.")
        self._change(name, None)

    def list(self) -> list[User]:
        """All users."""
        return [User(name, row["role"]) for name, row in sorted(self._rows().items())]

    def _change(self, name: str, row: dict[str, Any] | None) -> None:
        self._state.mkdir(parents=True, exist_ok=True)
        with FileLock(str(self._state / f"{USERS}.lock"), timeout=30):
            rows = {k: v for k, v in self._rows().items() if k != name} | ({name: row} if row else {})
            disk.write(self._state / USERS, json.dumps({"schema": SCHEMA, "users": rows}, indent=2), mode=0o600)

    def _rows(self) -> dict[str, dict[str, Any]]:
        path = self._state / USERS
        try:
            stat = path.stat()
            key = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
            with self._lock:
                if self._read is None or self._read[0] != key:
                    self._read = key, _checked(json.loads(path.read_text("utf-8")))
                return self._read[1]
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ServerError(
                f"The list of users can't be read ({type(error).__name__}): nobody can log in.",
                f"Restore {USERS} of the studies folder's {STATE} from a backup.",
            ) from error

    def _key(self) -> bytes:
        path = self._state / KEY
        try:
            return path.read_bytes()
        except FileNotFoundError:
            self._state.mkdir(parents=True, exist_ok=True)
            with FileLock(str(path) + ".lock", timeout=30):
                if not path.exists():
                    disk.write(path, secrets.token_hex(32), mode=0o600)
            return path.read_bytes()


def _checked(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    rows = document["users"]
    if document["schema"] != SCHEMA or not all(
        row["role"] in ROLES and isinstance(row["password"], str) for row in rows.values()
    ):
        raise ValueError(document.get("schema"))
    return dict(rows)


def _mark(row: dict[str, Any]) -> str:
    return hashlib.sha256(row["password"].encode()).hexdigest()[:16]


def main(arguments: list[str] | None = None) -> int:
    """Entry of ``python -m monailabel_app.users`` (and of `doselabel users`)."""
    parser = argparse.ArgumentParser(prog="doselabel users", description="Who may use the server of a studies folder.")
    commands = parser.add_subparsers(dest="what", required=True)
    for what, words in (("add", "add a user or change one"), ("remove", "remove a user"), ("list", "list the users")):
        command = commands.add_parser(what, help=words)
        command.add_argument("studies", type=Path)
        if what != "list":
            command.add_argument("name")
        if what == "add":
            command.add_argument("--role", choices=ROLES, default=ROLES[0])
    given = parser.parse_args(arguments)
    try:
        if not given.studies.is_dir():
            raise ServerError(f"{given.studies}: there is no such folder.")
        users = Users(given.studies / STATE)
        if given.what == "add":
            asked = sys.stdin.isatty()
            password = getpass.getpass("Password: ") if asked else sys.stdin.readline().rstrip("\n")
            if asked and getpass.getpass("Again: ") != password:
                raise ServerError("The two passwords differ.", "Type the same one twice.")
            users.put(given.name, password, given.role)
        elif given.what == "remove":
            users.remove(given.name)
        else:
            for user in users.list():
                sys.stdout.write(f"{user.name}\t{user.role}\n")
    except ServerError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
