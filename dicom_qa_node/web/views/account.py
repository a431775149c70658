"""The page of one's own account: password and API tokens."""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from dicom_qa_node.accounts.audit import Outcome
from dicom_qa_node.domain.accounts import Role
from dicom_qa_node.web.access import Account, Permission, account_of, address_of, form_of, guarded, note
from dicom_qa_node.web.auth.sign_in import TooSoon, begin_session, check_password
from dicom_qa_node.web.page_rendering import page, redirect
from dicom_qa_node.web.site import Site, site_of

__all__ = ["routes"]

_DAYS = (7, 30, 90, 365)


def routes(_site: Site) -> list[BaseRoute]:
    """Return the routes of this file."""
    return [
        Route("/account", guarded(Permission.VIEW, _show), methods=["GET"]),
        Route("/account/password", guarded(Permission.VIEW, _password), methods=["POST"]),
        Route("/account/tokens", guarded(Permission.VIEW, _add_token), methods=["POST"]),
        Route("/account/tokens/{token_id:int}/revoke", guarded(Permission.VIEW, _revoke), methods=["POST"]),
    ]


def _show(request: Request, status: int = 200, **more: object) -> Response:
    site, account = site_of(request), _person(request)
    tokens = [token for token in site.accounts.tokens(account.account_id) if token.revoked_at is None]
    roles = [role for role in Role if role.rank <= account.role.rank]
    context = {"tokens": tokens, "roles": roles, "days": _DAYS, "problem": "", "secret": "", "changed": ""} | more
    return page(request, "users/account.html", status, **context)


def _person(request: Request) -> Account:
    account = account_of(request)
    if account.session is None:
        raise HTTPException(403, "This page is for people, not for API tokens.")
    return account


def _word(request: Request, name: str) -> str:
    value = form_of(request).get(name, "")
    return value if isinstance(value, str) else ""


def _password(request: Request) -> Response:
    site, account = site_of(request), _person(request)
    if not account.local:
        raise HTTPException(409, "Your login provider keeps your password.")
    new, again = _word(request, "new"), _word(request, "again")
    problem = site.passwords.problem(new, account.name)
    if not problem and new != again:
        problem = "The two new passwords differ."
    if not problem:
        try:
            right = check_password(site, account.name, _word(request, "old"), address_of(request))
        except TooSoon:
            return _show(request, 429, problem="Too many attempts. Try again in a minute.")
        problem = "" if right else "The present password is wrong."
    if problem:
        note(request, "account.password", kind="account", ident=account.name, outcome=Outcome.FAILED)
        return _show(request, 422, problem=problem)
    site.accounts.set_password(account.account_id, site.passwords.hash(new))
    row = site.accounts.numbered(account.account_id)
    assert row is not None
    note(request, "account.password", kind="account", ident=account.name)
    # Every session has ended, this one too; the person at the keyboard gets a new one.
    return begin_session(request, redirect(request, "/account?changed=password"), row, "login")


def _add_token(request: Request) -> Response:
    site, account = site_of(request), _person(request)
    label, days = _word(request, "label").strip(), _word(request, "days")
    role = next((role for role in Role if role.value == _word(request, "role")), None)
    if not label or role is None or role.rank > account.role.rank or days not in map(str, _DAYS):
        return _show(
            request, 422, problem="A token needs a name, a role that is not above yours, and a length of life."
        )
    secret, token = site.accounts.add_token(account.account_id, label, role, float(days))
    note(request, "token.add", kind="token", ident=str(token.token_id), detail=role.value)
    return _show(request, 201, secret=secret)


def _revoke(request: Request) -> Response:
    number = request.path_params["token_id"]
    if not site_of(request).accounts.revoke_token(number, _person(request).account_id):
        raise HTTPException(404)
    note(request, "token.revoke", kind="token", ident=str(number))
    return redirect(request, "/account")
