"""The reporter goes on after every kind of failure and says what fails."""

from __future__ import annotations

import threading

from dicom_qa_node.domain.errors import Transient
from dicom_qa_node.ops.roles import Reporter


def test_it_goes_on_after_failures(poll):
    outcomes: list[int | Exception] = [Transient("the disk is full"), ValueError("Doe^Jane"), 2]
    details = []
    done = threading.Event()

    def report_pending() -> int:
        details.append(reporter.detail())
        if not outcomes:
            done.set()
            return 0
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    reporter = Reporter(report_pending, pause_s=0.01)
    reporter.start()
    assert done.wait(10)
    reporter.end()
    assert details[:4] == [
        "",
        "reports cannot be built: the disk is full",
        "reports cannot be built: ValueError",
        "",
    ]
    assert reporter.detail() == ""


def test_it_finishes_the_report_at_hand():
    begun, release = threading.Event(), threading.Event()
    finished = []

    def report_pending() -> int:
        begun.set()
        release.wait(10)
        finished.append(1)
        return 0

    reporter = Reporter(report_pending)
    reporter.start()
    assert begun.wait(10)
    threading.Timer(0.1, release.set).start()
    reporter.end()
    assert finished == [1]
