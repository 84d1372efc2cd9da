"""Numbers in filters: in columns of their own, in texts of CSV files, and in JSON."""

import json
import random
import sqlite3

import pytest
from filter_table import ids_where, items_table

from index.errors import FilterError
from index.filters import parse_filter

CSV_ROWS = [  # from a CSV file all metadata are text
    (1, '{"year": "1999", "price": "9.50", "taken": "2024-04-30"}'),
    (2, '{"year": "2021", "price": "10", "taken": "2024-05-01"}'),
    (3, '{"year": "007", "price": "", "taken": "2024-05-02"}'),
    (4, '{"year": "n/a", "price": "1e3"}'),
    (5, '{"year": 2021, "price": -1.5}'),
    (6, "{}"),
]


@pytest.fixture
def table() -> sqlite3.Connection:
    return items_table()


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
