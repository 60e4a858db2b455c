"""Pseudonyms, made with a secret that stays in a local key file, and that file. Knows no images.

PS3.15 basic profile for what is written: no names, numbers, descriptions, institutions or serial numbers; UIDs are
remapped, and dates moved by whole days, each consistently for a patient, so that intervals stay.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import secrets
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

import platformdirs

from doselabel import disk
from doselabel.errors import DicomError


def default_key() -> Path:
    """Where the key lies unless another place is named: with this user, never beside the studies."""
    return Path(platformdirs.user_data_dir("doselabel")) / "pseudonyms.json"


@dataclass
class Key:
    """A secret, and who is behind each pseudonym. Who has the file can undo the pseudonyms."""

    path: Path
    secret: bytes
    patients: dict[str, str] = field(default_factory=dict)
    people: dict[str, str] = field(default_factory=dict)
    """Pseudonym → who drew or reviewed."""
    plain: bool = False
    """Identities are kept as they are (``--keep-identity``)."""

    @classmethod
    def open(cls, path: Path | None = None, *, plain: bool = False) -> Key:
        """Read a key file, or begin one; it is written by `save`."""
        path = path or default_key()
        if plain:
            return cls(path, b"", plain=True)
        try:
            content = json.loads(path.read_text("utf-8"))
            return cls(
                path, bytes.fromhex(content["secret"]), dict(content["patients"]), dict(content.get("people", {}))
            )
        except FileNotFoundError:
            return cls(path, secrets.token_bytes(32))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DicomError(
                f"{path}: is no key file of pseudonyms ({error}).",
                "Restore it from a backup: with another key, a patient gets another pseudonym.",
            ) from error

    def save(self) -> None:
        """Write the file, for its owner alone."""
        if self.plain:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        people = {"people": self.people} if self.people else {}
        content = {"secret": self.secret.hex(), "patients": self.patients, **people}
        disk.write(self.path, json.dumps(content, indent=1), mode=0o600)

    def _digest(self, kind: str, text: str) -> bytes:
        return hmac.new(self.secret, f"{kind}\0{text}".encode(), hashlib.sha256).digest()

    def patient(self, identity: str) -> str:
        """Pseudonym of a patient; the same for the same identity and key."""
        if self.plain:
            return re.sub(r"[^A-Za-z0-9-]+", "-", identity).strip("-")[:60] or "unnamed"
        name = "P-" + base64.b32encode(self._digest("patient", identity))[:8].decode()
        self.patients[name] = identity
        return name

    def person(self, name: str) -> str:
        """Pseudonym of one who drew or reviewed; "" stays."""
        name = " ".join(name.replace("^", " ").split())
        if self.plain or not name:
            return name[:100]
        pseudonym = "A-" + base64.b32encode(self._digest("person", name))[:8].decode()
        self.people[pseudonym] = name
        return pseudonym

    def uid(self, uid: str) -> str:
        """The UID that stands for one of a source."""
        if self.plain or not uid:
            return uid
        return f"2.25.{int.from_bytes(self._digest('uid', uid)[:16], 'big')}"

    def moved(self, identity: str, moment: datetime) -> datetime:
        """A time, moved by the patient's own number of days, 1 to 3650 back."""
        if self.plain:
            return moment
        return moment - timedelta(days=1 + int.from_bytes(self._digest("days", identity)[:4], "big") % 3650)
