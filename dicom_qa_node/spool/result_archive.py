"""What the node decided about one version of a series, in a file beside its report.

The database can be lost; then this file, the report and the images bring back what was scored, reported and sent
where. It is written before the transaction that records the report, and holds what that transaction writes. It names
the patient, as report and images do, and only the node's user may read it.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from dicom_qa_node.dicom_io.durable import replace_file
from dicom_qa_node.domain.delivery import NOBODY, ReportRef, Sender
from dicom_qa_node.domain.errors import Permanent, Transient
from dicom_qa_node.domain.results import SeriesResult
from dicom_qa_node.domain.series import SeriesHeader

__all__ = ["ResultArchive", "read_result_archive", "result_archive_path", "result_archives", "write_result_archive"]


@dataclass(frozen=True, slots=True)
class ResultArchive:
    """One reported version; series and version are those of ``report``.

    ``images`` is the number of images that were counted for it, ``images_until`` when the last of them arrived.
    ``targets`` get the report, ``unrouted`` do not, each with the reason; ``documents`` go beside it.
    """

    facts: SeriesHeader
    result: SeriesResult
    scored_at: dt.datetime
    images: int
    images_until: dt.datetime
    report: ReportRef
    targets: tuple[str, ...] = ()
    unrouted: tuple[tuple[str, str], ...] = ()
    sender: Sender = NOBODY
    documents: tuple[tuple[ReportRef, tuple[str, ...]], ...] = ()
    layout: int = 1


def result_archive_path(report: Path) -> Path:
    """Return where the result archive of a report lies."""
    return report.with_suffix(".json")


def write_result_archive(spool_dir: Path, archive: ResultArchive) -> None:
    """Write a result archive durably; one that is there already is replaced.

    Raises
    ------
    Transient
        The disk is full, or the file cannot be written.
    """
    path = result_archive_path(spool_dir / archive.report.path)
    try:
        replace_file(path, _adapter().dump_json(archive, by_alias=True), mode=0o600)
    except OSError as error:
        raise Transient(f"what belongs to a report cannot be written: {error.strerror}") from error


def read_result_archive(path: Path) -> ResultArchive:
    """Read a result archive.

    Raises
    ------
    Permanent
        The file is damaged, or a newer version of this software wrote it.
    """
    try:
        return _adapter().validate_json(path.read_bytes())
    except ValidationError as error:
        # The error quotes values of the file: none of its words may go into a message.
        raise Permanent(f"{path.name} is damaged or of a newer version ({error.error_count()} errors)") from None


def result_archives(spool_dir: Path) -> Iterator[Path]:
    """Yield the result archives of a spool."""
    yield from sorted((spool_dir / "reports").glob("??/*.json"))


@cache
def _adapter() -> TypeAdapter[ResultArchive]:
    return TypeAdapter(ResultArchive)
