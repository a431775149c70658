"""Data sets for tests, of any value: also such as break their VR."""

from __future__ import annotations

from pydicom import DataElement, Dataset, config
from pydicom.datadict import dictionary_VR, tag_for_keyword

__all__ = ["coded", "header"]


def header(**attributes):
    """A data set with these attributes; values are not checked."""
    ds = Dataset()
    for keyword, value in attributes.items():
        tag = tag_for_keyword(keyword)
        assert tag is not None, keyword
        ds.add(DataElement(tag, dictionary_VR(tag), value, validation_mode=config.IGNORE))
    return ds


def coded(value, scheme, meaning=""):
    """A code sequence of one item."""
    return [header(CodeValue=value, CodingSchemeDesignator=scheme, CodeMeaning=meaning)]
