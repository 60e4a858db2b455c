"""A PACS by DICOMweb: studies are looked up (QIDO), pulled (WADO) and results pushed (STOW). Knows no images.

Both ways go object by object, so that what is there already is passed over and an interrupted transfer goes on. What
fails is tried again, and named in the end.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from doselabel import disk
from doselabel.dicom.need import Dataset, pydicom
from doselabel.errors import DicomError, Progress, ServerError, no_progress

USER, PASSWORD, TOKEN = "DOSELABEL_PACS_USER", "DOSELABEL_PACS_PASSWORD", "DOSELABEL_PACS_TOKEN"
LOOPBACK = {"localhost", "127.0.0.1", "::1"}
TRIES, WAIT_S = 4, 1.0
PAGE = 500
AS_STORED = (("application/dicom", "*"),)
AGAIN = {408, 425, 429, 500, 502, 503, 504}
SOP, SERIES, STUDY = "00080018", "0020000E", "0020000D"

T = TypeVar("T")


@dataclass
class Transfer:
    """What became of objects: those moved now, those that were there, and those that failed (name, why)."""

    moved: list[str] = field(default_factory=list)
    there: list[str] = field(default_factory=list)
    failed: list[tuple[str, str]] = field(default_factory=list)


class Pacs:
    """A DICOMweb service.

    Parameters
    ----------
    url : str
        Root of the service, such as ``https://pacs.example/dicom-web``. Plain http is for this machine alone.
    environ : mapping, optional
        Holds ``DOSELABEL_PACS_USER`` and ``DOSELABEL_PACS_PASSWORD``, or ``DOSELABEL_PACS_TOKEN``; else the keyring of
        this user is asked for what is kept under the url. A hospital's own certificate authority is named by
        ``REQUESTS_CA_BUNDLE``, as requests reads it.

    Raises
    ------
    ServerError
        For an address that would send credentials and patients in the clear, or is none.
    """

    def __init__(self, url: str, environ: Mapping[str, str] | None = None) -> None:
        from dicomweb_client import DICOMwebClient
        from dicomweb_client.session_utils import create_session_from_user_pass

        environ = os.environ if environ is None else environ
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ServerError(f"'{url}' is no address of a PACS.", "Write https://HOST/PATH of its DICOMweb service.")
        if parts.username or parts.password:
            raise ServerError("The address holds a password.", f"Give it in {USER} and {PASSWORD}, or by keyring.")
        if parts.scheme == "http" and parts.hostname not in LOOPBACK:
            raise ServerError(f"{url}: is not encrypted.", "Use https://; plain http is for this machine alone.")
        user, password = _credentials(url.rstrip("/"), environ)
        session = create_session_from_user_pass(user, password)
        if not user:
            session.auth = None
        if TOKEN in environ:
            session.headers["Authorization"] = f"Bearer {environ[TOKEN]}"
        session.trust_env = True
        # In one piece: servers differ in whether they take a body in chunks, and a chunked one can't be sent again.
        self._client = DICOMwebClient(url.rstrip("/"), session=session, chunk_size=2**31 - 1, permissive_uid=True)
        self._client.set_http_retry_params(retry=False)
        self._url = url.rstrip("/")

    # ---- what is there

    def instances(self, **filters: str) -> list[dict[str, str]]:
        """Study, series and object UID of all objects of the studies that match; keys are DICOM keywords."""
        studies = self._pages(partial(self._client.search_for_studies, search_filters=filters))
        found = []
        for study in dict.fromkeys(_value(row, STUDY) for row in studies):
            rows = self._pages(partial(self._client.search_for_instances, study))
            found += [{"study": study, "series": _value(row, SERIES), "sop": _value(row, SOP)} for row in rows]
        return found

    def _pages(self, search: Callable[..., Sequence[dict[str, Any]]]) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        seen: set[str] = set()
        while True:
            page = self._tried(partial(search, limit=PAGE, offset=len(rows)))
            fresh = [row for row in page if (key := _value(row, SOP) or _value(row, STUDY)) and key not in seen]
            seen |= {_value(row, SOP) or _value(row, STUDY) for row in fresh}
            rows += fresh
            if len(page) < PAGE or not fresh:  # a server that knows no offset gives the first page again
                return rows

    # ---- pull and push

    def pull(self, out: Path, progress: Progress = no_progress, **filters: str) -> Transfer:
        """Fetch all objects of the studies that match into ``out/<series UID>/<object UID>.dcm``.

        Raises
        ------
        DicomError
            When nothing matches.
        """
        wanted, done = self.instances(**filters), Transfer()
        if not wanted:
            said = ", ".join(f"{name} {value}" for name, value in filters.items())
            raise DicomError(f"The PACS has nothing with {said}.", "Check the number; it must match exactly.")
        for number, each in enumerate(wanted):
            progress(f"pulling {number + 1} of {len(wanted)}", number / len(wanted))
            folder = out / each["series"]
            file = folder / f"{each['sop']}.dcm"
            if file.is_file():
                done.there.append(each["sop"])
                continue
            uids = each["study"], each["series"], each["sop"]
            try:
                ds = self._tried(partial(self._client.retrieve_instance, *uids, media_types=AS_STORED))
                if str(ds.SOPInstanceUID) != each["sop"]:
                    raise ServerError(f"another object was sent ({ds.SOPInstanceUID}).")
                disk.make_folder(folder)
                temporary = folder / f"{disk.UNFINISHED}{file.name}"
                ds.save_as(temporary, write_like_original=False)
                temporary.replace(file)
                done.moved.append(each["sop"])
            except (ServerError, ValueError) as error:
                done.failed.append((each["sop"], _why(error)))
        progress("pulled", 1.0)
        return done

    def push(self, files: Iterable[Path], progress: Progress = no_progress) -> Transfer:
        """Store files, each in a request of its own; one that the PACS has is passed over.

        Raises
        ------
        DicomError
            When a file is no DICOM: before anything is sent.
        """
        objects = [(path, _read(path)) for path in files]
        done = Transfer()
        for number, (path, ds) in enumerate(objects):
            progress(f"pushing {path.name}", number / len(objects))
            sop = str(ds.SOPInstanceUID)
            try:
                if self._has(ds):
                    done.there.append(path.name)
                    continue
                reply = self._tried(partial(self._client.store_instances, [ds]))
                if refused := _refused(reply, sop):
                    done.failed.append((path.name, refused))
                elif not self._has(ds):
                    done.failed.append((path.name, "the PACS accepted it and does not show it"))
                else:
                    done.moved.append(path.name)
            except ServerError as error:
                done.failed.append((path.name, _why(error)))
        progress("pushed", 1.0)
        return done

    def _has(self, ds: Dataset) -> bool:
        which = {"SOPInstanceUID": str(ds.SOPInstanceUID)}
        study, series = str(ds.StudyInstanceUID), str(ds.SeriesInstanceUID)
        found = self._tried(partial(self._client.search_for_instances, study, series, search_filters=which))
        return any(_value(row, SOP) == which["SOPInstanceUID"] for row in found)

    def _tried(self, ask: Callable[[], T]) -> T:
        """Ask again, after a while, where that may help."""
        import requests

        wait_s = WAIT_S
        for left in range(TRIES - 1, -1, -1):
            try:
                return ask()
            except requests.exceptions.SSLError as error:
                raise ServerError(
                    f"{self._url}: its certificate can't be trusted ({error}).",
                    "Name the hospital's certificate authority in REQUESTS_CA_BUNDLE.",
                ) from error
            except requests.exceptions.HTTPError as error:
                status = error.response.status_code if error.response is not None else 0
                if status in (401, 403):
                    raise ServerError(
                        f"{self._url}: does not let us in (HTTP {status}).",
                        f"Set {USER} and {PASSWORD}, or {TOKEN}, or: keyring set {self._url} USER.",
                    ) from error
                if status not in AGAIN or not left:
                    raise ServerError(f"{self._url}: HTTP {status}{_reason(error.response)}") from error
            except requests.exceptions.RequestException as error:
                if not left:
                    raise ServerError(
                        f"{self._url}: does not answer ({type(error).__name__}).", "Check address and network."
                    ) from error
            time.sleep(wait_s)
            wait_s *= 2
        raise AssertionError


def _credentials(url: str, environ: Mapping[str, str]) -> tuple[str, str]:
    """User and password: of the environment, else of this user's keyring; "" without any."""
    user = environ.get(USER, "")
    if TOKEN in environ:
        return "", ""
    if PASSWORD in environ:
        return user, environ[PASSWORD]
    import keyring
    import keyring.errors

    try:
        kept = keyring.get_credential(url, user or None)
    except keyring.errors.KeyringError:  # none on this machine, or it is locked
        kept = None
    return (kept.username, kept.password) if kept else (user, "")


def _value(row: Mapping[str, Any], tag: str) -> str:
    values = row.get(tag, {}).get("Value") or [""]
    return str(values[0])


def _read(path: Path) -> Dataset:
    try:
        ds = pydicom.dcmread(path)
        if not all(ds.get(name) for name in ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")):
            raise ValueError("it has no UIDs")
        return ds
    except Exception as error:  # pydicom raises whatever a damaged file makes it raise
        raise DicomError(f"{path}: is no DICOM object ({error}).", "Push what `doselabel export` wrote.") from error


def _refused(reply: Dataset, sop: str) -> str:
    """Why a PACS did not take an object, "" when it did. A reply always has FailedSOPSequence: its length counts."""
    for item in reply.get("FailedSOPSequence") or []:
        if str(item.get("ReferencedSOPInstanceUID", "")) in ("", sop):
            return f"refused, FailureReason {int(item.get('FailureReason') or 0):#06x}"
    return ""


def _reason(response: Any) -> str:
    """The FailureReason in a reply that is an error."""
    try:
        reply = pydicom.Dataset.from_json(response.json())
    except Exception:  # no DICOM JSON
        return "."
    return f", {refused}." if (refused := _refused(reply, "")) else "."


def _why(error: Exception) -> str:
    return error.message if isinstance(error, (ServerError, DicomError)) else str(error)
