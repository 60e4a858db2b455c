"""A MONAI Label app that knows nothing of doselabel: a threshold segments, and nothing is learned from labels."""

from __future__ import annotations

import tempfile
from typing import Any

import nibabel
import numpy as np
from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.tasks.infer_v2 import InferTask, InferType
from monailabel.interfaces.tasks.strategy import Strategy
from monailabel.interfaces.tasks.train import TrainTask
from scipy import ndimage

LABELS = {"liver": 1, "left kidney": 6, "right kidney": 7}


class Threshold(InferTask):
    """Everything from 30 to 200 HU in its parts: the largest is liver, the others kidneys by their sides (RAS+)."""

    def __init__(self) -> None:
        super().__init__(InferType.SEGMENTATION, LABELS, 3, "threshold")

    def is_valid(self) -> bool:
        return True

    def __call__(self, request: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        image = nibabel.load(request["image"])
        hu = np.asarray(image.dataobj)
        parts, count = ndimage.label((hu > 30) & (hu < 200))
        sizes = np.bincount(parts.ravel())[1:]
        labels = np.zeros(hu.shape, np.uint8)
        for number in range(1, count + 1):
            x_mm = (image.affine @ [*ndimage.center_of_mass(parts == number), 1])[0]
            side = "left kidney" if x_mm < 0 else "right kidney"
            labels[parts == number] = LABELS["liver" if number == 1 + sizes.argmax() else side]
        with tempfile.NamedTemporaryFile(suffix=".nii.gz", delete=False) as file:
            nibabel.save(nibabel.Nifti1Image(labels, image.affine), file.name)
        return file.name, {"label_names": LABELS}


class Counting(TrainTask):
    """Looks at what there is to learn from."""

    def __init__(self) -> None:
        super().__init__("counts label maps")

    def __call__(self, request: dict[str, Any], datastore: Any) -> dict[str, Any]:
        print(f"{len(datastore.datalist())} label maps", flush=True)
        return {}


class First(Strategy):
    """The first image without a final label."""

    def __init__(self) -> None:
        super().__init__("first unlabelled")

    def __call__(self, request: dict[str, Any], datastore: Any) -> dict[str, Any] | None:
        images = sorted(datastore.get_unlabeled_images())
        return {"id": images[0]} if images else None


class StockApp(MONAILabelApp):
    """What a user of MONAI Label may have."""

    def __init__(self, app_dir: str, studies: str, conf: dict[str, str]) -> None:
        super().__init__(app_dir, studies, conf, name="somebody's app", version="7")

    def init_infers(self) -> dict[str, InferTask]:
        return {"threshold": Threshold()}

    def init_trainers(self) -> dict[str, TrainTask]:
        return {"threshold": Counting()}

    def init_strategies(self) -> dict[str, Strategy]:
        return {"first": First()}
