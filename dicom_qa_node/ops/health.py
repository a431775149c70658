"""Says whether the node is well: facts are gathered, then judged by a pure function.

``ok``: everything works. ``degraded``: the node receives and loses nothing, but something needs a look.
``failed``: it cannot receive, or cannot keep what it receives.
"""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from dicom_qa_node.config import Config
from dicom_qa_node.db.engine import Database
from dicom_qa_node.db.heartbeats import Heartbeat, Heartbeats
from dicom_qa_node.dicom_io.tls import concerns
from dicom_qa_node.domain.clock import utc_now
from dicom_qa_node.domain.errors import Misconfigured, NodeError, Transient
from dicom_qa_node.domain.states import DeliveryState, SeriesState
from dicom_qa_node.flow.conflicts import Conflicts, OpenConflict
from dicom_qa_node.flow.outbox import Outbox
from dicom_qa_node.flow.registry import Registry
from dicom_qa_node.models.devices import device_problem
from dicom_qa_node.models.registry import card_of
from dicom_qa_node.models.weights import verify, weights_path
from dicom_qa_node.spool.disk_space import DiskUsage, disk_usage

__all__ = ["Check", "HealthReport", "HealthSnapshot", "Level", "ModelCheck", "assess", "gather", "time_of"]

_SILENT_S = 30.0
_QUEUE_OLD_S = 900.0
_MIB = 1024 * 1024
_NAMED = 3
_LONGEST_REASON = 200
_MEANWHILE = "images are received all the same, kept in the spool, and recorded when the database works again"
#: Roles whose heartbeat has words only when something fails.
_SAY_WHAT_FAILS = ("schedule", "deliver", "orthanc")


class Level(StrEnum):
    """How a check, or the whole node, stands."""

    OK = "ok"
    DEGRADED = "degraded"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at; ``detail`` says what was found and, unless ok, what to do."""

    name: str
    level: Level
    detail: str


@dataclass(frozen=True, slots=True)
class HealthReport:
    """All checks; ``level`` is the worst of them.

    ``series`` are the counts that were found; None where the database could not be read.
    """

    level: Level
    checks: tuple[Check, ...]
    at: dt.datetime
    series: Mapping[SeriesState, int] | None = None

    def named(self, name: str) -> Check:
        """Return one check."""
        return next(check for check in self.checks if check.name == name)


@dataclass(frozen=True, slots=True)
class HealthSnapshot:
    """What `gather` found; texts are empty where nothing is wrong, None stands for "could not be read".

    ``deliveries`` are those that are not DELIVERED; ``parked`` are the latest parked series, each with its reason;
    ``conflicts`` are some of the ``conflicting`` series.
    """

    database_problem: str = ""
    revision: str = ""
    spool_problem: str = ""
    disk: DiskUsage | None = None
    heartbeats: Sequence[Heartbeat] = ()
    model_problem: str = ""
    tls_concerns: Sequence[str] = ()
    oldest_waiting: dt.datetime | None = None
    series: Mapping[SeriesState, int] | None = None
    deliveries: Mapping[DeliveryState, int] | None = None
    parked: Sequence[tuple[str, str]] = ()
    conflicting: int = 0
    conflicts: Sequence[OpenConflict] = ()


class ModelCheck:
    """Verifies the configured weights without torch; reads the file again only when it changed."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._known: tuple[object, str] | None = None

    def problem(self) -> str:
        """Return what is wrong with the model or its device, empty when it is installed and verified."""
        if missing := device_problem(self._config.score.device):
            return missing
        try:
            card = card_of(self._config.score.model)
            path = weights_path(card, self._config.score.models_dir)
            stamp = _stamp(path)
            if self._known is None or self._known[0] != stamp:
                verify(card, self._config.score.models_dir)
                self._known = (stamp, "")
        except Misconfigured as error:
            return str(error)
        return self._known[1]


def gather(config: Config, database: Database, model: ModelCheck) -> HealthSnapshot:
    """Collect what the checks look at; an unreachable database is a fact, not an error."""
    spool_problem = _spool_problem(config.spool_dir)
    disk = disk_usage(config.spool_dir) if config.spool_dir.is_dir() else None
    common = {
        "spool_problem": spool_problem,
        "disk": disk,
        "model_problem": model.problem(),
        "tls_concerns": tuple(concerns(config)),
    }
    try:
        revision = database.require_current()
        registry, outbox, liveness = Registry(database), Outbox(database), Heartbeats(database)
        conflicts = Conflicts(database)
        liveness.require_writable()
        return HealthSnapshot(
            revision=revision,
            heartbeats=liveness.all(),
            oldest_waiting=registry.oldest_waiting(),
            series=registry.counts(),
            deliveries=outbox.undelivered(),
            parked=_latest_parked(registry),
            conflicting=conflicts.count(),
            conflicts=conflicts.open(_NAMED),
            **common,  # type: ignore[arg-type]
        )
    except Transient as error:
        return HealthSnapshot(database_problem=f"{error}; {_MEANWHILE}", **common)  # type: ignore[arg-type]
    except NodeError as error:
        return HealthSnapshot(database_problem=str(error), **common)  # type: ignore[arg-type]


def time_of(snapshot: HealthSnapshot, database: Database) -> dt.datetime:
    """Return the time to judge facts by: the one that all hosts share, or this host's where the database is away."""
    return utc_now() if snapshot.database_problem else database.now()


def assess(snapshot: HealthSnapshot, config: Config, now: dt.datetime) -> HealthReport:
    """Judge what was found at ``now``."""
    checks = [_database(snapshot), _spool(snapshot), _disk(snapshot, config), _model(snapshot)]
    if snapshot.tls_concerns:
        checks.append(Check("tls", Level.DEGRADED, "; ".join(snapshot.tls_concerns)))
    if not snapshot.database_problem:
        checks += [_role(role, snapshot.heartbeats, now) for role in _expected_roles(config)]
        checks += [_queue(snapshot, now), _parked(snapshot), _conflicts(snapshot), _deliveries(snapshot)]
    order = list(Level)
    worst = max((check.level for check in checks), key=order.index)
    return HealthReport(worst, tuple(checks), now, snapshot.series)


def _expected_roles(config: Config) -> list[str]:
    return ["receive", "schedule", "score", "deliver", *(["orthanc"] if config.orthanc.url else []), "web"]


def _database(snapshot: HealthSnapshot) -> Check:
    if snapshot.database_problem:
        return Check("database", Level.FAILED, snapshot.database_problem)
    return Check("database", Level.OK, f"schema {snapshot.revision}")


def _spool(snapshot: HealthSnapshot) -> Check:
    if snapshot.spool_problem:
        return Check("spool", Level.FAILED, snapshot.spool_problem)
    return Check("spool", Level.OK, "writable")


def _disk(snapshot: HealthSnapshot, config: Config) -> Check:
    if snapshot.disk is None:
        return Check("disk", Level.FAILED, "free space unknown")
    free_mb = snapshot.disk.free_bytes // _MIB
    text = f"{free_mb} MB free"
    if free_mb < config.spool.min_free_mb:
        wanted = f"receiving stops below {config.spool.min_free_mb} MB (spool.min_free_mb); make room"
        return Check("disk", Level.FAILED, f"{text}; {wanted}")
    if free_mb < config.spool.resume_free_mb:
        return Check("disk", Level.DEGRADED, f"{text}, close to the watermark; make room")
    return Check("disk", Level.OK, text)


def _model(snapshot: HealthSnapshot) -> Check:
    if snapshot.model_problem:
        return Check("model", Level.DEGRADED, f"{snapshot.model_problem}; series wait unscored")
    return Check("model", Level.OK, "installed and verified")


def _role(role: str, heartbeats: Sequence[Heartbeat], now: dt.datetime) -> Check:
    bad = Level.FAILED if role == "receive" else Level.DEGRADED
    beats = [beat for beat in heartbeats if beat.role == role]
    # A beat of the future was left behind when the clock of the host was set back; whoever lives beats again soon.
    alive = [beat for beat in beats if abs((now - beat.seen_at).total_seconds()) <= _SILENT_S]
    if not alive:
        since = f"silent since {max(beat.seen_at for beat in beats):%Y-%m-%d %H:%M:%S} UTC" if beats else "never seen"
        return Check(f"role {role}", bad, f"{since}; is it running?")
    details = "; ".join(beat.detail for beat in alive if beat.detail)
    if len(alive) < len(beats):
        return Check(f"role {role}", Level.DEGRADED, f"{len(alive)} of {len(beats)} processes alive")
    if details and role in _SAY_WHAT_FAILS:
        return Check(f"role {role}", Level.DEGRADED, details)
    return Check(f"role {role}", Level.OK, details or f"{len(alive)} alive")


def _queue(snapshot: HealthSnapshot, now: dt.datetime) -> Check:
    if snapshot.oldest_waiting is None:
        return Check("queue", Level.OK, "nothing waits to be scored")
    age_s = max(0.0, (now - snapshot.oldest_waiting).total_seconds())
    level = Level.DEGRADED if age_s > _QUEUE_OLD_S else Level.OK
    return Check("queue", level, f"the oldest series waits for {age_s:.0f} s")


def _parked(snapshot: HealthSnapshot) -> Check:
    count = (snapshot.series or {}).get(SeriesState.PARKED, 0)
    if count:
        named = "; ".join(f"{uid}: {reason}" for uid, reason in snapshot.parked)
        words = f"{count} series need an operator: dicom-qa-node series list --state PARKED"
        return Check("parked", Level.DEGRADED, f"{words}; the latest, {named}" if named else words)
    return Check("parked", Level.OK, "none")


def _conflicts(snapshot: HealthSnapshot) -> Check:
    if not snapshot.conflicting:
        return Check("conflicts", Level.OK, "none")
    named = "; ".join(map(str, snapshot.conflicts))
    unnamed = snapshot.conflicting - len(snapshot.conflicts)
    more = f" and {unnamed} more" if unnamed > 0 else ""
    words = "dicom-qa-node series take-newer scores the newer images, series keep-stored keeps the others"
    return Check("conflicts", Level.DEGRADED, f"{named}{more}: {words}")


def _deliveries(snapshot: HealthSnapshot) -> Check:
    found = snapshot.deliveries or {}
    parked = found.get(DeliveryState.PARKED, 0)
    waiting = found.get(DeliveryState.PENDING, 0) + found.get(DeliveryState.SENDING, 0)
    if parked:
        what = "parked deliveries" if parked > 1 else "parked delivery"
        words = f"{parked} {what}: dicom-qa-node outbox list --parked; {waiting} waiting"
        return Check("deliveries", Level.DEGRADED, words)
    return Check("deliveries", Level.OK, f"{waiting} waiting")


def _latest_parked(registry: Registry) -> list[tuple[str, str]]:
    found = registry.list_series([SeriesState.PARKED], limit=_NAMED)
    return [(row.facts.series_instance_uid, row.parked_reason[:_LONGEST_REASON]) for row in found]


def _spool_problem(folder: Path) -> str:
    if not folder.is_dir():
        return f"{folder} does not exist; it is made when the node starts"
    if not os.access(folder, os.W_OK | os.X_OK):
        return f"{folder} cannot be written by this user"
    return ""


def _stamp(path: Path) -> object:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns
