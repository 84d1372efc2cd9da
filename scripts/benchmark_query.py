"""What a first query costs, beside what importing torch alone costs: whole processes, several times.

Example: python scripts/benchmark_query.py photo.png --gallery photos.gallery
"""

import statistics
import subprocess
import sys
import time
from pathlib import Path

import click


def seconds_of(command: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - started


@click.command(help=__doc__)
@click.argument("photo", type=click.Path(path_type=Path, exists=True))
@click.option("--gallery", required=True, type=click.Path(path_type=Path, exists=True))
@click.option("--runs", default=5, show_default=True)
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
