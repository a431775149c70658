"""The page of measurements says what the code does, and every measurement is coded and reported."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import numpy as np
import pytest
from pydicom.sr import _concepts_dict

from dicom_qa_node.domain.codes import PRIVATE_SCHEME
from dicom_qa_node.domain.results import SeriesKind
from dicom_qa_node.score import physics
from dicom_qa_node.score.physics.ct_quantities import CT_QUANTITIES
from dicom_qa_node.score.physics.geometry_checks import GEOMETRY_QUANTITIES
from dicom_qa_node.score.physics.measurements import measure
from dicom_qa_node.score.physics.pet_quantities import PET_QUANTITIES
from dicom_qa_node.score.physics.reference_tables import TABLES, with_tables
from tests.unit.synthetic_volumes import ct, volume

PAGE = Path(__file__).parents[2] / "docs" / "measurements.md"
EVERY = [*CT_QUANTITIES, *PET_QUANTITIES, *GEOMETRY_QUANTITIES]


def test_tables_of_the_page_are_current():
    page = PAGE.read_text()
    command = "python -m dicom_qa_node.score.physics.reference_tables docs/measurements.md"
    assert with_tables(page) == page, f"docs/measurements.md is not what the code says; run: {command}"
    assert set(re.findall(r"<!-- table: (\w+) -->", page)) == TABLES.keys()


def test_every_ct_measurement_is_reported_once_and_in_order():
    names = [found.name for found in measure(ct(slices=2))]
    assert sorted(names) == sorted(quantity.name for quantity in (*CT_QUANTITIES, *GEOMETRY_QUANTITIES))


@pytest.mark.parametrize("kind", [SeriesKind.PT, SeriesKind.PETCT])
def test_every_pet_measurement_is_reported_once(kind):
    names = [found.name for found in measure(volume(np.ones((3, 20, 20), np.float32), (4.0,) * 3, kind, "SUVbw"))]
    assert sorted(names) == sorted(quantity.name for quantity in (*PET_QUANTITIES, *GEOMETRY_QUANTITIES))


@pytest.mark.parametrize("quantity", EVERY, ids=lambda quantity: quantity.name)
def test_definition_is_whole(quantity):
    assert re.fullmatch(r"[a-z][a-z0-9_]*", quantity.name)
    assert quantity.meaning
    assert quantity.unit
    assert quantity.formula
    assert quantity.reference
    assert len(quantity.code.value) <= 16
    assert len(quantity.code.meaning) <= 64
    if quantity.code.scheme != PRIVATE_SCHEME:
        meanings = [
            words[quantity.code.value][0]
            for words in _concepts_dict.concepts["DCM"].values()
            if quantity.code.value in words
        ]
        assert quantity.code.meaning in meanings


def test_every_measurement_is_defined_in_a_docstring_with_its_direction():
    texts = [
        ast.get_docstring(node) or ""
        for path in Path(physics.__file__).parent.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.FunctionDef)
    ]
    for quantity in EVERY:
        said = [text.split(f"``{quantity.name}``", 1)[1] for text in texts if f"``{quantity.name}``" in text]
        assert said, quantity.name
        assert any(quantity.direction.value in text.split("\n* ")[0] for text in said), quantity.name


def test_private_codes_are_used_once():
    values = [quantity.code.value for quantity in EVERY if quantity.code.scheme == PRIVATE_SCHEME]
    assert len(set(values)) == len(values)


@pytest.mark.parametrize("made", [ct(slices=2), ct(slices=2, elements={"CTDIvol": 5.0})], ids=["no dose", "dose"])
def test_measurement_has_either_a_value_or_a_reason(made):
    for found in measure(made):
        assert (found.value is None) == bool(found.not_applicable), found.name
        assert found.value is None or np.isfinite(found.value)
