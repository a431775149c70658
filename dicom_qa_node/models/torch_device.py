"""One device under torch: how arrays get there and back, in which precision it computes, and what it replays (torch).

The same calls serve a GPU and the CPU. On a GPU arrays cross through pinned memory without waiting, results are waited
for when they are read, and a call whose shapes come again is captured as a CUDA graph and replayed. On the CPU every
step happens at once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

__all__ = ["Fetched", "Replayed", "TorchDevice", "rounded_up"]

Call = Callable[..., tuple[Tensor, ...]]

_SIZES = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128)
_SIGHTINGS = 2
_GRAPHS = 24
_WARM_UP = 3


def rounded_up(count: int) -> int:
    """Return the batch of a fixed size that holds ``count`` items, so that few shapes are seen."""
    return next((size for size in _SIZES if size >= count), count)


class TorchDevice:
    """``name`` is ``cpu`` or ``cuda:N``."""

    def __init__(self, name: str) -> None:
        self.device = torch.device(name)
        self.is_gpu = self.device.type == "cuda"

    def send(self, array: npt.NDArray[Any], batch: int | None = None) -> Tensor:
        """Copy an array to the device, without waiting; ``batch`` fills it up with zeros to so many items."""
        if batch is not None and batch > len(array):
            array = np.concatenate([array, np.zeros((batch - len(array), *array.shape[1:]), array.dtype)])
        tensor = torch.from_numpy(np.ascontiguousarray(array))
        return tensor.pin_memory().to(self.device, non_blocking=True) if self.is_gpu else tensor

    def fetch(self, tensors: tuple[Tensor, ...]) -> Fetched:
        """Begin to copy results back; `Fetched.arrays` waits for them."""
        if not self.is_gpu:
            return Fetched(tensors, None)
        here = tuple(torch.empty(x.shape, dtype=torch.float32, pin_memory=True) for x in tensors)
        for target, source in zip(here, tensors, strict=True):
            target.copy_(source.float(), non_blocking=True)
        done = torch.cuda.Event()  # type: ignore[no-untyped-call]
        done.record()
        return Fetched(here, done)

    def precision(self, half: bool) -> AbstractContextManager[Any]:
        """bfloat16 under autocast if ``half``; a captured graph must not hold on to cast weights."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=half, cache_enabled=False)


@dataclass(frozen=True, slots=True)
class Fetched:
    """Results on their way."""

    tensors: tuple[Tensor, ...]
    done: Any

    def arrays(self, count: int) -> list[npt.NDArray[np.float32]]:
        """Wait, and return the first ``count`` items of each."""
        if self.done is not None:
            self.done.synchronize()
        return [np.asarray(x[:count].float().numpy(), np.float32) for x in self.tensors]


@dataclass(frozen=True, slots=True)
class _Graph:
    graph: Any
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


class Replayed:
    """A call that is captured as a CUDA graph once its shapes came twice; on the CPU it is just called.

    The outputs of a replay are overwritten by the next one: fetch them first.
    """

    def __init__(self, call: Call, device: TorchDevice) -> None:
        self._call, self._device = call, device
        self._seen: Counter[tuple[torch.Size, ...]] = Counter()
        self._graphs: dict[tuple[torch.Size, ...], _Graph] = {}
        self._pool: Any = None

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Call, or replay."""
        if not self._device.is_gpu:
            return self._call(*inputs)
        shapes = tuple(x.shape for x in inputs)
        self._seen[shapes] += 1
        if shapes not in self._graphs:
            if self._seen[shapes] < _SIGHTINGS or len(self._graphs) >= _GRAPHS:
                return self._call(*inputs)
            self._graphs[shapes] = self._capture(inputs)
        graph = self._graphs[shapes]
        for target, source in zip(graph.inputs, inputs, strict=True):
            target.copy_(source, non_blocking=True)
        graph.graph.replay()
        return graph.outputs

    def _capture(self, inputs: tuple[Tensor, ...]) -> _Graph:
        """Capture on inputs of its own; libraries choose their algorithms in the calls before."""
        own = tuple(x.clone() for x in inputs)
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UP):
                self._call(*own)
        torch.cuda.current_stream().wait_stream(stream)
        self._pool = self._pool or torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            outputs = self._call(*own)
        return _Graph(graph, own, outputs)
