"""A DICOMweb service that answers as a test wants: what it was sent is kept, what it says is scripted."""

from __future__ import annotations

import email
import email.policy
import json
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from typing import Any

from pydicom import dcmread

Reply = tuple[int, dict[str, str], bytes]

JSON = {"Content-Type": "application/dicom+json"}


@dataclass
class Asked:
    """One request; ``instances`` are the SOP Instance UIDs of its parts, ``types`` what the parts declare."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes = b""
    instances: list[str] = field(default_factory=list)
    classes: list[str] = field(default_factory=list)
    types: list[str] = field(default_factory=list)


def stored(*uids: str, warning: int | None = None) -> bytes:
    """Return a response module that names these instances as stored."""
    items: list[dict[str, Any]] = [{"00081155": {"vr": "UI", "Value": [uid]}} for uid in uids]
    for item in items if warning is not None else []:
        item["00081196"] = {"vr": "US", "Value": [warning]}
    return json.dumps({"00081199": {"vr": "SQ", "Value": items}}).encode()


def failed(uid: str, reason: int) -> bytes:
    """Return a response module that names an instance as failed."""
    item = {"00081155": {"vr": "UI", "Value": [uid]}, "00081197": {"vr": "US", "Value": [reason]}}
    return json.dumps({"00081198": {"vr": "SQ", "Value": [item]}}).encode()


def willing(asked: Asked) -> Reply:
    """Store everything, find nothing."""
    return (200, JSON, stored(*asked.instances)) if asked.method == "POST" else (204, {}, b"")


class Service:
    """What a test sees of the service: its address and what it was asked."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.asked: list[Asked] = []


@contextmanager
def serving(answer: Callable[[Asked], Reply] = willing, tls: ssl.SSLContext | None = None) -> Iterator[Service]:
    """Serve on a free loopback port for the block."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            length = int(self.headers.get("Content-Length", 0))
            asked = _read(self.command, self.path, dict(self.headers), self.rfile.read(length))
            service.asked.append(asked)
            status, headers, body = answer(asked)
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET = do_OPTIONS = handle_any  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            pass

    server = Server(("127.0.0.1", 0), Handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    service = Service(f"{'https' if tls else 'http'}://127.0.0.1:{server.server_port}/dicom-web")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield service
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _read(method: str, path: str, headers: dict[str, str], body: bytes) -> Asked:
    asked = Asked(method, path, headers, body)
    kind = next((value for name, value in headers.items() if name.lower() == "content-type"), "")
    if kind.startswith("multipart/related"):
        message = email.message_from_bytes(f"Content-Type: {kind}\r\n\r\n".encode() + body, policy=email.policy.HTTP)
        for part in message.iter_parts():  # type: ignore[attr-defined]
            dataset = dcmread(BytesIO(part.get_payload(decode=True)))
            asked.instances.append(str(dataset.SOPInstanceUID))
            asked.classes.append(str(dataset.SOPClassUID))
            asked.types.append(str(part["Content-Type"]))
    return asked
