"""What the exit code of a command says; the operator guide shows the same table."""

from __future__ import annotations

from enum import IntEnum

from dicom_qa_node.domain.errors import Misconfigured, NodeError, NotFound, Permanent, Transient

__all__ = ["ExitCode", "NotFound", "WrongState", "exit_code_of"]


class ExitCode(IntEnum):
    """The exit codes; ``meaning`` is the sentence of the operator guide."""

    OK = 0
    FAILED = 1
    USAGE = 2
    MISCONFIGURED = 3
    NOT_FOUND = 4
    WRONG_STATE = 5
    TRY_LATER = 6
    RECYCLE = 75
    INTERRUPTED = 130

    @property
    def meaning(self) -> str:
        """Return what the code says to an operator."""
        return _MEANINGS[self]


_MEANINGS = {
    ExitCode.OK: "it worked; for `health`: every part is well",
    ExitCode.FAILED: "it failed, or part of it: standard error says what; for `health`: something is not well",
    ExitCode.USAGE: "the command line is wrong",
    ExitCode.MISCONFIGURED: "the configuration, the database schema or an installed file is wrong; nothing was done",
    ExitCode.NOT_FOUND: "the named series, delivery, target or file is not there",
    ExitCode.WRONG_STATE: "the series or delivery is in a state that does not allow this",
    ExitCode.TRY_LATER: "a peer, the disk or the database is out of reach for now; the same command may work later",
    ExitCode.RECYCLE: "a scoring worker has done its share of series and asks to be replaced; `serve` does so",
    ExitCode.INTERRUPTED: "stopped from the keyboard",
}


class WrongState(Permanent):
    """What the operator asked for is not possible in the state the object is in."""


def exit_code_of(error: NodeError) -> ExitCode:
    """Return the exit code for a failure; the most specific type decides."""
    table: list[tuple[type[NodeError], ExitCode]] = [
        (NotFound, ExitCode.NOT_FOUND),
        (WrongState, ExitCode.WRONG_STATE),
        (Misconfigured, ExitCode.MISCONFIGURED),
        (Transient, ExitCode.TRY_LATER),
    ]
    return next((code for kind, code in table if isinstance(error, kind)), ExitCode.FAILED)
