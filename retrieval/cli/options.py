"""Options that commands share, and options made from the fields of a configuration."""

import dataclasses
import json
import math
import os
import typing
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from retrieval.errors import ConfigError

if TYPE_CHECKING:
    from index.gallery import Gallery

Command = Callable[..., Any]
CALIBRATED = "calibrated"


class FiniteRange(click.FloatRange):
    """A number in a range: of click's own, nan lies in all, and infinity in those without an end."""

    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number", param, ctx)
        return number


device_option = click.option(
    "--device",
    default="auto",
    show_default=True,
    type=click.Choice(["auto", "cpu", "cuda", "mps"]),
    help="Where the network runs.",
)
MODEL_HELP = "A run folder, a model file, or a name that `retrieval models` lists."
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
gallery_option = click.option(
    "--gallery",
    "gallery_path",
    type=click.Path(path_type=Path),
    envvar="RETRIEVAL_GALLERY",
    help="The gallery folder. Without it: the variable RETRIEVAL_GALLERY, or the only *.gallery "
    "in the current folder.",
)
wait_option = click.option(
    "--wait",
    default=0.0,
    show_default=True,
    metavar="SECONDS",
    type=FiniteRange(0),
    help="How long to wait while another program writes to the gallery.",
)
where_option = click.option(
    "--where",
    help="Only pictures of which this holds, such as: label = cat, "
    "path like '%2024%' and label in (cat, dog), or modified >= 2024-05-01.",
)


class Numbers(click.ParamType):
    """Comma-separated numbers, such as 0,90,180."""

    name = "numbers"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[float, ...]:
        if isinstance(value, tuple):
            return value
        try:
            return tuple(float(part) for part in str(value).split(",") if part.strip())
        except ValueError:
            self.fail(f"{value!r} is not a list of numbers such as 0,90,180", param, ctx)


class Distance(click.ParamType):
    """A distance, or the word calibrated for the one that ``retrieval calibrate`` has found."""

    name = "distance|calibrated"

    def convert(self, value: Any, param: Any, ctx: Any) -> float | str:
        if isinstance(value, float) or value == CALIBRATED:
            return value
        try:
            distance = float(value)
        except ValueError:
            self.fail(f"{value!r} is neither a number nor the word {CALIBRATED}", param, ctx)
        if not 0 <= distance < float("inf"):
            self.fail(f"{value} is no distance; give a number from 0 up", param, ctx)
        return distance


class NewPath(click.Path):
    """A file to write (``dir_okay=False``), or a folder to write files into (``file_okay=False``).

    Raises ConfigError, before any work is done for it, where nothing can be written there, or what is
    there must stay.
    """

    def convert(self, value: Any, param: Any, ctx: Any) -> Path:
        path = Path(os.fsdecode(super().convert(value, param, ctx)))
        file = path / "file" if self.dir_okay else path
        there = next(place for place in file.absolute().parents if os.path.lexists(place))
        if not there.is_dir() or not os.access(there, os.W_OK):
            raise ConfigError(
                f"{param.opts[0]} is {path}, and nothing can be written into {there}; name a place in "
                "a folder that can be written to"
            )
        from retrieval.outputs import check_no_photo, check_outside_galleries

        check_outside_galleries(path, param.opts[0])
        if not self.dir_okay:
            check_no_photo(path, param.opts[0])
        return path


NEW_FILE, NEW_FOLDER = NewPath(dir_okay=False), NewPath(file_okay=False)


def find_distance(gallery: "Gallery", value: float | str) -> float:
    """The distance meant, of which people are told where it was calibrated.

    Raises ConfigError where the gallery has no calibrated distance.
    """
    if value != CALIBRATED:
        return float(value)
    calibration = gallery.settings.get("calibration")
    if calibration is None:
        raise ConfigError(
            f"{gallery.path} has no calibrated distance; find one by: retrieval calibrate --gallery "
            f"{gallery.path}, or give a number"
        )
    distance = float(calibration["distance"])
    say(f"Calibrated distance: {distance:g} (precision {calibration['target']:g})")
    return distance


def config_options(*kinds: Any, leave_out: tuple[str, ...] = ()) -> Callable[[Command], Command]:
    """Give a command one option for each field of these dataclasses, but those named.

    In place of a class there may be one of its objects, whose values are then the defaults shown.
    An option that is not given arrives as None, so that a data set's own defaults can take its place.
    """

    def decorate(command: Command) -> Command:
        for kind in reversed(kinds):
            hints = typing.get_type_hints(kind if isinstance(kind, type) else type(kind))
            for item in reversed(dataclasses.fields(kind)):
                if "help" in item.metadata and item.name not in leave_out:
                    default = getattr(kind, item.name, item.default)
                    command = _field_option(item, hints[item.name], default)(command)
        return command

    return decorate


def _field_option(
    item: dataclasses.Field[Any], hint: Any, default: Any
) -> Callable[[Command], Command]:
    name = item.name.replace("_", "-")
    text = item.metadata["help"]
    text = f"{text[0].upper()}{text[1:]}." if not text.startswith("--") else f"{text}."
    if default not in (None, (), ""):
        text += f"  [default: {_shown(default)}]"
    if hint is bool:
        return click.option(f"--{name}/--no-{name}", item.name, default=None, help=text)
    if type(None) in typing.get_args(hint):  # such as float | None
        (hint,) = (part for part in typing.get_args(hint) if part is not type(None))
    kind: Any = {int: int, float: float}.get(hint, str)
    if item.metadata.get("choices"):
        kind = click.Choice(item.metadata["choices"])
    elif typing.get_origin(hint) is tuple:
        kind = Numbers()
    names = [n for n in (f"--{name}", item.metadata.get("also")) if n]
    return click.option(*names, item.name, default=None, type=kind, help=text)


def _shown(default: Any) -> str:
    if isinstance(default, bool):
        return "on" if default else "off"
    return ",".join(map(str, default)) if isinstance(default, tuple) else str(default)


def find_gallery(path: Path | None) -> Path:
    """``path``, or the only gallery in the current folder.

    Raises ConfigError where there is none, or more than one.
    """
    if path is not None:
        return path
    there = sorted(p for p in Path().glob("*.gallery") if p.is_dir())
    if len(there) == 1:
        return there[0]
    found = ", ".join(map(str, there)) or "none"
    raise ConfigError(
        f"which gallery? The current folder has {found}; give --gallery FOLDER, or make one with: "
        "retrieval build-index PICTURES --model RUN --out photos.gallery"
    )


def print_json(value: Any) -> None:
    """``value`` on stdout, indented; bytes that are not UTF-8 in file names as escapes."""
    click.echo(json.dumps(value, indent=2))


def print_json_list(values: Iterable[Any]) -> None:
    """A list on stdout, each value as soon as it is there; cut short by an error it is still a list."""
    started = False
    try:
        for value in values:
            text = json.dumps(value, indent=2).replace("\n", "\n  ")
            click.echo(f"{',' if started else '['}\n  {text}", nl=False)
            started = True
    except BaseException:
        if started:
            click.echo("\n]")
        raise
    click.echo("\n]" if started else "[]")


def say(text: str) -> None:
    """A notice for people, on stderr."""
    click.echo(text, err=True)
