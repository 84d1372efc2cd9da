import datetime
import json
import sqlite3
import time

import pytest
from filter_table import connected, ids_where, items_table

from index.dates import Span, kept_time, span_of
from index.errors import FilterError
from index.filters import parse_filter

ROWS = [
    (1, "cats/a.jpg", "cat", 10, '{"year": 2020, "shot by": "Ann"}'),
    (2, "cats/b 2024.jpg", "cat", 20, '{"year": 2024}'),
    (3, "dogs/c.jpg", "dog", 30, '{"year": 2024, "shot by": "O\'Hara"}'),
    (4, "d.jpg", None, 40, "{}"),
    (5, "e.jpg", "big dog", 50, '{"year": "n/a"}'),
]


@pytest.fixture
def table() -> sqlite3.Connection:
    return items_table()


def ns(text: str) -> int:
    return int(datetime.datetime.fromisoformat(text).timestamp()) * 10**9


MOMENTS = [
    "2023-12-31 23:59:59", "2024-01-01 00:00:00", "2024-02-29 12:00:00", "2024-05-01 00:00:00",
    "2024-05-01 23:59:59", "2024-05-02 00:00:00", "2024-12-31 23:59:59", "2025-01-01 00:00:00",
]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("modified = 2024", [1, 2, 3, 4, 5, 6]),
        ("modified != 2024", [0, 7]),
        ("modified = 2024-05", [3, 4, 5]),
        ("modified = 2024-05-01", [3, 4]),
        ("modified = '2024-05-01'", [3, 4]),
        ("modified < 2024-05-01", [0, 1, 2]),
        ("modified <= 2024-05-01", [0, 1, 2, 3, 4]),
        ("modified > 2024-05-01", [5, 6, 7]),
        ("modified >= 2024-05-01", [3, 4, 5, 6, 7]),
        ("modified = 2024-02", [2]),
        ("modified = 2024-12", [6]),
        ("modified = '2024-05-01 00:00'", [3]),
        ("modified = 2024-05-01T23:59:59", [4]),
        ("modified < 2024-05-01T23:59:59", [0, 1, 2, 3]),
        ("modified in (2023, 2024-05-01, 2025-01)", [0, 3, 4, 7]),
        ("modified not in (2024)", [0, 7]),
        ("not (modified < 2024 or modified > 2024)", [1, 2, 3, 4, 5, 6]),
        ("modified is null", []),
    ],
)
@pytest.mark.parametrize("zone", ["UTC", "America/New_York", "Asia/Tokyo"])
def test_dates_name_spans_of_local_time(
    table: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch, zone: str, text: str,
    expected: list[int],
) -> None:  # fmt: skip
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        rows = [(i, "p", None, 0, ns(m) + 999, "{}") for i, m in enumerate(MOMENTS)]
        table.executemany("INSERT INTO items VALUES (?, ?, ?, ?, ?, ?)", rows)
        assert ids_where(table, text, set()) == expected
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("modified < 2300", [1, 2, 3]),
        ("modified <= 3000", [1, 2, 3]),
        ("modified >= 1600", [1, 2, 3]),
        ("modified > 1600", [1, 2, 3]),
        ("modified != 3000", [1, 2, 3]),
        ("modified = 2262", [3]),
        ("modified > 2262", []),
        ("modified < 1677", []),
        ("modified = 1677", [1]),
        ("modified not in (1600, 2024, 2300)", [1, 2, 3]),
        ("modified > 2300 or modified < 1600 or modified in (1600, 3000)", []),
    ],
)
def test_dates_may_be_far_away(table: sqlite3.Connection, text: str, expected: list[int]) -> None:
    times = [kept_time(-(10**20)), kept_time(5), kept_time(10**20)]
    assert times == [-(2**63), 5, 2**63 - 1]
    table.executemany("INSERT INTO items (id, mtime_ns) VALUES (?, ?)", enumerate(times, start=1))
    assert ids_where(table, text, set()) == expected


def test_a_time_with_a_zone_is_the_same_everywhere() -> None:
    start = 1_714_521_600 * 10**9  # 2024-05-01T00:00:00Z
    assert span_of("2024-05-01T00:00Z") == Span(start, start + 60 * 10**9)
    assert span_of("2024-05-01T02:00:00+02:00") == Span(start, start + 10**9)


@pytest.mark.parametrize(
    "text",
    ["yesterday", "2024-13", "2024-02-30", "2024-5-1", "05/01/2024", "24", "2024-05-01T24:00",
     "2024-05-01T12", "9999", "", "2024-05-01T12:00+99:00"],
)  # fmt: skip
def test_what_is_no_date_is_refused(text: str) -> None:
    with pytest.raises(FilterError, match="modified"):
        parse_filter(f"modified >= '{text}'", set())


def test_modified_cannot_be_compared_with_patterns() -> None:
    with pytest.raises(FilterError, match="modified is a time"):
        parse_filter("modified like '2024%'", set())
    with pytest.raises(FilterError, match="300 comparisons"):
        parse_filter("modified in (" + ", ".join(["2024"] * 301) + ")", set())


def test_quoted_names_are_those_of_metadata_first(table: sqlite3.Connection) -> None:
    row = (1, "p", "x", 5, ns("2024-05-01"), '{"modified": "by Ann", "size": "large"}')
    table.execute("INSERT INTO items VALUES (?, ?, ?, ?, ?, ?)", row)
    columns = {"modified", "size"}
    assert ids_where(table, "`modified` = 'by Ann' and modified = 2024-05-01", columns) == [1]
    assert ids_where(table, "`size` = large and size = 5", columns) == [1]
    assert ids_where(table, "`label` = x", columns) == [1]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("label = cat", [1, 2]),
        ("label=cat", [1, 2]),
        ("label = 'big dog'", [5]),
        ('label = "big dog"', [5]),
        ("label != cat", [3, 5]),
        ("label is null", [4]),
        ("label is not null and not label = cat", [3, 5]),
        ("path like '%2024%'", [2]),
        ("path not like 'cats/%'", [3, 4, 5]),
        ("label in (cat, dog)", [1, 2, 3]),
        ("label not in (cat)", [3, 5]),
        ("size >= 20 and size < 40", [2, 3]),
        ("year >= 2021 and label = dog", [3]),
        ("label = cat or label = dog and size > 100", [1, 2]),
        ("(label = cat or label = dog) and size > 15", [2, 3]),
        ("`shot by` = 'O''Hara'", [3]),
        ("id = 4", [4]),
        ("size = -1", []),
        ("LABEL = cat", FilterError),
        ("label = 'x'' OR 1=1 --'", []),
    ],
)
def test_filters_select_what_they_say(text: str, expected: object) -> None:
    db = connected()
    db.execute("CREATE TABLE items (id, path, label, size, metadata)")
    db.executemany("INSERT INTO items VALUES (?, ?, ?, ?, ?)", ROWS)
    if expected is FilterError:
        with pytest.raises(FilterError):
            parse_filter(text, {"year", "shot by"})
        return
    condition, parameters = parse_filter(text, {"year", "shot by"})
    found = db.execute(f"SELECT id FROM items WHERE {condition} ORDER BY id", parameters)
    assert [row[0] for row in found] == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("b = true", [1, 4]),
        ("b = True", [1]),
        ("b = 'TRUE'", [1, 3]),
        ("b = false", [2]),
        ("b = 1", [1, 5]),
        ("b = 0", [2]),
        ("b = '1'", [5]),
        ("b != true", [2, 3, 5]),
        ("b <> False", [1, 3, 4, 5]),
        ("b != 1", [2]),
        ("b in (TRUE, no)", [1, 3]),
        ("b in (False, 1)", [1, 2, 5]),
        ("b not in (true, false)", [3, 5]),
        ("b not in (True, 0)", [5]),
        ("b like 'T%e'", [1, 3, 4]),
        ("b like '1'", [5]),
        ("b not like '%e'", [5]),
        ("b not like '%\udce9%'", [1, 2, 3, 4, 5]),
        ("b > fa", [1, 2, 4]),
        ("b is null", [6]),
        ("not b = true", [2, 3, 5]),
    ],
)
def test_true_and_false_are_what_json_shows(
    table: sqlite3.Connection, text: str, expected: list[int]
) -> None:
    metadata = [True, False, "TRUE", "true", "1", None]
    rows = [(number, json.dumps({"b": b})) for number, b in enumerate(metadata, start=1)]
    table.executemany("INSERT INTO items (id, metadata) VALUES (?, ?)", rows)
    assert ids_where(table, text, {"b"}) == expected


@pytest.mark.parametrize("name", ["Größe", "日本", "a\\b", 'q"x', "a.b", "$x", "tab\there", "it's"])
def test_columns_may_have_any_name(table: sqlite3.Connection, name: str) -> None:
    rows = [(1, json.dumps({name: "5"})), (2, json.dumps({name: "x"})), (3, "{}")]
    table.executemany("INSERT INTO items (id, metadata) VALUES (?, ?)", rows)
    assert ids_where(table, f"`{name}` = 5", {name}) == [1]
    assert ids_where(table, f"`{name}` like 'x'", {name}) == [2]
    assert ids_where(table, f"`{name}` is null", {name}) == [3]
    assert ids_where(table, f"`{name}` in (5, x)", {name}) == [1, 2]


@pytest.mark.parametrize(
    "text",
    [
        "", "label", "label =", "= cat", "label = cat and", "label = cat dog", "(label = cat",
        "label = 'cat", "label in cat", "label in ()", "label is cat", "not", "label like",
        "label = cat; DROP TABLE items", "1 = 1", "label ~ cat", "id in (1,",
    ],
)  # fmt: skip
def test_what_cannot_be_understood_is_an_error(text: str) -> None:
    with pytest.raises(FilterError, match="--where"):
        parse_filter(text, set())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("not " * 5000 + "label = cat", "50 deep"),
        ("(" * 5000 + "label = cat" + ")" * 5000, "50 deep"),
        (" or ".join(["label = cat"] * 301), "300 comparisons"),
        ("id in (" + ", ".join(["1"] * 10_001) + ")", "10001 values"),
    ],
    ids=["not", "parentheses", "comparisons", "values"],
)
def test_what_is_too_long_is_refused_politely(text: str, message: str) -> None:
    with pytest.raises(FilterError, match=message):
        parse_filter(text, set())


def test_long_filters_work() -> None:
    db = connected()
    db.execute("CREATE TABLE items (id, path, label, size, metadata)")
    db.executemany("INSERT INTO items VALUES (?, ?, ?, ?, ?)", ROWS)
    for text in (" or ".join(["id = 3"] * 300), "id in (" + ", ".join(["3"] * 10_000) + ")"):
        condition, parameters = parse_filter(text, set())
        found = db.execute(f"SELECT id FROM items WHERE {condition}", parameters).fetchall()
        assert found == [(3,)]


def test_an_unknown_column_names_those_there_are() -> None:
    with pytest.raises(FilterError, match=r"'colour'.*id, path, label, size, modified, year"):
        parse_filter("colour = red", {"year"})
