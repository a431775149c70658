"""What the header tells a network that takes prompts."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from pydicom import Dataset

from dicom_qa_node.config import Grades
from dicom_qa_node.domain.results import SeriesKind
from dicom_qa_node.models.text_prompt import FACTORS, UNKNOWN, Prompt
from dicom_qa_node.score.grading import grade_series, prompt_of, region_of, type_of
from dicom_qa_node.score.slice_selection import ChosenSlice
from tests.stub_model import TinyScorer


def _header(**elements) -> Dataset:
    ds = Dataset()
    for keyword, value in elements.items():
        setattr(ds, keyword, value)
    return ds


@pytest.mark.parametrize(
    ("term", "region"),
    [
        ("CHEST", "chest"),
        ("WHOLEBODY", "whole body"),
        ("WHOLE BODY", "whole body"),
        ("EXTREMITY", "limb"),
        ("BRAIN", "head"),
        ("PHANTOM", ""),
        ("", ""),
    ],
)
def test_region_follows_the_defined_terms(term, region):
    assert region_of(_header(BodyPartExamined=term)) == region


def test_region_is_unknown_without_the_attribute():
    assert region_of(Dataset()) == ""


@pytest.mark.parametrize(
    ("elements", "kind", "expected"),
    [
        ({"ConvolutionKernel": "B70f"}, SeriesKind.CT, "sharp"),
        ({"ConvolutionKernel": "STANDARD"}, SeriesKind.CT, "soft"),
        ({}, SeriesKind.CT, ""),
        ({"CorrectedImage": ["DECY", "ATTN"]}, SeriesKind.PT, "corrected"),
        ({"CorrectedImage": ["DECY"]}, SeriesKind.PETCT, "uncorrected"),
        ({}, SeriesKind.PT, ""),
    ],
)
def test_type_is_the_kernel_or_the_attenuation_correction(elements, kind, expected):
    assert type_of(_header(**elements), kind) == expected


def test_codes_are_zero_for_what_is_unknown():
    assert UNKNOWN.codes() == (0,) * len(FACTORS)
    assert Prompt("3d", "ct", "no such region", "sharp").codes() == (2, 1, 0, 2)


def test_every_region_and_type_that_can_be_told_has_a_code():
    from dicom_qa_node.score.grading import _REGIONS

    assert set(_REGIONS) == set(FACTORS["region"])


def _volume(slices: int) -> SimpleNamespace:
    uids = tuple(f"1.2.{index}" for index in range(slices))
    return SimpleNamespace(
        header=_header(BodyPartExamined="ABDOMEN", ConvolutionKernel="B30s"),
        positions_mm=np.arange(slices),
        sop_instance_uids=uids,
        sop_class_uids=uids,
        frame_numbers=(None,) * slices,
    )


def test_a_series_is_three_dimensional_and_a_single_picture_is_not():
    assert prompt_of(_volume(3), SeriesKind.CT) == Prompt("3d", "ct", "abdomen", "soft")
    assert prompt_of(_volume(1), SeriesKind.CT).dimension == "2d"


@pytest.mark.parametrize("asks", [False, True])
def test_only_a_network_that_asks_is_told(asks):
    scorer = TinyScorer()
    scorer.card.needs_prompt = asks
    chosen = [ChosenSlice(0, 0.5, ""), ChosenSlice(1, 0.5, "")]
    pictures = np.full((2, 8, 8, 3), 128, np.uint8)
    grade_series(pictures, _volume(2), SeriesKind.CT, chosen, scorer, Grades())
    assert scorer.prompts == ([Prompt("3d", "ct", "abdomen", "soft")] * 2 if asks else None)
