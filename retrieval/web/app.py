"""The HTTP interface: what is asked, and what is answered.

GET  /                          the search page
GET  /api/gallery               what the gallery holds
POST /api/query?k&where&box&of  the nearest pictures to the one in the body (the bytes of a file), or to
                                a box of it, in pixels of the upright picture, or of it scaled to ``of``
GET  /api/query/ID?k&where      the nearest pictures to a stored one
POST /api/picture?side          the picture in the body upright, as the network sees it, as JPEG
GET  /pictures/ID?side          a stored picture as JPEG

Answers are JSON; a mistake is answered by {"error": "…"} and a status from 400 up. No path comes from a
request: pictures are known by their ids, and are encoded anew, so that no file leaves as it is.
"""

import io
import json
import logging
import math
import os
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import anyio
import anyio.to_thread
from PIL import Image
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
from retrieval.images import read_thumbnail, upright_size
from retrieval.report import outlined
from retrieval.search import Answer
from retrieval.thumbnails import thumbnail
from retrieval.web.gallery_thread import GalleryThread
from retrieval.web.guard import guarding

T = TypeVar("T")
logger = logging.getLogger(__name__)
STATIC = Path(__file__).parent / "static"
MAX_BYTES = 32 * 2**20
"""The largest picture that is taken."""
MAX_K = 500
READERS, UPLOADS = 4, 8
"""Pictures that are decoded, and that are sent or wait for their answer, at once: they take memory."""
UPLOAD_SECONDS = 60
SIDE, MAX_SIDE = 256, 1024
MISTAKES = (ConfigError, DataError, ImageError, FilterError, VectorError)
"""Errors of who asks; all others are of the gallery."""


def search_app(gallery: GalleryThread, names: Iterable[str] = ()) -> Starlette:
    """The application that answers for a gallery, to who asks by address, localhost or these names.

    By other names it does not, for a page of another site can make a name of its own point here.
    """
    return Starlette(
        routes=[
            Route("/", _page),
            Route("/api/gallery", _about),
            Route("/api/query", _query, methods=["POST"]),
            Route("/api/query/{item_id}", _query_stored),
            Route("/api/picture", _upright, methods=["POST"]),
            Route("/pictures/{item_id}", _picture),
            Mount("/static", StaticFiles(directory=STATIC)),
        ],
        middleware=[
            Middleware(BaseHTTPMiddleware, dispatch=guarding({"localhost", *names})),
        ],
        exception_handlers={
            HTTPException: _refused, RetrievalError: _failed, GalleryError: _failed, OSError: _failed,
            Exception: _broken,
        },
        lifespan=_closing(gallery),
    )  # fmt: skip


def _closing(gallery: GalleryThread) -> Callable[[Starlette], Any]:
    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        app.state.gallery = gallery
        app.state.readers = anyio.CapacityLimiter(READERS)
        app.state.uploads = anyio.CapacityLimiter(UPLOADS)
        yield
        gallery.close()

    return lifespan


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
    async with _body(request) as picture:
        k, where = _k(request), _where(request)
        box, of = _numbers(request, "box", 4), _numbers(request, "of", 2)

        def hits(gallery: Gallery) -> list[dict[str, Any]]:
            part = None if box is None else _in_pixels(box, of, picture)
            return _hits(gallery, gallery.query_picture(picture, k, box=part, where=where))

        return _json({"hits": await _gallery(request).ask(hits)})


async def _query_stored(request: Request) -> Response:
    item_id, k, where = _item_id(request), _k(request), _where(request)

    def hits(gallery: Gallery) -> list[dict[str, Any]] | None:
        if _place(gallery, item_id) is None:
            return None
        return _hits(gallery, gallery.query_stored(item_id, k, where=where))

    return _json({"hits": _there(await _gallery(request).ask(hits), item_id)})


async def _picture(request: Request) -> Response:
    item_id = _item_id(request)
    side = _number(request, "side", SIDE, 16, MAX_SIDE)
    place = await _gallery(request).ask(lambda gallery: _place(gallery, item_id))
    file, box = _there(place, item_id)
    # Reading takes longer than asking: it must not keep others waiting.
    jpeg = await anyio.to_thread.run_sync(_jpeg, file, box, side, limiter=request.app.state.readers)
    return Response(jpeg, media_type="image/jpeg")


async def _upright(request: Request) -> Response:
    async with _body(request) as picture:
        side = _number(request, "side", MAX_SIDE, 16, MAX_SIDE)
        jpeg = await anyio.to_thread.run_sync(
            lambda: _encoded(Image.fromarray(read_thumbnail(picture, side))),
            limiter=request.app.state.readers,
        )
    return Response(jpeg, media_type="image/jpeg")


@asynccontextmanager
async def _body(request: Request) -> AsyncIterator[bytes]:
    """The picture that is sent. Large ones take memory, so others wait to be sent while it is used.

    Raises DataError for none, HTTPException for one that does not come, or is too large.
    """
    _check_size(_whole(request.headers.get("content-length", "")) or 0)  # before it is sent
    async with request.app.state.uploads:
        yield await _received(request)


async def _received(request: Request) -> bytes:
    picture = bytearray()
    try:
        with anyio.fail_after(UPLOAD_SECONDS):
            async for part in request.stream():
                picture += part
                _check_size(len(picture))
    except TimeoutError as error:
        raise HTTPException(408, "the picture did not arrive in time") from error
    if not picture:
        raise DataError("there is no picture in the body of the request; send the bytes of a file")
    return bytes(picture)


def _check_size(size: int) -> None:
    if size > MAX_BYTES:
        most = f"a picture may have {MAX_BYTES >> 20} MiB, and this one is larger"
        raise HTTPException(413, most)


def _place(gallery: Gallery, item_id: int) -> tuple[Path, Box | None] | None:
    """The file of a stored picture, and where in it the object is that was stored."""
    gallery.vectors.refresh()
    item = gallery.vectors.items([item_id]).get(item_id)
    if item is None:
        return None
    file, box = gallery.vectors.place_of(item.path)
    return gallery.vectors.image_root / file, box


def _jpeg(file: Path, box: Box | None, side: int) -> bytes:
    picture, outline = thumbnail(file, box, side)
    return _encoded(outlined(picture, outline, side))


def _encoded(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=88)
    return buffer.getvalue()


def _gallery(request: Request) -> GalleryThread:
    gallery: GalleryThread = request.app.state.gallery
    return gallery


def _k(request: Request) -> int:
    return _number(request, "k", 24, 1, MAX_K)


def _where(request: Request) -> str | None:
    return request.query_params.get("where", "").strip() or None


def _in_pixels(box: Sequence[int], of: Sequence[int] | None, picture: bytes) -> Box:
    """A box in pixels of the upright picture, from one in a picture scaled to this width and height.

    Raises ConfigError for a box that does not lie within that.
    """
    left, top, width, height = box
    if of is None:
        return left, top, width, height
    if min(of) < 1 or left + width > of[0] or top + height > of[1]:
        raise ConfigError(
            f"box is {left},{top},{width},{height}, which reaches out of {of[0]}×{of[1]} pixels"
        )
    size = upright_size(picture)
    across, down = size[0] / of[0], size[1] / of[1]
    x, y = math.floor(left * across), math.floor(top * down)
    right, bottom = math.ceil((left + width) * across), math.ceil((top + height) * down)
    return x, y, min(right, size[0]) - x, min(bottom, size[1]) - y


def _numbers(request: Request, name: str, count: int) -> list[int] | None:
    """So many whole numbers with commas between them, or None."""
    text = request.query_params.get(name)
    if not text:
        return None
    numbers = [_whole(part) for part in text.split(",")]
    found = [number for number in numbers if number is not None]
    if len(numbers) != count or len(found) != count:
        raise ConfigError(f"{name} is {text[:80]!r}; it must be {count} whole numbers of pixels")
    return found


def _number(request: Request, name: str, default: int, least: int, most: int) -> int:
    text = request.query_params.get(name, str(default))
    number = _whole(text)
    if number is None or not least <= number <= most:
        raise ConfigError(
            f"{name} is {text[:80]!r}; it must be a whole number from {least} to {most}"
        )
    return number


def _item_id(request: Request) -> int:
    text = request.path_params["item_id"]
    number = _whole(text)
    if number is None:
        raise HTTPException(404, f"the gallery holds no picture with the id {text[:80]}")
    return number


def _whole(text: str) -> int | None:
    """A whole number from 0 up of at most 18 digits."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 18 else None


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


async def _broken(request: Request, error: Exception) -> Response:
    logger.error("%s %s", request.method, request.url.path, exc_info=error)
    return _json({"error": "the server has failed; what it was is told where it runs"}, 500)


async def _failed(request: Request, error: Exception) -> Response:
    return _json({"error": str(error)}, 400 if isinstance(error, MISTAKES) else 503)
