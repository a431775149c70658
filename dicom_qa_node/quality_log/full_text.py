"""Full-text search of patients: words as both databases index them (FTS5, or a tsvector under a GIN index)."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from dicom_qa_node.domain.series import SeriesHeader

__all__ = ["index_patient", "matching", "patient_words", "words_of"]

_WORD = re.compile(r"[^\W_]+")


def words_of(text: str) -> list[str]:
    """Return the words of a text without case and accents, in any script.

    Compatibility forms become one (full-width letters, half-width kana); Hangul stays whole.
    """
    plain = "".join(c for c in unicodedata.normalize("NFKD", text.casefold()) if not unicodedata.combining(c))
    return _WORD.findall(unicodedata.normalize("NFC", plain))


def patient_words(facts: SeriesHeader) -> str:
    """Return what a series is found by besides its scanner and protocol: patient and accession number."""
    text = f"{facts.patient_name} {facts.patient_id} {facts.patient_birth_date} {facts.accession_number}"
    return " ".join(dict.fromkeys(words_of(text)))


def index_patient(connection: sa.Connection, rows: Sequence[dict[str, object]]) -> None:
    """Add rows of ``result_id`` and ``words`` to the text index."""
    key = "rowid" if connection.dialect.name == "sqlite" else "result_id"
    connection.execute(sa.text(f"INSERT INTO log_text ({key}, words) VALUES (:result_id, :words)"), list(rows))


def matching(connection: sa.Connection, words: Sequence[str], most: int) -> sa.Select[tuple[int]]:
    """Return a query for the newest ``most`` results whose patient has words that begin so, every one of them.

    Parameters
    ----------
    words
        As `template_values` gives them: letters and digits only, so that nothing in them is an operator of the query.
    """
    if connection.dialect.name == "sqlite":
        chosen = "SELECT rowid AS result_id FROM log_text WHERE log_text MATCH :wanted ORDER BY rowid DESC LIMIT :most"
        wanted = " AND ".join(f'"{word}"*' for word in words)
    else:
        chosen = (
            "SELECT result_id FROM log_text WHERE to_tsvector('simple', words) @@ to_tsquery('simple', :wanted) "
            "ORDER BY result_id DESC LIMIT :most"
        )
        wanted = " & ".join(f"'{word}':*" for word in words)
    # A question may hold several of these: each needs parameters of its own.
    parameters: list[sa.BindParameter[Any]] = [
        sa.bindparam("wanted", wanted, unique=True),
        sa.bindparam("most", most, unique=True),
    ]
    found = sa.text(chosen).bindparams(*parameters).columns(result_id=sa.Integer).subquery()
    return sa.select(found.c.result_id)
