"""Dose of a real 177Lu patient's images, with expert masks and with the model's own: what differs, and by how much.

    python benchmarks/real_dose.py ../shared/data [OUT]

The folder is not part of the project; without it this says so and ends. The images are one time point whose time is
not published: 24 h after injection of 7400 MBq is assumed, so doses compare masks and are nobody's. The activity map
has no resolution of its own, so no partial-volume correction is made.
"""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from doselabel.dosimetry.options import DoseOptions
from doselabel.dosimetry.pipeline import run
from doselabel.geometry import read_image, write_image
from doselabel.labels import LabelMap, organ, title, write_labels
from doselabel.model.checkpoint import starter_path
from doselabel.model.evaluate import dice
from doselabel.model.predict import segment
from doselabel.study import Study, TimePoint

THEIRS = {1: "liver", 2: "right_kidney", 3: "left_kidney", 4: "spleen", 5: "tumour", 6: "tumour", 7: "tumour"}


def main() -> int:
    """Make a study of the images, compute both doses, print them side by side."""
    data = Path(sys.argv[1] if len(sys.argv) > 1 else "../shared/data") / "lu177_patient_voxel_phantom"
    if not data.is_dir():
        print(f"skipped: {data} is not here; the real images are kept beside the project, not in it")
        return 0
    with TemporaryDirectory() as scratch:
        out = Path(sys.argv[2]) if len(sys.argv) > 2 else Path(scratch)
        study, overlap = make_study(data, out / "study")
        # One point needs a half-life; the images state none, so this one is assumed, like the time.
        options = DoseOptions(
            voi="margin", margin_mm=0.0, tac="hanscheid", registration="identity", population_half_life_h=30.0
        )
        organs = {}
        for side in ("expert", "model"):
            results = run(study, study.folder / side, options, out=out / side)
            organs[side] = results.organs
    print(f"{'organ':<14}{'expert mL':>11}{'model mL':>10}{'Dice':>7}{'expert Gy':>11}{'model Gy':>10}{'diff %':>8}")
    for name, row in organs["expert"].items():
        if name not in organs["model"]:
            print(f"{title(name):<14}{row.volume_ml:>11.0f}{'–':>10}{'–':>7}{row.mean_dose_gy:>11.2f}{'–':>10}{'–':>8}")
            continue
        other = organs["model"][name]
        percent = 100 * (other.mean_dose_gy / row.mean_dose_gy - 1)
        print(
            f"{title(name):<14}{row.volume_ml:>11.0f}{other.volume_ml:>10.0f}{overlap[name]:>7.3f}"
            f"{row.mean_dose_gy:>11.2f}{other.mean_dose_gy:>10.2f}{percent:>+8.1f}"
        )
    return 0


def make_study(data: Path, folder: Path) -> tuple[Study, dict[str, float]]:
    """Write the images as a study, the label maps in folders `expert` and `model`; also give their Dice by organ."""
    ct, spect = read_image(data / "ct_hu.nii.gz"), read_image(data / "activity_bq_per_ml.nii.gz")
    write_image(folder / "ct.nii.gz", ct)
    write_image(folder / "spect_tp1.nii.gz", spect)
    theirs = read_image(data / "labels.nii.gz")
    lut = np.zeros(256, np.uint8)
    for value, name in THEIRS.items():
        lut[value] = organ(name).index
    expert = LabelMap(lut[theirs.array.astype(np.uint8)], ct.geometry)
    write_labels(folder / "expert" / "ct.nii.gz", expert)
    model = segment(ct, starter_path()).labels
    write_labels(folder / "model" / "ct.nii.gz", model)
    overlap = {name: dice(expert.mask(name), model.mask(name)) for name in model.present()}
    point = TimePoint(time_h=24.0, ct="ct.nii.gz", spect="spect_tp1.nii.gz")
    study = Study(
        patient_id="real-lu177", nuclide="Lu-177", injected_activity_mbq=7400, ct="ct.nii.gz", time_points=[point]
    )
    study.save(folder)
    return Study.load(folder), overlap


if __name__ == "__main__":
    sys.exit(main())
