"""Dice of a checkpoint on the real images of ../shared/data, case by case.

    python benchmarks/real_ct.py [DATA] [--checkpoint FILE] [--planes 3]

Most labels there are no expert's (see the table's last column), and the starter model has seen some of these cases:
such rows say "trained on" and prove nothing. Says so when the folder is absent.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from doselabel.geometry import read_image
from doselabel.labels import LabelMap, read_labels, write_labels
from doselabel.model import checkpoint as checkpoints
from doselabel.model.cases import TrainCase
from doselabel.model.evaluate import compare
from doselabel.model.predict import segment
from doselabel.model.slices import PLANES

NAMES = {1: "liver", 2: "right_kidney", 3: "left_kidney", 4: "spleen"}
CASES = {
    "crlm_1004": ("ct.nii.gz", "labels_SILVER.nii.gz", "silver"),
    "crlm_1006": ("ct.nii.gz", "labels_SILVER.nii.gz", "silver"),
    "lu177_patient_voxel_phantom": ("ct_hu.nii.gz", "labels.nii.gz", "clinical"),
    "totalsegmentator_example": ("example_ct.nii.gz", "labels_unified.nii.gz", "model output"),
    "tcga_ov_09_2043": ("ct.nii.gz", None, "none"),
}


def real_cases(data: Path, out: Path) -> list[TrainCase]:
    """Write the labelled real cases below ``out`` with label maps that carry our names."""
    cases = []
    for name, (ct, labels, _) in CASES.items():
        if labels is None or not (data / name / ct).is_file():
            continue
        volume = read_image(data / name / labels)
        array = volume.array.copy()
        array[array > max(NAMES)] = 0  # tumours
        path = write_labels(out / f"{name}_labels.nii.gz", LabelMap(array, volume.geometry, NAMES))
        cases.append(TrainCase(data / name / ct, path, name))
    return cases


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data", nargs="?", type=Path, default=Path(__file__).parents[2] / "shared" / "data")
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--planes", type=int, choices=(1, 3), default=1)
    parser.add_argument("--save", type=Path, help="folder for the predicted label maps")
    options = parser.parse_args()
    if not options.data.is_dir():
        print(f"{options.data} is absent: there are no real images here, nothing was measured.")
        return 0
    ready = checkpoints.load(options.checkpoint or checkpoints.starter_path())
    planes = tuple(PLANES) if options.planes == 3 else ("axial",)
    trained_on = set(ready.card.get("patients", ()))
    print(f"model {ready.sha256[:12]}, planes {', '.join(planes)}")
    print(f"{'case':28} {'organ':13} {'Dice':>6} {'sDice2':>6} {'HD95':>6} {'mL':>6} {'label mL':>8}  labels")
    with tempfile.TemporaryDirectory() as folder:
        labelled = {case.patient: case for case in real_cases(options.data, Path(folder))}
        for name, (ct, _, origin) in CASES.items():
            path = options.data / name / ct
            if not path.is_file():
                print(f"{name:28} absent")
                continue
            result = segment(read_image(path), ready, planes=planes)
            if options.save:
                write_labels(options.save / f"{name}.nii.gz", result.labels)
            note = origin + (", trained on" if name in trained_on else "")
            if name in labelled:
                truth = read_labels(labelled[name].labels)
                for row in compare(result.labels, truth, ready.profile.organs):
                    print(
                        f"{name:28} {row.organ:13} {row.dice:6.3f} {row.surface_dice_2mm:6.3f} {row.hd95_mm:6.1f} "
                        f"{row.volume_ml:6.0f} {row.true_volume_ml:8.0f}  {note}"
                    )
            else:
                for organ, found in result.summary.organs.items():
                    print(f"{name:28} {organ:13} {'':6} {'':6} {'':6} {found.volume_ml:6.0f} {'':8}  {note}")
            print(f"{'':28} {result.summary.seconds:.1f} s; {'; '.join(result.summary.flags) or 'no flags'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
