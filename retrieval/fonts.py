"""The letters of captions and labels that are drawn into pictures."""

from importlib.util import find_spec
from pathlib import Path

from PIL import ImageFont


def label_font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """DejaVu Sans, which matplotlib brings, at ``size`` pixels: it has the letters of most alphabets.

    Pillow's own font, where it is not there, has those of English alone.
    """
    found = find_spec("matplotlib")  # not imported, because that takes longer than a query
    if found is not None and found.origin is not None:
        file = Path(found.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"
        if file.is_file():
            return ImageFont.truetype(str(file), size)
    return ImageFont.load_default(size)
