"""Damage to real images: any bytes of a file, or one element of an encoded data set, as scanners and networks do it."""

from __future__ import annotations

import hashlib
import random
import struct
import warnings
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_data_element
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian

NAME, PATIENT_ID, ACCESSION, BIRTH_DATE = "Zwirnhuber^Quirina", "PID-83412-X", "ACC-771144", "19310717"
SECRETS = (*NAME.split("^"), PATIENT_ID, ACCESSION, BIRTH_DATE)

PIXEL_DATA = 0x7FE00010
IDENTIFYING = {0x00080018: "sop", 0x0020000D: "study", 0x0020000E: "series", 0x00200052: "frame"}
LONG_VRS = ("OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV")
NUMBERS = {
    0x00181050: "DS", 0x00180050: "DS", 0x00180088: "DS", 0x00181120: "DS", 0x00180060: "DS", 0x00181151: "IS",
    0x00200011: "IS", 0x00200012: "IS", 0x00200013: "IS", 0x00200032: "DS", 0x00200037: "DS", 0x00201002: "IS",
    0x00201041: "DS", 0x00280008: "IS", 0x00280030: "DS", 0x00281050: "DS", 0x00281051: "DS", 0x00281052: "DS",
    0x00281053: "DS", 0x00101020: "DS", 0x00101030: "DS", 0x00541300: "DS", 0x00541321: "DS", 0x00541322: "DS",
}  # fmt: skip
TEXTS = {
    0x00080005: "CS", 0x00080008: "CS", 0x00080020: "DA", 0x00080021: "DA", 0x00080022: "DA", 0x00080023: "DA",
    0x00080030: "TM", 0x00080031: "TM", 0x00080032: "TM", 0x00080060: "CS", 0x00080070: "LO", 0x00081030: "LO",
    0x0008103E: "LO", 0x00100040: "CS", 0x00101010: "AS", 0x00180015: "CS", 0x00181030: "LO", 0x00181210: "SH",
    0x00185100: "CS", 0x00280004: "CS", 0x00281054: "LO", 0x00541000: "CS", 0x00541001: "CS", 0x00541102: "CS",
}  # fmt: skip
SHORTS = (0x00280002, 0x00280006, 0x00280010, 0x00280011, 0x00280100, 0x00280101, 0x00280102, 0x00280103, 0x00540081)
WILD_NUMBERS = (
    b"", b"0", b"-1", b"nan", b"inf", b"-inf", b"1e400", b"1e-300", b"1e30", b"abc", b"9" * 40, b"0\\0", b"0\\0\\0",
    b"1\\2\\3\\4\\5\\6\\7", b"\\\\\\", b"1,5", b"0\\0\\0\\0\\0\\0", b"nan\\nan\\nan", b"1e38\\-1e38\\1e38",
    b"2147483648", b"1_000", b"\xd9\xa1", b"--5", b"1e", b"0x10", b"100000", b"1\0",
)  # fmt: skip
WILD_TEXTS = (
    b"", b"ISO_IR 999", b"ISO 2022 IR 87", b"\\ISO 2022 IR 149", b"GB18030", b"ISO_IR 192\\ISO_IR 100", b"\xff\xfe\xfd",
    b"\x1b$B\x1b(", b"\x1b-F", b"x" * 5000, b"\0\0\0", b"\\\\\\\\", b"99999999", b"20260231",
    b"256199", b"250000.999999999", b"2026-01-01", b"HFS\nevent=stored", b"' OR 1=1 --", b"../../../etc/passwd",
    b"%s%n{0}{x}", b"DERIVED\\SECONDARY",
    b"ORIGINAL\\PRIMARY\\LOCALIZER", b"FFDR", b"BQML", b"CNTS", b"RGB", b"PALETTE COLOR", b"MR", "Привет".encode(),
)  # fmt: skip
WILD_SHORTS = (0, 1, 2, 3, 7, 8, 12, 15, 16, 17, 32, 64, 255, 511, 1024, 32767, 65535)
WILD_UIDS = (
    b"",
    b"0",
    b"1.2.",
    b"1..2",
    b"01.2.3",
    b"../../x",
    b"1.2.3",
    b"2.25." + b"9" * 70,
    b"abc",
    b"\xff\xfe",
    b"1 2",
)


def damaged(data: bytes, rng: random.Random, first: int = 132) -> bytes:
    """Return bytes with one kind of damage behind ``first``: bits, lengths, an early end, inserted, swapped bytes."""
    b, head = bytearray(data), min(len(data), 4000)
    kind = rng.choice(("bits", "header", "lengths", "cut", "insert", "zero", "swap"))
    if kind in ("bits", "header"):
        for _ in range(rng.randint(1, 60)):
            b[rng.randrange(first, len(b) if kind == "bits" else head)] = rng.randrange(256)
    elif kind == "lengths":
        at = rng.randrange(first + 8, head - 4)
        b[at : at + 4] = rng.choice((b"\xff" * 4, b"\xff\xff\xff\x7f", b"\0" * 4, b"\xff\xff\0\0"))
    elif kind == "cut":
        del b[rng.randrange(len(b)) :]
    elif kind == "insert":
        at = rng.randrange(first, len(b))
        b[at:at] = rng.randbytes(rng.randint(1, 40))
    elif kind == "zero":
        at, count = rng.randrange(first, len(b)), rng.randint(1, 400)
        b[at : at + count] = bytes(count)
    else:
        i, j, count = rng.randrange(first, head), rng.randrange(first, head), rng.randint(4, 80)
        b[i : i + count], b[j : j + count] = b[j : j + count], b[i : i + count]
    return bytes(b)


@dataclass(frozen=True)
class Element:
    """One encoded top-level element; ``data`` begins with its tag."""

    tag: int
    vr: str
    data: bytes
    implicit: bool

    @property
    def head(self) -> int:
        return 12 if not self.implicit and self.vr in LONG_VRS else 8

    @property
    def value(self) -> bytes:
        return self.data[self.head :]


@dataclass(frozen=True)
class Image:
    """A real image as its encoded elements; ``uids`` are what `renamed` exchanges, by the word for each."""

    source: str
    sop_class_uid: str
    transfer_syntax_uid: str
    uids: dict[str, str]
    elements: tuple[Element, ...]

    @property
    def sop_instance_uid(self) -> str:
        return self.uids["sop"]

    def body(self) -> bytes:
        """Return the encoded data set."""
        return b"".join(element.data for element in self.elements)

    def renamed(self, copy: str) -> Image:
        """Return the image as one of another study: UIDs of the same lengths, the same for the same copy."""
        new = {uid: _other_uid(uid, copy) for uid in self.uids.values()}
        elements = [element if element.tag >= PIXEL_DATA else _exchanged(element, new) for element in self.elements]
        return replace(self, uids={word: new[uid] for word, uid in self.uids.items()}, elements=tuple(elements))


def read_image(path: Path) -> Image:
    """Read a file; its patient becomes the one of `SECRETS`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ds = dcmread(path)
        ds.PatientName, ds.PatientID, ds.AccessionNumber, ds.PatientBirthDate = NAME, PATIENT_ID, ACCESSION, BIRTH_DATE
        syntax = ds.file_meta.TransferSyntaxUID
        elements = tuple(_encoded(ds, tag, syntax.is_implicit_VR) for tag in sorted(ds.keys()))
        uids = {word: str(ds[tag].value) for tag, word in IDENTIFYING.items() if tag in ds}
        return Image(path.name, str(ds.SOPClassUID), str(syntax), uids, elements)


def _encoded(ds: Dataset, tag: int, implicit: bool) -> Element:
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, implicit
    write_data_element(buffer, ds[tag], ["iso8859"])
    return Element(int(tag), str(ds[tag].VR), buffer.getvalue(), implicit)


def _other_uid(uid: str, copy: str) -> str:
    digits = str(int(hashlib.sha512(f"{copy}|{uid}".encode()).hexdigest(), 16)).lstrip("0")
    return "2.25." + digits[: len(uid) - 5]


def _exchanged(element: Element, new: dict[str, str]) -> Element:
    data = element.data
    for old, uid in new.items():
        data = data.replace(old.encode(), uid.encode())
    return replace(element, data=data)


Mutation = Callable[[list[Element], random.Random], None]


def mutated(image: Image, kind: str, rng: random.Random) -> bytes:
    """Return the image's data set with damage of one of `KINDS`."""
    if kind == "bytes":
        data = damaged(image.body(), rng, first=0)
    else:
        elements = list(image.elements)
        STRUCTURED[kind](elements, rng)
        data = b"".join(element.data for element in elements)
    return _deflated(data, rng) if image.transfer_syntax_uid == DeflatedExplicitVRLittleEndian else data


def deflated(image: Image) -> Image:
    """Return an uncompressed image in Explicit VR as one in the deflated transfer syntax."""
    assert image.transfer_syntax_uid == ExplicitVRLittleEndian
    return replace(image, transfer_syntax_uid=str(DeflatedExplicitVRLittleEndian))


def _deflated(data: bytes, rng: random.Random) -> bytes:
    """Compress a data set; every fourth stream is damaged itself."""
    compressor = zlib.compressobj(6, zlib.DEFLATED, -zlib.MAX_WBITS)
    stream = compressor.compress(data) + compressor.flush()
    return damaged(stream, rng, first=0) if rng.random() < 0.25 else stream


def _made(tag: int, vr: str, value: bytes, implicit: bool, length: int | None = None) -> Element:
    """Encode an element; ``length`` is a lie about its value."""
    value += b" "[: len(value) % 2]
    size = len(value) if length is None else length
    head = struct.pack("<HH", tag >> 16, tag & 0xFFFF)
    if implicit:
        head += struct.pack("<L", size & 0xFFFFFFFF)
    elif vr in LONG_VRS:
        head += vr.encode() + struct.pack("<HL", 0, size & 0xFFFFFFFF)
    else:
        head += vr.encode() + struct.pack("<H", size & 0xFFFF)
    return Element(tag, vr, head + value, implicit)


def _put(elements: list[Element], made: Element) -> None:
    elements[:] = sorted([item for item in elements if item.tag != made.tag] + [made], key=lambda item: item.tag)


def _some(elements: list[Element], rng: random.Random) -> int:
    return rng.randrange(sum(element.tag < PIXEL_DATA for element in elements))


def _number(elements: list[Element], rng: random.Random) -> None:
    tag = rng.choice(list(NUMBERS))
    _put(elements, _made(tag, NUMBERS[tag], rng.choice(WILD_NUMBERS), elements[0].implicit))


def _text(elements: list[Element], rng: random.Random) -> None:
    tag = rng.choice(list(TEXTS))
    _put(elements, _made(tag, TEXTS[tag], rng.choice(WILD_TEXTS), elements[0].implicit))


def _short(elements: list[Element], rng: random.Random) -> None:
    value = struct.pack("<H", rng.choice(WILD_SHORTS)) * rng.choice((0, 1, 1, 1, 1, 1, 2))
    _put(elements, _made(rng.choice(SHORTS), "US", value, elements[0].implicit))


def _uid(elements: list[Element], rng: random.Random) -> None:
    tag = rng.choice((*IDENTIFYING, 0x00080016))
    _put(elements, _made(tag, "UI", rng.choice(WILD_UIDS), elements[0].implicit))


def _charset(elements: list[Element], rng: random.Random) -> None:
    implicit = elements[0].implicit
    _put(elements, _made(0x00080005, "CS", rng.choice(WILD_TEXTS), implicit))
    _put(elements, _made(rng.choice((0x0008103E, 0x00181030, 0x00081030)), "LO", rng.randbytes(40), implicit))


def _vr(elements: list[Element], rng: random.Random) -> None:
    index = _some(elements, rng)
    item = elements[index]
    vr = rng.choice((b"UN", b"SQ", b"DS", b"IS", b"US", b"FD", b"AT", b"OB", b"??", b"\0\0", b"UT", b"PN", b"DA"))
    elements[index] = replace(item, data=item.data[:4] + vr + item.data[6:])


def _length(elements: list[Element], rng: random.Random) -> None:
    index = _some(elements, rng) if rng.random() < 0.8 else len(elements) - 1
    item = elements[index]
    length = rng.choice((0, 1, len(item.value) + 1, len(item.value) + 2, max(0, len(item.value) - 2), 65534, -1, 2**31))
    lie = _made(item.tag, item.vr, b"", item.implicit, length)
    elements[index] = replace(lie, data=lie.data + item.value)


def _drop(elements: list[Element], rng: random.Random) -> None:
    for _ in range(rng.randint(1, 4)):
        del elements[_some(elements, rng)]


def _twice(elements: list[Element], rng: random.Random) -> None:
    elements.insert(_some(elements, rng), elements[_some(elements, rng)])


def _emptied(elements: list[Element], rng: random.Random) -> None:
    index = _some(elements, rng)
    item = elements[index]
    elements[index] = _made(item.tag, item.vr, b"", item.implicit)


def _sequence(elements: list[Element], rng: random.Random) -> None:
    """Insert a sequence: deep, without an end, of items that are none, or in a functional group of this image."""
    implicit = elements[0].implicit
    tag = rng.choice((0x00081140, 0x00540016, 0x00081115, 0x52009229, 0x52009230, 0x00082218, 0x00400275))
    item, item_end, end = b"\xfe\xff\x00\xe0", b"\xfe\xff\x0d\xe0" + bytes(4), b"\xfe\xff\xdd\xe0" + bytes(4)
    head = _made(tag, "SQ", b"", implicit, -1).data
    opened = head + item + b"\xff" * 4
    closed = item_end + end
    kinds = {
        "deep": opened * 40 + closed * 40,
        "very deep": opened * 3000 + closed * 3000,
        "endless": opened,
        "noise": head + rng.randbytes(60),
        "no items": head + end,
        "wrong item": head + item + struct.pack("<L", 10_000) + closed,
        "inner noise": head + item + struct.pack("<L", 16) + rng.randbytes(16) + end,
        "many": head + (item + bytes(4)) * 5000 + end,
    }
    _put(elements, Element(tag, "SQ", rng.choice(list(kinds.values())), implicit))


def _pixels(elements: list[Element], rng: random.Random) -> None:
    """Shorten, lengthen or disturb the pixel data under a truthful length."""
    at = next(index for index, element in enumerate(elements) if element.tag == PIXEL_DATA)
    item = elements[at]
    value = bytearray(item.value)
    kind = rng.choice(("noise", "burst", "short", "long", "flat", "odd", "none"))
    if kind == "noise":
        for _ in range(2000):
            value[rng.randrange(len(value))] = rng.randrange(256)
    elif kind == "burst":
        start = rng.randrange(len(value))
        value[start : start + 4096] = rng.randbytes(len(value[start : start + 4096]))
    elif kind == "flat":
        start = 256 if item.data[8:12] == b"\xff" * 4 else 0
        value[start:] = bytes([rng.choice((0, 255, 127))]) * (len(value) - start)
    elif kind == "long":
        value += rng.randbytes(rng.randint(1, 5000) * 2)
    else:
        del value[0 if kind == "none" else rng.randrange(len(value)) :]
    if item.data[item.head - 4 : item.head] == b"\xff" * 4:
        elements[at] = replace(item, data=item.data[: item.head] + bytes(value))
    else:
        lie = None if kind != "odd" else len(value)
        elements[at] = _made(item.tag, item.vr, bytes(value), item.implicit, lie)


def _costly(elements: list[Element], rng: random.Random) -> None:
    """Insert what is small to send and dear to read: many empty elements or items, deep nesting, values without end."""
    implicit, count = elements[0].implicit, int(2 ** rng.uniform(6, 18))
    item, item_end, end = b"\xfe\xff\x00\xe0", b"\xfe\xff\x0d\xe0" + bytes(4), b"\xfe\xff\xdd\xe0" + bytes(4)
    empty = _made(0x00091001, "LO", b"", implicit)
    head = _made(0x00081140, "SQ", b"", implicit, -1).data
    opened = head + item + b"\xff" * 4
    made = {
        "elements": Element(empty.tag, "LO", empty.data * count, implicit),
        "items": Element(0x00081140, "SQ", head + (item + bytes(4)) * count + end, implicit),
        "inner elements": Element(0x00081140, "SQ", opened + empty.data * count + item_end + end, implicit),
        "nested": Element(0x00081140, "SQ", opened * (count // 8) + (item_end + end) * (count // 8), implicit),
        "terms": _made(0x00080005, "UN", b"\\ISO 2022 IR 87" * count, implicit),
        "text": _made(0x00081030, "UT", b"A" * count * 8, implicit),
        "numbers": _made(0x00200037, "UN", b"1\\" * count, implicit),
        "zeros": _made(0x00091002, "OB", bytes(count * 64), implicit),
    }
    _put(elements, rng.choice(list(made.values())))


STRUCTURED: dict[str, Mutation] = {
    "number": _number,
    "text": _text,
    "short": _short,
    "uid": _uid,
    "charset": _charset,
    "vr": _vr,
    "length": _length,
    "drop": _drop,
    "twice": _twice,
    "emptied": _emptied,
    "sequence": _sequence,
    "pixels": _pixels,
    "costly": _costly,
}
KINDS = ("bytes", *STRUCTURED)
