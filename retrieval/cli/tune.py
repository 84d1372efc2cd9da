"""Choosing the index of a gallery: options, evidence, and the command that repeats the measurement."""

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from retrieval.cli.options import (
    FiniteRange,
    find_gallery,
    gallery_option,
    json_option,
    print_json,
    say,
    wait_option,
)

if TYPE_CHECKING:
    from index.planner import Limits

Command = Callable[..., Any]
UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


class Bytes(click.ParamType):
    """A number of bytes, such as 500MB or 4G."""

    name = "bytes"

    def convert(self, value: Any, param: Any, ctx: Any) -> int:
        if isinstance(value, int):
            return value
        found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([KMGT]?)B?", value.strip(), re.IGNORECASE)
        if found is None or float(found[1]) == 0:
            self.fail(f"{value!r} is not a number of bytes such as 500MB or 4G", param, ctx)
        return int(float(found[1]) * UNITS[found[2].upper()])


def _take_codes(ctx: click.Context, param: click.Parameter, codes: str | None) -> None:
    """A code is the name of an index."""
    from index.code_keys import is_code

    if codes is None:
        return
    if ctx.params.get("index_key") is not None:
        raise click.UsageError("give --index or --codes, not both")
    if not is_code(codes):
        raise click.BadParameter(
            f"{codes!r} is no code such as equal-width:8, equal-frequency:4 or kmeans:8x16",
            ctx,
            param,
        )
    ctx.params["index_key"] = codes


def code_to_store(codes_only: bool, index_key: str | None) -> str | None:
    """The code that is stored in the place of vectors, if any."""
    from index.code_keys import is_code

    if not codes_only:
        return None
    if index_key is None or not is_code(index_key):
        raise click.UsageError("--codes-only needs --codes, such as --codes kmeans:8x16")
    return index_key


def index_options(command: Command) -> Command:
    """Options on the choice of the index; they arrive as index_key and the three for ``limits``."""
    options = [
        click.option(
            "--index",
            "--index-key",
            "index_key",
            is_eager=True,  # so that --codes finds it
            help="auto (chosen by measurement), Flat (exact), or a FAISS factory string such as "
            "IVF256,Flat or HNSW32.  [default: auto; of a gallery that is there, its own]",
        ),
        click.option(
            "--codes",
            expose_value=False,
            callback=_take_codes,
            help="Search packed codes of our own bins, such as equal-width:8, equal-frequency:4, "
            "kmeans:2 or kmeans:8x16 (8 bits for each of 16 groups of numbers), instead of --index.",
        ),
        click.option(
            "--codes-only",
            is_flag=True,
            help="Store these codes alone, and drop the vectors for good.",
        ),
        click.option(
            "--max-index-memory-usage",
            type=Bytes(),
            help="Bytes that the index may take, such as 500MB.",
        ),
        click.option(
            "--max-query-time-ms",
            type=FiniteRange(min=0, min_open=True),
            help="Half of the queries have to take less, one at a time.",
        ),
        click.option(
            "--recall-target",
            type=FiniteRange(0, 1, min_open=True),
            help="Share of the 10 exact neighbours that has to be found.  [default: 0.95]",
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def limits_of(
    base: "Limits | None",
    max_index_memory_usage: int | None,
    max_query_time_ms: float | None,
    recall_target: float | None,
) -> "Limits | None":
    """``base`` with the limits that were given."""
    from index.planner import Limits

    options: dict[str, Any] = {
        "max_bytes": max_index_memory_usage, "max_query_ms": max_query_time_ms, "recall": recall_target,
    }  # fmt: skip
    given = {name: value for name, value in options.items() if value is not None}
    return dataclasses.replace(base or Limits(), **given) if given else base


def plan_text(plan: dict[str, Any]) -> str:
    """The evidence for an index as a table, with why the others lost."""
    if not plan["table"]:
        return f"{plan['key']}: too few vectors to measure it"
    lines = [f"{'index':<20} {'recall':>6} {'p50 ms':>8} {'p99 ms':>8} {'MB':>9} {'built s':>7}"]
    for row in plan["table"]:
        lines.append(
            f"{row['key']:<20} {row['recall']:>6.3f} {row['p50_ms']:>8.3f} {row['p99_ms']:>8.3f} "
            f"{row['bytes'] / 1e6:>9.1f} {row['build_seconds']:>7.1f}  {row['verdict']}"
        )
    how = (
        f" (effort {plan['effort']}, {plan['candidates']} candidates compared)"
        if plan["effort"]
        else ""
    )
    lines.append(
        f"{plan['key']}{how} measured on {plan['rows']:,} vectors, the others on {plan['sample']:,} of "
        f"them; recall: the share of the {plan['k']} exact neighbours found, for vectors held out."
    )
    return "\n".join(lines)


@click.command()
@gallery_option
@index_options
@wait_option
@json_option
def tune(
    gallery_path: Path | None,
    index_key: str | None,
    codes_only: bool,
    wait: float,
    as_json: bool,
    **given: Any,
) -> None:
    """Choose the index of a gallery anew, by measurement, and build it.

    \b
    Examples:
      retrieval tune --gallery photos.gallery
      retrieval tune --gallery photos.gallery --recall-target 0.99 --max-index-memory-usage 200MB
      retrieval tune --gallery photos.gallery --codes kmeans:8x16 --codes-only

    Options that are not given stay as they are.
    """
    from index.encoding import check_encoding
    from index.gallery import Gallery
    from index.vector_index import AUTO, FLAT
    from retrieval.progress import Stages

    gallery = Gallery.open(find_gallery(gallery_path))
    store = code_to_store(codes_only, index_key)
    with gallery.writer(wait) as writer, Stages() as report:
        limits = limits_of(gallery.limits, **given) or gallery.limits
        key = index_key or gallery.settings["index_key"]
        if key == FLAT and index_key is None and limits != gallery.limits:
            key = AUTO  # limits say nothing about a comparison of all vectors
        # What cannot be is refused here, before vectors are dropped for good.
        if store is not None:
            check_encoding(gallery.snapshot, store)
        writer.tune(key, limits, report)
        if store is not None:
            writer.encode(store, lambda done, of: report("Coding", done, of))
    plan = gallery.settings["plan"]
    if plan is not None and plan["recall"] is not None and plan["recall"] < limits.recall:
        say(
            f"{plan['key']} finds {plan['recall']:.3f} of the 10 exact neighbours at most, less than "
            f"--recall-target {limits.recall:g}; --index auto chooses among others"
        )
    if as_json:
        print_json({"gallery": str(gallery.path), "plan": plan})
    elif plan is not None:
        click.echo(plan_text(plan))
    else:
        asked = "every vector is compared (--index Flat)"
        click.echo(f"exact: {asked if key == FLAT else 'comparing every vector is fast enough'}")
