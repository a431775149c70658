"""Which region of the body a series shows: the one vocabulary of heads, limbs and trunk.

The evidence, strongest first: a coded region (Anatomic Region Sequence, of a series or of Frame Anatomy), a skull in
the image, the words of protocol and Body Part Examined, the phantom that CTDIvol refers to.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from enum import StrEnum

import numpy as np
from pydicom import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from scipy import ndimage

from dicom_qa_node.dicom_io import headers as at
from dicom_qa_node.domain.dose import PHANTOMS_CM
from dicom_qa_node.domain.results import SeriesKind
from dicom_qa_node.score.volume import FloatArray, PackedVoxels, Volume

__all__ = ["ADULT_YEARS", "BodyRegion", "ctdi_phantom_cm", "header_region", "patient_years", "region_of", "shows_skull"]

ADULT_YEARS = 16.0
"""The youngest patients of the training data are 17."""


class BodyRegion(StrEnum):
    """What a series shows; TRUNK is any part of it, with or without neck."""

    HEAD = "head"
    NECK = "neck"
    TRUNK = "trunk"
    LIMB = "limb"
    UNKNOWN = ""


_HEAD_CODES = tuple(
    getattr(region, name)
    for region, names in (
        (codes.cid4031, ("Head", "Skull", "ParanasalSinus", "InternalAuditoryCanal", "JawRegion", "NasalBone",
                         "Mandible", "Maxilla", "FacialBones", "TemporomandibularJoint", "EyeRegion", "Zygoma",
                         "OrbitalStructure")),
        (codes.cid4030, ("Brain", "Cerebellum", "OpticCanal", "MastoidBone", "SellaTurcica", "CircleOfWillis", "Eye")),
        (codes.cid4028, ("TemporalBone", "MiddleEar", "InnerEar", "ExternalEar", "Tooth", "FrontalBone",
                         "SphenoidBone", "EthmoidBone", "ParietalBone", "OccipitalBone", "Eyeball")),
        (codes.cid4, ("Face", "Ear", "Nose", "Scalp", "Intracranial")),
    )
    for name in names
)  # fmt: skip
_NECK_CODES = tuple(
    getattr(region, name)
    for region, names in (
        (codes.cid4031, ("Neck", "HeadAndNeck", "Larynx", "CervicalSpine")),
        (codes.cid4030, ("CarotidArtery", "Thyroid", "Parathyroid", "SubmandibularGland", "ParotidGland")),
    )
    for name in names
)
_LIMB_CODES = tuple(
    getattr(codes.cid4031, name)
    for name in ("Hand", "WristJoint", "Finger", "Thumb", "Forearm", "ElbowJoint", "UpperArm", "Humerus", "UpperLimb",
                 "Shoulder", "Knee", "Patella", "LowerLeg", "LowerLimb", "Foot", "AnkleJoint", "Toe", "Calcaneus",
                 "TarsalJoint", "Thigh", "Femur", "Fibula", "Extremity")
)  # fmt: skip
_BY_CODE = (
    (BodyRegion.HEAD, _HEAD_CODES),
    (BodyRegion.NECK, _NECK_CODES),
    (BodyRegion.LIMB, _LIMB_CODES),
    (BodyRegion.TRUNK, tuple(codes.cid4030.concepts.values())),
)

# Words of PS3.16 annex L and of protocols in the languages of Europe, "_" for a blank that may be missing. The region
# that comes first here counts, so that a whole body with its head, or a head with its neck, is not a head.
_DOWN = "(THIGHS?|TOES?|FEET|FOOT|KNEES?|PELVIS|LEGS?|ABDOMEN|CHEST|OBERSCHENKEL|CUISSES?|BECKEN)"
_WORDS = {
    BodyRegion.TRUNK: rf"""
        WHOLE_BOD(Y|IES) WB TRUNK TORSO TOTAL_BODY THORA\w* (NECK)?CHEST\w* LUNGS? ABDOM\w* PELVI\w* BECKEN BASSIN LIVER
        LEBER FOIE HEART CARDIAC HERZ COEUR CORONAR\w* KIDNEYS? COLON PANCREAS TAP CAP LUMBAR [LT]?_SPINE LWS BWS BREAST
        MAMMA TORACE BAUCH STAMM GANZKORPER CORPS_ENTIER MID_-?THIGHS?
        (SKULL|HEAD|EYES?|VERTEX|ORBIT|BRAIN)_(BASE)?_(TO|2|-|BIS|THROUGH)_(MID)?_-?{_DOWN}""",
    BodyRegion.NECK: r"""
        (HEAD|SKULL|FACE)_(AND|&|/|\+|-|UND|ET)?_NECK NECK_(AND|&)?_HEAD NECK HALS CERVICAL_(SPINE)? C_-?SPINE HWS
        CAROTI\w* LARYNX PHARYNX THYROID PAROTID\w* COLLO CUELLO""",
    BodyRegion.HEAD: r"""
        HEAD BRAIN SKULL CRANI\w* CRANE CEREBR\w* ENCEPHAL\w* ENCEFALO KOPF SCHADEL SCHAEDEL HIRN NEURO
        FAC(E|IAL)_(BONES?)? SINUS\w* NNH ORBITS? ORBITA EYES? EARS? IAC TEMPORAL PETROUS FELSENBEIN\w* JAW TMJ MANDIBLE
        MAXILLA\w* DENTAL TEETH NOSE MASTOIDS? PITUITARY SELLA CABEZA TESTA HOOFD HERSENEN SCHEDEL HUVUD HOVED CCT GLOWA
        GLOWY MOZG\w* NEURONAWIG\w*""",
    BodyRegion.LIMB: r"""
        ANKLE ARM(?!_(UP|DOWN)) CALF CLAVICLE ELBOW EXTREMIT\w* FINGER FOOT FEET FOREARM HAND HUMERUS KNEE LEG LOWER_ARM
        LOWER_LEG SHOULDER THIGH THUMB TOES? UPPER_ARM UPPER_LEG WRIST KNIE FUSS SCHULTER GENOU EPAULE""",
}
_PATTERNS = tuple(
    (region, re.compile(rf"\b(?:{'|'.join(words.split()).replace('_', ' ?')})\b")) for region, words in _WORDS.items()
)

_PHANTOMS = tuple((Code(value, "DCM", "CTDI phantom"), size) for value, size in PHANTOMS_CM.items())

_PER_YEAR = {"D": 365.25, "W": 52.18, "M": 12.0, "Y": 1.0}
_AGE = re.compile(r"(\d{1,4}(?:\.\d+)?) ?([DWMY]?)")


def region_of(volume: Volume) -> BodyRegion:
    """Return the region that a volume shows, by its header and by its image."""
    coded = _coded_region(volume.header)
    if coded is not BodyRegion.UNKNOWN:
        return coded
    if volume.kind is SeriesKind.CT and volume.unit == "HU" and shows_skull(volume.voxels, volume.spacing_mm):
        return BodyRegion.HEAD
    named = header_region(volume.header)
    if named is BodyRegion.UNKNOWN and volume.kind is SeriesKind.PT and _shows_brain_uptake(volume):
        return BodyRegion.HEAD
    return named


def header_region(header: Dataset) -> BodyRegion:
    """Return the region that a header names, UNKNOWN where it names none.

    Body Part Examined is often left from another protocol: where it and the words of the protocol disagree about a
    head, the phantom of CTDIvol decides, else the words.
    """
    coded = _coded_region(header)
    if coded is not BodyRegion.UNKNOWN:
        return coded
    part = _named(at.text(header, "BodyPartExamined"))
    spoken = _first_named(header, "ProtocolName", "SeriesDescription")
    phantom = ctdi_phantom_cm(header)
    if phantom is not None and part and spoken and BodyRegion.HEAD in (part, spoken) and part is not spoken:
        return BodyRegion.HEAD if phantom == 16 else (spoken if part is BodyRegion.HEAD else part)
    named = (spoken if BodyRegion.HEAD in (part, spoken) and spoken else part or spoken) or _first_named(
        header, "PerformedProcedureStepDescription", "RequestedProcedureDescription", "StudyDescription"
    )
    if named:
        return named
    years = patient_years(header)
    adult = years is None or years >= ADULT_YEARS
    # small bodies of children are also dosed by the 16 cm phantom
    return BodyRegion.HEAD if phantom == 16 and adult else BodyRegion.UNKNOWN


def ctdi_phantom_cm(header: Dataset) -> int | None:
    """Return the diameter of the CTDI phantom, 16 or 32 cm, by CTDI Phantom Type Code Sequence (0018,9346)."""
    stated = tuple(_codes(at.items(header, "CTDIPhantomTypeCodeSequence")))
    return next((size for code, size in _PHANTOMS if code in stated), None)


def patient_years(header: Dataset) -> float | None:
    """Return the age in years from Patient's Age (0010,1010), else from the dates of birth and study.

    Read are "015Y" (VR AS) and the common "15Y", "6M", "15y" and "15".
    """
    found = _AGE.fullmatch(at.word(header, "PatientAge").upper())
    if found is not None:
        return float(found[1]) / _PER_YEAR[found[2] or "Y"]
    born = at.date(header, "PatientBirthDate")
    seen = next((day for k in ("StudyDate", "SeriesDate", "AcquisitionDate") if (day := at.date(header, k))), None)
    if born is None or seen is None or seen < born:
        return None
    return (seen - born).days / 365.25


def shows_skull(voxels: FloatArray | PackedVoxels, spacing_mm: tuple[float, float, float]) -> bool:
    """Return whether most slices of a CT show a ring of bone close below the skin of a body as narrow as a head.

    Parameters
    ----------
    voxels
        HU, shape (slices, rows, columns).
    spacing_mm
        (slice, row, column).
    """
    count = len(voxels)
    chosen = np.unique(np.linspace(0, count - 1, min(count, _LOOK_AT)).round().astype(int))
    skulls, others = 0, 0
    for index in chosen:
        share = _bone_ring(np.asarray(voxels[int(index)], np.float32), spacing_mm[1:])
        skulls += share is not None and share > _RING_SHARE
        others += share is not None and share <= _RING_SHARE
        if 2 * others >= len(chosen):
            return False
    return skulls > others and skulls >= 2


def _shows_brain_uptake(volume: Volume) -> bool:
    """Whether all uptake of a PET lies in a region as narrow and short as a head, and is higher than in a limb."""
    length = float(np.ptp(volume.positions_mm)) + volume.spacing_mm[0]
    if volume.unit != "SUVbw" or not _HEAD_WIDTH_MM[0] < length < _HEAD_LENGTH_MM:
        return False
    count = len(volume.voxels)
    chosen = np.unique(np.linspace(0, count - 1, min(count, _LOOK_AT)).round().astype(int))
    planes = np.stack([np.asarray(volume.voxels[int(index)], np.float32) for index in chosen])
    inside = ndimage.binary_opening(planes > 0.1 * float(np.percentile(planes, 99.0)), np.ones((1, 3, 3)))
    if not inside.any() or float(planes[inside].mean()) < _BRAIN_SUV:
        return False
    places = np.nonzero(inside.any(axis=0))
    extents = [np.ptp(place) * mm for place, mm in zip(places, volume.spacing_mm[1:], strict=True)]
    return all(_HEAD_WIDTH_MM[0] < extent < _HEAD_WIDTH_MM[1] for extent in extents)


_LOOK_AT = 12
_HEAD_LENGTH_MM = 350.0
_BRAIN_SUV = 2.0
_RAYS = 72
_BONE_HU = 250.0
_RING_SHARE = 0.8
_RING_DEPTH_MM = 25.0
_HEAD_WIDTH_MM = (90.0, 260.0)


def _bone_ring(image: FloatArray, pixel_mm: tuple[float, float]) -> float | None:
    """Share of the directions from the middle in which bone lies within 25 mm of the skin; None without a body."""
    factor = max(1, round(2.0 / min(pixel_mm)))
    rows, columns = (side // factor for side in image.shape)
    if min(rows, columns) == 0:
        return None
    # the maximum of a block keeps a thin skull that an average would blur
    blocks = image[: rows * factor, : columns * factor].reshape(rows, factor, columns, factor)
    small = blocks.max(axis=(1, 3))
    body = ndimage.binary_opening(small > -300.0, iterations=2)
    labels, number = ndimage.label(body)
    if number == 0:
        return None
    body = labels == int(np.argmax(np.bincount(labels.ravel())[1:])) + 1
    step = (pixel_mm[0] * factor, pixel_mm[1] * factor)
    y, x = np.nonzero(body)
    if not all(
        _HEAD_WIDTH_MM[0] < np.ptp(place) * mm < _HEAD_WIDTH_MM[1] for place, mm in zip((y, x), step, strict=True)
    ):
        return 0.0
    down, across = (y - y.mean()) * step[0], (x - x.mean()) * step[1]
    angle, radius = np.arctan2(down, across), np.hypot(down, across)
    ray = ((angle / (2 * np.pi) % 1.0) * _RAYS).astype(int) % _RAYS
    skin, bone = np.zeros(_RAYS), np.zeros(_RAYS)
    np.maximum.at(skin, ray, radius)
    hard = small[y, x] > _BONE_HU
    np.maximum.at(bone, ray[hard], radius[hard])
    return float(np.mean((bone > 0) & (skin - bone < _RING_DEPTH_MM)))


def _coded_region(header: Dataset) -> BodyRegion:
    """Region of Anatomic Region Sequence (0008,2218), top level or in a Frame Anatomy that was not laid flat."""
    items = [*at.items(header, "AnatomicRegionSequence")]
    for anatomy in at.items(header, "FrameAnatomySequence"):
        items += at.items(anatomy, "AnatomicRegionSequence")
    found = tuple(_codes(items))
    for region, known in _BY_CODE:
        if any(code in known for code in found):
            return region
    return next((named for code in found if (named := _named(code.meaning))), BodyRegion.UNKNOWN)


def _codes(items: Iterable[Dataset]) -> Iterator[Code]:
    for item in items:
        yield Code(at.word(item, "CodeValue"), at.word(item, "CodingSchemeDesignator"), at.text(item, "CodeMeaning"))


def _first_named(header: Dataset, *keywords: str) -> BodyRegion:
    found = (_named(at.text(header, keyword)) for keyword in keywords)
    return next((region for region in found if region), BodyRegion.UNKNOWN)


def _named(text: str) -> BodyRegion:
    """Return the region that a text names; words may be joined by blanks, underscores or nothing ("HEADNECK")."""
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", text)
    words = re.sub(r"[^\w&+/-]|_", " ", apart.upper().translate(_PLAIN)).strip()
    words = re.sub(r"(?<=[A-Z])(?=\d)|(?<=\d)(?=[A-Z])", " ", words)
    for region, pattern in _PATTERNS:
        if pattern.search(words) or pattern.fullmatch(words.replace(" ", "")):
            return region
    return BodyRegion.UNKNOWN


_PLAIN = str.maketrans({"Ä": "A", "Ö": "O", "Ü": "U", "É": "E", "È": "E", "Ê": "E", "Â": "A", "Å": "A", "Ô": "O"})
