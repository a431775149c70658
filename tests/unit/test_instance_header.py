from __future__ import annotations

import pytest
from pydicom.charset import convert_encodings, decode_bytes

from dicom_qa_node.dicom_io.element_scanner import BrokenDataSet
from dicom_qa_node.dicom_io.instance_header import InstanceHeader, read_instance_header
from dicom_qa_node.domain.uids import InvalidUid
from tests.unit.encoded_images import EXPLICIT, ct, encoded, pet


def facts_of(ds: object, syntax: str = EXPLICIT) -> InstanceHeader:
    return read_instance_header(encoded(ds, syntax), 0, syntax)  # type: ignore[arg-type]


def test_series_facts_are_decoded() -> None:
    ds = ct(PatientName="Müller^Jürgen", SeriesDescription=" Thorax ", AccessionNumber="A1", SeriesNumber=4)
    facts = facts_of(ds).series()
    assert facts.patient_name == "Müller^Jürgen"
    assert facts.series_description == "Thorax"
    assert (facts.accession_number, facts.series_number, facts.modality) == ("A1", "4", "CT")
    assert facts.study_instance_uid == ds.StudyInstanceUID
    assert facts.frame_of_reference_uid == ds.FrameOfReferenceUID
    assert (facts.study_date, facts.study_time) == ("20250102", "101112")


@pytest.mark.parametrize(
    ("charset", "name"),
    [
        ("ISO_IR 192", "山田^太郎"),
        (["ISO 2022 IR 6", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎"),
        ("GB18030", "王^小东"),
    ],
)
def test_names_in_other_character_sets(charset: object, name: str) -> None:
    assert facts_of(ct(SpecificCharacterSet=charset, PatientName=name)).series().patient_name == name


def test_an_unknown_character_set_loses_nothing_but_the_odd_letter() -> None:
    data = encoded(ct(PatientName="Müller")).replace(b"ISO_IR 100", b"ISO_IR 999")
    assert read_instance_header(data, 0, EXPLICIT).series().patient_name.startswith("M")


def test_a_nul_in_a_text_does_not_reach_the_database() -> None:
    data = encoded(ct(StationName="CT1X")).replace(b"CT1X", b"C\0T1")
    assert read_instance_header(data, 0, EXPLICIT).series().station_name == "CT1"


@pytest.mark.parametrize(("keyword", "vr", "value"), [("Modality", "CS", "CTXY"), ("AcquisitionNumber", "IS", "1234")])
def test_a_nul_in_a_code_or_a_number_does_not_reach_the_database(keyword: str, vr: str, value: str) -> None:
    ds = ct(ImagesInAcquisition=30, **{keyword: value})
    head = vr.encode() + b"\4\0"
    data = encoded(ds).replace(head + value.encode(), head + value[:1].encode() + b"\0" + value[2:].encode())
    facts = read_instance_header(data, 0, EXPLICIT)
    assert "\0" not in facts.expected_group + facts.series().modality
    assert "\ufffd" in facts.expected_group + facts.series().modality


def test_a_uid_with_a_nul_inside_is_none() -> None:
    uid = b"1.2.826.0.1.99"
    data = encoded(ct(StudyInstanceUID=uid.decode())).replace(uid, b"1.2.826.0.\0.99")
    with pytest.raises(InvalidUid):
        read_instance_header(data, 0, EXPLICIT)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"NumberOfSlices": 47, "SeriesType": ["WHOLE BODY", "IMAGE"]}, 47),
        ({"NumberOfSlices": 47, "NumberOfTimeSlices": 3, "SeriesType": ["DYNAMIC", "IMAGE"]}, 141),
        (
            {
                "NumberOfSlices": 10,
                "NumberOfTimeSlices": 9,
                "NumberOfRRIntervals": 2,
                "NumberOfTimeSlots": 8,
                "SeriesType": ["GATED", "IMAGE"],
            },
            160,
        ),
    ],
)
def test_a_pet_header_promises_a_count(changes: dict[str, object], expected: int) -> None:
    assert facts_of(pet(**changes)).expected == expected


def test_a_ct_header_promises_a_count_per_acquisition() -> None:
    facts = facts_of(ct(ImagesInAcquisition=120, AcquisitionNumber=5))
    assert (facts.expected, facts.expected_group) == (120, "5")


def test_images_derived_from_an_acquisition_are_not_counted_by_it() -> None:
    facts = facts_of(ct(ImagesInAcquisition=600, ImageType=["DERIVED", "SECONDARY", "AXIAL"]))
    assert facts.expected is None
    assert facts_of(ct(ImagesInAcquisition=600, ImageType=["ORIGINAL", "PRIMARY", "AXIAL"])).expected == 600


def test_a_multi_frame_object_is_complete_by_itself() -> None:
    ds = ct(NumberOfFrames=40)
    facts = facts_of(ds)
    assert (facts.number_of_frames, facts.expected, facts.expected_group) == (40, 1, ds.SOPInstanceUID)


def test_without_a_promise_there_is_none() -> None:
    assert facts_of(ct()).expected is None


@pytest.mark.parametrize("keyword", ["SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"])
def test_the_identifying_uids_must_be_there(keyword: str) -> None:
    ds = ct()
    data = encoded(ds)
    with pytest.raises(BrokenDataSet, match="missing"):
        read_instance_header(encoded(ct(**{keyword: None})), 0, EXPLICIT)
    value = str(ds[keyword].value).encode()
    with pytest.raises(InvalidUid):
        read_instance_header(data.replace(value, b"1..2" + b"3" * (len(value) - 4), 1), 0, EXPLICIT)


@pytest.mark.parametrize("text", [b"9999999999", b"x", b"1.5"])
def test_an_odd_instance_number_is_left_out(text: bytes) -> None:
    data = encoded(ct(InstanceNumber="1234567890"))
    data = data.replace(b"1234567890", text.ljust(10))
    assert read_instance_header(data, 0, EXPLICIT).instance_number is None


def test_an_image_without_pixels_is_broken() -> None:
    with pytest.raises(BrokenDataSet, match="pixel data"):
        read_instance_header(encoded(ct(PixelData=None)), 0, EXPLICIT)


def test_escape_sequences_of_gb2312_do_not_stay_in_a_name():
    encodings = convert_encodings(["", "ISO 2022 IR 58"])
    # The name of PS3.5 annex K.2.
    name = b"Zhang^XiaoDong=\x1b$)A\xd5\xc5^\x1b$)A\xd0\xa1\xb6\xab="
    assert decode_bytes(name, encodings, {ord("^"), ord("=")}) == "Zhang^XiaoDong=张^小东="
