"""Character sets of queries and answers (PS3.3 C.12.1.1.2, PS3.5 6.1)."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Sequence

from dicom_qa_node.charsets import convert_encodings, decode_bytes, encode_string, python_encoding

__all__ = ["UnknownCharacterSet", "answer_character_set", "decoded", "encodings_of"]

_UTF8 = "ISO_IR 192"
_SEPARATORS = re.compile(r"([=^])")
_DELIMITERS = {ord(character) for character in "^=\\\r\n\t\f"}


class UnknownCharacterSet(Exception):
    """A Specific Character Set that the standard does not define."""


def encodings_of(terms: Sequence[str]) -> list[str]:
    """Return Python's names of the character sets that these defined terms stand for."""
    if any(term.strip() not in python_encoding for term in terms):
        raise UnknownCharacterSet
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return convert_encodings([term.strip() for term in terms] or [""])


def decoded(value: bytes, encodings: Sequence[str]) -> str:
    """Decode a text value; bytes that fit no character set become U+FFFD."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return decode_bytes(value, list(encodings), _DELIMITERS)


def answer_character_set(texts: Iterable[str], asked: Sequence[str]) -> list[str]:
    """Return the character set of an answer: none for ASCII, that of the query if it can write all, else UTF-8."""
    beyond = [text for text in texts if not text.isascii()]
    if not beyond:
        return []
    if asked and all(_survives(text, asked) for text in beyond):
        return list(asked)
    return [_UTF8]


def _survives(text: str, terms: Sequence[str]) -> bool:
    encodings = encodings_of(terms)
    try:
        with warnings.catch_warnings():
            # pydicom warns, and writes question marks, where a text does not fit.
            warnings.simplefilter("error")
            # A component of a name begins in the first character set again (PS3.5 6.1.2.5.3).
            parts = [encode_string(part, encodings) for part in _SEPARATORS.split(text)]
            return decode_bytes(b"".join(parts), encodings, _DELIMITERS) == text
    except (UnicodeError, LookupError, UserWarning):
        return False
