"""Runs the decoders of compressed pixels in child processes, and is what such a child runs.

They hold Python's lock and are C code fed by strangers: in children they use every core, and a frame that kills
or blocks its decoder costs that frame only. A child is asked over pipes: a pickled `Codestream` in, an array or a
reason out, each with its length before it. Memory and time of a frame, and the time of all frames of a series
(`DecodingTime`), have limits that follow from the header and are set before the decoder starts.
"""

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
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from dicom_qa_node.score.decode import BrokenPixels, Codestream, StoredArray, decode_codestream
from dicom_qa_node.score.headers import PixelFormat
from dicom_qa_node.score.threads import allowed

__all__ = ["Decoders", "DecodingTime", "in_order"]

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

    def decode(self, decoders: Decoders, stream: Codestream) -> StoredArray:
        """Decode a frame as `Decoders.decode` does, and count the time it takes.

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


class Decoders:
    """A few decoding children, started at the first compressed frame and kept until `close`.

    Parameters
    ----------
    count
        How many children and threads; 0 for as many as are allowed.
    timeout_s
        Time after which a child that decodes one frame is killed.
    """

    def __init__(self, count: int = 0, timeout_s: float = 20.0) -> None:
        self.count = count or allowed()
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

    def __enter__(self) -> Decoders:
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
        command = [sys.executable, "-m", "dicom_qa_node.score.decoders"]
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
