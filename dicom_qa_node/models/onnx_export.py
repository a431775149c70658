"""Writes the ONNX file of a network with its weights, for the CPU engine (torch, onnxscript).

The file is what torch runs, with three changes: batch norms of the frozen encoder are folded into its convolutions,
the deformable convolution of MD-IQA is written as bilinear samples, which more versions of ONNX Runtime know, and
weights that half floats hold exactly are stored as such. Nothing of the machine that wrote it is in it.
"""

from __future__ import annotations

import copy
import hashlib
import importlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from dicom_qa_node.domain.errors import Misconfigured, Permanent
from dicom_qa_node.models import weights
from dicom_qa_node.models.card import ModelCard, OnnxFile, measured_to_json
from dicom_qa_node.models.ct_network import CtModel
from dicom_qa_node.models.efficientnet_lite0 import ENCODER
from dicom_qa_node.models.efficientnet_lite0.net import PooledEncoder
from dicom_qa_node.models.engines import OUTPUTS
from dicom_qa_node.models.image_features import GRID_CELLS, GRID_CHANNELS, STATISTICS
from dicom_qa_node.models.onnx_engine import OnnxNetwork
from dicom_qa_node.models.registry import build_network
from dicom_qa_node.models.text_prompt import FACTORS
from dicom_qa_node.models.torch_engine import DisplayModule

__all__ = ["OPSET", "onnx_bytes", "ship"]

OPSET = 18
_APART, _APART_ELSE = {"score": 3e-3, "ratings": 3e-3, "evidence": 0.2}, 1e-2
"""How far ONNX Runtime may lie from torch on random inputs, as a share of the largest value above 1. Evidence of a
brightness that hardly occurs is a small difference of large sums, and has little weight."""

_SMALLEST_HALF = 256
"""Tensors of fewer values stay in single precision: they cost nothing."""


@dataclass(frozen=True)
class _Graph:
    """What is exported: example arguments, which of their axes may have another length, and the names."""

    module: nn.Module
    arguments: tuple[Tensor, ...]
    axes: tuple[dict[int, Any], ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def ship(card: ModelCard, weights_dir: Path | None = None) -> OnnxFile:
    """Write ``MODEL.onnx`` of a card's verified weights beside them, and name it in the card's JSON.

    Raises
    ------
    Misconfigured
        The weights are missing or not those of the card; onnxscript, of the extra ``training``, is not installed.
    Permanent
        ONNX Runtime does not compute what torch computes, or a file cannot be written: the card stays as it was.
    """
    network = build_network(card)
    weights.load(network, card, weights_dir)
    assert card.measured is not None
    content = onnx_bytes(card, network)
    path = (weights_dir or card.folder) / f"{card.name}.onnx"
    described = OnnxFile(path.name, hashlib.sha256(content).hexdigest(), OPSET)
    try:
        _write(path, content, lambda part: _compare(card, network, part))
        text = measured_to_json(replace(card.measured, onnx=described))
        _write(card.folder / f"{card.name}.json", text.encode())
    except OSError as error:
        raise Permanent(f"{error.filename} cannot be written: {error.strerror}") from error
    return described


def _write(path: Path, content: bytes, check: Callable[[Path], None] = lambda _part: None) -> None:
    """Replace a file by one that passed ``check``; what does not pass leaves the old one in its place."""
    part = path.with_suffix(".part")
    try:
        part.write_bytes(content)
        part.chmod(0o644)
        check(part)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _compare(card: ModelCard, network: nn.Module, path: Path) -> None:
    """Run both on three random inputs, another number than that of the export."""
    graph = _graph_of(card, copy.deepcopy(network).eval())
    random = np.random.default_rng(0)
    given = [_random(argument, random) for argument in graph.arguments]
    with torch.inference_mode():
        said = graph.module(*(torch.from_numpy(value) for value in given))
    found = OnnxNetwork(path).run(dict(zip(graph.inputs, given, strict=True)))
    expected = [said] if isinstance(said, Tensor) else said
    for name, ours, theirs in zip(graph.outputs, found, expected, strict=True):
        apart = float(np.abs(ours - theirs.numpy()).max())
        if not apart <= _APART.get(name, _APART_ELSE) * max(1.0, float(theirs.abs().max())):
            raise Permanent(f"ONNX Runtime and torch differ by {apart:.2g} in {name} of {card.name}; nothing was kept")


def _random(argument: Tensor, random: np.random.Generator) -> npt.NDArray[Any]:
    """Return an input like an example argument, three pictures long."""
    shape = (3, *argument.shape[1:])
    if argument.dtype == torch.uint8:
        return random.integers(0, 256, shape, np.uint8)
    if argument.dtype == torch.long:
        return random.integers(0, 2, shape, np.int64)
    return random.random(shape, np.float32)


def onnx_bytes(card: ModelCard, network: nn.Module) -> bytes:
    """Return a network with its weights as ONNX: the same bytes for the same weights and versions."""
    try:
        importlib.import_module("onnxscript")
    except ImportError as error:
        raise Misconfigured("the export needs onnxscript: pip install 'dicom-qa-node[training]'") from error
    graph = _graph_of(card, copy.deepcopy(network).eval().requires_grad_(False))
    with warnings.catch_warnings(), torch.no_grad():
        # Advice to whoever wrote the exporter; what matters is compared with torch after every export.
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            graph.module,
            graph.arguments,
            dynamic_shapes=graph.axes,
            input_names=graph.inputs,
            output_names=graph.outputs,
            opset_version=OPSET,
            dynamo=True,
            optimize=True,
            external_data=False,
            verbose=False,
        )
    assert program is not None
    return _stored(program.model_proto)


def _graph_of(card: ModelCard, network: nn.Module) -> _Graph:
    count = torch.export.Dim("n")
    if card.name == ENCODER.name:
        rows, columns = torch.export.Dim("rows", min=4, max=256), torch.export.Dim("columns", min=4, max=256)
        _fold(network)
        return _Graph(
            PooledEncoder(network).eval(),
            (torch.zeros(2, 160, 192, 3, dtype=torch.uint8), torch.ones(2, 20, 24)),
            ({0: count, 1: 32 * rows, 2: 32 * columns}, {0: count, 1: 4 * rows, 2: 4 * columns}),
            ("pictures", "body"),
            ("pooled", "grid", "evidence"),
        )
    codes = torch.ones(2, len(FACTORS), dtype=torch.long)
    if isinstance(network, CtModel):
        _sample(network)
        grid = torch.zeros(2, GRID_CHANNELS, GRID_CELLS, GRID_CELLS)
        arguments = (grid, torch.zeros(2, STATISTICS), codes)
        return _Graph(network, arguments, ({0: count},) * 3, ("grid", "statistics", "codes"), ("ratings",))
    crops = torch.zeros(2, card.input.side, card.input.side, 3, dtype=torch.uint8)
    given = (crops, codes) if card.needs_prompt else (crops,)
    names = ("pictures", "codes")[: len(given)]
    return _Graph(DisplayModule(network).eval(), given, ({0: count},) * len(given), names, OUTPUTS)


def _fold(module: nn.Module) -> None:
    """Fold batch norms into the convolutions before them; what activates stays behind."""
    convolution: tuple[nn.Module, str] | None = None
    for name, child in list(module.named_children()):
        if isinstance(child, nn.Conv2d):
            convolution = module, name
        elif isinstance(child, nn.BatchNorm2d) and convolution is not None:
            setattr(convolution[0], convolution[1], fuse_conv_bn_eval(getattr(*convolution), child))
            setattr(module, name, getattr(child, "act", None) or nn.Identity())
            convolution = None
        else:
            _fold(child)


class _SampledDeformConv(nn.Module):
    """A deformable convolution by bilinear samples: the same values, of operators that every runtime has."""

    def __init__(self, conv: Any) -> None:
        super().__init__()
        self.weight, self.bias = conv.weight, conv.bias
        self.kernel, self.padding = conv.kernel_size[0], conv.padding[0]

    def forward(self, x: Tensor, offsets: Tensor) -> Tensor:
        """Convolve ``x`` (n, channels, rows, columns) at places shifted by ``offsets`` (n, 2 x taps, rows, columns)."""
        count, channels, rows, columns = x.shape
        shift = offsets.reshape(count, self.kernel**2, 2, rows, columns)
        tap = torch.arange(self.kernel) - self.padding
        down = tap.repeat_interleave(self.kernel)[:, None, None] + torch.arange(rows)[:, None]
        across = tap.repeat(self.kernel)[:, None, None] + torch.arange(columns)
        y, z = down + shift[:, :, 0], across + shift[:, :, 1]
        places = torch.stack([2 * z / (columns - 1) - 1, 2 * y / (rows - 1) - 1], -1)
        seen = functional.grid_sample(x, places.reshape(count, -1, columns, 2), "bilinear", "zeros", align_corners=True)
        taps = seen.reshape(count, channels * self.kernel**2, rows * columns)
        mixed = self.weight.reshape(self.weight.shape[0], -1) @ taps
        result: Tensor = mixed.reshape(count, -1, rows, columns) + self.bias[:, None, None]
        return result


def _sample(module: nn.Module) -> None:
    for name, child in list(module.named_children()):
        if type(child).__name__ == "DeformConv2d":
            setattr(module, name, _SampledDeformConv(child))
        else:
            _sample(child)


def _stored(model: Any) -> bytes:
    """Strip what names the machine, store weights as half floats where that is exact, and serialise."""
    from onnx import helper, numpy_helper

    graph = model.graph
    for item in (model, graph, *graph.node, *graph.initializer, *graph.input, *graph.output, *graph.value_info):
        del item.metadata_props[:]
        item.doc_string = ""
    model.producer_version = ""
    casts = []
    for tensor in graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype != np.float32 or values.size < _SMALLEST_HALF:
            continue
        with np.errstate(over="ignore"):
            half = values.astype(np.float16)
        if np.array_equal(half.astype(np.float32), values):
            stored = f"{tensor.name}.half"
            casts.append(
                helper.make_node("Cast", [stored], [tensor.name], to=helper.np_dtype_to_tensor_dtype(values.dtype))
            )
            tensor.CopyFrom(numpy_helper.from_array(half, stored))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    content: bytes = model.SerializeToString(deterministic=True)
    return content
