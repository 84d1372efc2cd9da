import json
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from index.errors import GalleryError, GalleryLocked
from index.gallery import Gallery as VectorGallery
from retrieval.cli import main
from retrieval.embedder import Embedder
from retrieval.errors import ImageError
from retrieval.gallery import Gallery
from retrieval.network_files import save_network
from retrieval.specs import EmbedderSpec

DOCUMENT = (Path(__file__).parents[1] / "docs" / "galleries.md").read_text()


def draw(file: Path, seed: int) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (20, 20, 3), np.uint8)
    Image.fromarray(pixels).save(file)
    return file


@pytest.fixture(autouse=True)
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    draw(tmp_path / "photo.png", 100)
    for number in range(8):
        draw(tmp_path / "photos" / ("rose", "tulip")[number % 2] / f"{number}.png", number)
    return tmp_path / "photos"


def test_the_examples_in_the_document_work(capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", DOCUMENT, re.DOTALL)
    exec(compile(example, "galleries.md", "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["8", "8"]
    assert [line.split()[0] for line in lines[2:5]] == ["1", "2", "3"]
    assert lines[5:] == ["4"]
    for name in ("photos", "phone", "camera"):
        Gallery.create(f"{name}.gallery", images="photos").add(["photos/rose"])
    blocks = re.findall(r"```console\n(.*?)```", DOCUMENT, re.DOTALL)
    commands = [line for block in blocks for line in block.splitlines()]
    for command in commands:
        done = CliRunner().invoke(main, command.split()[1:])
        assert done.exit_code == 0, (command, done.output)
    assert len(commands) == 5
    assert len(Gallery.open("copy.gallery")) == 8
    assert len(Gallery.open("all.gallery")) == 4


def test_every_command_in_the_document_exists() -> None:
    assert set(re.findall(r"(?<![-\w])retrieval ([a-z]+)", DOCUMENT)) <= set(main.commands)


def test_a_gallery_sees_what_others_commit(photos: Path) -> None:
    with Gallery.create("g.gallery", images=photos) as one, Gallery.open("g.gallery") as two:
        assert one.add([photos]).added == 8
        assert len(two) == two.info()["pictures"] == 8
        rose = photos / "rose" / "0.png"
        (answer,) = two.query(rose, k=1)
        assert answer.hits[0].path.samefile(rose)
        assert one.remove([rose], ids=[2], where="label = tulip") == 0  # neither is one
        assert one.remove([rose], ids=[2]) + one.remove(where="label = tulip") == 6
        assert {hit.label for hit in two.query(str(rose), k=9)[0].hits} == {"rose"}
        assert two.compact() == 6
        three = Gallery.create("h.gallery", images=photos)
        assert one.merge(three).added == 0
        three.add(photos / "tulip", labels=False)
        assert one.merge([three]).added == 4
        rose.unlink()
        assert one.sync(photos / "rose").removed == 0
        assert one.sync("photos").relabelled == 4


def test_what_goes_wrong_is_raised(photos: Path) -> None:
    gallery = Gallery.create("g.gallery", images=photos)
    (photos / "bad.png").write_bytes(b"no picture")
    with pytest.raises(ImageError, match=r"bad\.png: "):
        gallery.query([photos / "bad.png"])
    with (
        ThreadPoolExecutor(1) as pool,
        pytest.raises(GalleryError, match="only by the thread that opened it"),
    ):
        pool.submit(gallery.query, "photo.png").result()
    with (
        VectorGallery.open(Path("g.gallery")).writer(),
        pytest.raises(GalleryLocked, match=r"0\.05"),
    ):
        gallery.add(photos, wait=0.05)


def test_commands_print_json_for_programs_and_one_line_for_errors(photos: Path) -> None:
    def run(*words: str, code: int = 0) -> str:
        done = CliRunner().invoke(main, list(words))
        assert done.exit_code == code, done.output
        return done.stdout if code == 0 else done.output

    Gallery.create("g.gallery", images=photos).add(photos)
    (photos / "rose").rename(photos / "daisy")
    given = ["--gallery", "g.gallery", "--json"]
    planned = json.loads(run("sync", "photos", "--dry-run", *given))
    done = json.loads(run("sync", "photos", *given))
    assert (planned["moved"], done["moved"], done["unchanged"]) == (4, 4, 4)
    assert json.loads(run("export", "out", *given))["rows"] == 8
    assert json.loads(run("import", "out", "--out", "h.gallery", "--json"))["added"] == 8
    merged = json.loads(run("merge", "h.gallery", *given))
    assert (merged["added"], merged["there_already"], merged["kept_other"]) == (0, 8, 0)
    with VectorGallery.open(Path("g.gallery")).writer():
        for command in ("compact", "tune"):
            assert "after 0.01 s" in run(command, "--wait", "0.01", *given, code=1)
    assert "without a model" in run("query", "photo.png", "--gallery", "h.gallery", code=1)
    assert "into itself" in run("merge", "g.gallery", *given, code=1)
    assert "neither embeddings.npy" in run("import", "photos", "--out", "x.gallery", code=1)
    assert "is not a folder" in run("sync", "photo.png", *given, code=1)


def test_a_service_goes_on_with_the_gallery_that_took_the_place(
    photos: Path, tmp_path: Path
) -> None:
    torch.manual_seed(1)
    other = Embedder(EmbedderSpec(width=8, image_size=17, embedding_dim=6))
    save_network(other, tmp_path / "other.safetensors")
    with Gallery.create("g.gallery", images=photos) as service:
        service.add(photos)
        assert [hit.label for hit in service.query("photo.png", k=9)[0].hits].count("tulip") == 4
        build = ["build-index", "photos/rose", "--out", "g.gallery", "--overwrite"]
        done = CliRunner().invoke(main, [*build, "--model", "other.safetensors"])
        assert done.exit_code == 0, done.output
        (answer,) = service.query("photos/rose/0.png", k=9)
        assert [hit.label for hit in answer.hits] == ["rose"] * 4
        assert answer.hits[0].distance == pytest.approx(0, abs=1e-5)
        assert len(service) == 4
        assert service.add(photos).added == 4
    assert Gallery.open("g.gallery").info()["pictures"] == 8


def test_mistakes_cost_no_gallery(photos: Path) -> None:
    with Gallery.create("g.gallery", images=photos) as gallery:
        gallery.add(photos)
    for mistake in (
        ["fotos"],
        ["photos", "--index", "bogus"],
        ["photos", "--max-index-memory-usage", "10"],
        ["photos", "--model", "none"],
    ):
        build = ["build-index", *mistake, "--out", "g.gallery", "--overwrite"]
        assert CliRunner().invoke(main, build).exit_code == 1
        assert len(Gallery.open("g.gallery")) == 8
