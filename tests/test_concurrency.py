"""Many readers and one writer, in processes of their own."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from galleries import make_gallery, new_items

from index.errors import GalleryError, GalleryLocked
from index.gallery import Gallery
from index.verify import verify_gallery

WORKER = Path(__file__).parent / "busy_gallery.py"


def start(what: str, gallery: Path, seconds: float, seed: int) -> subprocess.Popen:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(WORKER.parents[1])}
    command = [sys.executable, str(WORKER), what, str(gallery), str(seconds), str(seed)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


def result(process: subprocess.Popen) -> dict[str, str]:
    out, errors = process.communicate()
    assert process.returncode == 0, errors
    seen: dict[str, str] = json.loads(out)
    return seen


@pytest.mark.parametrize(
    ("seconds", "readers"), [(3, 2), pytest.param(60, 4, marks=pytest.mark.slow)]
)
def test_every_answer_is_right_for_a_committed_state(
    tmp_path: Path, seconds: float, readers: int
) -> None:
    path = tmp_path / "g.gallery"
    make_gallery(path, dim=6, index_key="IVF1,Flat").close()
    processes = [start("read", path, seconds, seed) for seed in range(readers)]
    writer = start("write", path, seconds, 0)
    committed = result(writer)
    assert len(committed) > 5
    for process in processes:
        seen = result(process)
        assert int(seen.pop("checked")) > 5
        assert seen.items() <= committed.items()
    assert verify_gallery(path) == []


def test_readers_see_one_commit_until_they_refresh(tmp_path: Path) -> None:
    made = make_gallery(tmp_path / "g")
    with made.writer() as writer:
        writer.add(np.eye(4), new_items(0, 4))
    reader = Gallery.open(made.path)
    with made.writer() as writer:
        writer.remove([1, 2])
        writer.add(np.ones((1, 4)), new_items(9, 1))
        writer.compact()
    assert [item.id for item in reader.all_items()] == [1, 2, 3, 4]
    assert reader.matching("id < 3").tolist() == [1, 2]
    assert reader.search(np.eye(4)[:1], 5).ids.tolist() == [[1, 2, 3, 4, -1]]
    assert reader.info()["pictures"] == 4
    assert reader.refresh()
    assert not reader.refresh()
    assert [item.id for item in reader.all_items()] == [3, 4, 5]


def test_a_second_writer_waits_or_says_who_holds_the_lock(tmp_path: Path) -> None:
    made = make_gallery(tmp_path / "g")
    other = Gallery.open(made.path)
    first = made.writer()
    first.__enter__()
    with pytest.raises(GalleryLocked, match=rf"after 0\.1 s by process {os.getpid()} on .* since"):
        other.writer(wait=0.1).__enter__()
    release = threading.Timer(0.3, lambda: first._lock.close())
    release.start()
    started = time.monotonic()
    with other.writer(wait=30) as writer:
        writer.add(np.ones((1, 4)), new_items(0, 1))
    assert time.monotonic() - started >= 0.2
    release.join()
    assert len(other) == 1


def remove_one(gallery: Gallery) -> None:
    with gallery.writer() as writer:
        writer.remove([1])


@pytest.mark.parametrize(
    "use",
    [
        Gallery.info, Gallery.refresh, Gallery.close, remove_one, lambda g: g.items([1]),
        lambda g: list(g.all_items()), lambda g: g.matching("label = a"),
        lambda g: g.search(np.eye(4), 1, where="id = 1"),
    ],
)  # fmt: skip
def test_a_gallery_is_for_the_thread_that_opened_it(
    tmp_path: Path, use: Callable[[Gallery], object]
) -> None:
    made = make_gallery(tmp_path / "g")
    with made.writer() as writer:
        writer.add(np.eye(4), new_items(0, 4))
    with ThreadPoolExecutor(1) as pool:
        with pytest.raises(GalleryError, match="only by the thread that opened it") as caught:
            pool.submit(use, made).result()
        assert caught.type is GalleryError
        pool.submit(lambda: use(Gallery.open(made.path))).result()
    use(made)


def test_threads_ask_and_write_by_galleries_of_their_own(tmp_path: Path) -> None:
    path = make_gallery(tmp_path / "g").path

    def work(number: int) -> list[int]:
        own = Gallery.open(path)
        with own.writer(wait=30) as writer:
            (added,) = writer.add(np.full((1, 4), number), new_items(number, 1))
        found = own.search(np.full((1, 4), number), 1, where=f"path = p{number}.png").ids.tolist()
        own.close()
        assert found == [[added]]
        return found[0]

    with ThreadPoolExecutor(4) as pool:
        ids = [i for found in pool.map(work, range(12)) for i in found]
    assert sorted(ids) == list(range(1, 13))
    assert verify_gallery(path) == []


def test_who_cannot_write_sees_what_the_owner_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gallery = make_gallery(tmp_path / "g.gallery")
    with gallery.writer() as writer:
        writer.add(np.random.default_rng(0).normal(size=(30, 4)), new_items(0, 30))
    with monkeypatch.context() as patch:
        patch.setattr("os.access", lambda *_: False)
        reader = Gallery.open(gallery.path)
        assert reader.db.frozen is not None
        assert not reader.refresh()
        with gallery.writer() as writer:
            writer.add(np.full((1, 4), 9.0), new_items(100, 1))
            assert reader.refresh()  # the commit is in the log
            assert reader.db.frozen is None
            writer.remove([1, 2])
            assert reader.refresh()
            assert len(reader) == len(gallery)
        assert reader.search(np.full((1, 4), 9.0), 1).distances.tolist() == [[0.0]]
        reader.close()
        with gallery.writer():  # the log is folded into the database, now that nobody reads it
            pass

        reader = Gallery.open(gallery.path)
        assert reader.db.frozen is not None
        with gallery.writer() as writer:
            writer.remove([3])
        with pytest.raises(GalleryError, match="was changed by another user while it was read"):
            reader.items([4])
        assert reader.refresh()
        assert reader.items([3, 4]).keys() == {4}
        assert len(reader) == len(gallery)
        with gallery.writer() as writer:
            writer.remove([4])
        reader.close()
