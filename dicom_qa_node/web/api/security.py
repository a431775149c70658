"""Who calls the API: a bearer token with a role, or the session of a browser with its token against forgery."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from fastapi import Depends, HTTPException, Request, Security
from fastapi.security import APIKeyCookie, HTTPBearer

from dicom_qa_node.store.audit import Outcome
from dicom_qa_node.web.access import SAFE, Account, Permission, address_of, authenticate, note
from dicom_qa_node.web.auth.cookies import SESSION
from dicom_qa_node.web.auth.forgery import HEADER, require_own_page, require_token
from dicom_qa_node.web.site import site_of

__all__ = ["Actor", "Admin", "PatientViewer", "Reviewer", "Viewer", "allowed"]

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
