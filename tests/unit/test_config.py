"""A wrong configuration names every problem at once, with its place, its value and what is allowed."""

from __future__ import annotations

import pytest

from dicom_qa_node.cli.config_reference import as_yaml
from dicom_qa_node.config import Config, InvalidConfig, load_config, parse_config
from dicom_qa_node.domain.errors import Misconfigured

MANY_WRONG = """
ae_title: TOO LONG AE TITLE HERE
recieve: {port: 1}
receive:
  port: 70000
  host: 5
  processes: "two"
  peers:
    - {ae_title: CT1, hosts: [10.0.0.0/33]}
    - {}
spool: {min_free_mb: 10, resume_free_mb: 5}
score:
  device: gpu
  slice_rule: best
  grades: {diagnostic: 7}
deliver:
  targets:
    - {kind: dicom, name: a b, host: x}
    - {name: q}
    - {kind: ftp, name: q}
    - {kind: folder, name: q, path: /x, port: 3}
complete: 5
database_url: mysql://user:hush@host/x
"""


def problems(text: str) -> dict[str, str]:
    with pytest.raises(InvalidConfig) as caught:
        parse_config(text)
    return {problem.path: str(problem) for problem in caught.value.problems}


def test_every_problem_is_named_at_once():
    found = problems(MANY_WRONG)
    assert set(found) == {
        "ae_title", "recieve", "receive.port", "receive.host", "receive.processes", "receive.peers[0].hosts",
        "receive.peers[1].ae_title", "spool", "score.device", "score.slice_rule", "score.grades.diagnostic",
        "deliver.targets[0].name", "deliver.targets[0].ae_title", "deliver.targets[1]", "deliver.targets[2]",
        "deliver.targets[3].port", "complete", "database_url",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("receive.port", "receive.port: expected whole number, 0 to 65535 (found 70000)"),
        ("receive.processes", "receive.processes: expected whole number, 1 to 32 (found 'two')"),
        ("recieve", "recieve: unknown key; did you mean 'receive'?"),
        ("score.slice_rule", "score.slice_rule: expected salient or positional (found 'best')"),
        ("score.grades.diagnostic", "score.grades.diagnostic: expected number, 0 to 4 (found 7)"),
        (
            "deliver.targets[3].port",
            "deliver.targets[3].port: unknown key; known here: companion, kind, name, path, "
            "resend_on_duplicate, route, sop_class",
        ),
        ("deliver.targets[1]", "deliver.targets[1]: expected kind dicom or dicomweb or folder or sender"),
    ],
)
def test_a_problem_says_where_what_was_found_and_what_is_allowed(path, line):
    assert problems(MANY_WRONG)[path] == line


def test_a_missing_key_says_what_is_expected():
    found = problems(MANY_WRONG)["deliver.targets[0].ae_title"]
    assert found == "deliver.targets[0].ae_title: is missing; expected 1 to 16 printable ASCII characters, no backslash"


def test_a_password_is_never_shown():
    assert "hush" not in problems(MANY_WRONG)["database_url"]


@pytest.mark.parametrize(
    "text",
    ["receive: [", "- a", "just text", "a: 1\na: 2", "receive: {port: 1, port: 2}"],
    ids=["not yaml", "a list", "a word", "key twice", "inner key twice"],
)
def test_a_file_that_is_no_mapping_is_one_clear_problem(text):
    assert set(problems(text)) == {"(file)"}


@pytest.mark.parametrize("title", ["", " ", "A\\B", "ÄÖÜ", "x" * 17])
def test_an_impossible_ae_title_is_refused(title):
    with pytest.raises(InvalidConfig):
        parse_config(f"ae_title: '{title}'")


def test_target_names_are_unique():
    one = "{kind: folder, name: a, path: /x}"
    assert "used twice: a" in problems(f"deliver: {{targets: [{one}, {one}]}}")["deliver"]


def test_a_file_that_cannot_be_read_is_misconfigured(tmp_path):
    with pytest.raises(Misconfigured, match="cannot read"):
        load_config(tmp_path / "none.yaml")


def test_an_empty_file_is_the_defaults(tmp_path):
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    assert load_config(tmp_path / "empty.yaml") == Config() == load_config(None)


def test_the_generated_file_is_the_defaults():
    assert parse_config(as_yaml()) == Config()


def test_every_key_has_help():
    schema = Config.model_json_schema()
    sections = [schema, *schema["$defs"].values()]
    silent = [
        f"{s['title']}.{k}" for s in sections for k, field in s["properties"].items() if "description" not in field
    ]
    assert silent == []


@pytest.mark.parametrize(
    ("receive", "fits"),
    [
        ("{allow_unknown_peers: true}", True),
        ("{allow_unknown_peers: false}", False),
        ("{allow_unknown_peers: false, peers: [{ae_title: CT1}]}", False),
        ("{allow_unknown_peers: false, peers: [{ae_title: CT1}, {ae_title: PACS1}]}", True),
    ],
)
def test_an_archive_that_commits_must_be_let_in_with_its_answer(receive, fits):
    target = "{kind: dicom, name: pacs, host: pacs.example, ae_title: PACS1, require_commitment: true}"
    text = f"receive: {receive}\ndeliver:\n  targets:\n    - {target}\n"
    if fits:
        assert parse_config(text).deliver.targets[0].name == "pacs"
        return
    words = r"target pacs is to commit to reports, but PACS1 may not call the node.*: list it in receive\.peers$"
    with pytest.raises(InvalidConfig, match=words):
        parse_config(text)
    assert parse_config(text.replace("require_commitment: true", "require_commitment: false"))
