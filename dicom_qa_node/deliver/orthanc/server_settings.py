"""What has to stand in Orthanc's own configuration for the bridge, and whether it does."""

from __future__ import annotations

import json
from collections.abc import Iterator

from dicom_qa_node.config import Config, Orthanc
from dicom_qa_node.deliver.orthanc.rest_client import OrthancClient, OrthancError
from dicom_qa_node.domain.errors import Permanent

__all__ = ["METADATA", "UnknownNames", "check_server", "content_name", "lines_for_orthanc", "metadata_name"]

METADATA = ("Score", "Grade", "Sentence", "Report")
"""What is written on a series, in the order of the numbers; the configured prefix stands before each."""

_PAGE_AFTER = 10


class UnknownNames(Permanent):
    """Orthanc does not know a name of metadata or of an attachment; the text shows the lines that it needs."""

    def __init__(self, config: Config, name: str) -> None:
        super().__init__(
            f"Orthanc does not know {name!r}: put these lines into its configuration and restart it:\n"
            f"{lines_for_orthanc(config)}"
        )


def metadata_name(settings: Orthanc, what: str) -> str:
    """Return the name of the metadata that holds one of `METADATA`."""
    return f"{settings.metadata_prefix}{what}"


def content_name(settings: Orthanc) -> str:
    """Return the name of the attachment with the one-page summary."""
    return f"{settings.metadata_prefix}Page"


def lines_for_orthanc(config: Config) -> str:
    """Return the part of Orthanc's configuration that the bridge needs, as JSON to copy."""
    settings = config.orthanc
    numbers = {metadata_name(settings, what): settings.first_number + place for place, what in enumerate(METADATA)}
    page = {content_name(settings): [settings.first_number + _PAGE_AFTER, "application/pdf"]}
    node = {settings.modality: [config.ae_title.strip(), "HOST-OF-THE-NODE", config.receive.port]}
    parts: dict[str, object] = {"DicomModalities": node, "UserMetadata": numbers}
    if settings.attach_page:
        parts["UserContentType"] = page
    lines = [f'  "{key}": {json.dumps(value)}' for key, value in parts.items()]
    return ",\n".join(lines)


def check_server(client: OrthancClient, config: Config) -> Iterator[tuple[bool, str]]:
    """Look at everything that the bridge needs; yield whether each thing is well, with words.

    Names of metadata are listed by Orthanc 1.12 and later only; an older one tells at the first score.
    """
    settings = config.orthanc
    system = client.system()
    yield True, f"Orthanc {system.version} at {settings.url}"
    if not client.modality(settings.modality):
        yield False, f"DicomModalities has no {settings.modality!r} (orthanc.modality)"
    else:
        try:
            client.echo(settings.modality)
            yield True, f"Orthanc reaches the node as {settings.modality!r} (C-ECHO)"
        except OrthancError as error:
            yield False, f"Orthanc does not reach the node as {settings.modality!r} (C-ECHO): HTTP {error.status}"
    if system.metadata is not None:
        missing = [name for what in METADATA if (name := metadata_name(settings, what)) not in system.metadata]
        yield not missing, f"UserMetadata lacks {', '.join(missing)}" if missing else "UserMetadata has the names"
    else:
        yield True, "whether UserMetadata has the names shows at the first score (Orthanc before 1.12)"
