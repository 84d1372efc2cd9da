import re

import pytest

from retrieval.progress import Progress


def test_lines_off_a_terminal_tell_rate_and_time_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    with Progress("Embedding", None, "pictures") as progress:
        progress.set_of(41, 100)  # 40 were done in an earlier run: no part of the rate
        for done in (50, 60, 70, 80):
            clock[0] += 6
            progress.set_of(done, 100)
        progress.note("a word")
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert lines[-1] == "a word"
    assert len(lines) == 3  # one every ten seconds or more
    assert lines[0].startswith("Embedding:  60%")
    assert "60/100" in lines[0]
    assert re.search(r"1\.67 pictures/s", lines[0])
    assert "00:24" in lines[0]  # 40 left at 1.67 a second


def test_without_a_total_progress_is_counted(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("Training", None, "steps") as progress:
        progress.set(3)
    assert progress.done == 3
    assert capsys.readouterr().out == ""
