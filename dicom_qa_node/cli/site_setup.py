"""``init``: asks for the node's AE title, scanners and PACS, tries each, and writes the configuration."""

from __future__ import annotations

import ipaddress
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dicom_qa_node.cli.exit_codes import ExitCode
from dicom_qa_node.cli.output import say
from dicom_qa_node.domain.errors import Misconfigured, NodeError, Permanent

if TYPE_CHECKING:
    from dicom_qa_node.config.site_setup import PacsAnswer, ScannerAnswer, SiteAnswers

__all__ = ["register"]

_AE_TITLE = re.compile(r"[!-\[\]-~]([ -\[\]-~]{0,14}[!-\[\]-~])?")
_WAIT_S = 120.0


def register(app: typer.Typer) -> None:
    """Add the command of this file."""
    app.command("init")(init)


def init(
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write.")] = Path("config.yaml"),
    force: Annotated[bool, typer.Option("--force", help="Replace a file that exists.")] = False,
    wait_s: Annotated[float, typer.Option(min=0, help="How long to listen for a C-ECHO of each scanner.")] = _WAIT_S,
) -> None:
    """Ask for AE title, port, scanners and PACS, test each by C-ECHO, and write the configuration file.

    Nothing is written before every question is answered. At the end it prints what the administrators of the scanners
    and of the PACS enter on their side.
    """
    from dicom_qa_node.config import parse_config
    from dicom_qa_node.config.site_setup import own_addresses, peer_sheet, site_yaml

    if output.exists() and not force:
        raise Permanent(f"{output} exists; choose another file with --output, or replace it with --force")
    answers = _ask()
    text = site_yaml(answers)
    parse_config(text, source=str(output))
    if answers.scanners and wait_s and typer.confirm("Listen for a C-ECHO of the scanners now?", default=False):
        _listen(answers, wait_s)
    if not typer.confirm(f"Write {output}?", default=True):
        say("Nothing was written.")
        raise typer.Exit(ExitCode.FAILED)
    output.write_text(text, encoding="utf-8")
    say(f"\n{output} is written. Start the node with: dicom-qa-node --config {output} serve\n")
    say(peer_sheet(answers, own_addresses()))


def _ask() -> SiteAnswers:
    from dicom_qa_node.config.site_setup import SiteAnswers

    node = SiteAnswers(
        ae_title=_ask_ae_title("AE title of this node", "DICOMQA"),
        port=_ask_port("Port to receive on", 11112),
        data_dir=typer.prompt("Folder for images and database", default="var/dicom-qa-node"),
        institution_name=typer.prompt("Name of the institution (may stay empty)", default="", show_default=False),
    )
    scanners = tuple(_scanners(node))
    pacs = tuple(_pacs(node))
    return replace(node, scanners=scanners, pacs=pacs)


def _scanners(node: SiteAnswers) -> Iterator[ScannerAnswer]:
    from dicom_qa_node.config.site_setup import ScannerAnswer

    while title := _ask_ae_title("AE title of a scanner (empty: no more)", ""):
        host = _ask_host(f"Address that {title} calls from (empty: any)", may_be_empty=True)
        port = _ask_port(f"Port that {title} listens on (0: none)", 0, lowest=0)
        if host and port and "/" not in host:
            _try_echo(node.ae_title, title, host, port)
        yield ScannerAnswer(title, host, port)


def _pacs(node: SiteAnswers) -> Iterator[PacsAnswer]:
    from dicom_qa_node.config.site_setup import PacsAnswer

    number = 1
    while title := _ask_ae_title("AE title of a PACS for the reports (empty: no more)", ""):
        host = _ask_host(f"Address of {title}", may_be_empty=False)
        port = _ask_port(f"Port of {title}", 104)
        _try_echo(node.ae_title, title, host, port)
        yield PacsAnswer("pacs" if number == 1 else f"pacs{number}", title, host, port)
        number += 1


def _ask_ae_title(question: str, default: str) -> str:
    def checked(text: str) -> str:
        title = text.strip()
        if title and not _AE_TITLE.fullmatch(title):
            raise typer.BadParameter("an AE title has 1 to 16 printable ASCII characters and no backslash")
        return title

    return str(typer.prompt(question, default=default, show_default=bool(default), value_proc=checked))


def _ask_port(question: str, default: int, lowest: int = 1) -> int:
    def checked(text: str) -> int:
        if not (str(text).isascii() and str(text).isdigit() and lowest <= int(text) <= 65535):
            raise typer.BadParameter(f"a port is a whole number from {lowest} to 65535")
        return int(text)

    return int(typer.prompt(question, default=default, value_proc=checked))


def _ask_host(question: str, *, may_be_empty: bool) -> str:
    def checked(text: str) -> str:
        host = text.strip()
        if not host and not may_be_empty:
            raise typer.BadParameter("an address or host name is needed")
        if host and may_be_empty:
            try:
                ipaddress.ip_network(host, strict=False)
            except ValueError as error:
                raise typer.BadParameter("must be an IP address or network, such as 10.1.2.3 or 10.1.0.0/16") from error
        return host

    default = "" if may_be_empty else None
    return str(typer.prompt(question, default=default, show_default=False, value_proc=checked))


def _try_echo(own: str, called: str, host: str, port: int) -> None:
    from dicom_qa_node.deliver.echo import echo_peer

    try:
        say(f"  {called} at {host}:{port}: {echo_peer(own, called, host, port)}")
    except NodeError as error:
        say(f"  {called} at {host}:{port} does not answer: {error}. The entry is kept; check it before you start.")


@dataclass(frozen=True, slots=True)
class _Caller:
    """Who called: the AE titles as they were sent, and from where."""

    calling: str
    called: str
    address: str


def _listen(answers: SiteAnswers, wait_s: float) -> None:
    expected = {item.ae_title for item in answers.scanners}
    say(f"Press Verify on {', '.join(sorted(expected))} within {wait_s:.0f} s (Ctrl-C ends the wait).")
    heard: list[_Caller] = []
    with _echo_server(answers, heard):
        end = time.monotonic() + wait_s
        try:
            while time.monotonic() < end and not expected <= {caller.calling for caller in heard}:
                threading.Event().wait(0.2)
        except KeyboardInterrupt:
            say("")
    for scanner in answers.scanners:
        say(f"  {scanner.ae_title}: {_heard_from(scanner, answers, heard)}")
    for caller in heard:
        if caller.calling not in expected:
            say(f"  {caller.calling} called from {caller.address} and is not in your list")


def _heard_from(scanner: ScannerAnswer, answers: SiteAnswers, heard: list[_Caller]) -> str:
    calls = [caller for caller in heard if caller.calling == scanner.ae_title]
    if not calls:
        return "no call arrived; check the node's address and port on the scanner, and firewalls between them"
    last = calls[-1]
    inside = not scanner.host or ipaddress.ip_address(last.address) in ipaddress.ip_network(scanner.host, strict=False)
    if not inside:
        return f"called from {last.address}, which is not {scanner.host}: the node would reject it"
    if last.called != answers.ae_title:
        return f"called {last.called!r} instead of {answers.ae_title!r}: the node would reject it"
    return f"verified, called from {last.address}"


@contextmanager
def _echo_server(answers: SiteAnswers, heard: list[_Caller]) -> Iterator[None]:
    from pynetdicom import AE, evt

    def note(event: Any) -> int:
        caller = event.assoc.requestor
        called = str(caller.primitive.called_ae_title).strip()
        heard.append(_Caller(str(caller.ae_title).strip(), called, str(caller.address)))
        return 0x0000

    ae = AE(ae_title=answers.ae_title)
    ae.add_supported_context("1.2.840.10008.1.1")
    try:
        server = ae.start_server(("", answers.port), block=False, evt_handlers=[(evt.EVT_C_ECHO, note)])
    except OSError as error:
        raise Misconfigured(f"port {answers.port} cannot be opened: {error.strerror}") from error
    assert server is not None
    try:
        yield
    finally:
        server.shutdown()
