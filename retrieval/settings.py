"""Settings that know their default, range and help, and check themselves."""

import dataclasses
import json
import math
import typing
from collections.abc import Mapping
from dataclasses import field
from typing import Any, Self

from retrieval.errors import ConfigError


def choice(
    default: Any,
    help: str,
    *,
    choices: tuple[str, ...] | None = None,
    at_least: float | None = None,
    at_most: float | None = None,
    also: str | None = None,
) -> Any:
    """A dataclass field that knows its help text, what it may be, and another name of its option."""
    metadata = {
        "help": help, "choices": choices, "at_least": at_least, "at_most": at_most, "also": also,
    }  # fmt: skip
    return field(default=default, metadata=metadata)


class Checked:
    """Range checks and JSON for a frozen dataclass whose fields are made by ``choice``."""

    def __post_init__(self) -> None:
        hints = typing.get_type_hints(type(self))
        for item in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, item.name)
            _check_kind(item.name, hints[item.name], value)
            if value is not None:
                _check_choice(item, value)

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain JSON types, nested configurations as nested dictionaries."""
        return typing.cast("dict[str, Any]", json.loads(json.dumps(dataclasses.asdict(self))))  # type: ignore[call-overload]

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The configuration that ``to_dict`` wrote.

        Raises ConfigError for an unknown key, a value of another kind, or one out of range.
        """
        if not isinstance(values, Mapping):
            raise ConfigError(f"{cls.__name__} is {values!r}; it must be a mapping of its fields")
        hints = typing.get_type_hints(cls)
        unknown = sorted(set(values) - set(hints))
        if unknown:
            raise ConfigError(
                f"{cls.__name__} has no field {unknown[0]!r}; it has: {', '.join(hints)}"
            )
        return cls(**{name: _from_json(hints[name], value) for name, value in values.items()})


def _from_json(kind: Any, value: Any) -> Any:
    if dataclasses.is_dataclass(kind) and isinstance(value, dict):
        return kind.from_dict(value)  # type: ignore[union-attr]
    return tuple(value) if isinstance(value, list) else value


def _check_kind(name: str, kind: Any, value: Any) -> None:
    if not _is_of(kind, value):
        wanted = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
        what = wanted.get(kind, str(getattr(kind, "__name__", kind)))
        what = "numbers" if typing.get_origin(kind) is tuple else what
        raise ConfigError(f"{_option(name)} is {value!r}; it must be {what}")


def _is_of(kind: Any, value: Any) -> bool:
    if typing.get_origin(kind) is tuple:
        (item, *_) = typing.get_args(kind)
        return isinstance(value, tuple) and all(_is_of(item, each) for each in value)
    if kind in (int, float):  # True is an int to Python, and 3 will do for a float
        numbers = (int, float) if kind is float else int
        return isinstance(value, numbers) and not isinstance(value, bool) and math.isfinite(value)
    return isinstance(value, kind)


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _check_choice(item: dataclasses.Field[Any], value: Any) -> None:
    option = _option(item.name)
    choices, at_least, at_most = (item.metadata.get(k) for k in ("choices", "at_least", "at_most"))
    if choices and value not in choices:
        raise ConfigError(f"{option} is {value!r}; it can be {', '.join(choices)}")
    for number in value if isinstance(value, tuple) else (value,):
        if at_least is not None and number < at_least:
            raise ConfigError(f"{option} is {number}; it must be at least {at_least}")
        if at_most is not None and number > at_most:
            raise ConfigError(f"{option} is {number}; it must be at most {at_most}")
