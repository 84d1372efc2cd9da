import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFont

from retrieval.cli.answers import table
from retrieval.curves import training_curves
from retrieval.fonts import label_font
from retrieval.report import (
    BAD,
    GAP,
    GOOD,
    TILE,
    SheetRow,
    Tile,
    contact_sheet,
    fit_picture,
    html_gallery,
    outlined,
    picture_grid,
    write_picture,
)
from retrieval.search import Answer, Hit


def plain(value: int, height: int = 8, width: int = 8) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


def rgb(name: str) -> tuple[int, ...]:
    return tuple(bytes.fromhex(name[1:]))


def test_the_contact_sheet_shows_query_hits_and_verdicts_in_their_places() -> None:
    hits = [
        Tile(plain(50), "0.1 · cat", True),
        Tile(plain(99), "0.2 · dog", False),
        Tile(plain(7), "x"),
    ]
    rows = [SheetRow(Tile(plain(200), "photo.png"), hits), SheetRow(Tile(plain(1), "q"), [])]
    sheet = contact_sheet(rows)
    middle = GAP + TILE // 2
    assert sheet.getpixel((middle, middle)) == (200, 200, 200)
    lefts = [GAP + TILE + GAP + 2 * GAP + i * (TILE + GAP) for i in range(3)]
    assert [sheet.getpixel((x + TILE // 2, middle))[0] for x in lefts] == [50, 99, 7]
    assert sheet.getpixel((lefts[0] - 2, middle)) == rgb(GOOD)
    assert sheet.getpixel((lefts[1] - 2, middle)) == rgb(BAD)
    assert sheet.getpixel((lefts[2] - 2, middle)) == (255, 255, 255)
    assert sheet.height > 2 * TILE
    assert contact_sheet([]).size[1] > 0


def test_long_and_odd_captions_do_not_break_the_sheet() -> None:
    odd = Tile(plain(0), "a very long caption that can not fit " * 5 + "\n\x00\udcff")
    sheet = np.asarray(contact_sheet([SheetRow(odd, [odd])]))
    right_of_first = sheet[GAP + TILE + 4 :, GAP + TILE + 4 : GAP + TILE + 10]
    assert (right_of_first == 255).all()


def test_captions_have_letters_of_many_alphabets() -> None:
    font = label_font(12)
    assert isinstance(font, ImageFont.FreeTypeFont)
    missing = bytes(font.getmask("\U000f0000"))
    for letter in "äöüßéèñçøåŁčžΩя":
        assert bytes(font.getmask(letter)) != missing, letter


def test_small_pictures_are_enlarged_in_whole_pixels_and_large_ones_fitted() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 10, 3), np.uint8)
    fitted = np.asarray(fit_picture(pixels, 128))
    np.testing.assert_array_equal(fitted, pixels.repeat(12, 0).repeat(12, 1))
    assert fit_picture(plain(1, 600, 300), 128).size == (64, 128)


def test_the_page_is_whole_and_safe() -> None:
    evil = "<script>alert('x')</script>\"&\udcff"
    rows = [SheetRow(Tile(plain(1), evil), [Tile(plain(2, 500, 500), evil, True, "file:///a'b<c")])]
    page = html_gallery(rows, evil)
    assert "<script" not in page
    assert "'b<c" not in page
    assert page.encode()  # valid UTF-8
    fetched = re.findall(r"(?:src|href)='([^']*)'", page)
    assert [f.split(":")[0] for f in fetched] == ["data", "file", "data"]
    assert "http" not in re.sub(r"base64,[A-Za-z0-9+/=]+", "", page)
    assert page.count("<figure") == 2
    assert "class='good'" in page
    assert "<section>" not in html_gallery([], "empty")


def test_a_grid_holds_its_pictures_row_after_row() -> None:
    pictures = np.stack([plain(v, 6, 6) for v in (10, 20, 30)])
    grid = picture_grid(pictures, columns=2)
    assert grid.size == (2 * 10 + 4, 2 * 10 + 4)
    assert [grid.getpixel(p)[0] for p in ((6, 6), (16, 6), (6, 16), (16, 16))] == [10, 20, 30, 255]
    assert picture_grid(pictures[:0], 5).size[1] > 0


def test_curves_draw_what_is_there(tmp_path: Path) -> None:
    records = [
        {"epoch": 1, "loss": 2.0, "loss/triplet": 0.2, "lr": 0.1, "recall_at_1": 0.4},
        {"epoch": 2, "loss": 1.0, "lr": 0.05, "active_triplets": 0.5},
    ]
    training_curves(records, tmp_path / "curves.png")
    training_curves([], tmp_path / "empty.png")
    full, empty = (
        np.asarray(Image.open(tmp_path / f"{n}.png").convert("RGB")) for n in ("curves", "empty")
    )
    assert full.shape == empty.shape
    coloured = (full.max(2).astype(int) - full.min(2) > 60).sum()
    assert coloured > 200 > (empty.max(2).astype(int) - empty.min(2) > 60).sum()


def test_written_pictures_come_back(tmp_path: Path) -> None:
    write_picture(Image.fromarray(plain(77)), tmp_path / "new" / "x.png")
    assert np.asarray(Image.open(tmp_path / "new" / "x.png")).max() == 77
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["x.png"]


def test_labels_cannot_rewrite_the_screen() -> None:
    hit = Hit(1, 0.5, 7, Path("a.png"), "ev\x1b[31mil\nrank", {})
    shown = table(Answer("q", [hit]), titled=False)
    assert shown.count("\n") == 2
    assert "\x1b" not in shown
    assert r"ev\x1b[31mil\nrank" in shown


@pytest.mark.parametrize(
    "box", [(101.0, 50.0, 101.4, 2050.0), (5.0, 5.0, 5.0, 5.0), (599.9, 0, 600, 1)]
)
def test_the_thinnest_box_has_an_outline(box: tuple) -> None:
    picture = np.zeros((4000, 600, 3), np.uint8)
    shown = np.asarray(outlined(picture, box, 128))
    assert (shown == (255, 212, 0)).all(2).any()
