"""The HTTP interface: what is asked, what is answered, and who may ask.

GET  /                       the search page
GET  /api/gallery            what the gallery holds
POST /api/query?k&where&box  the nearest pictures to the one in the body (the bytes of a file)
GET  /api/query/ID?k&where   the nearest pictures to a stored one
GET  /pictures/ID?side       a stored picture as JPEG, at most ``side`` pixels wide and high

Answers are JSON; a mistake is answered by {"error": "…"} and a status from 400 up. No path comes from a
request: pictures are known by their ids, and are encoded anew, so that no file leaves as it is.
"""

import io
import ipaddress
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Set
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import anyio
import anyio.to_thread
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from index.errors import FilterError, GalleryError, VectorError
from index.parts import Box
from retrieval.errors import ConfigError, DataError, ImageError, RetrievalError
from retrieval.gallery import Gallery
from retrieval.report import outlined
from retrieval.search import Answer, thumbnail
from retrieval.web.gallery_thread import GalleryThread

T = TypeVar("T")
STATIC = Path(__file__).parent / "static"
MAX_BYTES = 32 * 2**20
"""The largest picture that is taken."""
MAX_K = 500
READERS = 4
"""Stored pictures that are read at once: large ones take memory."""
SIDE, MAX_SIDE = 256, 1024
MISTAKES = (ConfigError, DataError, ImageError, FilterError, VectorError)
"""Errors of who asks; all others are of the gallery."""
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; img-src 'self' blob:; script-src 'self'; style-src "
    "'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}


def search_app(gallery: GalleryThread, names: Iterable[str] = ()) -> Starlette:
    """The application that answers for a gallery, to who asks by address, localhost or these names.

    By other names it does not, for a page of another site can make a name of its own point here.
    """
    return Starlette(
        routes=[
            Route("/", _page),
            Route("/api/gallery", _about),
            Route("/api/query", _query, methods=["POST"], max_body_size=MAX_BYTES),
            Route("/api/query/{item_id:int}", _query_stored),
            Route("/pictures/{item_id:int}", _picture),
            Mount("/static", StaticFiles(directory=STATIC)),
        ],
        middleware=[
            Middleware(BaseHTTPMiddleware, dispatch=_guarding({"localhost", *names})),
        ],
        exception_handlers={
            HTTPException: _refused, RetrievalError: _failed, GalleryError: _failed, OSError: _failed,
        },
        lifespan=_closing(gallery),
    )  # fmt: skip


def _closing(gallery: GalleryThread) -> Callable[[Starlette], Any]:
    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        app.state.gallery, app.state.readers = gallery, anyio.CapacityLimiter(READERS)
        yield
        gallery.close()

    return lifespan


def _guarding(names: Set[str]) -> Callable[..., Awaitable[Response]]:
    """Answer nobody but our own page and programs: no other page can show or ask what is here."""

    async def guard(request: Request, answer: Callable[[Request], Awaitable[Response]]) -> Response:
        if not _is_named(request.headers.get("host", ""), names):
            response = _json({"error": "asked by a name that is not known here; see --name"}, 403)
        elif _is_from_elsewhere(request):
            response = _json({"error": "another site may not ask here"}, 403)
        else:
            response = await answer(request)
        response.headers.update({k: v for k, v in HEADERS.items() if k not in response.headers})
        return response

    return guard


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


def _is_from_elsewhere(request: Request) -> bool:
    """Whether a page of another site asks, but for a link to our page that a person follows."""
    followed = request.url.path == "/" and request.headers.get("sec-fetch-mode") == "navigate"
    site = request.headers.get("sec-fetch-site", "none")
    return site not in ("none", "same-origin") and not followed


async def _page(request: Request) -> Response:
    return FileResponse(STATIC / "page.html")


async def _about(request: Request) -> Response:
    return _json(await _gallery(request).ask(_facts))


def _facts(gallery: Gallery) -> dict[str, Any]:
    """What the page says of the gallery, and whether photos can ask."""
    known = gallery.info()
    facts = {name: known[name] for name in ("pictures", "labels", "metric")}
    return {"name": Path(known["path"]).name, **facts, "photos": gallery.vectors.has_model}


async def _query(request: Request) -> Response:
    picture = await request.body()
    if not picture:
        raise DataError("there is no picture in the body of the request; send the bytes of a file")
    k, where, box = _k(request), _where(request), _box(request)

    def hits(gallery: Gallery) -> list[dict[str, Any]]:
        return _hits(gallery, gallery.query_picture(picture, k, box=box, where=where))

    return _json({"hits": await _gallery(request).ask(hits)})


async def _query_stored(request: Request) -> Response:
    item_id, k, where = request.path_params["item_id"], _k(request), _where(request)

    def hits(gallery: Gallery) -> list[dict[str, Any]] | None:
        if _place(gallery, item_id) is None:
            return None
        return _hits(gallery, gallery.query_stored(item_id, k, where=where))

    return _json({"hits": _there(await _gallery(request).ask(hits), item_id)})


async def _picture(request: Request) -> Response:
    item_id = request.path_params["item_id"]
    side = _number(request, "side", SIDE, 16, MAX_SIDE)
    place = await _gallery(request).ask(lambda gallery: _place(gallery, item_id))
    file, box = _there(place, item_id)
    # Reading takes longer than asking: it must not keep others waiting.
    jpeg = await anyio.to_thread.run_sync(_jpeg, file, box, side, limiter=request.app.state.readers)
    return Response(jpeg, media_type="image/jpeg")


def _place(gallery: Gallery, item_id: int) -> tuple[Path, Box | None] | None:
    """The file of a stored picture, and where in it the object is that was stored."""
    item = gallery.vectors.items([item_id]).get(item_id)
    if item is None:
        return None
    file, box = gallery.vectors.place_of(item.path)
    return gallery.vectors.image_root / file, box


def _jpeg(file: Path, box: Box | None, side: int) -> bytes:
    picture, outline = thumbnail(file, box, side)
    buffer = io.BytesIO()
    outlined(picture, outline, side).save(buffer, "JPEG", quality=88)
    return buffer.getvalue()


def _gallery(request: Request) -> GalleryThread:
    gallery: GalleryThread = request.app.state.gallery
    return gallery


def _k(request: Request) -> int:
    return _number(request, "k", 24, 1, MAX_K)


def _where(request: Request) -> str | None:
    return request.query_params.get("where", "").strip() or None


def _box(request: Request) -> Box | None:
    text = request.query_params.get("box")
    if not text:
        return None
    try:
        left, top, width, height = (int(part) for part in text.split(","))
    except ValueError as error:
        raise ConfigError(
            f"box is {text!r}; it must be left,top,width,height in whole pixels"
        ) from error
    return left, top, width, height


def _number(request: Request, name: str, default: int, least: int, most: int) -> int:
    text = request.query_params.get(name, str(default))
    number = int(text) if text.isascii() and text.isdigit() else least - 1
    if not least <= number <= most:
        raise ConfigError(f"{name} is {text!r}; it must be a whole number from {least} to {most}")
    return number


def _hits(gallery: Gallery, answer: Answer) -> list[dict[str, Any]]:
    """The hits as JSON types, with paths below the gallery's folder of pictures."""
    root = gallery.vectors.image_root
    hits: list[dict[str, Any]] = answer.to_dict()["hits"]
    return [{**hit, "path": os.path.relpath(hit["path"], root)} for hit in hits]


def _there(found: T | None, item_id: int) -> T:
    """What was found of a stored picture. Raises HTTPException where it is not there."""
    if found is None:
        raise HTTPException(404, f"the gallery holds no picture with the id {item_id}")
    return found


def _json(value: Any, status: int = 200) -> Response:
    # In ASCII: names of files may hold bytes that are not UTF-8.
    return Response(json.dumps(value, allow_nan=False), status, media_type="application/json")


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _json({"error": error.detail}, error.status_code)


async def _failed(request: Request, error: Exception) -> Response:
    return _json({"error": str(error)}, 400 if isinstance(error, MISTAKES) else 503)
