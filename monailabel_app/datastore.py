"""Patient folders as MONAI Label's datastore: the annotatable images are the CTs.

It joins what is elsewhere: which patients there are (`patients`), what is known of their label maps (`overview`,
`versions`), and whether an upload is any good (`checking`).
"""

from __future__ import annotations

import copy
import io
import logging
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monailabel.interfaces.datastore import Datastore

from doselabel.alarms import Alarm
from doselabel.errors import LabelError
from doselabel.study import Study
from doselabel.versions import FINAL, ORIGINAL, check_tag
from doselabel.wire import LabelEvent, LabelReview, LabelSubmission, LabelVersion, Reopening, StudyInfo
from monailabel_app.cases import Case, cases_of, suffix_of
from monailabel_app.checking import Check, Upload, check
from monailabel_app.conf import STATE
from monailabel_app.described import broken_info, review_of, study_info
from monailabel_app.export import archive
from monailabel_app.image_files import Images
from monailabel_app.overview import Known, Overview
from monailabel_app.patients import RESCAN_S, Patients, Seen
from monailabel_app.refusals import Refused

logger = logging.getLogger(__name__)

RECOUNT_S = 5.0
"""Label maps that others wrote are counted within this time; those of this process at once."""


class StudyDatastore(Datastore):
    """A folder of patient folders.

    It implements MONAI Label's `Datastore` and not `LocalDatastore`, whose flat folder, index file rewritten in
    place and ids cut at dots are what it is here to avoid.

    Parameters
    ----------
    root : path
    check : callable
        Looks at what is uploaded: here and now, or a `monailabel_app.checking.Checker`.
    needs_review : bool
        What is submitted from now on counts only once it is approved.
    """

    def __init__(self, root: str | Path, check: Check = check, *, needs_review: bool = False) -> None:
        self._root = Path(root)
        self._check = check
        self._needs_review = needs_review
        self._images = Images(self._root / STATE / "whole")
        self._overview = Overview()
        self._counted = float("-inf")
        self._summed: tuple[Seen, int, dict[str, Any]] | None = None
        self._watched = threading.Event()
        self._patients = Patients(self._root)

    # ---- what there is

    def refresh(self) -> None:
        """Look at the disk again; only what changed is read."""
        self._patients.refresh()

    def watch(self) -> None:
        """Look at the disk all the time from a thread of its own, so that no request need."""

        def look() -> None:
            while True:
                try:
                    self._patients.refresh()
                    if time.monotonic() - self._counted > RECOUNT_S:
                        self._recount()
                except Exception:  # what befalls one look is no reason not to look again
                    logger.exception("Looking at %s", self._root)
                time.sleep(RESCAN_S)

        self._recount()
        self._patients.watched()
        self._watched.set()
        threading.Thread(target=look, name="watch-studies", daemon=True).start()

    def _recount(self) -> None:
        self._overview.refresh(self.cases())
        self._counted = time.monotonic()

    def cases(self) -> list[Case]:
        """All annotatable CTs: patient by patient, the diagnostic CT first."""
        return list(self._patients.now().cases.values())

    def case(self, image_id: str) -> Case:
        """The CT with this id; refused when there is none."""
        return self._patients.case(image_id)

    def study(self, patient_id: str) -> Study:
        """The study of a patient; refused when there is none, or it can't be used."""
        return self._patients.study(patient_id)

    def known(self) -> list[tuple[Case, Known]]:
        """All CTs, and what is known of their label maps, as of `RECOUNT_S` ago; what this process wrote, at once."""
        self._recount_if_late()
        return [(case, self._overview.of(case)) for case in self.cases()]

    def _recount_if_late(self) -> None:
        if not self._watched.is_set() and time.monotonic() - self._counted > RECOUNT_S:
            self._recount()

    def studies(self) -> list[StudyInfo]:
        """All patients, those that can't be used with their error."""
        seen = self._patients.now()
        infos = [self.study_info(study) for study in seen.studies.values()]
        infos += [broken_info(name, error) for name, error in seen.broken.items()]
        return sorted(infos, key=lambda info: info.patient_id)

    def study_info(self, study: Study) -> StudyInfo:
        """A patient as a client sees it."""
        return study_info(study, {case.image_id: self._overview.of(case) for case in cases_of(study)})

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
            before = case.labels.tagged(ORIGINAL)
            given = (dict(names) if names else None, submission.label_scheme, str(out), str(before or ""))
            upload = self._upload(case, file, *given)
            found = self._check(upload)
            version = case.labels.adopt(
                out,
                submission,
                found.organs_ml,
                found.alarms,
                needs_review=self._needs_review,
                changed=found.changed,
            )
        self._changed(case)
        return version

    def review(self, image_id: str, number: int, review: LabelReview) -> LabelVersion:
        """Keep what a reviewer says of a version."""
        case = self.case(image_id)
        version = case.labels.review(number, review)
        self._changed(case)
        return version

    def reopen(self, image_id: str, why: Reopening) -> LabelEvent:
        """Have a labelled CT done again."""
        case = self.case(image_id)
        event = case.labels.reopen(why)
        self._changed(case)
        return event

    def _changed(self, case: Case) -> None:
        """Label maps of a patient were written: they are counted at once."""
        self._overview.look_at(cases_of(case.study))

    @staticmethod
    def _upload(case: Case, file: Path, *how: Any) -> Upload:
        return Upload(str(file), str(case.study.folder), case.file, case.image_id, *how)

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
            started_from=str(info.get("started_from") or self._model_of(image_id))[:200],
            label_scheme=str(info.get("label_scheme", "") or ""),
        )
        rows = info.get("label_info") or []
        try:
            names = {int(row["idx"]): str(row["name"]) for row in rows}
        except (TypeError, KeyError, ValueError) as error:
            raise LabelError(f"label_info is {str(rows)[:100]}; expected a list of {{'name': …, 'idx': …}}.") from error
        version = self.submit(image_id, file, submission, names)
        if isinstance(meta := info.get("segmentationMeta"), Mapping) and meta.get("status") == "flagged":
            try:
                self.review(image_id, version.version, review_of(meta, author))
            except (OSError, LabelError) as error:  # the label map is stored: that is what was asked
                logger.warning("%s: version %d is not flagged: %s", image_id, version.version, error)
        return version.alarms

    def _model_of(self, image_id: str) -> str:
        """Hash of the model whose prediction clients that know no hashes begin with; "" without a prediction."""
        known = self.case(image_id).labels.tag_info(ORIGINAL).get("params", {})
        return str((known.get("segmentation") or {}).get("model_sha256") or "")

    def put_tag(self, image_id: str, tag: str, file: Path, info: Mapping[str, Any]) -> None:
        """Keep a file that can be made again, such as a prediction; it is not looked at."""
        case = self.case(image_id)
        case.labels.put_tag(tag, file, info)
        self._changed(case)

    def remove_label(self, label_id: str, label_tag: str) -> None:
        """Remove a prediction; submitted label maps stay."""
        case = self.case(label_id)
        case.labels.remove_tag(_plain(label_tag))
        self._changed(case)

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
        self.review(label_id, final.version, review_of(meta, str(info.get("user") or "")))

    def get_labels_by_image_id(self, image_id: str) -> dict[str, str]:
        """Tag → id, for the tags there are."""
        return dict.fromkeys(self.case(image_id).labels.tags(), image_id)

    def get_label_by_image_id(self, image_id: str, tag: str) -> str:
        """The id when the tag is there, else ""."""
        return self.get_labels_by_image_id(image_id).get(tag, "")

    def get_labeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        """Ids of the CTs with a submitted label map."""
        return [case.image_id for case, known in self.known() if known.submitted]

    def get_unlabeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        """Ids of the CTs without one."""
        return [case.image_id for case, known in self.known() if not known.submitted]

    def datalist(self, full_path: bool = True) -> list[dict[str, Any]]:
        """Pairs of CT and the label map that counts."""
        pairs = [(self.image_of(case), case.labels.tagged(FINAL)) for case in self.cases()]
        return [{"image": str(image), "label": str(label)} for image, label in pairs if label]

    # ---- images

    def list_images(self) -> list[str]:
        """Ids of all CTs."""
        return [case.image_id for case in self.cases()]

    def get_image_uri(self, image_id: str) -> str:
        """Path of a CT as one file (see `monailabel_app.whole`)."""
        return str(self.image_of(self.case(image_id)))

    def get_image(self, image_id: str, params: Any = None) -> io.BytesIO:
        """Content of a CT's file."""
        return io.BytesIO(self.image_of(self.case(image_id)).read_bytes())

    def file_of(self, study: Study, name: str) -> Path:
        """An image that a study names, as one file that says itself where it is."""
        return self._images.file_of(study, name)

    def image_of(self, case: Case) -> Path:
        """A CT as one file."""
        return self._images.file_of(case.study, case.file)

    def get_image_info(self, image_id: str) -> dict[str, Any]:
        """What is known of a CT, with its checksum."""
        case = self.case(image_id)
        return self._images.info(case) | {"checksum": self._images.checksum(case)}

    def name_of(self, image_id: str) -> str:
        """The file name under which a CT is given out: no other CT has it."""
        return self.case(image_id).name

    def checksum(self, image_id: str) -> str:
        """Hash of what `get_image_uri` gives out, ``SHA256:…``."""
        return self._images.checksum(self.case(image_id))

    def label_name(self, image_id: str, tag: str) -> str:
        """The file name under which a label map is given out."""
        return f"{image_id}_{_plain(tag)}{suffix_of(Path(self.get_label_uri(image_id, tag)))}"

    def update_image_info(self, image_id: str, info: dict[str, Any]) -> None:
        """Remember what a strategy notes, until the server stops."""
        self._images.note(self.case(image_id), info)

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
        """Pack the labelled CTs and the label maps that count into a zip file."""
        return str(archive(self.cases(), self.image_of, most=limit_cases))

    def status(self) -> dict[str, Any]:
        """How many CTs there are, and how many of each tag."""
        self._recount_if_late()
        seen, changes = self._patients.now(), self._overview.changes
        if self._summed is None or self._summed[0] is not seen or self._summed[1] != changes:
            self._summed = (seen, changes, self._overview.counts(seen.cases.values()))
        return copy.deepcopy(self._summed[2])

    def patients(self) -> int:
        """How many patients there are, those that can't be used among them."""
        seen = self._patients.now()
        return len(seen.studies) + len(seen.broken)

    def json(self) -> dict[str, Any]:
        """Everything, in the shape of MONAI Label's index file."""
        objects = {}
        for case, known in self.known():
            labels = {
                tag: {"ext": suffix_of(case.labels.tagged(tag) or Path()), "info": case.labels.tag_info(tag)}
                for tag in known.tags
            }
            image = {"ext": suffix_of(case.path), "info": self._images.info(case)}
            objects[case.image_id] = {"image": image, "labels": labels}
        return {"name": self.name(), "description": self.description(), "objects": objects}


def _plain(tag: str) -> str:
    return check_tag(str(getattr(tag, "value", tag)))
