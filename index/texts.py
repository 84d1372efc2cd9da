r"""Texts in the database, whatever bytes they are of.

Names of files are bytes decoded with surrogateescape, and written as BLOB where they are not UTF-8, so
that every one comes back as it was. Metadata are JSON, where such a byte is a surrogate (``\udce9``);
SQLite reads that as the three bytes that surrogatepass makes of it.
"""

import functools
import re
from typing import Any


def encode(text: str) -> str | bytes:
    """Text for SQLite: bytes where it holds what UTF-8 cannot write."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogateescape")
    return text


def decode(value: Any) -> Any:
    """What ``encode`` was given."""
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else value


def from_json(text: str) -> str:
    """What stood in JSON, of a text that SQLite took from it."""
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:  # the JSON itself is not UTF-8
        return text


def fits(text: bytes | None, pattern: bytes, errors: str) -> bool | None:
    """Whether a text fits a pattern of LIKE, None where there is no text: a function for SQLite.

    LIKE itself takes all bytes that are not UTF-8 for one sign. ``errors`` is what decodes them.
    """
    if text is None:
        return None
    return _expression(pattern, errors).fullmatch(text.decode("utf-8", errors)) is not None


@functools.lru_cache
def _expression(pattern: bytes, errors: str) -> re.Pattern[str]:
    first, *others = [
        "".join("." if sign == "_" else re.escape(sign) for sign in part)
        for part in pattern.decode("utf-8", errors).split("%")
    ]
    # The first place where a part fits is as good as any other: none is tried again (?>).
    within = "".join(f"(?>.*?{part})" for part in others[:-1])
    last = f".*{others[-1]}" if others else ""
    return re.compile(f"{first}{within}{last}", re.ASCII | re.IGNORECASE | re.DOTALL)
