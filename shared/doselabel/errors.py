"""The one family of errors, and the convention for progress and cancel. Knows nothing of what fails.

Every message says what was found and what was expected; ``hint`` says what to do about it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

Progress = Callable[[str, float], None]
"""Called as ``progress(stage, fraction)`` with 0 <= fraction <= 1; it may raise `Cancelled` to stop the work."""


Watch = Callable[[Mapping[str, float]], None]
"""Called with figures on the way, such as ``{"step": 20, "loss": 1.3}``."""


def no_progress(stage: str, fraction: float) -> None:
    """Report progress to nobody."""


class Cancelled(Exception):
    """Raised by a progress callback to stop the work; never an error, never swallowed."""


def part(progress: Progress, low: float, high: float) -> Progress:
    """Progress of a part of the work, told as a fraction of the whole."""
    return lambda stage, fraction: progress(stage, low + (high - low) * fraction)


class DoselabelError(Exception):
    """Base of all errors a user can cause or mend.

    Parameters
    ----------
    message : str
        What was found and what was expected, naming file and field where there is one.
    hint : str, optional
        What to do about it.
    """

    code = "error"

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message, hint)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()


class StudyError(DoselabelError):
    """A study folder or its manifest is not as described in `doselabel.study`."""

    code = "study"


class GeometryError(DoselabelError):
    """An image can't be read, or two images don't lie where they should."""

    code = "geometry"


class OffGridError(GeometryError):
    """A label map lies elsewhere than the CT that it is for."""


class LabelError(DoselabelError):
    """A label map holds values or names that the label table does not."""

    code = "label"


class ModelError(DoselabelError):
    """A checkpoint, or what the network is asked to look at, is not usable."""

    code = "model"


class KernelError(DoselabelError):
    """A dose kernel is missing, damaged, or does not conserve energy."""

    code = "kernel"


class VoiError(DoselabelError):
    """A volume of interest is empty or outside the image."""

    code = "voi"


class RegistrationError(DoselabelError):
    """SPECT and CT could not be brought together."""

    code = "registration"


class FitError(DoselabelError):
    """Time points can't be fitted by the chosen curve."""

    code = "fit"


class DoseError(DoselabelError):
    """Activities, masses or options don't allow a dose to be computed."""

    code = "dose"


class CalibrationError(DoselabelError):
    """A camera file, or a phantom's scan, does not give the factor asked for."""

    code = "calibration"


class DicomError(DoselabelError):
    """DICOM objects can't be read, don't belong together, or don't say what a dose needs."""

    code = "dicom"


class ServerError(DoselabelError):
    """A server is unreachable, refuses, or answers what it should not."""

    code = "server"
