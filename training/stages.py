"""What a stage of the training does beside the loop: start backbones from timm, leave parts of a network at rest.

The two-stage methods are runs of the same loop: TFKT regresses the scores of photographs before those of CT, MedIQA
names physical parameters before it scores; the second run starts from the first (``init``).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
from torch import nn

__all__ = ["FROM_TIMM", "freeze", "start_from_timm"]

FROM_TIMM = Path("timm")
"""The value of ``init`` that asks for timm's weights."""

_LEAST_SHARE = 0.5


def start_from_timm(network: nn.Module) -> dict[str, float]:
    """Copy timm's weights into the backbones of a network of the paper's size; downloads them.

    Returns
    -------
    dict[str, float]
        The share of each backbone's values that was found; those of another shape, such as a stem of one channel,
        keep their random start.

    Raises
    ------
    ValueError
        The network has no backbone that timm has weights for.
    """
    names: Mapping[str, str] = getattr(network, "timm_backbones", {})
    if not names:
        raise ValueError("timm has no weights for this network; remove `init: timm`")
    return {part: _copy(network.get_submodule(part), name) for part, name in names.items()}


def _copy(own: nn.Module, name: str) -> float:
    source: Any = timm.create_model(name, pretrained=True)
    stored, wanted = source.state_dict(), own.state_dict()
    fitting = {key: value for key, value in stored.items() if key in wanted and wanted[key].shape == value.shape}
    own.load_state_dict(fitting, strict=False)
    share: float = sum(value.numel() for value in fitting.values()) / sum(value.numel() for value in wanted.values())
    if share < _LEAST_SHARE:
        raise ValueError(f"timm's {name} fits {share:.0%} of the backbone only")
    return share


def freeze(network: nn.Module, parts: tuple[str, ...]) -> None:
    """Keep parts of a network as they are: no gradient, and no statistics of a batch.

    Raises
    ------
    ValueError
        The network has no such part.
    """
    for part in parts:
        try:
            module = network.get_submodule(part)
        except AttributeError as error:
            raise ValueError(f"the network has no part {part!r} to freeze: {error}") from error
        module.requires_grad_(False).eval()
