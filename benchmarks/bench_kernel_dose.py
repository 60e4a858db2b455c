"""CPU-seconds and peak memory of a voxel kernel and one convolution, for the two SPECT sizes of the dose benchmark.

Run ``python benchmarks/bench_kernel_dose.py [--nuclide Lu-177]``. Each size runs in a process of its own, without a
cache, so that the peak is its own and the kernel is built.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time

SIZES = ((128, 4.42), (256, 2.21))


def measure(voxels: int, spacing_mm: float, nuclide: str) -> dict[str, float]:
    """Build the kernel, read it back from the cache, and convolve a random map; CPU-seconds, MiB and energy."""
    import numpy as np

    from doselabel.dosimetry.dose import engines
    from doselabel.dosimetry.physics.kernels import voxel_s_kernel

    def peak_mib() -> float:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    cpu = [time.process_time()]
    kernel = voxel_s_kernel(nuclide, spacing_mm, extent_mm=voxels * spacing_mm)
    cpu.append(time.process_time())
    built_mib = peak_mib()
    kernel = voxel_s_kernel(nuclide, spacing_mm, extent_mm=voxels * spacing_mm)
    cpu.append(time.process_time())
    tia_mbq_h = np.random.default_rng(0).random((voxels,) * 3, dtype=np.float32)
    start = time.process_time()
    engines.voxel_s(tia_mbq_h, spacing_mm, kernel)
    return {
        "build_s": cpu[1] - cpu[0],
        "cached_s": cpu[2] - cpu[1],
        "convolve_s": time.process_time() - start,
        "build_mib": built_mib,
        "peak_mib": peak_mib(),
    }


def main() -> None:
    """Print one row per image size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nuclide", default="Lu-177")
    parser.add_argument("--one", nargs=2, metavar=("VOXELS", "MM"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(int(args.one[0]), float(args.one[1]), args.nuclide)))
        return
    print(f"{args.nuclide}: CPU-seconds and MiB (the interpreter with numpy and scipy included)")
    print("| image | voxel mm | kernel built | from cache | convolution | MiB after build | peak MiB |")
    print("|---|---|---|---|---|---|---|")
    for voxels, spacing_mm in SIZES:
        with tempfile.TemporaryDirectory() as cache:
            command = [sys.executable, __file__, "--nuclide", args.nuclide, "--one", str(voxels), str(spacing_mm)]
            environment = os.environ | {"DOSELABEL_CACHE": cache, "OMP_NUM_THREADS": "1"}
            row = json.loads(subprocess.run(command, env=environment, check=True, capture_output=True).stdout)
        print(
            f"| {voxels}³ | {spacing_mm} | {row['build_s']:.2f} s | {row['cached_s']:.2f} s | "
            f"{row['convolve_s']:.2f} s | {row['build_mib']:.0f} | {row['peak_mib']:.0f} |"
        )


if __name__ == "__main__":
    main()
