"""The door to what pydicom reads from files and decodes: it closes a gap of pydicom 3.0 in GB 2312.

pydicom leaves the escape sequences of that set (ISO 2022 IR 58) to Python's codec, which keeps them in the text: a name
would carry them into the registry, the report and every answer. What it writes lacks them.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import suppress

import pydicom.charset
from pydicom.charset import convert_encodings, decode_bytes, encode_string, python_encoding

from dicom_qa_node.dicom_io.file_reader import dcmread

__all__ = [
    "convert_encodings",
    "dcmread",
    "decode_bytes",
    "decoded_text",
    "encode_string",
    "python_encoding",
    "writable_character_set",
]

pydicom.charset.handled_encodings = tuple(  # type: ignore[assignment]
    encoding for encoding in pydicom.charset.handled_encodings if encoding != "iso_ir_58"
)


# Latin alphabet No. 9 (PS3.3 C.12.1.1.2), which pydicom 3.0 does not know.
python_encoding.setdefault("ISO_IR 203", "iso8859_15")
python_encoding.setdefault("ISO 2022 IR 203", "iso8859_15")

_RESETS = {ord(character) for character in "^=\\\r\n\t\f"}
_UTF8 = "ISO_IR 192"
_ALONE = ("ISO_IR 192", "GB18030", "GBK")


def decoded_text(value: bytes, terms: Sequence[str]) -> str:
    """Decode a text value of a header; bytes that fit no declared character set become U+FFFD (PS3.5 6.1).

    Parameters
    ----------
    terms
        The values of Specific Character Set (0008,0005). Where none is a defined term (PS3.3 C.12.1.1.2), text that is
        valid UTF-8 is taken as UTF-8, other text as pydicom's nearest guess.
    """
    stated = [term.strip(" \0") for term in terms] or [""]
    if value.isascii() and b"\x1b" not in value:
        return value.decode("ascii")
    if not any(term in python_encoding for term in stated if term):
        with suppress(UnicodeDecodeError):
            return value.decode("utf-8")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            encodings = convert_encodings(_extensible(stated))
        except LookupError:
            encodings = convert_encodings([""])
        try:
            text = decode_bytes(value, encodings, _RESETS)
        except (LookupError, UnicodeError):
            return value.decode("ascii", "replace")
    if any("\x7f" < char < "\xa0" for char in text):
        # Control characters of the upper half stand in no DICOM text: this is UTF-8 under the name of another set.
        with suppress(UnicodeDecodeError):
            return value.decode("utf-8")
    return text


def _extensible(terms: Sequence[str]) -> list[str]:
    """Return several terms without those that allow no code extensions (PS3.3 C.12.1.1.2)."""
    kept = [terms[0], *(term for term in terms[1:] if term not in _ALONE)]
    return kept[1:] if len(kept) > 1 and kept[0] in _ALONE else kept


def writable_character_set(terms: Sequence[str]) -> tuple[str, ...]:
    """Return the Specific Character Set that a new object may have when its sources have ``terms``.

    Empty where the source has none, UTF-8 where its value is not allowed (PS3.3 C.12.1.1.2) or is GBK, which few
    validators and readers know.
    """
    stated = tuple(term.strip(" \0") for term in terms)
    if not any(stated):
        return ()
    if len(stated) == 1:
        known = stated[0] in python_encoding and stated[0].startswith(("ISO_IR ", "GB18030"))
        known = known and stated[0] != "ISO_IR 203"
        return stated if known else (_UTF8,)
    extended = all(term in python_encoding and term.startswith("ISO 2022 ") for term in stated if term)
    return stated if extended and all(stated[1:]) else (_UTF8,)
