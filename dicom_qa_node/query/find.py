"""The C-FIND SCP (PS3.4 C.4.1): answers go out while the next page is read."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from typing import Any

from pydicom.dataset import Dataset
from pynetdicom.association import Association
from pynetdicom.events import Event

from dicom_qa_node.errors import NodeError
from dicom_qa_node.log import log_event
from dicom_qa_node.query.answer import build_answer
from dicom_qa_node.query.holdings import Holdings
from dicom_qa_node.query.identifiers import MismatchedIdentifier, UnreadableIdentifier, read_identifier
from dicom_qa_node.query.models import Negotiated, negotiated
from dicom_qa_node.query.status import Status, refusal
from dicom_qa_node.search.find import SearchTooLong, find_entities
from dicom_qa_node.search.keys import Identifier

__all__ = ["find", "is_gone"]

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
