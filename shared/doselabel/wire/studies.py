"""Studies, label maps, models and who answers, as clients see them."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import Field, computed_field

from doselabel.alarms import Alarm
from doselabel.study import Registration
from doselabel.wire.base import ErrorInfo, Frozen

LabelState = Literal["draft", "submitted", "approved", "flagged"]


class LabelVersion(Frozen):
    """One label map of a CT; versions count from 1 and are never overwritten.

    A *draft* is work under way: it never counts, and goes when its author stores another one or submits.
    """

    image_id: str
    version: int
    created: datetime
    author: str = ""
    comment: str = ""
    origin: Literal["model", "corrected", "imported"] = "corrected"
    started_from: str = ""
    """Hash of the model, or the version, that the correction started from."""
    seen: int | None = None
    key: str = ""
    unseen: list[int] = Field(default_factory=list)
    """Versions that others stored while this one was drawn: it was made without knowing them. A conflict."""
    conflicts: list[int] = Field(default_factory=list)
    """Versions that did not know this one, or that this one did not know: both authors see it."""
    draft: bool = False
    needs_review: bool = False
    """It was submitted where only approved label maps count."""
    changed: dict[str, float] = Field(default_factory=dict)
    """Organ → 1 − Dice against the prediction that was stored when it was submitted: what the correction brought."""
    sha256: str = ""
    approved: bool = False
    flagged: bool = False
    organs_ml: dict[str, float] = Field(default_factory=dict)
    alarms: list[Alarm] = Field(default_factory=list)
    """What was odd about the map when it was submitted, the gravest first."""
    error: ErrorInfo | None = None
    """Set when it is damaged: it is listed then, and does not count."""

    @computed_field  # type: ignore[prop-decorator]
    @property
    def state(self) -> LabelState:
        """Where it stands in its life."""
        return "draft" if self.draft else "approved" if self.approved else "flagged" if self.flagged else "submitted"


class LabelSubmission(Frozen):
    """What goes with a submitted label map."""

    author: str = ""
    comment: str = ""
    origin: Literal["model", "corrected", "imported"] = "corrected"
    started_from: str = ""
    seen: int | None = None
    """The newest version the annotator knew of (0: none). Left out, "version N" in ``started_from`` says it."""
    key: str = ""
    """Any text that is this submission's own: sent again after a lost answer, it is stored once."""
    label_scheme: str = ""
    """How its values are numbered, when the file carries no names (`doselabel.labels.SCHEMES`)."""
    draft: bool = False
    """Work under way: kept for its author, counts for nobody."""


class LabelEvent(Frozen):
    """What happened to a CT's label maps, when and by whom."""

    time: datetime
    what: Literal["draft", "submitted", "approved", "flagged", "reviewed", "reopened"]
    version: int
    """The one it happened to; of "reopened" the newest."""
    by: str = ""
    comment: str = ""


class Reopening(Frozen):
    """Why a labelled CT is to be done again."""

    comment: str = Field(default="", max_length=2000)
    by: str = Field(default="", max_length=100)


class LabelReview(Frozen):
    """What a reviewer says of a version; the newest approved version counts, or the newest when none is."""

    approved: bool
    flagged: bool = False
    """Something is wrong with it: it does not count while another one does."""
    difficulty: str = ""
    reviewer: str = ""
    comment: str = ""
    time: datetime | None = None
    """When the server was told."""


class ImageInfo(Frozen):
    """One annotatable CT."""

    image_id: str
    file: str
    role: Literal["diagnostic", "time_point"]
    time_h: float | None = None
    labelled: bool = False
    versions: int = 0
    state: LabelState | None = None
    """Where the newest version stands."""
    authors: list[str] = Field(default_factory=list)
    """Who drew versions, the newest first."""


class TimePointInfo(Frozen):
    """One SPECT/CT: which CT, which SPECT, when."""

    index: int
    time_h: float
    image_id: str
    spect: str
    exclude: dict[str, str] = Field(default_factory=dict)
    spect_to_ct: Registration = Field(default_factory=Registration)
    bq_ml_per_value: float | None = 1.0
    """What the SPECT's stored values are to be multiplied by; None: the study does not say enough to tell."""


class StudyInfo(Frozen):
    """A patient as the plugin sees it."""

    patient_id: str
    nuclide: str
    injected_activity_mbq: float
    images: list[ImageInfo]
    time_points: list[TimePointInfo]
    organs_absent: list[str] = Field(default_factory=list)
    error: ErrorInfo | None = None
    """Set when the study can't be used; it is then listed with what is wrong, not left out."""


class ModelInfo(Frozen):
    """Which network answers."""

    name: str
    sha256: str
    profile: str
    created: datetime | None = None
    card: dict[str, Any] = Field(default_factory=dict)


class ServerInfo(Frozen):
    """Who answers."""

    name: str = "doselabel"
    version: str
    studies: int
    labelled: int
    images: int
    infers: list[str]
    trainers: list[str]
    strategies: list[str]
    model: ModelInfo | None = None
    organs: dict[str, int] = Field(default_factory=dict)


class ModelEvent(Frozen):
    """One change of the model that answers."""

    time: datetime
    what: str
    sha256: str
    """The model that answered from then on."""
    previous_sha256: str = ""
    reason: str = ""
    by: str = ""
    kept: bool = False
    """Whether it can be gone back to."""


class ArmReport(Frozen):
    """What one arm of active learning brought: how often it was offered, done, and how much was corrected."""

    offered: int = 0
    submitted: int = 0
    mean_changed: float | None = None
    """Mean over submissions of the mean over organs of 1 − Dice against the prediction."""


class NextCase(Frozen):
    """The case to annotate next, and why; ``image_id`` is None when all are done."""

    image_id: str | None
    reason: str = ""
    remaining: int = 0
