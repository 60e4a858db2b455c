"""Masks as a DICOM segmentation, and the numbers as a TID 1500 report that refers to its segments."""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING

import highdicom as hd
import numpy as np
from highdicom.sr.coding import CodedConcept
from pydicom.uid import generate_uid

from doselabel import __version__
from doselabel.dicom.need import Dataset
from doselabel.labels import title

if TYPE_CHECKING:
    from doselabel.dicom.export import Material

MAKER = "doselabel (research use only)"
ORGAN = CodedConcept("123037004", "SCT", "Anatomical Structure")
LESION = CodedConcept("49755003", "SCT", "Morphologically Altered Structure")
ORGAN_TYPES = {
    "left_kidney": CodedConcept("18639004", "SCT", "Left kidney"),
    "right_kidney": CodedConcept("9846003", "SCT", "Right kidney"),
    "liver": CodedConcept("10200004", "SCT", "Liver"),
    "spleen": CodedConcept("78961009", "SCT", "Spleen"),
}
_TISSUE = CodedConcept("85756007", "SCT", "Tissue")
_MASS = CodedConcept("4147007", "SCT", "Mass")
_AI = CodedConcept("123110", "DCM", "Artificial Intelligence")
_DEVICE = CodedConcept("121007", "DCM", "Device")
_REPORT = CodedConcept("126000", "DCM", "Imaging Measurement Report")
_OURS = "99DOSELABEL"
_VOLUME = CodedConcept("118565006", "SCT", "Volume")
_DOSE = CodedConcept("128513", "DCM", "Absorbed Radiation Dose")
_DOSE_SD = CodedConcept("dose_sd", _OURS, "Standard uncertainty of the mean absorbed dose (k = 1)")
_PER_GBQ = CodedConcept("dose_per_gbq", _OURS, "Mean absorbed dose per injected activity")
_ML, _GY = CodedConcept("ml", "UCUM", "milliliter"), CodedConcept("Gy", "UCUM", "gray")
_GY_GBQ = CodedConcept("Gy/GBq", "UCUM", "gray per gigabecquerel")


def kind_of(name: str) -> tuple[CodedConcept, CodedConcept]:
    """Category and type of what an organ or lesion is called here."""
    if name.startswith(("tumour", "lesion", "metast")):
        return LESION, _MASS
    return ORGAN, ORGAN_TYPES.get(name, _TISSUE)


def segmentation(made: Material) -> Dataset:
    """One binary segment per organ, on the source's slices; slices on which an organ is not are left out."""
    names = made.labels.present()
    algorithm = hd.AlgorithmIdentificationSequence(name="doselabel", version=__version__, family=_AI)
    described = [
        hd.seg.SegmentDescription(
            segment_number=number,
            segment_label=title(name),
            segmented_property_category=kind_of(name)[0],
            segmented_property_type=kind_of(name)[1],
            algorithm_type=hd.seg.SegmentAlgorithmTypeValues.SEMIAUTOMATIC,
            algorithm_identification=algorithm,
            tracking_uid=generate_uid(),
            tracking_id=name,
        )
        for number, name in enumerate(names, start=1)
    ]
    masks = np.stack([made.planes == made.labels.value(name) for name in names], axis=-1).astype(np.uint8)
    return hd.seg.Segmentation(
        source_images=made.images,
        pixel_array=masks,
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=described,
        series_instance_uid=generate_uid(),
        series_number=9001,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer=MAKER,
        manufacturer_model_name="doselabel",
        software_versions=__version__,
        device_serial_number="0",
        content_label="ORGANS",
        content_description="Organs of the dose calculation",
        series_description="doselabel organs",
    )


def measurements(made: Material, segments: Dataset) -> Dataset:
    """Volume, absorbed dose and its uncertainty of each organ, beside the segment that they are of."""
    device = hd.sr.DeviceObserverIdentifyingAttributes(
        uid=generate_uid(), manufacturer_name=MAKER, model_name=f"doselabel {version('doselabel')}"
    )
    observer = hd.sr.ObserverContext(observer_type=_DEVICE, observer_identifying_attributes=device)
    groups = []
    for item in segments.SegmentSequence:
        organ = made.results.organs.get(str(item.TrackingID))
        if organ is None:
            continue
        values = (
            (_VOLUME, organ.volume_ml, _ML),
            (_DOSE, organ.mean_dose_gy, _GY),
            (_DOSE_SD, organ.dose_sd_gy, _GY),
            (_PER_GBQ, organ.dose_gy_per_gbq, _GY_GBQ),
        )
        groups.append(
            hd.sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
                tracking_identifier=hd.sr.TrackingIdentifier(item.TrackingUID, item.TrackingID),
                referenced_segment=hd.sr.ReferencedSegment.from_segmentation(
                    segments, segment_number=int(item.SegmentNumber)
                ),
                finding_type=kind_of(str(item.TrackingID))[1],
                measurements=[hd.sr.Measurement(name, round(value, 6), unit) for name, value, unit in values],
            )
        )
    content = hd.sr.MeasurementReport(
        observation_context=hd.sr.ObservationContext(observer_device_context=observer),
        procedure_reported=CodedConcept("386053000", "SCT", "Evaluation procedure"),
        imaging_measurements=groups,
        title=_REPORT,
    )
    return hd.sr.Comprehensive3DSR(
        evidence=[segments, *made.images],
        content=content[0],
        series_instance_uid=generate_uid(),
        series_number=9002,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer=MAKER,
        series_description="doselabel doses",
    )
