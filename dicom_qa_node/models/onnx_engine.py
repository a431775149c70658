"""Networks on ONNX Runtime, the engine of the CPU.

A file is opened once per process and shared by all who ask for it. Each run uses the one thread that calls it
(``score.threads`` is kept by the callers, who share out pictures), so that the same input gives the same bytes, and no
threads wait for each other on a busy machine. What a run took is given back after it: pictures have many sizes, and an
arena would keep the sum of the largest.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as states

from dicom_qa_node.domain.errors import Misconfigured
from dicom_qa_node.models.engines import OUTPUTS, Codes, FloatArray, in_threads
from dicom_qa_node.models.image_features import Seen

__all__ = ["OnnxCtHeads", "OnnxDisplayNetwork", "OnnxNetwork", "OnnxPictureEncoder"]

_CROPS = 4
"""Crops in one run: more take more memory and no less time."""

_ERROR = 3

_REFUSED = (states.Fail, states.InvalidGraph, states.InvalidProtobuf, states.NotImplemented, states.RuntimeException)
"""What ONNX Runtime raises about a file: one class for each of its codes, without one that all share."""

_opened: dict[tuple[Path, int], onnxruntime.InferenceSession] = {}
_opening = threading.Lock()


class OnnxNetwork:
    """One ONNX file, opened; ``inputs`` and ``outputs`` are its names."""

    def __init__(self, path: Path) -> None:
        self._session = _session(path)
        self.inputs = tuple(item.name for item in self._session.get_inputs())
        self.outputs = tuple(item.name for item in self._session.get_outputs())
        self._options = onnxruntime.RunOptions()
        self._options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")

    def run(self, values: Mapping[str, npt.NDArray[Any]]) -> list[FloatArray]:
        """Return the outputs in the file's order; inputs that the network does not have are left out."""
        given = {name: np.ascontiguousarray(values[name]) for name in self.inputs}
        found: list[FloatArray] = self._session.run(None, given, self._options)
        return found


class OnnxDisplayNetwork:
    """See `engines.DisplayNetwork`; ``threads`` share the crops."""

    device = "cpu"

    def __init__(self, path: Path, threads: int) -> None:
        self._network = OnnxNetwork(path)
        self._threads = threads
        if self._network.outputs != OUTPUTS:
            raise Misconfigured(f"{path} is not a display network: its outputs are {', '.join(self._network.outputs)}")

    def run(self, crops: npt.NDArray[np.uint8], codes: Codes | None) -> list[FloatArray]:
        """Run all crops, a few at a time."""
        spans = [slice(start, start + _CROPS) for start in range(0, len(crops), _CROPS)]

        def forward(span: slice) -> list[FloatArray]:
            told = {} if codes is None else {"codes": codes[span]}
            return self._network.run({"pictures": crops[span], **told})

        return _joined(in_threads(forward, spans, self._threads))


class OnnxPictureEncoder:
    """See `image_features.PictureEncoder`."""

    batch = 1

    def __init__(self, path: Path) -> None:
        self._network = OnnxNetwork(path)

    def see(self, pictures: npt.NDArray[np.uint8], body: FloatArray) -> Seen:
        """Describe pictures of one size."""
        return Seen(*self._network.run({"pictures": pictures, "body": body}))


class OnnxCtHeads:
    """See `engines.CtHeads`."""

    def __init__(self, path: Path) -> None:
        self._network = OnnxNetwork(path)

    def rate(self, grid: FloatArray, statistics: FloatArray, codes: Codes) -> FloatArray:
        """Rate pictures."""
        return self._network.run({"grid": grid, "statistics": statistics, "codes": codes})[0]


def _joined(parts: Sequence[Sequence[FloatArray]]) -> list[FloatArray]:
    return [np.concatenate([part[index] for part in parts]) for index in range(len(parts[0]))]


def _session(path: Path) -> onnxruntime.InferenceSession:
    """Open a file, or return what was opened of it before; a file that was replaced is opened anew."""
    key = (path, path.stat().st_mtime_ns)
    with _opening:
        if key not in _opened:
            _opened[key] = _open(path)
        return _opened[key]


def _open(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.use_deterministic_compute = True
    options.log_severity_level = _ERROR
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except _REFUSED as error:
        raise Misconfigured(f"{path} cannot be opened by ONNX Runtime {onnxruntime.__version__}: {error}") from error
