"""Pictures that go wrong in naive readers, each with what must become of it."""

import dataclasses
import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngInfo

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


@dataclasses.dataclass(frozen=True)
class NastyPicture:
    """``reason`` None: it is read, with ``size`` (height, width) and ``corner``, the colour at the top
    left; else it is left out, and the reason contains this."""

    path: Path
    reason: str | None = None
    size: tuple[int, int] = (24, 32)
    corner: tuple[int, int, int] | None = RED
    indexed: bool = True
    """Whether a search through the folder comes upon it."""


def quadrants(mode: str = "RGB") -> Image.Image:
    """24 high, 32 wide: red, green / blue, white."""
    picture = Image.new("RGB", (32, 24), WHITE)
    picture.paste(RED, (0, 0, 16, 12))
    picture.paste(GREEN, (16, 0, 32, 12))
    picture.paste(BLUE, (0, 12, 16, 24))
    return picture if mode == "RGB" else picture.convert(mode)


def encoded(picture: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def png(width: int, height: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of declared size with these chunks after its header."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunk(*c) for c in chunks) + chunk(b"IEND", b"")


def make_nasty_pictures(folder: Path) -> list[NastyPicture]:
    """Write them all into ``folder``, which must exist."""
    made: list[NastyPicture] = []

    def add(name: str | bytes, data: bytes, reason: str | None = None, **facts: object) -> None:
        path = folder / os.fsdecode(name)
        path.write_bytes(data)
        made.append(NastyPicture(path, reason, **facts))

    _orientations(add)
    _broken_exif(add)
    _modes(add)
    _containers(add)
    _damaged(add)
    _bombs(add)
    _names(add)
    _no_files(folder, made)
    return made


def _orientations(add) -> None:
    corners = {2: GREEN, 3: WHITE, 4: BLUE, 5: RED, 6: BLUE, 7: WHITE, 8: GREEN}
    for orientation, corner in corners.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        size = (24, 32) if orientation < 5 else (32, 24)
        data = encoded(quadrants(), "PNG", exif=exif)
        add(f"orientation-{orientation}.png", data, size=size, corner=corner)
        for compression in ("raw", "tiff_lzw"):
            data = encoded(quadrants(), "TIFF", exif=exif, compression=compression)
            add(f"orientation-{orientation}-{compression}.tif", data, size=size, corner=corner)
    exif = Image.Exif()
    exif[0x0112] = 99
    add("orientation-99.png", encoded(quadrants(), "PNG", exif=exif))


def _broken_exif(add) -> None:
    """The pixels are sound: read as they lie where the orientation cannot be known, else turned."""
    tags = [(0x0112, 3, 6), (0x0128, 2, 2)]  # the orientation; a unit of resolution that is a text
    entries = b"".join(struct.pack("<HHLL", tag, kind, 1, value) for tag, kind, value in tags)
    whole = b"Exif\0\0II*\0\x08\0\0\0\x02\0" + entries + b"\0\0\0\0"
    blocks = {"garbage": b"Exif\0\0garbage", "header": whole[:12], "cut": whole[:20], "odd": whole}
    for name, block in blocks.items():
        facts = {"size": (32, 24), "corner": BLUE} if name == "odd" else {}
        for suffix, kind in (("jpg", "JPEG"), ("png", "PNG"), ("webp", "WEBP")):
            # A JPEG that tells its density is not searched for it, so nobody has met the fault before.
            for density in ({}, {"dpi": (72, 72)}) if kind == "JPEG" else ({},):
                data = encoded(quadrants(), kind, exif=block, quality=95, lossless=True, **density)
                add(f"exif-{name}{'-density' * bool(density)}.{suffix}", data, **facts)
    for key, text in (("Raw profile type exif", "\nexif\n   4\nno digits"), ("xmp", "no bytes")):
        texts = PngInfo()
        texts.add_text(key, text)
        add(f"{key}.png", encoded(quadrants(), "PNG", pnginfo=texts))


def _modes(add) -> None:
    grey = encoded(quadrants("L"), "PNG")
    add("grey.png", grey, corner=(76, 76, 76))
    add("one-bit.png", encoded(quadrants("L").point(lambda v: 255 * (v > 100)).convert("1"), "PNG"),
        corner=(0, 0, 0))  # fmt: skip
    deep = np.full((24, 32), 257 * 100, np.uint16)
    add("grey-16.png", encoded(Image.fromarray(deep), "PNG"), corner=(100, 100, 100))
    deep[0, 0] = 257 * 30
    for name, clear, corner in (("corner", 30, WHITE), ("rest", 100, (30, 30, 30))):
        data = encoded(Image.fromarray(deep), "PNG", transparency=257 * clear)
        add(f"grey-16-transparent-{name}.png", data, corner=corner)
    deep[0, 0] = 257 * 100
    add("grey-16.tif", encoded(Image.fromarray(deep), "TIFF"), corner=(100, 100, 100))
    wide = np.full((24, 32), 257 * 50, np.int32)
    add("grey-32.tif", encoded(Image.fromarray(wide), "TIFF"), corner=(50, 50, 50))
    real = np.full((24, 32), 0.4, np.float32)
    add("float-0-1.tif", encoded(Image.fromarray(real), "TIFF"), corner=(102, 102, 102))
    ramp = np.linspace(-5, 5, 24 * 32, dtype=np.float32).reshape(24, 32)
    add("float-range.tif", encoded(Image.fromarray(ramp), "TIFF"), corner=(0, 0, 0))
    flat = np.full((24, 32), 7.0, np.float32)
    add("float-flat.tif", encoded(Image.fromarray(flat), "TIFF"), corner=(0, 0, 0))
    clear = quadrants("RGBA")
    clear.putalpha(Image.new("L", clear.size, 0))
    add("all-transparent.png", encoded(clear, "PNG"), corner=WHITE)
    half = quadrants("RGBA")
    half.putalpha(Image.new("L", half.size, 128))
    add("half-transparent.png", encoded(half, "PNG"), corner=(255, 127, 127))
    add("transparent.webp", encoded(clear, "WEBP", lossless=True), corner=WHITE)
    add("grey-alpha.png", encoded(clear.convert("LA"), "PNG"), corner=WHITE)
    palette = quadrants().quantize(4)
    add("palette.png", encoded(palette, "PNG"))
    index = palette.getpixel((0, 0))
    add("palette-transparent.png", encoded(palette, "PNG", transparency=index), corner=WHITE)
    add("palette.gif", encoded(palette, "GIF"))
    add("cmyk.jpg", encoded(quadrants("CMYK"), "JPEG", quality=100, subsampling=0))
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    add("profile.png", encoded(quadrants(), "PNG", icc_profile=profile))
    add("profile-garbage.png", encoded(quadrants(), "PNG", icc_profile=b"no profile"))


def _containers(add) -> None:
    frames = [quadrants(), Image.new("RGB", (32, 24), BLUE)]
    add("animated.gif", encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    add("animated.webp", encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:],
                                 lossless=True))  # fmt: skip
    add("animated.png", encoded(frames[0], "PNG", save_all=True, append_images=frames[1:]))
    add("pages.tif", encoded(frames[0], "TIFF", save_all=True, append_images=frames[1:]))
    good = {"quality": 100, "subsampling": 0}
    add("progressive.jpg", encoded(quadrants(), "JPEG", progressive=True, **good))
    add("garbage-after-end.jpg", encoded(quadrants(), "JPEG", **good) + b"trailing garbage" * 50)
    add("png-named.jpg", encoded(quadrants(), "PNG"))
    add("UPPER.PNG", encoded(quadrants(), "PNG"))
    add("one-pixel.png", encoded(Image.new("RGB", (1, 1), RED), "PNG"), size=(1, 1))
    add("tall.png", encoded(Image.new("RGB", (1, 5000), RED), "PNG"), size=(5000, 1))
    add("wide.png", encoded(Image.new("RGB", (20000, 1), RED), "PNG"), size=(1, 20000))
    add("no-extension", encoded(quadrants(), "PNG"), indexed=False)


def _damaged(add) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    for kind, suffix in (("JPEG", "jpg"), ("PNG", "png"), ("WEBP", "webp")):
        data = encoded(noise, kind)
        add(f"cut.{suffix}", data[: len(data) // 2], "")
    data = encoded(noise, "JPEG")
    add("cut-2-bytes.jpg", data[:-2], "")
    whole = encoded(noise, "PNG")
    add("bad-checksum.png", whole[:40] + bytes([whole[40] ^ 255]) + whole[41:], "")
    add("empty.jpg", b"", "empty")
    add("text.jpg", b"This is no picture.", "not a picture")
    add("page.png", b"<html><img src=x></html>", "not a picture")
    add("drawing.jpg", b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not a picture")
    add("script.jpg", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a picture")
    add("photo.heic", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "")


def _bombs(add) -> None:
    add("bomb-900-million.png", png(30000, 30000, (b"IDAT", zlib.compress(b"\0" * 100))), "")
    add("bomb-80-million.png", png(10000, 8000, (b"IDAT", zlib.compress(b"\0" * 100))), "million")
    text = b"Comment\0\0" + zlib.compress(b"a" * 80_000_000)
    add("bomb-text.png", png(8, 8, (b"zTXt", text), (b"IDAT", zlib.compress(b"\0" * 200))), "")
    add("no-pixels.png", png(0, 10, (b"IDAT", zlib.compress(b""))), "")


def _names(add) -> None:
    data = encoded(quadrants(), "PNG")
    names = (
        "with space.png",
        "new\nline.png",
        "ünï-日本.png",
        "<b>&'\".png",
        "-k.png",
        "#%20?.png",
    )
    for name in (*names, b"not-\xff-utf8.png"):
        add(name, data)


def _no_files(folder: Path, made: list[NastyPicture]) -> None:
    (folder / "folder.png").mkdir()
    made.append(NastyPicture(folder / "folder.png", "folder", indexed=False))
    os.mkfifo(folder / "pipe.jpg")
    made.append(NastyPicture(folder / "pipe.jpg", "regular file"))
    (folder / "dangling.jpg").symlink_to("nowhere.jpg")
    made.append(NastyPicture(folder / "dangling.jpg", "nowhere"))
    (folder / "loop.jpg").symlink_to("loop.jpg")
    made.append(NastyPicture(folder / "loop.jpg", ""))
    (folder / "loop-folder").symlink_to(".")
    made.append(NastyPicture(folder / "loop-folder", "folder", indexed=False))
