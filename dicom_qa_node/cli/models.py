"""``models list|verify|tune|export-onnx``: which networks there are, whether their weights are theirs, a site's own
mapping, and the file that the CPU engine runs."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dicom_qa_node.cli.context import config_of, open_database
from dicom_qa_node.cli.exit_codes import ExitCode
from dicom_qa_node.cli.output import AsJson, show_rows
from dicom_qa_node.domain.errors import Misconfigured, NotFound

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dicom_qa_node.models.card import ModelCard
    from dicom_qa_node.models.site_calibration import SiteCalibration
    from dicom_qa_node.quality_log.reviews import Label

__all__ = ["app"]

_ONLY_JSON = ("not_validated_for", "failure_modes", "weights_licence", "data_licence", "figures")

app = typer.Typer(help="Networks and their weights.", no_args_is_help=True)


@app.command("list")
def list_models(context: typer.Context, as_json: AsJson = False) -> None:
    """List every network: what it scores, what it was trained on, and whether its weights are installed."""
    from dicom_qa_node.models.registry import all_cards

    settings = config_of(context).score
    chosen = {settings.model, settings.ct_model}
    rows = [_row(card, chosen) for card in sorted(all_cards().values(), key=lambda card: card.name)]
    if not as_json:
        rows = [{key: value for key, value in row.items() if key not in _ONLY_JSON} for row in rows]
    show_rows("Models", rows, as_json=as_json, empty="no models")


@app.command()
def verify(
    context: typer.Context,
    names: Annotated[
        list[str] | None, typer.Argument(help="Models; without one the configured one and all shipped.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check that weights files are there and have the checksum of their card; exit code 3 if one does not."""
    from dicom_qa_node.models.registry import all_cards, card_of

    config = config_of(context)
    shipped = [card.name for card in all_cards().values() if card.measured is not None]
    unknown = [name for name in names or () if name not in all_cards()]
    if unknown:
        raise NotFound(f"there is no model {unknown[0]!r}; known are {', '.join(sorted(all_cards()))}")
    chosen = names or list(dict.fromkeys([config.score.model, config.score.ct_model, *shipped]))
    rows = [_verified(card_of(name), config.score.models_dir) for name in chosen]
    show_rows("Weights", rows, as_json=as_json, empty="no models")
    if any(row["verdict"] != "ok" for row in rows):
        raise typer.Exit(ExitCode.MISCONFIGURED)


@app.command()
def tune(
    context: typer.Context,
    out: Annotated[Path, typer.Argument(help="New file for the mapping; name it in score.site_calibration.")],
    as_json: AsJson = False,
) -> None:
    """Refit the last mapping and the interval of the CT model from signed reviews; 50 at least.

    Before and after are compared on reviews whose studies the fit did not see. Without an improvement nothing is
    written. The shipped model stays beside the new version.
    """
    from dicom_qa_node.models.registry import card_of
    from dicom_qa_node.models.site_calibration import (
        fit_site_calibration,
        read_site_calibration,
        site_calibration_to_json,
    )
    from dicom_qa_node.quality_log.reviews import Reviews

    config = config_of(context)
    settings = config.score
    card = card_of(settings.ct_model)
    present = None if settings.site_calibration is None else read_site_calibration(settings.site_calibration)
    if out.exists():
        raise Misconfigured(f"{out} exists; a new version needs a new file")
    with open_database(config) as database:
        rows = _reviewed(Reviews(database).labels(), card, present)
    number = 1 if present is None else present.number + 1
    found, compared = fit_site_calibration(*rows, model=(card.name, card.version), number=number)
    out.write_text(site_calibration_to_json(found), encoding="utf-8")
    show_rows(
        f"{card.name} {found.tuned_version} on held-out reviews",
        [asdict(one) for one in compared],
        as_json=as_json,
        empty="",
    )


@app.command("export-onnx")
def export_onnx(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="A model whose weights are installed.")],
    as_json: AsJson = False,
) -> None:
    """Write the ONNX file of a model, which a CPU host runs, beside its weights, and name it in the model's card.

    It takes torch and onnxscript (the extra training), a minute or two, and compares the file with torch before it
    keeps it. A CPU host needs the file and the card; the shipped models have theirs.
    """
    import importlib

    from dicom_qa_node.models.devices import torch_installed
    from dicom_qa_node.models.registry import card_of

    card = card_of(name)
    if not torch_installed():
        raise Misconfigured("the export needs torch: pip install 'dicom-qa-node[training]'")
    ship = importlib.import_module("dicom_qa_node.models.onnx_export").ship
    described = ship(card, config_of(context).score.models_dir)
    show_rows("ONNX", [{"name": name, **asdict(described)}], as_json=as_json, empty="")


def _reviewed(
    labels: Iterable[Label], card: ModelCard, present: SiteCalibration | None
) -> tuple[list[float], list[float], list[str]]:
    """Return scores without a mapping, reviewers' scores and studies of the CT that this model scored."""
    scores, reviewed, studies = [], [], []
    for label in labels:
        result = label.result
        if result.score is None or result.model.name != card.name:
            continue
        if present is not None and result.model.version == present.tuned_version:
            scores.append(present.undo(result.score))
        elif result.model.version == card.version:
            scores.append(result.score)
        else:
            continue
        reviewed.append(label.score)
        studies.append(label.study_instance_uid)
    return scores, reviewed, studies


def _row(card: ModelCard, chosen: set[str]) -> dict[str, Any]:
    measured = card.measured
    return {
        "name": card.name,
        "version": card.version,
        "in_use": card.name in chosen,
        "scores": list(card.kinds),
        "title": card.title,
        "parameters": None if measured is None else measured.parameters,
        "weights": "none shipped" if measured is None else measured.sha256[:12],
        "trained_on": None if measured is None else measured.trained_on,
        "figures": [] if measured is None else [asdict(figure) for figure in measured.figures],
        "not_validated_for": list(card.not_validated_for),
        "failure_modes": list(card.failure_modes),
        "weights_licence": card.weights_licence,
        "data_licence": card.data_licence,
    }


def _verified(card: ModelCard, folder: Path | None) -> dict[str, Any]:
    from dicom_qa_node.models import weights

    try:
        path, verdict = weights.verify(card, folder), "ok"
        if card.measured is not None and card.measured.onnx is not None:
            weights.verify_onnx(card, folder)
    except Misconfigured as error:
        path, verdict = None, f"error: {error}"
    return {"name": card.name, "version": card.version, "sha256": card.sha256, "file": path, "verdict": verdict}
