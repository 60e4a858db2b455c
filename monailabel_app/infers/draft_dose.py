"""Dose of masks that nobody has submitted: a few studies are kept warm, so that an edit is answered at once.

A job of the server's own, no task of MONAI Label: it runs in a worker that stays for a while (`jobs.manager.IDLE_S`),
and its sessions with it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from doselabel.errors import DoselabelError, Progress, part
from doselabel.labels import LabelMap, read_labels
from doselabel.study import Study, image_id
from doselabel.versions import FINAL
from doselabel.wire import DoseResults
from monailabel_app.cases import Case
from monailabel_app.checking import of_upload
from monailabel_app.infers.dosimetry import not_reviewed, study_folder
from monailabel_app.infers.filling import filled_in, missing
from monailabel_app.infers.kidney_liver import KidneyLiver
from monailabel_app.request import choice, plain

DRAFTS = "drafts"
"""Key of a request: folder of the drafts, a file each, named by the CT's image id. The server sets it, and removes
it with the end of the job."""
MOST_SESSIONS = 2
DRAFT = "Draft, not submitted: the label maps of {} are as they were sent, and nobody keeps them."


class DraftDose:
    """Doses of drafts, by sessions that are kept.

    Parameters
    ----------
    kidney_liver : KidneyLiver
        Fills in label maps that nobody has submitted; as long as a session is kept, by what it said the first time,
        so that nothing but the edits changes from one draft to the next.
    cache : Path
        What computed doses keep there is used, so that a draft after one begins where it ended.
    """

    def __init__(self, kidney_liver: KidneyLiver, cache: Path) -> None:
        self._kidney_liver, self._cache = kidney_liver, cache
        self._sessions: OrderedDict[tuple[str, str], tuple[Any, _Predicted]] = OrderedDict()

    def __call__(self, request: Mapping[str, Any], folder: Path, progress: Progress) -> dict[str, Any]:
        """Compute the dose of the patient of ``request["image"]`` with the drafts in ``request["drafts"]``.

        ``labels`` is "final" or "model", as for `Dosimetry`. All keys that `DoseOptions` knows are its options. The
        dose map is written only if ``map`` is asked for: it takes longer than all the rest.

        Returns
        -------
        dict
            The `DoseResults` under "dose", marked as a draft's, and the files.
        """
        from doselabel.dosimetry.options import DoseOptions
        from doselabel.geometry import write_image

        where = study_folder(Path(request["image"]))
        study = Study.load(where)
        given = {key: value for key, value in request.items() if key not in (DRAFTS, "image", "labels", "map")}
        session, kept = self._session(where, DoseOptions.read(given))
        drawn = {
            name: _read(file, study, name)
            for name in study.cts().values()
            for file in Path(request[DRAFTS]).glob(f"{image_id(study.patient_id, name)}.*")
        }
        predicted, share = {}, 0.0
        if choice(request, "labels", FINAL, (FINAL, "model")) == "model":
            lacking = missing(study, besides=drawn)
            share = 0.5 if any(_key(case) not in kept for case in lacking) else 0.0
            predicted = self._predict(lacking, kept, part(progress, 0.0, share))
        done = session.compute(predicted | drawn, progress=part(progress, share, 1.0))
        files = {}
        if request.get("map"):
            write_image(folder / "dose.nii.gz", done.dose)
            files["dose"] = "dose.nii.gz"
        return plain(
            {
                "dose": _marked(done.results, list(drawn), list(predicted)).model_dump(mode="json", by_alias=True),
                "files": files,
            }
        )

    def _predict(self, cases: Sequence[Case], kept: _Predicted, progress: Progress) -> dict[str, LabelMap]:
        for number, case in enumerate(cases):
            if _key(case) not in kept:
                share = part(progress, number / len(cases), (number + 1) / len(cases))
                drawn = filled_in(self._kidney_liver, self._cache, case, share)
                kept[_key(case)] = read_labels(drawn, expect=case.grid)
        return {case.file: kept[_key(case)] for case in cases}

    def _session(self, folder: Path, options: Any) -> tuple[Any, _Predicted]:
        from doselabel.dosimetry.session import Session

        key = str(folder), options.model_dump_json()
        if key not in self._sessions:
            predicted = (kept for (where, _), (_, kept) in self._sessions.items() if where == key[0])
            self._sessions[key] = (
                Session(folder, FINAL, options, cache=self._cache),
                next(predicted, {}),  # other options, the same masks
            )
        self._sessions.move_to_end(key)
        while len(self._sessions) > MOST_SESSIONS:
            self._sessions.popitem(last=False)
        return self._sessions[key]


_Predicted = dict[tuple[str, int], LabelMap]
"""By CT, and when it was written."""


def _read(file: Path, study: Study, ct: str) -> LabelMap:
    try:
        return read_labels(file, expect=study.grid(ct))
    except DoselabelError as error:
        raise of_upload(error, file, image_id(study.patient_id, ct)) from error


def _key(case: Case) -> tuple[str, int]:
    return case.file, case.path.stat().st_mtime_ns


def _marked(results: DoseResults, drawn: list[str], predicted: list[str]) -> DoseResults:
    """Say first of all that this is no result to keep, and of which masks."""
    if predicted:
        results = not_reviewed(results, [name.partition(".")[0] for name in predicted])
        origin = f"draft, not submitted ({', '.join(drawn)}); else {results.labels_origin}"
        results = results.model_copy(update={"labels_origin": origin})
    return results.model_copy(update={"warnings": [DRAFT.format(", ".join(drawn)), *results.warnings]})
