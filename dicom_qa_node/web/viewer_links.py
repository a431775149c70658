"""Links that open a series in the site's viewers, made of the templates of the configuration."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote

from dicom_qa_node.config.web import Viewer
from dicom_qa_node.domain.series import SeriesHeader
from dicom_qa_node.domain.uids import is_uid

__all__ = ["ViewerLink", "viewer_links"]

_PLACEHOLDER = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True, slots=True)
class ViewerLink:
    """One viewer and the address that opens the series there."""

    name: str
    url: str


def viewer_links(viewers: Sequence[Viewer], facts: SeriesHeader, *, patients: bool) -> list[ViewerLink]:
    """Return a link for each viewer that can show this series.

    A viewer is left out where a value it needs is missing, where a UID is not one, or, without ``patients``, where its
    address would name the patient. Values are percent-encoded, so none can change the address around it.
    """
    values = {
        "StudyInstanceUID": facts.study_instance_uid if is_uid(facts.study_instance_uid) else "",
        "SeriesInstanceUID": facts.series_instance_uid if is_uid(facts.series_instance_uid) else "",
        "PatientID": facts.patient_id if patients else "",
        "AccessionNumber": facts.accession_number if patients else "",
    }
    found = []
    for viewer in viewers:
        if all(values[name] for name in _PLACEHOLDER.findall(viewer.url)):
            url = _PLACEHOLDER.sub(lambda hit: quote(values[hit[1]], safe=""), viewer.url)
            found.append(ViewerLink(viewer.name, url))
    return found
