"""Studies and reviews in other words: as `doselabel.wire` has them, and as 3D Slicer's reviewer does. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from doselabel.errors import DoselabelError, StudyError
from doselabel.reading import bq_ml_per_value
from doselabel.study import Study
from doselabel.wire import ErrorInfo, ImageInfo, LabelReview, StudyInfo, TimePointInfo
from monailabel_app.cases import cases_of
from monailabel_app.overview import Known


def study_info(study: Study, known: Mapping[str, Known]) -> StudyInfo:
    """A patient as a client sees it; ``known`` tells of the label maps by image id."""
    cases = {case.file: case for case in cases_of(study)}
    return StudyInfo(
        patient_id=study.patient_id,
        nuclide=study.nuclide,
        injected_activity_mbq=study.injected_activity_mbq,
        images=[
            ImageInfo(
                image_id=case.image_id,
                file=case.file,
                role="diagnostic" if case.file == study.ct else "time_point",
                time_h=case.time_h,
                labelled=known[case.image_id].submitted > 0,
                versions=known[case.image_id].submitted,
                state=known[case.image_id].state,
                authors=list(known[case.image_id].authors),
            )
            for case in cases.values()
        ],
        time_points=[
            TimePointInfo(
                index=index,
                time_h=point.time_h,
                image_id=cases[point.ct].image_id,
                spect=point.spect,
                exclude=point.exclude,
                spect_to_ct=point.spect_to_ct,
                bq_ml_per_value=_bq_ml_per_value(study, index),
            )
            for index, point in enumerate(study.time_points)
        ],
        organs_absent=list(study.organs_absent),
    )


def _bq_ml_per_value(study: Study, index: int) -> float | None:
    try:
        return bq_ml_per_value(study, index)
    except DoselabelError:  # what is wrong is said by whoever computes with it
        return None


def broken_info(name: str, error: StudyError) -> StudyInfo:
    """A patient that can't be used, with what is wrong."""
    return StudyInfo(
        patient_id=name,
        nuclide="",
        injected_activity_mbq=0,
        images=[],
        time_points=[],
        error=ErrorInfo(code=error.code, message=error.message, hint=error.hint),
    )


def review_of(meta: Mapping[str, Any], reviewer: str = "") -> LabelReview:
    """What 3D Slicer's reviewer calls ``segmentationMeta``, as a review."""
    status = str(meta.get("status") or "").lower()
    return LabelReview(
        approved=status == "approved",
        flagged=status == "flagged",
        difficulty=str(meta.get("level") or "")[:40],
        reviewer=(reviewer or str(meta.get("approvedBy") or ""))[:100],
        comment=str(meta.get("comment") or "")[:2000],
    )
