"""``phantoms list|show|install|analyse``: QC phantoms, what they measured, and the environment of pylinac."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dicom_qa_node.cli.context import config_of, open_database
from dicom_qa_node.cli.exit_codes import ExitCode
from dicom_qa_node.cli.output import AsJson, complain, say, show_json, show_rows
from dicom_qa_node.cli.series import SeriesUid, resolved
from dicom_qa_node.domain.errors import NotFound, Permanent
from dicom_qa_node.domain.uids import LARGEST_ID

if TYPE_CHECKING:
    from dicom_qa_node.config import Config
    from dicom_qa_node.domain.results import Measurement, SeriesResult
    from dicom_qa_node.quality_control.runs import Run, Value

__all__ = ["app"]

app = typer.Typer(help="QC phantoms.", no_args_is_help=True)


@app.command("list")
def list_phantoms(
    context: typer.Context,
    limit: Annotated[int, typer.Option(min=1, max=LARGEST_ID, help="Rows at most.")] = 50,
    as_json: AsJson = False,
) -> None:
    """List the latest series of phantoms with what their analysis came to."""
    from dicom_qa_node.quality_control.runs import PhantomRuns

    with open_database(config_of(context)) as database:
        found = PhantomRuns(database).latest(limit)
    show_rows("QC phantoms", [_run_row(item) for item in found], as_json=as_json, empty="no series of phantoms")


@app.command()
def show(
    context: typer.Context,
    series_uid: SeriesUid,
    as_json: AsJson = False,
) -> None:
    """Show what one series of a phantom measured, with the tolerances by which it was judged."""
    from dicom_qa_node.quality_control.runs import PhantomRuns

    with open_database(config_of(context)) as database:
        uid = resolved(database, series_uid)
        runs = PhantomRuns(database)
        run = runs.of_series(uid)
        if run is None:
            raise NotFound(f"series {uid} is not one of a QC phantom, or is not in the charts yet")
        values = runs.values(run.result_id)
    if as_json:
        show_json(_run_row(run) | {"values": [_value_row(item) for item in values]})
        return
    show_rows("QC phantom", [_run_row(run)], as_json=False, empty="")
    show_rows("Measured", [_value_row(item) for item in values], as_json=False, empty="nothing was measured")


@app.command()
def install(context: typer.Context) -> None:
    """Install pylinac into an environment of its own (phantoms.environment_dir), from the package index of pip.

    About 0.6 GB. Run it on each machine that scores, as the user of the service.
    """
    from dicom_qa_node.quality_control.pylinac_environment import REQUIREMENTS
    from dicom_qa_node.quality_control.pylinac_environment import install as make

    settings = config_of(context).phantoms
    say(f"installing {', '.join(REQUIREMENTS)} into {settings.environment_dir}")
    done = make(settings.environment_dir, settings.install_timeout_s)
    say(f"pylinac {done.version} is installed in {done.folder}")


@app.command()
def analyse(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(help="Folder with the files of one series.", metavar="FOLDER")],
    kind: Annotated[
        str, typer.Option(help="What it shows, such as catphan504; without it as phantoms.analyse has it configured.")
    ] = "",
    ratio: Annotated[
        float | None, typer.Option(help="Activity of the spheres over the background (nema_iq_pet).", min=1.001)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Analyse a phantom from disk by the code of the node; exit code 1 where it cannot be analysed."""
    from dicom_qa_node.domain.qc_phantoms import QcOutcome
    from dicom_qa_node.domain.result_json import result_values

    result = _analysed(config_of(context), folder, kind, ratio)
    phantom = result.qc_phantom
    assert phantom is not None
    if as_json:
        show_json(result_values(result))
    else:
        rows = [_measured_row(item) for item in result.measurements]
        show_rows(f"{phantom.title}: {phantom.outcome.value}", rows, as_json=False, empty="nothing was measured")
    if phantom.outcome is QcOutcome.NOT_ANALYSED:
        complain(f"not analysed: {phantom.remark}")
        raise typer.Exit(ExitCode.FAILED)


def _analysed(config: Config, folder: Path, kind: str, ratio: float | None) -> SeriesResult:
    from dicom_qa_node.config.phantoms import Phantom
    from dicom_qa_node.domain.clock import utc_now
    from dicom_qa_node.domain.qc_phantoms import PhantomKind, SubjectDecision
    from dicom_qa_node.score.decoder_pool import DecoderPool
    from dicom_qa_node.score.phantom_series import PhantomLane, analyse_phantom, subject_of
    from dicom_qa_node.score.series_files import find_series
    from dicom_qa_node.score.volume_builder import scan_headers

    if kind and kind not in set(PhantomKind):
        raise typer.BadParameter(f"known are {', '.join(PhantomKind)}", param_hint="--kind")
    settings = config.phantoms
    if kind:
        chosen = Phantom.model_validate({"name": "analysed", "kind": kind, "sphere_to_background": ratio})
        settings = settings.model_copy(update={"analyse": [chosen]})
    series = find_series([folder]).series
    if len(series) != 1:
        raise Permanent(f"{folder} holds {len(series)} series instead of one")
    files = series[0].files
    decision = SubjectDecision(True, "phantoms analyse", utc_now(), "asked for on the command line")
    lane = PhantomLane(settings, decision=decision)
    with DecoderPool() as decoders:
        found = scan_headers(files)
        return analyse_phantom(found, subject_of(found, lane, decoders), files, lane, decoders, lambda _: None)


def _run_row(run: Run) -> dict[str, Any]:
    return {
        "acquired": _minutes(run.at),
        "scanner": run.scanner,
        "phantom": run.phantom,
        "kind": run.kind,
        "outcome": run.outcome.value,
        "remark": run.remark,
        "series_instance_uid": run.series_instance_uid,
    }


def _minutes(at: dt.datetime) -> str:
    return at.astimezone().isoformat(sep=" ", timespec="minutes")[:16]


def _value_row(item: Value) -> dict[str, Any]:
    return {
        "quantity": item.meaning, "value": item.value, "unit": item.unit, "low": item.low, "high": item.high,
        "judged": item.outcome.value,
    }  # fmt: skip


def _measured_row(item: Measurement) -> dict[str, Any]:
    from dicom_qa_node.quality_control.tolerances import measured_outcome

    return {
        "quantity": item.meaning, "value": item.value, "unit": item.unit, "low": item.low, "high": item.high,
        "judged": item.not_applicable or measured_outcome(item).value,
    }  # fmt: skip
