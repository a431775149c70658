"""Heads, limbs and trunk by every attribute that names them, by the phantom and by the image; ages in every form."""

from __future__ import annotations

import numpy as np
import pytest

from dicom_qa_node.score.body_region import BodyRegion, header_region, patient_years, region_of
from tests.unit.made_headers import coded, header
from tests.unit.synthetic_volumes import ellipse, volume

HEAD_PHANTOM, BODY_PHANTOM = coded("113690", "DCM"), coded("113691", "DCM")


@pytest.mark.parametrize(
    "term",
    ["HEAD", "BRAIN", "SKULL", "IAC", "EAR", "JAW", "TMJ", "MANDIBLE", "head_", "ORBIT ", "SINUS", "FACE BONES"],
)
def test_one_list_of_heads(term):
    assert header_region(header(BodyPartExamined=term)) is BodyRegion.HEAD


@pytest.mark.parametrize(
    ("attributes", "region"),
    [
        ({"ProtocolName": "HEAD ROUTINE"}, BodyRegion.HEAD),
        ({"ProtocolName": "1.2_HeadSeq"}, BodyRegion.HEAD),
        ({"SeriesDescription": "Schädel nativ"}, BodyRegion.HEAD),
        ({"StudyDescription": "Head^HeadRoutine (Adult)"}, BodyRegion.HEAD),
        ({"ProtocolName": "Head 2.0 H31s"}, BodyRegion.HEAD),
        ({"ProtocolName": "Head to thigh"}, BodyRegion.TRUNK),
        ({"SeriesDescription": "PET WB skull base to mid-thigh"}, BodyRegion.TRUNK),
        ({"BodyPartExamined": "CHESTABDPELVIS"}, BodyRegion.TRUNK),
        ({"BodyPartExamined": "HEADNECK"}, BodyRegion.NECK),
        ({"ProtocolName": "Neuro^SPINE"}, BodyRegion.TRUNK),
        ({"SeriesDescription": "Thorax arm up"}, BodyRegion.TRUNK),
        ({"SeriesDescription": "AC CT"}, BodyRegion.UNKNOWN),
        ({"AnatomicRegionSequence": coded("69536005", "SCT", "Head")}, BodyRegion.HEAD),
        ({"AnatomicRegionSequence": coded("T-A0100", "SRT", "Brain")}, BodyRegion.HEAD),
        ({"AnatomicRegionSequence": coded("51185008", "SCT", "Chest"), "BodyPartExamined": "HEAD"}, BodyRegion.TRUNK),
        # the same value in another scheme is another concept
        ({"AnatomicRegionSequence": coded("69536005", "99ABC", "")}, BodyRegion.UNKNOWN),
        ({"CTDIPhantomTypeCodeSequence": HEAD_PHANTOM}, BodyRegion.HEAD),
        ({"CTDIPhantomTypeCodeSequence": HEAD_PHANTOM, "PatientAge": "003Y"}, BodyRegion.UNKNOWN),
        ({"CTDIPhantomTypeCodeSequence": BODY_PHANTOM}, BodyRegion.UNKNOWN),
        # Body Part Examined left from another protocol
        ({"BodyPartExamined": "HEAD", "ProtocolName": "Thorax"}, BodyRegion.TRUNK),
        ({"BodyPartExamined": "CHEST", "ProtocolName": "Head routine"}, BodyRegion.HEAD),
        (
            {"BodyPartExamined": "HEAD", "ProtocolName": "Thorax", "CTDIPhantomTypeCodeSequence": HEAD_PHANTOM},
            BodyRegion.HEAD,
        ),
        ({"BodyPartExamined": "HEAD", "StudyDescription": "PET/CT whole body"}, BodyRegion.HEAD),
        ({"BodyPartExamined": "LOWER LEG"}, BodyRegion.LIMB),
        ({}, BodyRegion.UNKNOWN),
    ],
)
def test_region_by_the_header(attributes, region):
    assert header_region(header(**attributes)) is region


def head(skull=True, half_mm=(95.0, 75.0)):
    image = np.full((256, 256), -1000.0, np.float32)
    for depth, hu in ((0.0, 30.0), (6.0, 900.0 if skull else 30.0), (13.0, 35.0)):
        inside = ellipse(256, 1.0, (half_mm[0] - depth, half_mm[1] - depth))
        image += inside * (hu - image)
    return np.repeat(image[None], 6, axis=0)


def test_a_skull_is_seen_in_the_image_whatever_the_header_says():
    made = volume(head(), (5.0, 1.0, 1.0), BodyPartExamined="CHEST")
    assert region_of(made) is BodyRegion.HEAD


@pytest.mark.parametrize("voxels", [head(skull=False), head(half_mm=(125.0, 125.0 + 6))])
def test_a_body_without_skull_or_too_wide_for_one_is_not_a_head(voxels):
    assert region_of(volume(voxels, (5.0, 1.0 if voxels[0, 128, 4] < -900 else 1.2, 1.2))) is BodyRegion.UNKNOWN


@pytest.mark.parametrize(
    ("age", "years"),
    [("015Y", 15), ("15Y", 15), ("15y", 15), ("6M", 0.5), ("06M", 0.5), ("006M", 0.5), ("10D", 10 / 365.25),
     ("3W", 3 / 52.18), ("15", 15), (" 015Y", 15), ("15 Y", 15), ("Y15", None), ("", None)],
)  # fmt: skip
def test_ages_in_every_form(age, years):
    found = patient_years(header(PatientAge=age))
    assert found == (None if years is None else pytest.approx(years, rel=1e-3))


def test_the_dates_of_birth_and_study_stand_in_for_the_age():
    assert patient_years(header(PatientBirthDate="2013.01.01", SeriesDate="20200101")) == pytest.approx(7, abs=0.01)
