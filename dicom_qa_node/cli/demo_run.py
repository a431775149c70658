"""``demo``: a node on SQLite, an archive and generated studies, from C-STORE to the delivered report."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import pairwise
from math import nan
from pathlib import Path

import typer
import yaml
from pydicom.dataset import Dataset

from dicom_qa_node.cli.demo_archive import AE_TITLE as ARCHIVE_TITLE
from dicom_qa_node.cli.exit_codes import ExitCode
from dicom_qa_node.cli.network import send_with_progress
from dicom_qa_node.cli.output import complain, progress_bar, say, score_text, show_rows
from dicom_qa_node.cli.series import sheet_of
from dicom_qa_node.config import Config, load_config
from dicom_qa_node.db.engine import Database
from dicom_qa_node.domain.clock import utc_now
from dicom_qa_node.domain.errors import Permanent, Transient
from dicom_qa_node.domain.results import LogEntry
from dicom_qa_node.domain.states import SeriesState
from dicom_qa_node.flow.registry import Registry
from dicom_qa_node.ops.first_start import setup_link_file
from dicom_qa_node.phantom import ct_series, identity_of, petct_study, phantom_uid, write
from dicom_qa_node.quality_log.entries import QualityLog

__all__ = ["CT_BEST_FIRST", "DemoNode", "DemoSeries", "count", "demo_node", "free_port", "make_studies", "run_demo"]

_SEED = 7
_SLICES = 24
_SPACING_MM = 5.0
_PETCT_SLICES = 30

#: Qualities of the CT with their labels, the best first; their scores must come out in this order.
CT_BEST_FIRST = {
    "routine": "CT, routine dose",
    "tenth_dose": "CT, a tenth of the dose",
    "sparse_views": "CT, sparse views",
}


@dataclass(frozen=True, slots=True)
class DemoSeries:
    """One generated series; ``quality`` is that of the CT, "" for the PET/CT."""

    label: str
    quality: str
    series_instance_uid: str
    modality: str
    files: tuple[Path, ...]


def count() -> int:
    """Return how many series `make_studies` makes."""
    return len(CT_BEST_FIRST) + 2


def make_studies(folder: Path, run: str) -> Iterator[DemoSeries]:
    """Generate the series one after the other; ``run`` makes their UIDs new, the pictures are always the same."""
    ct_study = replace(
        identity_of(_SEED),
        study_uid=phantom_uid(_SEED, "demo", run, "ct"),
        study_description="CT chest abdomen",
    )
    for number, (quality, label) in enumerate(CT_BEST_FIRST.items(), start=2):
        images = ct_series(
            _SEED,
            _SLICES,
            quality=quality,
            spacing_mm=_SPACING_MM,
            thickness_mm=_SPACING_MM,
            identity=ct_study,
            series_number=number,
        )
        yield _written(label, quality, images, folder)
    petct = replace(
        identity_of(_SEED, "petct"),
        study_uid=phantom_uid(_SEED, "demo", run, "petct"),
        study_description="PET/CT FDG",
        body_part="WHOLEBODY",
        protocol="PET CT Oncology",
    )
    ct, pet = petct_study(_SEED, ct_slices=_PETCT_SLICES, identity=petct)
    yield _written("CT of the PET/CT, low dose", "", ct, folder)
    yield _written("PET/CT", "", pet, folder)


def _written(label: str, quality: str, images: list[Dataset], folder: Path) -> DemoSeries:
    uid = str(images[0].SeriesInstanceUID)
    return DemoSeries(label, quality, uid, str(images[0].Modality), tuple(write(images, folder / uid)))


_STOP_S = 60.0


@dataclass(frozen=True, slots=True)
class DemoNode:
    """A running demo: where it listens and where its things lie."""

    folder: Path
    config: Config
    config_path: Path
    archive_port: int
    process: subprocess.Popen[bytes]

    @property
    def log(self) -> Path:
        """What the node writes to standard error."""
        return self.folder / "node.log"

    @property
    def archive(self) -> Path:
        """Where the archive keeps what it receives."""
        return self.folder / "archive"

    def require_alive(self) -> None:
        """Fail with the node's last words if it has ended."""
        code = self.process.poll()
        if code is not None:
            last = self.log.read_text(errors="replace").strip().splitlines()[-3:]
            raise Permanent(f"the node ended with {code}; its log {self.log} ends with:\n" + "\n".join(last))


@contextmanager
def demo_node(folder: Path) -> Iterator[DemoNode]:
    """Start archive and node in ``folder``; both have stopped on leaving the block."""
    folder.mkdir(parents=True, exist_ok=True)
    archive_port = free_port(11113)
    config_path = _write_config(folder, archive_port)
    archive = [sys.executable, "-m", "dicom_qa_node.cli.demo_archive", str(archive_port), str(folder / "archive")]
    serve = [sys.executable, "-m", "dicom_qa_node", "--config", str(config_path), "serve"]
    with _running(archive, folder / "archive.log"), _running(serve, folder / "node.log") as process:
        yield DemoNode(folder, load_config(config_path), config_path, archive_port, process)


def free_port(wanted: int) -> int:
    """Return the standard port if nobody listens there, else a free one."""
    for port in (wanted, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise Permanent("no TCP port is free on this machine")


def _write_config(folder: Path, archive_port: int) -> Path:
    values = {
        "database_url": f"sqlite:///{folder.resolve()}/quality.db",
        "spool_dir": str(folder.resolve() / "spool"),
        "receive": {"host": "127.0.0.1", "port": free_port(11112), "processes": 1},
        "spool": {"min_free_mb": 200, "resume_free_mb": 300},
        "complete": {"quiet_s": 5, "pair_wait_s": 60},
        "deliver": {
            "targets": [
                {
                    "kind": "dicom",
                    "name": "archive",
                    "host": "127.0.0.1",
                    "port": archive_port,
                    "ae_title": ARCHIVE_TITLE,
                }
            ],
            "retry_first_s": 1,
        },
        "web": {"host": "127.0.0.1", "port": free_port(8080)},
    }
    path = folder / "config.yaml"
    path.write_text("# Written by `dicom-qa-node demo`.\n" + yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    return path


@contextmanager
def _running(command: Sequence[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as sink:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=sink, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            yield process
        finally:
            _stop(process)


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


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
                "grade": "" if entry is None else entry.result.grade_text,
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
