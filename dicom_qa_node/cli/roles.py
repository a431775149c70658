"""``serve``, one command per role, and ``score``, which also scores folders of files offline.

A role command is what the supervisor starts as a child and what a systemd unit per role runs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from dicom_qa_node.cli.context import Invocation, config_of
from dicom_qa_node.cli.output import AsJson

__all__ = ["register", "run_role"]

_HELP = {
    "receive": "Run the receiver: the C-STORE and C-ECHO SCP that scanners push to.",
    "schedule": "Run the periodic tasks: completion of series, reconciliation, retention.",
    "deliver": "Run the delivery worker that builds reports and sends them to the targets.",
    "web": "Run the web role: health, metrics and the quality log.",
}

_PANEL = "Single roles (serve runs all)"


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command("serve")(serve)
    for role, sentence in _HELP.items():
        app.command(role, help=sentence, rich_help_panel=_PANEL)(_command(role))
    app.command("orthanc", rich_help_panel=_PANEL)(orthanc)


def serve(context: typer.Context) -> None:
    """Run the whole node until Ctrl-C or SIGTERM: every role as a process of its own, restarted when it dies."""
    from dicom_qa_node.ops.supervisor import serve as run_node

    run: Invocation = context.obj
    raise typer.Exit(run_node(run.config, run.config_path))


def orthanc(
    context: typer.Context,
    check: Annotated[
        bool, typer.Option("--check", help="Look at Orthanc once; print what its configuration needs.")
    ] = False,
    status: Annotated[
        bool, typer.Option("--status", help="List the series that are open or given up, with their problems.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Run the bridge to Orthanc: its series go to the node, scores go back onto its series."""
    from dicom_qa_node.cli import orthanc_bridge

    if check:
        orthanc_bridge.check(config_of(context), as_json=as_json)
    elif status:
        orthanc_bridge.status(config_of(context), as_json=as_json)
    else:
        run_role(context, "orthanc")


def run_role(context: typer.Context, role: str) -> None:
    """Run one role in this process and exit with its code."""
    from dicom_qa_node.ops import roles

    raise typer.Exit(roles.run_role(role, config_of(context)))


def _command(role: str) -> Callable[[typer.Context], None]:
    def command(context: typer.Context) -> None:
        run_role(context, role)

    return command
