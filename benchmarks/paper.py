"""What ran here of the paper's tables 3 and 4 and its times, on sample patients: writes the part of docs/paper.md.

    python benchmarks/paper.py [--patients 8] [--seed 11] [--work DIR] [--write docs/paper.md]

The paper's experts drew 8 patients' kidneys and took activities by a Gaussian border; its network's masks were widened
by 3 mm. Here the phantom's own masks stand for the experts (preset "expert1"), the starter's masks are the AI (preset
"ai"), and both are laid beside the phantom's true doses, which the paper could not know. As in the paper there is no
correction by hand.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from doselabel.dosimetry import pipeline
from doselabel.dosimetry.options import DoseOptions
from doselabel.geometry import read_image
from doselabel.io.compare import KIDNEYS, compare, parse_side
from doselabel.io.comparison import Comparison
from doselabel.io.document import Table
from doselabel.labels import write_labels
from doselabel.model import checkpoint as checkpoints
from doselabel.model.predict import segment
from doselabel.study import Study
from sample_data.phantom import generate

BEGIN, END = "<!-- tables: begin, written by `benchmarks/paper.py --write` -->", "<!-- tables: end -->"
SIDES = ("preset=expert1,labels=truth,name=Ex", "preset=ai,labels=ai,name=AI")
PAPER_AVERAGE = {"Mass": 7.5, "Mean dose": 6.7}


def draw(studies: Sequence[Study]) -> float:
    """Let the starter draw every CT of every patient; returns CPU-seconds per axial slice."""
    ready = checkpoints.load(checkpoints.starter_path())
    slices, spent = 0, 0.0
    for study in studies:
        for name in study.cts().values():
            path = study.folder / "labels" / "ai" / Path(name).name
            if path.is_file():
                continue
            ct = read_image(study.path(name))
            began = time.process_time()
            labels = segment(ct, ready).labels
            spent, slices = spent + time.process_time() - began, slices + len(ct.array)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_labels(path, labels)
    return spent / slices if slices else float("nan")


def true_doses(studies: Sequence[Study]) -> np.ndarray:
    """The phantoms' own mean kidney doses (organ, patient) in Gy, nan where there is no such kidney."""
    found = [json.loads((study.folder / "truth" / "truth.json").read_text("utf-8"))["organs"] for study in studies]
    return np.array([[organs.get(name, {}).get("mean_dose_gy", np.nan) for organs in found] for name in KIDNEYS])


def part(found: Comparison, by_default: Comparison, truth: np.ndarray, per_slice: float, words: str) -> str:
    """The text between the marks."""
    mass, dose = found.tables()[:2]
    off = {
        name: float(np.nanmean(np.abs(100 * (doses / truth - 1))))
        for name, doses in (
            ("Ex (true masks, Gaussian border)", found.values("mean_dose_gy")[0]),
            ("AI (the paper's 3 mm)", found.values("mean_dose_gy")[1]),
            ("AI (the default here: geometric transfer matrix)", by_default.values("mean_dose_gy")[1]),
        )
    }
    lines = [f"`python benchmarks/{words}`", ""]
    for table, name in ((mass, "Mass"), (dose, "Mean dose")):
        lines += [
            f"**{name}.** Mean of absolute differences: {table.rows[-1][-1]} %; in the paper, with its own 8 patients, "
            f"{PAPER_AVERAGE[name]} %.",
            "",
            *markdown(table),
            "",
        ]
    lines += [
        "Mean absolute error of the kidneys' doses against the phantoms' truth, which no patient's is known by:",
        "",
    ]
    lines += ["| | % |", "|---|---|", *(f"| {name} | {value:.1f} |" for name, value in off.items()), ""]
    if not np.isnan(per_slice):
        lines += [f"Segmentation took {per_slice:.3f} CPU-seconds per slice; in the paper 2.5 s on a core.", ""]
    return "\n".join(lines)


def markdown(table: Table) -> list[str]:
    """A table of the report in Markdown."""
    heads = [column.title.rpartition("-")[2] for column in table.columns]  # the patient's number, as in the paper
    rows = [[str(cell).replace("*", "\\*").replace("|", "\\|") for cell in row] for row in table.rows]
    return [f"| {' | '.join(row)} |" for row in (heads, ["---"] * len(heads), *rows)]


def main() -> None:
    """Make the patients, draw, compare; print, and write where asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patients", type=int, default=8)
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--work", type=Path, help="folder that keeps patients and masks (default: a temporary one)")
    parser.add_argument("--write", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        home = (args.work or Path(scratch)) / f"patients-{args.seed}-{args.patients}"
        if not home.is_dir():
            generate(home, patients=args.patients, seed=args.seed)
        studies = [Study.load(folder) for folder in Study.find(home)]
        per_slice = draw(studies)
        experts, ai = ([parse_side(text, "")] for text in SIDES)
        found = compare(studies, experts, ai)
        own = tuple(pipeline.run(study, "ai", DoseOptions(), cache=scratch) for study in studies)
        by_default = replace(found, results_b=own)
    text = part(
        found, by_default, true_doses(studies), per_slice, f"paper.py --patients {args.patients} --seed {args.seed}"
    )
    print(text)
    if args.write:
        page = args.write.read_text("utf-8")
        before, after = page.partition(BEGIN)[0], page.partition(END)[2]
        args.write.write_text(f"{before}{BEGIN}\n\n{text}\n{END}{after}", "utf-8")


if __name__ == "__main__":
    main()
