"""Contours (RTSTRUCT), the dose map (RTDOSE) and the report (encapsulated PDF) as DICOM objects.

Contours run along the edges of voxels: whoever fills them by voxel centres, even–odd, gets the masks back exactly.
"""

from __future__ import annotations

from collections import defaultdict
from datetime import datetime
from typing import TYPE_CHECKING

import numpy as np
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid

from doselabel import __version__
from doselabel.dicom.need import Dataset
from doselabel.dicom.write_seg import LESION, MAKER, kind_of
from doselabel.errors import DicomError
from doselabel.labels import region, title

if TYPE_CHECKING:
    from doselabel.dicom.export import Material

_COPIED = ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyInstanceUID", "StudyDate", "StudyTime",
           "StudyID", "AccessionNumber", "ReferringPhysicianName")  # fmt: skip
_LEVELS = 4_000_000_000


def _begun(made: Material, sop: str, modality: str, number: int, description: str) -> FileDataset:
    """An object of the source's patient and study."""
    meta, now, source = FileMetaDataset(), datetime.now(), made.images[0]
    meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = UID(sop), ExplicitVRLittleEndian
    meta.MediaStorageSOPInstanceUID = generate_uid()
    ds = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    ds.is_little_endian, ds.is_implicit_VR = True, False
    ds.SOPClassUID, ds.SOPInstanceUID = sop, meta.MediaStorageSOPInstanceUID
    for keyword in _COPIED:
        setattr(ds, keyword, source.get(keyword, ""))
    ds.SpecificCharacterSet = source.get("SpecificCharacterSet", "ISO_IR 192")
    ds.InstanceCreationDate, ds.InstanceCreationTime = now.strftime("%Y%m%d"), now.strftime("%H%M%S")
    ds.SeriesDate, ds.SeriesTime = ds.InstanceCreationDate, ds.InstanceCreationTime
    ds.Modality, ds.SeriesInstanceUID, ds.SeriesNumber, ds.InstanceNumber = modality, generate_uid(), number, 1
    ds.Manufacturer, ds.ManufacturerModelName, ds.SoftwareVersions = MAKER, "doselabel", __version__
    ds.SeriesDescription, ds.DeviceSerialNumber, ds.OperatorsName = description, "0", ""
    return ds


def _reference(image: Dataset) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = image.SOPClassUID, image.SOPInstanceUID
    return item


def structures(made: Material) -> Dataset:
    """A structure set: closed planar contours of each organ on the source's slices."""
    ds = _begun(made, "1.2.840.10008.5.1.4.1.1.481.3", "RTSTRUCT", 9003, "doselabel contours")
    ds.StructureSetLabel, ds.StructureSetName = "doselabel", "Organs of the dose calculation"
    ds.StructureSetDate, ds.StructureSetTime = ds.InstanceCreationDate, ds.InstanceCreationTime
    series, study, frame = Dataset(), Dataset(), Dataset()
    series.SeriesInstanceUID = made.images[0].SeriesInstanceUID
    series.ContourImageSequence = Sequence([_reference(image) for image in made.images])
    study.ReferencedSOPClassUID = "1.2.840.10008.3.1.2.3.1"
    study.ReferencedSOPInstanceUID = made.images[0].StudyInstanceUID
    study.RTReferencedSeriesSequence = Sequence([series])
    frame.FrameOfReferenceUID = made.images[0].FrameOfReferenceUID
    frame.RTReferencedStudySequence = Sequence([study])
    ds.FrameOfReferenceUID, ds.PositionReferenceIndicator = frame.FrameOfReferenceUID, ""
    ds.ReferencedFrameOfReferenceSequence = Sequence([frame])
    rois, contours, observations = [], [], []
    for number, name in enumerate(made.labels.present(), start=1):
        roi, contour, observed = Dataset(), Dataset(), Dataset()
        roi.ROINumber, roi.ROIName, roi.ROIGenerationAlgorithm = number, name, "SEMIAUTOMATIC"
        roi.ReferencedFrameOfReferenceUID = frame.FrameOfReferenceUID
        colour = region(name).color.lstrip("#")
        contour.ROIDisplayColor = [int(colour[i : i + 2], 16) for i in (0, 2, 4)]
        contour.ReferencedROINumber = number
        contour.ContourSequence = Sequence(_contours(made, made.planes == made.labels.value(name)))
        observed.ObservationNumber = observed.ReferencedROINumber = number
        observed.ROIObservationLabel, observed.ROIInterpreter = title(name)[:16], ""
        observed.RTROIInterpretedType = "GTV" if kind_of(name)[0] is LESION else "ORGAN"
        rois.append(roi)
        contours.append(contour)
        observations.append(observed)
    ds.StructureSetROISequence, ds.ROIContourSequence = Sequence(rois), Sequence(contours)
    ds.RTROIObservationsSequence, ds.ApprovalStatus = Sequence(observations), "UNAPPROVED"
    return ds


def _contours(made: Material, mask: np.ndarray) -> list[Dataset]:
    found = []
    for z in np.flatnonzero(mask.any(axis=(1, 2))):
        plane = made.stack.planes[z]
        for corners in outlines(mask[z]):
            points = (
                plane.position_mm
                + corners[:, 1:] * plane.spacing_mm[1] * plane.orientation[0]
                + corners[:, :1] * plane.spacing_mm[0] * plane.orientation[1]
            )
            item = Dataset()
            item.ContourImageSequence = Sequence([_reference(made.images[z])])
            item.ContourGeometricType, item.NumberOfContourPoints = "CLOSED_PLANAR", len(points)
            item.ContourData = [f"{v:.4f}" for v in points.ravel()]
            found.append(item)
    return found


def outlines(mask: np.ndarray) -> list[np.ndarray]:
    """Closed loops along the edges of a mask's pixels, (n, 2) rows and columns of corners; holes are loops, too.

    Examples
    --------
    >>> outlines(np.array([[True]]))[0].tolist()
    [[-0.5, -0.5], [-0.5, 0.5], [0.5, 0.5], [0.5, -0.5]]
    """
    padded = np.pad(mask.astype(bool), 1)
    core = padded[1:-1, 1:-1]
    edges: dict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
    for neighbour, start, end in (
        (padded[:-2, 1:-1], (0, 0), (0, 1)),
        (padded[1:-1, 2:], (0, 1), (1, 1)),
        (padded[2:, 1:-1], (1, 1), (1, 0)),
        (padded[1:-1, :-2], (1, 0), (0, 0)),
    ):
        for row, column in np.argwhere(core & ~neighbour):
            edges[row + start[0], column + start[1]].append((row + end[0], column + end[1]))
    loops = []
    while edges:
        first = next(iter(edges))
        loop, here = [first], first
        while True:
            ends = edges[here]
            there = ends.pop()
            if not ends:
                del edges[here]
            if there == first:
                break
            loop.append(there)
            here = there
        corners = np.array(loop)
        turns = np.any(np.roll(corners, -1, 0) - corners != corners - np.roll(corners, 1, 0), axis=1)
        loops.append(corners[turns] - 0.5)
    return loops


def dose(made: Material) -> Dataset:
    """The dose map in Gy, 32 bits a voxel, frames upwards along the normal of rows and columns."""
    ds = _begun(made, "1.2.840.10008.5.1.4.1.1.481.2", "RTDOSE", 9004, "doselabel absorbed dose")
    array, grid = made.dose.array, made.dose.geometry
    axes = np.reshape(grid.direction, (3, 3)).T
    origin = np.asarray(grid.origin_mm)
    if np.dot(np.cross(axes[0], axes[1]), axes[2]) < 0:
        origin = grid.index_to_lps(np.array([grid.shape[0] - 1, 0, 0]))
        array = array[::-1]
    scaling = f"{max(float(array.max()), 1e-6) / _LEVELS:.9e}"
    ds.FrameOfReferenceUID, ds.PositionReferenceIndicator = made.images[0].FrameOfReferenceUID, ""
    ds.ImagePositionPatient = [f"{v:.6f}" for v in origin]
    ds.ImageOrientationPatient = [f"{v:.9g}" for v in axes[:2].ravel()]
    ds.PixelSpacing = [f"{grid.spacing_mm[1]:.9g}", f"{grid.spacing_mm[2]:.9g}"]
    ds.SliceThickness, ds.FrameIncrementPointer = f"{grid.spacing_mm[0]:.9g}", 0x3004000C
    ds.GridFrameOffsetVector = [f"{i * grid.spacing_mm[0]:.6f}" for i in range(grid.shape[0])]
    ds.NumberOfFrames, ds.Rows, ds.Columns = array.shape
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PixelRepresentation = 1, "MONOCHROME2", 0
    ds.BitsAllocated = ds.BitsStored = 32
    ds.HighBit, ds.DoseUnits, ds.DoseType, ds.DoseSummationType = 31, "GY", "PHYSICAL", "PLAN"
    ds.DoseComment = f"{made.results.nuclide}; research use only"
    ds.DoseGridScaling = scaling
    ds.ReferencedImageSequence = Sequence([_reference(image) for image in made.images])
    ds.PixelData = np.rint(np.maximum(array, 0).astype(np.float64) / float(scaling)).astype("<u4").tobytes()
    return ds


def report(made: Material) -> Dataset:
    """The dose folder's report.pdf, encapsulated."""
    path = made.folder / "report.pdf"
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DicomError(f"{path}: can't be read.", "Run `doselabel report` first, or export without pdf.") from error
    ds = _begun(made, "1.2.840.10008.5.1.4.1.1.104.1", "DOC", 9005, "doselabel report")
    ds.ConversionType, ds.BurnedInAnnotation, ds.MIMETypeOfEncapsulatedDocument = "WSD", "YES", "application/pdf"
    ds.ContentDate, ds.ContentTime, ds.AcquisitionDateTime = ds.InstanceCreationDate, ds.InstanceCreationTime, ""
    ds.DocumentTitle, ds.ConceptNameCodeSequence = "Dosimetry report (research use only)", Sequence([])
    ds.EncapsulatedDocumentLength = len(content)
    ds.EncapsulatedDocument = content + b"\0" * (len(content) % 2)
    ds.SourceInstanceSequence = Sequence([_reference(image) for image in made.images[:1]])
    return ds
