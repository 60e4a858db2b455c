"""A cohort as a table, one row for each organ of each patient: as CSV and Parquet. Knows outcomes; draws nothing."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from doselabel import disk
from doselabel.alarms import Alarm
from doselabel.cohort.patient import Outcome
from doselabel.errors import DoselabelError

FAR = 3.5
"""Modified z-score above which a value is an outlier (Iglewicz and Hoaglin 1993)."""
FEWEST = 8
"""With fewer values nobody can tell."""
JUDGED = ("volume_ml", "effective_half_life_h", "dose_gy_per_gbq")
FIGURES = ("volume_ml", "mass_g", "tia_mbq_h", "effective_half_life_h", "mean_dose_gy", "dose_sd_gy",
           "dose_gy_per_gbq", "bed_gy", "bed_sd_gy")  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One organ of one patient; of a patient without a dose one row without an organ."""

    study: str
    patient_id: str
    state: str
    organ: str = ""
    nuclide: str = ""
    injected_activity_mbq: float | None = None
    volume_ml: float | None = None
    mass_g: float | None = None
    tia_mbq_h: float | None = None
    effective_half_life_h: float | None = None
    mean_dose_gy: float | None = None
    dose_sd_gy: float | None = None
    dose_gy_per_gbq: float | None = None
    bed_gy: float | None = None
    bed_sd_gy: float | None = None
    reviewed: bool | None = None
    alarms: str = ""
    outlier: str = ""
    report: str = ""
    error: str = ""


def rows_of(outcomes: Sequence[Outcome]) -> list[Row]:
    """All rows, with outliers named."""
    return marked([row for outcome in outcomes for row in _rows(outcome)])


def alarms_of(outcome: Outcome) -> list[Alarm]:
    """What must be looked at before a patient's doses are used."""
    told = outcome.results.get("dose", {}).get("alarms", [])
    return [alarm for alarm in map(Alarm.model_validate, told) if alarm.severity == "alarm"]


def _rows(outcome: Outcome) -> list[Row]:
    error = "" if outcome.error is None else "{step}: {message}".format(**outcome.error)
    plain = Row(outcome.name, outcome.patient_id, "failed" if error else "done", error=error)
    dose = outcome.results.get("dose")
    if not dose:
        return [plain]
    common = replace(
        plain,
        nuclide=dose["nuclide"],
        injected_activity_mbq=dose["injected_activity_mbq"],
        reviewed=dose["reviewed"],
        alarms=" ".join(dict.fromkeys(alarm.code for alarm in alarms_of(outcome))),
        report=f"{outcome.name}/dose/report.html" if dose["report"] else "",
    )
    organs = [replace(common, organ=name, **_figures(organ)) for name, organ in dose["organs"].items()]
    lost = [
        replace(common, organ=name, state="failed", error=f"dose: {why['message']}")
        for name, why in dose["failed"].items()
    ]
    return organs + lost


def _figures(organ: Mapping[str, Any]) -> dict[str, Any]:
    return {name: organ[name] for name in FIGURES}


def modified_z(values: Sequence[float]) -> np.ndarray:
    """Distance of each value from the median in robust standard deviations, 0.6745 (x - median) / MAD."""
    array = np.asarray(values, dtype=float)
    away = array - np.median(array)
    mad = float(np.median(np.abs(away)))
    return 0.6745 * away / mad if mad > 0 else np.zeros_like(array)


def marked(rows: Sequence[Row]) -> list[Row]:
    """Rows with those figures named whose logarithms are outliers among the organ's."""
    found: dict[int, list[str]] = {}
    for organ in dict.fromkeys(row.organ for row in rows):
        for name in JUDGED:
            own = [i for i, row in enumerate(rows) if row.organ == organ and (getattr(row, name) or 0) > 0]
            if len(own) < FEWEST:
                continue
            scores = modified_z([math.log(getattr(rows[i], name)) for i in own])
            for i, score in zip(own, scores, strict=True):
                if abs(score) > FAR:
                    found.setdefault(i, []).append(name)
    return [replace(row, outlier=" ".join(found.get(i, []))) for i, row in enumerate(rows)]


def write_csv(path: Path, rows: Iterable[Mapping[str, Any]], names: Sequence[str]) -> Path:
    """Write rows as CSV; an unknown number is empty."""
    temporary = path.with_name(f"{disk.UNFINISHED}{path.name}")
    with temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)
    temporary.replace(path)
    return path


def write_parquet(path: Path, rows: Sequence[Row]) -> Path:
    """Write the rows as Parquet, each column with its own type."""
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError as error:
        raise DoselabelError("Parquet files need pyarrow.", "pip install 'doselabel[cohort]'.") from error
    kinds = {"float | None": pa.float64(), "bool | None": pa.bool_()}
    schema = pa.schema([(column.name, kinds.get(str(column.type), pa.string())) for column in fields(Row)])
    temporary = path.with_name(f"{disk.UNFINISHED}{path.name}")
    parquet.write_table(pa.Table.from_pylist([asdict(row) for row in rows], schema), temporary)
    temporary.replace(path)
    return path
