"""Who may log in, for administrators: add, change the role, take away, and links for forgotten passwords."""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from dicom_qa_node.accounts.accounts import AccountRow
from dicom_qa_node.domain.accounts import Role
from dicom_qa_node.domain.errors import Permanent
from dicom_qa_node.domain.uids import LARGEST_ID
from dicom_qa_node.web.access import Permission, form_of, guarded, note, path_of
from dicom_qa_node.web.page_rendering import page, redirect
from dicom_qa_node.web.site import Site, site_of

__all__ = ["routes"]


def routes(_site: Site) -> list[BaseRoute]:
    """Return the routes of this file."""
    one = "/users/{account_id:int}"
    return [
        Route("/users", guarded(Permission.ADMIN, _show), methods=["GET"]),
        Route("/users", guarded(Permission.ADMIN, _add), methods=["POST"]),
        Route(f"{one}/role", guarded(Permission.ADMIN, _role), methods=["POST"]),
        Route(f"{one}/active", guarded(Permission.ADMIN, _active), methods=["POST"]),
        Route(f"{one}/invitation", guarded(Permission.ADMIN, _invite), methods=["POST"]),
        Route("/users/tokens/{token_id:int}/revoke", guarded(Permission.ADMIN, _revoke), methods=["POST"]),
    ]


def _show(request: Request, status: int = 200, **more: object) -> Response:
    site = site_of(request)
    rows = site.accounts.all()
    names = {row.account_id: row.name for row in rows}
    tokens = [token for token in site.accounts.tokens() if token.revoked_at is None]
    context = {
        "rows": rows, "sessions": site.sessions.count(), "tokens": tokens, "names": names, "roles": list(Role),
        "problem": "", "link": "", "invited": None,
    }  # fmt: skip
    return page(request, "users/users.html", status, **(context | more))


def _word(request: Request, name: str) -> str:
    value = form_of(request).get(name, "")
    return value if isinstance(value, str) else ""


def _chosen_role(request: Request) -> Role:
    try:
        return Role(_word(request, "role"))
    except ValueError as error:
        raise HTTPException(422, "There is no such role.") from error


def _one(request: Request) -> AccountRow:
    row = site_of(request).accounts.numbered(min(request.path_params["account_id"], LARGEST_ID))
    if row is None:
        raise HTTPException(404)
    return row


def _add(request: Request) -> Response:
    site, role = site_of(request), _chosen_role(request)
    try:
        row = site.accounts.add(_word(request, "name"), role, _word(request, "full_name"))
    except Permanent as error:
        return _show(request, 422, problem=str(error))
    note(request, "account.add", kind="account", ident=row.name, detail=role.value)
    return _with_link(request, row, 201)


def _with_link(request: Request, row: AccountRow, status: int = 200) -> Response:
    site = site_of(request)
    secret = site.accounts.invite(row.account_id, site.config.web.setup_link_hours)
    root = site.config.web.public_url.rstrip("/") or f"{request.url.scheme}://{request.headers['host']}"
    here = f"{root}/setup/{secret}" if site.config.web.public_url else root + path_of(request, f"/setup/{secret}")
    return _show(request, status, link=here, invited=row)


def _role(request: Request) -> Response:
    row, role = _one(request), _chosen_role(request)
    try:
        site_of(request).accounts.set_role(row.account_id, role)
    except Permanent as error:
        return _show(request, 409, problem=str(error))
    note(request, "account.role", kind="account", ident=row.name, detail=role.value)
    return redirect(request, "/users")


def _active(request: Request) -> Response:
    row, active = _one(request), _word(request, "active") == "yes"
    try:
        site_of(request).accounts.set_active(row.account_id, active)
    except Permanent as error:
        return _show(request, 409, problem=str(error))
    note(request, "account.enable" if active else "account.disable", kind="account", ident=row.name)
    return redirect(request, "/users")


def _invite(request: Request) -> Response:
    row = _one(request)
    if not row.active or row.issuer is not None:
        return _show(request, 409, problem="The account is not active, or its provider keeps its password.")
    note(request, "account.invite", kind="account", ident=row.name)
    return _with_link(request, row)


def _revoke(request: Request) -> Response:
    number = min(request.path_params["token_id"], LARGEST_ID)
    if not site_of(request).accounts.revoke_token(number):
        raise HTTPException(404)
    note(request, "token.revoke", kind="token", ident=str(number))
    return redirect(request, "/users")
