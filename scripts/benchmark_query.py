"""What a first query costs, beside what importing torch alone costs: whole processes, several times.

Example: python scripts/benchmark_query.py photo.png --gallery photos.gallery
"""

import statistics
import subprocess
import sys
import time
from pathlib import Path

import click

from retrieval.cli.commands import Command


def seconds_of(command: list[str]) -> float:
    """What a command takes. Raises ClickException, with what it says of it, where it fails."""
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"{command[0]} ended with {done.returncode}"]
        raise click.ClickException(said[-1].removeprefix("Error: "))
    return time.perf_counter() - started


@click.command(cls=Command, help=__doc__)
@click.argument("photo", type=click.Path(path_type=Path, exists=True))
@click.option("--gallery", required=True, type=click.Path(path_type=Path, exists=True))
@click.option("--runs", default=5, show_default=True, type=click.IntRange(1))
def main(photo: Path, gallery: Path, runs: int) -> None:
    commands = {
        "python -c 'import torch'": [sys.executable, "-c", "import torch"],
        "retrieval query": [
            *(sys.executable, "-m", "retrieval", "query", str(photo)),
            *("--gallery", str(gallery), "--k", "10"),
        ],
    }
    medians = {}
    for name, command in commands.items():
        seconds_of(command)  # brings files into the page cache
        medians[name] = statistics.median(seconds_of(command) for _ in range(runs))
        click.echo(f"{name:<28} {medians[name]:6.2f} s")
    first, second = medians.values()
    click.echo(f"{'difference':<28} {second - first:6.2f} s")


if __name__ == "__main__":
    main()
