"""kill -9 at random moments: what is on disk opens, and a rerun ends as if nothing had happened."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

WORKER = Path(__file__).parent / "crash_worker.py"


def run_worker(what: str, folder: Path, kills: int) -> dict[str, float]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(WORKER.parents[1])}
    command = [sys.executable, str(WORKER), what, str(folder), str(kills), "0"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    report: dict[str, float] = json.loads(done.stdout)
    return report


@pytest.mark.parametrize(("what", "kills"), [("fill", 8), ("keep", 8), ("train", 3)])
def test_killed_jobs_end_as_if_they_had_not_been(tmp_path: Path, what: str, kills: int) -> None:
    report = run_worker(what, tmp_path, kills)
    assert report["opened"] == report["equal"] == kills
    assert report["killed"] >= kills / 3  # the others were over before the signal came


@pytest.mark.slow
@pytest.mark.parametrize(("what", "kills"), [("fill", 100), ("keep", 100), ("train", 20)])
def test_killed_jobs_end_as_if_they_had_not_been_many_times(
    tmp_path: Path, what: str, kills: int
) -> None:
    report = run_worker(what, tmp_path, kills)
    assert report["opened"] == report["equal"] == kills
