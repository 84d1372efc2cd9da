"""Who may ask: our own page, and programs, by a name that is known."""

import ipaddress
from collections.abc import Awaitable, Callable, Set
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; img-src 'self' blob:; script-src 'self'; style-src "
    "'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}


def guarding(names: Set[str]) -> Callable[..., Awaitable[Response]]:
    """A middleware that lets our own page and programs ask by these names, and no other page.

    Nor can another page show or read what is answered.
    """

    async def guard(request: Request, answer: Callable[[Request], Awaitable[Response]]) -> Response:
        if not _is_named(request.headers.get("host", ""), names):
            response = _refusal("asked by a name that is not known here; see --name")
        elif _is_from_elsewhere(request, names):
            response = _refusal("another site may not ask here")
        else:
            response = await answer(request)
        response.headers.update({k: v for k, v in HEADERS.items() if k not in response.headers})
        return response

    return guard


def _refusal(reason: str) -> Response:
    return JSONResponse({"error": reason}, 403)


def _is_named(host: str, names: Set[str]) -> bool:
    """Whether a request is for an address in numbers, with or without a port, or one of these names."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return name in names
    return True


def _is_from_elsewhere(request: Request, names: Set[str]) -> bool:
    """Whether a page of another site asks, but for a link to our page that a person follows."""
    followed = request.url.path == "/" and request.headers.get("sec-fetch-mode") == "navigate"
    site = request.headers.get("sec-fetch-site", "none")
    # Browsers tell the site only to whom they trust, and where a question comes from to all.
    origin = request.headers.get("origin")
    place = (origin or "").partition("://")[2]
    own = origin is None or place in (request.headers.get("host"), *names)
    return not own or (site not in ("none", "same-origin") and not followed)
