"""A DICOM node that rates the image quality of CT and PET/CT series and reports it as a Structured Report.

The life of a series::

    scanner ─C-STORE─▶ receive ─▶ spool + registry ─▶ completion ─▶ [jobs] ─▶ score ─▶ quality log
        PACS ◀─C-STORE─ deliver ◀─ [outbox] ◀─ report ◀───────────────────────────┘

Packages, from the lowest layer up: ``domain`` (what the stages exchange), ``log``, ``models`` and ``phantom``,
``config``, ``dicom_io`` (DICOM files), ``spool`` (files of the node), ``db`` (engine and tables), ``quality_log``,
``charts`` and ``accounts``, ``flow`` (states, jobs, outbox), ``index`` (query keys); the stages ``receive``, ``query``,
``score``, ``report``, ``deliver`` and ``web``; ``ops`` (runs the processes), ``api`` and ``cli``. See
docs/architecture.md.

For Python: `score_series`, `load_series`, `measure`, `build_report`, `list_models` (module ``api``), and the physics as
functions of arrays in `image_metrics`. Importing this package imports none of the others.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dicom_qa_node.api import (
        ScoreResult,
        build_report,
        list_models,
        load_series,
        measure,
        open_model,
        score_series,
    )
    from dicom_qa_node.score.physics import image_metrics

__all__ = [
    "ScoreResult",
    "__version__",
    "build_report",
    "image_metrics",
    "list_models",
    "load_series",
    "measure",
    "open_model",
    "score_series",
]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Load the public functions when they are first asked for (PEP 562)."""
    if name == "image_metrics":
        return importlib.import_module("dicom_qa_node.score.physics.image_metrics")
    if name in __all__:
        return getattr(importlib.import_module("dicom_qa_node.api"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
