"""How a cohort grows: CPU-seconds per patient, memory per worker over the run, one worker and two.

``python benchmarks/bench_cohort.py --patients 200``: two sample patients under many names and injected activities,
their true masks as final ones, with ``--registration stored --no-report``. ``--compare`` of them by one worker, and by
two; then all by ``--workers``. Time on a machine that others use says little: read CPU-seconds, and the load beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import psutil

from doselabel.study import Study
from sample_data.phantom import generate


def cohort(made: list[Path], root: Path, count: int) -> Path:
    """So many patients that share the files of a few."""
    for number in range(count):
        study = Study.load(made[number % len(made)])
        source, folder = study.folder, root / f"P-{number:04d}"
        (folder / "labels" / "final").mkdir(parents=True)
        for name in dict.fromkeys(name for _, name in study.files()):
            os.link(source / name, folder / name)
        for mask in (source / "truth").glob("ct*.nii.gz"):
            os.link(mask, folder / "labels" / "final" / mask.name)
        changed = {"patient_id": folder.name, "injected_activity_mbq": 7000 + number}
        study.model_copy(update=changed).save(folder)
    return root


def measure(studies: Path, out: Path, workers: int) -> dict[str, float | list[float]]:
    """Run the command; sample the memory of its worker processes."""
    line = [sys.executable, "-m", "doselabel.cli", "batch", str(studies), "--out", str(out), "--no-report"]
    line += ["--registration", "stored", "--workers", str(workers)]
    began, peaks, loads = time.monotonic(), [], [os.getloadavg()[0]]
    process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None:
        try:
            sizes = [child.memory_info().rss for child in psutil.Process(process.pid).children(recursive=True)]
            peaks.append(max(sizes, default=0) / 2**20)
            loads.append(os.getloadavg()[0])
        except psutil.Error:
            pass
        time.sleep(1.0)
    assert process.returncode == 0, process.returncode
    records = [json.loads(path.read_text()) for path in sorted(out.glob("*/*.json"))]
    by_end = sorted(records, key=lambda record: record["began"])
    cpu = [record["cpu_seconds"] for record in by_end]
    half = len(peaks) // 2
    spans = [(record["began"], record["seconds"]) for record in by_end]
    return {
        "patients": len({path.parent for path in out.glob("*/dose.json")}),
        "workers": workers,
        "seconds": round(time.monotonic() - began, 1),
        "load_before_mean_max": [round(load, 1) for load in (loads[0], float(np.mean(loads)), max(loads))],
        "busy_seconds": round(sum(seconds for _, seconds in spans), 1),
        "cpu_seconds_per_patient": round(sum(cpu) / max(1, len({p.parent for p in out.glob("*/dose.json")})), 2),
        "cpu_seconds_first_and_last_fifth": [
            round(float(np.sum(part)) / max(1, len(part)) * 2, 2)
            for part in (cpu[: len(cpu) // 5], cpu[-len(cpu) // 5 :])
        ],
        "largest_worker_mib_first_and_second_half": [
            round(max(part, default=0)) for part in (peaks[:half], peaks[half:])
        ],
    }


def main() -> None:
    """Measure and print JSON lines."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--patients", type=int, default=200)
    parser.add_argument("--compare", type=int, default=16)
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    with TemporaryDirectory() as scratch:
        home = Path(scratch)
        made = generate(home / "made", patients=2, seed=5)
        few = cohort(made, home / "few", args.compare) if args.compare else None
        for workers in (1, 2) if few else ():
            print(json.dumps(measure(few, home / f"by-{workers}", workers)), flush=True)
        if args.patients:
            many = cohort(made, home / "many", args.patients)
            print(json.dumps(measure(many, home / "all", args.workers)), flush=True)


if __name__ == "__main__":
    main()
