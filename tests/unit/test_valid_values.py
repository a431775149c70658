"""Each value of a source header is made valid for its VR and VM, or left out and named."""

from __future__ import annotations

import pytest
from pydicom import Dataset
from pydicom.datadict import dictionary_VR

from dicom_qa_node.dicom_io.pydicom_patches import decoded_text, writable_character_set
from dicom_qa_node.report.copied_modules import copied_modules
from dicom_qa_node.report.valid_values import Changes, plain_text, valid_element
from tests.odd_headers import raw


def made(keyword: str, value: bytes, charset: tuple[str, ...] = (), vr: str | None = None) -> tuple[str, str]:
    """Return the copied value as text, and what is said of it."""
    changes = Changes()
    element = valid_element(raw(keyword, value, vr), charset, changes)
    text = "" if element is None else "\\".join(map(str, element.value if element.VM > 1 else [element.value]))
    return text, str(changes)


@pytest.mark.parametrize(
    ("keyword", "value", "copied"),
    [
        ("PatientBirthDate", b"19600101", "19600101"),
        ("PatientBirthDate", b"1960.01.01", "19600101"),
        ("StudyDate", b"2024-05-01", "20240501"),
        ("StudyTime", b"10:15:00", "101500"),
        ("StudyTime", b"101500.1234567", "101500.123456"),
        ("PatientAge", b"45Y", "045Y"),
        ("PatientSex", b"m", "M"),
        ("PatientWeight", b"70.12345678901234567", "70.1234568"),
        ("TimezoneOffsetFromUTC", b"+01:00", "+0100"),
        ("TimezoneOffsetFromUTC", b"Z", "+0000"),
        ("Manufacturer", b"GE\\MEDICAL", "GE"),
        ("StudyDescription", b"CT\r\nThorax", "CT  Thorax"),
        ("StudyDescription", b"D" * 100, "D" * 64),
        ("PatientName", b"A^B^C^D^E^F^G", "A^B^C^D^E F G"),
        ("PatientName", b"A=B=C=D", "A=B=C"),
        ("PatientName", b"^^^^", ""),
        ("PatientName", b"A\nB^C\tD", "A B^C D"),
        ("AdditionalPatientHistory", b"C:\\temp", "C:\\temp"),
        ("PatientID", b"  LAB1 \0", "LAB1"),
        ("AdmittingDiagnosesDescription", b"one\\two", "one\\two"),
    ],
)
def test_what_has_one_valid_reading_is_copied(keyword, value, copied):
    assert made(keyword, value)[0] == copied


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("PatientBirthDate", b"19600231"),
        ("PatientBirthDate", b"00000101"),
        ("StudyTime", b"101560"),
        ("StudyTime", b"2500"),
        ("PatientAge", b"45"),
        ("PatientSex", b"MALE"),
        ("PatientWeight", b"70,5"),
        ("PatientWeight", b"NaN"),
        ("TimezoneOffsetFromUTC", b"0100"),
        ("TimezoneOffsetFromUTC", b"-0000"),
        ("TimezoneOffsetFromUTC", b"+0560"),
        ("FrameOfReferenceUID", b"1.2.03.4"),
        ("SeriesNumber", b"12345678901"),
        ("SeriesNumber", b"1.5"),
    ],
)
def test_what_has_none_is_left_out_and_named(keyword, value):
    copied, said = made(keyword, value)
    assert copied == ""
    assert said == f"{keyword} left out (not a valid {dictionary_VR(keyword)} value)"


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("PatientID", b"P1\\P2"),
        ("PatientID", b"P" * 65),
        ("PatientID", b"LAB\x011"),
        ("AccessionNumber", b"A" * 17),
        ("IssuerOfPatientID", b"I\\J"),
    ],
)
def test_an_identifier_is_copied_whole_or_not_at_all(keyword, value):
    copied, said = made(keyword, value)
    assert copied == ""
    assert said.startswith(f"{keyword} left out")


def test_a_value_that_is_copied_as_it_is_needs_no_word():
    assert made("PatientName", b"Doe^Jane^^ ") == ("Doe^Jane", "")
    assert made("StudyDescription", b" CT thorax ") == ("CT thorax", "")


def test_text_under_another_text_vr_is_text_and_other_bytes_are_not():
    assert made("PatientID", b"LAB1", vr="SH") == ("LAB1", "")
    assert made("PatientID", b"LAB1", vr="UN") == ("LAB1", "")
    assert made("PatientID", b"\1\0\0\0", vr="UL")[0] == ""


@pytest.mark.parametrize(
    ("charset", "value", "text"),
    [
        (("ISO-IR 100",), "Müßig^Jörg".encode("latin-1"), "Müßig^Jörg"),
        (("UTF8",), "Müßig^Jörg".encode(), "Müßig^Jörg"),
        ((), "Müßig^Jörg".encode(), "Müßig^Jörg"),
        ((), "Müßig^Jörg".encode("latin-1"), "Müßig^Jörg"),
        (("KLINGON",), "Müßig^Jörg".encode("latin-1"), "Müßig^Jörg"),
        (("ISO_IR 100",), "Müßig^Jörg".encode(), "Müßig^Jörg"),
        (("ISO_IR 100", "ISO_IR 192"), "Müßig^Jörg".encode("latin-1"), "Müßig^Jörg"),
        (("GB18030",), b"Test^A=\x81\x5c^\x90\x5c", b"Test^A=\x81\x5c^\x90\x5c".decode("gb18030")),
        (("ISO_IR 203",), "Lefèvre^Œdipe".encode("iso8859-15"), "Lefèvre^Œdipe"),
        (("", "ISO 2022 IR 87"), b"Yamada=\x1b$B;3ED\x1b(B", "Yamada=山田"),
    ],
)
def test_names_are_decoded_whatever_the_character_set_is_called(charset, value, text):
    assert decoded_text(value, charset) == text
    assert made("PatientName", value, charset)[0].rstrip("=") == text


@pytest.mark.parametrize(
    ("terms", "written"),
    [
        ((), ()),
        (("ISO_IR 144",), ("ISO_IR 144",)),
        (("", "ISO 2022 IR 87"), ("", "ISO 2022 IR 87")),
        (("ISO-IR 100",), ("ISO_IR 192",)),
        (("ISO_IR 100", "ISO_IR 192"), ("ISO_IR 192",)),
        (("UTF8",), ("ISO_IR 192",)),
        (("GBK",), ("ISO_IR 192",)),
        (("ISO_IR 203",), ("ISO_IR 192",)),
    ],
)
def test_only_an_allowed_character_set_is_written(terms, written):
    assert writable_character_set(terms) == written


def test_control_characters_leave_every_text():
    assert plain_text("a\x1b[31m\x85b\u2028c\x07") == "a[31m b c"
    assert plain_text("a\r\nb\tc\x00", paragraphs=True) == "a\r\nb c"


def whole(**elements: object) -> tuple[Dataset, str]:
    source, changes = Dataset(), Changes()
    for keyword, value in elements.items():
        setattr(source, keyword, value)
    return copied_modules(source, (), changes), str(changes)


def test_half_a_clinical_trial_is_left_out_and_a_whole_one_completed():
    copy, said = whole(ClinicalTrialSponsorName="S", ClinicalTrialProtocolID="P")
    assert [element for element in copy if "ClinicalTrial" in element.keyword] == []
    assert "ClinicalTrialSponsorName left out" in said
    copy, said = whole(ClinicalTrialSponsorName="S", ClinicalTrialProtocolID="P", ClinicalTrialSubjectID="7")
    assert (copy.ClinicalTrialSiteID, copy.ClinicalTrialSiteName, copy.ClinicalTrialProtocolName) == ("", "", "")
    assert said == ""


def test_identity_removed_without_a_method_is_not_claimed():
    assert "PatientIdentityRemoved" not in whole(PatientIdentityRemoved="YES")[0]
    assert whole(PatientIdentityRemoved="YES", DeidentificationMethod="profile")[0].PatientIdentityRemoved == "YES"


def test_codes_are_copied_by_their_macro():
    long, empty, private = Dataset(), Dataset(), Dataset()
    long.CodingSchemeDesignator = "99LOCAL"
    for element in (raw("CodeValue", b"C" * 20), raw("CodeMeaning", b"m" * 70)):
        long._dict[element.tag] = element
    empty.CodeValue = empty.CodingSchemeDesignator = empty.CodeMeaning = ""
    private.CodeValue, private.CodingSchemeDesignator, private.CodeMeaning = "A", "99X", "a"
    private.add_new(0x00091010, "UN", b"\1\2")
    private.PurposeOfReferenceCodeSequence = [Dataset()]
    copy, said = whole(ProcedureCodeSequence=[long, empty, private])
    first, second = copy.ProcedureCodeSequence
    assert (first.LongCodeValue, "CodeValue" in first, len(first.CodeMeaning)) == ("C" * 20, False, 64)
    assert [element.keyword for element in second] == ["CodeValue", "CodingSchemeDesignator", "CodeMeaning"]
    assert said == "ProcedureCodeSequence copied without the items that are not whole"
