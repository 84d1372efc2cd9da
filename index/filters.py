"""Filter expressions such as ``label = cat and year >= 2020``, turned into SQL with parameters.

expression  = term {or term};  term = factor {and factor}
factor      = not factor | ( expression ) | column comparison
comparison  = (= | != | <> | < | <= | > | >=) value | [not] like value | [not] in ( value, … )
              | is [not] null
value       = 'quoted' | "quoted" | number | word

Columns are id, path, label, size, modified and any metadata column. A name in `…` is that of a metadata
column first. Metadata compare as numbers where the value is a number (texts that are not numbers never
match then), else as text. ``modified``, when the file was last changed, compares with dates: see
``index.dates``. What a person types never reaches SQLite as SQL: names are looked up, values become
parameters.
"""

import dataclasses
import json
import math
import re
from collections.abc import Collection
from typing import Any

from index.dates import Span, span_of
from index.errors import FilterError

OWN_COLUMNS = ("id", "path", "label", "size", "modified")
NUMBER_COLUMNS = {"id": "a whole number", "size": "a number of bytes"}
TOKEN = re.compile(
    r"""\s*(?:(?P<string>'(?:[^']|'')*'|"(?:[^"]|"")*")|(?P<name>`[^`]+`)
    |(?P<number>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?(?![\w.:+-]))
    |(?P<operator><=|>=|!=|<>|[=<>(),])
    |(?P<word>[^\s'"`<>=!(),]+))""",
    re.VERBOSE,
)
MAX_DEPTH, MAX_COMPARISONS, MAX_VALUES = 50, 300, 10_000
"""More than this SQLite, or Python's stack, would refuse less politely."""
COMPARISONS = ("=", "!=", "<>", "<", "<=", ">", ">=")


@dataclasses.dataclass(frozen=True)
class _Column:
    name: str
    own: bool

    @property
    def is_time(self) -> bool:
        return self.own and self.name == "modified"


@dataclasses.dataclass(frozen=True)
class _Number:
    """What metadata compare with as numbers, and how it was written."""

    value: int | float
    written: str


def parse_filter(text: str, metadata_columns: Collection[str]) -> tuple[str, list[Any]]:
    """A condition for SQLite and its parameters.

    Raises FilterError for what cannot be understood, and for unknown columns (naming those there are).
    """
    parser = _Parser(text, metadata_columns)
    condition = parser.expression()
    if parser.peek() is not None:
        raise parser.error("and, or, or the end")
    return condition, parser.parameters


class _Parser:
    def __init__(self, text: str, metadata_columns: Collection[str]) -> None:
        self.text, self.metadata_columns = text, metadata_columns
        self.tokens, self.position = self._split(text), 0
        self.parameters: list[Any] = []
        self.depth = self.comparisons = 0

    def _split(self, text: str) -> list[tuple[str, str]]:
        tokens, place = [], 0
        while text[place:].strip():
            match = TOKEN.match(text, place)
            if match is None:
                raise FilterError(
                    f"--where {text!r} cannot be read from {text[place:].strip()[:20]!r} on; is a "
                    "quote missing?"
                )
            assert match.lastgroup is not None
            tokens.append((match.lastgroup, match.group(match.lastgroup)))
            place = match.end()
        return tokens

    def peek(self) -> tuple[str, str] | None:
        return self.tokens[self.position] if self.position < len(self.tokens) else None

    def error(self, expected: str) -> FilterError:
        token = self.peek()
        found = repr(token[1]) if token else "the end"
        return FilterError(
            f"--where {self.text!r}: found {found}, expected {expected}; an example: "
            "label = cat and path like '%2024%'"
        )

    def take_word(self, *words: str) -> bool:
        """Step over one of these words or signs, if it is next."""
        token = self.peek()
        if token and token[0] in ("word", "operator") and token[1].lower() in words:
            self.position += 1
            return True
        return False

    def expression(self) -> str:
        parts = [self.term()]
        while self.take_word("or"):
            parts.append(self.term())
        return f"({' OR '.join(parts)})"

    def term(self) -> str:
        parts = [self.factor()]
        while self.take_word("and"):
            parts.append(self.factor())
        return " AND ".join(parts)

    def factor(self) -> str:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise FilterError(f"--where is nested more than {MAX_DEPTH} deep")
        try:
            return self._factor()
        finally:
            self.depth -= 1

    def _factor(self) -> str:
        if self.take_word("not"):
            return f"NOT ({self.factor()})"
        if self.take_word("("):
            inside = self.expression()
            if not self.take_word(")"):
                raise self.error(")")
            return inside
        return self.comparison()

    def comparison(self) -> str:
        self.comparisons += 1
        self.check_comparisons()
        column = self.column()
        token = self.peek()
        if token and token[1] in COMPARISONS:
            self.position += 1
            return self.compared(column, token[1], self.value(column))
        if self.take_word("is"):
            null = "NOT NULL" if self.take_word("not") else "NULL"
            if not self.take_word("null"):
                raise self.error("null")
            return f"{self.text_of(column)} IS {null}"
        negated = "NOT " if self.take_word("not") else ""
        if self.take_word("like"):
            if column.is_time:
                raise FilterError(
                    "--where: modified is a time; compare it with =, <, > … and a date"
                )
            return f"{self.text_of(column)} {negated}LIKE {self.parameter(self.pattern())}"
        if self.take_word("in"):
            return f"{negated}{self.listed(column, self.values(column))}"
        raise self.error("=, !=, <, <=, >, >=, like, in, or is")

    def check_comparisons(self) -> None:
        if self.comparisons > MAX_COMPARISONS:
            raise FilterError(
                f"--where has more than {MAX_COMPARISONS} comparisons; column in (…) takes many values"
            )

    def column(self) -> _Column:
        token = self.peek()
        if token is None or token[0] not in ("word", "name"):
            raise self.error("the name of a column")
        name = token[1].strip("`")
        own, other = name in OWN_COLUMNS, name in self.metadata_columns
        if not (own or other):
            there = ", ".join([*OWN_COLUMNS, *sorted(self.metadata_columns)])
            raise FilterError(f"--where names a column {name!r}; this gallery has: {there}")
        self.position += 1
        return _Column(name, own and not (other and token[0] == "name"))

    def compared(self, column: _Column, sign: str, value: Any) -> str:
        """``column sign value`` as SQL."""
        if isinstance(value, Span):
            return self.compared_time(sign, value)
        if isinstance(value, _Number):
            return self.compared_numbers(column, sign, [value])
        return f"{self.text_of(column)} {sign} {self.parameter(value)}"

    def compared_time(self, sign: str, span: Span) -> str:
        """A date is all the time that it names: = within it, < before it, <= before its end."""
        if sign in ("=", "!=", "<>"):
            start, end = self.parameter(span.start), self.parameter(span.end)
            inside = f"mtime_ns >= {start} AND mtime_ns < {end}"
            return f"({inside})" if sign == "=" else f"NOT ({inside})"
        bound = span.end if sign in ("<=", ">") else span.start
        return f"mtime_ns {'<' if sign in ('<', '<=') else '>='} {self.parameter(bound)}"

    def listed(self, column: _Column, values: list[Any]) -> str:
        """``column IN (values)`` as SQL."""
        if column.is_time:
            self.comparisons += len(values)
            self.check_comparisons()
            return f"({' OR '.join(self.compared_time('=', value) for value in values)})"
        numbers = [value for value in values if isinstance(value, _Number)]
        others = [value for value in values if not isinstance(value, _Number)]
        parts = []
        if others:
            name = self.text_of(column)
            parts.append(f"{name} IN ({', '.join(map(self.parameter, others))})")
        if numbers:
            parts.append(self.compared_numbers(column, "IN", numbers))
        return f"({' OR '.join(parts)})"

    def compared_numbers(self, column: _Column, sign: str, numbers: list[_Number]) -> str:
        """``column sign number``, or IN numbers, as SQL; NULL where the value is no number.

        SQLite may read many digits as another float than Python does, and in texts (all values of CSV
        files are) as another than in JSON. So each is compared with what is read of the same digits.
        """
        texts = self.read("CAST(value AS NUMERIC)", [number.written for number in numbers])
        values = self.read("value", [number.value for number in numbers])
        # Beside an operand of NUMERIC affinity SQLite turns texts that are numbers, and no others,
        # into numbers.
        return self.extract(
            column,
            "CASE WHEN value != CAST(value AS NUMERIC) THEN NULL WHEN typeof(value) = 'text' "
            f"THEN CAST(value AS NUMERIC) {sign} {texts} ELSE value {sign} {values} END",
        )

    def read(self, what: str, values: list[Any]) -> str:
        """What SQLite reads of values written as JSON, as SQL: one value, or those of a list."""
        return f"(SELECT {what} FROM json_each({self.parameter(json.dumps(values))}))"

    def text_of(self, column: _Column) -> str:
        """The column as it is compared with texts; own columns as they are."""
        if column.own:
            return "mtime_ns" if column.is_time else column.name
        return f"CAST({self.extract(column, 'value')} AS TEXT)"

    def extract(self, column: _Column, what: str) -> str:
        """What is made of the ``value`` of a metadata column, as SQL; NULL where there is none."""
        # Not by a path of json_extract, which takes names as they are written: G\u00f6, not Gö.
        return f"(SELECT {what} FROM json_each(metadata) WHERE key = {self.parameter(column.name)})"

    def parameter(self, value: Any) -> str:
        # SQLite has whole numbers of 64 bits, and compares them with floats exactly.
        is_large = isinstance(value, int) and not -(2**63) <= value < 2**63
        self.parameters.append(float(value) if is_large else value)
        return "?"

    def token_of_value(self) -> tuple[str, str]:
        """Kind and text, without quotes, of the next token."""
        token = self.peek()
        if token is None or token[0] not in ("string", "number", "word"):
            raise self.error("a value")
        self.position += 1
        kind, text = token
        return kind, text[1:-1].replace(text[0] * 2, text[0]) if kind == "string" else text

    def pattern(self) -> str:
        """The next token as a text that like compares with."""
        return self.token_of_value()[1]

    def value(self, column: _Column) -> Any:
        """The next token as what it is compared as: a text, a number or a span of time."""
        kind, text = self.token_of_value()
        if column.is_time:
            return span_of(text)
        if column.own and column.name in NUMBER_COLUMNS:
            # Beside a number SQLite would take a text for larger than all of them.
            return _number(text, f"{column.name} is {NUMBER_COLUMNS[column.name]}")
        if kind == "number" and not column.own:
            number = _number(text, f"{column.name} is compared as a number")
            return _Number(number, text if text.isascii() else str(number))
        return text

    def values(self, column: _Column) -> list[Any]:
        if not self.take_word("("):
            raise self.error("(")
        values = [self.value(column)]
        while self.take_word(","):
            values.append(self.value(column))
        if not self.take_word(")"):
            raise self.error(", or )")
        if len(values) > MAX_VALUES:
            raise FilterError(
                f"--where lists {len(values)} values; at most {MAX_VALUES} are possible"
            )
        return values


def _number(text: str, what: str) -> int | float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise FilterError(f"--where: {what}, and cannot be compared with {text!r}")
    try:
        return int(text)
    except ValueError:
        return number
