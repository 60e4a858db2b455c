"""Jobs, and what segmentation, registration and training leave behind."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from doselabel.alarms import Alarm
from doselabel.wire.base import ErrorInfo, Frozen
from doselabel.wire.doses import DoseResults


class RegistrationSummary(Frozen):
    """How one image of a patient was brought onto another: LPS points (mm) of ``moving`` → those of ``fixed``."""

    moving: str
    fixed: str
    matrix: list[list[float]]
    method: str
    comment: str = ""
    shift_mm: float
    agreement_before: float | None = None
    agreement_after: float | None = None
    sd_mm: float | None = None


class SliceDoubt(Frozen):
    """An axial slice of an organ that a reader should look at; ``slice`` counts from the head, 0 is the first."""

    slice: int
    kind: Literal["filled", "unsure", "jump"]
    """Nothing was seen on it, and its outline comes from its neighbours; it was seen with little confidence; its area
    does not continue that of its neighbours."""
    text: str


class OrganSegmentation(Frozen):
    """What the network says of one organ."""

    volume_ml: float
    score: float
    slices: int
    slices_interpolated: int = 0
    plane_disagreement: float | None = None
    band_entropy: float | None = None
    """Mean entropy (bits) of the probability in a band around the outline."""
    dose_doubt_percent: float | None = None
    """How much of the organ's uptake hangs on doubtful voxels."""
    first_slice: int | None = None
    sureness: list[float] = Field(default_factory=list)
    """Score of what was seen on each axial slice, from ``first_slice`` on towards the feet; 0 where nothing was."""
    doubts: list[SliceDoubt] = Field(default_factory=list)
    """Slices to look at, from the head down."""
    flags: list[str] = Field(default_factory=list)


class SegmentationSummary(Frozen):
    """What goes with a predicted label map."""

    organs: dict[str, OrganSegmentation]
    flags: list[str] = Field(default_factory=list)
    model_sha256: str = ""
    profile: str = ""
    planes: list[str] = Field(default_factory=list)
    seconds: float = 0.0


class TrainingSummary(Frozen):
    """What a training run ended with."""

    steps: int
    cases: int
    loss: list[float] = Field(default_factory=list)
    dice_before: dict[str, float] = Field(default_factory=dict)
    dice_after: dict[str, float] = Field(default_factory=dict)
    promoted: bool = False
    reason: str = ""
    model_sha256: str = ""
    alarms: list[Alarm] = Field(default_factory=list)
    """What was odd about the label maps that it learned from."""


class JobRequest(Frozen):
    """What to do: ``image_id`` names a CT (for dosimetry any CT of the patient); none for training."""

    image_id: str | None = None
    user: str = ""
    params: dict[str, Any] = Field(default_factory=dict)


JobState = Literal["queued", "running", "done", "failed", "cancelled"]


class JobStatus(Frozen):
    """How far a job is; ``fraction`` runs from 0 to 1 over the whole job."""

    id: str
    task: str
    image_id: str | None = None
    user: str = ""
    state: JobState
    stage: str = ""
    fraction: float = 0.0
    message: str = ""
    created: datetime
    started: datetime | None = None
    ended: datetime | None = None
    error: ErrorInfo | None = None
    rows: list[dict[str, float]] = Field(default_factory=list)
    """Of a training: its last figures, ``step`` with ``loss`` and its parts, or with ``dice_<organ>``."""

    @property
    def is_over(self) -> bool:
        """Whether nothing more will happen."""
        return self.state in ("done", "failed", "cancelled")


class JobResult(Frozen):
    """What a job made: ``files`` maps a role ("labels", "dose", "report", …) to a file name to fetch."""

    id: str
    task: str
    files: dict[str, str] = Field(default_factory=dict)
    label_names: dict[str, int] = Field(default_factory=dict)
    """The organs that are there in a label map, by name, with the value that stands for each."""
    segmentation: SegmentationSummary | None = None
    dose: DoseResults | None = None
    training: TrainingSummary | None = None
    registration: RegistrationSummary | None = None
