"""Active learning: two of three CTs by how much is to be learned from them, the third by chance, and both arms logged.

No method beats chance everywhere (nnActive 2025), so chance keeps an arm, and a report says which one brought more.
The first CTs are taken in strides over all patients: a score means little before anything was corrected. Scores come
from predictions that are stored; none is made while somebody waits.
"""

from __future__ import annotations

import json
import logging
import math
import random
import threading
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from monailabel.interfaces.tasks.strategy import Strategy

from doselabel import disk
from doselabel.versions import ORIGINAL
from doselabel.wire import ArmReport
from monailabel_app.cases import Case
from monailabel_app.datastore import StudyDatastore
from monailabel_app.strategies import answer, todo

logger = logging.getLogger(__name__)

FIRST = 6
"""So many CTs are taken in strides before any is taken by its score."""
NOISE = 0.15
"""Scale of the noise on scores: CTs that are alike are not all taken one after the other (ClaSP PE 2026)."""
_GOLDEN = (math.sqrt(5) - 1) / 2

WEIGHTS = {"planes differ": 3.0, "unsure outline": 1.0, "flags": 0.3, "dose": 0.03}
"""What one unit of each counts: disagreement of planes (1 − Dice), entropy (bits), one flag, percent of the uptake."""
MOST_FLAGS = 4


def score_of(summary: Mapping[str, Any]) -> tuple[float, str]:
    """How much is to be learned from a CT, by its stored `SegmentationSummary`, and why in words.

    Each part is that of the worst organ: one organ that went wrong is worth a correction, however good the others are.
    """
    organs = summary.get("organs", {})
    if not _shows_something({"organs": organs}):
        return MOST_FLAGS * WEIGHTS["flags"] + WEIGHTS["planes differ"], "no organ was found"
    parts = {
        "planes differ": _worst(organs, "plane_disagreement", "planes differ by {:.0%} at the {}"),
        "unsure outline": _worst(organs, "band_entropy", "outline unsure ({:.2f} bits) at the {}"),
        "dose": _worst(organs, "dose_doubt_percent", "{:.0f} % of the uptake hangs on doubtful voxels at the {}"),
    }
    flags = list(summary.get("flags", []))
    parts["flags"] = (min(len(flags), MOST_FLAGS), flags[0] if flags else "")
    worth = {name: WEIGHTS[name] * value for name, (value, _) in parts.items()}
    best = max(worth, key=worth.__getitem__)
    return sum(worth.values()), parts[best][1] or "nothing doubtful"


def _worst(organs: Mapping[str, Any], key: str, words: str) -> tuple[float, str]:
    known = [(float(organ[key]), name) for name, organ in organs.items() if organ.get(key) is not None]
    value, name = max(known, default=(0.0, ""))
    return value, words.format(value, name.replace("_", " ")) if name else ""


class Active(Strategy):
    """See the module.

    Parameters
    ----------
    log : Path
        JSON lines: each CT that was handed out, by which arm and why.
    """

    def __init__(self, log: Path) -> None:
        super().__init__("Two of three by what is to be learned (planes, outline, flags, dose), the third by chance")
        self._log = log
        self._lock = threading.Lock()

    def __call__(self, request: dict[str, Any], datastore: StudyDatastore) -> dict[str, Any] | None:
        """Choose; what was handed to the same annotator and is not done yet is handed out again."""
        cases = todo(request, datastore)
        if not cases:
            return None
        with self._lock:
            offered = self.offered()
            user = str(request.get("user") or "")
            waiting = {row["image_id"]: row for row in offered if user and row["user"] == user}
            if again := next((case for case in cases if case.image_id in waiting), None):
                return answer(again, waiting[again.image_id]["reason"])
            case, row = _choose(cases, len(offered), len(datastore.cases()))
            self._remember({"time": datetime.now(UTC).isoformat(), "image_id": case.image_id, "user": user, **row})
        return answer(case, row["reason"])

    def offered(self) -> list[dict[str, Any]]:
        """What was handed out so far, oldest first; a line that a crash cut off is passed over."""
        try:
            lines = self._log.read_text("utf-8", "replace").splitlines()
        except FileNotFoundError:
            return []
        rows = []
        for line in lines:
            try:
                row = json.loads(line)
                rows.append({key: row[key] for key in ("time", "image_id", "user", "arm", "score", "reason")})
            except (ValueError, KeyError, TypeError):
                continue
        return rows

    def _remember(self, row: dict[str, Any]) -> None:
        try:
            disk.make_folder(self._log.parent)
            disk.append(self._log, json.dumps(row))
        except OSError as error:
            logger.warning("%s: can't be written: %s", self._log, error)

    def report(self, datastore: StudyDatastore) -> dict[str, ArmReport]:
        """What each arm brought."""
        arms: dict[str, list[tuple[bool, list[float]]]] = {}
        known = {case.image_id: case for case in datastore.cases()}
        last = {row["image_id"]: row for row in self.offered()}
        for image_id, row in last.items():
            if image_id not in known:
                continue
            after = [
                v for v in known[image_id].labels.versions() if not v.draft and v.created.isoformat() >= row["time"]
            ]
            changed = [_mean(list(v.changed.values())) for v in after if v.changed]
            arms.setdefault(row["arm"], []).append((bool(after), changed))
        return {arm: _brought(rows) for arm, rows in arms.items()}


def _brought(rows: Sequence[tuple[bool, Sequence[float]]]) -> ArmReport:
    changed = [value for _, own in rows for value in own]
    mean = round(_mean(changed), 4) if changed else None
    return ArmReport(offered=len(rows), submitted=sum(done for done, _ in rows), mean_changed=mean)


def _choose(cases: Sequence[Case], number: int, total: int) -> tuple[Case, dict[str, Any]]:
    """The ``number``-th CT to hand out, with its arm, score and reason."""
    chance = random.Random(number)
    if number < FIRST:
        case = cases[int(len(cases) * ((number * _GOLDEN) % 1))]
        return case, _row("strided", f"one of the first {FIRST}, in strides over {total} CTs")
    summaries = [(case, summary) for case in cases if (summary := _summary(case))]
    if not summaries or number % 3 == 2:
        empty = {case.image_id for case, summary in summaries if not _shows_something(summary)}
        shown = [case for case in cases if case.image_id not in empty] or list(cases)
        why = "drawn at random" if summaries else "no CT has a prediction to judge by: drawn at random"
        return chance.choice(shown), _row("random", f"{why} from {len(shown)}")
    scored = [(*score_of(summary), case) for case, summary in summaries]
    score, reason, case = max(scored, key=lambda row: row[0] + NOISE * _gumbel(chance))
    return case, _row("score", f"{reason}; score {score:.2f}, of {len(scored)} predictions", round(score, 3))


def _row(arm: str, reason: str, score: float | None = None) -> dict[str, Any]:
    return {"arm": arm, "score": score, "reason": reason}


def _gumbel(chance: random.Random) -> float:
    return -math.log(-math.log(chance.uniform(1e-9, 1 - 1e-9)))


def _shows_something(summary: Mapping[str, Any]) -> bool:
    return any(organ.get("volume_ml") for organ in summary["organs"].values())


def is_scored(case: Case, model_sha256: str) -> bool:
    """Whether a CT's stored prediction is one by three planes, of the model that answers."""
    summary = _summary(case)
    return summary is not None and summary.get("model_sha256") == model_sha256 and len(summary.get("planes", ())) == 3


def _summary(case: Case) -> dict[str, Any] | None:
    summary = case.labels.tag_info(ORIGINAL).get("params", {}).get("segmentation")
    return summary if isinstance(summary, dict) and "organs" in summary else None


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
