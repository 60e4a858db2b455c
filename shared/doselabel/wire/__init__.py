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

from doselabel.wire.base import ErrorInfo, Frozen
from doselabel.wire.doses import (
    Constraint,
    CourseCycle,
    CourseResults,
    DoseResults,
    DvhCurve,
    HalfLife,
    HalfLifePrior,
    MarrowDose,
    OrganCourse,
    OrganDose,
    TimeActivity,
)
from doselabel.wire.jobs import (
    JobRequest,
    JobResult,
    JobState,
    JobStatus,
    OrganSegmentation,
    RegistrationSummary,
    SegmentationSummary,
    SliceDoubt,
    TrainingSummary,
)
from doselabel.wire.studies import (
    ArmReport,
    ImageInfo,
    LabelEvent,
    LabelReview,
    LabelState,
    LabelSubmission,
    LabelVersion,
    ModelEvent,
    ModelInfo,
    NextCase,
    Reopening,
    ServerInfo,
    StudyInfo,
    TimePointInfo,
)

__all__ = [
    "ArmReport",
    "Constraint",
    "CourseCycle",
    "CourseResults",
    "DoseResults",
    "DvhCurve",
    "ErrorInfo",
    "Frozen",
    "HalfLife",
    "HalfLifePrior",
    "ImageInfo",
    "JobRequest",
    "JobResult",
    "JobState",
    "JobStatus",
    "LabelEvent",
    "LabelReview",
    "LabelState",
    "LabelSubmission",
    "LabelVersion",
    "MarrowDose",
    "ModelEvent",
    "ModelInfo",
    "NextCase",
    "OrganCourse",
    "OrganDose",
    "OrganSegmentation",
    "RegistrationSummary",
    "Reopening",
    "SegmentationSummary",
    "ServerInfo",
    "SliceDoubt",
    "StudyInfo",
    "TimeActivity",
    "TimePointInfo",
    "TrainingSummary",
]
