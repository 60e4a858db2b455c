"""The recipe of the starter checkpoint: phantoms, painted anatomy and a few real CTs.

    doselabel sample PHANTOMS --patients 40 --seed 1000
    python benchmarks/train_starter.py PHANTOMS [--data ../shared/data] --steps 3000 --out starter.safetensors

Painted anatomy: CTs painted from TotalSegmentator's label maps (real shapes, random grey values), so that the network
meets more than two kinds of patients.

The starter of version 0.1.0 was not made by one such run but by three, about 35 CPU-minutes: 576 steps at 1e-3 without
phantoms and 771 steps at 1e-3 with them (both stopped early, averaged weights kept), then a whole cycle of 700 steps at
6e-4. Its phantoms (40 diagnostic, 80 low-dose CTs) came from an early state of ``sample_data``. Its card counts 1990
steps and names no predecessor; 2047 and the above are right.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from scipy import ndimage

sys.path.insert(0, str(Path(__file__).parent))
from real_ct import real_cases

from doselabel.geometry import Volume, canonical, read_image, resample, write_image
from doselabel.labels import LabelMap, write_labels
from doselabel.model.cases import TrainCase, cases_from
from doselabel.model.train import train

HELD_OUT = ("crlm_1006", "totalsegmentator_example")
"""Real cases that are never trained on, so that their Dice means something."""

ATTRIBUTION = [
    "Phantoms: doselabel sample_data (own).",
    "Anatomy painted from two label maps of the TotalSegmentator v2 data set, CC BY 4.0 (Wasserthal et al. 2023).",
    "CRLM-CT-1004: Colorectal-Liver-Metastases, TCIA, CC BY 4.0 (Simpson et al. 2023, doi 10.7937/QXK2-QG03); "
    "silver labels.",
    "177Lu patient voxel phantom: The Christie NHS FT, github BenAuer2021/Phantoms-For-Nuclear-Medicine-Imaging-"
    "Simulation, MIT.",
]

# Mean HU without contrast, and what full contrast adds.
GREY = {
    "liver": (55, 60), "spleen": (48, 80), "kidney": (32, 160), "aorta": (40, 180), "vena": (40, 120),
    "portal": (40, 120), "artery": (40, 160), "vein": (40, 120), "heart": (40, 120), "lung": (-830, 20),
    "vertebrae": (220, 0), "rib": (320, 0), "hip": (280, 0), "sacrum": (220, 0), "sternum": (250, 0),
    "costal": (120, 0), "spinal": (30, 0), "stomach": (20, 20), "bowel": (25, 40), "duodenum": (25, 40),
    "colon": (10, 20), "pancreas": (35, 60), "gallbladder": (10, 0), "cyst": (8, 0), "bladder": (8, 0),
    "adrenal": (25, 40), "esophagus": (30, 10), "trachea": (-950, 0), "autochthon": (52, 10),
    "iliopsoas": (52, 10), "gluteus": (48, 10),
}  # fmt: skip


def paint(labels: Volume, names: dict[int, str], rng: np.random.Generator) -> tuple[Volume, LabelMap]:
    """Paint a CT of random contrast, texture, noise and deformation from a label map of many structures."""
    spacing = (float(rng.uniform(2.5, 5.0)), *[float(rng.uniform(1.5, 3.0))] * 2)
    moved = _deformed(_narrowed(labels, names, rng), rng)
    kinds = resample(moved, moved.geometry.with_spacing(spacing), interpolation="nearest")
    array, geometry = kinds.array, kinds.geometry
    step = np.array(spacing)
    inside = _closed(array > 0, 40 / step)
    body = ndimage.distance_transform_edt(~inside, sampling=step) < rng.uniform(5, 30)

    def field(mm: float) -> np.ndarray:
        noise = ndimage.gaussian_filter(rng.standard_normal(array.shape), mm / step)
        return noise / noise.std()

    contrast = rng.uniform(0, 1.2) if rng.random() < 0.6 else 0.0
    hu = np.full(array.shape, -1000.0)
    hu[body] = -100 + 8 * field(6)[body]
    strands = inside & (field(5) > rng.uniform(0.3, 1.5))  # vessels, muscle between the ribs, mesentery
    hu[strands] = rng.uniform(0, 60)
    skin = body & ~ndimage.binary_erosion(body)
    hu[skin] = 20
    coarse, fine = field(15), field(3)
    for value in np.unique(array[array > 0]):
        name, mask = names[int(value)], array == value
        base, gain = next((v for key, v in GREY.items() if key in name), (40, 20))
        mean = base + contrast * gain * rng.uniform(0.6, 1.2) + rng.normal(0, 8)
        hu[mask] = mean + 4 * coarse[mask] + 3 * fine[mask]
        if name in ("colon", "stomach", "small_bowel"):
            gas = mask & (coarse > rng.uniform(0.5, 2.5))
            hu[gas] = -900
        if name == "liver":
            vessels = mask & (np.abs(field(7)) < 0.12)
            hu[vessels] += contrast * rng.uniform(0, 60)
            if rng.random() < 0.4:
                hu[mask & (field(12) > 2.2)] += rng.normal(-20, 30)
        if name.startswith("kidney") and contrast and rng.random() < 0.5:
            depth = ndimage.distance_transform_edt(mask, sampling=step)
            hu[mask & (depth > rng.uniform(5, 9))] -= rng.uniform(0, 80) * contrast
    hu = ndimage.gaussian_filter(hu, rng.uniform(0.4, 1.0) * 1.5 / step)
    hu += ndimage.gaussian_filter(rng.standard_normal(hu.shape), 0.6) * rng.uniform(5, 40) * 2
    organs = {2: "right_kidney", 3: "left_kidney", 5: "liver", 1: "spleen"}
    kept = np.where(np.isin(array, list(organs)), array, 0).astype(np.uint8)
    return Volume(hu.clip(-1024, 2000).astype(np.int16), geometry), LabelMap(kept, geometry, organs)


def _narrowed(labels: Volume, names: dict[int, str], rng: np.random.Generator) -> Volume:
    """Keep the trunk between some way above the liver and some way below the kidneys; leave out the arms."""
    wanted = np.isin(labels.array, [v for v, n in names.items() if n in ("liver", "kidney_left", "kidney_right")])
    heights = np.flatnonzero(wanted.any((1, 2)))
    above, below = (int(rng.uniform(10, 120) / labels.geometry.spacing_mm[0]) for _ in range(2))
    first, last = max(0, heights[0] - above), min(labels.array.shape[0], heights[-1] + below + 1)
    array = labels.array[first:last].copy()
    array[np.isin(array, [v for v, n in names.items() if n.startswith(("humerus", "scapula", "clav"))])] = 0
    image = labels.to_sitk()[:, :, first:last]
    return Volume(array, type(labels.geometry).from_sitk(image))


def _deformed(labels: Volume, rng: np.random.Generator) -> Volume:
    shape = labels.array.shape
    zoom = np.exp(rng.normal(0, 0.08, 3)) * np.exp(rng.normal(0, 0.08))
    points = np.meshgrid(*(np.arange(n, dtype=np.float32) for n in shape), indexing="ij", copy=False)
    moved = []
    for axis in range(3):
        bend = ndimage.zoom(rng.normal(0, 5.0, (6, 5, 5)).astype(np.float32), [n / m for n, m in zip(shape, (6, 5, 5), strict=True)],  # noqa: E501
                            order=3, grid_mode=True, mode="nearest")  # fmt: skip
        middle = (shape[axis] - 1) / 2
        moved.append((points[axis] - middle) * zoom[axis] + middle + bend[: shape[0], : shape[1], : shape[2]])
    return Volume(ndimage.map_coordinates(labels.array, moved, order=0), labels.geometry)


def _closed(mask: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """Fill what lies between the structures: closing by a ball, by distances."""
    padded = np.pad(mask, [(int(r) + 1,) * 2 for r in radius])
    mm = 40 / radius
    grown = ndimage.distance_transform_edt(~padded, sampling=mm) < 40
    closed = ndimage.distance_transform_edt(grown, sampling=mm) > 40
    return closed[tuple(slice(int(r) + 1, -int(r) - 1) for r in radius)] | mask


def painted_cases(data: Path, out: Path, per_body: int, seed: int) -> list[TrainCase]:
    """Paint some CTs of each body in ``totalseg_labelmaps`` into ``out``."""
    folder = data / "totalseg_labelmaps"
    names = {int(key): value for key, value in json.loads((folder / "labels.json").read_text()).items()}
    cases = []
    for body in sorted(folder.glob("*_117labels.nii.gz")):
        labels = canonical(read_image(body))
        stem = body.name.partition("_")[0]
        for number in range(per_body):
            ct, kept = paint(labels, names, np.random.default_rng([seed, number]))
            case = TrainCase(out / f"{stem}_{number}.nii.gz", out / f"{stem}_{number}_label.nii.gz", f"painted_{stem}")
            write_image(case.ct, ct)
            write_labels(case.labels, kept)
            cases.append(case)
    return cases


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("phantoms", type=Path)
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared" / "data")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--start", type=Path)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--rate", type=float)
    parser.add_argument("--painted", type=int, default=6, help="CTs painted per body")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    began = time.monotonic()

    def progress(stage: str, fraction: float) -> None:
        if fraction * options.steps % 100 < 1e-6 or stage != "training":
            print(f"{time.monotonic() - began:7.0f} s  {stage} {fraction:.3f}", flush=True)

    with tempfile.TemporaryDirectory() as folder:
        other = []
        if options.data.is_dir():
            real = [case for case in real_cases(options.data, Path(folder)) if case.patient not in HELD_OUT]
            other = real + painted_cases(options.data, Path(folder), options.painted, options.seed)
        else:
            print(f"{options.data} is absent: training on phantoms alone.")
        phantoms = cases_from(options.phantoms)
        result = train(
            other or phantoms,
            options.out,
            replay=phantoms if other else (),
            start=options.start,
            steps=options.steps,
            seed=options.seed,
            learning_rate=options.rate,
            card={"attribution": ATTRIBUTION if other else ATTRIBUTION[:1], "name": "starter"},
            progress=progress,
        )
    for row in result.history[:: max(1, len(result.history) // 40)]:
        print({key: round(value, 3) for key, value in row.items()})
    return 0


if __name__ == "__main__":
    sys.exit(main())
