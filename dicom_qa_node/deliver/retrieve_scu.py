"""The Query/Retrieve SCU of the backfill (PS3.4 annex C): C-FIND by day, and C-MOVE of one series to this node."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from pydicom import Dataset
from pydicom.uid import UID
from pynetdicom.association import Association
from pynetdicom.presentation import build_context

from dicom_qa_node.config import RetrieveSource
from dicom_qa_node.deliver.targets.base import Deferred, Refused
from dicom_qa_node.deliver.targets.dicom import Peer, associate
from dicom_qa_node.dicom_io.date_times import parse_date
from dicom_qa_node.domain.backfill import FoundSeries, SeriesEntry

__all__ = ["MoveFailed", "RetrieveScu"]

_FIND = UID("1.2.840.10008.5.1.4.1.2.2.1")
_MOVE = UID("1.2.840.10008.5.1.4.1.2.2.2")
_PENDING = (0xFF00, 0xFF01)
_SUCCESS, _WARNING = 0x0000, 0xB000
_DESTINATION_UNKNOWN = 0xA801
_OUT_OF_RESOURCES = range(0xA700, 0xA703)
_LOW_PRIORITY = 2  # PS3.7 table 9.1-3
#: An archive that answers more for one day is not one of a hospital: an error, not a list without bound.
_MOST_STUDIES = 20_000
_MOST_SERIES = 2_000


class MoveFailed(Exception):
    """One series could not be sent; the words are the archive's. Others may be."""


@dataclass
class RetrieveScu:
    """Queries one archive and lets it send series to this node.

    Parameters
    ----------
    destination
        The AE title of this node, which the archive must know with its address.
    retrieve_timeout_s
        The longest silence while a series is sent: archives without pending responses say nothing before the end.
    """

    source: RetrieveSource
    destination: str
    retrieve_timeout_s: float = 600.0
    _open: list[Association] = field(default_factory=list)

    def series_of_day(self, day: dt.date, modalities: Sequence[str], scanner: str = "") -> list[FoundSeries]:
        """Return the series of the studies of one day, a study's CT before its PET; of other modalities none.

        Raises
        ------
        Refused, Deferred
            The archive does not answer, or not now.
        """
        with self._associated(_FIND, self.source.timeout_s) as assoc:
            studies: dict[str, None] = {}
            for modality in modalities:
                # Archives that cannot match it (PS3.4 C.3.4: an optional key) return every study of the day.
                for answer in _find(assoc, "STUDY", _MOST_STUDIES, StudyDate=day.strftime("%Y%m%d"),
                                    ModalitiesInStudy=modality, StudyInstanceUID=""):  # fmt: skip
                    studies[str(answer.get("StudyInstanceUID", ""))] = None
            studies.pop("", None)
            return [item for uid in studies for item in _series_of(assoc, uid, day, modalities, scanner)]

    def move(self, entry: SeriesEntry, progress: Callable[[], None] = lambda: None) -> None:
        """Let the archive send one series to this node; returns when it has sent every image.

        ``progress`` is called with every pending response.

        Raises
        ------
        MoveFailed
            The archive could not send this series.
        Refused, Deferred
            The archive sends nothing at all, or not now.
        """
        with self._associated(_MOVE, self.retrieve_timeout_s) as assoc:
            query = Dataset()
            query.QueryRetrieveLevel = "SERIES"
            query.StudyInstanceUID = entry.study_instance_uid
            query.SeriesInstanceUID = entry.series_instance_uid
            last = Dataset()
            try:
                for status, _ in assoc.send_c_move(query, self.destination, _MOVE, priority=_LOW_PRIORITY):
                    last = status
                    if status.get("Status") not in _PENDING:
                        break
                    progress()
            except (RuntimeError, ValueError, OSError) as error:
                raise Deferred("the archive ended the association") from error
        _judge(last, self.destination)

    def abort(self) -> None:
        """End the association that is open, from another thread."""
        for assoc in list(self._open):
            assoc.abort()

    @contextmanager
    def _associated(self, sop_class: UID, silence_s: float) -> Iterator[Association]:
        tls = self.source.tls if self.source.tls.enabled else None
        peer = Peer(
            self.source.host, self.source.port, self.source.ae_title, self.destination, self.source.timeout_s, tls
        )  # fmt: skip
        with associate(peer, [build_context(sop_class)]) as assoc:
            assoc.dimse_timeout = assoc.network_timeout = silence_s
            self._open.append(assoc)
            try:
                yield assoc
            finally:
                self._open.remove(assoc)


def _find(assoc: Association, level: str, most: int, **keys: str) -> Iterator[Dataset]:
    query = Dataset()
    query.QueryRetrieveLevel = level
    for keyword, value in keys.items():
        setattr(query, keyword, value)
    count = 0
    try:
        for status, answer in assoc.send_c_find(query, _FIND):
            code = status.get("Status")
            if code in _PENDING and answer is not None:
                count += 1
                if count > most:
                    raise Refused(f"more than {most} answers to one query at the {level} level")
                yield answer
            elif code is None:
                raise Deferred("the archive ended the association or did not answer in time")
            elif code != _SUCCESS:
                _raise_find(code, str(status.get("ErrorComment", "")))
    except (RuntimeError, ValueError, OSError) as error:
        raise Deferred("the archive ended the association during a query") from error


def _raise_find(code: int, comment: str) -> None:
    words = f"0x{code:04X} answer to C-FIND"
    if code in _OUT_OF_RESOURCES:
        raise Deferred(words, comment)
    raise Refused(words, comment)


def _series_of(
    assoc: Association, study: str, day: dt.date, modalities: Sequence[str], scanner: str
) -> list[FoundSeries]:
    answers = _find(
        assoc, "SERIES", _MOST_SERIES, StudyInstanceUID=study, SeriesInstanceUID="", Modality="",
        NumberOfSeriesRelatedInstances="", StationName="",
    )  # fmt: skip
    found = []
    for answer in answers:
        uid, modality = str(answer.get("SeriesInstanceUID", "")), str(answer.get("Modality", ""))
        if uid and modality in modalities:
            skip = _other_scanner(answer, scanner)
            found.append(FoundSeries(uid, study, modality, _day(answer, day), _images(answer), skip))
    # A PET is scored with its CT: that has to be there first.
    return sorted(found, key=lambda item: (item.modality != "CT", item.series_instance_uid))


def _other_scanner(answer: Dataset, scanner: str) -> str:
    if not scanner:
        return ""
    station = str(answer.get("StationName", "") or "").strip()
    if not station:
        return "the archive does not name the station"
    return "" if station.casefold() == scanner.casefold() else f"of {station}"


def _day(answer: Dataset, day: dt.date) -> dt.date:
    return parse_date(str(answer.get("StudyDate", "") or "")) or day


def _images(answer: Dataset) -> int | None:
    value: Any = answer.get("NumberOfSeriesRelatedInstances")
    try:
        return int(value) if int(value) > 0 else None
    except (TypeError, ValueError):
        return None


def _judge(last: Dataset, destination: str) -> None:
    """Raise what the last response to a C-MOVE means (PS3.4 table C.4-2), unless every image was sent."""
    code = last.get("Status")
    if code is None:
        raise Deferred("the archive ended the association or did not answer in time")
    comment = str(last.get("ErrorComment", ""))
    completed = _counter(last, "NumberOfCompletedSuboperations")
    failed = _counter(last, "NumberOfFailedSuboperations") or 0
    if code == _DESTINATION_UNKNOWN:
        raise Refused(f"the archive does not know the move destination {destination}", comment)
    if code in _OUT_OF_RESOURCES and not completed:
        raise Deferred(f"0x{code:04X} answer to C-MOVE", comment)
    if code in (_SUCCESS, _WARNING) and not failed:
        if completed == 0 and not _counter(last, "NumberOfWarningSuboperations"):
            raise MoveFailed("the archive has sent nothing of this series")
        return
    count = f", {failed} of {failed + (completed or 0)} images failed" if failed else ""
    raise MoveFailed(f"0x{code:04X} answer to C-MOVE{count}{f': {comment}' if comment else ''}")


def _counter(status: Dataset, keyword: str) -> int | None:
    value = status.get(keyword)
    return None if value is None else int(value)
