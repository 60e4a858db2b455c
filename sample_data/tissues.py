"""The tissues of a made-up body, and the organs that label maps name. Knows no shapes."""

from __future__ import annotations

from enum import IntEnum

import numpy as np


class Tissue(IntEnum):
    """What a point of the body is made of."""

    AIR = 0
    SKIN = 1
    FAT = 2
    MUSCLE = 3
    VISCERAL_FAT = 4
    CORTICAL_BONE = 5
    SPONGIOSA = 6
    DISC = 7
    CORD = 8
    LUNG = 9
    HEART = 10
    AORTA = 11
    CAVA = 12
    BOWEL_WALL = 13
    BOWEL_CONTENT = 14
    GAS = 15
    STOMACH_CONTENT = 16
    PANCREAS = 17
    SPLEEN = 18
    LIVER = 19
    LIVER_VESSEL = 20
    LIVER_LESION = 21
    GALLBLADDER = 22
    RENAL_FAT = 23
    RENAL_ARTERY = 24
    RENAL_VEIN = 25
    TABLE = 26
    LEFT_CORTEX = 30
    LEFT_MEDULLA = 31
    LEFT_PELVIS = 32
    LEFT_CYST = 33
    RIGHT_CORTEX = 40
    RIGHT_MEDULLA = 41
    RIGHT_PELVIS = 42
    RIGHT_CYST = 43


LABEL_OF: dict[Tissue, int] = {
    Tissue.LEFT_CORTEX: 1,
    Tissue.LEFT_MEDULLA: 1,
    Tissue.LEFT_CYST: 1,
    Tissue.RIGHT_CORTEX: 2,
    Tissue.RIGHT_MEDULLA: 2,
    Tissue.RIGHT_CYST: 2,
    Tissue.LIVER: 3,
    Tissue.LIVER_VESSEL: 3,
    Tissue.LIVER_LESION: 3,
    Tissue.SPLEEN: 4,
}
"""Kidney labels are parenchyma: pelvis, sinus, artery and vein are left out (Nazari et al. 2021, dataset 3);
cysts and lesions count as organ."""


def labels_of(tissue: np.ndarray) -> np.ndarray:
    """Label map (uint8) of a tissue map."""
    table = np.zeros(256, np.uint8)
    for which, label in LABEL_OF.items():
        table[which] = label
    return table[tissue]
