"""Dependencies of the API's routes: paging, authentication and roles."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable
from typing import Annotated, Generic, TypeVar

from fastapi import Depends, HTTPException, Query, Request, Security
from fastapi.security import APIKeyCookie, HTTPBearer
from pydantic import BaseModel, Field

from dicom_qa_node.accounts.audit import Outcome
from dicom_qa_node.web.access import SAFE, Account, Permission, address_of, authenticate, note
from dicom_qa_node.web.auth.cookies import SESSION
from dicom_qa_node.web.auth.csrf import HEADER, require_own_page, require_token
from dicom_qa_node.web.site import Site, site_of

__all__ = [
    "Actor",
    "Admin",
    "CurrentSite",
    "Cursor",
    "Limit",
    "PageOf",
    "PatientViewer",
    "Reviewer",
    "Viewer",
    "allowed",
    "decode_cursor",
    "encode_cursor",
]

Item = TypeVar("Item")
Limit = Annotated[int, Query(ge=1, le=1000, description="items at most")]
Cursor = Annotated[str | None, Query(max_length=1000, description="`next` of the page before")]


class PageOf(BaseModel, Generic[Item]):
    """One page of a list."""

    items: list[Item]
    next: str | None = Field(None, description="cursor of the next page; null at the end")


def encode_cursor(*place: str | int | float | None) -> str:
    """Return a cursor for the place behind the last item."""
    return base64.urlsafe_b64encode(json.dumps(place).encode()).decode().rstrip("=")


def decode_cursor(cursor: str | None, *kinds: type) -> tuple[object, ...] | None:
    """Return the place of a cursor, None for the first page.

    Raises
    ------
    HTTPException
        422: it is none of ours; ``kinds`` are the types of its parts.
    """
    if cursor is None:
        return None
    try:
        place = json.loads(base64.urlsafe_b64decode(cursor.encode() + b"=" * (-len(cursor) % 4)))
    except (ValueError, binascii.Error, RecursionError) as error:
        raise HTTPException(422, "cursor: not one of this API") from error
    right = isinstance(place, list) and len(place) == len(kinds)
    if not right or any(type(part) is not kind for part, kind in zip(place, kinds, strict=False)):
        raise HTTPException(422, "cursor: not one of this list")
    return tuple(place)


def _site(request: Request) -> Site:
    return site_of(request)


CurrentSite = Annotated[Site, Depends(_site)]
"""What a call works with, as its first parameter: configuration, database, the node and the clock."""

_BEARER = HTTPBearer(auto_error=False, description="A token from the page of your account or `users token`.")
_COOKIE = APIKeyCookie(name=SESSION, auto_error=False, description=f"The pages' session; changes need {HEADER} too.")


def allowed(permission: Permission) -> Callable[..., Account]:
    """Return a dependency that lets pass who has a permission: ``Depends(allowed(Permission.VIEW))``.

    401 without a token or session, 403 without the permission or the token against forgery, 429 above the rate.
    """

    def check(
        request: Request,
        _bearer: Annotated[object, Security(_BEARER)],
        _cookie: Annotated[object, Security(_COOKIE)],
    ) -> Account:
        return _check(request, permission)

    return check


def _check(request: Request, permission: Permission) -> Account:
    site = site_of(request)
    account = authenticate(request)
    caller = f"address {address_of(request)}" if account is None else f"account {account.account_id}"
    wait = site.api_rate.wait_s(caller)
    if wait > 0:
        raise HTTPException(429, "too many calls", {"Retry-After": str(int(wait) + 1)})
    if account is None:
        raise HTTPException(401, "a valid bearer token or session is needed", {"WWW-Authenticate": "Bearer"})
    request.state.account = account
    if not account.may(permission):
        note(request, "access", outcome=Outcome.REFUSED, kind="api", ident=request.url.path)
        raise HTTPException(403, f"the role {account.role.value} does not allow this")
    if account.session is not None and request.method not in SAFE:
        require_own_page(request)
        require_token(account.csrf, request.headers.get(HEADER, ""))
    return account


Viewer = Annotated[Account, Depends(allowed(Permission.VIEW))]
PatientViewer = Annotated[Account, Depends(allowed(Permission.VIEW_PATIENT))]
Reviewer = Annotated[Account, Depends(allowed(Permission.REVIEW))]
Actor = Annotated[Account, Depends(allowed(Permission.ACT))]
Admin = Annotated[Account, Depends(allowed(Permission.ADMIN))]
