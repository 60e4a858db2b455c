"""What a reader must be told: alarms with a code, a severity, the numbers and a sentence, and the list of all codes.

An *alarm* says that a number is probably wrong until somebody has looked; a *warning* that it may be less certain than
it seems; a *note* what every careful report states. Alarms stand first wherever findings are shown. Whoever finds
something calls `finding` with a code of `CATALOGUE`; docs/study.md lists the codes, and a test holds it to that.

It knows codes and words; it does not know images, studies or doses.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Severity = Literal["alarm", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("alarm", "warning", "note")


class Alarm(BaseModel):
    """One finding.

    Attributes
    ----------
    code : str
        Of `CATALOGUE`; for programs.
    severity : {"alarm", "warning", "note"}
    sentence : str
        For people: what was found, what was expected, what it may be.
    numbers : dict
        The numbers of the sentence; units are in the keys (``total_mbq``, ``moved_mm``, ``factor``).
    organ, file : str
        What it is about, where it is about one.
    time_point : int, optional
        Counted from 0, as in study.json.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    code: str
    severity: Severity = "warning"
    sentence: str
    numbers: dict[str, float] = Field(default_factory=dict)
    organ: str = ""
    time_point: int | None = None
    file: str = ""

    @property
    def what_to_do(self) -> str:
        """The remedy that the catalogue gives; empty for a code of another version."""
        kind = CATALOGUE.get(self.code)
        return kind.what_to_do if kind else ""

    def __str__(self) -> str:
        return self.sentence

    def of_file(self, file: str) -> Alarm:
        """The same, said of a file."""
        return self.model_copy(update={"file": file, "sentence": f"{file}: {self.sentence}"})

    def __contains__(self, text: str) -> bool:
        """Whether the sentence says so, as of the plain sentences that have no code."""
        return text in self.sentence


@dataclass(frozen=True)
class Kind:
    """A row of the catalogue: how grave, what it means, what to do."""

    severity: Severity
    means: str
    what_to_do: str


_UNITS = "Export the SPECT in Bq/mL (DICOM: rescale slope and unit BQML), or correct the calibration; then check again."
_PLACE = (
    "Look at the overlay. Check that SPECT and CT are of one patient and session, and their orientation and spacing; "
    "then place the SPECT by hand and store the transform (spect_to_ct)."
)
_SIDES = "Look at the map on its CT: the names are exchanged, or one of them is mirrored. Correct it and save it again."
_NAMES = "Check which value is which organ (names in the file, --label-scheme), and the mask."
_CT_OF_MAP = "Look at the map on its CT; it was drawn on another one, moved, or resampled."

CATALOGUE: Mapping[str, Kind] = {
    # ---- activity: the study's images among themselves
    "activity-above-injected": Kind(
        "alarm", "A SPECT holds more activity than was injected and has not decayed yet.", _UNITS
    ),
    "activity-below-injected": Kind(
        "alarm", "The SPECTs hold so little of the injected activity that no patient explains it.", _UNITS
    ),
    "activity-in-becquerel-per-voxel": Kind("alarm", "The totals fit if values are Bq per voxel.", _UNITS),
    "activity-in-kilobecquerel": Kind("alarm", "The totals fit if values are kBq/mL.", _UNITS),
    "activity-in-megabecquerel": Kind("alarm", "The totals fit if values are MBq/mL.", _UNITS),
    "activity-per-minute": Kind("alarm", "The totals fit if values are 60 times too small.", _UNITS),
    "activity-per-second": Kind("alarm", "The totals fit if values are 60 times too large.", _UNITS),
    "activity-in-millicurie": Kind("alarm", "The totals fit if values are 0.37 times too small (Ci and Bq).", _UNITS),
    "activity-in-microcurie": Kind("alarm", "The totals fit if values are 27 times too small (Ci and Bq).", _UNITS),
    "activity-in-curie": Kind("alarm", "The totals fit if values are 37 times too large (Ci and Bq).", _UNITS),
    "activity-high-everywhere": Kind(
        "alarm",
        "Not only the hottest tissue, also a litre more holds far more activity than it usually does.",
        _UNITS,
    ),
    "injected-activity-unit": Kind(
        "alarm",
        "The SPECTs fit the injected activity if that was stated in GBq or mCi.",
        "injected_activity_mbq is in MBq: 7.4 GBq and 200 mCi are 7400.",
    ),
    "activity-unusually-low": Kind(
        "warning",
        "One SPECT holds a little less than any patient is known to; a patient of low uptake, or a scale too small.",
        _UNITS,
    ),
    "activity-unchecked": Kind(
        "note",
        "A field of view is too small to tell by its total whether its activity can be.",
        "Compare the scan's total with what your camera's calibration gives.",
    ),
    "activity-unusually-high": Kind(
        "warning", "The hottest tissue holds more than twice what kidneys and spleen usually do.", _UNITS
    ),
    "activity-in-counts": Kind(
        "alarm", "Too little activity, and only whole numbers: counts, or a slope not applied.", _UNITS
    ),
    "activity-decay-corrected": Kind(
        "alarm",
        "Totals do not fall with decay, or the noise grows as decay correction makes it: decay-corrected images.",
        "State decay_corrected_to (injection, or scan_start with scan_duration_min) in study.json, or export without "
        "decay correction.",
    ),
    "activity-rises": Kind(
        "alarm",
        "A later SPECT holds more activity than an earlier one leaves after physical decay.",
        "Check time_h (hours, not minutes) and which file belongs to which time; then the calibration of each scan.",
    ),
    "times-exchanged": Kind(
        "alarm",
        "Totals fall with time only if two time points exchange their SPECT.",
        "Check which SPECT belongs to which time_h.",
    ),
    "times-in-other-unit": Kind(
        "alarm",
        "Times are such as are usual in minutes, or the totals fall far faster or slower than any nuclide's decay.",
        "time_h is in hours from injection to the middle of the SPECT.",
    ),
    "spect-twice": Kind(
        "alarm",
        "Two time points have the same SPECT, as it is or multiplied by a factor.",
        "Put each time point's own SPECT in place.",
    ),
    "spect-clipped": Kind(
        "alarm",
        "Many voxels share the image's largest value: it was cut off there.",
        "Export with a rescale slope that holds the maximum, or as floating point.",
    ),
    "spect-negative": Kind(
        "note",
        "A reconstruction's noise has negative voxels; they are counted as zero.",
        "Nothing, unless their share is large: then ask how the image was reconstructed.",
    ),
    "scan-duration-unknown": Kind(
        "note",
        "Images are corrected to their scans' start, and the scans' duration is not stated.",
        "State scan_duration_min; of 177Lu half an hour is 0.1 %.",
    ),
    "dead-time-uncorrected": Kind(
        "warning",
        "A dead time or count rates are stated, and one of the two is missing: what is lost at high rates stays lost.",
        "State count_rate_cps of every scan, and the camera file's dead time (`doselabel calibrate dead-time`); images "
        "in Bq/mL are corrected by who made them.",
    ),
    "exclusion-empty": Kind(
        "warning",
        "A mask of what is not to be counted is empty: everything is counted.",
        "Draw it, or delete the entry.",
    ),
    # ---- one image: whether its voxels are a body's
    "image-size": Kind(
        "alarm",
        "An image covers less than a trunk, or more than a scanner: its voxel size is wrong, or not in mm.",
        "Export the image again with its voxel size in mm. Totals are not judged until then.",
    ),
    "image-planes-blank": Kind(
        "alarm",
        "Planes of an image hold one value only: voxels were missing when it was saved.",
        "Convert or export the image again, from a complete series.",
    ),
    "image-scrambled": Kind(
        "alarm",
        "Neighbouring planes or voxels are unlike each other: slices out of order, or a header of other sizes or type.",
        "Convert the series again, its slices ordered by position; check the header's sizes and data type.",
    ),
    "ct-scale": Kind(
        "alarm",
        "A CT has hardly anything near −1000 HU: its values are scaled or shifted.",
        "Apply the rescale slope and intercept of the DICOM files, once, and save again.",
    ),
    # ---- place: SPECT on masks, masks on masks
    "place-implausible": Kind(
        "alarm", "The SPECT's uptake does not fit the organs' masks, wherever it is moved; it was not moved.", _PLACE
    ),
    "place-far": Kind("alarm", "The SPECT would fit only after a move larger than a patient makes.", _PLACE),
    "place-turned": Kind("alarm", "The SPECT fits the masks far better upside down or mirrored.", _PLACE),
    "place-size": Kind("alarm", "The SPECT fits the masks far better with voxels of another size.", _PLACE),
    "place-moved": Kind("warning", "The SPECT was moved onto the organs' masks.", "Look at the overlay."),
    "place-unchecked": Kind("warning", "The SPECT's place could not be checked against the masks.", _PLACE),
    "mask-volume-differs": Kind(
        "alarm",
        "An organ's mask at a time point is much smaller or larger than on the diagnostic CT.",
        "Correct the mask, or leave the time point's map out: the diagnostic CT's is then brought over.",
    ),
    "mask-cut": Kind(
        "alarm",
        "An organ touches the edge of a time point's CT and has lost volume: part of it is outside.",
        "Leave the organ or the time point out, or use a CT that holds the whole organ.",
    ),
    "organ-failed": Kind(
        "alarm",
        "An organ could not be computed; the others are as if it had not been asked for.",
        "Mend what the sentence names, or leave the organ out.",
    ),
    "point-off-curve": Kind(
        "warning",
        "One organ's activity at one time point lies more than three standard deviations off its curve.",
        "Look at that time point's mask, registration and calibration; the sentence says what leaving it out changes.",
    ),
    "time-point-off": Kind(
        "alarm",
        "One time point is off in all organs by one common factor.",
        "Check that scan's calibration, its time_h, its duration and its dead time.",
    ),
    # ---- several cycles
    "course-incomplete": Kind(
        "alarm",
        "A cycle is not among those added up: sums are too low, and what remains to a limit too high.",
        "Compute the missing cycle's doses into the course's folder.",
    ),
    "limit-near": Kind(
        "alarm",
        "A limit on a sum over cycles is reached, or less than one standard uncertainty away.",
        "Look at the organ's dose of each cycle and what its uncertainty comes from.",
    ),
    # ---- label maps, wherever one enters
    "label-sides-exchanged": Kind("alarm", "The left kidney's mask lies to the right of the right kidney's.", _SIDES),
    "label-wrong-side": Kind("alarm", "An organ's mask lies on the side of the body where it is not.", _SIDES),
    "label-volume-implausible": Kind("alarm", "A mask is too small or too large for the organ it is called.", _NAMES),
    "label-wrong-tissue": Kind("alarm", "A mask lies on air, fat or bone.", _CT_OF_MAP),
    "label-outside-body": Kind("alarm", "A mask lies outside the patient's body.", _CT_OF_MAP),
    "label-unread": Kind(
        "warning",
        "What was sent under another tag than 'final' is kept as an image: it can't be read as a label map of its CT.",
        "Nothing, if it is no label map; else mend what the sentence names, and send it again.",
    ),
    "label-empty": Kind("alarm", "A label map shows nothing.", "Draw the organs, or leave the map out."),
    "label-volume-unusual": Kind("warning", "An organ's volume is rare in adults.", "Look at the mask."),
    "label-cut": Kind(
        "warning",
        "A mask ends at the image's edge: volume and mass are too small if the organ goes on.",
        "Use a CT that holds the whole organ, or leave the organ out.",
    ),
    "label-kidneys-parted": Kind(
        "warning", "Both kidneys had one value; they were parted by their sides.", "Look at the two masks."
    ),
    "label-segments-overlap": Kind(
        "warning",
        "Segments overlap; a voxel was given to the smaller one.",
        "Let no voxel be in two segments, unless the smaller one is a lesion inside the larger.",
    ),
    "label-segment-empty": Kind(
        "warning", "A segment has a name and no voxels.", "Draw it, or delete it if the patient has none."
    ),
    "label-values-joined": Kind("note", "Several values have the name of one organ; they were joined.", _NAMES),
    "label-numbering-assumed": Kind(
        "note", "A map without names was read by our own numbering, which its anatomy fits.", _NAMES
    ),
}
"""Code → what it means. Codes are never given another meaning."""


def finding(
    code: str,
    sentence: str,
    *,
    numbers: Mapping[str, float] | None = None,
    organ: str = "",
    time_point: int | None = None,
    file: str = "",
) -> Alarm:
    """Make an alarm of a code in the catalogue, which gives its severity (see `Alarm` for the rest)."""
    return Alarm(
        code=code,
        severity=CATALOGUE[code].severity,
        sentence=sentence,
        numbers={key: float(value) for key, value in (numbers or {}).items()},
        organ=organ,
        time_point=time_point,
        file=file,
    )


def ordered(findings: Iterable[Alarm]) -> list[Alarm]:
    """The gravest first, otherwise as they come, each once."""
    unique: list[Alarm] = []
    for alarm in findings:
        if alarm not in unique:
            unique.append(alarm)
    return sorted(unique, key=lambda alarm: SEVERITIES.index(alarm.severity))


def told(findings: Iterable[Alarm | str]) -> tuple[list[Alarm], list[str]]:
    """Findings in order of gravity, and the sentences of all with those that have no code, alarms first, notes last.

    Examples
    --------
    >>> told(["routine", finding("spect-clipped", "cut off"), finding("spect-negative", "a few"), "routine"])[1]
    ['cut off', 'routine', 'a few']
    """
    mixed = list(findings)
    coded = ordered(f for f in mixed if isinstance(f, Alarm))
    grave = [f.sentence for f in coded if f.severity != "note"]
    notes = [f.sentence for f in coded if f.severity == "note"]
    plain = [f for f in mixed if isinstance(f, str) and f not in notes]
    return coded, list(dict.fromkeys([*grave, *plain, *notes]))


def table() -> str:
    """The catalogue as a Markdown table, as docs/study.md holds it."""
    rows = ["| code | severity | what it means | what to do |", "|---|---|---|---|"]
    in_order = sorted(CATALOGUE.items(), key=lambda item: SEVERITIES.index(item[1].severity))
    rows += [f"| `{code}` | {kind.severity} | {kind.means} | {kind.what_to_do} |" for code, kind in in_order]
    return "\n".join(rows)
