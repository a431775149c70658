"""``dose show|reports`` and ``levels list|freeze|withdraw|tolerance``: dose of series, and reference levels."""

from __future__ import annotations

import datetime as dt
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dicom_qa_node.cli.context import actor, config_of, open_database
from dicom_qa_node.cli.output import AsJson, say, show_json, show_rows
from dicom_qa_node.cli.series import SeriesUid, resolved
from dicom_qa_node.domain.errors import NotFound

if TYPE_CHECKING:
    from dicom_qa_node.charts.quality_and_dose import Chosen
    from dicom_qa_node.charts.reference_levels import FrozenLevel
    from dicom_qa_node.db.engine import Database

__all__ = ["app", "levels_app"]

app = typer.Typer(help="Dose of CT series and the dose reports received.", no_args_is_help=True)
levels_app = typer.Typer(help="Reference levels of noise and dose.", no_args_is_help=True)


class LevelQuantity(StrEnum):
    """What a level can be frozen for."""

    NOISE = "noise"
    CTDI_VOL = "ctdi_vol"
    SSDE = "ssde"

    @property
    def measurement(self) -> str:
        """The name of the measurement."""
        return "global_noise_level" if self is LevelQuantity.NOISE else self.value


Scanner = Annotated[str, typer.Option(help="Name of the scanner, as `levels list` and the pages show it.")]
Stratum = Annotated[str, typer.Option(help="Protocol, kernel, reconstruction and thickness as the page names them.")]
Quantity = Annotated[LevelQuantity, typer.Option(help="What the level is of.")]
Reason = Annotated[str, typer.Option(help="Why; kept with the level.")]


@app.command("show")
def show_dose(context: typer.Context, series_uid: SeriesUid, as_json: AsJson = False) -> None:
    """Show CTDIvol, DLP and SSDE of a CT series, and how it is linked to a dose report or why not."""
    from dataclasses import asdict

    from dicom_qa_node.dose.series_dose import dose_of_series

    with open_database(config_of(context)) as database:
        uid = resolved(database, series_uid)
        found = dose_of_series(database, uid)
    if found is None:
        raise NotFound(f"series {uid} has no dose: it is not CT, or has not been scored")
    if as_json:
        show_json(asdict(found))
        return
    linked = f"linked by {found.rule.value}" if found.rule else f"not linked: {found.reason}"
    rows = [
        {"": "CTDIvol", "value": _number(found.ctdi_vol_mgy, "mGy"), "from": found.source.value},
        {"": "phantom", "value": _number(found.phantom_cm, "cm"), "from": found.source.value},
        {"": "DLP", "value": _number(found.dlp_mgy_cm, "mGy.cm"), "from": found.source.value},
        {"": "SSDE", "value": _number(found.ssde_mgy, "mGy"), "from": "measured"},
        {"": "size", "value": _number(found.water_equivalent_diameter_mm, "mm"), "from": "measured"},
    ]
    show_rows("Dose", rows, as_json=False, empty="")
    say(f"{linked}{f'; event {found.event_uid}' if found.event_uid else ''}")


@app.command()
def reports(
    context: typer.Context,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="Rows at most.")] = 50,
    as_json: AsJson = False,
) -> None:
    """List the dose reports received, the latest first."""
    from dicom_qa_node.dose.series_dose import latest_reports

    with open_database(config_of(context)) as database:
        found = latest_reports(database, limit)
    rows = [
        {
            "received": item.received_at, "study": item.study_instance_uid, "events": item.events,
            "total_dlp_mgy_cm": item.dlp_total_mgy_cm, "from": item.calling_ae, "device": item.model,
            "in_spool": item.kept,
        }
        for item in found
    ]  # fmt: skip
    show_rows("Dose reports", rows, as_json=as_json, empty="no dose reports")


@levels_app.command("list")
def list_levels(context: typer.Context, as_json: AsJson = False) -> None:
    """List the reference levels that stand."""
    from dicom_qa_node.charts.reference_levels import ReferenceLevelStore

    with open_database(config_of(context)) as database:
        found = ReferenceLevelStore(database).everything()
    rows = [{"scanner": scanner, "stratum": stratum} | _row(item) for scanner, stratum, item in found]
    show_rows("Reference levels", rows, as_json=as_json, empty="no reference levels")


@levels_app.command()
def freeze(
    context: typer.Context,
    scanner: Scanner,
    stratum: Stratum,
    quantity: Quantity,
    reason: Reason,
    limit: Annotated[
        float | None, typer.Option(help="Stated limit in HU or mGy; default: the typical value with its tolerance.")
    ] = None,
    since: Annotated[dt.datetime | None, typer.Option(formats=["%Y-%m-%d"], help="First day of acquisition.")] = None,
    until: Annotated[dt.datetime | None, typer.Option(formats=["%Y-%m-%d"], help="Last day of acquisition.")] = None,
    as_json: AsJson = False,
) -> None:
    """Freeze a reference level from the latest series of a stratum: typical value from 20, size curve from 50."""
    from dicom_qa_node.charts.reference_levels import ReferenceLevelStore, proposed_level

    with open_database(config_of(context)) as database:
        chosen = _stratum(database, scanner, stratum, since, until)
        level = proposed_level(chosen.points, quantity.measurement)
        if level is None:
            raise NotFound(
                f"fewer than 20 of {len(chosen.points)} series have a size and {quantity}; choose a longer period"
            )
        made = ReferenceLevelStore(database).freeze(
            chosen.stratum.groups[0][0],
            level,
            limit=level.limit if limit is None else limit,
            reason=reason,
            author=actor(),
        )
        _note(database, "level.freeze", stratum, f"{quantity.measurement}, revision {made.revision}")
    if as_json:
        show_json(_row(made))
    else:
        say(f"froze the {level.form.value} of {level.count} series as revision {made.revision}")


@levels_app.command()
def withdraw(context: typer.Context, scanner: Scanner, stratum: Stratum, quantity: Quantity, reason: Reason) -> None:
    """Take a reference level back; the general limits count again."""
    from dicom_qa_node.charts.reference_levels import ReferenceLevelStore

    with open_database(config_of(context)) as database:
        chosen = _stratum(database, scanner, stratum, None, None)
        group = chosen.stratum.groups[0][0]
        ReferenceLevelStore(database).withdraw(group, quantity.measurement, reason=reason, author=actor())
        _note(database, "level.withdraw", stratum, quantity.measurement)
    say("withdrawn")


@levels_app.command()
def tolerance(
    context: typer.Context,
    percent: Annotated[float, typer.Argument(help="How far above its level a value may lie, in percent.")],
    quantity: Quantity,
    reason: Reason,
    protocol: Annotated[str, typer.Option(help="Protocol name; without it every protocol without its own.")] = "",
) -> None:
    """Set the tolerance of a protocol and quantity."""
    from dicom_qa_node.charts.reference_levels import ReferenceLevelStore

    with open_database(config_of(context)) as database:
        store = ReferenceLevelStore(database)
        store.set_tolerance(protocol, quantity.measurement, percent, reason=reason, author=actor())
        detail = f"{quantity.measurement}: {percent:g} %"
        _note(database, "level.tolerance", protocol or "every other protocol", detail, kind="protocol")
    say(f"{percent:g} % for {protocol or 'every protocol without its own'}")


def _stratum(
    database: Database, scanner: str, label: str, since: dt.datetime | None, until: dt.datetime | None
) -> Chosen:
    from dicom_qa_node.charts.quality_and_dose import QualityAndDose, day_bounds

    reader = QualityAndDose(database)
    numbers = [number for number, name in reader.scanners() if name == scanner]
    if len(numbers) != 1:
        raise NotFound(f"{len(numbers)} scanners with CT series are called {scanner!r}")
    first, last = day_bounds(since and since.date(), until and until.date())
    chosen = reader.chosen(label, numbers[0], since=first, until=last)
    if chosen is None or len(chosen.stratum.groups) != 1:
        known = "; ".join(item.label for item in reader.strata(numbers[0])[:10])
        raise NotFound(f"{scanner} has no stratum {label!r}; it has: {known}")
    return chosen


def _note(database: Database, event: str, ident: str, detail: str, kind: str = "stratum") -> None:
    from dicom_qa_node.accounts.audit import Audit

    Audit(database).record(event, actor=actor(), kind=kind, ident=ident[:200], detail=detail)


def _row(item: FrozenLevel) -> dict[str, Any]:
    level = item.level
    assert level is not None
    return {
        "quantity": item.quantity, "form": level.form.value, "typical": round(level.typical, 3), "limit": level.limit,
        "from_mm": round(level.low_mm), "to_mm": round(level.high_mm), "series": level.count,
        "revision": item.revision, "author": item.author, "frozen": item.created_at, "reason": item.reason,
    }  # fmt: skip


def _number(value: float | None, unit: str) -> str:
    return "none" if value is None else f"{value:.4g} {unit}"
