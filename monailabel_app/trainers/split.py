"""Which patients are never trained on: a list on disk that stays as it is once it is there. Knows the list alone.

Somebody may write it by hand. Where nobody did, one is drawn when there are enough labelled patients: by the hash of
their ids, so that the same patients give the same list, and no later patient changes it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from doselabel import disk
from doselabel.errors import StudyError

VALIDATION = "validation.json"
"""``{"patients": ["P-001", …]}`` in the studies folder."""

LEAST_LABELLED = 15
"""With fewer labelled patients none is drawn: training needs them more."""
LEAST, SHARE = 5, 0.2


def validation_patients(studies: Path) -> tuple[str, ...]:
    """Patients that the studies folder keeps for validation.

    Raises
    ------
    StudyError
        When the list is there and can't be read.
    """
    path = studies / VALIDATION
    if not path.is_file():
        return ()
    try:
        return tuple(str(name) for name in json.loads(path.read_text("utf-8"))["patients"])
    except (ValueError, KeyError, TypeError) as error:
        raise StudyError(
            f"{path}: is not a list of patients ({error}).", 'Expected {"patients": ["P-001", "P-002"]}.'
        ) from error


def fix_split(studies: Path, labelled: Sequence[str]) -> None:
    """Draw the list unless there is one, or there are too few patients.

    Parameters
    ----------
    studies : Path
    labelled : sequence of str
        Patients with a label map that counts.
    """
    path = studies / VALIDATION
    if not path.exists() and len(patients := set(labelled)) >= LEAST_LABELLED:
        drawn = sorted(patients, key=_draw)[: max(LEAST, round(SHARE * len(patients)))]
        row = {"patients": sorted(drawn), "drawn": datetime.now(UTC).isoformat(), "from": len(patients)}
        disk.write(path, json.dumps(row, indent=2) + "\n")


def _draw(patient: str) -> str:
    return hashlib.sha256(patient.encode()).hexdigest()
