"""A report as another SOP class: the same content, a UID of its own, and the same file each time."""

from __future__ import annotations

import dataclasses

import pytest
from pydicom import Dataset, dcmread

from dicom_qa_node.config import Config
from dicom_qa_node.deliver.targets.base import CLASSES
from dicom_qa_node.domain.delivery import ReportRef
from dicom_qa_node.domain.errors import Permanent
from dicom_qa_node.report.report_builder import build_report, report_path, write_report
from dicom_qa_node.report.sop_class_conversion import as_form, form_uid, illegal_item
from dicom_qa_node.report.sr_document import SOP_CLASS_UID, ReportRequest, report_series_uid, report_uid
from tests.report_samples import MODEL, T0, verdict, write_series

ENHANCED, COMPREHENSIVE = CLASSES["enhanced"], CLASSES["comprehensive"]


@pytest.fixture(scope="module")
def versions(tmp_path_factory):
    """Return the spool and the reports of two versions."""
    spool = tmp_path_factory.mktemp("spool")
    instances = write_series(spool)
    result = verdict(instances)
    uid, found, before = result.series_instance_uid, [], None
    for version in (1, 2):
        content = build_report(ReportRequest(result, version, T0, before), instances, spool, Config())
        own = report_uid(uid, version, MODEL)
        path = write_report(content, spool / "reports", own)
        before = ReportRef(
            own, SOP_CLASS_UID, report_series_uid(uid, MODEL), uid, version, str(path.relative_to(spool)), T0,
            None if before is None else before.sop_instance_uid,
        )  # fmt: skip
        found.append(before)
    return spool, found


def without_identity(dataset: Dataset) -> Dataset:
    for keyword in ("SOPClassUID", "SOPInstanceUID", "PredecessorDocumentsSequence"):
        if keyword in dataset:
            delattr(dataset, keyword)
    return dataset


@pytest.mark.parametrize("sop_class", [ENHANCED, COMPREHENSIVE])
def test_only_the_identity_differs(versions, sop_class):
    spool, (first, _) = versions
    form = as_form(spool, first, sop_class)
    made, report = dcmread(spool / form.path), dcmread(spool / first.path)
    assert form == dataclasses.replace(
        first, sop_instance_uid=form_uid(first.sop_instance_uid, sop_class), sop_class_uid=sop_class, path=form.path
    )
    assert (made.SOPClassUID, made.SOPInstanceUID) == (sop_class, form.sop_instance_uid)
    assert made.file_meta.MediaStorageSOPClassUID == sop_class
    assert made.file_meta.MediaStorageSOPInstanceUID == form.sop_instance_uid
    assert made.SeriesInstanceUID == report.SeriesInstanceUID
    assert without_identity(made) == without_identity(report)


def test_every_class_has_another_uid_and_the_same_one_each_time(versions):
    spool, (first, second) = versions
    uids = {form_uid(ref.sop_instance_uid, cls) for ref in (first, second) for cls in (ENHANCED, COMPREHENSIVE)}
    assert len(uids) == 4
    assert uids.isdisjoint({first.sop_instance_uid, second.sop_instance_uid})
    path = report_path(spool, as_form(spool, first, ENHANCED).sop_instance_uid)
    before = path.stat().st_mtime_ns
    assert as_form(spool, first, ENHANCED) == as_form(spool, first, ENHANCED)
    assert path.stat().st_mtime_ns == before
    content = path.read_bytes()
    path.unlink()
    assert report_path(spool, as_form(spool, first, ENHANCED).sop_instance_uid).read_bytes() == content


def predecessor(path) -> tuple[str, str]:
    ((item,),) = [study.ReferencedSeriesSequence for study in dcmread(path).PredecessorDocumentsSequence]
    (reference,) = item.ReferencedSOPSequence
    return str(reference.ReferencedSOPClassUID), str(reference.ReferencedSOPInstanceUID)


def test_predecessor_is_the_same_form_where_it_was_made_and_the_report_itself_otherwise(versions):
    spool, (first, second) = versions
    made = as_form(spool, first, ENHANCED)
    assert predecessor(spool / as_form(spool, second, ENHANCED).path) == (ENHANCED, made.sop_instance_uid)
    for ref in (first, second):
        report_path(spool, form_uid(ref.sop_instance_uid, COMPREHENSIVE)).unlink(missing_ok=True)
    found = predecessor(spool / as_form(spool, second, COMPREHENSIVE).path)
    assert found == (SOP_CLASS_UID, first.sop_instance_uid)


def item(kind: str, relationship: str = "CONTAINS", *children: Dataset) -> Dataset:
    made = Dataset()
    made.ValueType, made.RelationshipType = kind, relationship
    if children:
        made.ContentSequence = list(children)
    return made


@pytest.mark.parametrize(
    ("child", "words"),
    [
        (item("SCOORD3D"), "CONTAINER CONTAINS SCOORD3D"),
        (item("CONTAINER", "CONTAINS", item("TEXT", "CONTAINS", item("NUM"))), "TEXT CONTAINS NUM"),
        (item("IMAGE", "HAS PROPERTIES"), "CONTAINER HAS PROPERTIES IMAGE"),
        (item("NUM", "CONTAINS", item("IMAGE", "INFERRED FROM")), ""),
        (item("IMAGE", "CONTAINS", item("NUM", "HAS ACQ CONTEXT")), ""),
    ],
)
def test_what_cannot_stand_in_the_class_is_named(child, words):
    assert illegal_item(item("CONTAINER", "CONTAINS", child)) == words


def test_reference_inside_the_tree_is_illegal():
    pointing = Dataset()
    pointing.RelationshipType, pointing.ReferencedContentItemIdentifier = "INFERRED FROM", [1, 1]
    assert (
        illegal_item(item("CONTAINER", "CONTAINS", item("NUM", "CONTAINS", pointing))) == "a relationship by reference"
    )


def test_report_that_cannot_be_converted_says_so_and_leaves_no_file(versions, tmp_path):
    spool, (first, _) = versions
    document = dcmread(spool / first.path)
    document.ContentSequence.append(item("SCOORD3D"))
    document.save_as(tmp_path / "odd.dcm")
    odd = dataclasses.replace(first, path="odd.dcm")
    with pytest.raises(Permanent, match="cannot stand in Enhanced SR Storage: CONTAINER CONTAINS SCOORD3D"):
        as_form(tmp_path, odd, ENHANCED)
    with pytest.raises(Permanent, match="cannot be read"):
        as_form(tmp_path, dataclasses.replace(first, path="gone.dcm"), ENHANCED)
    with pytest.raises(Permanent, match="cannot be made as CT Image Storage"):
        as_form(spool, first, "1.2.840.10008.5.1.4.1.1.2")
    assert not (tmp_path / "reports").exists()
