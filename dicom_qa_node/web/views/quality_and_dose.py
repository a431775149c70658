"""Quality and dose: noise, dose, sharpness and patient size of a stratum, its groups of size, and reference levels."""

from __future__ import annotations

import csv
import datetime as dt
import io
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlencode

import numpy as np
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from dicom_qa_node.charts.quality_and_dose import (
    FEWEST_FOR_BAND,
    Chosen,
    Point,
    QualityAndDose,
    SizeGroup,
    day_bounds,
    size_curve,
    size_groups,
)
from dicom_qa_node.charts.reference_levels import FrozenLevel, ReferenceLevelStore, proposed_level
from dicom_qa_node.domain.dose import DoseSource
from dicom_qa_node.domain.errors import Permanent
from dicom_qa_node.domain.reference_levels import LEVEL_QUANTITIES, ReferenceLevel
from dicom_qa_node.domain.uids import LARGEST_ID
from dicom_qa_node.web.access import Permission, account_of, guarded, note, word_of
from dicom_qa_node.web.page_rendering import page, redirect
from dicom_qa_node.web.quality_and_dose_drawing import DRAWN, noise_against_dose, value_against_size
from dicom_qa_node.web.site import Site, site_of

__all__ = ["routes"]

_DOSES = {"ctdi_vol": "CTDIvol (mGy)", "ssde": "SSDE (mGy)"}
_TITLES = {"global_noise_level": "Noise (HU)", **_DOSES, "skin_edge_f50": "f50 of the skin edge (1/mm)"}
_TABLES = ("global_noise_level", "ctdi_vol", "ssde", "skin_edge_f50")
_OUTLYING = 20
_GROUP_HEAD = (
    "quantity", "size_group_cm", "series", "lower_quartile", "median", "upper_quartile", "site_level",
    "fleet_median", "fleet_series", "share_outside_percent",
)  # fmt: skip
_SERIES_HEAD = (
    "series_instance_uid", "scanner", "acquired_at", "water_equivalent_diameter_mm", "noise_hu", "ctdi_vol_mgy",
    "ssde_mgy", "skin_edge_f50_per_mm", "dose_source",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Filter:
    """What an address asks for."""

    label: str
    scanner_id: int | None
    dose: str
    since: dt.date | None
    until: dt.date | None

    @property
    def query(self) -> str:
        """The same choice as a query."""
        given = {
            "stratum": self.label, "scanner": self.scanner_id, "dose": self.dose, "since": self.since,
            "until": self.until,
        }  # fmt: skip
        return urlencode({name: value for name, value in given.items() if value not in (None, "")})


def routes(_site: Site) -> list[BaseRoute]:
    """Return the routes of this file."""
    return [
        Route("/dose", guarded(Permission.VIEW, _show), methods=["GET"]),
        Route("/dose/groups.csv", guarded(Permission.VIEW, _groups_csv), methods=["GET"]),
        Route("/dose/series.csv", guarded(Permission.VIEW, _series_csv), methods=["GET"]),
        Route("/dose/levels", guarded(Permission.ACT, _freeze), methods=["POST"]),
        Route("/dose/levels/withdraw", guarded(Permission.ACT, _withdraw), methods=["POST"]),
        Route("/dose/tolerances", guarded(Permission.ACT, _tolerate), methods=["POST"]),
    ]


def _show(request: Request, status: int = 200, problem: str = "") -> Response:
    site = site_of(request)
    reader, store = QualityAndDose(site.database), ReferenceLevelStore(site.database, site.clock)
    wanted = _filter(request)
    strata = reader.strata(wanted.scanner_id)
    if not wanted.label and strata:
        wanted = replace(wanted, label=strata[0].label)
    chosen = _chosen(reader, wanted)
    if chosen is None and wanted.label and problem == "" and "stratum" in request.query_params:
        raise HTTPException(404, "There is no such stratum on this scanner.")
    context: dict[str, Any] = {
        "wanted": wanted, "strata": strata, "scanners": reader.scanners(), "doses": _DOSES, "chosen": chosen,
        "problem": problem, "titles": _TITLES, "drawn": DRAWN, "fewest": FEWEST_FOR_BAND,
    }  # fmt: skip
    if chosen is not None:
        context |= _of_stratum(chosen, wanted, store)
    return page(request, "dose/dose.html", status, **context)


def _of_stratum(chosen: Chosen, wanted: _Filter, store: ReferenceLevelStore) -> dict[str, Any]:
    levels = _levels(chosen, store)
    frozen = {name: item.level for name, item in levels.items() if item.level is not None}
    points, protocol = chosen.points, chosen.stratum.protocol
    tables = {name: _judged(chosen, name, frozen.get(name)) for name in _TABLES}
    single = len(chosen.stratum.groups) == 1
    return {
        "levels": levels,
        "single": single,
        "tables": tables,
        "plots": [
            ("Noise against dose", noise_against_dose(points, wanted.dose, _DOSES[wanted.dose])),
            ("Noise against patient size",
             value_against_size(points, "global_noise_level", "Noise (HU)", frozen.get("global_noise_level"))),
            ("SSDE against patient size", value_against_size(points, "ssde", "SSDE (mGy)", frozen.get("ssde"))),
            ("Sharpness against patient size",
             value_against_size(points, "skin_edge_f50", "f50 of the skin edge (1/mm)")),
        ],
        "proposed": {name: proposed_level(points, name) for name in LEVEL_QUANTITIES} if single else {},
        "tolerances": {name: store.tolerance(protocol, name) for name in LEVEL_QUANTITIES},
        "chosen_tolerances": store.tolerances(20),
        "history": store.history(chosen.stratum.groups[0][0]) if single else [],
        "reported": sum(point.dose_source is DoseSource.REPORT for point in points),
        "outlying": _outlying(points),
    }  # fmt: skip


def _levels(chosen: Chosen, store: ReferenceLevelStore) -> dict[str, FrozenLevel]:
    """Return the levels of the one chart group that is shown, with their tolerances."""
    if len(chosen.stratum.groups) != 1:
        return {}
    found = store.current(chosen.stratum.groups[0][0])
    protocol = chosen.stratum.protocol
    return {
        name: replace(item, level=replace(item.level, tolerance_percent=store.tolerance(protocol, name)))
        for name, item in found.items()
        if item.level is not None
    }


def _judged(chosen: Chosen, quantity: str, level: ReferenceLevel | None) -> list[SizeGroup]:
    """Return the groups of size with the site's level and the share of series outside it."""
    found = size_groups(chosen.points, chosen.fleet, quantity)
    if level is None:
        return found
    judged: list[SizeGroup] = []
    for group in found:
        inside = [
            beyond
            for point in chosen.points
            if (size := point.water_equivalent_diameter) is not None
            and group.low_mm <= size < group.high_mm
            and (value := getattr(point, quantity)) is not None
            and (beyond := level.outside(value, size)) is not None
        ]
        share = sum(inside) / len(inside) if inside else None
        judged.append(replace(group, level=level.at(group.median_size_mm), outside=share))
    return judged


def _outlying(points: tuple[Point, ...]) -> list[tuple[Point, float]]:
    """Return the series with the most noise for their size, as percent above the size curve."""
    curve = size_curve(points, "global_noise_level")
    if curve is None:
        return []
    usable = [p for p in points if p.water_equivalent_diameter is not None and (p.global_noise_level or 0.0) > 0]
    sizes = [p.water_equivalent_diameter or 0.0 for p in usable]
    above = np.expm1(curve.residuals(sizes, [p.global_noise_level or 0.0 for p in usable]))
    order = np.argsort(-above)[:_OUTLYING]
    return [(usable[int(i)], 100.0 * float(above[int(i)])) for i in order if above[int(i)] > 0]


# -- files -----------------------------------------------------------------------------------------------------


def _groups_csv(request: Request) -> Response:
    site, wanted = site_of(request), _filter(request)
    chosen = _required(QualityAndDose(site.database), wanted)
    levels = _levels(chosen, ReferenceLevelStore(site.database, site.clock))
    rows = []
    for name in _TABLES:
        level = levels[name].level if name in levels else None
        for group in _judged(chosen, name, level):
            numbers = (group.q1, group.median, group.q3, group.level, group.fleet_median)
            q1, median, q3, at, fleet = ("" if value is None else f"{value:.6g}" for value in numbers)
            share = "" if group.outside is None else f"{100 * group.outside:.1f}"
            size = f"{group.low_mm / 10:g}-{group.high_mm / 10:g}"
            rows.append([name, size, group.count, q1, median, q3, at, fleet, group.fleet_count, share])
    return _file(request, wanted, "quality-and-dose-groups.csv", _GROUP_HEAD, rows)


def _series_csv(request: Request) -> Response:
    wanted = _filter(request)
    chosen = _required(QualityAndDose(site_of(request).database), wanted)
    rows = []
    for point in reversed(chosen.points):
        numbers = (
            point.water_equivalent_diameter, point.global_noise_level, point.ctdi_vol, point.ssde,
            point.skin_edge_f50,
        )  # fmt: skip
        at = point.at.isoformat(timespec="seconds")
        values = ["" if value is None else f"{value:.6g}" for value in numbers]
        rows.append([point.series_instance_uid, point.scanner, at, *values, point.dose_source.value])
    return _file(request, wanted, "quality-and-dose-series.csv", _SERIES_HEAD, rows)


def _file(request: Request, wanted: _Filter, name: str, head: tuple[str, ...], rows: list[list[Any]]) -> Response:
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(head)
    writer.writerows(rows)
    note(request, "dose.export", kind="stratum", ident=wanted.label[:200], detail=wanted.query)
    disposition = {"Content-Disposition": f'attachment; filename="{name}"'}
    return Response(out.getvalue(), media_type="text/csv; charset=utf-8", headers=disposition)


# -- changes ---------------------------------------------------------------------------------------------------


def _freeze(request: Request) -> Response:
    site, wanted, quantity = site_of(request), _filter(request), word_of(request, "quantity")
    store, author = ReferenceLevelStore(site.database, site.clock), account_of(request).name
    chosen = _required(QualityAndDose(site.database), wanted)
    try:
        level = proposed_level(chosen.points, quantity) if len(chosen.stratum.groups) == 1 else None
        if level is None:
            raise Permanent("a level needs one scanner and at least 20 series with a size; choose a longer period")
        limit = _number(word_of(request, "limit"), "the stated limit")
        made = store.freeze(
            chosen.stratum.groups[0][0], level, limit=limit, reason=word_of(request, "reason"), author=author
        )
    except Permanent as error:
        return _show(request, 422, str(error))
    detail = f"{quantity}, revision {made.revision}, {level.count} series, typical {level.typical:.4g}, limit {limit:g}"
    note(request, "level.freeze", kind="stratum", ident=wanted.label[:200], detail=detail)
    return redirect(request, f"/dose?{wanted.query}#levels")


def _withdraw(request: Request) -> Response:
    site, wanted, quantity = site_of(request), _filter(request), word_of(request, "quantity")
    store = ReferenceLevelStore(site.database, site.clock)
    chosen = _required(QualityAndDose(site.database), wanted)
    try:
        if len(chosen.stratum.groups) != 1:
            raise Permanent("choose one scanner")
        group = chosen.stratum.groups[0][0]
        made = store.withdraw(group, quantity, reason=word_of(request, "reason"), author=account_of(request).name)
    except Permanent as error:
        return _show(request, 422, str(error))
    detail = f"{quantity}, revision {made.revision}"
    note(request, "level.withdraw", kind="stratum", ident=wanted.label[:200], detail=detail)
    return redirect(request, f"/dose?{wanted.query}#levels")


def _tolerate(request: Request) -> Response:
    site, wanted, quantity = site_of(request), _filter(request), word_of(request, "quantity")
    store, author = ReferenceLevelStore(site.database, site.clock), account_of(request).name
    chosen = _required(QualityAndDose(site.database), wanted)
    protocol = "" if word_of(request, "every") else chosen.stratum.protocol
    try:
        percent = _number(word_of(request, "percent"), "the tolerance")
        store.set_tolerance(protocol, quantity, percent, reason=word_of(request, "reason"), author=author)
    except Permanent as error:
        return _show(request, 422, str(error))
    detail = f"{quantity}: {percent:g} %"
    note(request, "level.tolerance", kind="protocol", ident=(protocol or "every other protocol")[:200], detail=detail)
    return redirect(request, f"/dose?{wanted.query}#levels")


# -- addresses -------------------------------------------------------------------------------------------------


def _filter(request: Request) -> _Filter:
    query = request.query_params
    scanner, dose = query.get("scanner", ""), query.get("dose", "")
    if scanner and not (scanner.isascii() and scanner.isdigit()):
        raise HTTPException(404)
    return _Filter(
        label=query.get("stratum", "")[:400],
        scanner_id=min(int(scanner[:12]), LARGEST_ID) if scanner else None,
        dose=dose if dose in _DOSES else "ctdi_vol",
        since=_day(query.get("since", "")),
        until=_day(query.get("until", "")),
    )


def _chosen(reader: QualityAndDose, wanted: _Filter) -> Chosen | None:
    since, until = day_bounds(wanted.since, wanted.until)
    return reader.chosen(wanted.label, wanted.scanner_id, since=since, until=until) if wanted.label else None


def _required(reader: QualityAndDose, wanted: _Filter) -> Chosen:
    chosen = _chosen(reader, wanted)
    if chosen is None:
        raise HTTPException(404, "There is no such stratum on this scanner.")
    return chosen


def _day(text: str) -> dt.date | None:
    try:
        return dt.date.fromisoformat(text)
    except ValueError:
        return None


def _number(text: str, what: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise Permanent(f"{what} must be a number") from error
