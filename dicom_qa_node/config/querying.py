"""The section of the query/retrieve SCP."""

from __future__ import annotations

from pydantic import Field, model_validator

from dicom_qa_node.config.base import AeTitle, Port, Section
from dicom_qa_node.config.tls import ClientTls

__all__ = ["Destination", "Query"]


class Destination(Section):
    """An application entity that objects can be moved to."""

    ae_title: AeTitle = Field(description="AE title, as a C-MOVE request names it")
    host: str = Field(min_length=1, description="host name or address")
    port: Port = Field(104, description="TCP port")
    tls: ClientTls = Field(default_factory=ClientTls, description="TLS towards this destination")


class Query(Section):
    """The query/retrieve SCP: reports, and images if wished, for those who ask."""

    enabled: bool = Field(True, description="answer C-FIND, C-MOVE, C-GET, and DICOMweb on the web role")
    images: bool = Field(False, description="serve the images that are still in the spool, too")
    destinations: list[Destination] = Field(default_factory=list, description="where C-MOVE may send objects")
    timeout_s: float = Field(30, gt=0, le=600, description="longest wait for an answer of a destination")
    search_s: float = Field(
        60, gt=0, le=3600, description="longest time one query may search; the time to send its answers is not counted"
    )

    @model_validator(mode="after")
    def _unique_titles(self) -> Query:
        titles = [destination.ae_title.strip() for destination in self.destinations]
        twice = sorted({title for title in titles if titles.count(title) > 1})
        if twice:
            raise ValueError(f"AE titles of destinations must be unique; used twice: {', '.join(twice)}")
        return self
