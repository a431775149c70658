"""The cookies: names that a browser protects where the connection allows it."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

__all__ = ["PRE_SESSION", "SESSION", "THEME", "drop_cookie", "read_cookie", "set_cookie"]

SESSION = "qa_session"
#: Before there is a session: ties a login form, a set-up form or a provider's answer to this browser.
PRE_SESSION = "qa_door"
THEME = "qa_theme"


def read_cookie(request: Request, name: str) -> str:
    """Return a cookie's value, empty if it is not there."""
    return request.cookies.get(_full_name(request, name), "")


def set_cookie(request: Request, response: Response, name: str, value: str, max_age_s: int | None = None) -> None:
    """Set a cookie that scripts cannot read; ``__Host-`` or ``__Secure-`` in its name over https."""
    response.set_cookie(
        _full_name(request, name),
        value,
        max_age=max_age_s,
        path=_path(request),
        secure=_https(request),
        httponly=True,
        # Strict would lose the session on the way back from a login provider and on links in e-mails.
        samesite="lax",
    )


def drop_cookie(request: Request, response: Response, name: str) -> None:
    """Take a cookie away."""
    response.delete_cookie(
        _full_name(request, name), path=_path(request), secure=_https(request), httponly=True, samesite="lax"
    )


def _https(request: Request) -> bool:
    return str(request.scope["scheme"]) == "https"


def _path(request: Request) -> str:
    return f"{_prefix(request)}/"


def _prefix(request: Request) -> str:
    # A mounted application adds its own place to root_path; app_root_path stays that of the whole.
    return str(request.scope.get("app_root_path", request.scope["root_path"]))


def _full_name(request: Request, name: str) -> str:
    if not _https(request):
        return name
    return f"__Secure-{name}" if _prefix(request) else f"__Host-{name}"
