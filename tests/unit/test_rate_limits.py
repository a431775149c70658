"""Rates of logins and API calls: the limit, the wait, one key beside another, and a clock that is set."""

from __future__ import annotations

import time

import pytest

from dicom_qa_node.web.middleware import RateLimiter


class Clock:
    """The wall clock and the monotonic clock of this process, in seconds."""

    def __init__(self) -> None:
        self.wall, self.monotonic = 1_800_000_000.0, 100.0

    def advance(self, seconds: float) -> None:
        self.wall += seconds
        self.monotonic += seconds


@pytest.fixture
def clock(monkeypatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(time, "time", lambda: made.wall)
    monkeypatch.setattr(time, "monotonic", lambda: made.monotonic)
    return made


def test_the_limit_holds_in_any_minute(clock):
    rate = RateLimiter(3)
    assert [rate.wait_s("a") for _ in range(3)] == [0, 0, 0]
    assert rate.wait_s("a") == pytest.approx(60)
    clock.advance(40)
    assert rate.wait_s("a") == pytest.approx(20)
    clock.advance(20.5)
    assert [rate.wait_s("a") for _ in range(3)] == [0, 0, 0]
    assert rate.wait_s("a") > 0


def test_the_wait_is_the_time_until_the_next_one(clock):
    rate = RateLimiter(2)
    rate.wait_s("a")
    clock.advance(30)
    rate.wait_s("a")
    wait = rate.wait_s("a")
    assert wait == pytest.approx(30)
    clock.advance(wait + 0.1)
    assert rate.wait_s("a") == 0


def test_keys_do_not_share_a_limit(clock):
    rate = RateLimiter(1)
    assert (rate.wait_s("a"), rate.wait_s("b")) == (0, 0)
    assert min(rate.wait_s("a"), rate.wait_s("b")) > 0


@pytest.mark.parametrize("step_s", [-3600.0, 3600.0, -86400.0])
def test_a_clock_that_is_set_keeps_nobody_out(clock, step_s):
    rate = RateLimiter(1)
    rate.wait_s("a")
    clock.wall += step_s
    assert rate.wait_s("a") == 0
    assert 0 < rate.wait_s("a") <= 60
