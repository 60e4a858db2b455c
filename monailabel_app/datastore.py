"""Patient folders as MONAI Label's datastore: the annotatable images are the CTs. Knows studies and label versions.

There is no index file: what is on disk is the truth, so that server, batch process and a person with a file browser
never disagree. A study that can't be used is listed with its error.
"""

from __future__ import annotations

import hashlib
import io
import os
import tempfile
import threading
import time
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monailabel.interfaces.datastore import Datastore

from doselabel.alarms import Alarm
from doselabel.errors import DoselabelError, LabelError, StudyError
from doselabel.geometry import SUFFIXES, Geometry
from doselabel.geometry import read_grid as grid_of
from doselabel.study import MANIFEST, Study
from doselabel.wire import ErrorInfo, ImageInfo, LabelReview, LabelSubmission, LabelVersion, StudyInfo, TimePointInfo
from monailabel_app.checking import Check, Upload, check
from monailabel_app.conf import STATE
from monailabel_app.refusals import Refused, not_found
from monailabel_app.versions import FINAL, LabelStore, check_tag
from monailabel_app.whole import whole

RESCAN_S = 1.0
"""New and changed patient folders are noticed within this time."""
RECOUNT_S = 2.0
"""Label maps are counted again after this time; those of this process at once."""


@dataclass(frozen=True)
class Case:
    """One annotatable CT."""

    image_id: str
    study: Study
    file: str
    time_h: float | None

    @property
    def path(self) -> Path:
        """The CT's file."""
        return self.study.path(self.file)

    @property
    def grid(self) -> Geometry:
        """The grid it lies on, without reading its voxels."""
        return grid_of(self.path, stated=self.study.stated_place(self.file), within=self.study.folder)

    @property
    def stem(self) -> str:
        """The CT's file name without suffix."""
        return self.image_id.partition("__")[2]

    @property
    def labels(self) -> LabelStore:
        """Its label maps."""
        return LabelStore(self.study.folder / "labels", self.image_id, self.stem)


class StudyDatastore(Datastore):
    """A folder of patient folders.

    It implements MONAI Label's `Datastore` and not `LocalDatastore`, whose flat folder, index file rewritten in
    place and ids cut at dots are what it is here to avoid.

    Parameters
    ----------
    root : path
    check : callable
        Looks at what is uploaded: here and now, or a `monailabel_app.checking.Checker`.
    """

    def __init__(self, root: str | Path, check: Check = check) -> None:
        self._root = Path(root)
        self._check = check
        self._lock = threading.RLock()
        self._known: dict[Path, tuple[tuple[int, int], Study | StudyError]] = {}
        self._cases: dict[str, Case] = {}
        self._broken: dict[str, StudyError] = {}
        self._notes: dict[str, dict[str, Any]] = {}
        self._hashes: dict[str, tuple[tuple[int, int, int], str]] = {}
        self._scanned = float("-inf")
        self._changes = 0
        self._counted: tuple[int, list[int], dict[str, int], float] | None = None
        self._counting = threading.Lock()
        self.refresh()

    # ---- what there is

    def refresh(self) -> None:
        """Look at the disk again; only manifests that changed are read."""
        with self._lock:
            known: dict[Path, tuple[tuple[int, int], Study | StudyError]] = {}
            for folder in Study.find(self._root):
                if folder.name.startswith("."):  # what other systems leave beside a folder, such as ._P-001
                    continue
                if folder.is_symlink() and not folder.resolve().is_relative_to(self._root.resolve()):
                    known[folder] = (
                        (0, 0),
                        StudyError(f"{folder.name}: leads out of the studies folder.", "Copy the patient into it."),
                    )
                    continue
                try:
                    stat = (folder / MANIFEST).stat()
                except FileNotFoundError:
                    continue
                signature = (stat.st_mtime_ns, stat.st_size)
                old = self._known.get(folder)
                # A broken study is read again each time: what it lacks may have arrived without a new manifest.
                keep = old is not None and old[0] == signature and isinstance(old[1], Study)
                known[folder] = old if keep else (signature, _load(folder))  # type: ignore[assignment]
            self._known = known
            self._cases, self._broken = {}, {}
            for folder, (_, study) in known.items():
                self._take(folder, study)
            self._scanned = time.monotonic()

    def _take(self, folder: Path, study: Study | StudyError) -> None:
        if isinstance(study, StudyError):
            self._broken[folder.name] = study
            return
        cases = list(cases_of(study))
        taken = next((c for c in cases if c.image_id in self._cases), None)
        if taken or len({case.image_id for case in cases}) < len(cases):
            other = self._cases[taken.image_id].study.folder.name if taken else folder.name
            self._broken[folder.name] = StudyError(
                f"{folder / MANIFEST}: two CTs would have the id '{(taken or cases[0]).image_id}' "
                f"(in '{other}' and '{folder.name}').",
                "Every patient_id, and every CT's file name within a patient, must be there once.",
            )
            return
        self._cases.update((case.image_id, case) for case in cases)

    def _fresh(self) -> None:
        if time.monotonic() - self._scanned > RESCAN_S:
            self.refresh()

    def cases(self) -> list[Case]:
        """All annotatable CTs: patient by patient, the diagnostic CT first."""
        with self._lock:
            self._fresh()
            return list(self._cases.values())

    def case(self, image_id: str) -> Case:
        """The CT with this id.

        Raises
        ------
        Refused
            When there is none.
        """
        with self._lock:
            self._fresh()
            found = self._cases.get(image_id)
        if found is None:
            raise not_found("image", image_id, "Ask for the list of studies again; it may have changed.")
        return found

    def study(self, patient_id: str) -> Study:
        """The study of a patient.

        Raises
        ------
        Refused, StudyError
            When there is none, or it can't be used.
        """
        with self._lock:
            self._fresh()
            if patient_id in self._broken:
                raise self._broken[patient_id]
            found = next((c.study for c in self._cases.values() if c.study.patient_id == patient_id), None)
        if found is None:
            raise not_found("patient", patient_id)
        return found

    def studies(self) -> list[StudyInfo]:
        """All patients, those that can't be used with their error."""
        with self._lock:
            self._fresh()
            good = list({id(c.study): c.study for c in self._cases.values()}.values())
            broken = dict(self._broken)
        infos = [self.study_info(study) for study in good]
        infos += [
            StudyInfo(
                patient_id=name,
                nuclide="",
                injected_activity_mbq=0,
                images=[],
                time_points=[],
                error=ErrorInfo(code=error.code, message=error.message, hint=error.hint),
            )
            for name, error in broken.items()
        ]
        return sorted(infos, key=lambda info: info.patient_id)

    def study_info(self, study: Study) -> StudyInfo:
        """A patient as a client sees it."""
        cases = {case.file: case for case in cases_of(study)}
        images = []
        for case in cases.values():
            versions = case.labels.count()
            images.append(
                ImageInfo(
                    image_id=case.image_id,
                    file=case.file,
                    role="diagnostic" if case.file == study.ct else "time_point",
                    time_h=case.time_h,
                    labelled=versions > 0,
                    versions=versions,
                )
            )
        return StudyInfo(
            patient_id=study.patient_id,
            nuclide=study.nuclide,
            injected_activity_mbq=study.injected_activity_mbq,
            images=images,
            time_points=[
                TimePointInfo(
                    index=index,
                    time_h=point.time_h,
                    image_id=cases[point.ct].image_id,
                    spect=point.spect,
                    exclude=point.exclude,
                    spect_to_ct=point.spect_to_ct,
                )
                for index, point in enumerate(study.time_points)
            ],
            organs_absent=list(study.organs_absent),
        )

    # ---- label maps

    def submit(
        self,
        image_id: str,
        file: Path,
        submission: LabelSubmission,
        names: Mapping[int, str] | None = None,
    ) -> LabelVersion:
        """Keep a submitted label map as a new version.

        Parameters
        ----------
        image_id : str
        file : Path
            On the grid of the CT.
        submission : LabelSubmission
        names : dict, optional
            Value → organ, when the file does not carry its own.

        Raises
        ------
        LabelError
            When it is no label map, or not on the CT's grid. Nothing is kept then.
        """
        case = self.case(image_id)
        with tempfile.TemporaryDirectory(prefix="doselabel-label-") as folder:
            out = Path(folder) / "labels.nii.gz"
            upload = self._upload(case, file, dict(names) if names else None, submission.label_scheme, str(out))
            found = self._check(upload)
            version = case.labels.adopt(out, submission, found.organs_ml, found.alarms)
        self.changed()
        return version

    @staticmethod
    def _upload(case: Case, file: Path, names: dict[int, str] | None = None, scheme: str = "", out: str = "") -> Upload:
        return Upload(str(file), str(case.study.folder), case.file, case.image_id, names, scheme, out)

    def save_label(self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any]) -> str:
        """Keep what MONAI Label's clients send: "final" becomes a version, other tags hold the latest file."""
        self.keep(image_id, Path(label_filename), label_tag, label_info)
        return image_id

    def keep(self, image_id: str, file: Path, label_tag: str, label_info: dict[str, Any]) -> list[Alarm]:
        """Do what `save_label` does; return what is odd about the label map."""
        info = dict(label_info or {})
        if (tag := _plain(label_tag)) != FINAL:
            alarms = self._check(self._upload(self.case(image_id), file)).alarms
            self.put_tag(image_id, tag, file, info | {"ts": int(time.time())})
            return alarms
        author = str(info.get("author") or info.get("user") or info.get("client_id") or "")
        submission = LabelSubmission(
            author=author[:100],
            comment=str(info.get("comment", ""))[:2000],
            label_scheme=str(info.get("label_scheme", "") or ""),
        )
        rows = info.get("label_info") or []
        try:
            names = {int(row["idx"]): str(row["name"]) for row in rows}
        except (TypeError, KeyError, ValueError) as error:
            raise LabelError(f"label_info is {str(rows)[:100]}; expected a list of {{'name': …, 'idx': …}}.") from error
        version = self.submit(image_id, file, submission, names)
        if isinstance(meta := info.get("segmentationMeta"), Mapping) and meta.get("status") == "flagged":
            self.case(image_id).labels.review(version.version, review_of(meta, author))
        return version.alarms

    def put_tag(self, image_id: str, tag: str, file: Path, info: Mapping[str, Any]) -> None:
        """Keep a file that can be made again, such as a prediction; it is not looked at."""
        self.case(image_id).labels.put_tag(tag, file, info)
        self.changed()

    def remove_label(self, label_id: str, label_tag: str) -> None:
        """Remove a prediction; submitted label maps stay."""
        self.case(label_id).labels.remove_tag(_plain(label_tag))
        self.changed()

    def get_label_uri(self, label_id: str, label_tag: str) -> str:
        """Path of a tag's file, "" when there is none."""
        path = self.case(label_id).labels.tagged(_plain(label_tag))
        return str(path) if path else ""

    def get_label(self, label_id: str, label_tag: str, params: Any = None) -> io.BytesIO | None:
        """Content of a tag's file."""
        uri = self.get_label_uri(label_id, label_tag)
        return io.BytesIO(Path(uri).read_bytes()) if uri else None

    def get_label_info(self, label_id: str, label_tag: str) -> dict[str, Any]:
        """What is known of a tag's file."""
        return self.case(label_id).labels.tag_info(_plain(label_tag))

    def update_label_info(self, label_id: str, label_tag: str, info: dict[str, Any]) -> None:
        """Keep what 3D Slicer's reviewer says of a label map: of "final" as a review of the version that counts.

        Raises
        ------
        Refused
            When it is no review: what was submitted is not changed afterwards.
        """
        labels = self.case(label_id).labels
        meta = info.get("segmentationMeta")
        final = labels.final() if _plain(label_tag) == FINAL else None
        if final is None or not isinstance(meta, Mapping):
            raise Refused(
                "Only a review (segmentationMeta) of a submitted label map (tag 'final') is taken.",
                "Use PUT /doselabel/labels/{image_id}/{version}/review to approve or comment.",
                status=403,
            )
        labels.review(final.version, review_of(meta, str(info.get("user") or "")))

    def get_labels_by_image_id(self, image_id: str) -> dict[str, str]:
        """Tag → id, for the tags there are."""
        return dict.fromkeys(self.case(image_id).labels.tags(), image_id)

    def get_label_by_image_id(self, image_id: str, tag: str) -> str:
        """The id when the tag is there, else ""."""
        return self.get_labels_by_image_id(image_id).get(tag, "")

    def get_labeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        """Ids of the CTs with a submitted label map."""
        return [case.image_id for case in self.cases() if case.labels.count()]

    def get_unlabeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        """Ids of the CTs without one."""
        return [case.image_id for case in self.cases() if not case.labels.count()]

    def datalist(self, full_path: bool = True) -> list[dict[str, Any]]:
        """Pairs of CT and the label map that counts."""
        pairs = [(self._whole(case), case.labels.tagged(FINAL)) for case in self.cases()]
        return [{"image": str(image), "label": str(label)} for image, label in pairs if label]

    # ---- images

    def list_images(self) -> list[str]:
        """Ids of all CTs."""
        return [case.image_id for case in self.cases()]

    def get_image_uri(self, image_id: str) -> str:
        """Path of a CT as one file (see `monailabel_app.whole`)."""
        return str(self._whole(self.case(image_id)))

    def get_image(self, image_id: str, params: Any = None) -> io.BytesIO:
        """Content of a CT's file."""
        return io.BytesIO(self._whole(self.case(image_id)).read_bytes())

    def file_of(self, study: Study, name: str) -> Path:
        """An image that a study names, as one file that says itself where it is."""
        return whole(study, name, self._root / STATE / "whole")

    def _whole(self, case: Case) -> Path:
        return self.file_of(case.study, case.file)

    def get_image_info(self, image_id: str) -> dict[str, Any]:
        """What is known of a CT.

        3D Slicer keeps what it downloads under ``name`` and takes it from there the next time unless ``checksum``
        says that it is another file: the one is this CT's alone, the other changes with it.
        """
        return self._info(self.case(image_id)) | {"checksum": self.checksum(image_id)}

    def _info(self, case: Case) -> dict[str, Any]:
        """What is known without reading a CT."""
        info: dict[str, Any] = {"path": str(case.path), "name": _name(case), "patient_id": case.study.patient_id}
        if case.time_h is not None:
            info["time_h"] = case.time_h
        if digest := self._hashes.get(str(case.path)):
            info["checksum"] = f"SHA256:{digest[1]}"
        with self._lock:
            return info | self._notes.get(case.image_id, {})

    def name_of(self, image_id: str) -> str:
        """The file name under which a CT is given out: no other CT has it."""
        return _name(self.case(image_id))

    def checksum(self, image_id: str) -> str:
        """Hash of what `get_image_uri` gives out, ``SHA256:…``; computed once per file."""
        case = self.case(image_id)
        path = self._whole(case)
        stat = path.stat()
        key = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
        known = self._hashes.get(str(case.path))
        if known is None or known[0] != key:
            with path.open("rb") as file:
                known = key, hashlib.file_digest(file, "sha256").hexdigest()
            self._hashes[str(case.path)] = known
        return f"SHA256:{known[1]}"

    def label_name(self, image_id: str, tag: str) -> str:
        """The file name under which a label map is given out."""
        return f"{image_id}_{_plain(tag)}{_suffix(Path(self.get_label_uri(image_id, tag)))}"

    def update_image_info(self, image_id: str, info: dict[str, Any]) -> None:
        """Remember what a strategy notes, until the server stops."""
        self.case(image_id)
        with self._lock:
            self._notes.setdefault(image_id, {}).update(
                {key: value for key, value in info.items() if key not in ("path", "name", "checksum", "patient_id")}
            )

    def add_image(self, image_id: str, image_filename: str, image_info: dict[str, Any]) -> str:
        """Refuse: patients come as folders."""
        raise Refused(
            "Images are not uploaded to this server.",
            "Put a patient folder with its study.json into the studies folder; it is noticed at once.",
            status=403,
        )

    def remove_image(self, image_id: str) -> None:
        """Refuse: the server does not remove patients."""
        raise Refused("Images are not removed by this server.", "Move the patient folder away by hand.", status=403)

    # ---- the rest of MONAI Label's interface

    def name(self) -> str:
        """Name of the studies folder."""
        return self._root.name

    def set_name(self, name: str) -> None:
        """Refuse: the folder has the name it has."""
        raise Refused("The datastore is named like its folder.", status=403)

    def description(self) -> str:
        """What this is."""
        return "CTs of patient folders"

    def set_description(self, description: str) -> None:
        """Refuse."""
        raise Refused("The datastore's description is fixed.", status=403)

    def get_dataset_archive(self, limit_cases: int | None) -> str:
        """Pack the labelled CTs and their label maps into a zip file."""
        chosen = [case for case in self.cases() if case.labels.count()][: limit_cases or None]
        if not chosen:
            raise not_found("label map", FINAL, "Submit one first.")
        handle, path = tempfile.mkstemp(suffix=".zip")
        with os.fdopen(handle, "wb") as file, zipfile.ZipFile(file, "w") as archive:
            for case in chosen:
                label = case.labels.tagged(FINAL)
                image = self._whole(case)
                archive.write(image, f"image/{case.image_id}{_suffix(image)}")
                archive.write(str(label), f"label/{case.image_id}.nii.gz")
        return path

    def status(self) -> dict[str, Any]:
        """How many CTs there are, and how many of each tag; what others wrote is seen within `RECOUNT_S`."""
        with self._counting:
            cases = self.cases()
            known = [id(case.study) for case in cases]
            if self._counted is None or self._counted[:2] != (self._changes, known) or self._stale():
                changes, counted_at = self._changes, time.monotonic()
                tags: dict[str, int] = {}
                for case in cases:
                    for tag in case.labels.tags():
                        tags[tag] = tags.get(tag, 0) + 1
                self._counted = (changes, known, tags, counted_at)
            tags = self._counted[2]
            return {"total": len(cases), "completed": tags.get(FINAL, 0), "label_tags": dict(tags)}

    def _stale(self) -> bool:
        return self._counted is None or time.monotonic() - self._counted[3] > RECOUNT_S

    def changed(self) -> None:
        """Say that label maps were written: the next `status` counts them."""
        self._changes += 1

    def json(self) -> dict[str, Any]:
        """Everything, in the shape of MONAI Label's index file."""
        objects = {}
        for case in self.cases():
            labels = {
                tag: {"ext": _suffix(Path(self.get_label_uri(case.image_id, tag))), "info": case.labels.tag_info(tag)}
                for tag in case.labels.tags()
            }
            objects[case.image_id] = {
                "image": {"ext": _suffix(case.path), "info": self._info(case)},
                "labels": labels,
            }
        return {"name": self.name(), "description": self.description(), "objects": objects}


def review_of(meta: Mapping[str, Any], reviewer: str = "") -> LabelReview:
    """What 3D Slicer's reviewer calls ``segmentationMeta``, as a review."""
    status = str(meta.get("status") or "").lower()
    return LabelReview(
        approved=status == "approved",
        flagged=status == "flagged",
        difficulty=str(meta.get("level") or "")[:40],
        reviewer=(reviewer or str(meta.get("approvedBy") or ""))[:100],
        comment=str(meta.get("comment") or "")[:2000],
    )


def _name(case: Case) -> str:
    return f"{case.image_id}{_suffix(case.path)}"


def cases_of(study: Study) -> Iterator[Case]:
    """The annotatable CTs of a study, the diagnostic one first."""
    times = {point.ct: point.time_h for point in reversed(study.time_points)}
    for image_id, name in study.cts().items():
        yield Case(image_id, study, name, None if name == study.ct else times.get(name))


def _load(folder: Path) -> Study | StudyError:
    try:
        study = Study.load(folder)
    except StudyError as error:
        return error
    except DoselabelError as error:
        return StudyError(error.message, error.hint)
    stems: dict[str, str] = {}
    for name in dict.fromkeys([study.ct, *(point.ct for point in study.time_points)]):
        stem = Path(name).name.removesuffix(_suffix(Path(name)))
        if stem in stems:
            return StudyError(
                f"{folder / MANIFEST}: the CTs '{stems[stem]}' and '{name}' have the same name.",
                "Rename one: a CT is known by its file name.",
            )
        stems[stem] = name
    return study


def _plain(tag: str) -> str:
    return check_tag(str(getattr(tag, "value", tag)))


def _suffix(path: Path) -> str:
    return next((path.name[-len(s) :] for s in SUFFIXES if path.name.lower().endswith(s)), path.suffix)
