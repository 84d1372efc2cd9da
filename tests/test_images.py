import io
import struct
import warnings
from pathlib import Path

import numpy as np
import pytest
from nasty_pictures import NastyPicture, encoded, make_nasty_pictures, quadrants
from PIL import Image

from retrieval.errors import DataError, ImageError
from retrieval.images import (
    FORMATS,
    content_hash,
    format_suffix,
    read_image,
    read_images,
    upright_size,
)
from retrieval.picture_files import EXTENSIONS, find_images


@pytest.fixture(scope="module")
def nasty(tmp_path_factory: pytest.TempPathFactory) -> list[NastyPicture]:
    return make_nasty_pictures(tmp_path_factory.mktemp("nasty"))


def test_each_nasty_picture_has_its_stated_outcome(nasty: list[NastyPicture]) -> None:
    assert len(nasty) >= 60
    wrong = []
    for picture in nasty:
        try:
            array = read_image(picture.path)
        except ImageError as error:
            if picture.reason is None or picture.reason not in str(error) or "\n" in str(error):
                wrong.append((picture.path.name, str(error)))
            continue
        right = array.shape == (*picture.size, 3) and array.dtype == np.uint8
        corner = array[0, 0].astype(int)
        if picture.corner is not None:
            right &= bool((abs(corner - picture.corner) <= 3).all())
        if picture.reason is not None or not right:
            wrong.append((picture.path.name, f"read as {array.shape}, corner {corner}"))
    assert wrong == []


def test_with_a_size_each_nasty_picture_has_the_same_outcome(nasty: list[NastyPicture]) -> None:
    for picture in nasty:
        if picture.reason is None:
            assert read_image(picture.path, 16).shape == (16, 16, 3), picture.path
        else:
            with pytest.raises(ImageError):
                read_image(picture.path, 16)


def test_the_size_told_by_the_header_is_that_of_the_picture(nasty: list[NastyPicture]) -> None:
    for picture in nasty:
        if picture.reason is None:
            assert upright_size(picture.path) == picture.size[::-1], picture.path


@pytest.mark.parametrize(
    ("kind", "options"),
    [("PNG", {}), ("TIFF", {"compression": "raw"}), ("TIFF", {"compression": "tiff_lzw"})],
)
def test_orientations_equal_turns_of_the_array(kind: str, options: dict[str, str]) -> None:
    upright = np.asarray(quadrants())
    turns = {
        1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1],
        5: upright.transpose(1, 0, 2), 6: np.rot90(upright, -1),
        7: upright[::-1, ::-1].transpose(1, 0, 2), 8: np.rot90(upright, 1),
    }  # fmt: skip
    for orientation, expected in turns.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        data = encoded(quadrants(), kind, exif=exif, **options)
        found = read_image(data)
        assert upright_size(data) == found.shape[1::-1]
        np.testing.assert_array_equal(found, expected, err_msg=str(orientation))


@pytest.mark.parametrize("name", FORMATS)
def test_each_format_has_a_suffix_by_which_pictures_are_found(tmp_path: Path, name: str) -> None:
    quadrants().save(tmp_path / "picture", name)
    assert format_suffix(tmp_path / "picture") in EXTENSIONS
    with pytest.raises(ImageError, match="no such file"):
        format_suffix(tmp_path / "other")


def test_a_picture_of_the_size_asked_for_comes_back_untouched() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    data = encoded(Image.fromarray(pixels), "PNG")
    np.testing.assert_array_equal(read_image(data, 32), pixels)
    np.testing.assert_array_equal(read_image(io.BytesIO(data)), pixels)


def test_the_centre_square_is_cut_out_and_averaged() -> None:
    pixels = np.zeros((40, 80, 3), np.uint8)
    pixels[:, 20:60] = 200  # the centre square
    found = read_image(encoded(Image.fromarray(pixels), "PNG"), 10)
    assert (found == 200).all()


def test_a_large_jpeg_read_at_a_fraction_looks_like_the_whole_scaled_down() -> None:
    y, x = np.mgrid[0:600, 0:800]
    pixels = np.stack([x * 255 // 800, y * 255 // 600, (x + y) * 255 // 1400], 2).astype(np.uint8)
    data = encoded(Image.fromarray(pixels), "JPEG", quality=95)
    whole = Image.fromarray(read_image(data)).crop((100, 0, 700, 600))
    expected = np.asarray(whole.resize((64, 64), Image.Resampling.BILINEAR)).astype(int)
    assert abs(read_image(data, 64).astype(int) - expected).mean() < 2


def test_a_colour_profile_is_converted() -> None:
    from PIL import ImageCms

    lab = ImageCms.createProfile("LAB")
    grey = encoded(quadrants(), "PNG", icc_profile=ImageCms.ImageCmsProfile(lab).tobytes())
    assert read_image(grey).shape == (24, 32, 3)  # a profile that does not fit RGB is passed over


def wide_profile() -> bytes:
    """A sound RGB profile of the ICC, version 2: the primaries of Display P3, gamma 1.8."""

    def fixed(*values: float) -> bytes:
        return b"".join(struct.pack(">i", round(value * 65536)) for value in values)

    white = (0.9642, 1, 0.8249)
    primaries = {b"r": (0.5151, 0.2412, -0.0011), b"g": (0.292, 0.6922, 0.0419),
                 b"b": (0.1571, 0.0666, 0.7841)}  # fmt: skip
    tags = {b"wtpt": b"XYZ \0\0\0\0" + fixed(*white)}
    for name, place in primaries.items():
        tags[name + b"XYZ"] = b"XYZ \0\0\0\0" + fixed(*place)
        tags[name + b"TRC"] = b"curv\0\0\0\0" + struct.pack(">IHH", 1, round(1.8 * 256), 0)
    start, table, body = 132 + 12 * len(tags), struct.pack(">I", len(tags)), b""
    for name, content in tags.items():
        table += name + struct.pack(">II", start + len(body), len(content))
        body += content
    size = start + len(body)
    head = struct.pack(">I4sI12s", size, b"none", 0x02100000, b"mntrRGB XYZ ")
    head += struct.pack(">6H4s28x", 2020, 1, 1, 0, 0, 0, b"acsp") + fixed(*white)
    return head.ljust(128, b"\0") + table + body


def test_a_colour_profile_counts_whatever_the_mode() -> None:
    profile = wide_profile()
    image = quadrants().point(lambda value: 60 + value // 2)  # colours that sRGB has too
    wanted = read_image(encoded(image, "PNG", icc_profile=profile))
    assert np.abs(wanted.astype(int) - read_image(encoded(image, "PNG"))).mean() > 5
    for mode in ("RGBA", "P"):
        other = image.convert(mode) if mode == "RGBA" else image.quantize(16)
        found = read_image(encoded(other, "PNG", icc_profile=profile))
        np.testing.assert_array_equal(found, wanted)
    half = image.convert("RGBA")
    half.putalpha(128)
    found = read_image(encoded(half, "PNG", icc_profile=profile)).astype(float)
    np.testing.assert_allclose(found, wanted * (128 / 255) + 127, atol=1.5)
    grey = Image.new("LA", (4, 4), (100, 255))
    assert read_image(encoded(grey, "PNG", icc_profile=profile)).tolist() == [[[100] * 3] * 4] * 4


def test_numbers_that_are_not_finite_do_not_blacken_the_others() -> None:
    values = np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4)
    plain = read_image(encoded(Image.fromarray(values), "TIFF"))
    for odd, shown in ((np.inf, 255), (-np.inf, 0), (np.nan, 0)):
        changed = values.copy()
        changed[1, 1] = odd
        expected = plain.copy()
        expected[1, 1] = shown
        found = read_image(encoded(Image.fromarray(changed), "TIFF"))
        np.testing.assert_array_equal(found, expected)
    nothing = Image.fromarray(np.full((3, 4), np.nan, np.float32))
    with pytest.raises(ImageError, match="no finite number"):
        read_image(encoded(nothing, "TIFF"))


def test_reading_in_threads_keeps_order_and_bounds_memory(nasty: list[NastyPicture]) -> None:
    asked: list[Path] = []

    def paths():
        for picture in nasty:
            asked.append(picture.path)
            yield picture.path

    stream = read_images(paths(), 16, num_workers=3, look_ahead=4)
    for number, picture in enumerate(nasty):
        path, result = next(stream)
        assert path == picture.path
        assert isinstance(result, ImageError) == (picture.reason is not None)
        assert len(asked) <= number + 4
    assert list(stream) == []
    assert list(read_images([])) == []


def test_find_images_takes_named_files_and_walks_folders(nasty: list[NastyPicture]) -> None:
    folder = nasty[0].path.parent
    (folder / ".hidden").mkdir()
    (folder / ".hidden" / "x.png").write_bytes(b"")
    found = find_images([folder])
    assert found == sorted(found, key=lambda p: p.name)
    assert set(found) == {p.path for p in nasty if p.indexed}
    named = folder / "no-extension"
    assert find_images([named, folder, named]) == [named, *found]
    assert find_images([]) == []
    with pytest.raises(DataError, match="no file or folder"):
        find_images([folder / "missing"])


def test_a_folder_that_cannot_be_listed_is_not_passed_over_in_silence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os

    (tmp_path / "a" / "closed").mkdir(parents=True)
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match=r"closed cannot be listed: Permission denied"):
        find_images([tmp_path])


def test_an_unreadable_file_gives_its_reason(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="no such file"):
        read_image(tmp_path / "missing.png")
    with pytest.raises(ImageError):
        content_hash(tmp_path / "missing.png")


def test_no_warning_reaches_the_user(nasty: list[NastyPicture]) -> None:
    import subprocess
    import sys

    script = (
        "import sys\nfrom retrieval.images import read_image\nfrom retrieval.errors import ImageError\n"
        "for p in sys.argv[1:]:\n  try: read_image(p)\n  except ImageError: pass\n"
    )
    paths = [str(p.path) for p in nasty if p.path.name.isascii()]
    done = subprocess.run([sys.executable, "-c", script, *paths], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


def test_content_hash_equals_hashlib(tmp_path: Path) -> None:
    import hashlib

    (tmp_path / "x").write_bytes(b"abc" * 1000)
    assert content_hash(tmp_path / "x") == hashlib.sha256(b"abc" * 1000).hexdigest()


def test_importing_changes_no_limit_of_pillow() -> None:
    assert Image.MAX_IMAGE_PIXELS is not None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ImageError):
            read_image(b"")
