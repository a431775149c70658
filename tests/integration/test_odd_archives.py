"""Archives that answer as standards and libraries do not expect: what is stored is delivered, the rest is named."""

from __future__ import annotations

import struct
import time
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.uid import Comprehensive3DSRStorage, ComprehensiveSRStorage

from dicom_qa_node.config import Config, DicomTarget
from dicom_qa_node.deliver.targets import open_target
from dicom_qa_node.deliver.targets.base import Answer, Deferred, DeliveryItem, Refused
from dicom_qa_node.domain.delivery import ReportRef
from dicom_qa_node.report.report_builder import build_report
from dicom_qa_node.report.sop_class_conversion import as_form
from dicom_qa_node.report.sr_document import SOP_CLASS_UID, ReportRequest
from tests import raw_association as raw
from tests.raw_archive import Elements, Odd, RawArchive
from tests.report_samples import T0, verdict, write_series

pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:The value length:UserWarning:pydicom"),
]

TIMEOUT_S = 3.0
#: An association, a store and a release may each wait so long, and each side may need a moment more.
MOST_S = 4 * TIMEOUT_S + 30
IMPLICIT, BIG_ENDIAN = "1.2.840.10008.1.2", "1.2.840.10008.1.2.2"
GERMAN = "Ungültig: Patient fehlt, bitte wiederholen, und noch mehr Text als 64 Zeichen".encode("latin-1")


def only(sop_class: str | None = None, syntax: str | None = None):
    def accept(abstract, syntaxes):
        fits = (sop_class is None or abstract == sop_class) and (syntax is None or syntaxes[0] == syntax)
        return syntaxes[0] if fits else None

    return accept


def with_elements(**changes: bytes | None):
    """Return a change of a command set: elements by their number in hexadecimal, None for one that is left out."""

    def change(elements: Elements) -> Elements:
        new = {int(name[1:], 16): value for name, value in changes.items()}
        merged = elements | {number: value for number, value in new.items() if value is not None}
        return {number: value for number, value in merged.items() if new.get(number, b"") is not None}

    return change


def padded(text: str, fill: bytes) -> bytes:
    return text.encode("ascii").ljust(16, fill)


DELIVERED = {
    "nothing odd": Odd(),
    "titles padded with NUL": Odd(titles=(padded("PACS", b"\0"), padded("NODE", b"\0"))),
    "titles of spaces": Odd(titles=(b" " * 16, b" " * 16)),
    "titles of NUL": Odd(titles=(bytes(16), bytes(16))),
    "titles in Latin-1": Odd(titles=("MÜLLER".encode("latin-1").ljust(16), b"NODE".ljust(16))),
    "a version name of 21 characters": Odd(user=raw.user_information(version=b"MY_PACS_VERSION_2024_")),
    "a version name beyond ASCII": Odd(user=raw.user_information(version="Käse".encode())),
    "an unknown user item": Odd(user=raw.user_information(raw.item(0x5F, b"abcd"))),
    "no implementation": Odd(user=raw.user_information(class_uid=None, version=None)),
    "no maximum length": Odd(user=raw.user_information(maximum=None)),
    "no limit of length": Odd(user=raw.user_information(maximum=0)),
    "a maximum length of 128": Odd(user=raw.user_information(maximum=128)),
    "roles nobody asked for": Odd(
        user=raw.user_information(raw.item(0x54, struct.pack(">H", 25) + SOP_CLASS_UID.encode() + b"\1\0"))
    ),
    "asynchronous operations": Odd(user=raw.user_information(raw.item(0x53, struct.pack(">HH", 1, 1)))),
    "an answer to no identity": Odd(user=raw.user_information(raw.item(0x59, struct.pack(">H", 0)))),
    "refused contexts with an empty syntax": Odd(accept=only(ComprehensiveSRStorage), refused_syntax=b""),
    "refused contexts without a syntax": Odd(accept=only(ComprehensiveSRStorage), refused_syntax=b"none"),
    "refused contexts left out": Odd(accept=only(ComprehensiveSRStorage), refused_syntax=None),
    "Implicit VR alone": Odd(accept=only(syntax=IMPLICIT)),
    "the first class in Implicit VR alone": Odd(accept=only(Comprehensive3DSRStorage, IMPLICIT)),
    "the second class alone": Odd(accept=only(ComprehensiveSRStorage)),
    "a warning without a name": Odd(status=0xB123),
    "a duplicate": Odd(status=0x0111),
    "an answer without its group length": Odd(group_length=False),
    "an answer without instance": Odd(change=with_elements(x1000=None)),
    "an answer without class": Odd(change=with_elements(x0002=None)),
    "an answer about another instance": Odd(change=with_elements(x1000=b"1.2.3.4.5\0")),
    # There is one request that it can be about.
    "an answer to another message ID": Odd(change=with_elements(x0120=b"\x77\x77")),
    "an answer in many fragments": Odd(fragment=10),
    "an answer byte by byte": Odd(step=3),
    "an abort in place of the release": Odd(ending="release", how="abort"),
    "no answer to the release": Odd(ending="release", how="silence"),
    "a closed connection in place of the release": Odd(ending="release"),
}


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ReportRef]:
    spool = tmp_path_factory.mktemp("spool")
    instances = write_series(spool)
    result = verdict(instances, findings=())
    path = spool / "report.dcm"
    path.write_bytes(build_report(ReportRequest(result, 1, T0), instances, spool, Config()))
    uid = str(dcmread(path).SOPInstanceUID)
    return spool, ReportRef(uid, SOP_CLASS_UID, "2.25.9", result.series_instance_uid, 1, "report.dcm", T0)


def send(odd: Odd, report: tuple[Path, ReportRef]) -> tuple[Answer, RawArchive]:
    """Send the report to an archive and hold the sending to its time."""
    spool, reference = report
    archive = RawArchive(odd)
    archive.start()
    settings = DicomTarget(name="pacs", host="127.0.0.1", port=archive.port, ae_title="PACS", timeout_s=TIMEOUT_S)
    shipment = DeliveryItem(spool, reference, convert=lambda ref, sop_class: as_form(spool, ref, sop_class))
    began = time.monotonic()
    try:
        return open_target(settings, "NODE").send(shipment), archive
    finally:
        assert time.monotonic() - began < MOST_S
        archive.left.set()


@pytest.mark.parametrize("name", DELIVERED)
def test_an_archive_that_has_stored_the_report_has_it(report: tuple[Path, ReportRef], name: str) -> None:
    answer, archive = send(DELIVERED[name], report)
    assert isinstance(answer, Answer)
    assert len(archive.stored) == 1


@pytest.mark.parametrize(
    ("odd", "kind", "words"),
    [
        (Odd(accept=only(syntax=BIG_ENDIAN)), Refused, "the target does not accept"),
        (Odd(accept=lambda abstract, syntaxes: "1.2.840.10008.1.2.4.70"), Refused, "the target does not accept"),
        (Odd(accept=lambda abstract, syntaxes: None, refused_syntax=None), (Refused, Deferred), "the target|PACS"),
        (Odd(status=0xC123, change=with_elements(x0902=GERMAN)), Refused, "0xC123 Cannot Understand: Ung"),
        (Odd(status=0xFE00), Refused, "0xFE00"),
        (Odd(status=0xFF00), (Refused, Deferred), "0xFF00"),
        (Odd(status=None), Deferred, "the target ended the association or did not answer in time"),
        (Odd(change=with_elements(x0800=b"\1\0")), Deferred, "the target ended the association or did not answer"),
        (Odd(ending="association"), Deferred, "ended the connection without an answer"),
        (Odd(ending="association", how="silence"), Deferred, "ended the connection without an answer|did not answer"),
        (Odd(ending="store"), Deferred, "the target ended the association"),
        (Odd(ending="store", how="abort"), Deferred, "the target ended the association"),
        (Odd(ending="store", how="silence"), Deferred, "did not answer in time"),
        (Odd(rejection=(1, 1, 1)), Refused, "association rejected"),
        (Odd(rejection=(1, 1, 7)), Refused, "association rejected"),
        (Odd(rejection=(1, 2, 2)), Refused, "association rejected"),
        (Odd(rejection=(2, 3, 2)), Deferred, "association rejected"),
        (Odd(rejection=(0, 9, 9)), Deferred, "rejected with result 0, source 9, reason 9, which PS3.8 does not define"),
        (Odd(rejection=(1, 9, 9)), Refused, "rejected with result 1, source 9, reason 9"),
    ],
)  # fmt: skip
def test_an_archive_that_has_not_is_deferred_or_refused_in_words(
    report: tuple[Path, ReportRef], odd: Odd, kind: type[Exception], words: str
) -> None:
    with pytest.raises(kind, match=words):
        send(odd, report)
