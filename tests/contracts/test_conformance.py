"""The conformance statement says what the code does; ``UPDATE_DOCS=1`` writes its generated tables anew."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from pydicom.uid import UID

from dicom_qa_node.config import Receive
from dicom_qa_node.deliver.targets import dicom
from dicom_qa_node.dicom_io import part10, tls
from dicom_qa_node.domain.codes import PRIVATE_SCHEME, Code
from dicom_qa_node.dose.report_reader import DOSE_REPORT_CLASSES
from dicom_qa_node.index import attributes
from dicom_qa_node.index.attributes import LEVELS, UNIQUE_KEYS
from dicom_qa_node.query import sop_classes as query_status
from dicom_qa_node.query.service import REPORT_CLASSES, QueryService
from dicom_qa_node.query.sop_classes import QUERY_CLASSES
from dicom_qa_node.receive import admission
from dicom_qa_node.receive import services as contexts
from dicom_qa_node.receive.commitment_scp import CommitmentService
from dicom_qa_node.receive.store_status import Status
from dicom_qa_node.report import sr_codes
from dicom_qa_node.report.sr_document import SOP_CLASS_UID
from dicom_qa_node.spool.storage_commitment import CommitStatus

PAGE = Path(__file__).resolve().parents[2] / "docs" / "conformance.md"
_BLOCK = re.compile(r"<!-- generated: ([\w-]+) -->\n(.*?)<!-- end -->", re.DOTALL)


def table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def names(uids: Iterable[str]) -> str:
    return table(("Name", "UID"), [(UID(uid).name, uid) for uid in uids])


def all_codes() -> list[Code]:
    """Return every code in the module, those in its tables included, once each."""
    found: dict[tuple[str, str], Code] = {}

    def collect(value: object) -> None:
        if isinstance(value, Code):
            found[value.scheme, value.value] = value
        elif isinstance(value, dict | tuple):
            for item in value.values() if isinstance(value, dict) else value:
                collect(item)

    for value in vars(sr_codes).values():
        collect(value)
    return [found[key] for key in sorted(found)]


def code_rows(*, private: bool) -> str:
    chosen = [code for code in all_codes() if (code.scheme == PRIVATE_SCHEME) is private]
    return table(("Code", "Scheme", "Meaning"), [(code.value, code.scheme, code.meaning) for code in chosen])


def query_keys() -> str:
    derived = {level: [name for name, of_level in attributes.COUNTS.items() if of_level == level] for level in LEVELS}
    at_level = (attributes.PATIENT, attributes.STUDY, attributes.SERIES, attributes.IMAGE)
    return table(
        ("Level", "Unique key", "Optional keys"),
        [
            (level, UNIQUE_KEYS[level], ", ".join([k for k in keys if k != UNIQUE_KEYS[level]] + derived[level]))
            for level, keys in zip(LEVELS, at_level, strict=True)
        ],
    )


def _suite_name(openssl_name: str) -> str:
    """Return the name that IANA registered, which PS3.15 uses."""
    exchange, signature, *rest = openssl_name.replace("AES256-", "AES_256-").replace("AES128-", "AES_128-").split("-")
    digest = [] if rest[-1].startswith("SHA") else ["SHA256"]
    return "_".join(["TLS", exchange, signature, "WITH", *rest, *digest])


def further_contexts() -> str:
    """Return what the receiver accepts beside the storage of images."""
    unused: Any = None
    services = (QueryService(unused, images=False), CommitmentService(unused, unused, unused, committing=True))
    accepted = contexts.supported_contexts(services)
    rows = []
    for context in accepted:
        if context.abstract_syntax in contexts.STORAGE_CLASSES:
            continue
        syntaxes = ", ".join(UID(str(syntax)).name for syntax in context.transfer_syntax)
        marks = [
            word
            for classes, word in ((DOSE_REPORT_CLASSES, "dose reports"), (REPORT_CLASSES, "C-GET, the node sends"))
            if str(context.abstract_syntax) in map(str, classes)
        ]
        only = f" ({'; '.join(marks)})" if marks else ""
        rows.append((UID(str(context.abstract_syntax)).name + only, syntaxes))
    return table(("Name", "Transfer syntaxes"), rows)


TABLES = {
    "further-contexts": further_contexts,
    "implementation": lambda: table(
        ("Item", "Value"),
        [
            ("Implementation Class UID", part10.IMPLEMENTATION_CLASS_UID),
            ("Implementation Version Name", part10.IMPLEMENTATION_VERSION_NAME),
        ],
    ),
    "query-classes": lambda: names(QUERY_CLASSES),
    "query-keys": query_keys,
    "storage-classes": lambda: names([*contexts.STORAGE_CLASSES, "1.2.840.10008.1.1"]),
    "tls-suites": lambda: table(
        ("Cipher suite", "OpenSSL's name"), [(_suite_name(name), name) for name in tls.CIPHERS]
    ),
    "transfer-syntaxes": lambda: names(contexts.TRANSFER_SYNTAXES),
    "standard-codes": lambda: code_rows(private=False),
    "private-codes": lambda: code_rows(private=True),
}


@pytest.mark.parametrize("name", TABLES)
def test_generated_table_is_what_the_code_says(name):
    text = PAGE.read_text()
    if os.environ.get("UPDATE_DOCS"):
        written = _BLOCK.sub(lambda m: f"<!-- generated: {m[1]} -->\n{TABLES[m[1]]()}<!-- end -->", text)
        PAGE.write_text(written)
        text = written
    assert dict(_BLOCK.findall(text))[name] == TABLES[name]()


def section(start: str, end: str) -> str:
    text = PAGE.read_text()
    return text[text.index(start) : text.index(end, text.index(start))]


def test_limits_are_those_of_the_configuration():
    text, defaults = PAGE.read_text(), Receive()
    assert defaults.max_pdu_bytes == 2**20
    assert "by default 1 MiB" in text
    assert f"`receive.max_associations`, {defaults.max_associations})" in text


def first_cells(text: str) -> set[str]:
    return set(re.findall(r"^\| `(0x[0-9A-Fx]+)` \|", text, re.MULTILINE))


def test_statuses_of_the_receiver_are_all_listed_and_no_other():
    listed = first_cells(section("**C-STORE responses:**", "#### 4.2.2"))
    assert listed == {f"0x{status:04X}" for status in Status}


def test_answers_that_the_sender_knows_are_all_listed_with_what_they_lead_to():
    text = section("**What an answer leads to:**", "#### 4.2.3")
    known = {f"0x{code:04X}" for code in (*dicom._ACCEPTED, *dicom._NOT_NOW)} | {"0xA7xx", "0x0001", "0xBxxx"}
    assert first_cells(text) == known
    for code in dicom._ACCEPTED:
        assert re.search(rf"`0x{code:04X}` \|[^|]+\| delivered", text), code
    for code in dicom._NOT_NOW:
        assert re.search(rf"`0x{code:04X}` \|[^|]+\| deferred", text), code


def test_rejections_are_all_listed_and_no_other():
    text = section("An association may be rejected:", "**C-STORE responses:**")
    listed = {tuple(map(int, row)) for row in re.findall(r"^\| (\d) [^|]+\| (\d) [^|]+\| (\d) ", text, re.MULTILINE)}
    rejections = [value for value in vars(admission).values() if isinstance(value, admission.Rejection)]
    assert listed == {(item.result, item.source, item.reason) for item in rejections}


def test_class_and_syntaxes_of_reports_are_those_proposed():
    text = section("#### 4.2.2", "**Association policies.** One association")
    kind = dicom.FileKind(UID(SOP_CLASS_UID), UID("1.2.840.10008.1.2.1"))
    for context in dicom.contexts_for([kind]):
        assert str(context.abstract_syntax) in text
        assert str(context.transfer_syntax[0]) in text


def test_statuses_of_queries_are_all_listed_and_no_other():
    listed = set(re.findall(r"^\| (0x[0-9A-F]{4}) ", section("#### 4.2.3", "#### 4.2.4"), re.MULTILINE))
    assert listed == {f"0x{status:04X}" for status in query_status.Status}


def test_failure_reasons_are_those_of_the_code():
    listed = set(re.findall(r"^\| (0x[0-9A-F]{4}) ", section("#### 4.2.4", "### 4.3"), re.MULTILINE))
    reasons = {CommitStatus.PROCESSING_FAILURE, CommitStatus.NO_SUCH_OBJECT_INSTANCE}
    assert listed == {f"0x{reason:04X}" for reason in (*reasons, CommitStatus.CLASS_INSTANCE_CONFLICT)}
