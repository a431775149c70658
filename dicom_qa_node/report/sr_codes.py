"""Every code that a report uses: standard ones (PS3.16) by name, and the private scheme for what the standard lacks."""

from __future__ import annotations

import hashlib

from highdicom.coding_schemes import CodingSchemeIdentificationItem
from highdicom.sr import CodedConcept

from dicom_qa_node.domain.codes import (
    COMMENT,
    IMAGE_SET_QUALITY_RATING,
    PRIVATE_SCHEME,
    QUALITY_ASSESSMENT,
    Code,
    private_code,
)
from dicom_qa_node.domain.qc_phantoms import QcOutcome
from dicom_qa_node.domain.results import Grade, QualityDimension, RatedPartKind, SeriesKind, Severity

__all__ = [
    "COMMENT",
    "IMAGE_SET_QUALITY_RATING",
    "QUALITY_ASSESSMENT",
    "coded_concept",
    "derived_private_code",
    "private_scheme_item",
    "unit_code",
]

_PRIVATE_SCHEME_VERSION = "1"
_MEANING_LENGTH = 64
_CODE_LENGTH = 16

ENGLISH = Code("en-US", "RFC5646", "English (United States)")
DEVICE = Code("121007", "DCM", "Device")
ACQUISITION_EQUIPMENT = Code("109101", "DCM", "Acquisition Equipment")
PROCESSING_EQUIPMENT = Code("109102", "DCM", "Processing Equipment")
ARTIFICIAL_INTELLIGENCE = Code("123110", "DCM", "Artificial Intelligence")

IMAGING_MEASUREMENT_REPORT = Code("126000", "DCM", "Imaging Measurement Report")
IMAGE_QUALITY = Code("111101", "DCM", "Image Quality")
# "0 to 100, inclusive, where 0 is worst quality and 100 is best quality" (PS3.16 annex D).
IMAGE_QUALITY_RATING = Code("111029", "DCM", "Image Quality Rating")
CONCLUSION = Code("121077", "DCM", "Conclusion")
FINDING = Code("121071", "DCM", "Finding")
QUALITY_FINDING = Code("111052", "DCM", "Quality Finding")
QUALITY_ISSUE = Code("113010", "DCM", "Quality Issue")
SOURCE_IMAGE = Code("121322", "DCM", "Source image for image processing operation")
SEVERITY = Code("246112005", "SCT", "Severity")

IMAGE_LIBRARY = Code("111028", "DCM", "Image Library")
IMAGE_LIBRARY_GROUP = Code("126200", "DCM", "Image Library Group")
LIBRARY_SOURCE = Code("260753009", "SCT", "Source")
MODALITY = Code("121139", "DCM", "Modality")
MODALITIES = {
    "CT": Code("CT", "DCM", "Computed Tomography"),
    "PT": Code("PT", "DCM", "Positron emission tomography"),
}
FRAME_OF_REFERENCE_UID = Code("112227", "DCM", "Frame of Reference UID")
PIXEL_DATA_ROWS = Code("110910", "DCM", "Pixel Data Rows")
PIXEL_DATA_COLUMNS = Code("110911", "DCM", "Pixel Data Columns")
HORIZONTAL_PIXEL_SPACING = Code("111026", "DCM", "Horizontal Pixel Spacing")
VERTICAL_PIXEL_SPACING = Code("111066", "DCM", "Vertical Pixel Spacing")
SLICE_THICKNESS = Code("112225", "DCM", "Slice Thickness")
IMAGE_ORIENTATION = tuple(
    Code(value, "DCM", f"Image Orientation (Patient) {axis}")
    for value, axis in (
        ("110904", "Row X"), ("110905", "Row Y"), ("110906", "Row Z"),
        ("110907", "Column X"), ("110908", "Column Y"), ("110909", "Column Z"),
    )
)  # fmt: skip
PIXELS = Code("{pixels}", "UCUM", "Pixels")
DIRECTION_COSINE = Code("{-1:1}", "UCUM", "{-1:1}")
MILLIMETER = Code("mm", "UCUM", "millimeter")
NO_UNITS = Code("1", "UCUM", "no units")

INTERVAL_LOW = private_code("SCORE_LOW", "Lower bound of the calibrated interval of the rating")
INTERVAL_HIGH = private_code("SCORE_HIGH", "Upper bound of the calibrated interval of the rating")
SLICE_SCORE = private_code("SLICE_SCORE", "Quality score of the slice, 0 worst to 4 best")
SLICE_WEIGHT = private_code("SLICE_WEIGHT", "Weight of the slice in the series score")
VERDICT_ROLE = private_code("VERDICT_ROLE", "Role of a rated part in the verdict")
DECIDES = private_code("DECIDES", "Decides the verdict")
RATED_ONLY = private_code("RATED_ONLY", "Rated, does not decide the verdict")
COUNTED_SCORE = private_code("COUNTED_SCORE", "Score with which the part enters the verdict")
PREDECESSOR = private_code("PREDECESSOR", "The same document of the version before")
NOT_RATED = private_code("NOT_RATED", "Not rated: outside the validated domain of the model")
QC_PHANTOM = private_code("F140", "QC phantom")
QC_OUTCOME = private_code("QC_OUTCOME", "Outcome of the phantom analysis")
QC_OUTCOMES = {
    QcOutcome.PASSED: private_code("QC_PASS", "Within every tolerance"),
    QcOutcome.OUTSIDE: private_code("QC_OUTSIDE", "Outside a tolerance"),
    QcOutcome.NOT_JUDGED: private_code("QC_NOT_JUDGED", "Not judged, no tolerance is set"),
    QcOutcome.NOT_ANALYSED: private_code("QC_NOT_ANALYSED", "Not analysed"),
}
"""What the analysis of a QC phantom came to."""

PROCEDURES = {
    SeriesKind.CT: Code("25045-6", "LN", "CT unspecified body region"),
    SeriesKind.PT: Code("44136-0", "LN", "PET unspecified body region"),
    SeriesKind.PETCT: Code("44136-0", "LN", "PET unspecified body region"),
}
"""Procedure Reported (PS3.16 CID 100): the imaging procedure; a PET/CT result is one on the PET series."""

GRADES = {
    Grade.DIAGNOSTIC: Code("RID12", "RADLEX", "Diagnostic quality"),
    Grade.LIMITED: Code("RID13", "RADLEX", "Limited quality"),
    Grade.NON_DIAGNOSTIC: Code("RID14", "RADLEX", "Non-diagnostic quality"),
}
"""CID 7036."""

DIMENSIONS = {
    item: private_code(f"Q_{item.value.upper()}", f"Quality score of the {item.value}, 0 worst to 4 best")
    for item in QualityDimension
}
"""Dimensions of a rated part."""

PARTS = {RatedPartKind.CT: "CT", RatedPartKind.PET: "PET", RatedPartKind.DISPLAY: "Display"}
"""The parts of a verdict as tracking identifiers name them."""

SEVERITIES = {
    Severity.INFO: private_code("SEV_INFO", "Explains the result"),
    Severity.WARNING: private_code("SEV_WARNING", "Limits the result"),
    Severity.ERROR: private_code("SEV_ERROR", "Makes the result doubtful"),
}

_UNIT_MEANINGS = {
    "1": "no units",
    "%": "percent",
    "mm": "millimeter",
    "cm": "centimeter",
    "mm2": "square millimeter",
    "/mm": "per millimeter",
    "/cm": "per centimeter",
    "[hnsf'U]": "Hounsfield unit",
    "Bq/ml": "Becquerels/milliliter",
    "{counts}": "Counts",
    "{ratio}": "ratio",
    "g/ml": "gram/milliliter",
    "g/ml{SUVbw}": "Standardized Uptake Value body weight",
    "mGy": "milligray",
    "s": "second",
    "deg": "degree",
    "min": "minute",
    "kV": "kilovolt",
    "mA.s": "milliampere second",
    "mGy.cm": "milligray centimeter",
    "MBq": "megabecquerel",
    "MBq/kg": "megabecquerel per kilogram",
    "{slices}": "slices",
}


def coded_concept(code: Code) -> CodedConcept:
    """Return a code as content items take it (PS3.3 8.8); a meaning of more than 64 characters is cut."""
    return CodedConcept(code.value, code.scheme, code.meaning[:_MEANING_LENGTH])


def derived_private_code(key: str, meaning: str) -> Code:
    """Return the code in our own scheme for a measurement or finding that the standard has no code for.

    ``key`` in capitals is the code value; a key of more than 16 characters (the limit of Code Value) keeps its
    first ten and is made unique by five hex digits of its SHA-256, so that it never changes.
    """
    value = key.upper()
    if len(value) > _CODE_LENGTH:
        value = f"{value[:10]}-{hashlib.sha256(key.encode()).hexdigest()[:5].upper()}"
    return private_code(value, meaning)


def unit_code(unit: str) -> Code:
    """Return a UCUM unit as a code; "" counts as dimensionless."""
    value = unit or "1"
    return Code(value, "UCUM", _UNIT_MEANINGS.get(value, value))


def private_scheme_item() -> CodingSchemeIdentificationItem:
    """Return the item that says whose scheme our private codes come from (PS3.3 C.12.1.1.14)."""
    return CodingSchemeIdentificationItem(
        designator=PRIVATE_SCHEME,
        name="dicom-qa-node image quality codes",
        version=_PRIVATE_SCHEME_VERSION,
        responsible_organization="dicom-qa-node",
    )
