"""What may be written over."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from retrieval.errors import ConfigError
from retrieval.outputs import check_no_photo, is_photo
from retrieval.report import write_picture


def png(path: Path, **texts: str) -> Path:
    info = PngInfo()
    for name, text in texts.items():
        info.add_text(name, text)
    Image.new("RGB", (3, 2)).save(path, "PNG", pnginfo=info)
    return path


def test_pictures_without_our_mark_are_photos_whatever_they_are_called(tmp_path: Path) -> None:
    Image.new("RGB", (3, 2)).save(tmp_path / "page.html", "JPEG")
    (tmp_path / "damaged.png").write_bytes(b"x")
    (tmp_path / "cut.png").write_bytes(png(tmp_path / "whole.png").read_bytes()[:20])
    photos = [
        png(tmp_path / "plain.png"), png(tmp_path / "camera.png", Software="camera"),
        png(tmp_path / "comment.png", Comment="retrieval"), tmp_path / "page.html",
        tmp_path / "damaged.png", tmp_path / "cut.png", tmp_path / "whole.png",
    ]  # fmt: skip
    for photo in photos:
        assert is_photo(photo), photo
        with pytest.raises(ConfigError, match=f"--sheet {photo} is a picture"):
            check_no_photo(photo, "--sheet")


def test_what_carries_our_mark_is_no_photo_nor_is_what_is_no_picture(tmp_path: Path) -> None:
    write_picture(Image.new("RGB", (3, 2)), tmp_path / "sheet.png")
    # More pixels than Pillow opens.
    write_picture(Image.fromarray(np.zeros((13_500, 13_500), np.uint8)), tmp_path / "large.png")
    (tmp_path / "page.html").write_text("<html>")
    (tmp_path / "folder").mkdir()
    marked = png(tmp_path / "both.png", Comment="a sheet", Software="retrieval")
    names = ("sheet.png", "large.png", "page.html", "folder", "none.png")
    for path in (marked, *(tmp_path / name for name in names)):
        assert not is_photo(path), path
        check_no_photo(path, "--sheet")
