"""Decodes stored pixels: native frames in-process, compressed ones by child processes."""

from __future__ import annotations

import contextlib
import os
import pickle
import resource
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, BinaryIO

import numpy as np
import numpy.typing as npt
from pydicom.encaps import encapsulate, generate_frames
from pydicom.pixels.decoders.base import get_decoder

from dicom_qa_node.dicom_io.deflated import InflationFailed, InflationLimit
from dicom_qa_node.dicom_io.element_scanner import BrokenDataSet, HeaderBudget, read_inflated_header
from dicom_qa_node.dicom_io.file_reader import MOST_HEADER_BYTES, inflated_data_set
from dicom_qa_node.dicom_io.headers import BROKEN_VALUE, tolerant
from dicom_qa_node.score.slice_headers import PixelFormat
from dicom_qa_node.score.threads import max_threads

__all__ = [
    "BrokenPixels",
    "Codestream",
    "DecoderPool",
    "DecodingTime",
    "StoredArray",
    "codestreams",
    "decode_codestream",
    "in_order",
    "inflated_frames",
    "native_frame",
    "size_of",
]

_JPEG_START = b"\xff\xd8"
_JPEG2000_START = b"\xff\x4f\xff\x51"
_NO_FRAME_HEADER = (0xC4, 0xC8, 0xCC)


def size_of(data: bytes) -> tuple[int, int] | None:
    """Return (rows, columns) of a JPEG, JPEG-LS or JPEG 2000 codestream; None for others and for broken ones."""
    if data.startswith(_JPEG_START):
        return _jpeg(data)
    if data.startswith(_JPEG2000_START):
        return _jpeg2000(data)
    return None


def _jpeg(data: bytes) -> tuple[int, int] | None:
    """Walk the marker segments to the frame header (ISO/IEC 10918-1 B.2.2, ISO/IEC 14495-1 C.2.2)."""
    position = 2
    while position + 9 <= len(data):
        if data[position] != 0xFF:
            return None
        marker = data[position + 1]
        if marker == 0xFF:
            position += 1
            continue
        if (0xC0 <= marker <= 0xCF and marker not in _NO_FRAME_HEADER) or marker == 0xF7:
            rows, columns = struct.unpack_from(">HH", data, position + 5)
            return rows, columns
        position += 2 + int(struct.unpack_from(">H", data, position + 2)[0])
    return None


def _jpeg2000(data: bytes) -> tuple[int, int] | None:
    """Read the SIZ segment (ISO/IEC 15444-1 A.5.1)."""
    if len(data) < 24:
        return None
    right, bottom, left, top = struct.unpack_from(">IIII", data, 8)
    return bottom - top, right - left


StoredArray = npt.NDArray[np.integer[Any]]

_UNDEFINED = 0xFFFFFFFF
_LONG_VRS = (b"OB", b"OW", b"UN")
_FAILURES = (
    *BROKEN_VALUE, RuntimeError, OSError, EOFError, MemoryError, struct.error, zlib.error, InflationFailed,
    InflationLimit, BrokenDataSet,
)  # fmt: skip


class BrokenPixels(Exception):
    """The pixels of a slice cannot be decoded; the text says why."""


@dataclass(frozen=True, slots=True)
class Codestream:
    """One compressed frame, and how its pixels are to be read."""

    data: bytes
    pixels: PixelFormat


def native_frame(pixels: PixelFormat, frame: int) -> StoredArray:
    """Read one uncompressed frame (counted from 0) of a file that is not deflated, shape (rows, columns).

    Raises
    ------
    BrokenPixels
        The pixel data are missing or end too early.
    """
    end = (frame + 1) * pixels.frame_bytes
    try:
        with _pixel_data(pixels) as (file, length):
            if length < end:
                raise BrokenPixels(f"its pixel data hold {length} bytes of {end}")
            file.seek(frame * pixels.frame_bytes, 1)
            data = file.read(pixels.frame_bytes)
    except _FAILURES as error:
        raise BrokenPixels("its pixel data cannot be read") from error
    if len(data) < pixels.frame_bytes:
        raise BrokenPixels(f"its pixel data end {pixels.frame_bytes - len(data)} bytes too early")
    return _as_frame(data, pixels)


def inflated_frames(pixels: PixelFormat) -> Iterator[StoredArray]:
    """Yield the frames of a deflated file in order, each of shape (rows, columns).

    The file is inflated once and no further than the header says that there are pixels.

    Raises
    ------
    BrokenPixels
        The pixel data are missing or end too early.
    """
    limit = MOST_HEADER_BYTES + pixels.frames * pixels.frame_bytes
    try:
        with pixels.path.open("rb") as file:
            _, _, stream = inflated_data_set(file, limit)
            held = read_inflated_header(stream, (), HeaderBudget()).pixel_bytes
            for frame in range(pixels.frames):
                if held < (frame + 1) * pixels.frame_bytes:
                    raise BrokenPixels(f"its pixel data hold {held} bytes of {(frame + 1) * pixels.frame_bytes}")
                yield _as_frame(stream.read(pixels.frame_bytes), pixels)
    except _FAILURES as error:
        raise BrokenPixels("its deflated pixel data cannot be read") from error


def _as_frame(data: bytes, pixels: PixelFormat) -> StoredArray:
    dtype = np.dtype(f"{'i' if pixels.signed else 'u'}{pixels.bits_allocated // 8}")
    dtype = dtype.newbyteorder("<" if pixels.transfer_syntax.is_little_endian else ">")
    return _used_bits(np.frombuffer(data, dtype).reshape(pixels.rows, pixels.columns), pixels)


def codestreams(pixels: PixelFormat) -> Iterator[Codestream]:
    """Yield the compressed frames of one file in order, as stored.

    Raises
    ------
    BrokenPixels
        The fragments cannot be told apart (PS3.5 A.4).
    """
    try:
        with tolerant(), _pixel_data(pixels) as (file, _):
            # Fragments may spread over the frames in any number; pydicom pairs them.
            for data in generate_frames(file, number_of_frames=pixels.frames):
                yield Codestream(data, pixels)
    except _FAILURES as error:
        raise BrokenPixels("its compressed pixel data cannot be taken apart") from error


def decode_codestream(stream: Codestream) -> StoredArray:
    """Decode one compressed frame to shape (rows, columns).

    Raises
    ------
    BrokenPixels
        The decoder refuses it, or its size is not that of the header.
    """
    pixels = stream.pixels
    inside = size_of(stream.data)
    if inside not in (None, (pixels.rows, pixels.columns)):
        raise BrokenPixels(f"its compressed picture is not {pixels.rows}x{pixels.columns} as its header says")
    try:
        with tolerant():
            array, _ = get_decoder(pixels.transfer_syntax).as_array(
                encapsulate([stream.data]), index=0, raw=True, **_decoder_options(pixels)
            )
            return _used_bits(array.reshape(pixels.rows, pixels.columns), pixels)
    except _FAILURES as error:
        raise BrokenPixels("its compressed pixel data cannot be decoded") from error


def _decoder_options(pixels: PixelFormat) -> dict[str, Any]:
    return {
        "rows": pixels.rows,
        "columns": pixels.columns,
        "samples_per_pixel": 1,
        "number_of_frames": 1,
        "bits_allocated": pixels.bits_allocated,
        "bits_stored": pixels.bits_stored,
        "pixel_representation": int(pixels.signed),
        "photometric_interpretation": "MONOCHROME2",
        "pixel_keyword": "PixelData",
    }


def _used_bits(stored: StoredArray, pixels: PixelFormat) -> StoredArray:
    """Drop what lies outside Bits Stored: overlays in high bits, and bits below the used ones (PS3.5 8.1.1).

    Padding keeps its value: -32768 in 16 bits of which 12 are stored would become 0, and any signed value below the
    range of Bits Stored would wrap to a wrong one.
    """
    above = pixels.bits_allocated - 1 - pixels.high_bit
    below = pixels.high_bit + 1 - pixels.bits_stored
    if above == below == 0:
        return stored
    half = 1 << (pixels.bits_stored - 1)
    low, high = (-half, half - 1) if pixels.signed else (0, 2 * half - 1)
    if below == 0 and low <= stored.min() and stored.max() <= high:
        return stored
    used = np.asarray((stored << above) >> (above + below))
    plain = stored & stored.dtype.type(~pixels.overlay_bits & _bit_mask(pixels)) if pixels.overlay_bits else stored
    kept = _kept_whole(plain, pixels, low)
    return used if kept is None else np.where(kept, plain, used)


def _bit_mask(pixels: PixelFormat) -> int:
    """Return every bit of a stored value, as a number of its type."""
    return -1 if pixels.signed else (1 << pixels.bits_allocated) - 1


def _kept_whole(stored: StoredArray, pixels: PixelFormat, low: int) -> npt.NDArray[np.bool_] | None:
    """Where stored values are padding or lie below the range of Bits Stored."""
    kept: npt.NDArray[np.bool_] | None = None
    if pixels.padding is not None:
        first, last = pixels.padding
        kept = np.asarray((stored >= first) & (stored <= last))
    if pixels.signed and not pixels.overlay_bits and pixels.high_bit + 1 == pixels.bits_stored:
        lower = np.asarray(stored < low)
        kept = lower if kept is None else kept | lower
    return kept


@contextmanager
def _pixel_data(pixels: PixelFormat) -> Iterator[tuple[BinaryIO, int]]:
    """Open a file at the value of its Pixel Data element; also give the length of that value."""
    if pixels.offset is None:
        raise BrokenPixels("its pixel data are deflated")
    with pixels.path.open("rb") as file:
        file.seek(pixels.offset)
        yield file, _value_length(file, pixels)


def _value_length(file: BinaryIO, pixels: PixelFormat) -> int:
    """Read the element's tag and length, and leave the file at its value (PS3.5 7.1)."""
    order = "<" if pixels.transfer_syntax.is_little_endian else ">"
    group, element = struct.unpack(f"{order}HH", file.read(4))
    if (group, element) != (0x7FE0, 0x0010):
        raise BrokenPixels("it holds no Pixel Data (7FE0,0010)")
    if pixels.transfer_syntax.is_implicit_VR:
        return int(struct.unpack(f"{order}I", file.read(4))[0])
    vr, _, length = struct.unpack(f"{order}2sHI", file.read(8))
    if vr not in _LONG_VRS:
        raise BrokenPixels("its Pixel Data (7FE0,0010) have a wrong value representation")
    return int(length)


_LENGTH = struct.Struct("<Q")
_CHILD_MEMORY_BYTES = 3 << 30
# OpenJPEG keeps four bytes for a sample, and again while it transforms; the pickled answer comes on top.
_BYTES_PER_PIXEL = 24
_SPARE_BYTES = 128 << 20
_SERIES_S, _FRAME_S, _BYTES_PER_S = 30.0, 0.5, 2 << 20


class DecodingTime:
    """The time in which the compressed frames of one series may be decoded; several threads spend it.

    Half a minute, and for each frame half a second and what two megabytes a second take: some fifty times what sound
    frames need.
    """

    def __init__(self, frames: Iterable[PixelFormat]) -> None:
        self._left_s = _SERIES_S + sum(_FRAME_S + pixels.frame_bytes / _BYTES_PER_S for pixels in frames)
        self._lock = threading.Lock()

    def decode(self, decoders: DecoderPool, stream: Codestream) -> StoredArray:
        """Decode a frame as `DecoderPool.decode` does, and count the time it takes.

        Raises
        ------
        BrokenPixels
            It cannot be decoded, or the frames before it have used up the time.
        """
        if self._left_s <= 0:
            raise BrokenPixels("the frames before it have used up the time for decoding a series")
        began = time.monotonic()
        try:
            return decoders.decode(stream)
        finally:
            with self._lock:
                self._left_s -= time.monotonic() - began


class DecoderPool:
    """A few decoding children, started at the first compressed frame and kept until `close`.

    Parameters
    ----------
    count
        How many children and threads; 0 for as many as are allowed.
    timeout_s
        Time after which a child that decodes one frame is killed.
    """

    def __init__(self, count: int = 0, timeout_s: float = 20.0) -> None:
        self.count = count or max_threads()
        self._timeout_s = timeout_s
        self._idle: deque[_Child] = deque()

    def decode(self, stream: Codestream) -> StoredArray:
        """Decode one frame; several threads may call this at once.

        Raises
        ------
        BrokenPixels
            It cannot be decoded.
        """
        try:
            child = self._idle.pop()
        except IndexError:
            child = _Child()
        answer = child.decode(stream, self._timeout_s)
        self._idle.append(child)
        if isinstance(answer, str):
            raise BrokenPixels(answer)
        return answer

    def close(self) -> None:
        """End the children."""
        while self._idle:
            self._idle.pop().end()

    def __enter__(self) -> DecoderPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def in_order(tasks: Iterable[Callable[[], None]], threads: int) -> None:
    """Run tasks in a few threads, starting them in order and never building more than a few ahead."""
    with ThreadPoolExecutor(threads, "decode") as pool:
        running: deque[Future[None]] = deque()
        for task in tasks:
            if len(running) >= 3 * threads:
                running.popleft().result()
            running.append(pool.submit(task))
        for future in running:
            future.result()


class _Child:
    """One decoding process."""

    def __init__(self) -> None:
        environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "dicom_qa_node.score.decoder_pool"]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
        )

    def decode(self, stream: Codestream, timeout_s: float) -> StoredArray | str:
        """Return the frame, or why it cannot be decoded; a child that does not survive it raises."""
        timer = threading.Timer(timeout_s, self._process.kill)
        timer.start()
        try:
            return self._ask(stream)
        except (OSError, EOFError):
            blocked = not timer.is_alive()
            self.end()
            how = f"take the decoder more than {timeout_s:g} s" if blocked else "make the decoder crash"
            raise BrokenPixels(f"its compressed pixel data {how}") from None
        finally:
            timer.cancel()

    def _ask(self, stream: Codestream) -> StoredArray | str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        _send(self._process.stdin, stream)
        answer: StoredArray | str = _receive(self._process.stdout)
        return answer

    def end(self) -> None:
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        self._process.wait()


def _send(pipe: IO[bytes], message: Any) -> None:
    data = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
    pipe.write(_LENGTH.pack(len(data)))
    pipe.write(data)
    pipe.flush()


def _receive(pipe: IO[bytes]) -> Any:
    head = pipe.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        raise EOFError
    (length,) = _LENGTH.unpack(head)
    data = pipe.read(length)
    if len(data) < length:
        raise EOFError
    return pickle.loads(data)


def _answers(streams: Iterator[Codestream]) -> Iterator[StoredArray | str]:
    for stream in streams:
        _limit_memory(stream.pixels)
        try:
            yield decode_codestream(stream)
        except BrokenPixels as error:
            yield str(error)


def _limit_memory(pixels: PixelFormat) -> None:
    """Bound what this process may take for a frame of this size, above what it has already."""
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    wanted = held + _SPARE_BYTES + _BYTES_PER_PIXEL * pixels.rows * pixels.columns
    resource.setrlimit(resource.RLIMIT_AS, (min(wanted, _CHILD_MEMORY_BYTES), _CHILD_MEMORY_BYTES))


def _requests() -> Iterator[Codestream]:
    while True:
        try:
            yield _receive(sys.stdin.buffer)
        except EOFError:
            return


def _main() -> None:
    """Decode what the parent sends until it closes the pipe."""
    resource.setrlimit(resource.RLIMIT_AS, (_CHILD_MEMORY_BYTES, _CHILD_MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # A library that prints, from Python or from C, must not write between the answers.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    for answer in _answers(_requests()):
        _send(answers, answer)


if __name__ == "__main__":
    _main()
