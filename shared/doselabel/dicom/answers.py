"""What a user states where files are silent: by flags, a small YAML file, or answers on a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
import yaml
from pydantic import BaseModel, ConfigDict, Field

from doselabel.errors import DicomError
from doselabel.manifest import explain

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Answers(BaseModel):
    """Answers; None where the files are to say it. Series are numbered as in the plan's table."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    patient: str | None = Field(None, description="PatientID of the one to import, when SRC holds several")
    patient_id: str | None = Field(None, description="pseudonym instead of the one that is made")
    nuclide: str | None = Field(None, description="Lu-177, Y-90 or I-131")
    injected_activity_mbq: Annotated[float, Field(gt=0, le=1e6)] | None = Field(
        None, description="MBq at the injection"
    )
    injection_time: datetime | None = Field(None, description="such as 2026-03-02T09:15")
    unit: Literal["Bq/mL", "counts", "counts/s"] | None = Field(None, description="of SPECTs that state none")
    camera: Path | None = Field(None, description="camera file (doselabel calibrate), for SPECTs in counts")
    scan_duration_min: Positive | None = Field(None, description="minutes of each SPECT that does not state it")
    decay_corrected_to: Literal["none", "injection", "scan_start"] | None = Field(
        None, description="of SPECTs that do not state DecayCorrection"
    )
    scan_start: dict[int, datetime] = Field(
        default_factory=dict, description="series number: time, of SPECTs that do not state AcquisitionDate and Time"
    )
    leave_out: list[int] = Field(default_factory=list, description="numbers of series that are not to be imported")
    diagnostic: int | None = Field(None, description="number of the CT that masses come from")
    allow_uncorrected: bool = Field(False, description="take a SPECT that is not corrected for attenuation")

    @classmethod
    def read(cls, path: Path | None, given: Mapping[str, Any]) -> Answers:
        """A YAML file, and flags that count more than it.

        Raises
        ------
        DicomError
            Naming file and field.
        """
        content: Any = {}
        if path is not None:
            try:
                content = yaml.safe_load(path.read_text("utf-8")) or {}
            except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
                raise DicomError(f"{path}: can't be read ({error}).", "Give a YAML file of answers.") from error
            if not isinstance(content, dict):
                raise DicomError(
                    f"{path}: holds no answers; expected 'name: value' lines.", "docs/clinic.md shows one."
                )
        try:
            return cls.model_validate({**content, **{k: v for k, v in given.items() if v not in (None, [], {}, False)}})
        except pydantic.ValidationError as error:
            said = "; ".join(explain(e) for e in error.errors(include_url=False))
            raise DicomError(f"{path or 'answers'}: {said}.", "Correct it; docs/clinic.md lists all.") from error


@dataclass(frozen=True)
class Question:
    """What must be known, why it is asked, and which flag answers it."""

    field: str
    text: str
    flag: str
