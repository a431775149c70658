"""What every page and every call of the API works with: configuration, database, the node as it is, and the clock."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol, cast

from jinja2 import Environment
from starlette.requests import HTTPConnection

from dicom_qa_node.accounts.accounts import Accounts
from dicom_qa_node.accounts.audit import Audit
from dicom_qa_node.accounts.sessions import Sessions, Throttle
from dicom_qa_node.config import Config
from dicom_qa_node.db.engine import Database
from dicom_qa_node.domain.clock import utc_now
from dicom_qa_node.domain.states import SeriesState
from dicom_qa_node.web.auth.passwords import Passwords
from dicom_qa_node.web.middleware import RateLimiter
from dicom_qa_node.web.original_slices import OriginalSlices
from dicom_qa_node.web.templating import environment

__all__ = ["Actions", "Explanation", "Health", "HealthCheck", "NodeView", "Site", "site_of"]

#: Where the site stands in the ASGI scope, so that mounted applications find it too.
SCOPE_KEY = "dicom_qa_node.site"


class HealthCheck(Protocol):
    """One thing that was looked at."""

    @property
    def name(self) -> str:
        """What was looked at."""

    @property
    def level(self) -> str:
        """One of ok, degraded, failed."""

    @property
    def detail(self) -> str:
        """What was found."""


class Health(Protocol):
    """The state of the node at one time."""

    @property
    def level(self) -> str:
        """The worst level of the checks."""

    @property
    def checks(self) -> Sequence[HealthCheck]:
        """Everything that was looked at."""

    @property
    def at(self) -> dt.datetime:
        """When."""

    @property
    def series(self) -> Mapping[SeriesState, int] | None:
        """How many series are in each state; None where the database could not be read."""


class NodeView(Protocol):
    """What the pages ask of the node; every call may read the database."""

    def health(self) -> Health:
        """Look at the node."""

    def ready(self) -> tuple[bool, str]:
        """Return whether it can receive, and why not."""

    def metrics(self) -> bytes:
        """Return the metrics as Prometheus text."""


def _no_echo(target: str) -> tuple[bool, str]:
    return False, f"this process cannot call {target}"


def _no_echo_peer(called_ae: str, host: str, port: int) -> tuple[bool, str]:
    return False, f"this process cannot call {called_ae} at {host}:{port}"


@dataclass(frozen=True, slots=True)
class Explanation:
    """How a measurement is made: its formula, and the source of formula and usual range."""

    formula: str
    reference: str


def _no_explanations() -> Mapping[str, Explanation]:
    return {}


@dataclass(frozen=True, slots=True)
class Actions:
    """What pages may start or ask but other stages do; `ops.web_server` hands them in.

    ``echo(target)`` asks a peer whether it answers and returns that with the peer's words;
    ``echo_peer(called_ae, host, port)`` asks one that no configuration names yet. ``explanations()`` returns how each
    measurement is made, by its name.
    """

    echo: Callable[[str], tuple[bool, str]] = _no_echo
    echo_peer: Callable[[str, str, int], tuple[bool, str]] = _no_echo_peer
    explanations: Callable[[], Mapping[str, Explanation]] = _no_explanations


@dataclass(frozen=True)
class Site:
    """One running web role."""

    config: Config
    database: Database
    node: NodeView
    actions: Actions = field(default_factory=Actions)
    clock: Callable[[], dt.datetime] = utc_now

    @cached_property
    def templates(self) -> Environment:
        """Return the templates."""
        return environment(self.config.score.grades)

    @cached_property
    def accounts(self) -> Accounts:
        """Return the accounts."""
        return Accounts(self.database, self.clock)

    @cached_property
    def sessions(self) -> Sessions:
        """Return the sessions, with the times of the configuration."""
        web = self.config.web
        idle, lifetime = dt.timedelta(minutes=web.session_idle_minutes), dt.timedelta(hours=web.session_hours)
        return Sessions(self.database, idle, lifetime, self.clock)

    @cached_property
    def audit(self) -> Audit:
        """Return the audit log; views use `access.note`, which knows who and from where."""
        return Audit(self.database, self.clock)

    @cached_property
    def throttle(self) -> Throttle:
        """Return the counter of failed logins."""
        return Throttle(self.database, self.clock)

    @cached_property
    def passwords(self) -> Passwords:
        """Return what makes and checks password hashes."""
        web = self.config.web
        return Passwords(web.password_memory_mb, web.password_passes, web.password_min_length)

    @cached_property
    def explanations(self) -> Mapping[str, Explanation]:
        """Return how each measurement is made, by its name."""
        return self.actions.explanations()

    @cached_property
    def original_slices(self) -> OriginalSlices:
        """Return what reads slices of the images in the spool."""
        return OriginalSlices()

    @cached_property
    def login_rate(self) -> RateLimiter:
        """Return the budget of login attempts per address."""
        return RateLimiter(self.config.web.login_per_minute)

    @cached_property
    def api_rate(self) -> RateLimiter:
        """Return the budget of API calls per token or session."""
        return RateLimiter(self.config.web.api_per_minute)


def site_of(request: HTTPConnection) -> Site:
    """Return the site a request came to, in mounted applications too."""
    return cast(Site, request.scope[SCOPE_KEY])
