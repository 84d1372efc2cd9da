"""Pictures, read safely as upright RGB.

Training, building and asking all read through ``read_image``, so that the same file always gives the
same pixels. A file is decoded only if its header promises at most MAX_PIXELS; a picture at that limit
needs about 0.5 GiB while it is read.
"""

import hashlib
import io
import struct
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np
from PIL import ExifTags, Image, ImageCms

from index.parts import Box
from retrieval.errors import ImageError

MAX_PIXELS = 64_000_000
FORMATS = ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "PPM"]
LOOK_AHEAD = 64
"""Pictures that ``read_images`` decodes ahead of what was asked for."""
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes a picture of each EXIF orientation upright; others are so."""

# Pillow warns of large pictures and odd metadata on stderr. The first are left out with a reason, the
# second read all the same; neither concerns who asked.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\..*")

Source = Path | str | bytes | BinaryIO
T = TypeVar("T")


def read_image(source: Source, size: int | None = None, box: Box | None = None) -> np.ndarray:
    """The picture upright: RGB uint8 (H,W,3), or (size,size,3) where ``size`` is given.

    With ``box`` that part alone, as if it were the picture. With ``size`` the centre square is cut out
    and scaled (bilinear, antialiased); large JPEGs are decoded at a fraction of their size on the way.
    Transparent parts become white, the first frame stands for an animation, embedded colour profiles
    are converted to sRGB, and depths beyond 8 bits are scaled to 8. Raises ImageError with the reason
    for whatever is not such a picture, and for a box that does not lie within it.
    """
    return _read(source, lambda image: _decode(image, size, box))


def read_thumbnail(source: Source, side: int) -> np.ndarray:
    """The picture upright, at most ``side`` pixels wide and high: RGB uint8 (H,W,3), never enlarged.

    Large JPEGs are decoded at a fraction of their size. Otherwise as ``read_image``.
    """
    return _read(source, lambda image: _decode_small(image, side))


def _read(source: Source, decode: Callable[[Image.Image], T]) -> T:
    if isinstance(source, Path | str):
        _check_file(Path(source))
    stream = io.BytesIO(source) if isinstance(source, bytes) else source
    try:
        with Image.open(stream, formats=_formats()) as image:
            return decode(image)
    except ImageError:
        raise
    except Exception as error:  # Pillow's plugins raise a dozen kinds for a broken file
        raise ImageError(_reason(error, source)) from error


def part_of(picture: np.ndarray, box: Box, size: int) -> np.ndarray:
    """A part of a picture uint8 (H,W,3) as uint8 (size,size,3).

    The same as ``read_image`` gives of that box. Raises ImageError for one that does not lie within.
    """
    return np.array(_square(_cut_out(Image.fromarray(picture), box), size))


def upright_size(source: Source) -> tuple[int, int]:
    """Width and height of the picture as ``read_image`` would give it, mostly from its header alone.

    Raises ImageError with the reason for what is not such a picture.
    """
    return _read(source, _size_upright)


def _size_upright(image: Image.Image) -> tuple[int, int]:
    width, height = image.size
    # Of a TIFF Pillow tells the size upright, though not the orientation.
    turned = image.format != "TIFF" and _orientation(image) in (5, 6, 7, 8)
    return (height, width) if turned else (width, height)


def format_suffix(path: Path) -> str:
    """What names of files of the picture's format end in, such as .png; it is one of ``EXTENSIONS``.

    Raises ImageError with the reason for what is not such a picture.
    """
    _check_file(path)
    try:
        with Image.open(path, formats=_formats()) as image:
            return f".{str(image.format).lower()}"
    except Exception as error:  # Pillow's plugins raise a dozen kinds for a broken file
        raise ImageError(_reason(error, path)) from error


def read_images(
    paths: Iterable[Path],
    size: int | None = None,
    num_workers: int = 2,
    look_ahead: int = LOOK_AHEAD,
) -> Iterator[tuple[Path, np.ndarray | ImageError]]:
    """Each path with its picture, or with why there is none, in order.

    Threads decode ahead, at most ``look_ahead`` pictures, so that memory does not grow with the number
    of paths.
    """

    def read(path: Path) -> np.ndarray | ImageError:
        try:
            return read_image(path, size)
        except ImageError as error:
            return error

    pending: deque[tuple[Path, Future[np.ndarray | ImageError]]] = deque()
    with ThreadPoolExecutor(num_workers) as pool:
        try:
            for path in paths:
                pending.append((path, pool.submit(read, path)))
                if len(pending) >= look_ahead:
                    first, future = pending.popleft()
                    yield first, future.result()
            while pending:
                first, future = pending.popleft()
                yield first, future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def content_hash(path: Path) -> str:
    """The SHA-256 of a file in hexadecimal. Raises ImageError where it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ImageError(_reason(error, path)) from error


def _check_file(path: Path) -> None:
    """Refuse what is not a regular file: opening a pipe would wait for ever."""
    try:
        if path.is_dir():
            raise ImageError("it is a folder")
        if not path.exists():
            raise ImageError("the link leads nowhere" if path.is_symlink() else "no such file")
        if not path.is_file():
            raise ImageError("it is not a regular file")
        if path.stat().st_size == 0:
            raise ImageError("the file is empty")
    except OSError as error:
        raise ImageError(_reason(error, path)) from error


def _formats() -> list[str]:
    try:
        import pillow_heif
    except ImportError:
        return FORMATS
    pillow_heif.register_heif_opener()
    return [*FORMATS, "HEIF"]


def _reason(error: Exception, source: Source) -> str:
    if isinstance(error, Image.UnidentifiedImageError):
        heic = isinstance(source, Path | str) and Path(source).suffix.lower() in (".heic", ".heif")
        return (
            "HEIC pictures need an extra: pip install 'retrieval[heic]'"
            if heic
            else "it is not a picture in a format that is read (" + ", ".join(FORMATS) + ")"
        )
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return f"damaged: {' '.join(str(error).split())[:120] or type(error).__name__}"


def _decode(image: Image.Image, size: int | None, box: Box | None) -> np.ndarray:
    whole = _upright(image, None if box is not None else size)
    if box is not None:
        whole = _cut_out(whole, box)
    return np.array(whole if size is None else _square(whole, size))


def _decode_small(image: Image.Image, side: int) -> np.ndarray:
    whole = _upright(image, side)
    whole.thumbnail((side, side), Image.Resampling.LANCZOS)
    return np.array(whole)


def _upright(image: Image.Image, least: int | None) -> Image.Image:
    """In RGB; a JPEG perhaps at a half, a quarter or an eighth of its size, never below ``least``."""
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ImageError(
            f"{width}×{height} pixels are {width * height / 1e6:.0f} million; at most "
            f"{MAX_PIXELS / 1e6:.0f} million are read"
        )
    if width * height == 0:
        raise ImageError(f"it has no pixels ({width}×{height})")
    if least is not None:
        image.draft("RGB", (least, least))
    image.load()
    turn = TURNS.get(_orientation(image))
    return _to_rgb(image if turn is None else image.transpose(turn))


def _orientation(image: Image.Image) -> Any:
    """As EXIF has it; None where there is none, or none that can be read: the pixels are sound."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation)
    except (SyntaxError, struct.error, TypeError, ValueError):  # Pillow's for a broken EXIF block
        return None


def _square(image: Image.Image, size: int) -> Image.Image:
    """The centre square, scaled to ``size``."""
    if image.size == (size, size):
        return image
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    # Cut first: a resize with a box would mix in pixels from outside it.
    image = image.crop((left, top, left + side, top + side))
    return image.resize((size, size), Image.Resampling.BILINEAR)


def _cut_out(image: Image.Image, box: Box) -> Image.Image:
    left, top, width, height = box
    shown = f"the box {left},{top},{width},{height} (left, top, width, height)"
    if width < 1 or height < 1:
        raise ImageError(f"{shown} is empty; width and height must be at least 1")
    if left < 0 or top < 0 or left + width > image.width or top + height > image.height:
        raise ImageError(
            f"{shown} reaches out of the picture, which is {image.width}×{image.height} upright"
        )
    return image.crop((left, top, left + width, top + height))


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _from_deep(image).convert("RGB")
    profile = image.info.get("icc_profile")
    if image.has_transparency_data:
        alpha = image.convert("RGBA").getchannel("A")
        colours = _to_srgb(image.convert("L" if image.mode in ("L", "LA") else "RGB"), profile)
        colours.putalpha(alpha)
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, colours).convert("RGB")
    return _to_srgb(image.convert("RGB") if image.mode == "P" else image, profile)


def _from_deep(image: Image.Image) -> Image.Image:
    """8-bit grey of 16-bit (by 257), 32-bit and float pictures (0…1 by 255, else by their range).

    Pixels of the colour that a PNG calls transparent are white.
    """
    values = np.asarray(image, np.float64)
    clear = values == image.info.get("transparency", np.nan)  # nothing equals NaN
    finite = values[np.isfinite(values)]
    if finite.size == 0:
        raise ImageError("it holds no finite number")
    low, high = float(finite.min()), float(finite.max())
    values = values.clip(low, high)  # infinite ones are as the largest; NaN stays
    if image.mode == "F" and low >= 0 and high <= 1:
        scaled = values * 255
    elif image.mode != "F" and low >= 0 and high <= 65535:
        scaled = values / 257
    else:
        scaled = (values - low) * (255 / max(high - low, 1e-12))
    grey = np.nan_to_num(scaled).round().clip(0, 255)
    return Image.fromarray(np.where(clear, 255, grey).astype(np.uint8))


def _to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """RGB by the embedded colour profile, where there is a sound one."""
    if profile and image.mode in ("RGB", "CMYK", "L"):
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            converted = ImageCms.profileToProfile(
                image, source, ImageCms.createProfile("sRGB"), outputMode="RGB"
            )
        except (ImageCms.PyCMSError, OSError):
            return image.convert("RGB")
        if converted is not None:
            return converted
    return image.convert("RGB")
