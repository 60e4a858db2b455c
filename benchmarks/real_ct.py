"""Scores of a checkpoint on real CTs that it was not trained on, as they are, made low-dose, and made unenhanced.

    python benchmarks/real_ct.py [DATA] [--checkpoint FILE] [--looks native,low-dose,unenhanced] [--planes 3]

The patients are the validation patients of the starter's recipe; labels are an expert's, silver ones (BTCV: expert;
3D-IRCADb: liver expert), or a model's (totalsegmentator_example): see the model card. ``--all`` adds those trained on,
marked, which prove nothing. Says so when the folder is absent.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy import ndimage

from doselabel.geometry import Volume, write_image
from doselabel.labels import LabelMap, write_labels
from doselabel.model import checkpoint as checkpoints
from doselabel.model.cases import TrainCase, case_ct, case_labels
from doselabel.model.evaluate import OrganScore, evaluate, summarize
from doselabel.model.mix import read_mix
from doselabel.model.slices import PLANES

RECIPE = Path(checkpoints.__file__).parent / "recipes" / "starter.yaml"
NATIVE_HU = {"left_kidney": 32.0, "right_kidney": 32.0, "liver": 57.0, "spleen": 49.0}
"""Means without contrast medium."""


def low_dose(ct: Volume, labels: LabelMap, rng: np.random.Generator) -> Volume:
    """Blur to about 3 mm (FWHM) and add noise of 30 HU at a grain of 1.5 mm, as the CT of a SPECT/CT has it."""
    spacing = np.array(ct.geometry.spacing_mm)
    blur = np.array([0.0, 1.3, 1.3]) / spacing
    noise = ndimage.gaussian_filter(rng.standard_normal(ct.array.shape, dtype=np.float32), [0, *(0.75 / spacing[1:])])
    hu = ndimage.gaussian_filter(ct.array.astype(np.float32), blur) + 30.0 * noise / noise.std()
    return Volume(np.where(ct.array < -150, ct.array, hu).round().astype(np.int16), ct.geometry)


def unenhanced(ct: Volume, labels: LabelMap, rng: np.random.Generator) -> Volume:
    """Bring organs to their means without contrast medium, with a quarter of their texture, and dim all vessels."""
    hu = ct.array.astype(np.float32)
    soft = ndimage.gaussian_filter(np.clip(hu, -150, 250), 1.0 / np.array(ct.geometry.spacing_mm))
    dim = np.where((hu > 55) & (soft < 230), 55 + 0.2 * (hu - 55), hu)
    for name, native in NATIVE_HU.items():
        mask = labels.mask(name)
        if mask.any():
            weight = ndimage.gaussian_filter(mask.astype(np.float32), 0.7 / np.array(ct.geometry.spacing_mm))
            dim += weight * (native + 0.25 * (hu - hu[mask].mean()) - dim)
    dim += rng.normal(0, 8, hu.shape)
    return Volume(np.where(hu < -150, hu, dim).round().astype(np.int16), ct.geometry)


LOOKS: dict[str, Callable[[Volume, LabelMap, np.random.Generator], Volume] | None] = {
    "native": None,
    "low-dose": low_dose,
    "unenhanced": unenhanced,
}


def made(cases: Sequence[TrainCase], look: str, folder: Path) -> list[TrainCase]:
    """Write each case as it would look; labels stay."""
    change = LOOKS[look]
    if change is None:
        return list(cases)
    found = []
    for number, case in enumerate(cases):
        ct = case_ct(case)
        labels = case_labels(case, ct)
        path = folder / look / case.patient / "ct.nii"
        write_image(path, change(ct, labels, np.random.default_rng([7, number])))
        found.append(replace(case, ct=path))
    return found


def show(rows: Sequence[OrganScore], trained_on: set[str]) -> None:
    print(f"{'case':28} {'organ':13} {'Dice':>6} {'sDice2':>6} {'HD95 mm':>7} {'mL':>6} {'true mL':>7} {'error %':>7}")
    for row in rows:
        note = "  trained on" if row.patient in trained_on else ""
        print(
            f"{row.patient:28} {row.organ:13} {row.dice:6.3f} {row.surface_dice_2mm:6.3f} {row.hd95_mm:7.1f} "
            f"{row.volume_ml:6.0f} {row.true_volume_ml:7.0f} {row.volume_error_percent:+7.1f}{note}"
        )
    fresh = [row for row in rows if row.patient not in trained_on]
    for organ in dict.fromkeys(row.organ for row in fresh):
        own = [row for row in fresh if row.organ == organ]
        dice, volume, hd95 = (
            np.array([getattr(r, f) for r in own]) for f in ("dice", "volume_error_percent", "hd95_mm")
        )
        print(
            f"{'mean of ' + str(len(own)):28} {organ:13} {dice.mean():6.3f} {'':6} {np.nanmean(hd95):7.1f} {'':14} "
            f"{volume.mean():+7.1f}  least Dice {dice.min():.3f}"
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data", nargs="?", type=Path, default=Path(__file__).parents[2] / "shared" / "data")
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--looks", default="native", help="of native, low-dose, unenhanced, with commas")
    parser.add_argument("--planes", type=int, choices=(1, 3), default=1)
    parser.add_argument("--all", action="store_true", help="also the CTs that were trained on")
    parser.add_argument("--card", action="store_true", help="write what came out on native CTs into the model card")
    parser.add_argument("--save", type=Path, help="folder for the predicted label maps")
    options = parser.parse_args()
    if not (options.data / "real_ct").is_dir():
        print(f"{options.data} is absent or holds no real_ct: there are no real images here, nothing was measured.")
        return 0
    ready = checkpoints.load(options.checkpoint or checkpoints.starter_path())
    planes = tuple(PLANES) if options.planes == 3 else ("axial",)
    trained_on = set(ready.card.get("patients", ()))
    with tempfile.TemporaryDirectory() as folder:
        mix = read_mix(RECIPE, Path(folder), options.data, only=["real"])
        cases = [*mix.validation, *(mix.sources[0].cases if options.all else ())]
        for look in options.looks.split(","):
            print(f"\nmodel {ready.sha256[:12]}, {', '.join(planes)}; CT {look}")

            def save(case: TrainCase, found: LabelMap, truth: LabelMap, rows: list[OrganScore], look=look) -> None:
                if options.save:
                    write_labels(options.save / look / f"{case.patient}.nii.gz", found)

            rows = evaluate(ready, made(cases, look, Path(folder)), planes=planes, seen=save)
            show(rows, trained_on)
            if options.card and look == "native" and options.checkpoint:
                write_card(ready, options.checkpoint, [row for row in rows if row.patient not in trained_on])
    return 0


def write_card(ready: checkpoints.Checkpoint, path: Path, rows: Sequence[OrganScore]) -> None:
    """Say in the checkpoint itself how it scored."""
    kept = {"dice": 3, "surface_dice_2mm": 3, "hd95_mm": 1, "volume_error_percent": 1}
    scores = [
        {"patient": row.patient, "organ": row.organ, **{name: round(getattr(row, name), n) for name, n in kept.items()}}
        for row in rows
    ]
    checkpoints.save(path, ready.model, ready.profile, ready.card | {"scores": scores, "metrics": summarize(rows)})


if __name__ == "__main__":
    sys.exit(main())
