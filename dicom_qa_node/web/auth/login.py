"""Decides about a login: how long somebody has to wait, whether the password is right, and the session that follows.

Wrong passwords are counted three times. Under account and address together the wait grows soon: this is the ordinary
lockout. Under the address alone and under the account alone it begins ten times later and stays short, so that nobody
can lock others out: not the neighbours behind the same proxy, and not an account from many addresses; an address from
which the account was logged in lately does not feel the latter at all.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response

from dicom_qa_node.store.accounts import AccountRow
from dicom_qa_node.store.sessions import ThrottleLimit
from dicom_qa_node.web.access import address_of, note
from dicom_qa_node.web.auth.cookies import DOOR, SESSION, drop_cookie, set_cookie
from dicom_qa_node.web.site import Site, site_of

__all__ = ["TooSoon", "begin_session", "check_password", "local_path"]

_SHORT = dt.timedelta(seconds=60)
_WIDE = 10


@dataclass(frozen=True, slots=True)
class TooSoon(Exception):
    """The next attempt may come after ``wait_s`` seconds."""

    wait_s: float


def check_password(site: Site, name: str, password: str, address: str) -> AccountRow | None:
    """Return the account if name and password are right, None if not; takes the same time for unknown names.

    Raises
    ------
    TooSoon
        Too many attempts; the password has not been looked at.
    """
    folded = name.strip().lower()[:64]
    row = site.accounts.named(folded)
    limits = _limits(site, folded, row, address[:64])
    wait_s = max(site.login_rate.wait_s(address), site.throttle.attempt(limits))
    if wait_s > 0:
        raise TooSoon(wait_s)
    kept = row.password_hash if row is not None and row.active else ""
    if not site.passwords.verify(kept, password) or row is None:
        return None
    pair, *others = limits
    site.throttle.returned({key: limits[key] for key in others})
    site.throttle.passed(pair)
    if site.passwords.outdated(row.password_hash):
        site.accounts.rehash(row.account_id, site.passwords.hash(password))
    return row


def _limits(site: Site, name: str, row: AccountRow | None, address: str) -> dict[str, ThrottleLimit]:
    """Return the keys under which an attempt counts; that of account and address together comes first."""
    web = site.config.web
    wide = ThrottleLimit(web.lockout_failures * _WIDE, _SHORT)
    longest = dt.timedelta(minutes=web.lockout_max_minutes)
    limits = {
        f"pair|{name}|{address}": ThrottleLimit(web.lockout_failures, longest),
        f"address|{address}": wide,
    }
    if row is None or not site.sessions.known(row.account_id, address):
        limits[f"account|{name}"] = wide
    return limits


def begin_session(request: Request, response: Response, row: AccountRow, event: str) -> Response:
    """Open a new session for an account and put its cookie on the answer; an earlier cookie means nothing any more."""
    site = site_of(request)
    secret = site.sessions.begin(row.account_id, address_of(request), request.headers.get("user-agent", ""))
    site.accounts.logged_in(row.account_id)
    note(request, event, kind="account", ident=row.name, actor=row.name, role=row.role.value)
    drop_cookie(request, response, DOOR)
    set_cookie(request, response, SESSION, secret)
    return response


def local_path(target: str) -> str:
    """Return where to go after a login: ``target`` if it is a path of this site, else the start page."""
    clean = target.isprintable() and "\\" not in target
    return target if clean and target.startswith("/") and not target.startswith("//") else "/"
