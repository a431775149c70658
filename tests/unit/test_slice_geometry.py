"""One rule by which slices are missing: zones, step and shoot, losses."""

from __future__ import annotations

import numpy as np
import pytest

from dicom_qa_node.score.slice_geometry import off_grid, spacing_of


def places(gaps):
    return np.concatenate([[0.0], np.cumsum(gaps)])


@pytest.mark.parametrize(
    "gaps",
    [
        [2.5] * 11 + [5.0] + [7.5] * 11,
        [2.5] * 11 + [7.5] * 11,
        [5.0] * 10 + [3.75] + [2.5] * 12 + [5.0] * 8,
        [1.25] * 20 + [3.1] + [5.0] * 9,
        [10.0] * 12,
        [1.0, 9.0] * 8,
        [1.0, 9.0] * 8 + [1.0],
        [5.0, 5.0, 5.0, 5.6] * 5,
        [5.0, 5.0, 5.0, 4.4] * 5 + [5.0] * 3,
    ],
    ids=str,
)
def test_planned_distances_are_not_gaps(gaps):
    found = spacing_of(places(gaps))
    assert (found.missing, found.uneven) == (0, False)
    assert off_grid(places(gaps)) == []


@pytest.mark.parametrize(
    ("gaps", "missing"),
    [
        ([3.0] * 5 + [9.0] + [3.0] * 5, 2),
        ([3.0] * 5 + [6.0] + [3.0] * 7 + [6.0] + [3.0] * 3, 2),
        (([3.0] * 3 + [6.0]) * 3 + [3.0] * 3, 3),
        ([2.5] * 11 + [5.0] + [7.5] * 5 + [15.0] + [7.5] * 6, 1),
        ([2.5] * 5 + [7.5] + [2.5] * 5 + [5.0] + [7.5] * 11, 2),
    ],
    ids=str,
)
def test_single_gaps_are_counted_by_their_zone(gaps, missing):
    found = spacing_of(places(gaps))
    assert (found.missing, found.uneven) == (missing, False)


def test_what_fits_no_zone_is_uneven():
    assert spacing_of(places([3.0, 3.0, 4.0, 3.0, 3.3, 3.0])).uneven


def test_an_extra_slice_between_the_others_is_found_and_a_short_zone_is_none():
    assert off_grid(np.sort(np.append(places([2.5] * 20), 11.1))) == [5]
    assert off_grid(places([2.5] * 36 + [4.0] * 3)) == []
