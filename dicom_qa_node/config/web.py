"""The section of the web role."""

from __future__ import annotations

from pydantic import Field

from dicom_qa_node.config.base import ListenPort, Section

__all__ = ["Web"]


class Web(Section):
    """The web role: health, metrics and the quality log."""

    host: str = Field("127.0.0.1", description="address to listen on")
    port: ListenPort = Field(8080, description="TCP port to listen on; 0 picks a free one")
