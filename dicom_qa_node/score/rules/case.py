"""What a rule may look at, and the codes that findings carry."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from pydicom import Dataset

from dicom_qa_node.config.thresholds import Thresholds
from dicom_qa_node.domain.codes import Code, private_code
from dicom_qa_node.domain.reference_levels import ReferenceLevel
from dicom_qa_node.domain.results import Finding, Measurement
from dicom_qa_node.score.volume import Volume

__all__ = [
    "ARTIFACT",
    "BEAM_HARDENING",
    "INCOMPLETE",
    "MOTION",
    "NO_IMAGE",
    "POOR_FOV",
    "POOR_SNR",
    "PRIVATE_CODES",
    "Case",
    "Rule",
    "code_of",
    "with_code",
]

# CID 6135 Image Quality Finding
NO_IMAGE = Code("111213", "DCM", "No image")
ARTIFACT = Code("111215", "DCM", "Artifact(s) other than grid or detector artifact")
BEAM_HARDENING = Code("RID11327", "RADLEX", "Beam-hardening artifact")
# CID 6315 Prostate MRI Series Quality Finding: the only standard codes for these
INCOMPLETE = Code("130576", "DCM", "Anatomy coverage incomplete")
POOR_FOV = Code("130577", "DCM", "Poor FOV selection")
POOR_SNR = Code("130578", "DCM", "Poor SNR")
MOTION = Code("RID11423", "RADLEX", "Motion related artifact")

PRIVATE_CODES: Mapping[str, Code] = {
    "resolution_low": private_code("F101", "Resolution below the limit"),
    "hu_scale_off": private_code("F102", "CT numbers off the scale"),
    "dose_high": private_code("F103", "Dose above the limit"),
    "lossy_compression": private_code("F104", "Images compressed with loss"),
    "sharp_kernel": private_code("F105", "Sharp kernel, noise limits do not apply"),
    "suv_not_computable": private_code("F106", "SUV cannot be computed"),
    "suv_implausible": private_code("F107", "SUV implausible"),
    "petct_not_paired": private_code("F108", "PET judged without CT"),
    "misregistered": private_code("F109", "PET and CT misregistered"),
    "uptake_time_off": private_code("F110", "Uptake time outside the limits"),
    "activity_low": private_code("F111", "Activity per weight below the limit"),
    "pet_oversmoothed": private_code("F112", "PET smoothed strongly"),
    "not_attenuation_corrected": private_code("F113", "PET not corrected for attenuation"),
    "pet_implausible": private_code("F130", "PET implausible"),
    "pet_not_checked": private_code("F131", "Plausibility of the PET not checked"),
    "pet_not_rated": private_code("F132", "PET not rated"),
    "slices_blank": private_code("F120", "Slices without an image"),
    "qc_phantom": private_code("F140", "QC phantom"),
    "phantom_outside": private_code("F141", "Phantom outside a tolerance"),
    "phantom_not_analysed": private_code("F142", "Phantom not analysed"),
    "named_like_phantom": private_code("F143", "Named like a phantom, looks like a patient"),
    "subject_decided": private_code("F144", "A person decided what the series shows"),
}
"""Codes of findings for which CID 6135 and 6315 hold none, by the key of the finding."""


_CODES_OF_ASSEMBLY: Mapping[str, Code] = {"slices_missing": INCOMPLETE, "images_blank": NO_IMAGE}


@dataclass(frozen=True, slots=True)
class Case:
    """One volume with its measurements (by name), the limits of its protocol, and its reference levels by quantity."""

    volume: Volume
    measured: Mapping[str, Measurement]
    paired_ct: Volume | None
    limits: Thresholds
    levels: Mapping[str, ReferenceLevel] = field(default_factory=dict)

    @property
    def header(self) -> Dataset:
        """Attributes of the first slice."""
        return self.volume.header

    def value(self, name: str) -> float | None:
        """Return a measured value, None where it does not apply."""
        found = self.measured.get(name)
        return None if found is None else found.value

    def level(self, name: str) -> ReferenceLevel | None:
        """Return the reference level of a quantity, None where none was frozen or it does not hold for this size."""
        found = self.levels.get(name)
        return found if found is not None and found.at(self.value("water_equivalent_diameter")) is not None else None


Rule = Callable[[Case], Finding | None]


def code_of(key: str) -> Code:
    """Return the private code of a finding."""
    return PRIVATE_CODES[key]


def with_code(finding: Finding) -> Finding:
    """Return a finding of assembly or pairing with the code of its key, where there is one."""
    code = finding.code or PRIVATE_CODES.get(finding.key) or _CODES_OF_ASSEMBLY.get(finding.key)
    return replace(finding, code=code)
