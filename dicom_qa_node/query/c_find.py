"""The C-FIND SCP (PS3.4 C.4.1): matching, and the identifiers of the responses."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from typing import Any

from pydicom.config import IGNORE
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pynetdicom.association import Association
from pynetdicom.events import Event

from dicom_qa_node.domain.errors import NodeError
from dicom_qa_node.index.find import Entity, SearchTooLong, answered, find_entities
from dicom_qa_node.index.matching import Identifier
from dicom_qa_node.log import log_event
from dicom_qa_node.query.holdings import Holdings
from dicom_qa_node.query.identifiers import (
    MismatchedIdentifier,
    UnreadableIdentifier,
    answer_character_set,
    read_identifier,
)
from dicom_qa_node.query.sop_classes import Negotiated, Status, negotiated, refusal

__all__ = ["build_answer", "find", "is_gone"]

_LOGGER = logging.getLogger(__name__)

Response = tuple[int | Dataset, Dataset | None]

_AHEAD = 64


class _Gone(Exception):
    """The peer has left."""


class _Cancelled(Exception):
    """The peer has sent a C-CANCEL."""


_LONGEST_WAIT_S = 60.0


def find(event: Event, holdings: Holdings) -> Iterator[Response]:
    """Serve ``evt.EVT_C_FIND``."""
    request: Any = event.request
    options = negotiated(event.assoc, event.context.abstract_syntax)
    try:
        identifier = read_identifier(
            request.Identifier, event.context.transfer_syntax, options.model,
            relational=options.relational, retrieve=False,
        )  # fmt: skip
        yield from _answers(event, holdings, identifier, options)
    except MismatchedIdentifier as error:
        yield _refused(event, Status.IDENTIFIER_MISMATCH, error), None
    except UnreadableIdentifier as error:
        yield _refused(event, Status.UNABLE_TO_PROCESS, error), None
    except SearchTooLong as error:
        yield _refused(event, Status.OUT_OF_RESOURCES, error), None
    except NodeError as error:
        log_event(_LOGGER, logging.ERROR, "find_failed", reason=str(error))
        yield refusal(Status.OUT_OF_RESOURCES, "the catalogue cannot be read now"), None
    except Exception:
        _LOGGER.exception("find_failed")
        yield refusal(Status.UNABLE_TO_PROCESS, "internal error, see the log of the node"), None


def is_gone(assoc: Association) -> bool:
    """Return whether the peer of an association has left, which its own thread learns only after its present task."""
    return bool(assoc.is_aborted or not assoc.dul.is_alive() or assoc.acse.is_aborted())


def _refused(event: Event, status: Status, error: Exception) -> Dataset:
    caller = event.assoc.requestor.ae_title
    log_event(_LOGGER, logging.WARNING, "find_refused", calling_ae=caller, status=f"{status:04X}", reason=str(error))
    return refusal(status, str(error))


def _answers(event: Event, holdings: Holdings, identifier: Identifier, options: Negotiated) -> Iterator[Response]:
    pending = Status.PENDING_UNSUPPORTED_KEYS if identifier.unsupported else Status.PENDING
    holdings.indexer.catch_up()

    def look() -> None:
        if is_gone(event.assoc):
            raise _Gone
        if event.is_cancelled:
            raise _Cancelled

    matches = 0
    try:
        for entity in find_entities(
            holdings.catalogue, identifier, combined=options.combined, within_s=holdings.search_s, look=look
        ):
            if matches % _AHEAD == 0:
                _let_go_out(event.assoc)
            look()
            matches += 1
            yield int(pending), build_answer(entity, identifier, holdings.ae_title)
    except _Gone:
        return
    except _Cancelled:
        _log(event, identifier, matches, "cancelled")
        yield int(Status.CANCEL), None
        return
    _log(event, identifier, matches, "complete")


def _let_go_out(assoc: Association) -> None:
    """Wait until the peer has taken what was answered: memory stays small, and its C-CANCEL is read."""
    deadline = time.monotonic() + _LONGEST_WAIT_S
    while not assoc.dul.to_provider_queue.empty() and not is_gone(assoc) and time.monotonic() < deadline:
        time.sleep(0.001)


def _log(event: Event, identifier: Identifier, matches: int, how: str) -> None:
    caller = event.assoc.requestor.ae_title
    log_event(
        _LOGGER, logging.INFO, "found", calling_ae=caller, matches=matches, how=how, query_level=identifier.level
    )  # fmt: skip


_ENCODED_VRS = frozenset({"LO", "LT", "PN", "SH", "ST", "UC", "UT"})


def build_answer(entity: Entity, identifier: Identifier, retrieve_ae: str) -> Dataset:
    """Return the attributes that were asked for; one without a value has zero length."""
    answer = answered(entity, identifier.keys.values())
    answer.QueryRetrieveLevel = identifier.level
    answer.add(DataElement(Tag("RetrieveAETitle"), "AE", retrieve_ae, validation_mode=IGNORE))
    answer.InstanceAvailability = "ONLINE"
    character_set = answer_character_set(_texts(answer), identifier.character_set)
    if character_set:
        answer.SpecificCharacterSet = character_set
    return answer


def _texts(dataset: Dataset) -> Iterator[str]:
    for element in dataset:
        if element.VR == "SQ":
            for item in element.value:
                yield from _texts(item)
        elif element.VR in _ENCODED_VRS and element.value:
            yield str(element.value) if isinstance(element.value, str) else "".join(map(str, [element.value]))
