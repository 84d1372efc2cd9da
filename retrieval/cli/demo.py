"""The command that shows the whole loop."""

import os
import shutil
import sys
from pathlib import Path

import click

from retrieval.cli.options import say


@click.command()
@click.option(
    "--out", default="demo", show_default=True, type=click.Path(path_type=Path), help="Folder."
)
def demo(out: Path) -> None:
    """Train, index, measure and query on 1,797 handwritten digits, in about a minute.

    \b
    Example:
      retrieval demo --out demo
    """
    from retrieval.demo import run_demo
    from retrieval.progress import Progress

    with Progress("Training", None, "steps") as progress:
        result = run_demo(out, on_step=progress.set_of, on_stage=say)
    click.echo(result.report.table())
    click.echo(f"model          {result.run}")
    click.echo(f"gallery        {result.gallery}")
    click.echo(f"contact sheet  {result.sheet}")
    click.echo(f"page           {result.page}")
    program = "retrieval" if shutil.which("retrieval") else os.path.relpath(sys.argv[0])
    click.echo(f"\nAsk it yourself: {program} query {result.queries[0]} --gallery {result.gallery}")
    click.echo(f"In the browser:  {program} serve --gallery {result.gallery} --browser")
