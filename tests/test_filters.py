import sqlite3

import pytest

from index.errors import FilterError
from index.filters import parse_filter

ROWS = [
    (1, "cats/a.jpg", "cat", 10, '{"year": 2020, "shot by": "Ann"}'),
    (2, "cats/b 2024.jpg", "cat", 20, '{"year": 2024}'),
    (3, "dogs/c.jpg", "dog", 30, '{"year": 2024, "shot by": "O\'Hara"}'),
    (4, "d.jpg", None, 40, "{}"),
    (5, "e.jpg", "big dog", 50, '{"year": "n/a"}'),
]


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
    db = sqlite3.connect(":memory:")
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
    db = sqlite3.connect(":memory:")
    db.execute("CREATE TABLE items (id, path, label, size, metadata)")
    db.executemany("INSERT INTO items VALUES (?, ?, ?, ?, ?)", ROWS)
    for text in (" or ".join(["id = 3"] * 300), "id in (" + ", ".join(["3"] * 10_000) + ")"):
        condition, parameters = parse_filter(text, set())
        found = db.execute(f"SELECT id FROM items WHERE {condition}", parameters).fetchall()
        assert found == [(3,)]


def test_an_unknown_column_names_those_there_are() -> None:
    with pytest.raises(FilterError, match=r"'colour'.*id, path, label, size, year"):
        parse_filter("colour = red", {"year"})
