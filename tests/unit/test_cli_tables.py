"""Tables of the command line: whole words at any width, short UIDs that commands take, the configuration anywhere."""

from __future__ import annotations

import io
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from dicom_qa_node.cli import terminal_tables
from dicom_qa_node.cli.app import run
from dicom_qa_node.cli.exit_codes import ExitCode
from dicom_qa_node.db.engine import Database
from dicom_qa_node.domain.clock import utc_now
from dicom_qa_node.domain.series import SeriesHeader, StoredInstance
from dicom_qa_node.domain.states import SeriesState
from dicom_qa_node.flow.registry import Registry
from dicom_qa_node.flow.series_uids import series_uids

ROOT = "1.2.840.113619.2.55.3.2831868886.123.1546398"
UIDS = [f"{ROOT}.20260105071500.3", f"{ROOT}.20260105071500.4", f"{ROOT}.20260106071500.3", "1.2.3"]
ROWS = [
    {"series_instance_uid": uid, "modality": "CT", "since": "2026-01-05 08:00:00", "state": state, "reason": reason}
    for uid, state, reason in zip(
        UIDS,
        ("RECEIVING", "PARKED", "DELIVERED", "SCORED"),
        ("", "the slices are not parallel", "quiet for 120 s; 312 of 312 images", "pixel data of an unknown coding"),
        strict=True,
    )
]


@pytest.fixture
def printed(monkeypatch):
    """Return ``printed(width, rows, **options)``: what a terminal of that width shows."""

    def show(width: int, rows: list[dict[str, object]], **options: object) -> str:
        output = Console(file=io.StringIO(), width=width, **({"force_terminal": True, "color_system": None} | options))
        monkeypatch.setattr(terminal_tables, "console", lambda: output)
        terminal_tables.print_table("Series", rows)
        return output.file.getvalue()

    return show


def cells(text: str) -> list[str]:
    return [cell.strip() for line in text.splitlines() for cell in re.split(r"[│┃]| {2,}", line) if cell.strip()]


@pytest.mark.parametrize("width", [40, 60, 80, 100, 120, 160, 200])
def test_no_line_is_too_long_and_no_word_is_broken(printed, width):
    text = printed(width, ROWS)
    assert max(map(len, text.splitlines())) <= width
    words = {
        word for row in ROWS for key, value in row.items() if key != "series_instance_uid" for word in value.split()
    }
    shown = set(re.sub(r"[│┃]", " ", text).split())
    assert words - shown == set()


def test_a_wide_terminal_shows_whole_uids_and_a_narrow_one_their_ends(printed):
    assert all(uid in printed(200, ROWS) for uid in UIDS)
    narrow = printed(80, ROWS)
    assert ROOT not in narrow
    ends = [cell for cell in cells(narrow) if cell.startswith("…")]
    assert ends == ["…0105071500.3", "…0105071500.4", "…0106071500.3"]
    assert "1.2.3" in cells(narrow)


def test_ends_are_as_long_as_it_takes_to_differ():
    uids = ["1.2.840.1.999999999999.1", "1.2.840.2.999999999999.1"]
    (first, second) = terminal_tables.short_uids({"series_instance_uid": uids})["series_instance_uid"]
    assert first != second
    assert uids[0].endswith(first.lstrip("…"))
    assert terminal_tables.short_uids({"name": uids})["name"] == uids, "only columns of UIDs"


def test_rows_are_stacked_where_a_table_does_not_fit(printed):
    text = printed(40, ROWS[1:2])
    assert "│" not in text
    assert "reason               the slices are not" in text
    assert "                     parallel" in text


def test_where_the_output_is_no_terminal_nothing_is_shortened(printed):
    text = printed(80, ROWS, force_terminal=False)
    assert all(uid in text for uid in UIDS)
    assert all(row["reason"] in text for row in ROWS)


@pytest.mark.parametrize(("environment", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_no_color_is_followed(monkeypatch, printed, environment, coloured):
    monkeypatch.delenv("NO_COLOR", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    text = printed(200, ROWS, color_system="standard")
    assert ("\x1b[32m" in text, "\x1b[31m" in text) == (coloured, coloured)


def test_of_a_stacked_row_the_names_are_bold_and_the_values_are_not(printed):
    text = printed(40, ROWS[1:2], color_system="standard")
    assert re.search(r"\x1b\[1mmodality +\x1b\[0mCT\n", text)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Return the configuration of a node with those series."""
    database = Database(f"sqlite:///{tmp_path}/q.db")
    database.upgrade()
    for uid in UIDS:
        header = SeriesHeader(uid, "1.2.826.0.2", "CT", station_name="CT7")
        image = StoredInstance(
            f"{uid}.1",
            "1.2.840.10008.5.1.4.1.1.2",
            "1.2.840.10008.1.2.1",
            uid,
            "0" * 64,
            9,
            utc_now(),
            "CT7",
            "a",
            header,
        )
        Registry(database).record([image])
    database.close()
    (tmp_path / "spool").mkdir()
    path = tmp_path / "node.yaml"
    path.write_text(f"database_url: sqlite:///{tmp_path}/q.db\nspool_dir: {tmp_path}/spool\n")
    return path


@pytest.fixture
def qa(monkeypatch, capsys):
    """Run a command line in this process; returns exit code, standard output, standard error."""

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["dicom-qa-node", *map(str, arguments)])
        code = run()
        return code, *capsys.readouterr()

    return call


@pytest.mark.parametrize("named", [UIDS[0], f" {UIDS[0]} ", "…0105071500.3", "...20260105071500.3", "0105071500.3"])
def test_commands_take_a_uid_or_an_end_of_it(config, qa, named):
    code, out, err = qa("series", "park", named, "--config", config)
    assert (code, err) == (ExitCode.OK, "")
    assert out == f"{UIDS[0]}: parked\n"
    code, out, _ = qa("show", named, "--config", config)
    assert code == ExitCode.OK
    assert UIDS[0] in out


@pytest.mark.parametrize(
    ("named", "words"),
    [
        ("071500.3", "a short UID needs its last 12 characters"),
        ("…9999071500.3", "no series"),
        ("%_0105071500.3", "no series"),
        ("", "no series"),
    ],
)
def test_an_end_that_names_nothing_is_refused(config, qa, named, words):
    code, _, err = qa("series", "park", named, "--config", config)
    assert code == ExitCode.NOT_FOUND
    assert words in err


def test_an_end_of_two_series_is_refused_with_both(any_database):
    registry = Registry(any_database)
    for number in (1, 2):
        uid = f"1.2.{number}.999999999999.1"
        header = SeriesHeader(uid, "1.2.826.0.2", "CT")
        registry.record([StoredInstance(f"{uid}.1", "1.2", "1.2", uid, "0" * 64, 9, utc_now(), "CT7", "a", header)])
    assert series_uids(any_database, "…9999999999.1") == ["1.2.1.999999999999.1", "1.2.2.999999999999.1"]
    assert series_uids(any_database, "…2.999999999999.1") == ["1.2.2.999999999999.1"]


def test_the_end_of_a_uid_is_found_by_an_index(any_database):
    from sqlalchemy import event

    asked: list[str] = []
    event.listen(any_database.engine, "before_cursor_execute", lambda *arguments: asked.append(arguments[2]))
    series_uids(any_database, "…0105071500.3")
    with any_database.read() as connection:
        explain = "EXPLAIN QUERY PLAN " if any_database.is_sqlite else "EXPLAIN "
        if not any_database.is_sqlite:
            connection.exec_driver_sql("SET enable_seqscan = off")
        (query,) = [statement for statement in asked if "substr" in statement]
        constants = (
            re.sub(r"\?|%\([^)]*\)s(::\w+)?", "'1'", query).replace("LIMIT '1'", "LIMIT 1").replace("OFFSET '1'", "")
        )
        assert "ix_series_uid_end" in str(connection.exec_driver_sql(explain + constants.replace("%", "%%")).all())


@pytest.mark.parametrize(
    "words",
    [("--config", "{}", "series", "list"), ("series", "--config", "{}", "list"), ("series", "list", "-c", "{}")],
)
def test_the_configuration_is_taken_before_and_after_the_command(config, qa, words):
    code, out, _ = qa(*(str(config) if word == "{}" else word for word in words), "--json")
    assert code == ExitCode.OK
    assert UIDS[0] in out


def test_the_last_configuration_counts_and_a_missing_one_is_named(config, qa, tmp_path):
    assert qa("--config", tmp_path / "none.yaml", "series", "list", "--config", config)[0] == ExitCode.OK
    code, _, err = qa("series", "list", "--config", tmp_path / "none.yaml")
    assert code == ExitCode.MISCONFIGURED
    assert "none.yaml" in err


def test_every_command_shows_that_it_takes_the_configuration(qa):
    for words in (["log"], ["series", "park"], ["db", "rebuild"], ["serve"], ["config", "check"], ["users", "list"]):
        code, out, _ = qa(*words, "--help")
        assert code == ExitCode.OK
        assert "--config" in out, words


def test_a_filter_that_nothing_matches_is_said(config, qa):
    assert qa("log", "--config", config)[1] == "nothing scored yet\n"
    assert qa("log", "--grade", "limited", "--config", config)[1] == "nothing scored yet\n"
    state = SeriesState.DELIVERED.value
    assert qa("series", "list", "--state", state, "--config", config)[1] == "no series in these states\n"


def test_a_shell_completes_commands(tmp_path):
    environment = {
        **os.environ, "_DICOM_QA_NODE_COMPLETE": "complete_bash", "COMP_WORDS": "dicom-qa-node ser", "COMP_CWORD": "1",
    }  # fmt: skip
    script = "import sys; sys.argv = ['dicom-qa-node']; from dicom_qa_node.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.stdout.split() == ["serve", "series"], done.stderr


def test_a_terminal_of_eighty_columns_gets_no_longer_line(config, tmp_path):
    """In a real terminal: a pseudo-terminal of the kernel, 80 columns wide."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "COLUMNS": "80", "TERM": "xterm", "NO_COLOR": "1"}
    command = [sys.executable, "-m", "dicom_qa_node", "series", "list", "--config", str(config)]
    with os.fdopen(ours, "rb", buffering=0) as screen:
        process = subprocess.Popen(
            command, stdout=theirs, stderr=theirs, env=environment, cwd=Path(__file__).parents[2]
        )
        os.close(theirs)
        shown = b""
        try:
            while part := screen.read(4096):
                shown += part
        except OSError:  # Linux ends a pseudo-terminal whose other end is closed with EIO.
            pass
        assert process.wait(60) == 0
    lines = re.sub(r"\x1b\[[0-9;]*m", "", shown.decode()).splitlines()
    assert max(map(len, lines)) <= 80
    assert any("…0105071500.3" in line for line in lines)
