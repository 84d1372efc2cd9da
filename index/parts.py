"""Items that are parts of a picture, in galleries whose settings have ``objects``.

The path of a part is that of its file with the box behind it, as a W3C media fragment:
``photo.jpg#xywh=120,40,200,150``, which is left, top, width and height in pixels. Its content hash is
that of the file with the same behind it, so that parts of one file do not count as copies of each
other. In other galleries such a name is the name of a file.
Source: W3C Media Fragments URI 1.0, section 4.2.2.
"""

import re

Box = tuple[int, int, int, int]
"""Left, top, width and height of a part of a picture, in pixels of the upright picture."""
MARK = "#xywh="
_PART = re.compile(rf"(.*){MARK}(\d+),(\d+),(\d+),(\d+)", re.DOTALL)


def part_name(file: str, box: Box) -> str:
    """A file's path, or its content hash, as that of the part of it in ``box``."""
    return f"{file}{MARK}{','.join(map(str, box))}"


def split_part(name: str) -> tuple[str, Box | None]:
    """What ``part_name`` was given; no box where the name is that of a whole file."""
    found = _PART.fullmatch(name)
    if found is None:
        return name, None
    left, top, width, height = map(int, found.groups()[1:])
    return found[1], (left, top, width, height)
