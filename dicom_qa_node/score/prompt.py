"""Tells a network that takes prompts what the header says about a stack; every factor may be unknown."""

from __future__ import annotations

from pydicom import Dataset

from dicom_qa_node.models.prompts import Prompt
from dicom_qa_node.records import SeriesKind
from dicom_qa_node.score import attributes as at
from dicom_qa_node.score.convolution_kernels import Sharpness, sharpness_of_header
from dicom_qa_node.score.volume import Volume

__all__ = ["prompt_of", "region_of", "type_of"]

_REGIONS = {
    "head": "HEAD BRAIN SKULL ORBIT EYE EAR IAC SINUS MAXILLA MANDIBLE JAW FACE HEADNECK",
    "neck": "NECK CSPINE THYROID LARYNX PHARYNX CAROTID",
    "chest": "CHEST THORAX LUNG HEART BREAST AORTA TSPINE RIB STERNUM MEDIASTINUM CORONARYARTERY",
    "abdomen": "ABDOMEN LIVER PANCREAS KIDNEY SPLEEN STOMACH COLON ADRENAL LSPINE GALLBLADDER ABDOMENPELVIS",
    "pelvis": "PELVIS HIP PROSTATE BLADDER UTERUS OVARY RECTUM SSPINE COCCYX",
    "limb": "EXTREMITY LEG ARM KNEE ANKLE FOOT HAND WRIST ELBOW SHOULDER THIGH CALF FEMUR HUMERUS",
    "whole body": "WHOLEBODY BODY TRUNK CHESTABDPELVIS CHESTABDOMENPELVIS",
}
_OF_TERM = {term: region for region, terms in _REGIONS.items() for term in terms.split()}


def prompt_of(volume: Volume, kind: SeriesKind) -> Prompt:
    """Return the prompt of every picture of a stack, shown as ``kind``."""
    dimension = "3d" if len(volume.positions_mm) > 1 else "2d"
    return Prompt(dimension, kind.value, region_of(volume.header), type_of(volume.header, kind))


def region_of(header: Dataset) -> str:
    """Return the region of BodyPartExamined (0018,0015), defined terms of PS3.16 Annex L; "" where it names none."""
    term = at.word(header, "BodyPartExamined").upper()
    return _OF_TERM.get("".join(char for char in term if char.isalpha()), "")


def type_of(header: Dataset, kind: SeriesKind) -> str:
    """Return soft or sharp for a CT's kernel, corrected or uncorrected for a PET's attenuation; "" where not said."""
    if kind is SeriesKind.CT:
        sharpness = sharpness_of_header(header)
        if sharpness is Sharpness.UNKNOWN:
            return ""
        return "sharp" if sharpness is Sharpness.SHARP else "soft"
    corrections = at.words(header, "CorrectedImage")
    return ("corrected" if "ATTN" in corrections else "uncorrected") if corrections else ""
