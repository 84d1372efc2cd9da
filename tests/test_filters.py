import datetime
import json
import random
import sqlite3
import time

import pytest

from index.dates import Span, kept_time, span_of
from index.errors import FilterError
from index.filters import parse_filter
from index.texts import fits

ROWS = [
    (1, "cats/a.jpg", "cat", 10, '{"year": 2020, "shot by": "Ann"}'),
    (2, "cats/b 2024.jpg", "cat", 20, '{"year": 2024}'),
    (3, "dogs/c.jpg", "dog", 30, '{"year": 2024, "shot by": "O\'Hara"}'),
    (4, "d.jpg", None, 40, "{}"),
    (5, "e.jpg", "big dog", 50, '{"year": "n/a"}'),
]
CSV_ROWS = [  # from a CSV file all metadata are text
    (1, '{"year": "1999", "price": "9.50", "taken": "2024-04-30"}'),
    (2, '{"year": "2021", "price": "10", "taken": "2024-05-01"}'),
    (3, '{"year": "007", "price": "", "taken": "2024-05-02"}'),
    (4, '{"year": "n/a", "price": "1e3"}'),
    (5, '{"year": 2021, "price": -1.5}'),
    (6, "{}"),
]


def connected() -> sqlite3.Connection:
    db = sqlite3.connect(":memory:")
    db.create_function("fits", 3, fits)
    return db


@pytest.fixture
def table() -> sqlite3.Connection:
    db = connected()
    db.execute("CREATE TABLE items (id INTEGER, path TEXT, label TEXT, size INTEGER,"
               " mtime_ns INTEGER, metadata TEXT)")  # fmt: skip
    return db


def ids_where(db: sqlite3.Connection, text: str, columns: set[str]) -> list[int]:
    condition, parameters = parse_filter(text, columns)
    found = db.execute(f"SELECT id FROM items WHERE {condition} ORDER BY id", parameters)
    return [row[0] for row in found]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("year >= 2000", [2, 5]),
        ("year < 2000", [1, 3]),
        ("year = 7", [3]),
        ("year = '007'", [3]),
        ("year = '7'", []),
        ("year = 2021", [2, 5]),
        ("year = '2021'", [2, 5]),
        ("year = 2021.0", [2, 5]),
        ("year != 2021", [1, 3]),
        ("not year >= 2000", [1, 3]),
        ("year in (2021, 7)", [2, 3, 5]),
        ("year in ('n/a', 1999)", [1, 4]),
        ("year not in (2021)", [1, 3]),
        ("year is null", [6]),
        ("year like '20%'", [2, 5]),
        ("price > 9.5", [2, 4]),
        ("price <= 9.5", [1, 5]),
        ("price = 0", []),
        ("taken >= 2024-05-01", [2, 3]),
        ("taken = '2024-05-01'", [2]),
    ],
)
def test_metadata_compare_as_numbers_with_numbers_and_as_text_with_text(
    table: sqlite3.Connection, text: str, expected: list[int]
) -> None:
    rows = [(i, "p", None, 0, 0, metadata) for i, metadata in CSV_ROWS]
    table.executemany("INSERT INTO items VALUES (?, ?, ?, ?, ?, ?)", rows)
    assert ids_where(table, text, {"year", "price", "taken"}) == expected


def test_labels_that_look_like_numbers_are_text(table: sqlite3.Connection) -> None:
    rows = [(i, f"{i}.png", label, 0, 0, "{}") for i, label in enumerate(("7", "007", "1.50"))]
    table.executemany("INSERT INTO items VALUES (?, ?, ?, ?, ?, ?)", rows)
    for text, expected in {
        "label = 7": [0], "label = 007": [1], "label = 1.50": [2], "label in (7, 007)": [0, 1],
    }.items():  # fmt: skip
        assert ids_where(table, text, set()) == expected


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


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("id < 99999999999999999999", [1, 2, 3, 4]),
        ("id = 99999999999999999999", []),
        ("id in (2, 99999999999999999999)", [2]),
        ("size > -99999999999999999999", [1, 2, 3, 4]),
        ("size >= 9223372036854775807", [4]),
        ("size >= 9223372036854775808", []),
        ("serial = 12345678901234567890", [1, 2]),
        ("serial != 12345678901234567890", [3, 4]),
        ("serial > 12345678901234567890", [3]),
        ("serial in (12345678901234567890, 7)", [1, 2, 4]),
        ("serial >= 9223372036854775807", [1, 2, 3]),
        ("serial = '12345678901234567890'", [1]),
    ],
)
def test_numbers_may_be_large(table: sqlite3.Connection, text: str, expected: list[int]) -> None:
    rows = [
        (1, 1, '{"serial": "12345678901234567890"}'),
        (2, 1, '{"serial": 12345678901234567890}'),
        (3, 1, '{"serial": "123456789012345678901234567890"}'),
        (4, 2**63 - 1, '{"serial": "7"}'),
    ]
    table.executemany("INSERT INTO items (id, size, metadata) VALUES (?, ?, ?)", rows)
    assert ids_where(table, text, {"serial"}) == expected


def test_a_number_finds_what_is_written_as_it_is(table: sqlite3.Connection) -> None:
    """SQLite may read long texts as another float than Python, and than it reads from JSON."""
    rng = random.Random(0)
    written = [str(rng.randrange(2**63, 10 ** rng.randrange(20, 30))) for _ in range(20_000)]
    written += [repr(rng.random() * 10.0 ** rng.randrange(-20, 20)) for _ in range(20_000)]
    read = [table.execute("SELECT CAST(? AS NUMERIC)", (text,)).fetchone()[0] for text in written]
    other = [text for text, number in zip(written, read, strict=True) if number != float(text)]
    numbers = [*other[:40], *written[:20], *written[-20:]]
    rows = [f'{{"x": {form}}}' for text in numbers for form in (f'"{text}"', text)]
    table.executemany("INSERT INTO items (id, metadata) VALUES (?, ?)", enumerate(rows))
    for place, text in enumerate(numbers):
        one = f"(SELECT * FROM items WHERE id IN ({2 * place}, {2 * place + 1}))"
        for sign, expected in (("=", 2), ("<=", 2), (">=", 2), ("<", 0), (">", 0), ("!=", 0)):
            condition, parameters = parse_filter(f"x {sign} {text}", {"x"})
            found = table.execute(f"SELECT count(*) FROM {one} WHERE {condition}", parameters)
            assert found.fetchone() == (expected,), (text, sign)
    assert ids_where(table, f"x in ({', '.join(numbers[:30])})", {"x"}) == list(range(60))


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


@pytest.mark.parametrize("name", ["Größe", "日本", "a\\b", 'q"x', "a.b", "$x", "tab\there", "it's"])
def test_columns_may_have_any_name(table: sqlite3.Connection, name: str) -> None:
    rows = [(1, json.dumps({name: "5"})), (2, json.dumps({name: "x"})), (3, "{}")]
    table.executemany("INSERT INTO items (id, metadata) VALUES (?, ?)", rows)
    assert ids_where(table, f"`{name}` = 5", {name}) == [1]
    assert ids_where(table, f"`{name}` like 'x'", {name}) == [2]
    assert ids_where(table, f"`{name}` is null", {name}) == [3]
    assert ids_where(table, f"`{name}` in (5, x)", {name}) == [1, 2]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("size > 1.5e1", [2, 3]),
        ("size = '20'", [2]),
        ("size in (10, '30')", [1, 3]),
        ("size like '1%'", [1]),
        ("id < 2", [1]),
        ("year >= 2e3", [2]),
    ],
)
def test_numbers_are_numbers_however_they_are_written(
    table: sqlite3.Connection, text: str, expected: list[int]
) -> None:
    rows = [(1, 10, '{"year": "1999"}'), (2, 20, '{"year": "2021"}'), (3, 30, "{}")]
    table.executemany("INSERT INTO items (id, size, metadata) VALUES (?, ?, ?)", rows)
    assert ids_where(table, text, {"year"}) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("score > .5", [4, 5, 6]),
        ("score>.5", [4, 5, 6]),
        ("score > +.5", [4, 5, 6]),
        ("score > .5e0", [4, 5, 6]),
        ("score > 5.e-1", [4, 5, 6]),
        ("score < .49 and not score < -.5", [1, 2]),
        ("score < -.5", [7]),
        ("score > 5.", [6]),
        ("score = 12.", [6]),
        ("score in (.3, 12., -.75)", [2, 6, 7]),
        ("id > .5 and id < 3.", [1, 2]),
        ("score = '.5'", []),
        ("score = 1.2.3", [8]),
        ("score = .5.2", [9]),
        ("label = .5", [1]),
        ("label in (5., .5)", [1, 2]),
    ],
)
def test_numbers_may_begin_or_end_with_the_point(
    table: sqlite3.Connection, text: str, expected: list[int]
) -> None:
    scores = ["0.1", "0.3", "0.49", "0.6", "0.9", "12", "-0.75", "1.2.3", ".5.2"]
    labels = [".5", "5.", *["0.5"] * 7]
    rows = [
        (number, label, json.dumps({"score": score}))
        for number, (label, score) in enumerate(zip(labels, scores, strict=True), start=1)
    ]
    table.executemany("INSERT INTO items (id, label, metadata) VALUES (?, ?, ?)", rows)
    assert ids_where(table, text, {"score"}) == expected


@pytest.mark.parametrize(
    "text",
    [
        "size < 1KB",
        "size in (1, b)",
        "id = abc",
        "size > ''",
        "size < nan",
        "id < 1e999",
        "x < 2e999",
    ],
)
def test_a_text_is_no_number(text: str) -> None:
    """SQLite would find a text larger than every number, so that all pictures, or none, would go."""
    with pytest.raises(FilterError, match="cannot be compared with"):
        parse_filter(text, {"x"})


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
