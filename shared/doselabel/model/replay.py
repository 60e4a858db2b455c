"""Cases that keep alive what a model knows while it learns corrections: phantoms, and CTs painted from their anatomy.

They are made once, in seconds, and show nobody. Knows what they are made of; trains and judges nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from doselabel.errors import Progress, no_progress
from doselabel.geometry import Volume, canonical, write_image
from doselabel.labels import NAMES, LabelMap, write_labels
from doselabel.model.cases import TrainCase
from doselabel.model.paint import paint

KINDS = ("diagnostic", "low_dose", "painted")
TRAINED, JUDGED = 9, 3
"""Patients that are replayed, and others on which is looked whether anything was lost; all kinds in turn."""
SEED = 20_000

_PAINTED: Mapping[str, tuple[int, str]] = {
    "SPLEEN": (1, "spleen"), "RIGHT_CORTEX": (2, "kidney_right"), "RIGHT_MEDULLA": (2, "kidney_right"),
    "RIGHT_CYST": (2, "kidney_right"), "LEFT_CORTEX": (3, "kidney_left"), "LEFT_MEDULLA": (3, "kidney_left"),
    "LEFT_CYST": (3, "kidney_left"), "LIVER": (5, "liver"), "LIVER_VESSEL": (5, "liver"), "LIVER_LESION": (5, "liver"),
    "GALLBLADDER": (4, "gallbladder"), "STOMACH_CONTENT": (6, "stomach"), "PANCREAS": (7, "pancreas"),
    "LUNG": (10, "lung"), "BOWEL_WALL": (20, "colon"), "BOWEL_CONTENT": (20, "colon"), "GAS": (20, "colon"),
    "LEFT_PELVIS": (23, "cyst"), "RIGHT_PELVIS": (23, "cyst"), "CORTICAL_BONE": (30, "vertebrae"),
    "SPONGIOSA": (30, "vertebrae"), "DISC": (30, "vertebrae"), "CORD": (79, "spinal"), "HEART": (51, "heart"),
    "AORTA": (52, "aorta"), "CAVA": (63, "vena_cava"), "RENAL_ARTERY": (65, "artery"), "RENAL_VEIN": (66, "vein"),
    "MUSCLE": (86, "autochthon"),
}  # fmt: skip
"""Tissue of a phantom → value and name as `paint` takes them."""


def replay_cases(out: Path, progress: Progress = no_progress) -> list[TrainCase]:
    """Make the cases that are replayed below ``out``; what is there already stays."""
    return _cases(out, range(TRAINED), progress)


def judging_cases(out: Path, progress: Progress = no_progress) -> list[TrainCase]:
    """Make those that judge, of other patients, below ``out``; what is there already stays."""
    return _cases(out, range(TRAINED, TRAINED + JUDGED), progress)


def parted(cases: Sequence[TrainCase]) -> tuple[list[TrainCase], list[TrainCase]]:
    """Part given replay cases alike: of four patients three are replayed, one judges; always the same ones."""
    patients = sorted({case.patient for case in cases})
    judges = set(patients[3::4])
    return [c for c in cases if c.patient not in judges], [c for c in cases if c.patient in judges]


def _cases(out: Path, numbers: range, progress: Progress) -> list[TrainCase]:
    cases = []
    for done, number in enumerate(numbers):
        progress("replay set", done / len(numbers))
        cases.append(_case(Path(out), number))
    return cases


def _case(out: Path, number: int) -> TrainCase:
    kind = KINDS[number % len(KINDS)]
    ct = out / f"replay_{number:02d}_{kind}.nii.gz"
    case = TrainCase(
        ct, ct.with_name(f"replay_{number:02d}_{kind}_label.nii.gz"), f"replay_{number:02d}", unlabelled=()
    )
    if not (case.ct.is_file() and case.labels.is_file()):
        image, drawn = made(kind, number)
        write_image(case.ct, image)
        write_labels(case.labels, drawn)
    return case


def made(kind: str, number: int) -> tuple[Volume, LabelMap]:
    """A CT of one of the `KINDS` and its label map; the same for the same number."""
    from sample_data.anatomy import Anatomy
    from sample_data.ct import DIAGNOSTIC, LOW_DOSE, PHASES, axes_of, hounsfield, take
    from sample_data.plan import VARIANTS, Plan
    from sample_data.tissues import Tissue, labels_of

    rng = np.random.default_rng([SEED, number])
    anatomy = Anatomy(Plan.draw(rng, VARIANTS[number // len(KINDS) % len(VARIANTS)]))
    protocol = LOW_DOSE if kind == "low_dose" else DIAGNOSTIC
    phase = None if kind == "low_dose" else str(rng.choice(PHASES))
    ct, tissue = take(anatomy, axes_of(protocol, (0.0, 0.0, 10.0)), protocol, hounsfield(rng, phase), rng)
    if kind != "painted":
        return ct, LabelMap(labels_of(tissue), ct.geometry, dict(NAMES))
    table = np.zeros(256, np.uint8)
    for name, (value, _) in _PAINTED.items():
        table[Tissue[name]] = value
    return paint(canonical(Volume(table[tissue], ct.geometry)), dict(_PAINTED.values()), rng)
