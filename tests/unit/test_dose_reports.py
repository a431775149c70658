"""Dose reports as scanners send them: every quirk seen in the field is read by its codes, or withheld."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from io import BytesIO

import pytest
from pydicom import Dataset
from pydicom.filewriter import dcmwrite
from pydicom.uid import ExplicitVRLittleEndian

from dicom_qa_node.dicom_io.headers import tolerant
from dicom_qa_node.domain.dose import AcquisitionType, DoseReport
from dicom_qa_node.dose.report_reader import LARGEST_BYTES, NoDoseReport, UnreadableReport, dose_report_of, read_report
from dicom_qa_node.phantom.dose_reports import MadeEvent, code_item, container, dose_report, num, text_item

STUDY = "1.2.3.4"
ENHANCED_SR = "1.2.840.10008.5.1.4.1.1.88.22"
COMPREHENSIVE_SR = "1.2.840.10008.5.1.4.1.1.88.33"
CTDI, DLP = ("113830", "DCM", "Mean CTDIvol"), ("113838", "DCM", "DLP")


def one(*events: MadeEvent) -> Dataset:
    return dose_report(STUDY, events or [MadeEvent("1.2.3.9.1")])


def acquisition(ds: Dataset, number: int = 0) -> Dataset:
    """Return a CT Acquisition container."""
    found = [item for item in ds.ContentSequence if item.ConceptNameCodeSequence[0].CodeValue == "113819"]
    return found[number]


def item_of(parent: Dataset, code: str) -> Dataset:
    """Return the first content item with a concept, at any depth."""
    for item in parent.get("ContentSequence", ()):
        if item.ConceptNameCodeSequence and item.ConceptNameCodeSequence[0].CodeValue == code:
            return item
        if found := item_of(item, code):
            return found
    return Dataset()


def read(ds: Dataset) -> DoseReport:
    out = BytesIO()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dcmwrite(out, ds, enforce_file_format=True)
    out.seek(0)
    return read_report(out)


def test_a_report_is_read_by_its_codes() -> None:
    report = read(one(MadeEvent("1.2.3.9.1", 8.25, 330.5, "Abdomen", 32)))
    (event,) = report.events
    assert (event.uid, event.key) == ("1.2.3.9.1", "1.2.3.9.1")
    assert (event.ctdi_vol_mgy, event.dlp_mgy_cm, event.phantom_cm) == (8.25, 330.5, 32)
    assert (event.protocol, event.acquisition_type) == ("Abdomen", AcquisitionType.SPIRAL)
    assert (report.study_instance_uid, report.dlp_total_mgy_cm) == (STUDY, 330.5)
    assert report.content_at == "20261128120000"
    assert event.remarks == ()


def test_meanings_are_never_compared() -> None:
    ds = one()

    def translate(parent: Dataset) -> None:
        for item in parent.get("ContentSequence", ()):
            for coded in (*item.ConceptNameCodeSequence, *item.get("ConceptCodeSequence", ())):
                coded.CodeMeaning = "Wort in einer anderen Sprache"
            translate(item)

    translate(ds)
    assert read(ds).events == read(one()).events


def test_the_unit_of_dlp_without_its_point_is_the_same_unit() -> None:
    ds = one(MadeEvent("1.2.3.9.1", 8.0, 320.0))
    unit = item_of(acquisition(ds), "113838").MeasuredValueSequence[0].MeasurementUnitsCodeSequence[0]
    unit.CodeValue = "mGycm"
    assert read(ds).events[0].dlp_mgy_cm == 320.0


@pytest.mark.parametrize(("unit", "found"), [("Gy.cm", 320_000.0 / 1000), ("mGy", None), ("", None), ("99", None)])
def test_another_unit_is_converted_or_the_value_is_withheld(unit: str, found: float | None) -> None:
    ds = one(MadeEvent("1.2.3.9.1", 8.0, 0.32 if unit == "Gy.cm" else 320.0))
    item_of(acquisition(ds), "113838").MeasuredValueSequence[0].MeasurementUnitsCodeSequence[0].CodeValue = unit
    (event,) = read(ds).events
    assert event.dlp_mgy_cm == pytest.approx(found)
    assert bool(event.remarks) == (found is None)
    assert event.ctdi_vol_mgy == 8.0


@pytest.mark.parametrize("sop_class", [ENHANCED_SR, COMPREHENSIVE_SR])
@pytest.mark.parametrize("mark", ["template", "title", "both"])
def test_reports_under_other_classes_are_known_by_template_or_title(sop_class: str, mark: str) -> None:
    ds = dose_report(STUDY, [MadeEvent("1.2.3.9.1")], sop_class_uid=sop_class)
    if mark == "title":
        del ds.ContentTemplateSequence
    if mark == "template":
        ds.ConceptNameCodeSequence[0].CodeValue = "126000"
    assert read(ds).events[0].ctdi_vol_mgy == 8.0


def test_a_code_without_a_code_costs_only_itself() -> None:
    ds = one()
    item_of(acquisition(ds), "113820").ConceptCodeSequence = []
    item_of(acquisition(ds), "113835").ConceptCodeSequence[0].CodeValue = ""
    (event,) = read(ds).events
    assert (event.acquisition_type, event.phantom_cm, event.ctdi_vol_mgy) == (AcquisitionType.UNKNOWN, None, 8.0)
    assert not event.localizer


def test_unknown_value_types_are_passed_over() -> None:
    ds = one()
    person = text_item(("113870", "DCM", "Person Name"), "Doe^Jane")
    person.ValueType = "PERSON NAME"
    ds.ContentSequence.insert(0, person)
    acquisition(ds).ContentSequence.insert(0, person)
    assert read(ds).events == read(one()).events


def test_a_dual_source_scanner_has_two_tube_voltages() -> None:
    assert read(one(MadeEvent("1.2.3.9.1", kv=(80.0, 140.0)))).events[0].kv == (80.0, 140.0)


def test_localizers_are_known_by_their_type_though_they_have_a_dose() -> None:
    report = read(one(MadeEvent("1.2.3.9.1", 0.14, 7.0, "Topogram", localizer=True), MadeEvent("1.2.3.9.2")))
    assert [event.localizer for event in report.events] == [True, False]


def test_head_and_body_phantom_stand_in_one_report() -> None:
    report = read(one(MadeEvent("1.2.3.9.1", 45.0, 700.0, "Head", 16), MadeEvent("1.2.3.9.2", 8.0, 320.0, "Abdomen")))
    assert [(event.phantom_cm, event.ctdi_vol_mgy) for event in report.events] == [(16, 45.0), (32, 8.0)]


def test_one_acquisition_for_both_phantoms_has_no_single_dose() -> None:
    ds = one()
    dose = item_of(acquisition(ds), "113829")
    dose.ContentSequence.append(
        code_item(("113835", "DCM", "CTDIw Phantom Type"), ("113690", "DCM", "IEC Head Dosimetry Phantom"))
    )
    (event,) = read(ds).events
    assert (event.ctdi_vol_mgy, event.dlp_mgy_cm, event.phantom_cm) == (None, None, None)
    assert event.remarks == ("CTDIvol for two phantoms",)


def test_a_report_without_protocols_is_read() -> None:
    assert read(one(MadeEvent("1.2.3.9.1", protocol=""))).events[0].protocol == ""


@pytest.mark.parametrize("value", ["0", "-3", "12,5", "1e9", "", "8\\9"])
def test_a_dose_that_cannot_be_is_withheld(value: str) -> None:
    ds = one()
    measured = item_of(acquisition(ds), "113830").MeasuredValueSequence[0]
    measured.add_new(0x0040A30A, "LO", value)
    measured[0x0040A30A].VR = "DS" if value in ("0", "-3", "1e9", "") else "LO"
    (event,) = dose_report_of(ds).events
    assert event.ctdi_vol_mgy is None
    assert event.dlp_mgy_cm == 320.0
    assert event.remarks


def test_two_different_doses_of_one_acquisition_are_withheld() -> None:
    ds = one()
    item_of(acquisition(ds), "113829").ContentSequence.append(num(CTDI, 9.0, "mGy"))
    assert read(ds).events[0].ctdi_vol_mgy is None


def test_a_private_code_of_the_same_value_is_another_concept() -> None:
    ds = one()
    item_of(acquisition(ds), "113830").ConceptNameCodeSequence[0].CodingSchemeDesignator = "99VENDOR"
    assert read(ds).events[0].ctdi_vol_mgy is None


def test_an_acquisition_that_stands_twice_counts_once() -> None:
    event = MadeEvent("1.2.3.9.1")
    assert len(read(one(event, event)).events) == 1


def test_two_acquisitions_under_one_uid_are_kept_apart() -> None:
    report = read(one(MadeEvent("1.2.3.9.1", 8.0), MadeEvent("1.2.3.9.1", 12.0)))
    assert len({event.key for event in report.events}) == 2


@pytest.mark.parametrize("uid", ["", "not a uid", "1.2..3"])
def test_an_event_without_a_valid_uid_has_the_same_key_in_the_next_report(uid: str) -> None:
    first, second = MadeEvent(uid, 8.0), MadeEvent(uid, 12.0, 500.0)
    with tolerant():
        earlier, later = dose_report_of(one(first)), dose_report_of(one(first, second))
    assert earlier.events[0].uid == ""
    assert earlier.events[0].key == later.events[0].key != later.events[1].key


def test_a_report_without_an_event_is_a_dose_report() -> None:
    assert read(dose_report(STUDY, [])).events == ()


def projection(ds: Dataset) -> None:
    ds.ContentTemplateSequence[0].TemplateIdentifier = "10001"
    ds.ContentSequence = [container(("113702", "DCM", "Accumulated X-Ray Dose Data"), [])]


def other_document(ds: Dataset) -> None:
    ds.SOPClassUID = ENHANCED_SR
    ds.ContentTemplateSequence[0].TemplateIdentifier = "1500"
    ds.ConceptNameCodeSequence[0].CodeValue = "126000"


@pytest.mark.parametrize(("change", "words"), [(projection, "not of CT"), (other_document, "not a dose report")])
def test_what_is_no_ct_dose_report_is_named(change: Callable[[Dataset], None], words: str) -> None:
    ds = one()
    change(ds)
    with pytest.raises(NoDoseReport, match=words):
        read(ds)


def test_a_report_without_a_study_is_refused() -> None:
    ds = one()
    del ds.StudyInstanceUID
    with pytest.raises(UnreadableReport, match="Study Instance UID"):
        read(ds)


def test_depth_items_and_bytes_have_a_bound() -> None:
    deep = container(("113811", "DCM", "CT Accumulated Dose Data"), [])
    for _ in range(40):
        deep = container(("113811", "DCM", "CT Accumulated Dose Data"), [deep])
    ds = one()
    ds.ContentSequence.append(deep)
    with pytest.raises(UnreadableReport, match="nested deeper"):
        dose_report_of(ds)
    ds = one()
    ds.ContentSequence = [*ds.ContentSequence, *[Dataset() for _ in range(60_000)]]
    with pytest.raises(UnreadableReport, match="content items"):
        dose_report_of(ds)
    with pytest.raises(UnreadableReport, match="MiB"):
        read_report(BytesIO(bytes(LARGEST_BYTES + 1)))


def test_damaged_bytes_are_unreadable_and_quote_nothing() -> None:
    out = BytesIO()
    ds = one()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dcmwrite(out, ds, enforce_file_format=True)
    whole = out.getvalue()
    read_report(BytesIO(whole))
    said = set()
    for cut in range(132, len(whole), 97):
        with suppress(NoDoseReport):
            try:
                read_report(BytesIO(whole[:cut]))
            except UnreadableReport as error:
                said.add(str(error))
    assert said
    assert not any("Patient" in text for text in said)
