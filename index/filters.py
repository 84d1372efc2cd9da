"""Filter expressions such as ``label = cat and year >= 2020``, turned into SQL with parameters.

expression  = term {or term};  term = factor {and factor}
factor      = not factor | ( expression ) | column comparison
comparison  = (= | != | <> | < | <= | > | >=) value | [not] like value | [not] in ( value, … )
              | is [not] null
value       = 'quoted' | "quoted" | number | word

Columns are id, path, label, size and any metadata column; metadata names may be quoted with `…`.
What a person types never reaches SQLite as SQL: names are looked up, values become parameters.
"""

import re
from collections.abc import Collection
from typing import Any

from index.errors import FilterError

OWN_COLUMNS = ("id", "path", "label", "size")
TOKEN = re.compile(
    r"""\s*(?:(?P<string>'(?:[^']|'')*'|"(?:[^"]|"")*")|(?P<name>`[^`]+`)
    |(?P<number>[-+]?\d+(?:\.\d+)?(?![\w.]))|(?P<operator><=|>=|!=|<>|[=<>(),])
    |(?P<word>[^\s'"`<>=!(),]+))""",
    re.VERBOSE,
)
MAX_DEPTH, MAX_COMPARISONS, MAX_VALUES = 50, 300, 10_000
"""More than this SQLite, or Python's stack, would refuse less politely."""
COMPARISONS = ("=", "!=", "<>", "<", "<=", ">", ">=")


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
        if self.comparisons > MAX_COMPARISONS:
            raise FilterError(
                f"--where has more than {MAX_COMPARISONS} comparisons; column in (…) takes many values"
            )
        column = self.column()
        token = self.peek()
        if token and token[1] in COMPARISONS:
            self.position += 1
            return f"{column} {token[1]} {self.value()}"
        if self.take_word("is"):
            null = "NOT NULL" if self.take_word("not") else "NULL"
            if not self.take_word("null"):
                raise self.error("null")
            return f"{column} IS {null}"
        negated = "NOT " if self.take_word("not") else ""
        if self.take_word("like"):
            return f"{column} {negated}LIKE {self.value()}"
        if self.take_word("in"):
            return f"{column} {negated}IN ({self.values()})"
        raise self.error("=, !=, <, <=, >, >=, like, in, or is")

    def column(self) -> str:
        token = self.peek()
        if token is None or token[0] not in ("word", "name"):
            raise self.error("the name of a column")
        name = token[1].strip("`")
        if name in OWN_COLUMNS:
            self.position += 1
            return name
        if name in self.metadata_columns:
            self.position += 1
            self.parameters.append('$."' + name.replace('"', '\\"') + '"')
            return "json_extract(metadata, ?)"
        there = ", ".join([*OWN_COLUMNS, *sorted(self.metadata_columns)])
        raise FilterError(f"--where names a column {name!r}; this gallery has: {there}")

    def value(self) -> str:
        token = self.peek()
        if token is None or token[0] not in ("string", "number", "word"):
            raise self.error("a value")
        self.position += 1
        kind, text = token
        if kind == "string":
            self.parameters.append(text[1:-1].replace(text[0] * 2, text[0]))
        elif kind == "number":
            self.parameters.append(float(text) if "." in text else int(text))
        else:
            self.parameters.append(text)
        return "?"

    def values(self) -> str:
        if not self.take_word("("):
            raise self.error("(")
        values = [self.value()]
        while self.take_word(","):
            values.append(self.value())
        if not self.take_word(")"):
            raise self.error(", or )")
        if len(values) > MAX_VALUES:
            raise FilterError(
                f"--where lists {len(values)} values; at most {MAX_VALUES} are possible"
            )
        return ", ".join(values)
