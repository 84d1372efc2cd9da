"""Comparisons of a column of the items with values, as SQL with parameters.

What a person types never reaches SQLite as SQL: names are looked up, values become parameters.
"""

import dataclasses
import json
from typing import Any

from index.dates import Span
from index.texts import encode


@dataclasses.dataclass(frozen=True)
class Column:
    """A column of the table of items, or (not ``own``) one of their metadata."""

    name: str
    own: bool

    @property
    def is_time(self) -> bool:
        return self.own and self.name == "modified"


@dataclasses.dataclass(frozen=True)
class Number:
    """What metadata compare with as numbers, and how it was written."""

    value: int | float
    written: str


class Conditions:
    """Makes comparisons. ``parameters`` are those of all that it has made, in their order."""

    def __init__(self) -> None:
        self.parameters: list[Any] = []

    def is_there(self, column: Column) -> str:
        """Whether there is a value, as SQL."""
        return f"{self._value(column)} NOT NULL"

    def compared(self, column: Column, sign: str, value: Any) -> str:
        """``column sign value`` as SQL."""
        if isinstance(value, Span):
            return self._compared_time(sign, value)
        if isinstance(value, Number):
            return self._compared_numbers(column, sign, [value])
        if not column.own:
            return self._compared_texts(column, sign, [value])
        if isinstance(value, str) and sign not in ("=", "!=", "<>"):
            # Else SQLite takes what is not UTF-8, a BLOB, for larger than all texts.
            as_bytes = self._parameter(value.encode("utf-8", "surrogateescape"))
            return f"CAST({column.name} AS BLOB) {sign} {as_bytes}"
        return f"{column.name} {sign} {self._parameter(value)}"

    def listed(self, column: Column, values: list[Any]) -> str:
        """``column IN (values)`` as SQL."""
        if column.is_time:
            return f"({' OR '.join(self._compared_time('=', value) for value in values)})"
        if column.own:
            return f"{column.name} IN ({', '.join(map(self._parameter, values))})"
        numbers = [value for value in values if isinstance(value, Number)]
        texts = [value for value in values if not isinstance(value, Number)]
        parts = []
        if texts:
            parts.append(self._compared_texts(column, "IN", texts))
        if numbers:
            parts.append(self._compared_numbers(column, "IN", numbers))
        return f"({' OR '.join(parts)})"

    def liked(self, column: Column, pattern: str) -> str:
        """``column LIKE pattern`` as SQL; by ``index.texts.fits`` where something is not UTF-8."""
        # SQLite's LIKE reads whatever is not UTF-8 as U+FFFD.
        is_odd = isinstance(encode(pattern), bytes) or "\ufffd" in pattern
        if not column.own and is_odd:
            read = self._read("CAST(value AS BLOB)", [pattern])
            return self._extract(column, f"fits(CAST(value AS BLOB), {read}, 'surrogatepass')")
        if not column.own:
            return self._compared_texts(column, "LIKE", [pattern])
        as_bytes = self._parameter(pattern.encode("utf-8", "surrogateescape"))
        fits = f"fits(CAST({column.name} AS BLOB), {as_bytes}, 'surrogateescape')"
        if is_odd:
            return fits
        like = f"{column.name} LIKE {self._parameter(pattern)}"
        return f"CASE typeof({column.name}) WHEN 'blob' THEN {fits} ELSE {like} END"

    def _compared_time(self, sign: str, span: Span) -> str:
        """A date is all the time that it names: = within it, < before it, <= before its end."""
        if sign in ("=", "!=", "<>"):
            start, end = self._parameter(span.start), self._parameter(span.end)
            inside = f"mtime_ns >= {start} AND mtime_ns < {end}"
            return f"({inside})" if sign == "=" else f"NOT ({inside})"
        bound = span.end if sign in ("<=", ">") else span.start
        return f"mtime_ns {'<' if sign in ('<', '<=') else '>='} {self._parameter(bound)}"

    def _compared_texts(self, column: Column, sign: str, texts: list[str]) -> str:
        """``column sign text``, or IN texts, of metadata as SQL.

        Of true and false, which have the values 1 and 0, the type is the word that JSON shows.
        """
        others, words = (self._read("value", texts) for _ in range(2))
        # All texts are above 1, and seen to be none of the two without a look at the type.
        return self._extract(
            column,
            "CASE WHEN value > 1 OR type NOT IN ('true', 'false') "
            f"THEN CAST(value AS TEXT) {sign} {others} ELSE type COLLATE NOCASE {sign} {words} END",
        )

    def _compared_numbers(self, column: Column, sign: str, numbers: list[Number]) -> str:
        """``column sign number``, or IN numbers, as SQL; NULL where the value is no number.

        SQLite may read many digits as another float than Python does, and in texts (all values of CSV
        files are) as another than in JSON. So each is compared with what is read of the same digits.
        """
        texts = self._read("CAST(value AS NUMERIC)", [number.written for number in numbers])
        values = self._read("value", [number.value for number in numbers])
        # Beside an operand of NUMERIC affinity SQLite turns texts that are numbers, and no others,
        # into numbers.
        return self._extract(
            column,
            "CASE WHEN value != CAST(value AS NUMERIC) THEN NULL WHEN typeof(value) = 'text' "
            f"THEN CAST(value AS NUMERIC) {sign} {texts} ELSE value {sign} {values} END",
        )

    def _value(self, column: Column) -> str:
        if column.is_time:
            return "mtime_ns"
        return column.name if column.own else self._extract(column, "value")

    def _extract(self, column: Column, what: str) -> str:
        """What is made of the ``value`` of a metadata column, as SQL; NULL where there is none."""
        # Not by a path of json_extract, which takes names as they are written: G\u00f6, not Gö.
        key = self._read("value", [column.name])
        return f"(SELECT {what} FROM json_each(metadata) WHERE key = {key})"

    def _read(self, what: str, values: list[Any]) -> str:
        """What SQLite reads of values written as JSON, as SQL: one value, or those of a list."""
        return f"(SELECT {what} FROM json_each({self._parameter(json.dumps(values))}))"

    def _parameter(self, value: Any) -> str:
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            value = float(value)  # SQLite has whole numbers of 64 bits, and compares both exactly
        self.parameters.append(encode(value) if isinstance(value, str) else value)
        return "?"
