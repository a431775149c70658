"""The demo passes only if every report arrived and the CT scores are in the order of their qualities."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from types import SimpleNamespace

import pytest

from dicom_qa_node.cli.demo_run import CT_BEST_FIRST, DemoSeries, _verdict, demo_node
from dicom_qa_node.domain.errors import Permanent
from dicom_qa_node.domain.results import LogEntry, ModelRef, SeriesKind, SeriesResult
from dicom_qa_node.domain.series import SeriesHeader
from dicom_qa_node.domain.states import SeriesState

NOW = dt.datetime(2026, 1, 5, tzinfo=dt.UTC)


def entry(uid: str, score: float | None) -> LogEntry:
    model = ModelRef("m", "1", "f" * 64)
    result = SeriesResult(uid, "CT", SeriesKind.CT, score, None, None, (), (), (), model, 1)
    return LogEntry(SeriesHeader(uid, "1.2", "CT"), 1, SeriesState.DELIVERED, NOW, result, f"2.25.{uid}")


@pytest.fixture
def judge(tmp_path):
    """Judge three CT scores; ``missing`` reports never came, ``states`` are the states of the series."""

    def call(scores, missing=(), states=(SeriesState.DELIVERED,) * 3) -> bool:
        studies = [
            DemoSeries(label, quality, f"1.{index}", "CT", ())
            for index, (quality, label) in enumerate(CT_BEST_FIRST.items())
        ]
        uids = [study.series_instance_uid for study in studies]
        entries = {uid: entry(uid, score) for uid, score in zip(uids, scores, strict=True)}
        for index, uid in enumerate(uids):
            if index not in missing:
                (tmp_path / f"2.25.{uid}.dcm").touch()
        rows = {
            uid: SimpleNamespace(state=state, parked_reason="refused") for uid, state in zip(uids, states, strict=True)
        }
        node = SimpleNamespace(archive=Path(tmp_path))
        return _verdict(SimpleNamespace(series=rows.get), node, studies, entries)

    return call


def test_delivered_and_in_order_passes(judge):
    assert judge([3.0, 2.0, 1.0])


@pytest.mark.parametrize("scores", [[2.0, 3.0, 1.0], [3.0, 1.0, 2.0], [2.0, 2.0, 1.0], [3.0, None, 1.0]])
def test_scores_out_of_order_fail(judge, capsys, scores):
    assert not judge(scores)
    assert "order of their qualities" in capsys.readouterr().err


def test_a_report_that_never_came_fails(judge, capsys):
    assert not judge([3.0, 2.0, 1.0], missing=[1])
    assert "not delivered: CT, a tenth of the dose" in capsys.readouterr().err


def test_a_parked_series_fails_with_its_reason(judge, capsys):
    assert not judge([3.0, 2.0, 1.0], states=(SeriesState.DELIVERED, SeriesState.PARKED, SeriesState.DELIVERED))
    assert "refused" in capsys.readouterr().err


def test_a_node_that_cannot_start_says_why(tmp_path, poll):
    (tmp_path / "spool").write_text("a file where the spool folder should be")
    with demo_node(tmp_path) as node:
        poll(lambda: node.process.poll() is not None, 30, "the node gives up")
        with pytest.raises(Permanent, match="ended with"):
            node.require_alive()
