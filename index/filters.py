"""Filter expressions such as ``label = cat and year >= 2020``, turned into SQL with parameters.

expression  = term {or term};  term = factor {and factor}
factor      = not factor | ( expression ) | column comparison
comparison  = (= | != | <> | < | <= | > | >=) value | [not] like value | [not] in ( value, … )
              | is [not] null
value       = 'quoted' | "quoted" | number | word

Columns are id, path, label, size, modified and any metadata column. A name in `…` is that of a metadata
column first. Metadata compare as numbers where the value is a number (texts that are not numbers never
match then), else as text. ``modified``, when the file was last changed, compares with dates: see
``index.dates``.
"""

import math
import re
from collections.abc import Collection
from typing import Any

from index.conditions import Column, Conditions, Number
from index.dates import span_of
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
MAX_DEPTH, MAX_COMPARISONS, MAX_VALUES, MAX_PATTERN = 50, 300, 10_000, 50_000
"""More than this SQLite, or Python's stack, would refuse less politely."""
COMPARISONS = ("=", "!=", "<>", "<", "<=", ">", ">=")


def parse_filter(text: str, metadata_columns: Collection[str]) -> tuple[str, list[Any]]:
    """A condition for SQLite and its parameters.

    Raises FilterError for what cannot be understood, and for unknown columns (naming those there are).
    """
    try:
        text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise FilterError(f"--where {text!r} holds a half of a character: {error}") from error
    parser = _Parser(text, metadata_columns)
    condition = parser.expression()
    if parser.peek() is not None:
        raise parser.error("and, or, or the end")
    return condition, parser.sql.parameters


class _Parser:
    def __init__(self, text: str, metadata_columns: Collection[str]) -> None:
        self.text, self.metadata_columns = text, metadata_columns
        self.tokens, self.position = self._split(text), 0
        self.sql = Conditions()
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
            return f"NOT {self.factor()}"  # fewer signs: SQLite stacks up to 100
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
            return self.sql.compared(column, token[1], self.value(column))
        if self.take_word("is"):
            negated = "" if self.take_word("not") else "NOT "
            if not self.take_word("null"):
                raise self.error("null")
            return f"{negated}({self.sql.is_there(column)})"
        negated = "NOT " if self.take_word("not") else ""
        if self.take_word("like"):
            if column.is_time:
                raise FilterError(
                    "--where: modified is a time; compare it with =, <, > … and a date"
                )
            return f"{negated}({self.sql.liked(column, self.pattern())})"
        if self.take_word("in"):
            return f"{negated}({self.sql.listed(column, self.values(column))})"
        raise self.error("=, !=, <, <=, >, >=, like, in, or is")

    def check_comparisons(self) -> None:
        if self.comparisons > MAX_COMPARISONS:
            raise FilterError(
                f"--where has more than {MAX_COMPARISONS} comparisons; column in (…) takes many values"
            )

    def column(self) -> Column:
        token = self.peek()
        if token is None or token[0] not in ("word", "name"):
            raise self.error("the name of a column")
        name = token[1].strip("`")
        own, other = name in OWN_COLUMNS, name in self.metadata_columns
        if not (own or other):
            there = ", ".join([*OWN_COLUMNS, *sorted(self.metadata_columns)])
            raise FilterError(f"--where names a column {name!r}; this gallery has: {there}")
        self.position += 1
        return Column(name, own and not (other and token[0] == "name"))

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
        text = self.token_of_value()[1]
        length = len(text.encode("utf-8", "surrogateescape"))
        if length > MAX_PATTERN:
            raise FilterError(
                f"--where has a pattern of {length} bytes; at most {MAX_PATTERN} are possible"
            )
        return text

    def value(self, column: Column) -> Any:
        """The next token as what it is compared as: a text, a number or a span of time."""
        kind, text = self.token_of_value()
        if column.is_time:
            return span_of(text)
        if column.own and column.name in NUMBER_COLUMNS:
            # Beside a number SQLite would take a text for larger than all of them.
            return _number(text, f"{column.name} is {NUMBER_COLUMNS[column.name]}")
        if kind == "number" and not column.own:
            number = _number(text, f"{column.name} is compared as a number")
            return Number(number, text if text.isascii() else str(number))
        return text

    def values(self, column: Column) -> list[Any]:
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
        if column.is_time:
            self.comparisons += len(values)
            self.check_comparisons()
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
