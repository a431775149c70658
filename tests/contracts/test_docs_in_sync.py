"""What is written for users is what the code does: configuration, states, commands and exit codes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main

from dicom_qa_node.cli.app import app
from dicom_qa_node.cli.config_reference import as_markdown, as_yaml
from dicom_qa_node.cli.exit_codes import ExitCode
from dicom_qa_node.config.tiers import BASIC_KEYS
from dicom_qa_node.domain.results import Grade
from dicom_qa_node.domain.states import DeliveryState, SeriesState

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = ROOT / "docs" / "commands.md"
README = ROOT / "README.md"


def pages() -> list[Path]:
    return [README, *sorted((ROOT / "docs").glob("**/*.md"))]


def commands() -> list[str]:
    found = []
    root = typer.main.get_command(app)
    for name, command in root.commands.items():
        inner = getattr(command, "commands", None)
        found += [f"{name} {leaf}" for leaf in inner] if inner else [name]
        if inner and getattr(command, "invoke_without_command", False):
            found.append(name)
    return found


@pytest.mark.parametrize(
    ("file", "text"),
    [("config.yaml", as_yaml), ("docs/configuration.md", as_markdown)],
    ids=["config.yaml", "configuration.md"],
)
def test_generated_file_is_current(file, text):
    assert (ROOT / file).read_text() == text(), f"{file} is not what the schema says; run: make docs"


def test_every_basic_key_exists_and_comes_before_the_tables_by_section():
    head, _, _ = as_markdown().partition("## Top level")
    assert {line.split("`")[1] for line in head.splitlines() if line.startswith("| `")} == BASIC_KEYS
    assert 20 <= len(BASIC_KEYS) <= 40


def test_what_a_key_may_hold_is_said_in_words():
    assert [line for line in as_markdown().splitlines() if re.search(r"FieldInfo|Annotated|typing", line)] == []


@pytest.mark.parametrize("state", SeriesState)
def test_every_state_has_its_row_with_what_to_do(state):
    for page in (README, COMMANDS):
        assert re.search(rf"^\| `{state}` \|.+\|.+\|$", page.read_text(), re.MULTILINE), f"{page.name} lacks {state}"


@pytest.mark.parametrize("code", ExitCode)
def test_every_exit_code_has_its_row(code):
    assert f"| {code.value} | {code.meaning} |" in COMMANDS.read_text()


@pytest.mark.parametrize("command", commands())
def test_every_command_is_described(command):
    assert f"`{command}" in COMMANDS.read_text(), f"docs/commands.md does not describe `{command}`"


@pytest.mark.parametrize("word", [*DeliveryState, *Grade])
def test_every_delivery_state_and_grade_is_explained(word):
    assert word in COMMANDS.read_text()


def test_documents_name_only_files_that_exist():
    missing = [
        f"{page.name}: {target}"
        for page in pages()
        for target in re.findall(r"\]\((?!https?:|#|mailto:)([^)#]+)", page.read_text())
        if not (page.parent / target).exists()
    ]
    assert missing == []


def test_commands_in_the_documents_exist():
    known = set(commands())
    written = [
        (page.name, first, second)
        for page in pages()
        for first, second in re.findall(
            r"^\s*(?:sudo )?dicom-qa-node ([a-z]+)(?: ([a-z]+))?", page.read_text(), re.MULTILINE
        )
    ]
    assert written
    assert [entry for entry in written if not {entry[1], f"{entry[1]} {entry[2]}"} & known] == []


def test_the_documentation_site_builds_without_a_warning(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(tmp_path / "site")]
    built = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True, check=False
    )
    assert built.returncode == 0, built.stdout + built.stderr
    assert (tmp_path / "site" / "tutorial" / "first-series" / "index.html").is_file()


def test_the_architecture_names_modules_that_are_there():
    package = ROOT / "dicom_qa_node"
    packages = {path.parent.name for path in package.glob("*/__init__.py")}
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    modules = {
        name
        for name in re.findall(r"`([a-z_]+(?:\.[a-z_*]+)+)", text)
        if name.split(".")[0] in packages and not name.endswith((".yaml", ".md"))
    }
    files = set(re.findall(r"`([a-z_]+/[a-z_/]+\.py)`", text)) - {"tests/contracts/test_one_rule.py"}

    def known(name: str) -> bool:
        """Whether the longest part of a dotted name that could be a module is one; the rest names something in it."""
        words = name.split(".")
        place = package.joinpath(*words[:2])
        return "*" in name or place.is_dir() or place.with_suffix(".py").is_file()

    assert len(modules) > 20
    assert [name for name in sorted(modules) if not known(name)] == []
    assert [name for name in sorted(files) if not (package / name).is_file() and not (ROOT / name).is_file()] == []
