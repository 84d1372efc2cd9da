"""The command that cuts columns of numbers into bins."""

from pathlib import Path

import click

from retrieval.cli.options import NEW_FOLDER, json_option, print_json, say

SHOWN = 20
"""Columns that the printed table has at most; bins.json has all."""


@click.command()
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option(
    "--method",
    default="equal-frequency",
    show_default=True,
    type=click.Choice(["equal-width", "equal-frequency", "kmeans"]),
    help="Bins of one width, bins with as many rows each, or bins around centres of clusters.",
)
@click.option(
    "--bins", default=8, show_default=True, type=click.IntRange(1, 65_536), help="Bins a column."
)
@click.option(
    "--subspaces",
    type=click.IntRange(1),
    help="With kmeans: so many groups of columns, with one code a group (product quantisation).",
)
@click.option("--columns", help="Only these, separated by commas. Without it: all of numbers.")
@click.option(
    "--out",
    required=True,
    type=NEW_FOLDER,
    help="The folder that gets the codes, bins.json and histogram.png.",
)
@json_option
def discretize(
    file: Path,
    method: str,
    bins: int,
    subspaces: int | None,
    columns: str | None,
    out: Path,
    as_json: bool,
) -> None:
    """Cut the columns of FILE (.npy or .csv) into bins.

    \b
    Examples:
      retrieval discretize prices.csv --out prices.bins
      retrieval discretize prices.csv --columns price,size --method kmeans --bins 5 --out bins
      retrieval discretize embeddings.npy --method kmeans --bins 256 --subspaces 16 --out codes

    Bin i holds its lower edge and what is below its upper one, the last bin its upper edge too. Equal
    values are never parted: a column with few values has fewer bins. Cells that are empty or no
    numbers are refused; columns that have some are left out unless they are asked for.
    """
    from retrieval.binning import discretize_table

    names = [name.strip() for name in columns.split(",")] if columns else []
    found = discretize_table(file, out, method, bins, subspaces=subspaces, columns=names)
    for name, reason in found["left_out"].items():
        say(f"Left out {name}: {reason}")
    if as_json:
        print_json({"out": str(out), **found})
        return
    click.echo(f"{found['rows']:,} rows, {method}, into {out}")
    click.echo(f"{'column':<24} {'bins':>6} {'fewest':>9} {'most':>9}   from … to")
    for column in found["columns"][:SHOWN]:
        span = ""
        if "edges" in column:
            span = f"{column['edges'][0]:.6g} … {column['edges'][-1]:.6g}"
        least, most = min(column["counts"]), max(column["counts"])
        click.echo(f"{column['name']:<24.24} {column['bins']:>6} {least:>9,} {most:>9,}   {span}")
    if len(found["columns"]) > SHOWN:
        click.echo(f"… and {len(found['columns']) - SHOWN} more, in {out / 'bins.json'}")
