"""Sign-in: pages that need no session, password check with delays, and the session that follows."""

from __future__ import annotations

import datetime as dt
import logging
import math
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from dicom_qa_node.accounts.accounts import AccountRow, Invitation, NameTaken, new_secret
from dicom_qa_node.accounts.audit import Outcome
from dicom_qa_node.accounts.sessions import ThrottleLimit
from dicom_qa_node.log import log_event
from dicom_qa_node.web.access import Permission, account_of, address_of, authenticate, guarded, note, path_of
from dicom_qa_node.web.auth.cookies import PRE_SESSION, SESSION, THEME, drop_cookie, read_cookie, set_cookie
from dicom_qa_node.web.auth.csrf import FIELD, require_own_page, require_token
from dicom_qa_node.web.page_rendering import page, redirect
from dicom_qa_node.web.site import Site, site_of

__all__ = ["TooSoon", "begin_session", "check_password", "local_path", "public_page", "routes"]

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
    drop_cookie(request, response, PRE_SESSION)
    set_cookie(request, response, SESSION, secret)
    return response


def local_path(target: str) -> str:
    """Return where to go after a login: ``target`` if it is a path of this site, else the start page."""
    clean = target.isprintable() and "\\" not in target
    return target if clean and target.startswith("/") and not target.startswith("//") else "/"


_LOGGER = logging.getLogger(__name__)
_DOOR_S = 3600
_THEME_S = 365 * 86400
View = Callable[[Request], Response]


def routes(_site: Site) -> list[BaseRoute]:
    """Return the routes that need no account."""
    return [
        Route("/login", _open(_login_form), methods=["GET"]),
        Route("/login", _open(_login), methods=["POST"]),
        Route("/setup/{secret}", _open(_setup_form), methods=["GET"]),
        Route("/setup/{secret}", _open(_setup), methods=["POST"]),
        Route("/theme", _open(_theme), methods=["POST"]),
        Route("/logout", guarded(Permission.VIEW, _logout, event="logout"), methods=["POST"]),
    ]


def public_page(request: Request, template: str, status: int = 200, **context: object) -> Response:
    """Render a form for somebody without a session; its token stands in a cookie of this browser too."""
    token = read_cookie(request, PRE_SESSION) or new_secret()
    response = page(request, template, status, **{"door": token, **context})
    set_cookie(request, response, PRE_SESSION, token, _DOOR_S)
    return response


def _open(view: View) -> Callable[[Request], Coroutine[Any, Any, Response]]:
    async def endpoint(request: Request) -> Response:
        if request.method == "POST":
            request.state.form = await request.form(max_fields=20, max_files=0)
            require_own_page(request)
        return await run_in_threadpool(view, request)

    return endpoint


def _field(request: Request, name: str) -> str:
    value = request.state.form.get(name, "")
    return value if isinstance(value, str) else ""


def _check_door(request: Request) -> None:
    try:
        require_token(read_cookie(request, PRE_SESSION), _field(request, FIELD))
    except HTTPException:
        note(request, "access", outcome=Outcome.REFUSED, kind="page", ident="/login", detail="forgery check")
        raise


def _login_form(request: Request) -> Response:
    target = local_path(request.query_params.get("next", "/"))
    if authenticate(request) is not None:
        return redirect(request, target)
    return _show_login(request, target)


def _show_login(request: Request, target: str, status: int = 200, problem: str = "", name: str = "") -> Response:
    first = not site_of(request).accounts.any()
    return public_page(request, "auth/login.html", status, target=target, problem=problem, name=name, first=first)


def _login(request: Request) -> Response:
    site, target = site_of(request), local_path(_field(request, "next"))
    name, password = _field(request, "name"), _field(request, "password")
    _check_door(request)
    try:
        row = check_password(site, name, password, address_of(request))
    except TooSoon as soon:
        wait = math.ceil(soon.wait_s)
        _note_failure(request, name, Outcome.REFUSED, "too many attempts")
        response = _show_login(request, target, 429, f"Too many attempts. Try again in {_words(wait)}.", name)
        response.headers["Retry-After"] = str(wait)
        return response
    if row is None:
        _note_failure(request, name, Outcome.FAILED, "")
        log_event(_LOGGER, logging.WARNING, "login_failed", address=address_of(request))
        return _show_login(request, target, 401, "The name or the password is wrong.", name)
    _end_earlier(request)
    return begin_session(request, redirect(request, target), row, "login")


def _note_failure(request: Request, name: str, outcome: Outcome, detail: str) -> None:
    # What was typed where the name belongs may be a password: only names that exist are kept.
    row = site_of(request).accounts.named(name)
    who = row.name if row is not None else "(unknown)"
    note(request, "login", outcome=outcome, kind="account", ident=who, actor=who, detail=detail)


def _end_earlier(request: Request) -> None:
    cookie = read_cookie(request, SESSION)
    earlier = site_of(request).sessions.find(cookie, touch=False) if cookie else None
    if earlier is not None:
        site_of(request).sessions.end(earlier.token_hash)


def _words(seconds: int) -> str:
    return f"{seconds} seconds" if seconds < 120 else f"{math.ceil(seconds / 60)} minutes"


def _logout(request: Request) -> Response:
    account = account_of(request)
    if account.session is not None:
        site_of(request).sessions.end(account.session)
    note(request, "logout", kind="account", ident=account.name)
    response = redirect(request, "/login")
    drop_cookie(request, response, SESSION)
    return response


def _theme(request: Request) -> Response:
    chosen = _field(request, "theme")
    response = RedirectResponse(path_of(request, local_path(_field(request, "next"))), 303)
    if chosen in ("light", "dark"):
        set_cookie(request, response, THEME, chosen, _THEME_S)
    else:
        drop_cookie(request, response, THEME)
    return response


def _invitation(request: Request) -> Invitation:
    site = site_of(request)
    if site.login_rate.wait_s(address_of(request)) > 0:
        raise HTTPException(429, "Too many attempts. Try again in a minute.")
    found = site.accounts.invitation(request.path_params["secret"])
    if found is None:
        raise HTTPException(410, "This link has been used or has expired. Ask an administrator for a new one.")
    return found


def _setup_form(request: Request) -> Response:
    return _show_setup(request, _invitation(request))


def _show_setup(request: Request, found: Invitation, status: int = 200, problem: str = "", name: str = "") -> Response:
    return public_page(
        request, "auth/setup.html", status, invited=found.account, expires=found.expires_at, problem=problem, name=name
    )


def _setup(request: Request) -> Response:
    _check_door(request)
    found = _invitation(request)
    name = found.account.name if found.account else _field(request, "name")
    password, again = _field(request, "password"), _field(request, "again")
    problem = site_of(request).passwords.problem(password, name)
    if not problem and password != again:
        problem = "The two passwords differ."
    if problem:
        return _show_setup(request, found, 422, problem, name)
    try:
        row = _accept(request, found, name, password)
    except NameTaken as error:
        return _show_setup(request, found, 422, str(error), name)
    if row is None:
        raise HTTPException(410, "This link has been used or has expired. Ask an administrator for a new one.")
    note(request, "account.setup", kind="account", ident=row.name, actor=row.name, role=row.role.value)
    return begin_session(request, redirect(request, "/"), row, "login")


def _accept(request: Request, found: Invitation, name: str, password: str) -> AccountRow | None:
    accounts, secret = site_of(request).accounts, request.path_params["secret"]
    kept = site_of(request).passwords.hash(password)
    if found.account is not None:
        return accounts.accept(secret, kept)
    return accounts.accept_first(secret, name, _field(request, "full_name"), kept)
