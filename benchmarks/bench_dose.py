"""What the dose chain costs: CPU-seconds and memory, without registration, cold kernel cache.

Run: ``python benchmarks/bench_dose.py``. It prints, for four time points and three organs, a SPECT of 128³ voxels of
4.42 mm (at most 10 CPU-seconds and 2 GB wanted) and one of 256³ voxels of 2.21 mm (45 CPU-seconds, 8 GB), and
registration per time point (30 CPU-seconds).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from scipy import ndimage

from doselabel.geometry import Geometry, Volume, write_image
from doselabel.labels import LabelMap, write_labels
from doselabel.study import Study

TIME_H = (0.5, 6.0, 24.0, 72.0)
ORGANS = {  # value: centre and semi-axes (z, y, x) mm, MBq/mL at its highest
    1: ((0, 30, 72), (52, 29, 26), 0.8),
    2: ((-6, 32, -72), (50, 28, 26), 0.7),
    3: ((60, -45, -60), (55, 50, 70), 0.15),
}
RUN = """
import json, resource, sys, time
from doselabel.dosimetry import pipeline
from doselabel.dosimetry.alignment import ct_registration, registration
from doselabel.dosimetry.options import DoseOptions
from doselabel.geometry import read_image
from doselabel.labels import read_labels
from doselabel.study import Study
folder, what, voi = sys.argv[1:4]
study = Study.load(folder)
start, stages, last = time.process_time(), {}, [time.process_time(), "reading"]
def progress(stage, fraction):
    now = time.process_time()
    name = stage.split(": ")[-1]
    stages[last[1]] = round(stages.get(last[1], 0) + now - last[0], 2)
    last[:] = [now, name]
if what == "chain":
    pipeline.run(study, study.folder / "labels" / "bench", DoseOptions(registration="stored", voi=voi),
                 out=study.folder / "out", progress=progress)
elif what == "organ":
    registration.refine(read_image(study.path("spect_tp1.nii.gz")),
                        read_labels(study.folder / "labels" / "bench" / "ct_tp1.nii.gz"), psf_fwhm_mm=study.psf_fwhm_mm)
else:
    ct_registration.register_cts(read_image(study.path("ct_tp1.nii.gz")), read_image(study.path("ct.nii.gz")))
print(json.dumps({"cpu_s": time.process_time() - start,
                  "gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, "stages": stages}))
"""


def make(folder: Path, voxels: int, ct_shape: tuple[int, int, int], ct_mm: tuple[float, float, float]) -> None:
    """Write a study of ellipsoids: SPECTs of ``voxels``³ over 566 mm, CTs with their true masks."""
    size = 565.76 / voxels
    spect, ct = centred((voxels,) * 3, (size,) * 3), centred(ct_shape, ct_mm)
    rng = np.random.default_rng(0)
    hu = np.where(inside(ct, (0, 0, 0), (1e4, 110, 170)), 40, -1000).astype(np.int16)
    labels = np.zeros(ct.shape, np.uint8)
    uptake = np.where(inside(spect, (0, 0, 0), (1e4, 110, 170)), 5e3, 0).astype(np.float32)
    for value, (centre, semi, mbq_ml) in ORGANS.items():
        mask = inside(ct, centre, semi)
        labels[mask], hu[mask] = value, 120
        uptake[inside(spect, centre, semi)] = mbq_ml * 1e6
    hu += rng.integers(-12, 12, hu.shape, dtype=np.int16)
    uptake = ndimage.gaussian_filter(uptake, 5.1 / size)
    points = []
    for name in ("ct", *(f"ct_tp{i}" for i in (1, 2, 3, 4))):
        write_image(folder / f"{name}.nii.gz", Volume(hu, ct))
        write_labels(folder / "labels" / "bench" / f"{name}.nii.gz", LabelMap(labels, ct))
    for i, time in enumerate(TIME_H, start=1):
        seen = rng.poisson(uptake * (np.exp(-time / 72) - np.exp(-time * 0.7)) / 100) * 100
        write_image(folder / f"spect_tp{i}.nii.gz", Volume(seen.astype(np.float32), spect))
        points.append({"time_h": time, "ct": f"ct_tp{i}.nii.gz", "spect": f"spect_tp{i}.nii.gz"})
    Study.model_validate(
        {
            "schema": "doselabel.study/1",
            "patient_id": "bench",
            "nuclide": "Lu-177",
            "injected_activity_mbq": 7400,
            "ct": "ct.nii.gz",
            "time_points": points,
            "psf_fwhm_mm": (12, 12, 12),
        }
    ).save(folder)


def centred(shape: tuple[int, ...], spacing_mm: tuple[float, ...]) -> Geometry:
    """A grid whose middle is the origin of patient space."""
    z, y, x = (-(n - 1) * s / 2 for n, s in zip(shape, spacing_mm, strict=True))
    return Geometry(shape, spacing_mm, (x, y, z))  # type: ignore[arg-type]


def inside(grid: Geometry, centre_mm: tuple[float, ...], semi_mm: tuple[float, ...]) -> np.ndarray:
    """Voxels (z, y, x) whose centre lies in an ellipsoid."""
    axes = [
        ((np.arange(n) - (n - 1) / 2) * s - c) / a
        for n, s, c, a in zip(grid.shape, grid.spacing_mm, centre_mm, semi_mm, strict=True)
    ]
    z, y, x = np.meshgrid(*(a**2 for a in axes), indexing="ij", sparse=True)
    return z + y + x <= 1


def measure(folder: Path, what: str, voi: str = "gtm") -> dict:
    """Run one case in a process of its own, with an empty kernel cache."""
    with tempfile.TemporaryDirectory() as cache:
        done = subprocess.run(
            [sys.executable, "-c", RUN, str(folder), what, voi],
            env={**os.environ, "DOSELABEL_CACHE": cache},
            capture_output=True,
            text=True,
            encoding="utf-8",
            check=False,
        )
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.strip().splitlines()[-1])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--skip-large", action="store_true", help="leave out the 256³ case")
    parser.add_argument("--stages", action="store_true", help="show where the time goes")
    args = parser.parse_args()
    cases = [(128, (128, 256, 256), (4.0, 2.0, 2.0), 10, 2)]
    if not args.skip_large:
        cases.append((256, (200, 512, 512), (2.5, 0.977, 0.977), 45, 8))
    print(f"{'case':<34}{'CPU s':>8}{'limit':>7}{'GB':>7}{'limit':>7}")
    for voxels, ct_shape, ct_mm, cpu_limit, gb_limit in cases:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            make(folder, voxels, ct_shape, ct_mm)
            rows = [(f"chain, SPECT {voxels}³, {voi}", measure(folder, "chain", voi), cpu_limit, gb_limit)
                    for voi in ("gtm", "margin")]  # fmt: skip
            rows.append((f"SPECT {voxels}³ to masks", measure(folder, "organ"), 30, gb_limit))
            rows.append((f"CT {'×'.join(map(str, ct_shape))} to CT", measure(folder, "cts"), 30, gb_limit))
        for label, found, cpu, gb in rows:
            print(f"{label:<34}{found['cpu_s']:>8.1f}{cpu:>7}{found['gb']:>7.2f}{gb:>7}", flush=True)
            if args.stages:
                print("   ", ", ".join(f"{k} {v:g}" for k, v in found["stages"].items() if v >= 0.05))


if __name__ == "__main__":
    main()
