"""CT dose reports (PS3.16 TID 10011) for the demo and the tests, in the form that scanners send."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid

__all__ = ["MadeEvent", "code_item", "container", "dose_report", "num", "text_item", "uid_item"]

XRAY_DOSE_SR = "1.2.840.10008.5.1.4.1.1.88.67"
SPIRAL, CONSTANT_ANGLE = ("P5-08001", "SRT", "Spiral Acquisition"), ("113805", "DCM", "Constant Angle Acquisition")
_PHANTOMS = {16: ("113690", "DCM", "IEC Head Dosimetry Phantom"), 32: ("113691", "DCM", "IEC Body Dosimetry Phantom")}
_ROOT = "1.2.826.0.1.3680043.10.77."

Coded = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class MadeEvent:
    """One acquisition to be reported; ``kv`` has a value for each X-ray source, None leaves a value out."""

    uid: str
    ctdi_vol_mgy: float | None = 8.0
    dlp_mgy_cm: float | None = 320.0
    protocol: str = "Abdomen"
    phantom_cm: int | None = 32
    localizer: bool = False
    kv: tuple[float, ...] = (120.0,)


def dose_report(
    study_instance_uid: str,
    events: Sequence[MadeEvent],
    *,
    sop_class_uid: str = XRAY_DOSE_SR,
    sop_instance_uid: str = "",
    patient_id: str = "",
    content_time: str = "120000",
) -> Dataset:
    """Return a dose report of a study."""
    ds = Dataset()
    ds.SOPClassUID = UID(sop_class_uid)
    ds.SOPInstanceUID = sop_instance_uid or generate_uid(_ROOT)
    ds.StudyInstanceUID = study_instance_uid
    ds.SeriesInstanceUID = generate_uid(_ROOT, [study_instance_uid, "dose"])
    ds.Modality, ds.Manufacturer, ds.ManufacturerModelName = "SR", "Generated", "Dose reporter"
    ds.PatientID, ds.PatientName = patient_id, "Generated^Patient"
    ds.PatientBirthDate = ds.PatientSex = ds.StudyID = ds.AccessionNumber = ds.ReferringPhysicianName = ""
    ds.StudyDate = ds.ContentDate = "20261128"
    ds.StudyTime, ds.ContentTime = "115500", content_time
    ds.SeriesNumber, ds.InstanceNumber = 990, 1
    ds.CompletionFlag, ds.VerificationFlag = "COMPLETE", "UNVERIFIED"
    ds.ReferencedPerformedProcedureStepSequence, ds.PerformedProcedureCodeSequence = [], []
    template = Dataset()
    template.MappingResource, template.TemplateIdentifier = "DCMR", "10011"
    ds.ContentTemplateSequence = [template]
    ds.ValueType, ds.ContinuityOfContent = "CONTAINER", "SEPARATE"
    ds.ConceptNameCodeSequence = [_code(("113701", "DCM", "X-Ray Radiation Dose Report"))]
    ds.ContentSequence = [
        code_item(("121058", "DCM", "Procedure reported"), ("77477000", "SCT", "Computed Tomography X-Ray")),
        code_item(("113876", "DCM", "Device Role in Procedure"), ("113859", "DCM", "Irradiating Device")),
        _accumulated(events),
        *(_acquisition(event) for event in events),
        code_item(("113854", "DCM", "Source of Dose Information"), ("113856", "DCM", "Automated Data Collection")),
    ]
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return ds


def _accumulated(events: Sequence[MadeEvent]) -> Dataset:
    total = sum(event.dlp_mgy_cm or 0.0 for event in events)
    return container(
        ("113811", "DCM", "CT Accumulated Dose Data"),
        [
            num(("113812", "DCM", "Total Number of Irradiation Events"), len(events), "{events}"),
            num(("113813", "DCM", "CT Dose Length Product Total"), total, "mGy.cm"),
        ],
    )


def _acquisition(event: MadeEvent) -> Dataset:
    kind = CONSTANT_ANGLE if event.localizer else SPIRAL
    sources = [
        container(
            ("113831", "DCM", "CT X-Ray Source Parameters"),
            [
                text_item(("113832", "DCM", "Identification of the X-Ray Source"), f"{number}"),
                num(("113733", "DCM", "KVP"), kv, "kV"),
            ],
        )
        for number, kv in enumerate(event.kv, start=1)
    ]
    dose = []
    if event.ctdi_vol_mgy is not None:
        dose.append(num(("113830", "DCM", "Mean CTDIvol"), event.ctdi_vol_mgy, "mGy"))
    if event.phantom_cm is not None:
        dose.append(code_item(("113835", "DCM", "CTDIw Phantom Type"), _PHANTOMS[event.phantom_cm]))
    if event.dlp_mgy_cm is not None:
        dose.append(num(("113838", "DCM", "DLP"), event.dlp_mgy_cm, "mGy.cm"))
    named = [text_item(("125203", "DCM", "Acquisition Protocol"), event.protocol)] if event.protocol else []
    return container(
        ("113819", "DCM", "CT Acquisition"),
        [
            *named,
            code_item(("123014", "DCM", "Target Region"), ("818981001", "SCT", "Abdomen")),
            code_item(("113820", "DCM", "CT Acquisition Type"), kind),
            uid_item(("113769", "DCM", "Irradiation Event UID"), event.uid),
            container(("113822", "DCM", "CT Acquisition Parameters"), sources),
            container(("113829", "DCM", "CT Dose"), dose),
        ],
    )


def container(concept: Coded, content: Sequence[Dataset]) -> Dataset:
    """Return a CONTAINER item."""
    item = _item("CONTAINER", concept)
    item.ContinuityOfContent = "SEPARATE"
    item.ContentSequence = list(content)
    return item


def num(concept: Coded, value: float, unit: str) -> Dataset:
    """Return a NUM item."""
    item, measured = _item("NUM", concept), Dataset()
    measured.MeasurementUnitsCodeSequence = [_code((unit, "UCUM", unit))]
    measured.NumericValue = f"{value:.6g}"
    item.MeasuredValueSequence = [measured]
    return item


def code_item(concept: Coded, value: Coded) -> Dataset:
    """Return a CODE item."""
    item = _item("CODE", concept)
    item.ConceptCodeSequence = [_code(value)]
    return item


def text_item(concept: Coded, value: str) -> Dataset:
    """Return a TEXT item."""
    item = _item("TEXT", concept)
    item.TextValue = value
    return item


def uid_item(concept: Coded, value: str) -> Dataset:
    """Return a UIDREF item."""
    item = _item("UIDREF", concept)
    item.UID = value
    return item


def _item(value_type: str, concept: Coded) -> Dataset:
    item = Dataset()
    item.RelationshipType, item.ValueType = "CONTAINS", value_type
    item.ConceptNameCodeSequence = [_code(concept)]
    return item


def _code(coded: Coded) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = coded
    return item
