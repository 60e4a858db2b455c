"""Whether the stated uncertainty covers the error: many small patients of other physics, every method, 1 to 4 scans.

Run: ``python benchmarks/coverage.py --phantoms 40 --seed 0 --out DIR``; some 25 CPU-seconds a patient. It goes on
where it was stopped (``cases.jsonl`` in DIR holds every result with its truth), and prints the tables of
docs/dosimetry.md; ``--write docs/dosimetry.md`` puts them there. The patients are `sample_data.clinic`'s.

A dose covers when |computed − true| < k · its standard uncertainty. Wanted of every method: 60 to 80 % for k = 1, at
least 92 % for k = 2, and a root mean square of (computed − true)/± between 0.8 and 1.2.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.known import between
from doselabel.dosimetry import pipeline
from doselabel.dosimetry.options import DoseOptions
from doselabel.errors import DoselabelError
from doselabel.study import Study
from sample_data import clinic

METHODS = ("gtm", "margin", "gaussian", "threshold")
POINTS = (4, 3, 2, 1)
BEGIN, END = "<!-- coverage: begin, written by `benchmarks/coverage.py --write` -->", "<!-- coverage: end -->"
WANTED = {"1σ": (0.60, 0.80), "2σ": (0.92, 1.0), "rms z": (0.8, 1.2)}


def cases_of(folder: Path, seed: int, number: int, methods: Iterable[str] = METHODS) -> Iterator[dict[str, Any]]:
    """Every result of one patient: `gtm` with 4, 3, 2 and 1 scans, the others with 4 and, in turn, one of the rest."""
    study, truth = clinic.make(folder, seed, number)
    spread = {name: clinic.POPULATION_RELATIVE_SD * half_life for name, half_life in clinic.POPULATION_H.items()}
    for method in methods:
        for points in POINTS if method == "gtm" else (4, POINTS[1 + number % 3]):
            part = Study.model_validate(study.model_dump(by_alias=True))
            kept = clinic.subset(tuple(p.time_h for p in study.time_points), points)
            part.time_points = [study.time_points[i] for i in kept]
            part.save(folder)
            options = DoseOptions(
                voi=method,
                population_half_life_h=clinic.POPULATION_H,
                population_half_life_sd_h=spread,
                alpha_beta_gy=clinic.ALPHA_BETA_GY,
            )
            about = {"seed": seed, "patient": number, "method": method, "points": points}
            try:
                done = pipeline.compute(Study.load(folder), folder / "drawn", options, cache=folder / "cache").results
            except DoselabelError as error:
                yield about | {"organ": "", "failed": str(error)}
                continue
            for name, error in done.failed.items():
                yield about | {"organ": name, "failed": error.message}
            for name, organ in done.organs.items():
                true = truth[name]
                yield about | {
                    "organ": name, "model": organ.tac.model, "dose": organ.mean_dose_gy, "sd": organ.dose_sd_gy,
                    "true": true.mean_dose_gy, "tia": organ.tia_mbq_h, "true_tia": true.tia_mbq_h, "bed": organ.bed_gy,
                    "bed_sd": organ.bed_sd_gy, "true_bed": true.bed_gy, "d": organ.dvh.d_gy, "d_sd": organ.dvh.d_sd_gy,
                    "true_d": true.d_gy, "percent": organ.uncertainty_percent,
                    "volume": organ.volume_ml / true.volume_ml,
                    "shift_sd": [entry["sd_mm"] for entry in done.registration],
                    "extrapolated": organ.tac.extrapolated_fraction,
                }  # fmt: skip


def z_of(case: dict[str, Any], what: str = "dose") -> float:
    """(computed − true)/±; ``what`` is dose, bed, or a D_x."""
    if what in ("dose", "bed"):
        sd, true = case["sd" if what == "dose" else "bed_sd"], case["true" if what == "dose" else "true_bed"]
        return (case[what] - true) / sd
    return (case["d"][what] - case["true_d"][what]) / case["d_sd"][what]


def row(name: str, z: np.ndarray, error: np.ndarray, stated: np.ndarray, refused: int) -> str:
    """A line of the table."""
    numbers = (np.mean(np.abs(z) < 1), np.mean(np.abs(z) < 2), float(np.sqrt(np.mean(z**2))))
    cells = [name, str(z.size), str(refused), f"{100 * np.mean(error):+.1f} %", f"{100 * np.std(error):.1f} %",
             f"{100 * np.median(stated):.1f} %"]  # fmt: skip
    for value, (low, high), shown in zip(numbers, WANTED.values(), ("{:.0%}", "{:.0%}", "{:.2f}"), strict=True):
        cells.append(shown.format(value) + ("" if low <= value <= high else " **off**"))
    return "| " + " | ".join(cells) + " |"


def table(cases: list[dict[str, Any]]) -> str:
    """The coverage tables as Markdown."""
    lines = [
        "| | doses | refused | mean error | its SD | stated ± (median) | within 1 σ | within 2 σ | rms z |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]

    def add(name: str, part: list[dict[str, Any]], what: str = "dose") -> None:
        good = [c for c in part if "failed" not in c]
        if not good:
            return
        z = np.array([z_of(c, what) for c in good])
        error = np.array([c["dose"] / c["true"] - 1 for c in good])
        stated = np.array([c["sd"] / c["dose"] for c in good])
        if what == "bed":
            error = np.array([c["bed"] / c["true_bed"] - 1 for c in good])
            stated = np.array([c["bed_sd"] / c["bed"] for c in good])
        elif what != "dose":
            error = np.array([c["d"][what] / c["true_d"][what] - 1 for c in good])
            stated = np.array([c["d_sd"][what] / c["d"][what] for c in good])
        lines.append(row(name, z, error, stated, len(part) - len(good)))

    for method in METHODS:
        add(f"**{method}**, all", [c for c in cases if c["method"] == method])
    for method in METHODS:
        for points in POINTS:
            add(f"{method}, {points} scan{'s' if points > 1 else ''}",
                [c for c in cases if (c["method"], c["points"]) == (method, points)])  # fmt: skip
    for organ in clinic.SEMI_MM:
        add(f"gtm, {organ.replace('_', ' ')}", [c for c in cases if c["method"] == "gtm" and c["organ"] == organ])
    for what in ("bed", "D2", "D50", "D98"):
        add(f"gtm, {what.upper()}", [c for c in cases if c["method"] == "gtm"], what)
    return "\n".join(lines)


def simulate(out: Path, phantoms: int, seed: int, first: int = 0) -> list[dict[str, Any]]:
    """Compute what ``out`` lacks, from patient ``first`` on; return the cases of the first ``phantoms`` patients."""
    out.mkdir(parents=True, exist_ok=True)
    file = out / "cases.jsonl"
    cases = [json.loads(line) for line in file.read_text("utf-8").splitlines()] if file.is_file() else []
    there = {c["patient"] for c in cases if c["seed"] == seed}
    for number in range(first, phantoms):
        if number in there:
            continue
        with tempfile.TemporaryDirectory() as folder:
            found = list(cases_of(Path(folder), seed, number))
        with file.open("a", encoding="utf-8") as stream:
            stream.writelines(json.dumps(case) + "\n" for case in found)
        cases += found
        print(f"patient {number + 1} of {phantoms}", flush=True)
    return [c for c in cases if c["seed"] == seed and c["patient"] < phantoms]


def main() -> None:
    """Simulate, print the tables, write them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--phantoms", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--first", type=int, default=0, help="begin with this patient (to share the work; join the files)"
    )
    parser.add_argument("--out", type=Path, default=Path("coverage"), help="folder of the cases")
    parser.add_argument("--write", type=Path, help="document that holds the tables between its marks")
    args = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    text = table(simulate(args.out, args.phantoms, args.seed, args.first))
    print(text)
    if args.write:
        args.write.write_text(between(BEGIN, END, args.write.read_text("utf-8"), text), "utf-8")


if __name__ == "__main__":
    main()
