"""``send`` and ``echo``: the DICOM network from the command line."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dicom_qa_node.cli.context import config_of
from dicom_qa_node.cli.exit_codes import ExitCode
from dicom_qa_node.cli.output import AsJson, complain, progress_bar, say, show_json
from dicom_qa_node.domain.errors import NotFound

if TYPE_CHECKING:
    from dicom_qa_node.config import ClientTls
    from dicom_qa_node.deliver.send_files import SendSummary

__all__ = ["register", "send_with_progress"]


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command("send")(send)
    app.command("echo")(echo)


def send(
    context: typer.Context,
    path: Annotated[Path, typer.Argument(help="A DICOM file, or a folder of them.")],
    host: Annotated[str, typer.Argument(help="Host name or address of the receiver.")],
    port: Annotated[int, typer.Argument(min=1, max=65535, help="Its TCP port.")],
    called: Annotated[str | None, typer.Option("--to", help="AE title to call; without it that of this node.")] = None,
    calling: Annotated[str | None, typer.Option("--from", help="AE title to call as; without it ours.")] = None,
    secure: Annotated[bool, typer.Option("--tls", help="Call over TLS.")] = False,
    ca: Annotated[
        Path | None, typer.Option(help="PEM file with the CAs of the receiver's certificate; without it the system's.")
    ] = None,
    certificate: Annotated[Path | None, typer.Option(help="PEM file with the certificate to show.")] = None,
    key: Annotated[Path | None, typer.Option(help="PEM file with its key, if that is in a file of its own.")] = None,
    check_host_name: Annotated[bool, typer.Option(help="The receiver's certificate must name its host.")] = True,
    as_json: AsJson = False,
) -> None:
    """Send DICOM files by C-STORE; exit code 1 if the receiver did not take one of them."""
    from dicom_qa_node.deliver.send_files import files_below

    if not path.exists():
        raise NotFound(f"{path} does not exist")
    files = files_below([path])
    own = config_of(context).ae_title
    tls = _tls_of(secure, ca, certificate, key, check_host_name)
    summary = send_with_progress(
        files, host, port, called or own, calling or own, f"sending to {host}:{port}", tls
    )  # fmt: skip
    problems = [*summary.failed, *([] if summary.sent or summary.failed else summary.skipped)]
    if as_json:
        show_json(
            {
                "sent": summary.sent,
                "failed": [{"file": file, "reason": reason} for file, reason in summary.failed],
                "skipped": [{"file": file, "reason": reason} for file, reason in summary.skipped],
            }
        )
    else:
        say(f"{summary.sent} sent, {len(summary.failed)} failed, {len(summary.skipped)} skipped (no DICOM)")
        for file, reason in problems[:20]:
            complain(f"{file}: {reason}")
    if not files or (problems and not summary.sent and not summary.failed):
        raise NotFound(f"there is no DICOM file in {path}")
    if summary.failed:
        raise typer.Exit(ExitCode.FAILED)


def _tls_of(
    enabled: bool, ca: Path | None, certificate: Path | None, key: Path | None, check_host_name: bool
) -> ClientTls | None:
    if not enabled and (ca or certificate or key or not check_host_name):
        raise typer.BadParameter("the options of TLS need --tls")
    if key and not certificate:
        raise typer.BadParameter("--key needs --certificate")
    if not enabled:
        return None
    from dicom_qa_node.config import ClientTls

    return ClientTls(enabled=True, ca=ca, certificate=certificate, key=key, check_host_name=check_host_name)


def send_with_progress(
    files: list[Path], host: str, port: int, called: str, calling: str, label: str, tls: ClientTls | None = None
) -> SendSummary:
    """Send files over one association and show how far it is."""
    from dicom_qa_node.deliver.send_files import Peer, send_files

    with progress_bar() as progress:
        task = progress.add_task(label, total=len(files))
        return send_files(
            files, Peer(host, port, called, calling, tls=tls),
            lambda done, _total: progress.update(task, completed=done),
        )  # fmt: skip


def echo(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Name of a target in the configuration (deliver.targets).")],
    as_json: AsJson = False,
) -> None:
    """Ask a target whether it answers: C-ECHO for a PACS, a trial file for a folder."""
    from dicom_qa_node.deliver.echo import echo_target

    config = config_of(context)
    known = [target.name for target in config.deliver.targets]
    if name not in known:
        raise NotFound(f"no target is called {name!r}; deliver.targets has: {', '.join(known) or 'none'}")
    answer = echo_target(config, name)
    if as_json:
        show_json({"target": name, "answer": str(answer)})
    else:
        say(f"{name}: {answer}")
