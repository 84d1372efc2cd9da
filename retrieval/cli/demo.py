"""The command that shows the whole loop."""

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

        def on_step(done: int, total: int) -> None:
            if progress.done == 0:
                progress.start_at(done - 1, total)
            progress.set(done)

        result = run_demo(out, on_step=on_step, on_stage=say)
    click.echo(result.report.table())
    click.echo(f"model          {result.run}")
    click.echo(f"gallery        {result.gallery}")
    click.echo(f"contact sheet  {result.sheet}")
    click.echo(f"page           {result.page}")
    click.echo(f"\nAsk it yourself: retrieval query {result.queries[0]} --gallery {result.gallery}")
