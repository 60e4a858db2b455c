"""What a dose calculation leaves behind, written to a folder and read again. Computes nothing."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from doselabel.dosimetry.alignment.registration import Alignment
from doselabel.errors import DoseError
from doselabel.geometry import Volume, read_image, write_image
from doselabel.labels import LabelMap, read_labels, write_labels
from doselabel.study import Study
from doselabel.wire import DoseResults

RESULTS = "results.json"
DOSE_MAP = "dose.nii.gz"
_VOI = re.compile(r"voi_tp(\d+)\.(nii|nii\.gz|nrrd|mha)")


@dataclass(frozen=True, eq=False)
class DoseComputation:
    """Results with the images that belong to them.

    Attributes
    ----------
    results : DoseResults
    dose : Volume
        Gy.
    labels : dict of str to LabelMap
        The masks used, by the CT's file name.
    vois : list of LabelMap
        Volumes of interest on each SPECT's grid.
    """

    results: DoseResults
    dose: Volume
    labels: Mapping[str, LabelMap]
    vois: list[LabelMap]


def write_dose(done: DoseComputation, study: Study, out: str | Path) -> None:
    """Write a computation's files; `results.json` last, so that it never speaks of files that are not there."""
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    write_image(out / DOSE_MAP, done.dose)
    for name, label_map in done.labels.items():
        write_labels(out / masks_name(name), label_map)
    for i, regions in enumerate(done.vois, start=1):
        write_labels(out / voi_name(i), regions)
    temporary = out / f".writing-{RESULTS}"
    temporary.write_text(done.results.model_dump_json(by_alias=True, indent=1), encoding="utf-8")
    temporary.replace(out / RESULTS)


def masks_name(ct: str) -> str:
    """File of the masks used on a CT."""
    return f"masks_{Path(ct).name.partition('.')[0]}.nii.gz"


def store_registration(study: Study, results: DoseResults) -> None:
    """Keep the transforms that a calculation found in the study, and save it."""
    for entry in results.registration:
        point = study.time_points[entry["time_point"]]
        found = Alignment(
            np.asarray(entry["matrix"]), entry["method"], entry["shift_mm"], entry["merit_before"], entry["merit_after"]
        )
        point.spect_to_ct = found.registration()
    study.save()


def read_results(path: str | Path) -> DoseResults:
    """Read a ``results.json``, by its path or its folder's.

    Raises
    ------
    DoseError
        When it is not there, or can't be read.
    """
    path = Path(path)
    path = path / RESULTS if path.is_dir() else path
    try:
        return DoseResults.model_validate_json(path.read_bytes())
    except OSError as error:
        raise DoseError(f"{path}: there is no such file.", "Run `doselabel dose` first.") from error
    except ValueError as error:
        raise DoseError(f"{path}: can't be read ({error}).", "Run `doselabel dose` again.") from error


def read_vois(folder: str | Path, study: Study) -> dict[int, LabelMap]:
    """Volumes of interest corrected by hand, by time point: ``voi_tp1.nii.gz`` …, as `write_dose` writes them.

    Raises
    ------
    DoseError
        When there is none, or one of a time point that the study does not have.
    LabelError, GeometryError
        When one can't be read, or is not on its SPECT's grid.
    """
    found = {int(m[1]): path for path in Path(folder).glob("voi_tp*") if (m := _VOI.fullmatch(path.name))}
    count = len(study.time_points)
    if not found or not all(1 <= number <= count for number in found):
        seen = ", ".join(sorted(path.name for path in found.values())) or "none"
        raise DoseError(
            f"{folder}: expected volumes of interest {voi_name(1)} to {voi_name(count)}; found {seen}.",
            "Correct those that `doselabel dose` wrote, keep their names, and give their folder.",
        )
    return {
        number - 1: read_labels(path, expect=study.grid(study.time_points[number - 1].spect))
        for number, path in sorted(found.items())
    }


def voi_name(number: int) -> str:
    """File of a time point's volumes of interest; counted from 1."""
    return f"voi_tp{number}.nii.gz"


def read_dose(out: str | Path) -> tuple[DoseResults, Volume]:
    """Read what `run` wrote into a folder.

    Raises
    ------
    DoseError
        When there are no results, or they can't be read.
    """
    return read_results(Path(out) / RESULTS), read_image(Path(out) / DOSE_MAP)
