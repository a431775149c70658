"""Procedure and body region of a report as codes, from the header of the images."""

from __future__ import annotations

from collections.abc import Iterator

from pydicom import Dataset

from dicom_qa_node.domain.codes import Code
from dicom_qa_node.domain.results import SeriesKind
from dicom_qa_node.report import sr_codes

__all__ = ["body_region", "procedure"]

_PUBLIC = frozenset({"SCT", "LN", "RADLEX", "DCM"})
"""Schemes whose codes mean the same everywhere; a site's own procedure codes mean nothing to other readers."""

#: Body Part Examined (0018,0015) to SNOMED CT (PS3.16 annex L, CID 4031).
_REGIONS = {
    "HEAD": ("69536005", "Head"),
    "BRAIN": ("12738006", "Brain"),
    "SKULL": ("89546000", "Skull"),
    "FACE": ("89545001", "Face"),
    "NECK": ("45048000", "Neck"),
    "HEADNECK": ("774007", "Head and Neck"),
    "CHEST": ("816094009", "Chest"),
    "THORAX": ("816094009", "Chest"),
    "LUNG": ("39607008", "Lung"),
    "HEART": ("80891009", "Heart"),
    "ABDOMEN": ("818981001", "Abdomen"),
    "LIVER": ("10200004", "Liver"),
    "KIDNEY": ("64033007", "Kidney"),
    "PELVIS": ("816092008", "Pelvis"),
    "NECKCHEST": ("417437006", "Neck and Chest"),
    "CHESTABDOMEN": ("416550000", "Chest and Abdomen"),
    "ABDOMENPELVIS": ("818982008", "Abdomen and Pelvis"),
    "CHESTABDPELVIS": ("416775004", "Chest, Abdomen and Pelvis"),
    "NECKCHESTABDOMEN": ("416152001", "Neck, Chest and Abdomen"),
    "NECKCHESTABDPELV": ("416319003", "Neck, Chest, Abdomen and Pelvis"),
    "WHOLEBODY": ("38266002", "Entire body"),
    "CSPINE": ("122494005", "Cervical spine"),
    "TSPINE": ("122495006", "Thoracic spine"),
    "LSPINE": ("122496007", "Lumbar spine"),
    "SPINE": ("421060004", "Spine"),
    "SHOULDER": ("16982005", "Shoulder"),
    "HIP": ("29836001", "Hip"),
    "KNEE": ("72696002", "Knee"),
    "FOOT": ("56459004", "Foot"),
    "HAND": ("85562004", "Hand"),
    "ARM": ("53120007", "Upper limb"),
    "LEG": ("61685007", "Lower limb"),
    "EXTREMITY": ("66019005", "Extremity"),
}
_WHOLE_BODY = "38266002"
_PET_WHOLE_BODY = Code("44139-4", "LN", "PET whole body")


def procedure(header: Dataset, kind: SeriesKind) -> Code:
    """Return the imaging procedure (Procedure Reported, CID 100).

    It is that of Procedure Code Sequence (0008,1032) where this is a code of a public scheme, else the unspecified
    procedure of the modality; a PET of the whole body has a code of its own.
    """
    coded = next(_public(header, "ProcedureCodeSequence"), None)
    if coded is not None:
        return coded
    region = body_region(header)
    if kind is not SeriesKind.CT and region is not None and region.value == _WHOLE_BODY:
        return _PET_WHOLE_BODY
    return sr_codes.PROCEDURES[kind]


def body_region(header: Dataset) -> Code | None:
    """Return the body region: Anatomic Region Sequence (0008,2218), else Body Part Examined; None if neither says."""
    coded = next((code for code in _public(header, "AnatomicRegionSequence") if code.scheme == "SCT"), None)
    if coded is not None:
        return coded
    term = "".join(character for character in str(header.get("BodyPartExamined") or "").upper() if character.isalnum())
    found = _REGIONS.get(term)
    return None if found is None else Code(found[0], "SCT", found[1])


def _public(header: Dataset, keyword: str) -> Iterator[Code]:
    for item in header.get(keyword) or []:
        value, scheme, meaning = (
            str(item.get(name) or "").strip() for name in ("CodeValue", "CodingSchemeDesignator", "CodeMeaning")
        )
        if scheme in _PUBLIC and 0 < len(value) <= 16 and 0 < len(meaning) <= 64:
            yield Code(value, scheme, meaning)
