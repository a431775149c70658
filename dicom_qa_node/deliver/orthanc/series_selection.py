"""Which series of Orthanc the bridge sends: those that the node scores, and whose report may come back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dicom_qa_node.config import Config
from dicom_qa_node.config.delivery import Route
from dicom_qa_node.config.fields import any_matches
from dicom_qa_node.domain.modalities import storage_classes

__all__ = ["SeriesTags", "why_not"]


@dataclass(frozen=True, slots=True)
class SeriesTags:
    """What the rules look at; values are empty where Orthanc does not have them."""

    modality: str = ""
    station: str = ""
    institution: str = ""
    description: str = ""
    sop_class_uid: str = ""

    @classmethod
    def of(cls, series: Mapping[str, Any], study: Mapping[str, Any], sop_class_uid: str) -> SeriesTags:
        """Return the tags of a series; the institution is that of the study where the series has none."""
        tags = series.get("MainDicomTags")
        found = tags if isinstance(tags, dict) else {}
        return cls(
            modality=_text(found, "Modality"),
            station=_text(found, "StationName"),
            institution=_text(found, "InstitutionName") or _text(study, "InstitutionName"),
            description=_text(found, "SeriesDescription"),
            sop_class_uid=sop_class_uid,
        )


def why_not(tags: SeriesTags, config: Config) -> str:
    """Return what keeps a series from being sent, in words; empty when it is sent.

    Reports, presentation states, localizers in objects of their own and everything else that the node does not score
    have other SOP classes than images. The route of ``orthanc.target`` holds as far as it can be known before the
    series is scored.
    """
    select = config.orthanc.select
    if tags.sop_class_uid and tags.sop_class_uid not in storage_classes():
        return f"SOP class {tags.sop_class_uid} is not scored"
    for name, value, patterns in (
        ("modality", tags.modality, select.modalities),
        ("station", tags.station, select.stations),
        ("institution", tags.institution, select.institutions),
        ("description", tags.description, select.descriptions),
    ):
        if patterns and not any_matches([value], patterns):
            return f"{name} {value or '(none)'} is none of {', '.join(patterns)}"
    if tags.description and any_matches([tags.description], select.without_descriptions):
        return f"description {tags.description} is left out"
    return _unrouted(tags, config)


def _unrouted(tags: SeriesTags, config: Config) -> str:
    route: Route | None = next(
        (target.route for target in config.deliver.targets if target.name == config.orthanc.target), None
    )
    if route is None:
        return ""
    known = (
        ("modalities", tags.modality, route.modalities),
        ("stations", tags.station, route.stations),
        ("institutions", tags.institution, route.institutions),
    )
    for name, value, patterns in known:
        if patterns and not any_matches([value] if value else [], patterns):
            return f"the route of {config.orthanc.target} has {name}: {', '.join(patterns)}"
    return ""


def _text(tags: Mapping[str, Any], name: str) -> str:
    return str(tags.get(name) or "").strip()
