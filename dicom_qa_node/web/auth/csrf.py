"""Cross-site request forgery: every change carries the session's token and comes from one of our own pages."""

from __future__ import annotations

import hmac
from urllib.parse import urlsplit

from starlette.exceptions import HTTPException
from starlette.requests import Request

__all__ = ["FIELD", "HEADER", "require_own_page", "require_token"]

FIELD = "csrf"
HEADER = "x-csrf-token"
_REFUSED = "This form is out of date or did not come from this site. Load the page again and repeat what you did."


def require_own_page(request: Request) -> None:
    """Refuse a change that another site's page has sent, as far as the browser tells.

    Raises
    ------
    HTTPException
        403.
    """
    site = request.headers.get("sec-fetch-site")
    origin = request.headers.get("origin")
    if site is not None and site not in ("same-origin", "none"):
        raise HTTPException(403, _REFUSED)
    if origin is not None:
        parts = urlsplit(origin)
        if parts.scheme != request.scope["scheme"] or parts.netloc.lower() != request.headers.get("host", "").lower():
            raise HTTPException(403, _REFUSED)


def require_token(expected: str, given: str) -> None:
    """Refuse a change without the right token.

    Raises
    ------
    HTTPException
        403.
    """
    if not expected or not hmac.compare_digest(expected.encode(), given.encode("utf-8", "surrogatepass")):
        raise HTTPException(403, _REFUSED)
