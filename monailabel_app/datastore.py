"""Patient folders as MONAI Label's datastore: the annotatable images are the CTs. Knows studies and label versions.

There is no index file: what is on disk is the truth, so that server, batch process and a person with a file browser
never disagree. A study that can't be used is listed with its error.
"""

from __future__ import annotations

import io
import math
import os
import tempfile
import threading
import time
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from monailabel.interfaces.datastore import Datastore

from doselabel.alarms import Alarm
from doselabel.errors import DoselabelError, LabelError, StudyError
from doselabel.geometry import SUFFIXES, Geometry, read_image
from doselabel.geometry import read_grid as grid_of
from doselabel.labels import LabelMap, read_labels, region
from doselabel.study import MANIFEST, Study
from doselabel.wire import ErrorInfo, ImageInfo, LabelSubmission, LabelVersion, StudyInfo, TimePointInfo
from monailabel_app.conf import STATE
from monailabel_app.refusals import Refused, not_found
from monailabel_app.versions import FINAL, LabelStore, check_tag
from monailabel_app.whole import whole

MAX_VOXEL_BYTES = 16
"""What is uploaded for a CT has at most this many bytes for every voxel of it."""
RESCAN_S = 1.0
"""New and changed patient folders are noticed within this time."""


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
    """

    def __init__(self, root: str | Path) -> None:
        self._root = Path(root)
        self._lock = threading.RLock()
        self._known: dict[Path, tuple[tuple[int, int], Study | StudyError]] = {}
        self._cases: dict[str, Case] = {}
        self._broken: dict[str, StudyError] = {}
        self._notes: dict[str, dict[str, Any]] = {}
        self._scanned = float("-inf")
        self.refresh()

    # ---- what there is

    def refresh(self) -> None:
        """Look at the disk again; only manifests that changed are read."""
        with self._lock:
            known: dict[Path, tuple[tuple[int, int], Study | StudyError]] = {}
            for folder in Study.find(self._root):
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
        try:
            labels = self._read(
                case,
                file,
                names={int(v): region(n).name for v, n in names.items()} if names else None,
                scheme=submission.label_scheme or None,
            )
        except DoselabelError as error:
            raise _of_upload(error, file, image_id) from error
        return case.labels.add(labels.renumbered(), submission)

    def save_label(self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any]) -> str:
        """Keep what MONAI Label's clients send: "final" becomes a version, other tags hold the latest file."""
        self.keep(image_id, Path(label_filename), label_tag, label_info)
        return image_id

    def keep(self, image_id: str, file: Path, label_tag: str, label_info: dict[str, Any]) -> list[Alarm]:
        """Do what `save_label` does; return what is odd about the label map."""
        info = dict(label_info or {})
        if (tag := _plain(label_tag)) != FINAL:
            alarms = self._check_tagged(image_id, file)
            self.case(image_id).labels.put_tag(tag, file, info | {"ts": int(time.time())})
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
        return self.submit(image_id, file, submission, names).alarms

    def _check_tagged(self, image_id: str, file: Path) -> list[Alarm]:
        """Refuse a damaged file as what is kept under a tag; say what is odd about it if it is a label map."""
        case = self.case(image_id)
        try:
            return list(self._read(case, file).findings)
        except LabelError:  # a dose map, a probability: an image all the same
            pass
        except DoselabelError as error:
            if "grid of its CT" not in error.message:
                raise _of_upload(error, file, image_id) from error
        try:
            read_image(file, max_bytes=_most_bytes(case))
        except DoselabelError as error:
            raise _of_upload(error, file, image_id) from error
        return []

    def _read(self, case: Case, file: Path, **how: Any) -> LabelMap:
        return read_labels(
            file,
            expect=case.grid,
            stated=case.study.stated_place(case.file),
            max_bytes=_most_bytes(case),
            ct=partial(case.study.read, case.file),
            **how,
        )

    def remove_label(self, label_id: str, label_tag: str) -> None:
        """Remove a prediction; submitted label maps stay."""
        self.case(label_id).labels.remove_tag(_plain(label_tag))

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
        """Refuse: what was submitted is not changed afterwards."""
        raise Refused(
            "What is known of a label map is not changed afterwards.",
            "Use PUT /doselabel/labels/{image_id}/{version}/review to approve or comment.",
            status=403,
        )

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
        """What is known of a CT."""
        case = self.case(image_id)
        info = {"path": str(case.path), "name": case.path.name, "patient_id": case.study.patient_id}
        if case.time_h is not None:
            info["time_h"] = case.time_h  # type: ignore[assignment]
        with self._lock:
            return info | self._notes.get(image_id, {})

    def update_image_info(self, image_id: str, info: dict[str, Any]) -> None:
        """Remember what a strategy notes, until the server stops."""
        self.case(image_id)
        with self._lock:
            self._notes.setdefault(image_id, {}).update(
                {key: value for key, value in info.items() if key not in ("path", "name")}
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
        """How many CTs there are, and how many of each tag."""
        cases = self.cases()
        tags: dict[str, int] = {}
        for case in cases:
            for tag in case.labels.tags():
                tags[tag] = tags.get(tag, 0) + 1
        return {"total": len(cases), "completed": tags.get(FINAL, 0), "label_tags": tags}

    def json(self) -> dict[str, Any]:
        """Everything, in the shape of MONAI Label's index file."""
        objects = {}
        for case in self.cases():
            labels = {
                tag: {"ext": _suffix(Path(self.get_label_uri(case.image_id, tag))), "info": case.labels.tag_info(tag)}
                for tag in case.labels.tags()
            }
            objects[case.image_id] = {
                "image": {"ext": _suffix(case.path), "info": self.get_image_info(case.image_id)},
                "labels": labels,
            }
        return {"name": self.name(), "description": self.description(), "objects": objects}


def _most_bytes(case: Case) -> int:
    return MAX_VOXEL_BYTES * math.prod(case.grid.shape)


def _of_upload(error: DoselabelError, file: Path, image_id: str) -> DoselabelError:
    """What is wrong with an uploaded label map, without the name it has on this machine."""
    elsewhere = "grid of its CT" in error.message
    message = error.message.replace(f"{file}: ", "The label map ", 1).replace("grid of its CT", f"grid of {image_id}")
    return (LabelError if elsewhere else type(error))(message, error.hint)


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
