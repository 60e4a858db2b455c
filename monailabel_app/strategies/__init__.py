"""Which CT to annotate next, and why. Each strategy sees unlabelled CTs only; none trains or predicts."""

from __future__ import annotations

import random
from typing import Any

from monailabel.interfaces.tasks.strategy import Strategy

from doselabel.versions import ORIGINAL
from monailabel_app.cases import Case
from monailabel_app.datastore import StudyDatastore


def todo(request: dict[str, Any], datastore: StudyDatastore) -> list[Case]:
    """CTs to be done: without a submitted label map, or reopened; less those of others (``request["taken"]``)."""
    taken = request.get("taken", ())
    return [case for case, known in datastore.known() if known.todo and case.image_id not in taken]


def answer(case: Case, reason: str) -> dict[str, Any]:
    """What a strategy returns: a CT and why, also why it was reopened."""
    if why := case.labels.reopened():
        by = f" by {why.by}" if why.by else ""
        reason = f"reopened{by}{': ' if why.comment else ''}{why.comment}; {reason}"
    return {"id": case.image_id, "reason": reason}


class First(Strategy):
    """Patient by patient, the diagnostic CT first."""

    def __init__(self) -> None:
        super().__init__("Patient by patient; the diagnostic CT first, then its time points")

    def __call__(self, request: dict[str, Any], datastore: StudyDatastore) -> dict[str, Any] | None:
        """Choose."""
        cases = todo(request, datastore)
        if not cases:
            return None
        case = cases[0]
        what = "diagnostic CT (organ masses come from it)" if case.time_h is None else f"CT at {case.time_h:g} h"
        return answer(case, f"next in order: {case.study.patient_id}, {what}")


class Random(Strategy):
    """Any CT, all alike."""

    def __init__(self) -> None:
        super().__init__("Any CT that has no label map, all alike")

    def __call__(self, request: dict[str, Any], datastore: StudyDatastore) -> dict[str, Any] | None:
        """Choose."""
        cases = todo(request, datastore)
        return answer(random.choice(cases), f"drawn at random from {len(cases)}") if cases else None


class Doubtful(Strategy):
    """The CT whose stored prediction is least to be trusted."""

    def __init__(self) -> None:
        super().__init__("The CT whose prediction is most doubtful: flags, then the lowest score of an organ")

    def __call__(self, request: dict[str, Any], datastore: StudyDatastore) -> dict[str, Any] | None:
        """Choose; without any prediction the order of `First` holds."""
        doubts = [(doubt, case) for case in todo(request, datastore) if (doubt := doubt_of(case)) is not None]
        if not doubts:
            found = First()(request, datastore)
            return found and found | {"reason": f"{found['reason']} (no CT has a prediction to judge by)"}
        (_, reason), case = max(doubts, key=lambda item: item[0][0])
        return answer(case, f"{reason}; most doubtful of {len(doubts)} predictions")


def doubt_of(case: Case) -> tuple[float, str] | None:
    """How doubtful a CT's stored prediction is (higher: more so) and why; None without a prediction."""
    summary = case.labels.tag_info(ORIGINAL).get("params", {}).get("segmentation")
    if not summary:
        return None
    organs = summary.get("organs", {})
    flags = summary.get("flags", [])
    name, lowest = min(
        ((name, organ.get("score") or 0.0) for name, organ in organs.items()),
        key=lambda item: item[1],
        default=("", 1.0),
    )
    reason = f"flagged: {flags[0]}" if flags else f"lowest score {lowest:.2f} ({name.replace('_', ' ')})"
    return len(flags) + (1.0 - lowest), reason
