"""The libraries of the extra ``dicom``, or a sentence that says how to get them."""

from __future__ import annotations

from doselabel.errors import DicomError

try:
    import pydicom
    from pydicom.dataset import Dataset
    from pydicom.filereader import read_partial
except ImportError as error:  # the base install has no pydicom
    raise DicomError(
        f"DICOM can't be read: the library '{error.name}' is not installed.",
        "Install the extra: pip install 'doselabel[dicom]'.",
    ) from error

__all__ = ["Dataset", "pydicom", "read_partial"]
