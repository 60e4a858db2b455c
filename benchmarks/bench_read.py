"""Reading a 512×512×400 CT through the door against plain SimpleITK, in one run.

    python benchmarks/bench_read.py [--repeats 5]

Prints CPU seconds (the least of the repeats) and their ratio for each kind of file. The CT is smooth tissue with noise
of its own in every slice, so that gzip has as much to do as with a real one and finds nothing again.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from doselabel.geometry import Geometry, Volume, read_image

SHAPE = (400, 512, 512)


def ct() -> Volume:
    rng = np.random.default_rng(0)
    array = np.empty(SHAPE, np.int16)
    y, x = np.mgrid[-1:1:512j, -1:1:512j]
    body = (x**2 + (1.4 * y) ** 2) < 0.7
    for z in range(len(array)):
        array[z] = np.where(body, 40, -1000) + rng.normal(0, 12, SHAPE[1:])
    return Volume(array, Geometry(SHAPE, (1.5, 0.8, 0.8)))


def seconds(work: Callable[[], object], repeats: int) -> float:
    best = float("inf")
    for _ in range(repeats):
        start = time.process_time()
        work()
        best = min(best, time.process_time() - start)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    image = ct().to_sitk()
    with tempfile.TemporaryDirectory() as folder:
        for suffix, packed in ((".nii.gz", True), (".nii", False), (".nrrd", True), (".nrrd", False), (".mha", True)):
            path = Path(folder) / f"ct_{packed}{suffix}"
            sitk.WriteImage(image, str(path), packed)
            plain = seconds(lambda path=path: sitk.GetArrayFromImage(sitk.ReadImage(str(path))), repeats)
            ours = seconds(lambda path=path: read_image(path), repeats)
            kind = f"{suffix} {'gzip' if packed else 'raw'}"
            print(f"{kind:<14} SimpleITK {plain:6.3f} s   read_image {ours:6.3f} s   ratio {ours / plain:5.2f}")
            path.unlink()


if __name__ == "__main__":
    main()
