"""Generated CT and PET/CT studies for the demo, the tests and the validation of the measurements.

A seed gives a patient; the patient is rendered slice by slice, scanned by a projector and written as DICOM:

    patient -> anatomy -> volumes (projector, acquisition) -> ct | pet -> irregular, multiframe, encode -> files
"""

from __future__ import annotations

from dicom_qa_node.phantom.ct import CtForm, ct_series
from dicom_qa_node.phantom.ct_acquisition import CtQuality
from dicom_qa_node.phantom.encoding import write
from dicom_qa_node.phantom.image_header import Identity, Scanner, identity_of, phantom_uid
from dicom_qa_node.phantom.known_values import (
    KnownCt,
    KnownPet,
    known_dose_volume,
    known_misregistration,
    known_noise_volume,
    known_pet_liver,
)
from dicom_qa_node.phantom.pet import DecayCorrection, PetForm, Units, pet_series, petct_study
from dicom_qa_node.phantom.projector import Filter
from dicom_qa_node.phantom.volumes import Plane
from dicom_qa_node.phantom.voxel_canvas import Channel

__all__ = [
    "Channel",
    "CtForm",
    "CtQuality",
    "DecayCorrection",
    "Filter",
    "Identity",
    "KnownCt",
    "KnownPet",
    "PetForm",
    "Plane",
    "Scanner",
    "Units",
    "ct_series",
    "identity_of",
    "known_dose_volume",
    "known_misregistration",
    "known_noise_volume",
    "known_pet_liver",
    "pet_series",
    "petct_study",
    "phantom_uid",
    "write",
]
