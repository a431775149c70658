"""``orthanc --check`` and ``orthanc --status``: the bridge to Orthanc, looked at from the command line."""

from __future__ import annotations

import typer

from dicom_qa_node.cli.context import open_database
from dicom_qa_node.cli.exit_codes import ExitCode
from dicom_qa_node.cli.output import complain, say, show_json, show_rows
from dicom_qa_node.config import Config
from dicom_qa_node.domain.errors import Misconfigured
from dicom_qa_node.domain.states import BridgeState

__all__ = ["check", "status"]


def check(config: Config, *, as_json: bool) -> None:
    """Show whether Orthanc has what the bridge needs, and the lines for its configuration; exit code 1 if it lacks any.

    Raises
    ------
    Misconfigured
        No Orthanc is configured.
    Transient
        It does not answer.
    """
    from dicom_qa_node.deliver.orthanc.rest_client import orthanc_client
    from dicom_qa_node.deliver.orthanc.server_settings import check_server, lines_for_orthanc

    _require_url(config)
    with orthanc_client(config.orthanc) as client:
        found = list(check_server(client, config))
    lines = lines_for_orthanc(config)
    if as_json:
        show_json({"checks": [{"ok": well, "detail": words} for well, words in found], "orthanc_settings": lines})
    else:
        for well, words in found:
            (say if well else complain)(words)
        say(f"\nOrthanc's configuration needs, merged into what is there:\n\n{lines}\n")
    if not all(well for well, _ in found):
        raise typer.Exit(ExitCode.FAILED)


def status(config: Config, *, as_json: bool) -> None:
    """List the series that the bridge has not finished, those due first at the head."""
    from dicom_qa_node.flow.orthanc_ledger import OrthancLedger

    _require_url(config)
    unfinished = [state for state in BridgeState if state is not BridgeState.MARKED]
    with open_database(config) as database:
        found = OrthancLedger(database, config.orthanc.name).listed(unfinished, limit=100)
    rows = [
        {
            "series": item.series_instance_uid,
            "state": item.state.value,
            "images": item.images,
            "attempts": item.attempts,
            "next": item.due_at,
            "problem": item.problem,
        }
        for item in found
    ]
    show_rows("Series of Orthanc", rows, as_json=as_json, empty="no series is open or given up")


def _require_url(config: Config) -> None:
    if not config.orthanc.url:
        raise Misconfigured("there is no Orthanc to follow: set orthanc.url")
