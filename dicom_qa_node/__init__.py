"""A DICOM node that judges image quality: a scanner's series in, a scored Structured Report out.

The way of one series, one package per verb::

    scanner ─C-STORE─▶ receive ─▶ spool + registry ─▶ complete ─▶ [jobs] ─▶ score ─▶ quality log
      PACS ◀─C-STORE─ deliver ◀─ [outbox] ◀─ report ◀───────────────────────────────┘

``store`` is the only door to the database, ``spool`` the only door to the files, ``ops`` keeps the roles
running, ``cli`` puts everything together. Importing this package imports none of them.
"""

from __future__ import annotations

__all__ = ["__version__"]

__version__ = "0.1.0"
