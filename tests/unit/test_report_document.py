"""A report says what the verdict says, belongs to the patient of the images, and is the same when built again."""

from __future__ import annotations

import dataclasses
import struct
from io import BytesIO
from pathlib import Path

import highdicom as hd
import pytest
from pydicom import DataElement, Dataset, dcmread
from pydicom.sr._concepts_dict import concepts
from pydicom.sr.codedict import codes as standard

from dicom_qa_node.config import Config
from dicom_qa_node.domain.codes import Code
from dicom_qa_node.domain.delivery import ReportRef
from dicom_qa_node.domain.errors import Permanent
from dicom_qa_node.domain.results import Grade, SeriesKind
from dicom_qa_node.report import sr_codes, sr_document
from dicom_qa_node.report.report_builder import build_report
from dicom_qa_node.report.sr_document import SOP_CLASS_UID, ReportRequest, device_uid, report_series_uid, report_uid
from dicom_qa_node.report.verdict_text import conclusion
from tests.report_samples import MODEL, T0, implausible, not_rated, verdict, with_parts, write_multiframe, write_series

CONFIG = Config()


def built(spool: Path, result, instances, version: int = 1, predecessor: ReportRef | None = None) -> Dataset:
    content = build_report(ReportRequest(result, version, T0, predecessor), instances, spool, CONFIG)
    return dcmread(BytesIO(content))


def groups(report: Dataset) -> list[Dataset]:
    measurements = next(i for i in report.ContentSequence if i.ConceptNameCodeSequence[0].CodeValue == "126010")
    return list(measurements.ContentSequence)


def items(node: Dataset, code: str) -> list[Dataset]:
    return [item for item in node.ContentSequence if item.ConceptNameCodeSequence[0].CodeValue == code]


def number(node: Dataset, code: str) -> float:
    (item,) = items(node, code)
    return float(item.MeasuredValueSequence[0].NumericValue)


def comments(node: Dataset) -> list[str]:
    return [item.TextValue for item in items(node, "121106")]


def test_report_belongs_to_the_study_of_the_images(tmp_path):
    instances = write_series(tmp_path)
    report = built(tmp_path, verdict(instances), instances)
    source = dcmread(tmp_path / instances[0].path)
    for keyword in (
        "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "PatientAge", "StudyInstanceUID", "StudyID",
        "StudyDate", "StudyTime", "StudyDescription", "AccessionNumber", "ReferringPhysicianName",
    ):  # fmt: skip
        assert report[keyword].value == source[keyword].value, keyword
    assert report.SOPClassUID == SOP_CLASS_UID
    assert report.Modality == "SR"
    assert report.SeriesInstanceUID != source.SeriesInstanceUID
    assert (report.CompletionFlag, report.VerificationFlag, report.PreliminaryFlag) == (
        "COMPLETE",
        "UNVERIFIED",
        "FINAL",
    )


def test_the_tree_that_is_hung_in_afterwards_makes_the_document_that_the_library_makes_of_it(tmp_path, monkeypatch):
    instances = write_series(tmp_path)
    request = ReportRequest(verdict(instances), 1, T0)
    content = build_report(request, instances, tmp_path, CONFIG)
    monkeypatch.setattr(sr_document, "_without_branches", lambda root: root)
    assert build_report(request, instances, tmp_path, CONFIG) == content


def test_every_image_that_is_referred_to_is_among_the_evidence(tmp_path):
    instances = write_series(tmp_path)
    report = built(tmp_path, verdict(instances), instances)
    evidence = {
        reference.ReferencedSOPInstanceUID
        for study in report.CurrentRequestedProcedureEvidenceSequence
        for series in study.ReferencedSeriesSequence
        for reference in series.ReferencedSOPSequence
    }
    referred: set[str] = set()

    def look(_parent: Dataset, element: DataElement) -> None:
        if element.keyword == "ReferencedSOPInstanceUID":
            referred.add(element.value)

    for item in report.ContentSequence:
        item.walk(look)
    assert referred
    assert referred <= evidence


def test_series_group_holds_rating_interval_assessment_and_model(tmp_path):
    instances = write_series(tmp_path)
    series = groups(built(tmp_path, verdict(instances), instances))[0]
    assert number(series, "111694") == 2.83
    assert (number(series, "SCORE_LOW"), number(series, "SCORE_HIGH")) == (2.41, 3.2)
    assert items(series, "111050")[0].ConceptCodeSequence[0].CodeValue == "RID12"
    assert items(series, "121071")[0].ConceptCodeSequence[0].CodeValue == "111101"
    assert items(series, "111001")[0].TextValue == MODEL.name
    assert items(series, "111003")[0].TextValue == MODEL.version
    assert f"weights sha256 {MODEL.sha256}" in [item.TextValue for item in items(series, "111002")]
    assert len(items(series, "121112")) == 7


def code(node: Dataset, concept: str) -> list[str]:
    return [item.ConceptCodeSequence[0].CodeValue for item in items(node, concept)]


def images(node: Dataset) -> list[str]:
    return [item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID for item in items(node, "121112")]


def test_each_part_has_a_group_with_its_own_images_and_algorithm(tmp_path):
    ct, pet = write_series(tmp_path, 1), write_series(tmp_path, 2, "PT")
    series, of_pet, of_ct, of_display, *_ = groups(built(tmp_path, with_parts(pet, ct), [*ct, *pet]))
    assert comments(series)[0].startswith("Limited by the noise of the PET")
    assert any("limited–non-diagnostic" in text for text in comments(series))
    assert code(series, "111050") == ["RID13"]
    identifiers = [items(group, "112039")[0].TextValue for group in (of_pet, of_ct, of_display)]
    assert identifiers == [f"{name} part of the verdict" for name in ("PET", "CT", "Display")]
    assert len({items(group, "112040")[0].UID for group in (series, of_pet, of_ct, of_display)}) == 4
    assert (number(of_pet, "111694"), number(of_pet, "Q_NOISE")) == (1.7, 1.7)
    assert (number(of_pet, "SCORE_LOW"), number(of_pet, "SCORE_HIGH")) == (1.1, 2.3)
    assert items(of_pet, "Q_RESOLUTION") == []
    assert "Resolution: not rated, pixels of 8 mm" in comments(of_pet)
    assert (code(of_pet, "VERDICT_ROLE"), code(of_ct, "VERDICT_ROLE")) == (["DECIDES"], ["RATED_ONLY"])
    assert images(of_pet) == [item.sop_instance_uid for item in pet[:7]]
    assert images(of_ct) == [item.sop_instance_uid for item in ct[:3]]
    assert items(of_pet, "111001")[0].TextValue == "closed formulas"
    assert items(of_ct, "111001")[0].TextValue == MODEL.name
    assert (number(of_ct, "111694"), number(of_ct, "COUNTED_SCORE")) == (1.2, 2.0)
    assert code(of_display, "111052") == ["NOT_RATED"]
    assert items(of_display, "111694") == []
    assert comments(of_display) == ["not rated: the model was not made for it"]


def test_an_implausible_pet_is_not_rated_and_its_part_says_so(tmp_path):
    pet = write_series(tmp_path, 2, "PT")
    series, part, *_ = groups(built(tmp_path, implausible(pet), pet))
    assert code(series, "111052") == ["NOT_RATED"]
    assert items(series, "111694") == []
    assert comments(series)[0].startswith("No score: the PET is implausible")
    assert number(part, "111694") == 0
    assert code(part, "111052") == ["F130"]


def test_each_slice_has_its_rating_weight_and_image(tmp_path):
    instances = write_series(tmp_path)
    result = verdict(instances)
    of_slices = groups(built(tmp_path, result, instances))[-7:]
    for item, group in zip(result.slices, of_slices, strict=True):
        # 111029 is defined from 0 to 100, the node's own score from 0 to 4.
        assert number(group, "111029") == pytest.approx(25 * item.score)
        assert number(group, "SLICE_SCORE") == pytest.approx(item.score)
        assert number(group, "SLICE_WEIGHT") == pytest.approx(item.weight, abs=1e-6)
        (image,) = items(group, "121112")
        assert image.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == item.sop_instance_uid


def test_measurements_and_findings_are_told_in_codes_and_words(tmp_path):
    instances = write_series(tmp_path)
    _, noise, missing, physics, *_ = groups(built(tmp_path, verdict(instances), instances))
    assert number(physics, "NOISE_HU") == 31.25
    (noise_item,) = items(physics, "NOISE_HU")
    assert noise_item.MeasuredValueSequence[0].MeasurementUnitsCodeSequence[0].CodeValue == "[hnsf'U]"
    assert number(physics, "111787") == 12.5
    assert not items(physics, sr_codes.derived_private_code("global_noise_level_liver_hu", "").value)
    assert comments(physics) == [
        "Global noise level: 31.25 HU, above the usual range (5 to 20 HU); 9 slices",
        "Signal to noise ratio: 12.5, within the usual range (at least 10)",
        "Noise in the liver: not measured, no liver",
        "A ratio that came out infinite: the estimator gave no finite value",
    ]
    assert items(noise, "111052")[0].ConceptCodeSequence[0].CodeValue == "130578"
    assert items(noise, "246112005")[0].ConceptCodeSequence[0].CodeValue == "SEV_WARNING"
    assert comments(noise) == ["The noise is above the usual range.", "31 HU, usual 5–20 HU"]
    assert items(noise, "121112")[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID == instances[-1].sop_instance_uid
    assert items(missing, "111052")[0].ConceptCodeSequence[0].CodingSchemeDesignator == "99DQAN"


def conclusions(node: Dataset) -> list[str]:
    return [item.TextValue for item in items(node, "121077")]


def test_the_verdict_in_words_comes_first_and_explains_itself(tmp_path):
    pet, ct = write_series(tmp_path, 1, "PT"), write_series(tmp_path, 2, "CT")
    report = built(tmp_path, with_parts(pet, ct), [*pet, *ct])
    (words,) = conclusions(report)
    assert words.startswith(
        "Limited to non-diagnostic quality: score 1.70 of 4, interval 1.10 to 2.30. Limited by the "
    )
    kinds = [item.ConceptNameCodeSequence[0].CodeMeaning for item in report.ContentSequence if item.ValueType != "CODE"]
    assert kinds[-3:] == ["Conclusion", "Image Library", "Imaging Measurements"]
    first = groups(report)[0]
    assert conclusions(first) == [words]
    names = [item.ConceptNameCodeSequence[0].CodeMeaning for item in first.ContentSequence]
    assert names[:4] == ["Tracking Identifier", "Tracking Unique Identifier", "Finding", "Conclusion"]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "Diagnostic quality: score 2.83 of 4, interval 2.41 to 3.20."),
        ({"interval": None, "why": "Good."}, "Diagnostic quality: score 2.83 of 4. Good."),
        ({"grade": Grade.NON_DIAGNOSTIC, "score": 0.0, "interval": None}, "Non-diagnostic quality: score 0.00 of 4."),
        ({"grade": None}, "Rated without a grade: score 2.83 of 4, interval 2.41 to 3.20."),
        ({"grade_low": Grade.DIAGNOSTIC}, "Diagnostic quality: score 2.83 of 4, interval 2.41 to 3.20."),
    ],
)  # fmt: skip
def test_the_conclusion_has_grade_score_and_interval(tmp_path, changes, expected):
    assert conclusion(verdict(write_series(tmp_path), **changes)) == expected


def test_a_series_without_a_score_says_why_instead(tmp_path):
    instances = write_series(tmp_path)
    assert conclusion(not_rated(instances)) == "Not rated. The series is a localizer; the model was not made for it."
    assert conclusion(implausible(instances)).startswith("Not rated. No score: the PET is implausible (flat)")


def test_groups_follow_from_the_verdict_to_the_slices_and_show_their_items_by_name(tmp_path):
    pet, ct = write_series(tmp_path, 1, "PT"), write_series(tmp_path, 2, "CT")
    report = built(tmp_path, with_parts(pet, ct), [*pet, *ct])
    labels = [items(group, "112039")[0].TextValue.split(" ")[0] for group in groups(report)]
    assert labels == ["Image", "PET", "CT", "Display", "Finding", "Finding", "Physical", *["Slice"] * 7]
    (measurements,) = items(report, "126010")
    shown = [report, measurements, *measurements.ContentSequence]
    assert {node.ContinuityOfContent for node in shown} == {"SEPARATE"}


def coded(value: str, scheme: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


NECK, OLD_NECK, LOCAL = (
    coded("45048000", "SCT", "Neck"),
    coded("T-D1600", "SRT", "Neck"),
    coded("CT17", "99RIS", "Thorax"),
)


@pytest.mark.parametrize(
    ("elements", "procedure", "region"),
    [
        ({}, "25045-6", None),
        ({"BodyPartExamined": "CHEST"}, "25045-6", "816094009"),
        ({"BodyPartExamined": "CHEST_ABDOMEN"}, "25045-6", "416550000"),
        ({"BodyPartExamined": "KUCHEN"}, "25045-6", None),
        ({"BodyPartExamined": "HEAD", "AnatomicRegionSequence": [NECK]}, "25045-6", "45048000"),
        ({"BodyPartExamined": "HEAD", "AnatomicRegionSequence": [OLD_NECK]}, "25045-6", "69536005"),
        ({"ProcedureCodeSequence": [coded("24627-2", "LN", "CT Chest")]}, "24627-2", None),
        ({"ProcedureCodeSequence": [LOCAL, coded("RPID16", "RADLEX", "CT Chest")]}, "RPID16", None),
        ({"ProcedureCodeSequence": [LOCAL]}, "25045-6", None),
        ({"ProcedureCodeSequence": [coded("", "LN", "CT Chest")]}, "25045-6", None),
    ],
)  # fmt: skip
def test_procedure_and_body_region_are_coded_from_the_header(tmp_path, elements, procedure, region):
    instances = write_series(tmp_path, **elements)
    report = built(tmp_path, verdict(instances), instances)
    assert code(report, "121058") == [procedure]
    assert code(groups(report)[0], "363698007") == ([region] if region else [])
    assert code(groups(report)[3], "363698007") == ([region] if region else [])


@pytest.mark.parametrize(("part", "procedure"), [("WHOLEBODY", "44139-4"), ("CHEST", "44136-0")])
def test_a_pet_of_the_whole_body_is_reported_as_that(tmp_path, part, procedure):
    pet = write_series(tmp_path, 1, "PT", BodyPartExamined=part)
    assert code(built(tmp_path, verdict(pet, SeriesKind.PT), pet), "121058") == [procedure]


def test_series_outside_the_domain_is_reported_without_a_rating(tmp_path):
    instances = write_series(tmp_path)
    report = built(tmp_path, not_rated(instances), instances)
    series = groups(report)[0]
    assert not items(series, "111694")
    assert not items(series, "111050")
    assert items(series, "111052")[0].ConceptCodeSequence[0].CodeValue == "NOT_RATED"
    assert len(groups(report)) == 3
    middle = instances[len(instances) // 2].sop_instance_uid
    assert items(series, "121112")[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID == middle


def test_every_referenced_image_is_listed_as_evidence(tmp_path):
    pet = write_series(tmp_path, 2, "PT")
    ct = write_series(tmp_path, 1, "CT")
    result = verdict(pet, SeriesKind.PETCT, pair_series_uid=ct[0].series.series_instance_uid)
    mixed = (*result.slices[:3], *verdict(ct).slices[3:])
    report = built(tmp_path, dataclasses.replace(result, slices=mixed), ct + pet)
    (study,) = report.CurrentRequestedProcedureEvidenceSequence
    listed = {
        (series.SeriesInstanceUID, item.ReferencedSOPInstanceUID)
        for series in study.ReferencedSeriesSequence
        for item in series.ReferencedSOPSequence
    }
    uids = {item.sop_instance_uid for item in mixed} | {pet[-1].sop_instance_uid}
    assert {uid for _, uid in listed} == uids
    assert len({series for series, _ in listed}) == 2
    procedures = [i.ConceptCodeSequence[0].CodeValue for i in items(report, "121058")]
    assert procedures == ["44136-0"]
    # Equipment and series number are those of the scored series, not of its pair.
    assert report.SeriesDescription == "Image quality of series 2"
    assert f"paired series {ct[0].series.series_instance_uid}" in [
        item.TextValue for item in items(groups(report)[0], "111002")
    ]


def test_the_image_library_is_short_and_in_the_order_of_its_template(tmp_path):
    """It stands before the groups: what belongs to one image alone would fill the first screen of a viewer."""
    instances = write_series(tmp_path, PixelSpacing=[0.5, 0.75])
    report = built(tmp_path, verdict(instances), instances)
    (group,) = items(items(report, "111028")[0], "126200")
    names = [item.ConceptNameCodeSequence[0].CodeMeaning for item in group.ContentSequence]
    assert names[:7] == [
        "Modality", "Pixel Data Rows", "Pixel Data Columns", "Horizontal Pixel Spacing", "Vertical Pixel Spacing",
        "Slice Thickness", "Frame of Reference UID",
    ]  # fmt: skip
    assert (number(group, "111026"), number(group, "111066")) == (0.75, 0.5)
    images = [item for item in group.ContentSequence if item.ValueType == "IMAGE"]
    assert images
    assert not any("ContentSequence" in item for item in images)


def test_frames_of_a_multiframe_image_are_named(tmp_path):
    instances = write_multiframe(tmp_path)
    report = built(tmp_path, verdict(instances), instances)
    series, *of_slices = groups(report)
    (image,) = items(series, "121112")
    assert image.ReferencedSOPSequence[0].ReferencedFrameNumber == [1, 2, 3, 4, 5, 6, 7]
    (last,) = items(of_slices[-1], "121112")
    assert last.ReferencedSOPSequence[0].ReferencedFrameNumber == 7
    library = items(items(report, "111028")[0], "126200")[0]
    assert number(library, "112225") == 5.0


def test_same_report_has_the_same_bytes_and_other_versions_other_uids(tmp_path):
    instances = write_series(tmp_path)
    request = ReportRequest(verdict(instances), 1, T0)
    assert build_report(request, instances, tmp_path, CONFIG) == build_report(request, instances, tmp_path, CONFIG)
    uid = instances[0].series.series_instance_uid
    retrained = dataclasses.replace(MODEL, sha256="0" * 64)
    assert len({report_uid(uid, 1, MODEL), report_uid(uid, 2, MODEL), report_uid(uid, 1, retrained)}) == 3
    assert report_series_uid(uid, MODEL) == report_series_uid(uid, retrained)
    assert device_uid(MODEL) != device_uid(retrained)


def test_revised_report_names_its_predecessor(tmp_path):
    instances = write_series(tmp_path)
    result = verdict(instances)
    uid = result.series_instance_uid
    first = ReportRef(report_uid(uid, 1, MODEL), SOP_CLASS_UID, report_series_uid(uid, MODEL), uid, 1, "r", T0)
    report = built(tmp_path, result, instances, 2, first)
    (study,) = report.PredecessorDocumentsSequence
    (series,) = study.ReferencedSeriesSequence
    assert series.SeriesInstanceUID == report.SeriesInstanceUID
    assert series.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == first.sop_instance_uid
    assert report.InstanceNumber == 2


def test_equipment_names_scanner_and_network(tmp_path):
    instances = write_series(tmp_path)
    report = built(tmp_path, verdict(instances), instances)
    scanner, network = report.ContributingEquipmentSequence
    assert scanner.PurposeOfReferenceCodeSequence[0].CodeValue == "109101"
    assert (scanner.Manufacturer, scanner.StationName) == ("ACME", "CT7")
    assert network.PurposeOfReferenceCodeSequence[0].CodeValue == "109102"
    assert network.DeviceUID == device_uid(MODEL)
    assert network.DeviceSerialNumber == MODEL.sha256
    assert (report.ManufacturerModelName, report.DeviceSerialNumber) == ("dicom-qa-node", CONFIG.ae_title)
    assert f"{MODEL.name} {MODEL.version}" in report.SoftwareVersions
    assert report.CodingSchemeIdentificationSequence[0].CodingSchemeDesignator == "99DQAN"


def test_times_are_those_of_the_verdict_in_the_zone_of_the_images(tmp_path):
    instances = write_series(tmp_path, TimezoneOffsetFromUTC="+0530")
    report = built(tmp_path, verdict(instances), instances)
    assert (report.ContentDate, report.ContentTime) == ("20260105", "133000.123456")
    assert report.InstanceCreationTime == report.ContentTime
    assert report.TimezoneOffsetFromUTC == "+0530"
    local = T0.astimezone()
    plain = write_series(tmp_path, 3)
    unzoned = built(tmp_path, verdict(plain), plain)
    assert (unzoned.ContentDate, unzoned.ContentTime) == (local.strftime("%Y%m%d"), local.strftime("%H%M%S.%f"))
    assert "TimezoneOffsetFromUTC" not in unzoned
    assert report.ContributingEquipmentSequence[1].ContributionDateTime == "20260105133000.123456"


NAMES = [
    ("ISO_IR 100", "Müller^Jörg", "ISO_IR 100"),
    ("ISO_IR 144", "Люкceмбypг^Роза", "ISO_IR 144"),
    ("ISO_IR 192", "Παπαδόπουλος^Γιώργος", "ISO_IR 192"),
    ("GB18030", "Wang^XiaoDong=王^小东", "GB18030"),
    (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう", ["", "ISO 2022 IR 87"]),
    (["", "ISO 2022 IR 149"], "Hong^Gildong=洪^吉洞=홍^길동", ["", "ISO 2022 IR 149"]),
]


@pytest.mark.parametrize(("charset", "name", "expected"), NAMES)
def test_names_survive_in_the_character_set_of_the_images(tmp_path, charset, name, expected):
    instances = write_series(tmp_path, SpecificCharacterSet=charset, PatientName=name)
    report = built(tmp_path, verdict(instances, findings=()), instances)
    assert report.PatientName == name
    assert str(report.PatientName) == name
    assert report.SpecificCharacterSet == expected


def test_text_that_the_images_character_set_cannot_write_turns_the_report_to_utf8(tmp_path):
    instances = write_series(tmp_path, SpecificCharacterSet="ISO_IR 144", PatientName="Люкceмбypг^Роза")
    report = built(tmp_path, verdict(instances), instances)
    assert report.SpecificCharacterSet == "ISO_IR 192"
    assert report.PatientName == "Люкceмбypг^Роза"
    assert comments(groups(report)[1])[1] == "31 HU, usual 5–20 HU"


def test_plain_ascii_needs_no_character_set(tmp_path):
    instances = write_series(tmp_path)
    assert "SpecificCharacterSet" not in built(tmp_path, verdict(instances, findings=()), instances)


@pytest.mark.filterwarnings("ignore:(Invalid value|The value length)")
def test_broken_identifiers_of_a_scanner_do_not_prevent_a_report(tmp_path):
    import pydicom

    with pydicom.config.disable_value_validation():
        instances = write_series(
            tmp_path, PatientID="X" * 80, PatientBirthDate="unknown", StudyTime="25:61", PatientSex="?", PatientName=""
        )
    report = built(tmp_path, verdict(instances), instances)
    assert report.PatientID == ""
    assert (report.PatientBirthDate, report.StudyTime, report.PatientSex) == ("", "", "")


def test_clinical_trial_is_named_only_where_it_is_whole(tmp_path):
    trial = {"ClinicalTrialSponsorName": "NCI", "ClinicalTrialProtocolID": "P1", "ClinicalTrialSiteName": ""}
    whole = write_series(tmp_path, 1, **trial, ClinicalTrialSubjectID="7", ClinicalTrialSubjectReadingID="")
    report = built(tmp_path, verdict(whole), whole)
    assert (report.ClinicalTrialProtocolID, report.ClinicalTrialSubjectID) == ("P1", "7")
    assert report.ClinicalTrialSiteName == ""
    assert "ClinicalTrialSubjectReadingID" not in report
    torn = write_series(tmp_path, 2, **trial, ClinicalTrialSubjectID="")
    assert not [element for element in built(tmp_path, verdict(torn), torn) if "ClinicalTrial" in element.keyword]


def test_missing_image_is_a_clear_permanent_error(tmp_path):
    instances = write_series(tmp_path)
    result = verdict(instances)
    with pytest.raises(Permanent, match="refers to 1 image"):
        built(tmp_path, result, instances[1:])
    (tmp_path / instances[2].path).unlink()
    with pytest.raises(Permanent, match="cannot be read from the spool"):
        built(tmp_path, result, instances)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_image_file_that_was_damaged_is_a_permanent_error_at_every_length(tmp_path):
    (image,) = instances = write_series(tmp_path, slices=1)
    result = verdict(instances, slices=(), findings=())
    whole = (tmp_path / image.path).read_bytes()
    for length in range(0, 700, 37):
        (tmp_path / image.path).write_bytes(whole[:length])
        with pytest.raises(Permanent):
            built(tmp_path, result, instances)


def test_conflicting_copy_of_an_image_is_never_the_source(tmp_path):
    instances = write_series(tmp_path)
    twin = dataclasses.replace(instances[0], path="gone", conflict=True)
    assert built(tmp_path, verdict(instances), [*instances, twin]).PatientID == "SAMPLE-7"


def test_what_cannot_be_built_is_told_without_patient_data(tmp_path, monkeypatch, caplog):
    def fail(*_: object) -> None:
        raise struct.error("Sample^Sally is no name")

    monkeypatch.setattr("dicom_qa_node.report.report_builder.build_document", fail)
    instances = write_series(tmp_path)
    with pytest.raises(Permanent) as caught:
        built(tmp_path, verdict(instances), instances)
    assert str(caught.value) == "the report cannot be built from these headers; images and score are kept"
    (record,) = caplog.records
    assert record.qa_fields["error"] == "error"
    assert record.qa_fields["where"].startswith("test_report_document.py:")
    assert "Sally" not in str(record.qa_fields)


def test_highdicom_reads_the_report_back(tmp_path):
    instances = write_series(tmp_path)
    content = build_report(ReportRequest(verdict(instances), 1, T0), instances, tmp_path, CONFIG)
    report = hd.sr.srread(BytesIO(content))
    found = report.content.get_image_measurement_groups(finding_type=standard.DCM.ImageQuality)
    assert len(found) == 11
    (rating,) = found[0].get_measurements(name=standard.DCM.ImageSetQualityRating)
    assert rating.value == 2.83


@pytest.mark.parametrize("grade", list(Grade))
def test_every_grade_has_its_code(grade):
    assert sr_codes.GRADES[grade].scheme == "RADLEX"


def test_private_codes_fit_and_differ():
    names = ["noise_hu", "global_noise_level_liver_hu", "global_noise_level_lung_hu"]
    values = [sr_codes.derived_private_code(name, "meaning").value for name in names]
    assert len(set(values)) == 3
    assert all(len(value) <= 16 for value in values)
    assert values[0] == "NOISE_HU"


def test_standard_codes_are_spelled_as_in_the_standard():
    known = {
        (scheme, value): meaning.removesuffix(" (attribute)")
        for scheme in ("DCM", "SCT")
        for entries in concepts[scheme].values()
        for value, (meaning, _) in entries.items()
    }
    used = [code for code in vars(sr_codes).values() if isinstance(code, Code) and code.scheme in ("DCM", "SCT")]
    assert len(used) > 20
    assert [code for code in used if known[code.scheme, code.value] != code.meaning] == []
