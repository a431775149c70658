"""Who may do what: roles, permissions, and the guard around every view.

A view is a plain function ``view(request) -> Response``; `guarded` makes an endpoint of it that knows who asks,
refuses whoever may not, checks the token against forgery of every change, runs the view in a thread (it reads the
database), and leaves a row in the audit log for every change, and for whatever the view notes itself (`note`).
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, cast
from urllib.parse import quote

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection, Request
from starlette.responses import RedirectResponse, Response

from dicom_qa_node.accounts.accounts import AccountRow, Token
from dicom_qa_node.accounts.audit import Outcome
from dicom_qa_node.domain.accounts import Role
from dicom_qa_node.web.auth.cookies import SESSION, read_cookie
from dicom_qa_node.web.auth.csrf import FIELD, HEADER, require_own_page, require_token
from dicom_qa_node.web.site import Site, site_of

__all__ = [
    "Account", "Permission", "Role", "account_of", "address_of", "authenticate", "form_of", "guarded", "note",
    "path_of", "permissions_of", "prefix_of", "word_of",
]  # fmt: skip

SAFE = ("GET", "HEAD", "OPTIONS")
Endpoint = Callable[[Request], Coroutine[Any, Any, Response]]


class Permission(StrEnum):
    """What a view needs."""

    VIEW = "view"
    VIEW_PATIENT = "view_patient"
    REVIEW = "review"
    ACT = "act"
    ADMIN = "admin"


_OF_ROLE = {
    Role.VIEWER: frozenset({Permission.VIEW}),
    Role.REVIEWER: frozenset({Permission.VIEW, Permission.VIEW_PATIENT, Permission.REVIEW}),
    Role.ADMIN: frozenset(Permission),
}


@dataclass(frozen=True, slots=True)
class Account:
    """Who asks, for the length of one request.

    ``session`` is the hash of the session's secret, None for an API ``token``; ``csrf`` is empty then.
    """

    account_id: int
    name: str
    full_name: str
    role: Role
    permissions: frozenset[Permission]
    csrf: str
    session: str | None
    local: bool
    token: Token | None = None

    def may(self, permission: Permission) -> bool:
        """Return whether something is allowed."""
        return permission in self.permissions

    @property
    def sees_patients(self) -> bool:
        """Whether names and identifiers of patients may be shown."""
        return Permission.VIEW_PATIENT in self.permissions


def permissions_of(role: Role, site: Site) -> frozenset[Permission]:
    """Return what a role may do here."""
    extra = {Permission.VIEW_PATIENT} if site.config.web.viewer_sees_patients else set()
    return _OF_ROLE[role] | extra


def authenticate(request: Request) -> Account | None:
    """Return who asks, by API token or session cookie; None for an unauthenticated request. Reads the database."""
    site = site_of(request)
    scheme, _, secret = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        found = site.accounts.of_token(secret.strip())
        if found is None:
            return None
        row, token = found
        return _account(row, min(row.role, token.role, key=lambda role: role.rank), site, "", None, token)
    cookie = read_cookie(request, SESSION)
    # A page that refreshes itself must not keep somebody logged in who has left.
    session = site.sessions.find(cookie, touch="x-background" not in request.headers) if cookie else None
    if session is None:
        return None
    return _account(session.account, session.account.role, site, session.csrf, session.token_hash)


def account_of(request: HTTPConnection) -> Account:
    """Return who asks; only behind `guarded` or the API's ``allowed``."""
    return cast(Account, request.state.account)


def form_of(request: Request) -> FormData:
    """Return the form of a POST; only behind `guarded`."""
    return cast(FormData, request.state.form)


def word_of(request: Request, name: str) -> str:
    """Return a text field of the form without the space around it, "" where it is missing."""
    value = form_of(request).get(name, "")
    return value.strip() if isinstance(value, str) else ""


def address_of(request: HTTPConnection) -> str:
    """Return the client's address, behind trusted proxies too."""
    return request.client.host if request.client else ""


def prefix_of(request: HTTPConnection) -> str:
    """Return the path prefix of the whole site, such as ``/quality``, empty for the root."""
    return str(request.scope.get("app_root_path", request.scope["root_path"]))


def path_of(request: HTTPConnection, path: str) -> str:
    """Return an address within the site: the prefix and ``path``, which starts with a slash."""
    return prefix_of(request) + path


def note(
    request: HTTPConnection,
    event: str,
    *,
    kind: str = "",
    ident: str = "",
    outcome: Outcome = Outcome.SUCCESS,
    study_instance_uid: str = "",
    patient_id: str = "",
    detail: str = "",
    actor: str = "",
    role: str = "",
) -> None:
    """Add a row to the audit log for what this request did; durable on return.

    ``event`` is a dotted word (``series.view``, ``series.rescore``, ``log.export``), ``kind`` and ``ident`` name the
    object (``series`` and its UID). A view that notes its own event gets no second row from `guarded`.
    """
    account: Account | None = getattr(request.state, "account", None)
    request.state.noted = True
    site_of(request).audit.record(
        event,
        actor=actor or (account.name if account else "(nobody)"),
        role=role or (account.role.value if account else ""),
        address=address_of(request),
        kind=kind,
        ident=ident,
        outcome=outcome,
        study_instance_uid=study_instance_uid,
        patient_id=patient_id,
        detail=detail,
    )


def guarded(permission: Permission, view: Callable[[Request], Response], *, event: str = "") -> Endpoint:
    """Make an endpoint of a view.

    Parameters
    ----------
    permission
        What the account needs; without it the answer is 403, without an account the way to the login page.
    view
        Runs in a thread. The form of a POST has been read: `form_of`.
    event
        Word for the audit log when a change does not note its own; default: method and path.
    """

    async def endpoint(request: Request) -> Response:
        if request.method not in SAFE:
            request.state.form = await request.form(max_fields=500, max_files=5)
        return await run_in_threadpool(run, request)

    def run(request: Request) -> Response:
        account = authenticate(request)
        if account is None:
            return _to_login(request)
        request.state.account = account
        if not account.may(permission):
            note(request, "access", outcome=Outcome.REFUSED, kind="page", ident=request.url.path)
            raise HTTPException(403, "Your role does not allow this.")
        if request.method in SAFE:
            return view(request)
        _check_change(request, account)
        response = view(request)
        if not getattr(request.state, "noted", False):
            outcome = Outcome.SUCCESS if response.status_code < 400 else Outcome.FAILED
            note(request, event or f"{request.method} {request.url.path}", outcome=outcome, kind="page")
        return response

    return endpoint


def _check_change(request: Request, account: Account) -> None:
    if account.session is None:
        return
    given = request.headers.get(HEADER) or request.state.form.get(FIELD)
    try:
        require_own_page(request)
        require_token(account.csrf, given if isinstance(given, str) else "")
    except HTTPException:
        note(request, "access", outcome=Outcome.REFUSED, kind="page", ident=request.url.path, detail="forgery check")
        raise


def _to_login(request: Request) -> Response:
    if request.headers.get("authorization"):
        raise HTTPException(401, headers={"WWW-Authenticate": "Bearer"})
    here = request.url.path.removeprefix(prefix_of(request))
    back = f"{here}?{request.url.query}" if request.url.query else here
    target = f"{path_of(request, '/login')}?next={quote(back, safe='')}" if back != "/" else path_of(request, "/login")
    if "hx-request" in request.headers:
        return Response(status_code=401, headers={"HX-Redirect": path_of(request, "/login")})
    if request.method not in SAFE:
        raise HTTPException(401, "Your session has ended. Log in again and repeat what you did.")
    return RedirectResponse(target, 303)


def _account(
    row: AccountRow, role: Role, site: Site, csrf: str, session: str | None, token: Token | None = None
) -> Account:
    return Account(
        account_id=row.account_id,
        name=row.name,
        full_name=row.full_name or row.name,
        role=role,
        permissions=permissions_of(role, site),
        csrf=csrf,
        session=session,
        local=row.issuer is None,
        token=token,
    )
