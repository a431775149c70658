"""One more scanner or PACS, for administrators: what each side enters, tried by C-ECHO.

The configuration file stays what counts: the page checks the answers by the rules of the file, calls the other side
where it listens, and shows the entry to paste. It changes nothing itself; ``dicom-qa-node init`` asks the same for a
new node.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from dicom_qa_node.config import Config
from dicom_qa_node.config.delivery import DicomTarget
from dicom_qa_node.config.dicom_services import Peer
from dicom_qa_node.config.site_setup import (
    PacsAnswer,
    ScannerAnswer,
    SiteAnswers,
    own_addresses,
    pacs_sheet,
    peer_entry,
    scanner_sheet,
    target_entry,
)
from dicom_qa_node.web.access import Permission, form_of, guarded, note, word_of
from dicom_qa_node.web.page_rendering import page
from dicom_qa_node.web.site import Site, site_of

__all__ = ["routes"]

_PATH = "/node/connections/new"
_LONGEST = 255
_ANSWERS = ("kind", "ae_title", "host", "port", "name")


def routes(_site: Site) -> list[BaseRoute]:
    """Return the routes of this file."""
    return [
        Route(_PATH, guarded(Permission.ADMIN, _form), methods=["GET"]),
        Route(_PATH, guarded(Permission.ADMIN, _answer), methods=["POST"]),
    ]


@dataclass(frozen=True, slots=True)
class _Entry:
    """What the page shows: where the lines belong in the file, the lines, those of a PACS that may also call, and the
    sheet for the other side; ``port`` where it listens, 0 where it does not."""

    key: str
    lines: str
    peer_lines: str
    sheet: str
    port: int


def _form(request: Request) -> Response:
    return _show(request, dict.fromkeys(_ANSWERS, "") | {"kind": "scanner"})


def _answer(request: Request) -> Response:
    given = {name: _word(request, name) for name in _ANSWERS}
    if given["kind"] not in ("scanner", "pacs"):
        raise HTTPException(422, "A connection is a scanner or a PACS.")
    site = site_of(request)
    found = _scanner(given, site.config) if given["kind"] == "scanner" else _pacs(given, site.config)
    if not isinstance(found, _Entry):
        return _show(request, given, 422, problems=found)
    echoed = _echo(request, given, found.port) if "test" in form_of(request) else None
    return _show(request, given, entry=found, echoed=echoed)


def _echo(request: Request, given: Mapping[str, str], port: int) -> tuple[bool, str]:
    """Call the other side, where it listens, and leave a row in the audit log."""
    host = given["host"]
    if not host or not port or "/" in host:
        return False, "it was not called: that takes one address and the port on which it listens"
    ok, words = site_of(request).actions.echo_peer(given["ae_title"], host, port)
    detail = f"{host}:{port} {'answers' if ok else 'does not answer'}"
    note(request, "node.echo", kind="peer", ident=given["ae_title"], detail=detail)
    return ok, words


def _show(request: Request, given: Mapping[str, str], status: int = 200, **more: object) -> Response:
    context: dict[str, Any] = {"given": given, "problems": {}, "entry": None, "echoed": None}
    return page(request, "node/connection.html", status, **(context | more))


def _word(request: Request, name: str) -> str:
    return word_of(request, name)[:_LONGEST]


def _scanner(given: Mapping[str, str], config: Config) -> _Entry | dict[str, str]:
    """Return the entry of a scanner, or what is wrong by field."""
    values: dict[str, Any] = {"ae_title": given["ae_title"], "hosts": [given["host"]] if given["host"] else []}
    port = _port(given["port"], 0)
    problems = _problems(Peer, values | {"port": port})
    if given["ae_title"] in {peer.ae_title for peer in config.receive.peers}:
        problems["ae_title"] = "receive.peers already has this AE title"
    if problems:
        return problems
    scanner = ScannerAnswer(given["ae_title"], given["host"], cast(int, port))
    return _Entry(
        "receive.peers",
        peer_entry(scanner),
        "",
        scanner_sheet(replace(_node(config), scanners=(scanner,)), own_addresses()),
        scanner.port,
    )


def _pacs(given: Mapping[str, str], config: Config) -> _Entry | dict[str, str]:
    """Return the entries of a PACS, or what is wrong by field."""
    port = _port(given["port"], 104)
    values: dict[str, Any] = {"name": given["name"], "ae_title": given["ae_title"], "host": given["host"], "port": port}
    problems = _problems(DicomTarget, values)
    if given["name"] in {target.name for target in config.deliver.targets}:
        problems["name"] = "deliver.targets already has this name"
    if problems:
        return problems
    pacs = PacsAnswer(given["name"], given["ae_title"], given["host"], cast(int, port))
    listed = given["ae_title"] in {peer.ae_title for peer in config.receive.peers}
    own = "" if listed else peer_entry(ScannerAnswer(pacs.ae_title, pacs.host, pacs.port))
    return _Entry(
        "deliver.targets", target_entry(pacs), own, pacs_sheet(_node(config), pacs, own_addresses()), pacs.port
    )


def _port(text: str, absent: int) -> int | str:
    """Return the number, or the text where it is none: the rule of the file then names what is wrong."""
    return absent if not text else int(text) if text.isascii() and text.isdigit() and len(text) < 6 else text


def _problems(section: type[Peer] | type[DicomTarget], values: Mapping[str, Any]) -> dict[str, str]:
    """Check values by the rules of the configuration file; return what is wrong by field of the form."""
    try:
        section.model_validate(values)
    except ValidationError as error:
        found = {str(item["loc"][0]): str(item["msg"]).removeprefix("Value error, ") for item in error.errors()}
        return {"host" if name == "hosts" else name: words for name, words in found.items()}
    return {}


def _node(config: Config) -> SiteAnswers:
    return SiteAnswers(ae_title=config.ae_title, port=config.receive.port)
