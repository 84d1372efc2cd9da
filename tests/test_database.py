"""What the failures of SQLite mean for a gallery."""

import resource
import sqlite3
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from galleries import make_gallery, new_items

from index import database
from index.errors import DamagedGallery, FilterError, GalleryError, GalleryLocked
from index.gallery import Gallery
from index.verify import verify_gallery


@pytest.fixture
def gallery(tmp_path: Path) -> Gallery:
    made = make_gallery(tmp_path / "g.gallery")
    with made.writer() as writer:
        writer.add(np.eye(4), new_items(0, 4))
    return made


@contextmanager
def full_disk() -> Iterator[None]:
    """No file may grow, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize(
    ("code", "kind", "message"),
    [
        (sqlite3.SQLITE_CORRUPT, DamagedGallery, "is damaged: it failed; restore"),
        (sqlite3.SQLITE_CORRUPT_INDEX, DamagedGallery, "is damaged"),
        (sqlite3.SQLITE_NOTADB, DamagedGallery, "is damaged"),
        (sqlite3.SQLITE_BUSY, GalleryLocked, "held by another program"),
        (sqlite3.SQLITE_FULL, GalleryError, "cannot be written"),
        (sqlite3.SQLITE_READONLY, GalleryError, "cannot be written"),
        (
            sqlite3.SQLITE_IOERR,
            GalleryError,
            "cannot be read or written: it failed; is the disk full",
        ),
        (sqlite3.SQLITE_IOERR_SHMSIZE, GalleryError, "is the disk full"),
        (sqlite3.SQLITE_IOERR_READ, GalleryError, "is the disk full"),
        (sqlite3.SQLITE_ERROR, GalleryError, "refused a statement: it failed"),
        (sqlite3.SQLITE_TOOBIG, GalleryError, "refused a statement"),
        (sqlite3.SQLITE_MISUSE, GalleryError, "refused a statement"),
        (sqlite3.SQLITE_RANGE, GalleryError, "refused a statement"),
        (None, GalleryError, "refused a statement"),
    ],
)
def test_only_a_damaged_file_is_called_so(
    gallery: Gallery, code: int | None, kind: type[GalleryError], message: str
) -> None:
    error = sqlite3.OperationalError("it failed")
    if code is not None:
        error.sqlite_errorcode = code
    failure = gallery.db.failure(error)
    assert type(failure) is kind
    assert message in str(failure)
    assert "gallery.sqlite" in str(failure)


def test_a_full_disk_is_no_damage(gallery: Gallery) -> None:
    gallery.close()
    with full_disk():
        for ask in (Gallery.open, verify_gallery):
            with pytest.raises(GalleryError, match="is the disk full") as caught:
                ask(gallery.path)
            assert caught.type is GalleryError
    assert verify_gallery(gallery.path) == []


@pytest.mark.parametrize("table", ["settings", "items", "dead", "shards", "files", "failures"])
def test_a_database_without_one_of_its_tables_is_damaged(gallery: Gallery, table: str) -> None:
    gallery.close()
    (gallery.path / "gallery.seal").unlink()
    db = sqlite3.connect(gallery.path / "gallery.sqlite")
    db.execute(f"DROP TABLE {table}")
    db.close()
    with pytest.raises(DamagedGallery, match=f"no such table: {table}"):
        Gallery.open(gallery.path).failures()


def test_metadata_that_are_no_json_are_damage(gallery: Gallery) -> None:
    gallery.db.release()
    gallery.db.execute("UPDATE items SET metadata = '{' WHERE id = 2")
    with pytest.raises(DamagedGallery, match="malformed JSON"):
        gallery.matching("year = 2000")


@pytest.mark.parametrize(
    "use",
    [
        lambda gallery: gallery.matching("label = a"),
        lambda gallery: gallery.refresh(),
        lambda gallery: gallery.writer().__enter__(),
    ],
    ids=["matching", "refresh", "writer"],
)
def test_a_closed_gallery_is_no_damage(gallery: Gallery, use: Callable[[Gallery], object]) -> None:
    gallery.close()
    gallery.close()
    with pytest.raises(GalleryError, match=r"gallery\.sqlite is closed; open") as caught:
        use(gallery)
    assert caught.type is GalleryError


def test_more_values_than_sqlite_takes_are_refused_politely(gallery: Gallery) -> None:
    gallery.db.setlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER, 50)
    values = ", ".join(f"'p{i}.png'" for i in range(40))
    assert gallery.matching(f"path in ({values})").tolist() == [1, 2, 3, 4]
    with pytest.raises(FilterError, match="compares with 80 values; at most 50 are possible"):
        gallery.matching(f"path in ({values}) and path in ({values})")
    years = " and ".join([f"year in ({', '.join(map(str, range(2001, 4000)))})"] * 5)
    assert gallery.matching(years).tolist() == [2, 3, 4]


def test_a_pattern_longer_than_sqlite_takes_is_refused_politely(gallery: Gallery) -> None:
    for column in ("path", "label", "year", "size"):
        assert len(gallery.matching(f"{column} like '{'%' * 50_000}'")) == 4
        with pytest.raises(FilterError, match="a pattern of 50001 bytes; at most 50000"):
            gallery.matching(f"{column} like '{'é' * 25_000}a'")


@pytest.mark.parametrize(
    "comparison",
    ["year > .5", "path like 'é%'", "label in (a, b)", "year not in (.5, x)", "year like '\udce9'",
     "modified not in (2024, 2025)", "year is not null"],
)  # fmt: skip
def test_what_is_nested_as_deep_as_may_be_is_answered(gallery: Gallery, comparison: str) -> None:
    plain = gallery.matching(comparison).tolist()
    for deep in (
        "(" * 49 + comparison + ")" * 49, "not " * 48 + comparison,
        "not (" * 24 + comparison + ")" * 24,
    ):  # fmt: skip
        assert gallery.matching(deep).tolist() == plain


def test_a_seal_that_is_set_anew_during_the_reading_is_no_damage(
    gallery: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = gallery.path / "gallery.seal"
    before = database._fingerprint(gallery.path / "gallery.sqlite")
    found = iter([(1, 1), before])  # what is read while a writer ends, and once more

    def read(_: Path) -> tuple[int, int]:
        file.write_bytes(newer)
        return next(found)

    newer = file.read_bytes()
    text = "1 00000002"
    file.write_text(f"{text} {zlib.crc32(text.encode()):08x}\n")
    monkeypatch.setattr(database, "_fingerprint", read)
    database.check_seal(gallery.path)
    assert next(found, None) is None
