"""What an edited mask costs: a full run beside a session's answer, whose numbers must be the same.

Run: ``python benchmarks/bench_edit.py``. It prints wall time, CPU-seconds and memory for four time points with SPECTs
of 128³ voxels (`bench_dose`), when one organ changes on one CT and on all of them. At most 2 s of wall time are
wanted on two idle cores, and no number that differs from the full run's.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from benchmarks.bench_dose import make
from doselabel.dosimetry import pipeline
from doselabel.dosimetry.options import DoseOptions
from doselabel.dosimetry.results import DoseComputation
from doselabel.dosimetry.session import Session
from doselabel.labels import LabelMap, read_labels, write_labels
from doselabel.study import Study

CTS = ("ct.nii.gz", *(f"ct_tp{i}.nii.gz" for i in (1, 2, 3, 4)))
OPTIONS = DoseOptions(registration="stored")


def edited(labels: LabelMap, steps: int) -> LabelMap:
    """The left kidney grown by some voxels, or shrunk below 0."""
    mask, value = labels.mask("left_kidney"), labels.value("left_kidney")
    if steps > 0:
        more = ndimage.binary_dilation(mask, iterations=steps) & (labels.array == 0)
        return LabelMap(np.where(more, value, labels.array).astype(np.uint8), labels.geometry, labels.names)
    less = mask & ~ndimage.binary_erosion(mask, iterations=-steps)
    return LabelMap(np.where(less, 0, labels.array).astype(np.uint8), labels.geometry, labels.names)


def timed(what: Callable[[], Any]) -> tuple[Any, float, float]:
    """What it returns, wall time and CPU-seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    done = what()
    return done, time.perf_counter() - wall, time.process_time() - cpu


def differences(a: DoseComputation, b: DoseComputation) -> int:
    """How many numbers of two computations differ: of the results, and of the dose map."""
    apart = {"provenance", "labels_origin", "reviewed"}
    one, other = a.results.model_dump(exclude=apart), b.results.model_dump(exclude=apart)
    return sum(one[key] != other[key] for key in one) + int(np.count_nonzero(a.dose.array != b.dose.array))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=2, help="threads of the session")
    args = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory() as name:
        study_dir = Path(name) / "study"
        study_dir.mkdir()
        make(study_dir, 128, (128, 256, 256), (4.0, 2.0, 2.0))
        truth = study_dir / "labels" / "bench"
        session = Session(study_dir, truth, OPTIONS, workers=args.workers)
        print(f"{'':<34}{'wall s':>8}{'CPU s':>8}{'GB':>7}{'differ':>8}")
        _, wall, cpu = timed(session.compute)
        row("session opened", wall, cpu, session.nbytes / 1e9)
        for what, names in (("one CT", CTS[3:4]), ("the diagnostic CT", CTS[:1]), ("all CTs", CTS)):
            for steps in (1, -1):
                drafts = {ct: edited(read_labels(truth / ct), steps) for ct in names}
                ours, wall, cpu = timed(partial(session.compute, drafts))
                folder = Path(name) / "drafts"
                shutil.copytree(truth, folder, dirs_exist_ok=True)
                for ct, labels in drafts.items():
                    write_labels(folder / ct, labels)
                study = Study.load(study_dir)
                theirs, full_wall, full_cpu = timed(partial(pipeline.compute, study, folder, OPTIONS))
                verb = "grown" if steps > 0 else "shrunk"
                row(f"{verb} on {what}", wall, cpu, session.nbytes / 1e9, differences(ours, theirs))
                row("    the same by a full run", full_wall, full_cpu)
                shutil.rmtree(folder)
        print(f"highest memory of the process {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB")


def row(what: str, wall_s: float, cpu_s: float, gb: float | None = None, differ: int | None = None) -> None:
    """One line of the table."""
    held = "" if gb is None else f"{gb:.2f}"
    print(f"{what:<34}{wall_s:>8.2f}{cpu_s:>8.2f}{held:>7}{'' if differ is None else differ:>8}", flush=True)


if __name__ == "__main__":
    main()
