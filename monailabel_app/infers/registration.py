"""How two images of a patient lie to each other: a request → one call of `doselabel.dosimetry`, and what it found.

Of a time point's CT: the diagnostic CT is brought onto it, and with it the label map that was submitted there, as a
proposal. With ``moving: "spect"``: the SPECT is brought onto the organs that were submitted for its CT.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from monailabel.interfaces.tasks.infer_v2 import InferTask, InferType

from doselabel.errors import LabelError, RegistrationError, part
from doselabel.geometry import Volume
from doselabel.labels import LabelMap, read_labels, write_labels
from doselabel.study import Study
from doselabel.versions import FINAL
from doselabel.wire import RegistrationSummary
from monailabel_app.cases import Case, cases_of
from monailabel_app.infers.dosimetry import study_folder
from monailabel_app.request import choice, fresh_file, label_suffix, plain, progress_of


class RegistrationTask(InferTask):
    """Bring images of a patient together."""

    role = "labels"

    def __init__(self) -> None:
        super().__init__(
            type=InferType.OTHERS,
            labels=[],
            dimension=3,
            description="Diagnostic CT and its label map brought onto a time point's CT, or its SPECT onto the organs",
            config={"moving": ["ct", "spect"]},
        )

    def is_valid(self) -> bool:
        """It needs no model."""
        return True

    def __call__(self, request: dict[str, Any]) -> tuple[str | None, dict[str, Any]]:
        """Register what belongs to the CT ``request["image"]``.

        Returns
        -------
        str or None, dict
            The carried label map's file, if there is one, and the `RegistrationSummary` under "registration".
        """
        study = Study.load(study_folder(Path(request["image"])))
        case = next(case for case in cases_of(study) if case.path == Path(request["image"]).resolve())
        if choice(request, "moving", "ct", ("ct", "spect")) == "spect":
            return None, plain({"registration": _spect(study, case, request).model_dump(mode="json")})
        labels, summary = _ct(study, case, request)
        answer: dict[str, Any] = {"registration": summary.model_dump(mode="json")}
        if labels is None:
            return None, plain(answer)
        file = write_labels(fresh_file(request, "labels", label_suffix(request)), labels)
        present = set(labels.present())
        answer["label_names"] = {name: value for value, name in sorted(labels.names.items()) if name in present}
        return str(file), plain(answer)


def _ct(study: Study, case: Case, request: dict[str, Any]) -> tuple[LabelMap | None, RegistrationSummary]:
    from doselabel.dosimetry.alignment.ct_registration import register_cts
    from doselabel.dosimetry.uptake.masks import carried

    if case.file == study.ct:
        raise RegistrationError(
            f"{case.image_id}: is the diagnostic CT, which the others are brought together with.",
            "Ask for a time point's CT, or for moving = spect.",
        )
    progress = progress_of(request)
    progress("reading", 0.0)
    here, diagnostic = study.read(case.file), study.read(study.ct)
    drawn = next(cases_of(study)).labels.tagged(FINAL)
    labels = read_labels(drawn, expect=diagnostic.geometry) if drawn else None
    focus = labels.array != 0 if labels else None
    found = register_cts(here, diagnostic, focus=focus, progress=part(progress, 0.1, 0.9))
    summary = RegistrationSummary(moving=case.file, fixed=study.ct, **_told(found))
    return carried(labels, here.geometry, found.matrix) if labels else None, summary


def _spect(study: Study, case: Case, request: dict[str, Any]) -> RegistrationSummary:
    from doselabel.dosimetry.alignment.registration import refine

    point = next((point for point in study.time_points if point.ct == case.file), None)
    if point is None:
        raise RegistrationError(f"{case.image_id}: no SPECT belongs to this CT.", "Ask for a time point's CT.")
    drawn = case.labels.tagged(FINAL)
    if drawn is None:
        raise LabelError(f"{case.image_id}: no label map has been submitted.", "Segment, correct and submit it first.")
    progress = progress_of(request)
    progress("reading", 0.0)
    spect: Volume = study.read(point.spect)
    found = refine(
        spect,
        read_labels(drawn, expect=study.grid(case.file)),
        start=np.asarray(point.spect_to_ct.matrix),
        psf_fwhm_mm=study.resolution_fwhm_mm,
        progress=part(progress, 0.1, 0.9),
    )
    return RegistrationSummary(moving=point.spect, fixed=case.file, **_told(found))


def _told(found: Any) -> dict[str, Any]:
    stored = found.registration()
    return {
        "matrix": [list(row) for row in stored.matrix],
        "method": stored.method,
        "comment": stored.comment,
        "shift_mm": found.shift_mm,
        "agreement_before": found.agreement_before,
        "agreement_after": found.agreement_after,
        "sd_mm": found.sd_mm,
    }
