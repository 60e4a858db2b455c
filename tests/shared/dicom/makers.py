"""A small patient as NIfTI study and as DICOM objects, the way scanners and workstations write them."""

from __future__ import annotations

import gzip
import math
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom")
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset  # noqa: E402
from pydicom.sequence import Sequence  # noqa: E402
from pydicom.uid import ExplicitVRLittleEndian, generate_uid  # noqa: E402

from doselabel.geometry import Geometry, Volume, write_image  # noqa: E402
from doselabel.labels import LabelMap, write_labels  # noqa: E402
from doselabel.nuclides import nuclide  # noqa: E402
from doselabel.study import Study, TimePoint  # noqa: E402

CT_SOP, NM_SOP, PET_SOP = (f"1.2.840.10008.5.1.4.1.1.{end}" for end in ("2", "20", "128"))
CT_GRID = Geometry((30, 40, 48), (6.0, 8.0, 8.0), (-188.0, -156.0, -90.0))
SPECT_GRID = Geometry((24, 36, 40), (8.0, 9.6, 9.6), (-187.2, -168.0, -92.0))
INJECTED_AT = datetime(2026, 3, 2, 9, 15)
TIMES_H = (4.0, 24.0, 96.0)
SCAN_MIN = 20.0

# What no written file may hold: each too long, and none of digits alone, to turn up in voxels or a fresh UID by chance.
PATIENT_ID = "MRN-0047-11"
PATIENT_NAME = "Doelittle^Jane"
INSTITUTION = "St. Elsewhere"
ACTIVITY_MBQ = 7400.0
LAMBDA = nuclide("Lu-177").decay_constant_per_h


def labels_array() -> np.ndarray:
    labels = np.zeros(CT_GRID.shape, np.uint8)
    labels[8:18, 20:28, 34:40] = 1
    labels[8:18, 20:28, 8:14] = 2
    labels[16:28, 8:24, 6:22] = np.where(labels[16:28, 8:24, 6:22] == 0, 3, labels[16:28, 8:24, 6:22])
    return labels


def ct_volume(noise: int = 0) -> Volume:
    hu = np.full(CT_GRID.shape, -1000.0)
    hu[:, 4:36, 3:45] = 20
    hu[labels_array() > 0] = 55
    hu[:, 28:33, 22:26] = 400
    hu += np.random.default_rng(noise).normal(0, 8, hu.shape)
    return Volume(np.maximum(np.rint(hu), -1024).astype(np.int16), CT_GRID)


def spect_volume(time_h: float) -> Volume:
    """Bq/mL at the middle of the scan."""
    from doselabel.geometry import resample

    values = np.where(labels_array() == 0, 0.0, np.where(labels_array() == 3, 1.5e5, 8e5))
    values[(ct_volume().array > -500) & (values == 0)] = 1.2e4
    smooth = resample(Volume(values.astype(np.float32), CT_GRID), SPECT_GRID)
    return Volume((smooth.array * math.exp(-time_h * (LAMBDA + 0.008))).astype(np.float32), SPECT_GRID)


def start_of(time_h: float) -> datetime:
    return INJECTED_AT + timedelta(hours=time_h) - timedelta(minutes=SCAN_MIN / 2)


def nifti_study(folder: Path) -> Study:
    write_image(folder / "ct.nii.gz", ct_volume(9))
    points = []
    for i, time_h in enumerate(TIMES_H, start=1):
        write_image(folder / f"ct_tp{i}.nii.gz", ct_volume(i))
        write_image(folder / f"spect_tp{i}.nii.gz", spect_volume(time_h))
        points.append(TimePoint(time_h=time_h, ct=f"ct_tp{i}.nii.gz", spect=f"spect_tp{i}.nii.gz"))
    study = Study(
        patient_id=folder.name, nuclide="Lu-177", injected_activity_mbq=ACTIVITY_MBQ, injection_time=INJECTED_AT,
        ct="ct.nii.gz", time_points=points,
    )  # fmt: skip
    study.save(folder)
    return Study.load(folder)


def write_masks(study: Study) -> None:
    for ct in study.cts().values():
        name = Path(ct).name
        write_labels(study.folder / "labels" / "drawn" / name, LabelMap(labels_array(), CT_GRID))


def files_that_hold(folder: Path, *secrets: str) -> list[tuple[str, str]]:
    """Which files below a folder, unpacked, hold which of the texts."""
    contents = {
        str(f.relative_to(folder)): gzip.decompress(f.read_bytes()) if f.suffix == ".gz" else f.read_bytes()
        for f in folder.rglob("*")
        if f.is_file()
    }
    return [(name, secret) for name, held in contents.items() for secret in secrets if secret.encode() in held]


# ---- DICOM


def base(sop: str, at: datetime | None, patient: str = PATIENT_ID, **more: object) -> FileDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = sop, ExplicitVRLittleEndian
    meta.MediaStorageSOPInstanceUID = generate_uid()
    ds = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    ds.is_little_endian, ds.is_implicit_VR = True, False
    ds.SOPClassUID, ds.SOPInstanceUID = sop, meta.MediaStorageSOPInstanceUID
    ds.PatientID, ds.PatientName, ds.PatientBirthDate, ds.PatientSex = patient, PATIENT_NAME, "19600101", "F"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = generate_uid(), generate_uid()
    ds.FrameOfReferenceUID = generate_uid()
    ds.StudyDate = ds.SeriesDate = ds.ContentDate = "20260401"  # reconstructed weeks later
    ds.StudyTime, ds.AccessionNumber, ds.ReferringPhysicianName, ds.StudyID = "120000", "", "", "1"
    if at is not None:
        ds.AcquisitionDate, ds.AcquisitionTime = at.strftime("%Y%m%d"), at.strftime("%H%M%S.%f")
    ds.InstanceNumber, ds.SeriesNumber, ds.Manufacturer, ds.InstitutionName = 1, 1, "Maker", INSTITUTION
    for keyword, value in more.items():
        setattr(ds, keyword, value)
    return ds


def pixels(ds: FileDataset, stored: np.ndarray) -> FileDataset:
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Rows, ds.Columns = stored.shape[-2:]
    ds.BitsAllocated = ds.BitsStored = 16
    ds.HighBit, ds.PixelRepresentation = 15, int(stored.dtype.kind == "i")
    if stored.ndim == 3:
        ds.NumberOfFrames = len(stored)
    ds.PixelData = stored.astype(stored.dtype.newbyteorder("<")).tobytes()
    return ds


def isotope(activity: float | None, at: datetime | None = INJECTED_AT, name: str = "^177^Lutetium") -> Sequence:
    item, code = Dataset(), Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "C-163AA", "SRT", name
    item.RadionuclideCodeSequence = Sequence([code])
    if activity is not None:
        item.RadionuclideTotalDose = activity
    if at is not None:
        item.RadiopharmaceuticalStartDateTime = at.strftime("%Y%m%d%H%M%S")
    return Sequence([item])


def ct_slices(volume: Volume, at: datetime | None, **more: object) -> list[FileDataset]:
    series, study, frame = generate_uid(), generate_uid(), more.pop("FrameOfReferenceUID", generate_uid())
    slices = []
    for z, plane in enumerate(volume.array):
        ds = base(CT_SOP, at, Modality="CT", ImageType=["ORIGINAL", "PRIMARY", "AXIAL"], **more)
        ds.SeriesInstanceUID, ds.StudyInstanceUID, ds.FrameOfReferenceUID = series, study, frame
        place(ds, volume.geometry, z)
        ds.InstanceNumber, ds.SliceThickness = len(volume.array) - z, 2.0  # against z, and not the distance
        ds.RescaleSlope, ds.RescaleIntercept, ds.PatientPosition = 1, -1024, "FFS"
        slices.append(pixels(ds, (plane.astype(np.int32) + 1024).astype(np.int16)))
    return slices


def place(ds: Dataset, grid: Geometry, z: int) -> None:
    ds.ImagePositionPatient = [round(float(v), 6) for v in grid.index_to_lps(np.array([z, 0, 0]))]
    ds.ImageOrientationPatient = [float(v) for v in np.reshape(grid.direction, (3, 3)).T[:2].ravel()]
    ds.PixelSpacing = [grid.spacing_mm[1], grid.spacing_mm[2]]


def nm(
    volume: Volume, at: datetime | None, *, down: bool = False, scale: str = "rescale", **more: object
) -> FileDataset:
    """Reconstructed NM, one object; ``down`` stacks against the normal; ``scale``: rescale, rwvm, counts."""
    ds = base(NM_SOP, at, Modality="OT", ImageType=["DERIVED", "PRIMARY", "RECON TOMO", "EMISSION"])
    array = volume.array[::-1] if down else volume.array
    factor = float(array.max()) / 32000
    detector = Dataset()
    place(detector, volume.geometry, len(array) - 1 if down else 0)
    del detector.PixelSpacing
    ds.DetectorInformationSequence, ds.NumberOfDetectors = Sequence([detector]), 1
    ds.PixelSpacing = [volume.geometry.spacing_mm[1], volume.geometry.spacing_mm[2]]
    ds.SpacingBetweenSlices = volume.geometry.spacing_mm[0] * (-1 if down else 1)
    ds.SliceThickness, ds.SliceVector = abs(ds.SpacingBetweenSlices), list(range(1, len(array) + 1))
    ds.NumberOfSlices, ds.FrameIncrementPointer = len(array), 0x00540080
    rotation = Dataset()
    rotation.NumberOfFramesInRotation, rotation.ActualFrameDuration = 120, int(SCAN_MIN * 60_000 / 60)
    rotation.ScanArc, rotation.AngularStep = 180, 3
    ds.RotationInformationSequence, ds.NumberOfDetectors = Sequence([rotation]), 2
    ds.RadiopharmaceuticalInformationSequence = isotope(ACTIVITY_MBQ)
    ds.CorrectedImage = ["ATTN", "SCAT"]
    if scale in ("rescale", "rwvm"):
        ds.RescaleSlope, ds.RescaleIntercept, ds.Units = f"{factor:.10g}", 0, "BQML"
    if scale == "rwvm":
        del ds.RescaleSlope, ds.RescaleIntercept, ds.Units
        ds.RealWorldValueMappingSequence = Sequence([mapping("Bq/ml", factor)])
    if scale == "counts":
        factor = 1.0
    for keyword, value in more.items():
        setattr(ds, keyword, value)
    return pixels(ds, np.rint(array / factor).astype(np.int16 if factor != 1.0 else np.uint16))


def mapping(unit: str, slope: float) -> Dataset:
    item, code = Dataset(), Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = unit, "UCUM", unit
    item.MeasurementUnitsCodeSequence, item.LUTLabel = Sequence([code]), unit
    item.RealWorldValueSlope, item.RealWorldValueIntercept = slope, 0.0
    item.add_new(0x00409216, "SS", 0)
    item.add_new(0x00409211, "SS", 32767)
    return item


def pet(volume: Volume, at: datetime, decay: str, **more: object) -> list[FileDataset]:
    """Slice-wise SPECT in the dress of a PET, each slice with its own slope."""
    series, frame = generate_uid(), more.pop("FrameOfReferenceUID", generate_uid())
    slices = []
    for z, plane in enumerate(volume.array):
        ds = base(PET_SOP, at, Modality="PT", ImageType=["ORIGINAL", "PRIMARY"])
        ds.SeriesInstanceUID, ds.FrameOfReferenceUID, ds.SeriesType = series, frame, ["STATIC", "IMAGE"]
        place(ds, volume.geometry, z)
        slope = max(float(plane.max()), 1e-3) / 32000
        ds.Units, ds.DecayCorrection, ds.CorrectedImage = "BQML", decay, ["DECY", "ATTN", "SCAT"]
        ds.RescaleSlope, ds.RescaleIntercept, ds.NumberOfSlices = f"{slope:.10g}", 0, len(volume.array)
        ds.ActualFrameDuration, ds.InstanceNumber = int(SCAN_MIN * 60_000), z + 1
        ds.RadiopharmaceuticalInformationSequence = isotope(ACTIVITY_MBQ * 1e6)
        for keyword, value in more.items():
            setattr(ds, keyword, value)
        slices.append(pixels(ds, np.rint(plane / slope).astype(np.int16)))
    return slices


def save(folder: Path, objects: list[FileDataset], name: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for i, ds in enumerate(objects):
        ds.save_as(folder / f"{name}_{i:03d}.dcm", write_like_original=False)
    return folder


def patient(folder: Path, spect: str = "nm") -> Path:
    """The whole patient: a diagnostic CT, and a low-dose CT and a SPECT per time point."""
    save(folder, ct_slices(ct_volume(9), INJECTED_AT - timedelta(days=6), ContrastBolusAgent="yes"), "diag")
    for i, time_h in enumerate(TIMES_H, start=1):
        frame, start, volume = generate_uid(), start_of(time_h), spect_volume(time_h)
        save(folder, ct_slices(ct_volume(i), start + timedelta(minutes=25), FrameOfReferenceUID=frame), f"ct{i}")
        if spect.startswith("pet"):
            kind = spect.partition(" ")[2]
            hours = {"NONE": 0.0, "START": SCAN_MIN / 120, "ADMIN": time_h}[kind]
            corrected = Volume(volume.array * math.exp(LAMBDA * hours), volume.geometry)
            save(folder, pet(corrected, start, kind, FrameOfReferenceUID=frame), f"spect{i}")
        else:
            save(folder, [nm_of(spect, volume, start, frame)], f"spect{i}")
    return folder


CPS_PER_MBQ = 9.3


def nm_of(kind: str, volume: Volume, start: datetime, frame: str) -> FileDataset:
    if kind == "nm counts":
        per_count = 1e6 / (CPS_PER_MBQ * SCAN_MIN * 60 * volume.geometry.voxel_volume_ml)
        return nm(Volume(volume.array / per_count, volume.geometry), start, scale="counts", Units="CNTS",
                  FrameOfReferenceUID=frame)  # fmt: skip
    return nm(volume, start, down=kind == "nm down", scale="rwvm" if kind == "nm rwvm" else "rescale",
              FrameOfReferenceUID=frame)  # fmt: skip
