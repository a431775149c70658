"""The demo's receiving archive: a small Storage SCP that keeps what it gets, so that nothing else must be installed.

``python -m dicom_qa_node.cli.demo_archive PORT FOLDER`` runs until SIGTERM.
"""

from __future__ import annotations

import signal
import sys
import threading
from pathlib import Path
from typing import Any

from pydicom.uid import UID
from pynetdicom import AE, AllStoragePresentationContexts, evt

from dicom_qa_node.domain.uids import InvalidUid, check_uid

__all__ = ["main", "start_archive"]

AE_TITLE = "DEMOPACS"

_VERIFICATION = UID("1.2.840.10008.1.1")
_SUCCESS = 0x0000
_OUT_OF_RESOURCES = 0xA700
_CANNOT_UNDERSTAND = 0xC000


def start_archive(port: int, folder: Path, host: str = "127.0.0.1") -> Any:
    """Listen in a thread and write each object to ``folder/<SOP Instance UID>.dcm``; returns the running server."""
    folder.mkdir(parents=True, exist_ok=True)
    ae = AE(ae_title=AE_TITLE)
    ae.supported_contexts = AllStoragePresentationContexts
    ae.add_supported_context(_VERIFICATION)
    return ae.start_server((host, port), block=False, evt_handlers=[(evt.EVT_C_STORE, _store, [folder])])


def _store(event: evt.Event, folder: Path) -> int:
    """Answer a C-STORE request (PS3.4 B.2.3) after its object is whole on disk."""
    try:
        uid = check_uid(str(event.file_meta.MediaStorageSOPInstanceUID), "SOP Instance UID")
    except InvalidUid:
        return _CANNOT_UNDERSTAND
    partial = folder / f"{uid}.part"
    try:
        partial.write_bytes(event.encoded_dataset(include_meta=True))
        partial.rename(folder / f"{uid}.dcm")
    except OSError:
        return _OUT_OF_RESOURCES
    return _SUCCESS


def main() -> None:
    """Run the archive in this process."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    server = start_archive(int(sys.argv[1]), Path(sys.argv[2]))
    stop.wait()
    server.shutdown()


if __name__ == "__main__":
    main()
