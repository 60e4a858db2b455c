"""Kidneys and liver on one CT: a request → `doselabel.model.predict.segment` → a label map and its summary."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from monailabel.interfaces.tasks.infer_v2 import InferTask, InferType

from doselabel import __version__
from doselabel.dosimetry.cache import digest
from doselabel.geometry import Volume, write_image
from doselabel.labels import SEGMENTED, LabelMap, organ, write_labels
from doselabel.reading import read_of_study
from doselabel.wire import SegmentationSummary
from monailabel_app.conf import PLANES
from monailabel_app.models import ModelStore
from monailabel_app.refusals import Refused
from monailabel_app.request import choice, fresh_file, label_suffix, number, plain, progress_of, staged, yes

CONSENSUS: tuple[Literal["", "mean", "vote"], ...] = ("", "mean", "vote")
GAP_FILL: tuple[Literal["", "distance", "linear"], ...] = ("", "distance", "linear")

PAPER_READING = {"planes": "all", "consensus": "vote", "gap_fill": "linear", "score_threshold": 0.9}
"""Nazari 2021: three planes, 2 of 3 voxel by voxel, scores of 0.9 and more, missing slices filled linearly."""


class KidneyLiver(InferTask):
    """Segment kidneys and liver.

    Parameters
    ----------
    models : ModelStore
        Says which checkpoint answers; a new champion is noticed at the next request.
    planes : str
        Default of the request's "planes": "axial" or "all".
    device : str
        Where the network runs.
    reading : dict, optional
        Defaults of further keys of the request.
    description : str
    """

    role = "labels"

    def __init__(
        self,
        models: ModelStore,
        planes: str = "axial",
        device: str = "cpu",
        reading: Mapping[str, Any] | None = None,
        description: str = "Kidneys and liver on CT, by the 2.5D Mask R-CNN; research use only",
    ) -> None:
        reading = {"planes": planes, "consensus": "", "gap_fill": "", "score_threshold": "", **(reading or {})}
        super().__init__(
            type=InferType.SEGMENTATION,
            labels={name: organ(name).index for name in SEGMENTED},
            dimension=3,
            description=description,
            config={
                "planes": _first(reading["planes"], tuple(PLANES)),
                "consensus": _first(reading["consensus"], CONSENSUS),
                "gap_fill": _first(reading["gap_fill"], GAP_FILL),
                "score_threshold": reading["score_threshold"],
            },
        )
        self._models = models
        self._reading = reading
        self._device = device
        self._loaded: tuple[tuple[str, int], Any] | None = None

    def is_valid(self) -> bool:
        """Whether a model is there."""
        return self._models.info() is not None

    def get_path(self, validate: bool = True) -> str:
        """The checkpoint that answers."""
        return str(self._models.champion())

    def warm_up(self) -> None:
        """Load torch and the network before the first request."""
        self._checkpoint()

    def _checkpoint(self) -> Any:
        from doselabel.model import checkpoint

        path = self._models.champion()
        key = (str(path), path.stat().st_mtime_ns)
        if self._loaded is None or self._loaded[0] != key:
            self._loaded = (key, checkpoint.load(path))
        return self._loaded[1]

    def answers_by(self, ct: Path) -> str:
        """What `segment` makes its answer of, asked for nothing special: while it is the same, so is the answer."""
        from doselabel.model.datasets.own import spect_of

        files = [(str(f), s.st_size, s.st_mtime_ns) for f in (ct, spect_of(ct)) if f for s in [f.stat()]]
        return digest(__version__, self._models.sha256(), self._reading, files)

    def segment(self, ct: Path, request: dict[str, Any]) -> tuple[LabelMap, SegmentationSummary]:
        """Segment one CT as a request wants it.

        ``planes`` is "axial" or "all", ``consensus`` "mean" or "vote" (2 of 3), ``gap_fill`` "distance" or "linear";
        what is left out, and ``score_threshold``, is as the model's own profile says. ``dose_doubt`` has the summary
        say how much of an organ's uptake hangs on doubtful voxels, where the CT has a SPECT.
        """
        from doselabel.model.datasets.own import spect_of
        from doselabel.model.predict import segment

        request = self._reading | {key: value for key, value in request.items() if value not in (None, "")}
        planes = PLANES[choice(request, "planes", "", tuple(PLANES))]
        weights = {"locating organs": 1.0, **{f"{plane} slices": 4.0 for plane in planes}, "joining": 1.0}
        ready = self._checkpoint()
        there = spect_of(ct) if ready.profile.spect or yes(request, "dose_doubt") else None
        result = segment(
            read_of_study(ct),
            ready,
            spect=read_of_study(there) if there else None,
            planes=planes,
            consensus=choice(request, "consensus", "", CONSENSUS) or None,
            gap_fill=choice(request, "gap_fill", "", GAP_FILL) or None,
            score_threshold=number(request, "score_threshold", None, 0.0, 1.0),
            device=self._device,
            name=ct.name,
            progress=staged(progress_of(request), weights),
        )
        return result.labels, result.summary

    def __call__(self, request: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        """Segment ``request["image"]``; return a fresh file and the `SegmentationSummary` under "segmentation"."""
        suffix, dtype = label_suffix(request), _dtype(request)
        labels, summary = self.segment(Path(request["image"]), request)
        file = fresh_file(request, "labels", suffix)
        if dtype == np.uint8:
            write_labels(file, labels)
        else:
            write_image(file, Volume(labels.array.astype(dtype), labels.geometry))
        present = set(labels.present())
        # 3D Slicer names the segments it finds one after the other: an organ that is not there would shift the rest.
        answer = {"label_names": {name: value for value, name in sorted(labels.names.items()) if name in present}}
        return str(file), plain(answer | {"segmentation": summary.model_dump(mode="json")})


def _first(value: str, choices: tuple[str, ...]) -> list[str]:
    """The choices, the default first: what a client that shows a menu takes unless told otherwise."""
    return sorted(choices, key=lambda choice: choice != value)


def _dtype(request: dict[str, Any]) -> np.dtype:
    name = str(request.get("result_dtype") or "uint8")
    if name not in ("uint8", "uint16", "int16", "int32"):
        raise Refused(f"'result_dtype' is '{name[:20]}'; expected uint8, uint16, int16 or int32.", "Correct it.")
    return np.dtype(name)
