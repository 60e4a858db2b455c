"""CTs painted from label maps of many structures: real shapes, random contrast, texture and artefacts.

They show the network what few labelled CTs show: bowel filled with contrast medium, enhanced heart and spleen beside
an organ, lesions, no contrast medium at all, breathing, a table and arms. Knows anatomy's names and HU; no network.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from scipy import ndimage

from doselabel.errors import ModelError, Progress, no_progress
from doselabel.geometry import Volume, away_mm, canonical, read_image, resample, write_image
from doselabel.labels import LabelMap, write_labels
from doselabel.model.cases import TrainCase

ORGANS = {"kidney_right": "right_kidney", "kidney_left": "left_kidney", "liver": "liver", "spleen": "spleen"}
"""TotalSegmentator's name → ours, of what is taught."""

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
    slices_mm, pixel_mm = float(rng.uniform(2.5, 5.0)), float(rng.uniform(1.5, 3.0))
    spacing = (slices_mm, pixel_mm, pixel_mm)
    moved = _deformed(_narrowed(labels, names, rng), rng)
    kinds = resample(moved, moved.geometry.with_spacing(spacing), interpolation="nearest")
    array, geometry = kinds.array, kinds.geometry
    step = np.array(spacing)
    inside = _closed(array > 0, 40 / step)
    body = away_mm(inside, step) < rng.uniform(5, 30)

    def field(mm: float) -> np.ndarray:
        noise = ndimage.gaussian_filter(rng.standard_normal(array.shape), mm / step)
        return noise / noise.std()

    contrast = rng.uniform(0.3, 1.2) if rng.random() < 0.6 else 0.0
    oral = rng.uniform(120, 450) if rng.random() < 0.5 else None
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
        if name in ("colon", "stomach", "small_bowel", "duodenum"):
            if oral is not None and rng.random() < 0.7:
                filled = mask & (coarse < rng.uniform(-0.5, 1.5))
                hu[filled] = oral * rng.uniform(0.5, 1.0) + 20 * fine[filled]
            hu[mask & (coarse > rng.uniform(0.8, 2.5))] = -900
        if name == "liver":
            vessels = mask & (np.abs(field(7)) < 0.12)
            hu[vessels] += contrast * rng.uniform(0, 60)
        if name in ("liver", "spleen", "kidney_left", "kidney_right") and rng.random() < 0.4:
            lesion = mask & (field(float(rng.uniform(5, 14))) > 2.0)
            hu[lesion] = np.maximum(hu[lesion] + rng.normal(-45, 35), -80)
        if name.startswith("kidney") and contrast and rng.random() < 0.5:
            depth = ndimage.distance_transform_edt(mask, sampling=step)
            hu[mask & (depth > rng.uniform(5, 9))] -= rng.uniform(0, 80) * contrast
    _furnish(hu, body, step, rng)
    if rng.random() < 0.3:
        hu = _breathing(hu, rng)
    hu = ndimage.gaussian_filter(hu, rng.uniform(0.4, 1.0) * 1.5 / step)
    hu += ndimage.gaussian_filter(rng.standard_normal(hu.shape), 0.6) * rng.uniform(5, 40) * 2
    organs = {value: ORGANS[name] for value, name in names.items() if name in ORGANS}
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
    # A cubic spline through a few values per axis is a product of three small matrices.
    splines = [
        ndimage.zoom(np.eye(m), (n / m, 1), order=3, grid_mode=True, mode="nearest")
        for n, m in zip(shape, (6, 5, 5), strict=True)
    ]
    moved = []
    for axis in range(3):
        bend = np.einsum("zi,yj,xk,ijk->zyx", *splines, rng.normal(0, 5.0, (6, 5, 5)), optimize=True)
        middle = (shape[axis] - 1) / 2
        moved.append((points[axis] - middle) * zoom[axis] + middle + bend.astype(np.float32))
    return Volume(ndimage.map_coordinates(labels.array, moved, order=0), labels.geometry)


def _closed(mask: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """Fill what lies between the structures: closing by a ball, by distances."""
    padded = np.pad(mask, [(int(r) + 1,) * 2 for r in radius])
    mm = 40 / radius
    grown = away_mm(padded, mm) < 40
    closed = away_mm(~grown, mm) > 40
    return closed[tuple(slice(int(r) + 1, -int(r) - 1) for r in radius)] | mask


def _furnish(hu: np.ndarray, body: np.ndarray, step: np.ndarray, rng: np.random.Generator) -> None:
    """Put a table under the body, and sometimes an arm beside it, where there is room."""
    columns, rows = np.flatnonzero(body.any((0, 1))), np.flatnonzero(body.any((0, 2)))
    if not columns.size:
        return
    below = rows[-1] + int(rng.uniform(2, 15) / step[1])
    if below < hu.shape[1]:
        hu[:, below : below + max(1, int(6 / step[1]))] = rng.uniform(-700, 300)
    if rng.random() < 0.3:
        radius = rng.uniform(30, 45)
        y = (np.arange(hu.shape[1]) - rng.uniform(rows[0], rows[-1])) * step[1]
        side = columns[0] if rng.random() < 0.5 else columns[-1]
        x = (np.arange(hu.shape[2]) - side) * step[2]
        distance = np.hypot(y[:, None], x[None])
        arm = (distance < radius) & ~body
        hu[arm] = 50
        hu[(distance < 0.3 * radius) & ~body] = 500


def _breathing(hu: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Shift runs of slices against each other, as breathing between them does."""
    moved, at = hu.copy(), 0
    while at < len(hu):
        length = int(rng.integers(4, 20))
        dy, dx = (int(v) for v in rng.integers(-2, 3, 2))
        moved[at : at + length] = np.roll(hu[at : at + length], (dy, dx), (1, 2))
        at += length
    return moved


def painted_cases(maps: Path, out: Path, per_body: int, seed: int, progress: Progress = no_progress) -> list[TrainCase]:
    """Paint CTs of each body in ``maps`` into ``out``; what is there already stays.

    Parameters
    ----------
    maps : Path
        Folder of label maps ``<body>_…labels.nii.gz`` with ``labels.json``: value → TotalSegmentator's name.
    out : Path
    per_body, seed : int
    progress : Progress

    Raises
    ------
    ModelError
        When there are none.
    """
    found = sorted(Path(maps).glob("*labels.nii.gz"))
    if not found or not (Path(maps) / "labels.json").is_file():
        raise ModelError(
            f"{maps}: has no label maps to paint CTs from.", "Expected *labels.nii.gz and labels.json (value → name)."
        )
    names = {int(key): value for key, value in json.loads((Path(maps) / "labels.json").read_text("utf-8")).items()}
    cases: list[TrainCase] = []
    for body in found:
        stem, labels = body.name.partition("_")[0], None
        for number in range(per_body):
            progress("painting", len(cases) / (per_body * len(found)))
            ct = Path(out) / f"{stem}_{seed}_{number}.nii.gz"
            case = TrainCase(ct, ct.with_name(f"{stem}_{seed}_{number}_label.nii.gz"), f"painted_{stem}", unlabelled=())
            if not (case.ct.is_file() and case.labels.is_file()):
                labels = labels or canonical(read_image(body))
                image, kept = paint(labels, names, np.random.default_rng([seed, number]))
                write_image(case.ct, image)
                write_labels(case.labels, kept)
            cases.append(case)
    return cases
