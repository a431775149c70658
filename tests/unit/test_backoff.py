"""The waits between attempts, the same for every part of the node."""

from __future__ import annotations

from dicom_qa_node.domain.backoff import JITTER, backoff_s


def test_waits_double_up_to_the_longest():
    middle = [backoff_s(attempt, 5.0, 900.0, lambda: 0.5) for attempt in (1, 2, 3, 9, 5000)]
    assert middle == [5, 10, 20, 720, 720]


def test_jitter_is_a_quarter_to_either_side_and_never_beyond_the_longest_wait():
    assert JITTER == 0.25
    assert backoff_s(1, 5.0, 900.0, lambda: 0.0) == 3.75
    assert backoff_s(1, 5.0, 900.0, lambda: 1.0) == 6.25
    assert backoff_s(5000, 5.0, 900.0, lambda: 1.0) == 900.0
    assert len({backoff_s(3, 5.0, 900.0) for _ in range(20)}) > 1


def test_a_first_wait_above_the_longest_is_cut():
    assert backoff_s(1, 60.0, 60.0, lambda: 1.0) == 60.0
