"""An Orthanc that knows the node as a modality, driven through its REST interface."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["OrthancPeer", "start_orthanc"]


@dataclass(frozen=True)
class OrthancPeer:
    """A running Orthanc; ``ask`` without a body is a GET, with one a POST."""

    dicom_port: int
    http_port: int

    def ask(self, path: str, body: Any = None) -> Any:
        data = None if body is None else (body if isinstance(body, bytes) else json.dumps(body).encode())
        request = urllib.request.Request(f"http://127.0.0.1:{self.http_port}/{path}", data=data)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            raise AssertionError(error.read().decode()) from error

    def up(self) -> bool:
        try:
            return bool(self.ask("system"))
        except OSError:
            return False


def start_orthanc(
    folder: Path,
    ports: Callable[[], int],
    background: Any,
    poll: Any,
    node_port: int,
    ae_title: str = "DICOMQA",
    **more: Any,
) -> OrthancPeer:
    """Start an empty Orthanc with the node as modality ``node``; ``more`` are further settings of Orthanc."""
    peer = OrthancPeer(ports(), ports())
    (folder / "orthanc").mkdir()
    settings = {
        "Name": "archive",
        "StorageDirectory": str(folder / "orthanc"),
        "IndexDirectory": str(folder / "orthanc"),
        "DicomAet": "ORTHANC",
        "DicomPort": peer.dicom_port,
        "HttpPort": peer.http_port,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "DicomModalities": {"node": [ae_title, "127.0.0.1", node_port]},
        "DicomAlwaysAllowStore": True,
        # It keeps answers in this character set, whatever the peer answered in.
        "DefaultEncoding": "Utf8",
        "Plugins": [],
        **more,
    }
    (folder / "orthanc.json").write_text(json.dumps(settings))
    background(["Orthanc", folder / "orthanc.json"])
    poll(peer.up, 40, "Orthanc answers")
    return peer
