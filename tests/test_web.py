"""The search page and its API: answers, mistakes, and who is kept out."""

import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from http.client import HTTPConnection
from pathlib import Path
from subprocess import PIPE
from typing import Any
from urllib.parse import urlsplit

import anyio
import numpy as np
import pytest
import uvicorn
from click.testing import CliRunner
from pictures_to_ask import draw, make_model, make_place
from PIL import ExifTags, Image
from starlette.requests import Request
from starlette.testclient import TestClient

from index.errors import NotAGallery
from retrieval.building import fill, open_or_create
from retrieval.cli import main
from retrieval.cli.serve import _listen
from retrieval.gallery import Gallery
from retrieval.pictures import list_pictures
from retrieval.questions import photo_questions
from retrieval.search import Searcher
from retrieval.web import app as module
from retrieval.web.app import STATIC, search_app
from retrieval.web.gallery_thread import GalleryThread


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_place(tmp_path_factory.mktemp("web"))


@pytest.fixture(scope="module")
def client(place: Path) -> Iterator[TestClient]:
    app = search_app(GalleryThread(place / "g.gallery"), ["testserver"])
    with TestClient(app) as client:
        yield client


@pytest.fixture
def photo(place: Path) -> Path:
    return place / "outside" / "0.png"


def test_a_photo_is_answered_as_by_the_gallery_itself(
    client: TestClient, place: Path, photo: Path
) -> None:
    for parameters, options in (
        ({"k": 5}, {"k": 5}),
        ({"k": "3", "where": "label = b"}, {"k": 3, "where": "label = b"}),
        ({"where": " "}, {"k": 24}),
    ):
        found = client.post("/api/query", params=parameters, content=photo.read_bytes()).json()
        with Gallery.open(place / "g.gallery") as gallery:
            expected = gallery.query(photo, **options)[0].hits
        assert [h["id"] for h in found["hits"]] == [h.id for h in expected]
        assert [h["rank"] for h in found["hits"]] == list(range(1, len(expected) + 1))
        np.testing.assert_allclose(
            [h["distance"] for h in found["hits"]], [h.distance for h in expected], atol=1e-6
        )
        for hit in found["hits"]:
            assert re.fullmatch(r"[abc]/\d+\.png", hit["path"])
            assert hit["path"][0] == hit["label"]


def test_a_part_of_a_photo_asks_alone(client: TestClient, place: Path, photo: Path) -> None:
    parameters = {"box": "10,5,20,30", "k": 4}
    found = client.post("/api/query", params=parameters, content=photo.read_bytes()).json()["hits"]
    searcher = Searcher.open(place / "g.gallery")
    question = photo_questions(searcher.embedder, [photo], pytest.fail, (10, 5, 20, 30))
    (expected,) = searcher.nearest(question, 4)
    assert [(h["id"], h["distance"]) for h in found] == [
        (h.id, pytest.approx(h.distance, abs=1e-6)) for h in expected.hits
    ]
    whole = client.post("/api/query?k=4", content=photo.read_bytes()).json()["hits"]
    assert [h["distance"] for h in whole] != [h["distance"] for h in found]


def test_a_part_may_be_that_of_a_smaller_picture(client: TestClient, photo: Path) -> None:
    """Of 30×20 pixels, where the picture has 60×40; at the edges nothing is lost, or beyond."""

    def hits(**parameters: str) -> list[dict]:
        asked = client.post("/api/query", params=parameters, content=photo.read_bytes())
        return asked.json()["hits"]

    for small, whole in (("5,2,10,15", "10,4,20,30"), ("0,0,30,20", "0,0,60,40")):
        assert hits(box=small, of="30,20") == hits(box=whole)
    assert hits(box="6,3,1,1", of="7,7") == hits(box="51,17,9,6")
    assert hits(box="20,10,40,30", of="60,40") == hits(box="20,10,40,30")


def test_a_photo_is_shown_as_it_is_seen(client: TestClient, tmp_path: Path) -> None:
    """Upright, whatever the browser would make of the file."""
    file = draw(tmp_path / "turned.webp", 1, (40, 20))
    turned = Image.Exif()
    turned[ExifTags.Base.Orientation] = 6
    with Image.open(file) as image:
        image.save(file, exif=turned.tobytes(), lossless=True)
    shown = client.post("/api/picture?side=32", content=file.read_bytes())
    with Image.open(io.BytesIO(shown.content)) as image:
        assert (image.format, image.size) == ("JPEG", (16, 32))
    refused = client.post("/api/picture", content=b"text")
    assert (refused.status_code, "not a picture" in refused.json()["error"]) == (400, True)


def test_a_stored_picture_asks_for_others(client: TestClient) -> None:
    everything = client.get("/api/query/1", params={"k": 500}).json()["hits"]
    assert sorted(h["id"] for h in everything) == list(range(2, 14))
    assert client.get("/api/query/1?k=2").json()["hits"] == everything[:2]
    only = client.get("/api/query/1", params={"where": "label = c"}).json()["hits"]
    assert {h["label"] for h in only} == {"c"}


def test_pictures_come_encoded_anew(client: TestClient, place: Path) -> None:
    answer = client.get("/pictures/1")
    assert answer.headers["content-type"] == "image/jpeg"
    with Image.open(io.BytesIO(answer.content)) as image:
        assert (image.format, image.size) == ("JPEG", (240, 200))  # of 24×20, in whole multiples
    with Image.open(io.BytesIO(client.get("/pictures/1?side=16").content)) as image:
        assert max(image.size) == 16


def test_the_page_needs_nothing_that_its_policy_forbids(client: TestClient) -> None:
    page = client.get("/").text
    assert "Search by picture" in page
    assert not re.search(r"\son\w+=|style=|<style|<script>|https?:", page)
    for file in re.findall(r'(?:src|href)="(/[^"]+)"', page):
        assert client.get(file).status_code == 200, file
    script = (STATIC / "page.js").read_text()
    assert not re.search(r"innerHTML|insertAdjacentHTML|document\.write|eval|https?:", script)
    about = client.get("/api/gallery").json()
    expected = {"name": "g.gallery", "pictures": 13, "labels": 3, "metric": "l2", "photos": True}
    assert about == expected


@pytest.mark.parametrize(
    ("address", "status", "message"),
    [
        ("/api/query/99", 404, "no picture with the id 99"),
        ("/pictures/99", 404, "no picture with the id 99"),
        ("/pictures/99999999999999999999", 404, "no picture with the id"),
        ("/api/query/1?k=0", 400, "k is '0'; it must be a whole number from 1 to 500"),
        ("/api/query/1?k=501", 400, "k is '501'"),
        ("/api/query/1?k=-5", 400, "k is '-5'"),
        ("/api/query/1?k=²", 400, "k is '²'"),
        ("/api/query/1?k=" + "1" * 5000, 400, "k is '1111"),
        ("/pictures/1?side=" + "1" * 5000, 400, "side is '1111"),
        ("/api/query/" + "1" * 5000, 404, "no picture with the id 1111"),
        ("/pictures/" + "1" * 5000, 404, "no picture with the id 1111"),
        ("/pictures/x", 404, "no picture with the id x"),
        ("/api/query/1?k=", 400, "k is ''"),
        ("/api/query/1?where=colour", 400, "colour"),
        ("/pictures/1?side=5000", 400, "side is '5000'; it must be a whole number from 16 to 1024"),
        ("/pictures/../app.py", 404, "Not Found"),
        ("/static/%2e%2e/app.py", 404, "Not Found"),
        ("/static/..%2fapp.py", 404, "Not Found"),
        ("/nowhere", 404, "Not Found"),
        ("/api/query", 405, "Method Not Allowed"),
    ],
)
def test_mistakes_are_told(client: TestClient, address: str, status: int, message: str) -> None:
    answer = client.get(address)
    assert answer.status_code == status
    assert message in answer.json()["error"]
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    ("content", "parameters", "message"),
    [
        (b"", {}, "no picture in the body"),
        (b"text", {}, "not a picture"),
        (None, {"box": "1,2,3"}, "box is '1,2,3'"),
        (None, {"box": "a,b,c,d"}, "box is 'a,b,c,d'"),
        (None, {"box": "50,0,20,20"}, "reaches out of the picture"),
        (None, {"box": "0,0,0,5"}, "is empty"),
        (None, {"box": "0,0,9,9", "of": "8,9"}, "reaches out of 8×9 pixels"),
        (None, {"box": "0,0,0,0", "of": "0,0"}, "reaches out of 0×0 pixels"),
        (None, {"box": "0,0,1,1", "of": "9"}, "of is '9'; it must be 2 whole numbers"),
    ],
)
def test_photos_that_cannot_ask_are_told(
    client: TestClient, photo: Path, content: bytes | None, parameters: dict, message: str
) -> None:
    content = photo.read_bytes() if content is None else content
    answer = client.post("/api/query", params=parameters, content=content)
    assert answer.status_code == 400
    assert message in answer.json()["error"]


def test_other_sites_and_other_names_are_refused(client: TestClient, photo: Path) -> None:
    for site in ("cross-site", "same-site"):
        headers = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "no-cors"}
        assert client.get("/pictures/1", headers=headers).status_code == 403
        asked = client.post("/api/query", headers=headers, content=photo.read_bytes())
        assert asked.status_code == 403
        assert client.get("/", headers={**headers, "Sec-Fetch-Mode": "navigate"}).status_code == 200
    for origin in ("http://evil.example", "null", "http://192.168.1.7"):
        asked = client.post("/api/query", headers={"Origin": origin}, content=photo.read_bytes())
        assert asked.status_code == 403, origin
    asked = client.post(
        "/api/query", headers={"Origin": "http://testserver"}, content=photo.read_bytes()
    )
    assert asked.status_code == 200
    own = {"Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "cors"}
    assert client.get("/pictures/1", headers=own).status_code == 200
    for host in ("evil.example", "localhost.evil.example", "", "[::1", "127.0.0.1.evil.example"):
        assert client.get("/", headers={"Host": host}).status_code == 403, host
    for host in ("localhost:8000", "LOCALHOST", "127.0.0.1:8000", "[::1]:8000", "192.168.1.7"):
        assert client.get("/", headers={"Host": host}).status_code == 200, host
    policy = client.get("/").headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


def test_names_and_missing_files_do_no_harm(tmp_path: Path) -> None:
    odd = tmp_path / "photos" / '<b>"x"' / "a\n\udcff.png"
    draw(odd, 1)
    draw(tmp_path / "photos" / "gone" / "1.png", 2)
    model = make_model(tmp_path / "model.safetensors")
    photos = [tmp_path / "photos"]
    made = open_or_create(tmp_path / "g.gallery", model, sources=photos)
    fill(made, list_pictures(photos))
    made.close()
    (tmp_path / "photos" / "gone" / "1.png").unlink()
    app = search_app(GalleryThread(tmp_path / "g.gallery"), ["testserver"])
    with TestClient(app) as client:
        (hit,) = client.get("/api/query/2").json()["hits"]
        assert hit["path"] == '<b>"x"/a\n\udcff.png'
        with Image.open(io.BytesIO(client.get("/pictures/2").content)) as image:
            assert image.getpixel((5, 5)) == (200, 200, 200)  # grey, where the file is gone


def test_a_gallery_without_a_model_is_asked_by_its_own_pictures(
    tmp_path: Path, photo: Path
) -> None:
    np.save(tmp_path / "embeddings.npy", np.eye(4, dtype=np.float32))
    (tmp_path / "pictures.csv").write_text("path\na.png\nb.png\nc.png\nd.png\n")
    done = CliRunner().invoke(
        main, ["import", str(tmp_path), "--out", str(tmp_path / "g.gallery"), "--made-by", "x",
               "--metric", "l2"],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    app = search_app(GalleryThread(tmp_path / "g.gallery"), ["testserver"])
    with TestClient(app) as client:
        assert client.get("/api/gallery").json()["photos"] is False
        assert len(client.get("/api/query/1").json()["hits"]) == 3
        refused = client.post("/api/query", content=photo.read_bytes())
        assert refused.status_code == 503
        assert "imported without a model" in refused.json()["error"]


def test_what_takes_the_place_of_the_gallery_answers(tmp_path: Path, photo: Path) -> None:
    place = make_place(tmp_path)
    app = search_app(GalleryThread(place / "g.gallery"), ["testserver"])
    with TestClient(app) as client:
        assert client.get("/api/gallery").json()["pictures"] == 13
        model = make_model(tmp_path / "other.safetensors", embedding_dim=4)
        sources = [place / "outside"]
        other = open_or_create(place / "g.gallery", model, sources=sources, overwrite=True)
        fill(other, list_pictures(sources))
        other.close()
        assert len(client.get("/api/query/3").json()["hits"]) == 2
        assert client.get("/pictures/13").status_code == 404
        hits = client.post("/api/query", content=photo.read_bytes()).json()["hits"]
        assert hits[0]["path"] == "0.png"
        assert len(hits) == client.get("/api/gallery").json()["pictures"] == 3


def test_what_does_not_arrive_is_not_waited_for(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(self: Request) -> AsyncIterator[bytes]:
        await anyio.sleep(60)
        yield b""

    monkeypatch.setattr(Request, "stream", never)
    monkeypatch.setattr(module, "UPLOAD_SECONDS", 0.01)
    with TestClient(search_app(GalleryThread(place / "g.gallery"), ["testserver"])) as client:
        answer = client.post("/api/query", content=b"x")
    assert (answer.status_code, answer.json()["error"]) == (
        408,
        "the picture did not arrive in time",
    )


@pytest.mark.parametrize("request_of", ["query", "picture"])
def test_pictures_that_wait_for_their_answer_count_as_in_memory(
    place: Path, photo: Path, monkeypatch: pytest.MonkeyPatch, request_of: str
) -> None:
    app = search_app(GalleryThread(place / "g.gallery"), ["testserver"])
    counts, ask, run = [], GalleryThread.ask, anyio.to_thread.run_sync

    def counted(work: Callable[..., Any]) -> Callable[..., Any]:
        def count(*arguments: Any, **options: Any) -> Any:
            counts.append(app.state.uploads.borrowed_tokens)
            return work(*arguments, **options)

        return count

    monkeypatch.setattr(GalleryThread, "ask", counted(ask))
    monkeypatch.setattr(anyio.to_thread, "run_sync", counted(run))
    with TestClient(app) as client:
        assert client.post(f"/api/{request_of}", content=photo.read_bytes()).status_code == 200
        assert app.state.uploads.borrowed_tokens == 0
    assert counts == [1]


def test_what_nobody_expected_is_told_where_it_runs(
    place: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(gallery: Gallery) -> None:
        raise ZeroDivisionError("secret")

    monkeypatch.setattr(module, "_facts", fail)
    app = search_app(GalleryThread(place / "g.gallery"), ["testserver"])
    with TestClient(app, raise_server_exceptions=False) as client:
        answer = client.get("/api/gallery")
    assert answer.status_code == 500
    assert "secret" not in answer.text
    assert "ZeroDivisionError: secret" in caplog.text


def test_what_is_no_gallery_is_refused_before_anything_is_served(tmp_path: Path) -> None:
    with pytest.raises(NotAGallery):
        GalleryThread(tmp_path / "none.gallery")


def test_a_real_server_counts_what_is_sent(
    place: Path, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_BYTES", 50_000)
    app = search_app(GalleryThread(place / "g.gallery"))
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical"))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            for chunks, status in (([photo.read_bytes()], 200), ([b"x" * 10_000] * 20, 413)):
                connection = HTTPConnection("127.0.0.1", port, timeout=20)
                connection.request("POST", "/api/query?k=2", iter(chunks), encode_chunked=True)
                answer = connection.getresponse()
                assert answer.status == status
                told = json.loads(answer.read())
                if status == 200:
                    assert len(told["hits"]) == 2
                else:
                    assert "this one is larger" in told["error"]
                connection.close()
        finally:
            server.should_exit = True
            thread.join(20)


# The command


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Where the command would have served; Ctrl-C ends it at once."""
    places = []

    def run(self: uvicorn.Server, sockets: list[socket.socket]) -> None:
        places.append(sockets[0].getsockname()[:2])
        with TestClient(self.config.app, base_url="http://localhost") as client:
            assert client.get("/api/gallery").json()["pictures"] == 13
            for name, status in (
                ("evil.example", 403),
                ("my.proxy", 200),
                (socket.gethostname(), 200),
            ):
                assert client.get("/", headers={"Host": name}).status_code == status
        raise KeyboardInterrupt

    monkeypatch.setattr(uvicorn.Server, "run", run)
    return places


def test_the_command_serves_this_machine_alone(place: Path, served: list) -> None:
    ask = ["serve", "--gallery", str(place / "g.gallery"), "--port", "0", "--name", "My.Proxy"]
    done = CliRunner().invoke(main, ask)
    assert done.exit_code == 0, done.output
    ((host, port),) = served
    assert host == "127.0.0.1"
    assert done.stdout == f"http://127.0.0.1:{port}/\n"
    assert done.stderr == "Stopped.\n"


def test_the_command_says_when_others_can_ask(place: Path, served: list) -> None:
    ask = ["serve", "--gallery", str(place / "g.gallery"), "--port", "0", "--host", "0.0.0.0",
           "--name", "my.proxy"]  # fmt: skip
    done = CliRunner().invoke(main, ask)
    assert done.exit_code == 0, done.output
    assert "Everybody who can reach 0.0.0.0 can see the pictures" in done.stderr


def test_many_connections_are_answered(place: Path) -> None:
    command = [sys.executable, "-m", "retrieval", "serve", "--gallery", "g.gallery", "--port", "0"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    with (
        subprocess.Popen(command, stdout=PIPE, text=True, cwd=place, env=environment) as process,
        ExitStack() as opened,
    ):
        opened.callback(process.send_signal, signal.SIGINT)
        port = urlsplit(process.stdout.readline()).port
        for _ in range(100):
            connection = HTTPConnection("127.0.0.1", port, timeout=20)
            opened.callback(connection.close)
            connection.request("GET", "/api/gallery")
            assert json.loads(connection.getresponse().read())["pictures"] == 13


def test_no_answer_waits_for_its_first_part_to_be_acknowledged() -> None:
    with _listen("127.0.0.1", 0) as listening:
        with socket.create_connection(listening.getsockname()):
            accepted, _ = listening.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0


def test_the_command_says_where_it_cannot_listen(place: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        ask = ["serve", "--gallery", str(place / "g.gallery"), "--port", port]
        done = CliRunner().invoke(main, ask)
    assert done.exit_code == 1
    assert f"cannot listen at 127.0.0.1, port {port}" in done.stderr


def test_without_its_libraries_the_way_to_get_them_is_told(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "uvicorn", None)
    done = CliRunner().invoke(main, ["serve", "--gallery", str(place / "g.gallery")])
    assert done.exit_code == 1
    assert "pip install 'retrieval[web]'" in done.stderr
