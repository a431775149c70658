"""Slices of the images in the spool, for comparing series: read by a bounded child process, kept for a while."""

from __future__ import annotations

import gzip
import io
import json
import os
import struct
import subprocess
import sys
import threading
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image

__all__ = ["Busy", "OriginalSlice", "OriginalSlices", "SeriesFiles", "SliceStack", "Unreadable"]

_LENGTH = struct.Struct("<I")
_CHILD = "dicom_qa_node.score.slice_server"
_OPEN_S, _SLICE_S, _WAIT_S = 30.0, 15.0, 40.0
_KEPT_BYTES = 64 << 20
_KEPT_SERIES = 64
_MOST_IMAGES = 6000


class Unreadable(Exception):
    """The images cannot be shown; the text says why."""


class Busy(Exception):
    """Too many people ask for images at this moment."""


@dataclass(frozen=True, slots=True)
class SeriesFiles:
    """The files of a series; ``stamp`` changes when one of them is exchanged for a newer image."""

    paths: tuple[str, ...]
    stamp: int

    @classmethod
    def of(cls, paths: Sequence[Path]) -> SeriesFiles:
        """Return those of ``paths`` that are there."""
        found, latest = [], 0
        for path in paths:
            with suppress(FileNotFoundError, NotADirectoryError):
                latest = max(latest, path.stat().st_mtime_ns)
                found.append(str(path))
        return cls(tuple(found), latest)


@dataclass(frozen=True, slots=True)
class SliceStack:
    """One stack: ``positions`` of its slices along ``normal`` in mm, ascending; ``low`` and ``high`` as shown first."""

    name: str
    unit: str
    kind: str
    positions: tuple[float, ...]
    normal: tuple[float, float, float]
    pixel_mm: tuple[float, float]
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class OriginalSlice:
    """One slice: int16 little-endian, gzip-compressed, shape (rows, columns); value = pixel x ``scale`` in the unit."""

    rows: int
    columns: int
    scale: float
    packed: bytes

    def png(self, low: float, high: float, *, invert: bool = False) -> bytes:
        """Return the slice in a window as an 8-bit PNG."""
        pixels = np.frombuffer(gzip.decompress(self.packed), "<i2").reshape(self.rows, self.columns)
        share = np.clip((pixels * self.scale - low) / max(high - low, 1e-6), 0.0, 1.0)
        grey = np.rint(share * 255).astype(np.uint8)
        grey = 255 - grey if invert else grey
        buffer = io.BytesIO()
        Image.fromarray(grey).save(buffer, "PNG", compress_level=3)
        return buffer.getvalue()


class OriginalSlices:
    """Asks one child process, started with the first question; several threads may ask.

    Bounded: one question at a time (others wait at most 40 s), half a minute for the headers of a series and 15 s for
    a slice, after which the child is killed; 64 MiB of slices are kept.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept_lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None
        self._stacks: OrderedDict[SeriesFiles, tuple[SliceStack, ...]] = OrderedDict()
        self._slices: OrderedDict[tuple[Any, ...], OriginalSlice] = OrderedDict()
        self._bytes = 0

    def stacks(self, files: SeriesFiles) -> tuple[SliceStack, ...]:
        """Return the stacks of a series.

        Raises
        ------
        Unreadable
            It holds nothing that could be shown.
        Busy
            Others ask at this moment.
        """
        with self._kept_lock:
            if files in self._stacks:
                self._stacks.move_to_end(files)
                return self._stacks[files]
        if len(files.paths) > _MOST_IMAGES:
            raise Unreadable(f"it has {len(files.paths)} images; at most {_MOST_IMAGES} are shown here")
        head, _ = self._ask(asdict(files), _OPEN_S)
        found = tuple(_stack(item) for item in head["stacks"])
        with self._kept_lock:
            self._stacks[files] = found
            while len(self._stacks) > _KEPT_SERIES:
                self._stacks.popitem(last=False)
        return found

    def slice(self, files: SeriesFiles, stack: int, index: int) -> OriginalSlice:
        """Return one slice.

        Raises
        ------
        Unreadable
            There is no such slice, or it cannot be decoded.
        Busy
            Others ask at this moment.
        """
        key = (files, stack, index)
        with self._kept_lock:
            if key in self._slices:
                self._slices.move_to_end(key)
                return self._slices[key]
        head, pixels = self._ask(asdict(files) | {"stack": stack, "index": index}, _SLICE_S)
        made = OriginalSlice(head["rows"], head["columns"], head["scale"], gzip.compress(pixels, 1))
        with self._kept_lock:
            if key not in self._slices:
                self._slices[key] = made
                self._bytes += len(made.packed)
            while self._bytes > _KEPT_BYTES and len(self._slices) > 1:
                self._bytes -= len(self._slices.popitem(last=False)[1].packed)
        return made

    def close(self) -> None:
        """End the child."""
        with self._lock:
            self._end()

    def _ask(self, question: dict[str, Any], limit_s: float) -> tuple[dict[str, Any], bytes]:
        if not self._lock.acquire(timeout=_WAIT_S):
            raise Busy("Others compare images at this moment. Try again soon.")
        try:
            head, pixels = self._answered(question, limit_s)
        finally:
            self._lock.release()
        if "problem" in head:
            raise Unreadable(str(head["problem"]))
        return head, pixels

    def _answered(self, question: dict[str, Any], limit_s: float) -> tuple[dict[str, Any], bytes]:
        """Ask; a child that had ended in the meantime is started again once."""
        for fresh in (False, True):
            child = self._running()
            timer = threading.Timer(limit_s, child.kill)
            timer.start()
            try:
                return _exchange(child, question)
            except (OSError, EOFError, ValueError):
                late = not timer.is_alive()
                self._end()
                if late:
                    raise Unreadable(f"its images take more than {limit_s:g} s to read") from None
                if fresh:
                    raise Unreadable("its images cannot be read: the reading process ended") from None
            finally:
                timer.cancel()
        raise AssertionError("unreachable")

    def _running(self) -> subprocess.Popen[bytes]:
        if self._child is None or self._child.poll() is not None:
            self._end()
            limits = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
            self._child = subprocess.Popen(
                [sys.executable, "-m", _CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL, env=os.environ | limits,
            )  # fmt: skip
        return self._child

    def _end(self) -> None:
        child, self._child = self._child, None
        if child is None:
            return
        child.kill()
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()
        child.wait()


def _exchange(child: subprocess.Popen[bytes], question: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
    assert child.stdin is not None
    assert child.stdout is not None
    text = json.dumps(question).encode()
    child.stdin.write(_LENGTH.pack(len(text)) + text)
    child.stdin.flush()
    (length,) = _LENGTH.unpack(_exactly(child.stdout, _LENGTH.size))
    head: dict[str, Any] = json.loads(_exactly(child.stdout, length))
    return head, _exactly(child.stdout, int(head.get("bytes", 0)))


def _exactly(pipe: IO[bytes], length: int) -> bytes:
    data = pipe.read(length)
    if len(data) < length:
        raise EOFError
    return data


def _stack(item: dict[str, Any]) -> SliceStack:
    x, y, z = item["normal"]
    row, column = item["pixel_mm"]
    return SliceStack(
        item["name"], item["unit"], item["kind"], tuple(item["positions"]), (x, y, z), (row, column), item["low"],
        item["high"],
    )  # fmt: skip
