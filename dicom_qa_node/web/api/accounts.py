"""Accounts, tokens and the audit log in the API."""

from __future__ import annotations

import datetime as dt
from typing import Annotated

from fastapi import APIRouter, HTTPException, Path, Query, Request
from pydantic import BaseModel, ConfigDict, Field

from dicom_qa_node.accounts.accounts import AccountRow, Token
from dicom_qa_node.accounts.audit import AuditEntry, AuditFilter, Outcome
from dicom_qa_node.domain.accounts import Role
from dicom_qa_node.domain.uids import LARGEST_ID
from dicom_qa_node.web.access import note, path_of
from dicom_qa_node.web.api.dependencies import Admin, Cursor, Limit, PageOf, Viewer, decode_cursor, encode_cursor
from dicom_qa_node.web.site import Site

__all__ = ["router"]

Number = Annotated[int, Path(ge=1, le=LARGEST_ID)]


class AccountOut(BaseModel):
    """An account."""

    model_config = ConfigDict(from_attributes=True)

    account_id: int
    name: str
    full_name: str
    role: Role
    active: bool
    created_at: dt.datetime
    last_login_at: dt.datetime | None


class Me(BaseModel):
    """Who calls."""

    name: str
    full_name: str
    role: Role
    permissions: list[str]


class NewAccount(BaseModel):
    """An account to make."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._@-]{0,63}$")
    role: Role
    full_name: str = Field("", max_length=200)


class Invited(BaseModel):
    """A new account and its one-time link (a path of this site) to choose a password."""

    account: AccountOut
    link: str


class AccountChange(BaseModel):
    """What to change of an account."""

    model_config = ConfigDict(extra="forbid")

    role: Role | None = None
    active: bool | None = None


class TokenOut(BaseModel):
    """A token, without its secret."""

    model_config = ConfigDict(from_attributes=True)

    token_id: int
    account_id: int
    label: str
    role: Role
    created_at: dt.datetime
    expires_at: dt.datetime
    last_used_at: dt.datetime | None
    revoked_at: dt.datetime | None


class NewToken(BaseModel):
    """A token to make; it never allows more than its owner's role."""

    model_config = ConfigDict(extra="forbid")

    label: str = Field(min_length=1, max_length=200)
    role: Role = Role.VIEWER
    days: float = Field(90, gt=0, le=3660)


class MadeToken(BaseModel):
    """A new token; ``secret`` is shown this once."""

    secret: str
    token: TokenOut


class AuditOut(BaseModel):
    """A row of the audit log."""

    model_config = ConfigDict(from_attributes=True)

    audit_id: int
    at: dt.datetime
    event: str
    outcome: Outcome
    actor: str
    role: str
    address: str
    kind: str
    ident: str
    study_instance_uid: str
    patient_id: str
    detail: str


def router(site: Site) -> APIRouter:
    """Return the routes of this file."""
    made = APIRouter()
    _about_me(made, site)
    _about_accounts(made, site)
    _about_audit(made, site)
    return made


def _about_me(made: APIRouter, site: Site) -> None:
    @made.get("/me", tags=["accounts"])
    def me(account: Viewer) -> Me:
        """Say who calls."""
        return Me(
            name=account.name,
            full_name=account.full_name,
            role=account.role,
            permissions=sorted(permission.value for permission in account.permissions),
        )

    @made.get("/tokens", tags=["accounts"])
    def my_tokens(account: Viewer) -> list[TokenOut]:
        """List the caller's tokens."""
        return [_token(token) for token in site.accounts.tokens(account.account_id)]

    @made.post("/tokens", status_code=201, tags=["accounts"])
    def new_token(account: Viewer, wanted: NewToken, request: Request) -> MadeToken:
        """Make a token for the caller. One made with a token has at most its role, and ends with it at the latest."""
        if wanted.role.rank > account.role.rank:
            raise HTTPException(403, f"the role {account.role.value} cannot give {wanted.role.value}")
        secret, token = site.accounts.add_token(
            account.account_id, wanted.label, wanted.role, wanted.days, account.token
        )
        note(request, "token.add", kind="token", ident=str(token.token_id), detail=token.role.value)
        return MadeToken(secret=secret, token=_token(token))

    @made.delete("/tokens/{token_id}", status_code=204, tags=["accounts"])
    def revoke(account: Viewer, token_id: Number, request: Request) -> None:
        """Revoke one of the caller's tokens, and those that it made."""
        if not site.accounts.revoke_token(token_id, account.account_id):
            raise HTTPException(404, "no such token of yours is valid")
        note(request, "token.revoke", kind="token", ident=str(token_id))


def _about_accounts(made: APIRouter, site: Site) -> None:
    @made.get("/accounts", tags=["accounts"])
    def every(_account: Admin) -> list[AccountOut]:
        """List the accounts."""
        return [_out(row) for row in site.accounts.all()]

    @made.post("/accounts", status_code=201, tags=["accounts"])
    def add(_account: Admin, wanted: NewAccount, request: Request) -> Invited:
        """Make an account; its owner chooses a password by the link."""
        row = site.accounts.add(wanted.name, wanted.role, wanted.full_name)
        secret = site.accounts.invite(row.account_id, site.config.web.setup_link_hours)
        note(request, "account.add", kind="account", ident=row.name, detail=row.role.value)
        return Invited(account=_out(row), link=path_of(request, f"/setup/{secret}"))

    @made.patch("/accounts/{account_id}", tags=["accounts"])
    def change(_account: Admin, account_id: Number, wanted: AccountChange, request: Request) -> AccountOut:
        """Change the role of an account, or take it away; taking away ends its sessions at once."""
        row = _existing(site, account_id)
        if wanted.role is not None:
            site.accounts.set_role(account_id, wanted.role)
            note(request, "account.role", kind="account", ident=row.name, detail=wanted.role.value)
        if wanted.active is not None:
            site.accounts.set_active(account_id, wanted.active)
            event = "account.enable" if wanted.active else "account.disable"
            note(request, event, kind="account", ident=row.name)
        return _out(_existing(site, account_id))

    @made.post("/accounts/{account_id}/invitation", status_code=201, tags=["accounts"])
    def invite(_account: Admin, account_id: Number, request: Request) -> Invited:
        """Make a new one-time link for an account, for a forgotten password."""
        row = _existing(site, account_id)
        if not row.active or row.issuer is not None:
            raise HTTPException(409, "the account is not active, or its provider keeps its password")
        secret = site.accounts.invite(account_id, site.config.web.setup_link_hours)
        note(request, "account.invite", kind="account", ident=row.name)
        return Invited(account=_out(row), link=path_of(request, f"/setup/{secret}"))


def _about_audit(made: APIRouter, site: Site) -> None:
    @made.get("/audit", tags=["audit"])
    def audit(
        _account: Admin,
        request: Request,
        actor: Annotated[str, Query(max_length=200)] = "",
        event: Annotated[str, Query(max_length=64, description="the beginning of the word")] = "",
        outcome: Outcome | None = None,
        ident: Annotated[str, Query(max_length=500)] = "",
        since: dt.datetime | None = None,
        until: dt.datetime | None = None,
        limit: Limit = 100,
        cursor: Cursor = None,
    ) -> PageOf[AuditOut]:
        """Read the audit log, the latest first."""
        if any(moment is not None and moment.tzinfo is None for moment in (since, until)):
            raise HTTPException(422, "since, until: a time needs its zone, such as 2026-01-31T12:00:00Z")
        place = decode_cursor(cursor, int)
        before = None if place is None else int(str(place[0]))
        chosen = AuditFilter(since, until, actor, event, outcome.value if outcome else "", ident)
        note(request, "audit.view", kind="audit", detail=request.url.query[:500])
        rows = site.audit.entries(chosen, limit, before)
        following = encode_cursor(rows[-1].audit_id) if len(rows) == limit else None
        return PageOf(items=[_entry(row) for row in rows], next=following)


def _existing(site: Site, account_id: int) -> AccountRow:
    row = site.accounts.numbered(account_id)
    if row is None:
        raise HTTPException(404, "no such account")
    return row


def _out(row: AccountRow) -> AccountOut:
    return AccountOut.model_validate(row)


def _token(token: Token) -> TokenOut:
    return TokenOut.model_validate(token)


def _entry(row: AuditEntry) -> AuditOut:
    return AuditOut.model_validate(row)
