"""Doses of the same patients by two sides, or of one patient by many methods: runs the pipeline as often as it takes.

A *side* is what is compared, written as ``labels=truth,voi=gtm``: pairs of key and value, comma between.
``labels``: a tag, a path, or a folder inside the study such as ``truth``. ``vois``: a folder of volumes of interest
corrected by hand. ``name``: what the tables call the side. ``patients=P1/P2``: some only, for whom it takes the place
of the side's others. Every other key is an option of `doselabel.dosimetry.options.DoseOptions`
(``preset=expert2``), lists with ``/`` between (``psf_fwhm_mm=12/11/11``).
What comes out, and how it is shown, is `doselabel.io.comparison`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from doselabel.dosimetry import pipeline
from doselabel.dosimetry.options import DoseOptions
from doselabel.dosimetry.results import read_vois
from doselabel.errors import DoseError, DoselabelError, Progress, no_progress
from doselabel.io.comparison import Comparison, Sensitivity, Side, Variant, write_comparison, write_sensitivity
from doselabel.labels import region, title
from doselabel.study import Study
from doselabel.wire import DoseResults

KIDNEYS = ("left_kidney", "right_kidney")


def parse_side(text: str, name: str) -> Side:
    """Read ``labels=truth,voi=gtm`` into a `Side`.

    Parameters
    ----------
    text : str
        Pairs of key and value; ``name=…`` replaces ``name``. ``labels`` must be among them.
    name : str
        What to call it otherwise.

    Raises
    ------
    DoseError
        For a part that is no pair, a key twice, no labels, or options that `DoseOptions` refuses.
    """
    content: dict[str, str] = {}
    for part in filter(None, (p.strip() for p in text.split(","))):
        key, equals, value = (p.strip() for p in part.partition("="))
        if not (key and equals and value):
            raise DoseError(f"'{part}' in '{text}' is not a pair.", "Write KEY=VALUE,KEY=VALUE: labels=truth,voi=gtm.")
        if key in content:
            raise DoseError(f"'{key}' is given twice in '{text}'.", "Keep one of them.")
        content[key] = value
    labels, called = content.pop("labels", ""), content.pop("name", name)
    vois, patients = content.pop("vois", None), content.pop("patients", "")
    if not labels:
        raise DoseError(
            f"'{text}' does not say whose masks to take.",
            "Add labels=TAG, a path, or a folder of the study: labels=truth.",
        )
    return Side(called, labels, DoseOptions.read(content), vois, tuple(filter(None, patients.split("/"))))


def compare(
    studies: Sequence[Study],
    a: Sequence[Side],
    b: Sequence[Side],
    *,
    organs: Sequence[str] = KIDNEYS,
    out: str | Path | None = None,
    progress: Progress = no_progress,
) -> Comparison:
    """Compute the doses of every patient by both sides.

    Parameters
    ----------
    studies : sequence of Study
    a, b : sequence of Side
        The reference (the paper's experts), and what is compared with it (the AI). Of several the last counts that is
        for the patient; the first one names the side.
    organs : sequence of str
        Those compared; an organ that a patient lacks is shown as ``*``.
    out : path, optional
        Folder for ``compare.csv``, ``compare.png`` and ``compare.html``.

    Raises
    ------
    DoselabelError
        Whatever the pipeline refuses, with the patient and the side named.
    """
    if not studies:
        raise DoseError("There is no study to compare.", "Name a study folder, or a folder of studies.")
    names = tuple(region(name).name for name in organs)
    chosen = [(_side_for(a, study), _side_for(b, study)) for study in studies]
    found: list[list[DoseResults]] = [[], []]
    total = 2 * len(studies)
    with TemporaryDirectory() as cache:
        for i, (study, sides) in enumerate(zip(studies, chosen, strict=True)):
            for j, side in enumerate(sides):
                start, stage = (2 * i + j) / total, f"{study.patient_id}, {side.name}"
                found[j].append(_run(study, side, cache, _part(progress, start, 1 / total, stage)))
    comparison = Comparison(a[0].name, b[0].name, tuple(found[0]), tuple(found[1]), names)
    if out is not None:
        write_comparison(comparison, [*a, *b], Path(out))
    progress("comparison", 1.0)
    return comparison


def sensitivity(
    study: Study,
    labels: str,
    options: DoseOptions | None = None,
    *,
    organs: Sequence[str] | None = None,
    out: str | Path | None = None,
    progress: Progress = no_progress,
) -> Sensitivity:
    """One patient's doses with margins of 0, 3 and 6 mm, the other VOI methods, and the other fit models.

    Parameters
    ----------
    labels : str
        As in `Side`.
    options : DoseOptions, optional
        The base, which every variant changes in one respect.
    out : path, optional
        Folder for ``sensitivity.csv`` and ``sensitivity.html``.

    Raises
    ------
    DoselabelError
        When the base itself can't be computed. A variant that can't is kept, with the reason.
    """
    options = options or DoseOptions()
    changes: list[tuple[str, str, dict[str, Any]]] = [
        ("VOI", f"margin {mm:g} mm", {"voi": "margin", "margin_mm": mm}) for mm in (0.0, 3.0, 6.0)
    ]
    changes += [("VOI", method, {"voi": method}) for method in ("gaussian", "threshold", "gtm")]
    changes += [("Fit", model, {"tac": model}) for model in ("uptake", "mono", "bi", "trapezoid", "hanscheid")]
    variants: list[Variant] = []
    with TemporaryDirectory() as cache:
        for i, (group, name, change) in enumerate([("Base", "as chosen", {}), *changes]):
            side = Side(name, labels, options.model_copy(update=change))
            step = 1 / (len(changes) + 1)
            try:
                results = _run(study, side, cache, _part(progress, i * step, step, name))
                variants.append(Variant(group, name, results, _remark(results)))
            except DoselabelError as error:
                if not variants:
                    raise
                variants.append(Variant(group, name, None, error.message.removeprefix(_where(study, side))))
    base, *others = variants
    assert base.results is not None  # the base was computed, or its error raised
    names = tuple(organs) if organs is not None else tuple(base.results.organs)
    result = Sensitivity(base, tuple(others), names)
    if out is not None:
        write_sensitivity(result, study, Path(out))
    progress("sensitivity", 1.0)
    return result


def labels_of(study: Study, text: str) -> str | Path:
    """Where a side's masks are: a folder or file inside the study when there is one, else as given."""
    inside = study.folder / text
    tagged = study.folder / "labels" / text
    return inside if inside.exists() and not tagged.is_dir() else text


def vois_of(study: Study, text: str) -> Path:
    """Folder of volumes of interest: in a folder named like the patient, inside the study, or as given."""
    places = (Path(text) / study.patient_id, study.folder / text)
    return next((place for place in places if place.is_dir()), Path(text))


def _side_for(sides: Sequence[Side], study: Study) -> Side:
    fit = [side for side in sides if not side.patients or study.patient_id in side.patients]
    if not fit:
        raise DoseError(
            f"No side '{sides[0].name}' is for the patient {study.patient_id}.",
            "Give one without patients=, for those who have none of their own.",
        )
    return fit[-1]


def _run(study: Study, side: Side, cache: str, progress: Progress) -> DoseResults:
    try:
        vois = None if side.vois is None else read_vois(vois_of(study, side.vois), study)
        labels = labels_of(study, side.labels)
        return pipeline.run(study, labels, side.options, cache=cache, edited_vois=vois, progress=progress)
    except DoselabelError as error:
        raise type(error)(_where(study, side) + error.message, error.hint) from error


def _where(study: Study, side: Side) -> str:
    return f"{study.patient_id}, {side.name}: "


def _remark(results: DoseResults) -> str:
    """What a reader of one row must know of its fits."""
    untested = [title(name) for name, o in results.organs.items() if o.tac.degrees_of_freedom < 1]
    remarks = [f"no degree of freedom: {', '.join(untested)}"] if untested else []
    remarks += [f"{title(name)} could not be computed: {reason.message}" for name, reason in results.failed.items()]
    return "; ".join(remarks)


def _part(progress: Progress, start: float, length: float, stage: str) -> Progress:
    def report(inner: str, fraction: float) -> None:
        progress(f"{stage}: {inner}", start + length * fraction)

    return report
