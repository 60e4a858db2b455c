"""Dose of one patient: a request → label maps → `doselabel.dosimetry.pipeline.run` → dose map, results, report.

Label maps are the submitted ones. Where one is missing the model may fill in, but only when asked for
(``labels: "model"``), and the result then says that nobody reviewed it.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from monailabel.interfaces.tasks.infer_v2 import InferTask, InferType

from doselabel.errors import LabelError, Progress, part
from doselabel.reading import folder_of
from doselabel.study import Study
from doselabel.versions import FINAL
from doselabel.wire import DoseResults
from monailabel_app.cases import cases_of
from monailabel_app.infers.filling import filled_in, missing
from monailabel_app.infers.kidney_liver import KidneyLiver
from monailabel_app.refusals import not_found
from monailabel_app.request import choice, fresh_file, plain, progress_of, yes

_OURS = {"image", "labels", "out", "progress", "report", "user"}
_MONAI = {"client_id", "model", "description", "device", "save_label", "label_tag", "result_extension", "result_dtype"}
_BATCH = {"logging", "gpus", "multi_gpu", "images", "max_workers", "max_batch_size", "_id", "_image_id"}
_NOT_OPTIONS = _OURS | _MONAI | _BATCH
"""Keys of a request that are no `DoseOptions`; any other that it does not know is refused, never ignored."""


class Dosimetry(InferTask):
    """Absorbed dose of the organs of a patient.

    Parameters
    ----------
    kidney_liver : KidneyLiver
        Fills in label maps that nobody has submitted.
    cache : Path
        Folder for what a later calculation of the same patient may use again.
    """

    role = "dose"

    def __init__(self, kidney_liver: KidneyLiver, cache: Path) -> None:
        super().__init__(
            type=InferType.OTHERS,
            labels=[],
            dimension=3,
            description="Absorbed dose of the patient's organs (any CT of the patient); research use only",
            config={"labels": ["final", "model"]},
        )
        self._kidney_liver = kidney_liver
        self._cache = cache

    def is_valid(self) -> bool:
        """Dosimetry needs no model."""
        return True

    def __call__(self, request: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        """Compute the dose of the patient that the CT ``request["image"]`` belongs to.

        ``labels`` is "final" (a time point without a submitted label map gets the diagnostic CT's, registered) or
        "model" (what was not submitted is predicted, and said to be not reviewed). ``report: false`` leaves out
        the report, which takes longer than the dose when only a label map was edited. All other keys that
        `DoseOptions` knows are its options.

        Returns
        -------
        str, dict
            The dose map's file, and the `DoseResults` under "dose".
        """
        from doselabel.dosimetry.options import DoseOptions
        from doselabel.dosimetry.pipeline import run
        from doselabel.dosimetry.results import masks_name

        progress = progress_of(request)
        study = Study.load(study_folder(Path(request["image"])))
        options = DoseOptions.read({k: v for k, v in request.items() if k not in _NOT_OPTIONS})
        with tempfile.TemporaryDirectory(prefix="doselabel-dose-") as scratch:
            labels: str | Path = FINAL
            predicted: list[str] = []
            share = 0.0
            if choice(request, "labels", FINAL, (FINAL, "model")) == "model":
                folder, share = Path(scratch) / "labels", 0.5
                predicted = self._complete(study, folder, part(progress, 0.0, share))
                labels = folder if predicted else FINAL
            elif not any(case.labels.count() for case in cases_of(study) if case.file == study.ct):
                raise LabelError(
                    f"{study.patient_id}: no label map of the diagnostic CT '{study.ct}' has been submitted.",
                    "Segment, correct and submit it; or ask for labels = model, and get an unreviewed dose.",
                )
            out = Path(request.get("out") or scratch)
            results = run(study, labels, options, out=out, cache=self._cache, progress=part(progress, share, 0.9))
            if predicted:
                results = not_reviewed(results, predicted)
                (out / "results.json").write_text(results.model_dump_json(by_alias=True, indent=2), "utf-8")
            dose = out / "dose.nii.gz"
            files = {"results": "results.json"}
            masks = [masks_name(ct) for ct in study.cts().values()]
            files |= {name.partition(".")[0]: name for name in masks if (out / name).is_file()}
            if yes({"report": True} | request, "report"):
                from doselabel.io.report import write_report_of  # brings matplotlib

                write_report_of(out, study, progress=part(progress, 0.9, 1.0))
                files |= {"report": "report.html", "report_pdf": "report.pdf"}
            if "out" not in request:  # a plain call: MONAI Label takes one file, and deletes it
                dose = shutil.copyfile(dose, fresh_file(request, "dose", ".nii.gz"))
                files = {}
        return str(dose), plain({"dose": results.model_dump(mode="json", by_alias=True), "files": files})

    def _complete(self, study: Study, folder: Path, progress: Progress) -> list[str]:
        """Fill a folder with label maps named like the CTs: submitted ones, else predicted; name the predicted."""
        folder.mkdir()
        for case in cases_of(study):
            if submitted := case.labels.tagged(FINAL):
                shutil.copyfile(submitted, folder / f"{case.stem}.nii.gz")
        lacking = missing(study)
        for number, case in enumerate(lacking):
            share = part(progress, number / len(lacking), (number + 1) / len(lacking))
            drawn = filled_in(self._kidney_liver, self._cache, case, share)
            shutil.copyfile(drawn, folder / f"{case.stem}.nii.gz")
        return [case.stem for case in lacking]


def not_reviewed(results: DoseResults, predicted: Sequence[str]) -> DoseResults:
    """Say in the results which masks nobody has looked at."""
    warning = f"The label maps of {', '.join(predicted)} were predicted by the model and not reviewed by anybody."
    origin = f"submitted label maps, completed by the model for {', '.join(predicted)}"
    told = {"reviewed": False, "labels_origin": origin, "warnings": [warning, *results.warnings]}
    return results.model_copy(update=told)


def study_folder(ct: Path) -> Path:
    """The folder of the study that a CT belongs to; refused when there is none."""
    folder = folder_of(ct)
    if folder is None:
        raise not_found("study around", ct.name, "A dose needs a patient of the studies folder.")
    return folder
