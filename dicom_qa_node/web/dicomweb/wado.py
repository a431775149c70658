"""WADO-RS (PS3.18 10.4): instances as they lie in the spool, part by part, and their metadata as DICOM JSON."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from pydicom import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from starlette.exceptions import HTTPException
from starlette.responses import Response, StreamingResponse

from dicom_qa_node.dicom_io.pydicom_patches import dcmread
from dicom_qa_node.index.catalogue import Catalogue, HeldInstance
from dicom_qa_node.index.find import find_instances
from dicom_qa_node.index.matching import Identifier
from dicom_qa_node.spool.layout import SpoolLayout
from dicom_qa_node.web.dicomweb.content_negotiation import DICOM, MULTIPART, Wanted

__all__ = ["Selection", "metadata", "respond", "select"]

_CHUNK = 256 * 1024
_PLAIN = (str(ExplicitVRLittleEndian), str(ImplicitVRLittleEndian))
# Encoding anew holds a data set and its encoding in memory.
_MOST_ENCODED_BYTES = 256 << 20
_GONE = "Some of these instances are no longer in the spool."


@dataclass(frozen=True, slots=True)
class Selection:
    """The instances that an address names; they are read from the catalogue page by page, each time anew."""

    catalogue: Catalogue
    layout: SpoolLayout
    identifier: Identifier

    def instances(self) -> Iterator[HeldInstance]:
        """Return them in order of their UID."""
        return find_instances(self.catalogue, self.identifier)

    def path_of(self, instance: HeldInstance) -> Path:
        """Return the file of one."""
        return self.layout.absolute(instance.path)


def select(catalogue: Catalogue, layout: SpoolLayout, identifier: Identifier) -> Selection:
    """Return what an address names.

    Raises
    ------
    HTTPException
        404 nothing is there; 410 a file of it is gone.
    """
    selection = Selection(catalogue, layout, identifier)
    found = False
    for instance in selection.instances():
        found = True
        if not selection.path_of(instance).is_file():
            raise HTTPException(410, _GONE)
    if not found:
        raise HTTPException(404, "The node holds nothing of that.")
    return selection


def respond(selection: Selection, wanted: Wanted) -> Response:
    """Return the instances; every file is read while it is sent.

    Raises
    ------
    HTTPException
        406 one of them cannot be had in a transfer syntax that is wanted, or is too large to be encoded anew.
    """
    for instance in selection.instances():
        if wanted.takes(instance.transfer_syntax_uid):
            continue
        name = UID(instance.transfer_syntax_uid).name
        if not _target(instance, wanted):
            raise HTTPException(406, f"An instance is stored as {name}; ask for transfer-syntax=* to get it so.")
        if selection.path_of(instance).stat().st_size > _MOST_ENCODED_BYTES:
            raise HTTPException(406, f"An instance is too large to be encoded anew; it is stored as {name}.")
    if wanted.multipart:
        boundary = secrets.token_hex(16)
        kind = f'{MULTIPART}; type="{DICOM}"; boundary={boundary}'
        return StreamingResponse(_parts(selection, wanted, boundary), headers={"Content-Type": kind})
    (instance,) = selection.instances()
    syntax, content = _content(selection, instance, wanted)
    return StreamingResponse(content, headers={"Content-Type": f"{DICOM}; transfer-syntax={syntax}"})


def metadata(selection: Selection) -> Iterator[Dataset]:
    """Return the data sets without pixels, one after another."""
    for instance in selection.instances():
        try:
            yield dcmread(selection.path_of(instance), stop_before_pixels=True)
        except (OSError, InvalidDicomError) as error:
            raise HTTPException(410, _GONE) from error


def _parts(selection: Selection, wanted: Wanted, boundary: str) -> Iterator[bytes]:
    for instance in selection.instances():
        syntax, content = _content(selection, instance, wanted)
        yield f"--{boundary}\r\nContent-Type: {DICOM}; transfer-syntax={syntax}\r\n\r\n".encode("ascii")
        yield from content
        yield b"\r\n"
    yield f"--{boundary}--\r\n".encode("ascii")


def _content(selection: Selection, instance: HeldInstance, wanted: Wanted) -> tuple[str, Iterator[bytes]]:
    path = selection.path_of(instance)
    if wanted.takes(instance.transfer_syntax_uid):
        return instance.transfer_syntax_uid, _chunks(path)
    syntax = _target(instance, wanted)
    return syntax, iter([_encoded_anew(path, syntax)])


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            yield chunk


def _target(instance: HeldInstance, wanted: Wanted) -> str:
    """Return the uncompressed transfer syntax that an uncompressed instance is turned into, empty if there is none."""
    plain: Sequence[str] = [syntax for syntax in wanted.syntaxes if syntax in _PLAIN]
    return plain[0] if plain and instance.transfer_syntax_uid in _PLAIN else ""


def _encoded_anew(path: Path, syntax: str) -> bytes:
    dataset = dcmread(path)
    buffer = BytesIO()
    dataset.file_meta.TransferSyntaxUID = UID(syntax)
    dataset.save_as(buffer, implicit_vr=syntax == str(ImplicitVRLittleEndian), little_endian=True)
    return buffer.getvalue()
