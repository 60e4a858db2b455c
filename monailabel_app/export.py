"""A cohort's label maps that count, in one zip file with an index. Knows cases; no HTTP.

Every file is looked at before it is packed: one that is not what was submitted is named in the index and left out.
"""

from __future__ import annotations

import json
import os
import tempfile
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from doselabel.errors import DoselabelError
from doselabel.versions import FINAL
from monailabel_app.cases import Case, suffix_of
from monailabel_app.refusals import not_found

INDEX = "index.json"
SCHEMA = "doselabel.export/1"


def archive(
    cases: Iterable[Case],
    image: Callable[[Case], Path] | None = None,
    *,
    most: int | None = None,
    approved: bool = False,
) -> Path:
    """Pack label maps.

    Parameters
    ----------
    cases : iterable of Case
        Those without a label map that counts are passed over.
    image : callable, optional
        Gives a CT's file, which is then packed too.
    most : int, optional
        At most so many CTs.
    approved : bool
        Only label maps that a reviewer has approved.

    Returns
    -------
    Path
        A temporary file: ``label/<image id>.nii.gz``, ``image/<image id>…`` and ``index.json`` with who drew and
        reviewed each, its volumes, hash and version, and what was left out and why.
    """
    rows: list[dict[str, Any]] = []
    left_out: list[dict[str, Any]] = []
    handle, name = tempfile.mkstemp(prefix="doselabel-export-", suffix=".zip")
    try:
        with os.fdopen(handle, "wb") as file, zipfile.ZipFile(file, "w") as packed:
            for case in cases:
                if len(rows) == (most or -1):
                    break
                labels = case.labels
                final = labels.final()
                left_out += [
                    {"image_id": case.image_id, "version": damaged.version, "why": damaged.error.message}
                    for damaged in labels.versions()
                    if damaged.error
                ]
                if final is None or (approved and not final.approved):
                    continue
                try:
                    label = labels.path(final.version)
                    if image:
                        ct = image(case)
                        packed.write(ct, f"image/{case.image_id}{suffix_of(ct)}")
                    packed.write(label, f"label/{case.image_id}.nii.gz")
                except DoselabelError as error:
                    left_out.append({"image_id": case.image_id, "version": final.version, "why": error.message})
                    continue
                review = labels.review_of(final.version)
                rows.append(
                    {"patient_id": case.study.patient_id, "ct": case.file, "time_h": case.time_h}
                    | final.model_dump(mode="json", exclude={"error", "conflicts", "key"})
                    | {"review": review.model_dump(mode="json") if review else None}
                )
            if not rows:
                raise not_found("label map", FINAL, "Submit one first, or approve one.")
            index = {"schema": SCHEMA, "label_maps": rows, "left_out": left_out}
            packed.writestr(INDEX, json.dumps(index, indent=2), zipfile.ZIP_DEFLATED)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    return Path(name)
