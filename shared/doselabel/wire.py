"""What crosses the wire between server and plugin, and what `results.json` holds. Schemas only, no behaviour.

Beside MONAI Label's own REST API the server offers (JSON unless said otherwise)::

    GET    /doselabel/info                          → ServerInfo
    GET    /doselabel/studies                       → list[StudyInfo]
    GET    /doselabel/studies/{patient_id}/file/{name}  → the image file (a CT, SPECT or exclusion mask of the study)
    PUT    /doselabel/studies/{patient_id}/registration/{time_point}   Registration → StudyInfo
    GET    /doselabel/labels/{image_id}             → list[LabelVersion], newest first
    GET    /doselabel/labels/{image_id}/history     → list[LabelEvent], oldest first
    PUT    /doselabel/labels/{image_id}/reopen      Reopening → LabelEvent (the CT is offered again)
    GET    /doselabel/labels/{image_id}/{version}   → the label file
    POST   /doselabel/labels/{image_id}             multipart: file, params = LabelSubmission → LabelVersion
    PUT    /doselabel/labels/{image_id}/{version}/review   LabelReview → LabelVersion
    GET    /doselabel/export?approved=false         → zip: the label map that counts of every CT, and index.json
    GET    /doselabel/models                        → list[ModelEvent], newest first (as a page for a browser)
    POST   /doselabel/model/rollback?sha256=HASH    → ModelInfo (an earlier model answers again; the one before, if
                                                      no hash is given)
    POST   /doselabel/active/score                  → how many CTs are predicted anew, by three planes, to choose among
    GET    /doselabel/active/report                 → dict of arm ("strided", "score", "random") to ArmReport
    GET    /doselabel/next?strategy=NAME&user=NAME  → NextCase
    POST   /doselabel/draft    multipart: files named by image id, params = dose options → 202 + JobStatus; the dose of
                               label maps that are not submitted, as a job "draft_dose"
    POST   /jobs/{task}        JobRequest → 202 + JobStatus; Location: /jobs/{id}   (an infer task's name, "train")
    GET    /jobs               → list[JobStatus]
    GET    /jobs/{id}          → JobStatus
    GET    /jobs/{id}/events   → server-sent events "status", each a JobStatus, until the job is over
    GET    /jobs/{id}/result   → JobResult      (409 + ErrorInfo while it is not done; ``Accept: multipart/form-data``:
                                 that as the part "result", and each file as a part named by its role)
    GET    /jobs/{id}/file/{name}  → a file of the result
    DELETE /jobs/{id}          → JobStatus      (cancels; a finished job is forgotten)

Every refusal is an `ErrorInfo` with a 4xx or 5xx status.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from doselabel.alarms import Alarm
from doselabel.study import Registration


class Frozen(BaseModel):
    """Base of everything on the wire: immutable, unknown fields ignored so that versions may differ."""

    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())


class ErrorInfo(Frozen):
    """Why something failed: ``code`` for programs, ``message`` and ``hint`` for people."""

    code: str
    message: str
    hint: str = ""


# ---- studies and labels


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
    state: LabelState = "submitted"
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


class TimePointInfo(Frozen):
    """One SPECT/CT: which CT, which SPECT, when."""

    index: int
    time_h: float
    image_id: str
    spect: str
    exclude: dict[str, str] = Field(default_factory=dict)
    spect_to_ct: Registration = Field(default_factory=Registration)


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


class ModelInfo(Frozen):
    """Which network answers."""

    name: str
    sha256: str
    profile: str
    created: datetime | None = None
    card: dict[str, Any] = Field(default_factory=dict)


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


# ---- jobs


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


# ---- segmentation and training


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


# ---- dose: results.json


class DvhCurve(Frozen):
    """Dose-volume histogram and its usual numbers; dose in Gy, volume in percent.

    ``volume_percent[i]`` receives at least ``dose_gy[i]``; ``differential_percent_per_gy[i]`` is the volume per Gy
    between ``dose_gy[i]`` and the next.
    """

    dose_gy: list[float]
    volume_percent: list[float]
    differential_percent_per_gy: list[float] = Field(default_factory=list)
    d_gy: dict[str, float]
    """``{"D2": …, "D30": …, "D50": …, "D70": …, "D90": …, "D98": …}``."""
    d_sd_gy: dict[str, float] = Field(default_factory=dict)
    """Standard uncertainty of each (k = 1)."""
    min_gy: float
    max_gy: float
    mean_gy: float


class TimeActivity(Frozen):
    """One organ's fitted time-activity curve."""

    model: str
    parameters: dict[str, float]
    parameter_sd: dict[str, float] = Field(default_factory=dict)
    time_h: list[float]
    activity_mbq: list[float]
    activity_sd_mbq: list[float] = Field(default_factory=list)
    residual_mbq: list[float]
    curve_time_h: list[float]
    curve_activity_mbq: list[float]
    extrapolated_fraction: float
    degrees_of_freedom: int
    tia_mbq_h_by_model: dict[str, float] = Field(default_factory=dict)
    tia_mbq_h_without: list[float | None] = Field(default_factory=list)
    """TIA when each point in turn is left out; given where a point lies far off the curve."""


class OrganDose(Frozen):
    """All numbers of one organ. Activities are at the time of measurement; masses from the un-expanded mask."""

    volume_ml: float
    density_g_cm3: float
    mass_g: float
    activity_mbq: list[float]
    recovery_coefficient: list[float] = Field(default_factory=list)
    tia_mbq_h: float
    tia_sd_mbq_h: float
    effective_half_life_h: float
    mean_dose_gy: float
    dose_sd_gy: float
    dose_gy_by_engine: dict[str, float]
    dose_gy_per_gbq: float
    bed_gy: float | None = None
    bed_sd_gy: float | None = None
    eqd2_gy: float | None = None
    eqd2_sd_gy: float | None = None
    dvh: DvhCurve
    tac: TimeActivity
    uncertainty_percent: dict[str, float] = Field(default_factory=dict)
    warnings: list[str] = Field(default_factory=list)


class DoseResults(Frozen):
    """`results.json`, schema ``doselabel.results/1``."""

    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True)

    schema_: Literal["doselabel.results/1"] = Field(default="doselabel.results/1", alias="schema")
    patient_id: str
    nuclide: str
    injected_activity_mbq: float
    injection_time: datetime | None = None
    time_h: list[float]
    organs: dict[str, OrganDose]
    failed: dict[str, ErrorInfo] = Field(default_factory=dict)
    """Organs that could not be computed, and why; the others are as if these had not been asked for."""
    options: dict[str, Any]
    registration: list[dict[str, Any]] = Field(default_factory=list)
    labels_origin: str = ""
    """Where the masks came from, and whether somebody reviewed them."""
    reviewed: bool = False
    alarms: list[Alarm] = Field(default_factory=list)
    """What has a code (see `doselabel.alarms`), the gravest first."""
    warnings: list[str] = Field(default_factory=list)
    """All sentences, those of ``alarms`` among them and alarms first."""
    provenance: dict[str, Any]

    def grave(self) -> list[Alarm]:
        """What says that a number is probably wrong until somebody has looked."""
        return [alarm for alarm in self.alarms if alarm.severity == "alarm"]

    def other_warnings(self) -> list[str]:
        """The sentences that are no alarms, in their order."""
        said = {alarm.sentence for alarm in self.grave()}
        return [text for text in dict.fromkeys(self.warnings) if text not in said]


# ---- several cycles: results.json of a course


class CourseCycle(Frozen):
    """One cycle of a course, and which results it came from."""

    name: str
    patient_id: str
    injection_time: datetime | None = None
    injected_activity_mbq: float
    voi: str = ""
    results_sha256: str = ""


class Constraint(Frozen):
    """A limit on the cumulative ``dose`` or ``bed``, and what remains; nothing remains stated where no sum is."""

    kind: Literal["dose", "bed"]
    limit_gy: float
    remains_gy: float | None = None
    remains_sd_gy: float | None = None
    likely_exceeded_percent: float | None = None
    """Probability that the limit is exceeded already, for normal errors."""
    cycles_like_last: float | None = None


class OrganCourse(Frozen):
    """One organ over all cycles; lists follow the cycles, None where an organ has no dose."""

    dose_gy: list[float | None]
    dose_sd_gy: list[float | None]
    bed_gy: list[float | None]
    bed_sd_gy: list[float | None]
    mass_g: list[float | None]
    total_dose_gy: float
    total_dose_sd_gy: float
    total_bed_gy: float | None = None
    total_bed_sd_gy: float | None = None
    missing: list[str] = Field(default_factory=list)
    constraints: list[Constraint] = Field(default_factory=list)


class CourseResults(Frozen):
    """`results.json` of a course, schema ``doselabel.course/1``."""

    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True)

    schema_: Literal["doselabel.course/1"] = Field(default="doselabel.course/1", alias="schema")
    patient_id: str
    nuclide: str
    cycles: list[CourseCycle]
    organs: dict[str, OrganCourse]
    warnings: list[str] = Field(default_factory=list)
    created: str = ""


ServerInfo.model_rebuild()
JobResult.model_rebuild()
