"""What queries and retrievals work with in one process: the catalogue, its index, the files and the destinations."""

from __future__ import annotations

from dataclasses import dataclass

from dicom_qa_node.config import Config, Destination, DicomTarget
from dicom_qa_node.db.engine import Database
from dicom_qa_node.index.catalogue import Catalogue
from dicom_qa_node.index.header_cache import LAYOUT, HeaderCache
from dicom_qa_node.spool.layout import SpoolLayout

__all__ = ["Holdings", "open_holdings"]


@dataclass(frozen=True, slots=True)
class Holdings:
    """See the module's sentence; ``destinations`` are those of C-MOVE by AE title.

    ``search_s`` is how long one query may search, ``timeout_s`` the longest wait for a destination.
    """

    ae_title: str
    catalogue: Catalogue
    indexer: HeaderCache
    layout: SpoolLayout
    destinations: dict[str, Destination]
    timeout_s: float
    search_s: float = 60.0


def open_holdings(config: Config, database: Database) -> Holdings:
    """Return the holdings of a node; archives that receive its reports are destinations, too."""
    layout = SpoolLayout(config.spool_dir)
    catalogue = Catalogue(database, images=config.query.images, layout=LAYOUT)
    targets = [
        Destination(ae_title=target.ae_title, host=target.host, port=target.port, tls=target.tls)
        for target in config.deliver.targets
        if isinstance(target, DicomTarget)
    ]
    return Holdings(
        ae_title=config.ae_title.strip(),
        catalogue=catalogue,
        indexer=HeaderCache(catalogue, layout),
        layout=layout,
        destinations={entry.ae_title.strip(): entry for entry in [*targets, *config.query.destinations]},
        timeout_s=config.query.timeout_s,
        search_s=config.query.search_s,
    )
