"""An Orthanc that the bridge follows: it can be stopped, started again, and emptied."""

from __future__ import annotations

import json
import shutil
import subprocess
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dicom_qa_node.config import Config
from dicom_qa_node.deliver.orthanc.server_settings import lines_for_orthanc
from tests.peers.orthanc_peer import OrthancPeer

__all__ = ["Archive"]


@dataclass
class Archive:
    """A real Orthanc in ``folder``; its settings are those that the bridge prints, merged with ``more``."""

    folder: Path
    peer: OrthancPeer
    background: Callable[..., subprocess.Popen[str]]
    poll: Any
    config: Config
    more: dict[str, Any] = field(default_factory=dict)
    process: subprocess.Popen[str] | None = None

    def start(self, *, without: Sequence[str] = ()) -> None:
        storage = self.folder / "orthanc"
        storage.mkdir(exist_ok=True)
        printed = lines_for_orthanc(self.config).replace("HOST-OF-THE-NODE", "127.0.0.1")
        wanted = {key: value for key, value in json.loads(f"{{{printed}}}").items() if key not in without}
        settings = {
            "StorageDirectory": str(storage), "IndexDirectory": str(storage), "DicomAet": "ORTHANC",
            "DicomPort": self.peer.dicom_port, "HttpPort": self.peer.http_port, "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False, "DicomAlwaysAllowStore": True, "DefaultEncoding": "Utf8",
            "StableAge": 2, "SaveJobs": True, "Plugins": [], **wanted, **self.more,
        }  # fmt: skip
        (self.folder / "orthanc.json").write_text(json.dumps(settings))
        command = ["Orthanc", self.folder / "orthanc.json"]
        self.process = self.background(command, output=self.folder / "archive.log")
        self.poll(self.peer.up, 40, "Orthanc answers")

    def stop(self) -> None:
        assert self.process is not None
        self.process.terminate()
        self.process.wait(30)

    def empty(self) -> None:
        """Remove the database and the images of a stopped Orthanc."""
        shutil.rmtree(self.folder / "orthanc")

    def ask(self, path: str, body: Any = None) -> Any:
        return self.peer.ask(path, body)

    def text(self, path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.peer.http_port}/{path}", timeout=20) as answer:
            return str(answer.read().decode(errors="replace"))

    def delete(self, path: str) -> None:
        request = urllib.request.Request(f"http://127.0.0.1:{self.peer.http_port}/{path}", method="DELETE")
        urllib.request.urlopen(request, timeout=20).close()

    def add(self, paths: Sequence[Path]) -> None:
        for path in paths:
            self.ask("instances", path.read_bytes())

    def series_of(self, modality: str) -> list[str]:
        found = self.ask("tools/find", {"Level": "Series", "Query": {"Modality": modality}})
        return [str(item) for item in found]

    def metadata(self, orthanc_id: str) -> dict[str, str]:
        """Return what the bridge has written on a series, by the name without its prefix."""
        found: dict[str, str] = self.ask(f"series/{orthanc_id}/metadata?expand")
        return {key.removeprefix("ImageQuality"): value for key, value in found.items() if "ImageQuality" in key}
