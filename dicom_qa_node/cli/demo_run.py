"""What ``demo`` does: a node, an archive and generated studies, from C-STORE to the delivered report."""

from __future__ import annotations

import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from itertools import pairwise
from math import nan
from pathlib import Path

import typer

from dicom_qa_node.cli.demo_node import DemoNode, demo_node
from dicom_qa_node.cli.demo_studies import CT_BEST_FIRST, DemoSeries, count, make_studies
from dicom_qa_node.cli.exit_codes import ExitCode
from dicom_qa_node.cli.network import send_with_progress
from dicom_qa_node.cli.present import complain, progress_bar, say, score_text, show_rows
from dicom_qa_node.cli.series_page import sheet_of
from dicom_qa_node.errors import Permanent, Transient
from dicom_qa_node.ops.first_start import setup_link_file
from dicom_qa_node.records import LogEntry, SeriesState, utc_now
from dicom_qa_node.store import Database, QualityLog, Registry

__all__ = ["run_demo"]

_ENDED = (SeriesState.DELIVERED, SeriesState.PARKED)
_WAY = (
    SeriesState.RECEIVING,
    SeriesState.COMPLETE,
    SeriesState.SCORING,
    SeriesState.SCORED,
    SeriesState.REPORTED,
    SeriesState.DELIVERED,
)
_LOOK_S = 0.3

Entries = Mapping[str, LogEntry | None]


def run_demo(folder: Path, patience_s: float, *, once: bool) -> ExitCode:
    """Run the demo in ``folder`` and return its exit code; with ``once`` it ends when the results are printed."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with demo_node(folder) as node:
        try:
            passed = _show(node, patience_s)
        except KeyboardInterrupt:
            return ExitCode.INTERRUPTED
        if not once:
            with suppress(KeyboardInterrupt):
                _stay(node)
            say("stopping")
    return ExitCode.OK if passed else ExitCode.FAILED


def _show(node: DemoNode, patience_s: float) -> bool:
    deadline = time.monotonic() + patience_s
    studies = _generate(node)
    _wait_for_receiver(node, deadline)
    _push(node, studies)
    database = Database(node.config.database_url)
    try:
        registry = Registry(database)
        _wait_for_reports(node, registry, studies, deadline)
        log = QualityLog(database)
        entries = {study.series_instance_uid: log.entry(study.series_instance_uid) for study in studies}
        _print_results(studies, entries)
        _print_files(node, studies, entries)
        return _verdict(registry, node, studies, entries)
    finally:
        database.close()


def _generate(node: DemoNode) -> list[DemoSeries]:
    studies = []
    with progress_bar() as progress:
        task = progress.add_task("generating studies", total=count())
        for study in make_studies(node.folder / "studies", utc_now().isoformat()):
            studies.append(study)
            progress.update(task, advance=1, description=f"generated {study.label}")
            node.require_alive()
    return studies


def _wait_for_receiver(node: DemoNode, deadline: float) -> None:
    def listening() -> bool:
        with socket.socket() as probe:
            probe.settimeout(1)
            return probe.connect_ex(("127.0.0.1", node.config.receive.port)) == 0

    _until(node, listening, deadline, "the receiver does not listen")


def _push(node: DemoNode, studies: Sequence[DemoSeries]) -> None:
    for study in studies:
        receive = node.config.receive
        label = f"C-STORE {study.label}"
        files = list(study.files)
        summary = send_with_progress(files, "127.0.0.1", receive.port, node.config.ae_title, "DEMOSCANNER", label)
        if summary.sent != len(files):
            reason = summary.failed[0][1] if summary.failed else "not sent"
            raise Permanent(f"{study.label}: {len(files) - summary.sent} images were not taken: {reason}")


def _wait_for_reports(node: DemoNode, registry: Registry, studies: Sequence[DemoSeries], deadline: float) -> None:
    with progress_bar() as progress:
        tasks = {study.series_instance_uid: progress.add_task(study.label, total=len(_WAY)) for study in studies}

        def all_ended() -> bool:
            states = {uid: _state(registry, uid) for uid in tasks}
            for study in studies:
                state = states[study.series_instance_uid]
                step = _WAY.index(state) + 1 if state in _WAY else len(_WAY)
                progress.update(tasks[study.series_instance_uid], completed=step, description=f"{study.label}: {state}")
            return all(state in _ENDED for state in states.values())

        _until(node, all_ended, deadline, "not every report was delivered in time")


def _state(registry: Registry, uid: str) -> SeriesState:
    row = registry.series(uid)
    return SeriesState.RECEIVING if row is None else row.state


def _until(node: DemoNode, condition: Callable[[], bool], deadline: float, what: str) -> None:
    while not condition():
        node.require_alive()
        if time.monotonic() > deadline:
            raise Transient(f"{what}; the node's log is {node.log}")
        time.sleep(_LOOK_S)


def _command() -> str:
    """Return how this command was called, for lines that a person can copy."""
    called = Path(sys.argv[0])
    return "python -m dicom_qa_node" if called.name == "__main__.py" else str(called)


def _stay(node: DemoNode) -> None:
    config = node.config
    say("")
    say("The node keeps running; Ctrl-C stops it.")
    say(f"  C-STORE    {config.ae_title} at 127.0.0.1:{config.receive.port}")
    say(f"  pages      http://127.0.0.1:{config.web.port}/")
    _say_setup_link(node)
    say(f"  archive    {node.archive}")
    say(f"  commands   {_command()} --config {node.config_path} log")
    say("Anybody on this machine may send to it; the service's configuration admits listed peers only.")
    while True:
        node.require_alive()
        time.sleep(_LOOK_S)


def _say_setup_link(node: DemoNode) -> None:
    """Tell the one-time link that the role web has written while nobody has an account yet."""
    link = setup_link_file(node.config)
    if link.is_file():
        say(f"  first user {link.read_text().strip()}")


def _print_results(studies: Sequence[DemoSeries], entries: Entries) -> None:
    rows = []
    for study in studies:
        entry = entries[study.series_instance_uid]
        rows.append(
            {
                "series": study.label,
                "score": "none" if entry is None else score_text(entry.result),
                "grade": "" if entry is None else entry.result.grade,
                "findings": [] if entry is None else [finding.key for finding in entry.result.findings],
                "report": "PARKED" if entry is None else _delivery(entry),
            }
        )
    show_rows("What the node found (score 0-4, higher is better)", rows, as_json=False, empty="")


def _delivery(entry: LogEntry) -> str:
    states = {state.value for _, state, _ in entry.deliveries}
    return " ".join(sorted(states)) or entry.state.value


def _print_files(node: DemoNode, studies: Sequence[DemoSeries], entries: Entries) -> None:
    for study in studies:
        entry = entries[study.series_instance_uid]
        say(f"{study.label}  {study.series_instance_uid}")
        if entry is not None:
            say(f"  picture  {sheet_of(node.config.spool_dir, entry) or 'none'}")
            say(f"  report   {_received(node, entry)}")


def _received(node: DemoNode, entry: LogEntry) -> Path:
    return node.archive / f"{entry.report_uid}.dcm"


def _verdict(registry: Registry, node: DemoNode, studies: Sequence[DemoSeries], entries: Entries) -> bool:
    passed = True
    for study in studies:
        uid = study.series_instance_uid
        entry, row = entries[uid], registry.series(uid)
        received = entry is not None and _received(node, entry).is_file()
        if row is None or row.state is not SeriesState.DELIVERED or not received:
            reason = "never arrived" if row is None else row.parked_reason or row.state
            complain(f"not delivered: {study.label}: {reason}")
            passed = False
    scores = [_score(entries, study) for quality in CT_BEST_FIRST for study in studies if study.quality == quality]
    if not all(first > second for first, second in pairwise(scores)):
        shown = ", ".join(f"{score:.2f}" for score in scores)
        typer.echo(f"the scores of the three CTs are not in the order of their qualities: {shown}", err=True)
        passed = False
    return passed


def _score(entries: Entries, study: DemoSeries) -> float:
    entry = entries[study.series_instance_uid]
    return nan if entry is None or entry.result.score is None else entry.result.score
