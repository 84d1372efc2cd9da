"""Answers as pictures: contact sheets, pages, grids."""

import base64
import dataclasses
import html
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw
from PIL.PngImagePlugin import PngInfo

from index.atomic import write_atomically
from retrieval.fonts import label_font
from retrieval.outputs import SOFTWARE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TILE = 128
GAP = 12
CAPTION = 20
INK, PAPER, LINE = "#1d2330", "#ffffff", "#d5dae3"
GOOD, BAD, BAR = "#1a9c5b", "#d64545", "#8da9c4"
OUTLINE, OUTLINE_EDGE = "#ffd400", "#1d2330"
GREY = np.full((TILE, TILE, 3), 200, np.uint8)
Outline = tuple[float, float, float, float]
"""Left, top, right and bottom of a box in a picture, in pixels of that."""


@dataclasses.dataclass(frozen=True)
class Tile:
    """A picture uint8 (H,W,3) with a caption; ``good`` says whether it is a right answer, if known.

    ``box`` is outlined in it.
    """

    picture: np.ndarray
    caption: str
    good: bool | None = None
    href: str | None = None
    box: Outline | None = None

    def fitted(self) -> Image.Image:
        """The picture in a square of TILE, with its box."""
        return outlined(self.picture, self.box, TILE)


@dataclasses.dataclass(frozen=True)
class SheetRow:
    """A question and its answers."""

    query: Tile
    hits: list[Tile]


def contact_sheet(rows: Sequence[SheetRow]) -> Image.Image:
    """One line for each row: the query at the left, then its hits; right ones green, wrong ones red."""
    columns = max([len(row.hits) for row in rows], default=0)
    step_x, step_y = TILE + GAP, TILE + CAPTION + GAP
    split = 2 * GAP  # between the query and its hits
    width = GAP + step_x + split + columns * step_x
    sheet = Image.new("RGB", (width, GAP + max(len(rows), 1) * step_y), PAPER)
    draw = ImageDraw.Draw(sheet)
    for number, row in enumerate(rows):
        top = GAP + number * step_y
        _draw_tile(sheet, draw, row.query, GAP, top)
        middle = GAP + TILE + (GAP + split) // 2
        draw.line([(middle, top), (middle, top + TILE)], fill=LINE, width=2)
        for place, hit in enumerate(row.hits):
            _draw_tile(sheet, draw, hit, GAP + step_x + split + place * step_x, top)
    return sheet


def _draw_tile(
    sheet: Image.Image, draw: ImageDraw.ImageDraw, tile: Tile, left: int, top: int
) -> None:
    picture = tile.fitted()
    x, y = left + (TILE - picture.width) // 2, top + (TILE - picture.height) // 2
    sheet.paste(picture, (x, y))
    if tile.good is not None:
        edge = (x - 3, y - 3, x + picture.width + 2, y + picture.height + 2)
        draw.rectangle(edge, outline=GOOD if tile.good else BAD, width=3)
    font = label_font(12)
    text = _cut(tile.caption, TILE, draw, font)
    draw.text((left + TILE / 2, top + TILE + 5), text, fill=INK, font=font, anchor="ma")


def _cut(text: str, width: int, draw: ImageDraw.ImageDraw, font: Any) -> str:
    """``text`` on one line, with … where it would be wider than ``width`` pixels."""
    text = "".join(c if c.isprintable() else "?" for c in text)
    if draw.textlength(text, font) <= width:
        return text
    while text and draw.textlength(text + "…", font) > width:
        text = text[:-1]
    return text + "…"


def fit_picture(picture: np.ndarray, side: int) -> Image.Image:
    """The picture in a square of ``side``: small ones in whole multiples of their size, so that each
    pixel stays a sharp square, larger ones scaled down smoothly."""
    image = Image.fromarray(picture)
    factor = side // max(image.size)
    if factor >= 1:
        return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    return image


def outlined(picture: np.ndarray, box: Outline | None, side: int) -> Image.Image:
    """The picture in a square of ``side``, as ``fit_picture`` has it, with a line around the box."""
    image = fit_picture(picture, side)
    if box is not None:
        scale = image.width / picture.shape[1]
        left, top, right, bottom = (round(edge * scale) for edge in box)
        right, bottom = max(right, left + 1), max(bottom, top + 1)
        draw = ImageDraw.Draw(image)
        for grow, colour in ((2, OUTLINE_EDGE), (1, OUTLINE), (0, OUTLINE)):
            edges = left - grow, top - grow, right - 1 + grow, bottom - 1 + grow
            draw.rectangle(edges, outline=colour)
    return image


def mosaic(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """Several pictures uint8 (H,W,3) as one, in a square grid; one as it is, none as a grey square."""
    if len(pictures) <= 1:
        return pictures[0] if pictures else GREY
    columns = math.ceil(math.sqrt(len(pictures)))
    side = max(TILE // columns, 1)
    sheet = Image.new("RGB", (columns * side, -(-len(pictures) // columns) * side), PAPER)
    for number, picture in enumerate(pictures):
        row, column = divmod(number, columns)
        sheet.paste(fit_picture(picture, side), (column * side, row * side))
    return np.array(sheet)


def picture_grid(pictures: np.ndarray, columns: int) -> Image.Image:
    """Pictures uint8 (N,H,W,3) side by side, row after row."""
    count, height, width, _ = pictures.shape
    rows = -(-max(count, 1) // columns)
    gap = 4
    size = (columns * (width + gap) + gap, rows * (height + gap) + gap)
    grid = Image.new("RGB", size, PAPER)
    for number, picture in enumerate(pictures):
        row, column = divmod(number, columns)
        place = (gap + column * (width + gap), gap + row * (height + gap))
        grid.paste(Image.fromarray(picture), place)
    return grid


def write_picture(image: Image.Image, path: Path) -> None:
    """Write a PNG, atomically, with our mark."""
    mark = PngInfo()
    mark.add_text("Software", SOFTWARE)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True, pnginfo=mark)
    write_atomically(path, buffer.getvalue())


STYLE = """
:root { color-scheme: light dark; --ink: #1d2330; --faint: #667085; --paper: #fafbfc; --card: #fff; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8eaf0; --faint: #98a1b3; --paper: #14171d; --card: #1e232c; } }
body { margin: 2rem auto; max-width: 92rem; padding: 0 1rem; background: var(--paper);
  color: var(--ink); font: 15px/1.45 system-ui, sans-serif; }
h1 { font-size: 1.3rem; font-weight: 600; }
section { display: flex; align-items: flex-start; gap: 14px; margin: 1.2rem 0; padding: 14px;
  border-radius: 12px; background: var(--card); box-shadow: 0 1px 3px #0002; }
.hits { display: flex; flex-wrap: wrap; gap: 12px; padding-left: 16px; border-left: 2px solid #8884; }
figure { margin: 0; width: 128px; }
figure .frame { display: flex; align-items: center; justify-content: center; width: 128px;
  height: 128px; border-radius: 8px; outline: 3px solid transparent; overflow: hidden; }
figure.good .frame { outline-color: #1a9c5b; } figure.bad .frame { outline-color: #d64545; }
img { display: block; max-width: 128px; max-height: 128px; image-rendering: auto; }
img.small { image-rendering: pixelated; }
figcaption { margin-top: 5px; font-size: 12px; color: var(--faint); text-align: center;
  overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
a { color: inherit; }
"""


def html_gallery(rows: Sequence[SheetRow], title: str) -> str:
    """A page that needs no other file: pictures and style are inside, no script, nothing fetched."""
    body = "".join(
        f"<section>{_figure(row.query)}"
        f"<div class='hits'>{''.join(_figure(hit) for hit in row.hits)}</div></section>"
        for row in rows
    )
    return (
        "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>{_safe(title)}</title><style>{STYLE}</style></head>"
        f"<body><h1>{_safe(title)}</h1>{body}</body></html>\n"
    )


def _figure(tile: Tile) -> str:
    verdict = {True: "good", False: "bad", None: ""}[tile.good]
    image = tile.fitted()
    buffer = io.BytesIO()
    small = max(tile.picture.shape[:2]) <= TILE
    image.save(buffer, "PNG" if small else "JPEG", quality=88)
    data = base64.b64encode(buffer.getvalue()).decode()
    source = f"data:image/{'png' if small else 'jpeg'};base64,{data}"
    caption = _safe(tile.caption)
    picture = f"<img class='{'small' if small else ''}' alt='{caption}' src='{source}'>"
    if tile.href is not None:
        picture = f"<a href='{_safe(tile.href)}'>{picture}</a>"
    return (
        f"<figure class='{verdict}'><div class='frame'>{picture}</div>"
        f"<figcaption title='{caption}'>{caption}</figcaption></figure>"
    )


def _safe(text: str) -> str:
    """Text for HTML, attributes included; bytes that are not UTF-8 in file names become ?."""
    return html.escape(text.encode("utf-8", "replace").decode())


PANELS = 12


def bin_histograms(values: np.ndarray, columns: Sequence[dict[str, Any]], title: str) -> bytes:
    """A PNG of how values (n,D) are spread over bins, for the first 12 ``columns``.

    A column with ``edges`` shows its values, cut at them; others, and those whose range is nothing that
    can be drawn, the ``counts`` of their codes.
    """
    from matplotlib.figure import Figure

    shown = columns[:PANELS]
    wide = min(len(shown), 4)
    high = -(-len(shown) // wide)
    figure = Figure(figsize=(3.2 * wide + 1, 2.3 * high + 0.6), layout="constrained")
    panels = figure.subplots(high, wide, squeeze=False).flat
    for place, (axes, column) in enumerate(zip(panels, shown, strict=False)):
        if _drawable(column.get("edges", [])):
            axes.hist(_sampled(values[:, place]), bins=60, color=BAR)
            edges = axes.get_xaxis_transform()
            axes.vlines(column["edges"], 0, 1, BAD, linewidth=0.7, alpha=0.7, transform=edges)
        else:
            axes.stairs(column["counts"], fill=True, color=BAR)
        axes.set_title(_plain(column["name"]), fontsize=9, parse_math=False)
        axes.tick_params(labelsize=7)
    for axes in list(figure.axes)[len(shown) :]:
        axes.set_visible(False)
    more = f" (the first {PANELS} of {len(columns)})" if len(columns) > PANELS else ""
    figure.suptitle(_plain(title) + more, fontsize=10, parse_math=False)
    return _png(figure)


def _sampled(values: np.ndarray) -> np.ndarray:
    """At most 100,000 of them, evenly spaced: a picture shows no more."""
    return np.asarray(values[:: -(-len(values) // 100_000)], np.float64)


def _drawable(edges: Sequence[float]) -> bool:
    """Whether an axis can show this range: not empty, and far from the limits of numbers."""
    if not edges or max(abs(edges[0]), abs(edges[-1])) > 1e100:
        return False
    return edges[-1] - edges[0] > 1e-9 * max(abs(edges[0]), abs(edges[-1]))


def _plain(text: str) -> str:
    """Text that the font of matplotlib has, of at most 60 characters."""
    return "".join(c if c.isprintable() and ord(c) < 0x250 else "?" for c in text[:60])


def confusion_picture(confusion: np.ndarray, classes: Sequence[str], path: Path) -> None:
    """Write a PNG of a confusion matrix (L,L), rows the truth, colours the share of the row."""
    from matplotlib.figure import Figure

    shares = confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
    side = 2.5 + 0.45 * len(classes)
    figure = Figure(figsize=(min(side, 24), min(side, 24)), layout="constrained")
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xlabel("predicted")
    axes.set_ylabel("class")
    names = [_plain(name) for name in classes]
    axes.set_xticks(range(len(classes)), names, rotation=90, fontsize=8, parse_math=False)
    axes.set_yticks(range(len(classes)), names, fontsize=8, parse_math=False)
    for row, column in np.argwhere(confusion > 0) if len(classes) <= 40 else []:
        colour = PAPER if shares[row, column] > 0.5 else INK
        count = str(confusion[row, column])
        axes.text(column, row, count, ha="center", va="center", fontsize=7, color=colour)
    write_atomically(path, _png(figure))


def _png(figure: "Figure") -> bytes:
    """A chart as a PNG with our mark."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": SOFTWARE})
    return buffer.getvalue()
