"""How public data sets and tools number their label maps. Knows numbers and names; no files and no voxels.

A number means nothing by itself: 1 is the spleen to one data set, the liver to another and the left kidney to us.
So a scheme is never guessed, only stated (``--label-scheme``). Names of `doselabel.labels.ORGANS` are written as there;
`KIDNEYS` is both kidneys as one value, which `doselabel.anatomy.split_kidneys` parts.

Sources: the label tables that the data sets publish with their images (KiTS 2019/21/23, LiTS, Medical Segmentation
Decathlon task 3, BTCV/Synapse, AMOS 2022, FLARE 2021/22, CHAOS) and TotalSegmentator's task "total", version 2.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

KIDNEYS = "kidneys"
LESIONS = ("tumour", "cyst")
"""What schemes mark inside an organ; `doselabel.labels.read_labels` can count it to that organ."""

_TOTALSEGMENTATOR = """
spleen kidney_right kidney_left gallbladder liver stomach pancreas adrenal_gland_right
adrenal_gland_left lung_upper_lobe_left lung_lower_lobe_left lung_upper_lobe_right
lung_middle_lobe_right lung_lower_lobe_right esophagus trachea thyroid_gland small_bowel duodenum
colon urinary_bladder prostate kidney_cyst_left kidney_cyst_right sacrum vertebrae_S1 vertebrae_L5
vertebrae_L4 vertebrae_L3 vertebrae_L2 vertebrae_L1 vertebrae_T12 vertebrae_T11 vertebrae_T10
vertebrae_T9 vertebrae_T8 vertebrae_T7 vertebrae_T6 vertebrae_T5 vertebrae_T4 vertebrae_T3
vertebrae_T2 vertebrae_T1 vertebrae_C7 vertebrae_C6 vertebrae_C5 vertebrae_C4 vertebrae_C3
vertebrae_C2 vertebrae_C1 heart aorta pulmonary_vein brachiocephalic_trunk subclavian_artery_right
subclavian_artery_left common_carotid_artery_right common_carotid_artery_left
brachiocephalic_vein_left brachiocephalic_vein_right atrial_appendage_left superior_vena_cava
inferior_vena_cava portal_vein_and_splenic_vein iliac_artery_left iliac_artery_right iliac_vena_left
iliac_vena_right humerus_left humerus_right scapula_left scapula_right clavicula_left
clavicula_right femur_left femur_right hip_left hip_right spinal_cord gluteus_maximus_left
gluteus_maximus_right gluteus_medius_left gluteus_medius_right gluteus_minimus_left
gluteus_minimus_right autochthon_left autochthon_right iliopsoas_left iliopsoas_right brain skull
rib_left_1 rib_left_2 rib_left_3 rib_left_4 rib_left_5 rib_left_6 rib_left_7 rib_left_8 rib_left_9
rib_left_10 rib_left_11 rib_left_12 rib_right_1 rib_right_2 rib_right_3 rib_right_4 rib_right_5
rib_right_6 rib_right_7 rib_right_8 rib_right_9 rib_right_10 rib_right_11 rib_right_12 sternum
costal_cartilages
"""

_OURS = {"kidney_left": "left_kidney", "kidney_right": "right_kidney"}


def _in_order(text: str) -> dict[int, str]:
    return {value: _OURS.get(name, name) for value, name in enumerate(text.split(), start=1)}


SCHEMES: Mapping[str, Mapping[int, str]] = MappingProxyType(
    {
        "kits": {1: KIDNEYS, 2: "tumour", 3: "cyst"},
        "lits": {1: "liver", 2: "tumour"},
        "msd_liver": {1: "liver", 2: "tumour"},
        "btcv": _in_order(
            "spleen right_kidney left_kidney gallbladder esophagus liver stomach aorta inferior_vena_cava "
            "portal_vein_and_splenic_vein pancreas adrenal_gland_right adrenal_gland_left"
        ),
        "amos": _in_order(
            "spleen right_kidney left_kidney gallbladder esophagus liver stomach aorta inferior_vena_cava pancreas "
            "adrenal_gland_right adrenal_gland_left duodenum urinary_bladder prostate_or_uterus"
        ),
        "flare": _in_order(
            "liver right_kidney spleen pancreas aorta inferior_vena_cava adrenal_gland_right adrenal_gland_left "
            "gallbladder esophagus stomach duodenum left_kidney tumour"
        ),
        "flare21": {1: "liver", 2: KIDNEYS, 3: "spleen", 4: "pancreas"},
        "totalsegmentator": _in_order(_TOTALSEGMENTATOR),
        "chaos_ct": {1: "liver", 255: "liver"},
    }
)
"""Scheme → value → organ. "flare" is the numbering of 2022, with the tumour of 2023."""
