"""A DICOM node that judges image quality: a scanner's series in, a scored Structured Report out.

The way of one series, one package per verb::

    scanner ─C-STORE─▶ receive ─▶ spool + registry ─▶ complete ─▶ [jobs] ─▶ score ─▶ quality log
      PACS ◀─C-STORE─ deliver ◀─ [outbox] ◀─ report ◀───────────────────────────────┘

``store`` is the only door to the database, ``spool`` the only door to the files, ``ops`` keeps the roles
running, ``cli`` puts everything together. Importing this package imports none of them.

For Python: `score_series`, `load_series`, `measure`, `build_report`, `list_models` (module ``api``).
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

__all__ = [
    "ScoreResult",
    "__version__",
    "build_report",
    "list_models",
    "load_series",
    "measure",
    "open_model",
    "score_series",
]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Load the public functions when they are first asked for (PEP 562)."""
    if name in __all__:
        return getattr(importlib.import_module("dicom_qa_node.api"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
