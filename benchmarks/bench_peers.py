"""The same map of time-integrated activity by our voxel S-values and by an open peer's: accuracy, closure, cost.

    python -m venv PEER && PEER/bin/pip install pytheranostics
    python benchmarks/bench_peers.py --pytheranostics PEER/bin/python

A kidney of 164 mL in 128³ voxels of 4.7952 mm, the only size that PyTheranostics 0.1 brings a kernel for, and a point
source. *Error* is that of the kidney's mean dose against the exact S-value of the ellipsoid to itself; *closure* the
energy that a point source leaves in the image over what it emits. Each runs in a process of its own; memory is that of
the whole process less the interpreter's with numpy and scipy. A peer that is not there is skipped with a word.
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

from doselabel.dosimetry.physics.kernels import Ellipsoid, self_s_value
from doselabel.nuclides import SECONDS_PER_HOUR, nuclide

VOXELS, SPACING_MM, DENSITY_G_CM3 = 128, 4.7952, 1.04
SEMI_MM = (52.0, 29.0, 26.0)
TIA_MBQ_H = 7000.0
KEV_J = 1.602176634e-16

AROUND = """
import json, resource, sys, time
import numpy as np
import scipy.fft, scipy.signal
{setup}
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
tia = np.load(sys.argv[1])
start = time.process_time()
{work}
cpu = time.process_time() - start
np.save(sys.argv[2], np.asarray(gy, np.float32))
print(json.dumps({{"cpu_s": cpu, "mib": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024}}))
"""
OURS = AROUND.format(
    setup="""
from doselabel.dosimetry.dose import engines
from doselabel.dosimetry.physics.kernels import voxel_s_kernel
kernel = voxel_s_kernel("Lu-177", 4.7952, density_g_cm3=1.04, extent_mm=128 * 4.7952)""",
    work="gy = engines.voxel_s(tia, 4.7952, kernel)",
)
PYTHERANOSTICS = AROUND.format(
    # Version 0.1 lacks a module that its own DoseVoxelKernel imports; its kernel, and what its tia_to_dose does:
    setup="""
import importlib.util, pathlib
folder = pathlib.Path(importlib.util.find_spec("doodle").submodule_search_locations[0]) / "kernels"
kernel = np.fromfile(folder / "DK_softtissueICRP_mGyperMBqs.img", "<f4").reshape((51,) * 3).astype(np.float64)""",
    work='gy = scipy.signal.fftconvolve(tia.astype(np.float64) * 3600, kernel, mode="same") / 1000',
)


def kidney() -> np.ndarray:
    """Voxels whose centre lies in the ellipsoid."""
    axes = [(np.arange(VOXELS) - (VOXELS - 1) / 2) * SPACING_MM / a for a in SEMI_MM]
    z, y, x = np.meshgrid(*(a**2 for a in axes), indexing="ij", sparse=True)
    return z + y + x <= 1


def measure(python: str, code: str, folder: Path) -> dict[str, float]:
    """Error, closure, CPU-seconds and memory of one program."""
    mask, point = kidney(), np.zeros((VOXELS,) * 3, np.float32)
    point[(VOXELS // 2,) * 3] = 1.0
    voxel_g = (SPACING_MM / 10) ** 3 * DENSITY_G_CM3
    found: dict[str, float] = {}
    for name, tia in (("kidney", mask * np.float32(TIA_MBQ_H / mask.sum())), ("point", point)):
        np.save(folder / "tia.npy", tia)
        done = subprocess.run(
            [python, "-c", code, str(folder / "tia.npy"), str(folder / "gy.npy")],
            env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, encoding="utf-8", check=False,
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError((done.stderr.strip().splitlines() or ["it ended without a word"])[-1])
        gy = np.load(folder / "gy.npy").astype(float)
        if name == "kidney":
            found = json.loads(done.stdout.strip().splitlines()[-1])
            size = (mask.sum() * SPACING_MM**3 / (4 / 3 * np.pi * np.prod(SEMI_MM))) ** (1 / 3)
            shape = Ellipsoid((size * SEMI_MM[0], size * SEMI_MM[1], size * SEMI_MM[2]))
            exact_mgy = self_s_value(shape, "Lu-177", density_g_cm3=DENSITY_G_CM3) * TIA_MBQ_H * SECONDS_PER_HOUR
            found["error"] = float(gy[mask].mean() / (exact_mgy / 1000) - 1)
        else:
            lu = nuclide("Lu-177")
            emitted_j = (lu.electron_kev + lu.photon_kev) * KEV_J * 1e6 * SECONDS_PER_HOUR
            found["closure"] = float(gy.sum() * voxel_g / 1000 / emitted_j)
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pytheranostics", metavar="PYTHON", help="interpreter of an environment that has it")
    args = parser.parse_args()
    print("| | error of the self-dose | closure | CPU s | MiB |\n|---|---:|---:|---:|---:|")
    programs = [("doselabel", sys.executable, OURS)]
    if args.pytheranostics:
        programs.append(("PyTheranostics", args.pytheranostics, PYTHERANOSTICS))
    else:
        print("PyTheranostics is skipped: say where it is (--pytheranostics PYTHON).", file=sys.stderr)
    for name, python, code in programs:
        with tempfile.TemporaryDirectory() as folder:
            try:
                found = measure(python, code, Path(folder))
            except (OSError, RuntimeError) as error:
                print(f"{name} is skipped: {error}", file=sys.stderr)
                continue
        print(
            f"| {name} | {100 * found['error']:+.1f} % | {100 * found['closure']:.1f} % | {found['cpu_s']:.2f} | "
            f"{found['mib']:.0f} |"
        )


if __name__ == "__main__":
    main()
