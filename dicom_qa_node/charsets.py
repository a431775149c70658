"""The door to what pydicom reads from files and decodes: it closes a gap of pydicom 3.0 in GB 2312.

pydicom leaves the escape sequences of that set (ISO 2022 IR 58) to Python's codec, which keeps them in the text: a name
would carry them into the registry, the report and every answer. What it writes lacks them.
"""

from __future__ import annotations

import pydicom.charset
from pydicom.charset import convert_encodings, decode_bytes, encode_string, python_encoding

from dicom_qa_node.dicom_files import dcmread

__all__ = ["convert_encodings", "dcmread", "decode_bytes", "encode_string", "python_encoding"]

pydicom.charset.handled_encodings = tuple(  # type: ignore[assignment]
    encoding for encoding in pydicom.charset.handled_encodings if encoding != "iso_ir_58"
)
