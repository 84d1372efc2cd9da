"""Paths, labels and metadata that are not UTF-8, in filters, beside a slow comparison of each."""

import operator
import os
import time
from collections.abc import Callable

import numpy as np
import pytest
from galleries import make_gallery, new_items

from index.errors import FilterError
from index.filters import parse_filter
from index.gallery import Gallery
from index.texts import fits

NAMES = [
    b"caf\xe9.png", b"caf\xe8.png", b"CAF\xe9.png", b"caf\x80.png", b"caf\xe9\xa9.png", b"\xff",
    b"caf\xed\xb3\xa9.png", b"sp\xe9cial/caf\xe9.png", "\udcffé\nz".encode("utf-8", "surrogateescape"),
]  # fmt: skip
TEXTS = [
    *map(os.fsdecode, NAMES),
    "café.png", "cafe.png", "caf\x80.png", "caf\ufffd.png", "caf.png", "sp", "z",
]  # fmt: skip


@pytest.fixture(scope="module")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> Gallery:
    """All texts as paths, labels, and values of metadata; one item without label and metadata."""
    made = make_gallery(tmp_path_factory.mktemp("odd") / "g.gallery")
    items = [
        new_items(0, 1, path=text, label=text, metadata={"note": text, "caf\udce9": text})[0]
        for text in TEXTS
    ]
    items.append(new_items(0, 1, path="nothing", label=None, metadata={})[0])
    with made.writer() as writer:
        writer.add(np.ones((len(items), 4)), items)
    return made


def matching(gallery: Gallery, column: str, rest: str) -> list[str]:
    found = gallery.items(gallery.matching(f"{column} {rest} and path != nothing"))
    return [found[i].path for i in sorted(found)]


def slow_like(text: str, pattern: str) -> bool:
    if not pattern:
        return not text
    if pattern[0] == "%":
        return any(slow_like(text[start:], pattern[1:]) for start in range(len(text) + 1))
    same = text[:1] == pattern[0] or (text[:1].isascii() and text[:1].lower() == pattern[0].lower())
    return text != "" and (pattern[0] == "_" or same) and slow_like(text[1:], pattern[1:])


@pytest.mark.parametrize("column", ["path", "label", "note", "`caf\udce9`"])
@pytest.mark.parametrize("text", TEXTS)
def test_each_text_equals_itself_alone(gallery: Gallery, column: str, text: str) -> None:
    others = [other for other in TEXTS if other != text]
    assert matching(gallery, column, f"= '{text}'") == [text]
    assert matching(gallery, column, f"in (x, '{text}')") == [text]
    assert matching(gallery, column, f"!= '{text}'") == others
    assert matching(gallery, column, f"not in ('{text}', 'nothing')") == others


@pytest.mark.parametrize("column", ["path", "label"])
@pytest.mark.parametrize("sign", ["<", "<=", ">", ">="])
def test_names_stand_in_the_order_of_their_bytes(gallery: Gallery, column: str, sign: str) -> None:
    compare: Callable[[bytes, bytes], bool] = {
        "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
    }[sign]  # fmt: skip
    for text in TEXTS:
        expected = [name for name in TEXTS if compare(os.fsencode(name), os.fsencode(text))]
        assert matching(gallery, column, f"{sign} '{text}'") == expected


@pytest.mark.parametrize("column", ["path", "label", "note", "`caf\udce9`"])
@pytest.mark.parametrize(
    "pattern",
    [
        "caf%", "%", "", "%.png", "caf_.png", "caf__.png", "_", "%sp_cial%", "caf\udce9%", "%\udce9%",
        "CAF\udce9.PNG", "caf\udce9_.png", "_af\udce9%_", "%\udce9%\udce9%g", "ca_\ufffd%", "café%",
        "caf\x80%", "%\x80%", "caf\udc80.png", "\udcff", "caf\udced\udcb3\udca9%", "%É%", "_é_z",
        "%\udcff%Z",
    ],
)  # fmt: skip
def test_patterns_tell_all_bytes_apart(gallery: Gallery, column: str, pattern: str) -> None:
    expected = [text for text in TEXTS if slow_like(text, pattern)]
    assert matching(gallery, column, f"like '{pattern}'") == expected
    others = [text for text in TEXTS if text not in expected]
    assert matching(gallery, column, f"not like '{pattern}'") == others


def test_what_is_not_there_fits_no_pattern(gallery: Gallery) -> None:
    for column in ("label", "note"):
        assert [gallery.items([i])[i].path for i in gallery.matching(f"{column} is null")] == [
            "nothing"
        ]
        for pattern in ("%", "%\udce9%"):
            either = f"{column} like '{pattern}' or {column} not like '{pattern}'"
            assert len(gallery.matching(either)) == len(TEXTS)


def test_a_long_pattern_is_not_tried_for_ever() -> None:
    started = time.monotonic()
    assert not fits(b"a" * 255, b"%a" * 100 + b"%b", "surrogateescape")
    assert fits(b"a" * 255, b"%a" * 100 + b"%", "surrogateescape")
    assert time.monotonic() - started < 5


def test_an_unknown_column_that_is_not_utf8_is_named(gallery: Gallery) -> None:
    with pytest.raises(FilterError, match=r"'\\udcff'; this gallery has: id, .*, caf\udce9, note"):
        gallery.matching("\udcff = 1")


def test_half_a_character_is_refused() -> None:
    with pytest.raises(FilterError, match=r"half of a character"):
        parse_filter("path = '\ud83d'", set())
