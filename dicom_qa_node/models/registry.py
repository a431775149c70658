"""Find every network by its card, free of torch.

A network is a folder below ``models`` whose package holds ``CARDS``.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING

import dicom_qa_node.models as models
from dicom_qa_node.domain.errors import Misconfigured
from dicom_qa_node.models.card import ModelCard

if TYPE_CHECKING:
    from torch import nn

__all__ = ["DEFAULT_CT_MODEL", "DEFAULT_MODEL", "NetworkOption", "all_cards", "build_network", "card_of"]

NetworkOption = bool | int | float | str

DEFAULT_MODEL = "ms_iqa_small"
DEFAULT_CT_MODEL = "tfkt_ct"


@cache
def all_cards() -> MappingProxyType[str, ModelCard]:
    """Return every card by its name, shipped or not."""
    cards: dict[str, ModelCard] = {}
    for module in pkgutil.iter_modules(models.__path__, f"{models.__name__}."):
        if module.ispkg:
            for card in importlib.import_module(module.name).CARDS:
                if card.name in cards:
                    raise Misconfigured(f"two model cards are called {card.name!r}")
                cards[card.name] = card
    return MappingProxyType(cards)


def card_of(name: str) -> ModelCard:
    """Return the card of that name; an unknown name is `Misconfigured` and lists the known ones."""
    cards = all_cards()
    if name not in cards:
        raise Misconfigured(f"there is no model {name!r}; known are {', '.join(sorted(cards))}")
    return cards[name]


def build_network(card: ModelCard, options: Mapping[str, NetworkOption] | None = None) -> nn.Module:
    """Build the untrained network of a card; imports torch.

    Parameters
    ----------
    options
        Fields of the network's configuration that an ablation changes; the card's weights are wrong then.

    Raises
    ------
    Misconfigured
        The network has no such option.
    """
    module, function = card.network.split(":")
    build: Callable[..., nn.Module] = getattr(importlib.import_module(module), function)
    try:
        return build(**{**card.network_args, **(options or {})})
    except (TypeError, ValueError) as error:
        if not options:
            raise
        raise Misconfigured(
            f"the network of model {card.name} cannot be built with {dict(options)}: {error}"
        ) from error
