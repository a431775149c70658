"""``score``: with paths it judges folders of DICOM files offline; without, it is the scoring worker of the node."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from dicom_qa_node.cli.context import config_of
from dicom_qa_node.cli.exit_codes import ExitCode
from dicom_qa_node.cli.output import AsJson, complain, say, show_json, show_rows
from dicom_qa_node.cli.roles import run_role

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command("score")(score)


def score(
    context: typer.Context,
    paths: Annotated[list[Path] | None, typer.Argument(help="Folders or files; none: run the scoring worker.")] = None,
    pictures: Annotated[
        Path | None,
        typer.Option(help="Write a picture per series, the salient slices with their scores, to this folder."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Score series from disk by the worker's own code, without a node; without PATHS run the scoring worker (a role).

    Files are grouped by series; a PET is judged with the CT of its study and frame of reference if it is there.
    Exit code 1 if a series could not be judged; its entry then holds the reason under "error".
    """
    if not paths:
        if pictures is not None or as_json:
            raise typer.BadParameter("give a path to score; without one this command is the scoring worker")
        run_role(context, "score")
    from dicom_qa_node.cli.offline_scoring import score_folders

    entries = score_folders(config_of(context), paths or [], pictures)
    if as_json:
        show_json(entries)
    else:
        show_rows(
            "Scores (0-4, higher is better)", [_row(entry) for entry in entries], as_json=False, empty="no series"
        )
        for entry in entries:
            if "error" in entry:
                complain(f"{_name(entry)}: {entry['error']}")
            elif "picture" in entry:
                say(f"{entry['series_instance_uid']}: {entry['picture']}")
    if any("error" in entry for entry in entries):
        raise typer.Exit(ExitCode.FAILED)


def grade_text(grade: str | None, low: str | None) -> str:
    """Return a grade or both ends of a grade set, "" for none."""
    return "–".join(filter(None, (grade, low)))


def _name(entry: dict[str, Any]) -> str:
    return str(entry["series_instance_uid"] or entry.get("file", "?"))


def _row(entry: dict[str, Any]) -> dict[str, Any]:
    if "error" in entry:
        failed = {"series": _name(entry), "modality": entry["modality"], "kind": "", "score": "error"}
        return failed | {"grade": "", "why": "", "findings": "", "slices": ""}
    interval = entry["interval"]
    shown = "no score" if entry["score"] is None else f"{entry['score']:.2f} [{interval[0]:.2f}, {interval[1]:.2f}]"
    if entry["qc_phantom"] is not None:
        shown = "QC phantom"
    return {
        "series": _name(entry),
        "modality": entry["modality"],
        "kind": entry["kind"],
        "score": shown,
        "grade": grade_text(entry["grade"], entry["grade_low"]),
        "why": entry["why"],
        "findings": [finding["key"] for finding in entry["findings"]],
        "slices": ", ".join(f"{item['index']}: {item['score']:.2f}" for item in entry["slices"]),
    }
