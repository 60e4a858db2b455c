"""What the SPECT as an extra channel is worth (the outlook of Nazari et al. 2021), on phantoms' low-dose CTs.

    python benchmarks/bench_spect.py [--phantoms DIR] [--start FILE] [--steps 300] [--work DIR]

Trains `fast` and `fast-spect` alike, from the same checkpoint, on the SPECT/CTs of some sample patients, and tests on
others: without a SPECT, with it, and with it moved by 10 mm (4 mm left, 6 mm back, 7 mm up). Both learn from the same
slices; what differs is the channel.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from doselabel.geometry import Volume, read_image, write_image
from doselabel.model.cases import TrainCase
from doselabel.model.checkpoint import read_card, starter_path
from doselabel.model.datasets import cases_from
from doselabel.model.evaluate import evaluate, summarize
from doselabel.model.train import train
from sample_data.phantom import generate

MOVED_MM = (4.0, 6.0, 7.0)
TESTED_POINTS = ("ct_tp1", "ct_tp3")
"""Of each test patient: soon after the injection, when blood and bowel are bright too, and a day later."""


def moved(case: TrainCase, out: Path) -> TrainCase:
    """The same case with its SPECT elsewhere."""
    assert case.spect is not None
    spect = read_image(case.spect)
    origin = np.add(spect.geometry.origin_mm, MOVED_MM)
    grid = dataclasses.replace(spect.geometry, origin_mm=tuple(float(v) for v in origin))
    path = write_image(out / f"{case.patient}_{case.spect.name}", Volume(spect.array, grid))
    return dataclasses.replace(case, spect=Path(path))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--phantoms", type=Path, help="sample patients, the last quarter is tested; default: makes 8")
    parser.add_argument("--start", type=Path, help="default: the starter model")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--most", type=int, default=4, help="test patients at most")
    parser.add_argument("--work", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        work = options.work or Path(folder)
        phantoms = options.phantoms or work / "phantoms"
        if not phantoms.is_dir():
            generate(phantoms, patients=8, seed=31)
        run(phantoms, options.start or starter_path(), options.steps, options.most, work)
    return 0


def run(phantoms: Path, start: Path, steps: int, most: int, work: Path) -> None:
    cases = [case for case in cases_from(phantoms, "sample") if case.spect is not None]
    patients = sorted({case.patient for case in cases})
    tested = set(patients[-max(1, len(patients) // 4) :][:most])
    trained = [case for case in cases if case.patient not in patients[-max(1, len(patients) // 4) :]]
    judged = [c for c in cases if c.patient in tested and c.ct.name.startswith(TESTED_POINTS)]
    off = [moved(case, work / "moved") for case in judged]
    profile = read_card(start)[0]
    models = {}
    for name, own in (("fast", profile), ("fast-spect", dataclasses.replace(profile, name="fast-spect", spect=True))):
        began = time.process_time()
        # The same seed draws the same slices, varied alike, for both.
        result = train(trained, work / name, profile=own, start=start, steps=steps, learning_rate=3e-4, seed=3)
        models[name] = result.checkpoint
        print(f"{name}: {steps} steps on {len(trained)} SPECT/CTs, {time.process_time() - began:.0f} CPU-s", flush=True)
    without = [dataclasses.replace(case, spect=None) for case in judged]
    rows = {
        "fast": evaluate(models["fast"], judged),
        "fast-spect, no SPECT": evaluate(models["fast-spect"], without),
        "fast-spect": evaluate(models["fast-spect"], judged),
        "fast-spect, SPECT 10 mm off": evaluate(models["fast-spect"], off),
    }
    print(f"Dice (lowest; volume error %) on {len(judged)} low-dose CTs of {len(tested)} patients")
    organs = list(summarize(rows["fast"]))
    print(f"{'':30}" + "".join(f"{organ:>26}" for organ in organs))
    for name, found in rows.items():
        means = summarize(found)
        of = [means[organ] for organ in organs]
        cells = [f"{m['dice']:.3f} ({m['dice_min']:.2f}; {m['volume_error_percent']:+.1f})" for m in of]
        print(f"{name:30}" + "".join(f"{cell:>26}" for cell in cells))


if __name__ == "__main__":
    raise SystemExit(main())
