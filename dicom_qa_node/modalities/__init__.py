"""One file per kind of study: SOP classes, units, what is left out, pairing; free of torch and of any reader.

A new kind is one new file with a ``KIND``; it is found by itself.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache

from dicom_qa_node.modalities.kind import Kind
from dicom_qa_node.records import SeriesKind

__all__ = ["Kind", "all_kinds", "kind_for", "kind_of", "storage_classes"]


@cache
def all_kinds() -> tuple[Kind, ...]:
    """Return every kind of study, by file name."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name != "kind")
    return tuple(importlib.import_module(f"{__name__}.{name}").KIND for name in names)


def kind_of(kind: SeriesKind) -> Kind:
    """Return the facts of one kind."""
    return next(found for found in all_kinds() if found.kind is kind)


def kind_for(sop_class_uid: str) -> Kind | None:
    """Return the unpaired kind whose slices have this SOP class, None if no kind has."""
    found = (kind for kind in all_kinds() if sop_class_uid in kind.storage_classes and not kind.pairs_with)
    return next(found, None)


def storage_classes() -> frozenset[str]:
    """Every SOP Class UID that may hold slices of some kind."""
    return frozenset().union(*(kind.storage_classes for kind in all_kinds()))
