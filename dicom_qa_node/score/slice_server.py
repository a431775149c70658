"""A child process that reads single slices of a series for a page: ``python -m dicom_qa_node.score.slice_server``.

The web role starts it and asks through pipes, so that headers and pixels of unknown origin are parsed outside the
process that holds sessions, within limits of memory and time. A message is four bytes of length, JSON, and as many
bytes of pixels as its ``bytes`` says. The child ends after two minutes without a question, or with the pipe.
"""

from __future__ import annotations

import json
import os
import resource
import select
import struct
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from dicom_qa_node.domain.errors import Permanent
from dicom_qa_node.domain.results import SeriesKind
from dicom_qa_node.score.decoder_pool import BrokenPixels, DecoderPool
from dicom_qa_node.score.display_images import SUV_RANGE
from dicom_qa_node.score.slice_geometry import normal_of
from dicom_qa_node.score.stack_pixels import SliceScale, read_slice, scale_of
from dicom_qa_node.score.stacks import Stack
from dicom_qa_node.score.volume_builder import scan_headers

__all__ = ["SliceServer"]

_LENGTH = struct.Struct("<I")
_MEMORY_BYTES = 2 << 30
_IDLE_S = 120.0
_KEPT_SERIES = 6
_MOST_SIDE = 1024
"""Longer sides are shown by every n-th pixel: that keeps the noise as it is."""

Pixels = npt.NDArray[np.int16]


@dataclass(frozen=True, slots=True)
class _Series:
    """The stacks of a series and how the values of each are scaled."""

    stacks: tuple[Stack, ...]
    scales: tuple[SliceScale, ...]


class SliceServer:
    """Answers questions about series; keeps the headers of the last few."""

    def __init__(self, decoders: DecoderPool) -> None:
        self._decoders = decoders
        self._series: OrderedDict[tuple[int, tuple[str, ...]], _Series] = OrderedDict()

    def answer(self, question: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
        """Return the answer to one question: the stacks of ``paths``, or with ``index`` one slice of a stack.

        A series that cannot be read gives ``{"problem": text}``.
        """
        try:
            series = self._opened(question["paths"], question["stamp"])
            if "index" not in question:
                return {
                    "stacks": [self._described(*pair) for pair in zip(series.stacks, series.scales, strict=True)]
                }, b""
            return self._slice(series, int(question["stack"]), int(question["index"]))
        except (Permanent, BrokenPixels) as error:
            return {"problem": str(error)}, b""
        except MemoryError:
            return {"problem": "its images need too much memory"}, b""

    def _opened(self, paths: Sequence[str], stamp: int) -> _Series:
        key = (stamp, tuple(paths))
        if key in self._series:
            self._series.move_to_end(key)
            return self._series[key]
        stacks = scan_headers([Path(path) for path in paths]).stacks
        series = _Series(stacks, tuple(scale_of(stack.slices) for stack in stacks))
        self._series[key] = series
        while len(self._series) > _KEPT_SERIES:
            self._series.popitem(last=False)
        return series

    def _described(self, stack: Stack, scale: SliceScale) -> dict[str, Any]:
        first = stack.slices[0]
        low, high = self._window(stack, scale)
        return {
            "name": stack.name,
            "unit": scale.unit,
            "positions": [round(float(place), 2) for place in stack.positions_mm],
            "normal": [round(float(part), 4) for part in normal_of(first.orientation)],
            "pixel_mm": list(first.spacing_mm),
            "kind": first.kind.kind.value,
            "low": low,
            "high": high,
        }

    def _window(self, stack: Stack, scale: SliceScale) -> tuple[float, float]:
        """Return the window in which a stack is shown first: soft tissue, SUV 0 to 6, or all but the highest values."""
        if stack.slices[0].kind.kind is not SeriesKind.PT:
            return -160.0, 240.0
        if scale.unit == "SUVbw":
            return SUV_RANGE
        middle = read_slice(stack.slices, len(stack.slices) // 2, self._decoders, scale)
        return 0.0, max(float(np.percentile(middle, 99.5)), 1e-6)

    def _slice(self, series: _Series, stack: int, index: int) -> tuple[dict[str, Any], bytes]:
        if not (0 <= stack < len(series.stacks) and 0 <= index < len(series.stacks[stack].slices)):
            return {"problem": "the series has no such slice"}, b""
        chosen = series.stacks[stack]
        values = read_slice(chosen.slices, index, self._decoders, series.scales[stack])
        step = -(-max(values.shape) // _MOST_SIDE)
        pixels, factor = _as_int16(values[::step, ::step], chosen.slices[index].kind.kind)
        head = {"rows": pixels.shape[0], "columns": pixels.shape[1], "scale": factor, "bytes": pixels.nbytes}
        return head, pixels.astype("<i2").tobytes()


def _as_int16(values: npt.NDArray[np.float32], kind: SeriesKind) -> tuple[Pixels, float]:
    """Return values as 16-bit numbers and their factor: HU as they are, activity and SUV by their range."""
    factor = 1.0
    if kind is SeriesKind.PT:
        factor = max(float(np.abs(values).max()), 1e-6) / 32767
    return np.clip(np.rint(values / factor), -32768, 32767).astype(np.int16), factor


def _write(pipe: IO[bytes], head: dict[str, Any], pixels: bytes) -> None:
    text = json.dumps(head).encode()
    pipe.write(_LENGTH.pack(len(text)) + text + pixels)
    pipe.flush()


def _main() -> None:
    """Answer until the pipe is closed, or nobody has asked for a while."""
    # The soft limit alone: decoding children set limits of their own, which a hard one would refuse.
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, resource.getrlimit(resource.RLIMIT_AS)[1]))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # A library that prints, from Python or from C, must not write between the answers.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    # Unbuffered, or select would not see what a buffer holds already.
    questions = os.fdopen(os.dup(0), "rb", buffering=0)
    with DecoderPool(1, timeout_s=10.0) as decoders:
        server = SliceServer(decoders)
        while select.select([questions], [], [], _IDLE_S)[0]:
            question = _read_exactly(questions)
            if question is None:
                return
            _write(answers, *server.answer(question))


def _read_exactly(pipe: Any) -> dict[str, Any] | None:
    """Read one message of an unbuffered pipe, None at its end."""
    head = _take(pipe, _LENGTH.size)
    if head is None:
        return None
    text = _take(pipe, _LENGTH.unpack(head)[0])
    return None if text is None else json.loads(text)


def _take(pipe: Any, length: int) -> bytes | None:
    held = b""
    while len(held) < length:
        part = pipe.read(length - len(held))
        if not part:
            return None
        held += part
    return held


if __name__ == "__main__":
    _main()
