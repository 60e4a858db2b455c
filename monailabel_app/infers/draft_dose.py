"""Dose of masks that nobody has submitted: a few studies are kept warm, so that an edit is answered at once.

A job of the server's own, no task of MONAI Label: it runs in a worker that stays for a while (`jobs.manager.IDLE_S`),
and its sessions with it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from doselabel.errors import Progress
from doselabel.labels import read_labels
from doselabel.study import Study, image_id
from doselabel.versions import FINAL
from doselabel.wire import DoseResults
from monailabel_app.infers.dosimetry import study_folder
from monailabel_app.request import plain

DRAFTS = "drafts"
"""Key of a request: folder of the drafts, a file each, named by the CT's image id. The server sets it, and removes
it with the end of the job."""
MOST_SESSIONS = 2
DRAFT = "Draft, not submitted: the label maps of {} are as they were sent, and nobody keeps them."


class DraftDose:
    """Doses of drafts, by sessions that are kept."""

    def __init__(self) -> None:
        self._sessions: OrderedDict[tuple[str, str], Any] = OrderedDict()

    def __call__(self, request: Mapping[str, Any], folder: Path, progress: Progress) -> dict[str, Any]:
        """Compute the dose of the patient of ``request["image"]`` with the drafts in ``request["drafts"]``.

        All keys that `DoseOptions` knows are its options. The dose map is written only if ``map`` is asked for: it
        takes longer than all the rest.

        Returns
        -------
        dict
            The `DoseResults` under "dose", marked as a draft's, and the files.
        """
        from doselabel.dosimetry.options import DoseOptions
        from doselabel.geometry import write_image

        where = study_folder(Path(request["image"]))
        study = Study.load(where)
        given = {key: value for key, value in request.items() if key not in (DRAFTS, "image", "map")}
        session = self._session(where, DoseOptions.read(given))
        drawn = {
            name: read_labels(file, expect=study.grid(name))
            for name in study.cts().values()
            for file in Path(request[DRAFTS]).glob(f"{image_id(study.patient_id, name)}.*")
        }
        done = session.compute(drawn, progress=progress)
        files = {}
        if request.get("map"):
            write_image(folder / "dose.nii.gz", done.dose)
            files["dose"] = "dose.nii.gz"
        return plain(
            {"dose": _marked(done.results, list(drawn)).model_dump(mode="json", by_alias=True), "files": files}
        )

    def _session(self, folder: Path, options: Any) -> Any:
        from doselabel.dosimetry.session import Session

        key = str(folder), options.model_dump_json()
        if key not in self._sessions:
            self._sessions[key] = Session(folder, FINAL, options)
        self._sessions.move_to_end(key)
        while len(self._sessions) > MOST_SESSIONS:
            self._sessions.popitem(last=False)
        return self._sessions[key]


def _marked(results: DoseResults, drafts: list[str]) -> DoseResults:
    """Say first of all that this is no result to keep."""
    return results.model_copy(update={"warnings": [DRAFT.format(", ".join(drafts)), *results.warnings]})
