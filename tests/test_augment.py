import math

import numpy as np
import pytest
import torch
from torchvision.transforms import functional as tv

from retrieval.augment import _Draws, augment, cutout, rotate_and_scale, shift_crop, turn_hue
from retrieval.config import AugmentConfig

NOTHING = {"flip": False, "crop_padding": 0, "cutout": 0}


def Draws(n: int, device: torch.device, generator: torch.Generator) -> _Draws:
    return _Draws(slice(0, n), n, device, generator)


def pictures(n: int = 64, size: int = 12) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (n, 3, size, size), generator=generator, dtype=torch.uint8)


def run(images: torch.Tensor, seed: int = 0, **settings: object) -> torch.Tensor:
    config = AugmentConfig(**{**NOTHING, **settings})
    return augment(images, config, torch.Generator().manual_seed(seed))


def draws(n: int) -> Draws:
    return Draws(n, torch.device("cpu"), torch.Generator().manual_seed(0))


EVERYTHING = {
    "flip": True, "crop_padding": 2, "rotation": 20.0, "scale": 0.2, "brightness": 0.4,
    "contrast": 0.4, "saturation": 0.4, "hue": 0.2, "noise": 0.05, "cutout": 4,
}  # fmt: skip


def test_no_augmentation_changes_no_pixel() -> None:
    images = pictures()
    torch.testing.assert_close(run(images), images.float(), rtol=0, atol=0)


@pytest.mark.parametrize("name", EVERYTHING)
def test_each_picture_has_draws_of_its_own_and_the_generator_decides(name: str) -> None:
    images = pictures(1).expand(32, -1, -1, -1)
    out = run(images, **{name: EVERYTHING[name]})
    assert out.dtype == torch.float32
    assert out.shape == images.shape
    assert out.min() >= 0
    assert out.max() <= 255
    kinds = {tuple(picture.flatten().tolist()) for picture in out}
    assert len(kinds) >= (2 if name == "flip" else 8)
    torch.testing.assert_close(out, run(images, **{name: EVERYTHING[name]}), rtol=0, atol=0)
    assert not torch.equal(out, run(images, seed=1, **{name: EVERYTHING[name]}))


def test_a_batch_of_none_passes_through() -> None:
    assert run(pictures(0), **EVERYTHING).shape == (0, 3, 12, 12)


def test_flip_gives_the_picture_or_its_mirror_about_equally_often() -> None:
    images = pictures(400)
    out = run(images, flip=True)
    mirrored = (out == images.flip(3)).flatten(1).all(1)
    assert (mirrored | (out == images).flatten(1).all(1)).all()
    assert 150 < int(mirrored.sum()) < 250


@pytest.mark.parametrize("padding", ["reflect", "zero"])
def test_shift_crop_gives_windows_of_the_padded_picture_all_equally_likely(padding: str) -> None:
    images, reach = pictures(600, 8), 2
    out = shift_crop(images, reach, padding, draws(600)).numpy()
    mode = {"reflect": "reflect", "zero": "constant"}[padding]
    counts = np.zeros((5, 5), int)
    for image, found in zip(images.numpy(), out, strict=True):
        padded = np.pad(image, ((0, 0), (reach, reach), (reach, reach)), mode=mode)
        places = [
            (t, s) for t in range(5) for s in range(5)
            if (padded[:, t : t + 8, s : s + 8] == found).all()
        ]  # fmt: skip
        assert len(places) == 1
        counts[places[0]] += 1
    assert counts.min() > 5


def test_reflecting_farther_than_the_picture_falls_back_to_zero() -> None:
    assert run(pictures(4, 8), crop_padding=9).shape == (4, 3, 8, 8)


@pytest.mark.parametrize("size", [8, 9])
def test_right_angles_equal_turns_of_the_array(size: int) -> None:
    images = pictures(40, size)
    out = run(images, rotation_angles=(0.0, 90.0, 180.0, 270.0))
    turned = 0
    for image, found in zip(images.float(), out, strict=True):
        turns = [torch.rot90(image, k, (1, 2)) for k in range(4)]
        near = [float((turn - found).abs().max()) < 0.1 for turn in turns]
        assert sum(near) == 1
        turned += not near[0]
    assert turned > 15


def test_small_turns_and_zooms_agree_with_torchvision() -> None:
    image = tv.gaussian_blur(pictures(1, 32).float(), 7)
    out = run(image.byte(), rotation_angles=(30.0,), padding="zero")
    expected = tv.rotate(image.byte().float(), 30, tv.InterpolationMode.BILINEAR)
    other = tv.rotate(image.byte().float(), -30, tv.InterpolationMode.BILINEAR)
    inner = (..., slice(8, 24), slice(8, 24))
    error = min(float((out[inner] - e[inner]).abs().mean()) for e in (expected, other))
    assert error < 2


@pytest.mark.parametrize(
    ("name", "judge"),
    [
        ("brightness", tv.adjust_brightness),
        ("contrast", tv.adjust_contrast),
        ("saturation", tv.adjust_saturation),
    ],
)
def test_colour_jitter_is_torchvisions_by_a_factor_in_range(name: str, judge) -> None:
    images = pictures(10)
    out = run(images, **{name: 0.5})
    factors = []
    for image, found in zip(images.float() / 255, out / 255, strict=True):
        grid = torch.linspace(0.5, 1.5, 401)
        errors = [float((judge(image, float(f)) - found).abs().mean()) for f in grid]
        assert min(errors) < 0.004
        factors.append(float(grid[int(np.argmin(errors))]))
    assert max(factors) - min(factors) > 0.3


def test_turning_the_hue_keeps_greys_and_a_third_of_a_circle_swaps_channels() -> None:
    grey = torch.full((2, 3, 4, 4), 90.0)
    torch.testing.assert_close(turn_hue(grey, torch.tensor([0.1, -0.4])), grey)
    red = torch.zeros(1, 3, 2, 2)
    red[:, 0] = 200
    third = turn_hue(red, torch.tensor([1 / 3]))
    assert third[0, :, 0, 0].tolist() == pytest.approx([0, 200, 0], abs=1e-3)


def test_noise_has_the_deviation_asked_for() -> None:
    images = torch.full((50, 3, 16, 16), 128, dtype=torch.uint8)
    difference = run(images, noise=0.1) - 128
    assert float(difference.std()) == pytest.approx(25.5, rel=0.03)
    assert abs(float(difference.mean())) < 0.5


def test_cutout_blanks_one_square_that_may_reach_over_the_border() -> None:
    images = torch.zeros(200, 3, 12, 12)
    holes = (cutout(images, 4, draws(200)) == 127.5)[:, 0]
    areas = holes.flatten(1).sum(1)
    assert set(areas.tolist()) <= {r * c for r in (2, 3, 4) for c in (2, 3, 4)}
    assert int(areas.max()) == 16
    for hole in holes[:20]:
        rows, columns = hole.any(1).sum(), hole.any(0).sum()
        assert hole.sum() == rows * columns


def test_identity_turn_and_zoom_change_nothing() -> None:
    for size in (8, 9):
        images = pictures(3, size)
        out = run(images, rotation_angles=(0.0,))
        torch.testing.assert_close(out, images.float(), rtol=0, atol=0.02)


def test_one_right_angle_is_counter_clockwise_in_every_picture() -> None:
    for size in (8, 9):
        images = pictures(3, size)
        out = run(images, rotation_angles=(90.0,))
        expected = torch.rot90(images.float(), 1, (2, 3))
        torch.testing.assert_close(out, expected, rtol=0, atol=0.1)


@pytest.mark.parametrize("padding", ["reflect", "zero"])
def test_turning_and_zooming_equal_a_loop_over_pixels(padding: str) -> None:
    images, size = pictures(2, 7), 7
    config = AugmentConfig(rotation=40, scale=0.3, padding=padding)
    out = rotate_and_scale(images.float(), config, draws(2)).numpy()
    same = draws(2)
    degrees, zooms = same.uniform(-40, 40), 1 + same.uniform(-0.3, 0.3)

    def pixel(image: np.ndarray, row: int, column: int) -> np.ndarray:
        if 0 <= row < size and 0 <= column < size:
            return image[:, row, column]
        return np.zeros(3)

    for image, found, degree, zoom in zip(images.numpy(), out, degrees, zooms, strict=True):
        cos, sin = math.cos(math.radians(degree)) / zoom, math.sin(math.radians(degree)) / zoom
        for row in range(size):
            for column in range(size):
                x, y = column - 3, row - 3  # from the centre
                source = [float(sin * x + cos * y + 3), float(cos * x - sin * y + 3)]
                if padding == "reflect":  # about the outer edge of the border pixels
                    source = [
                        min(max(abs(s + 0.5) - 0.5, 0), size - 1) if s < 3 else s for s in source
                    ]
                    source = [min(size - 0.5 - abs(size - 0.5 - s), size - 1) for s in source]
                top, left = math.floor(source[0]), math.floor(source[1])
                down, right = source[0] - top, source[1] - left
                expected = (
                    (1 - down) * (1 - right) * pixel(image, top, left)
                    + (1 - down) * right * pixel(image, top, left + 1)
                    + down * (1 - right) * pixel(image, top + 1, left)
                    + down * right * pixel(image, top + 1, left + 1)
                )
                np.testing.assert_allclose(found[:, row, column], expected, atol=0.02)


def test_scale_zooms_in_and_out() -> None:
    dot = torch.zeros(200, 3, 15, 15, dtype=torch.uint8)
    dot[:, :, 5:10, 5:10] = 255  # 25 pixels
    areas = run(dot, scale=0.4, padding="zero")[:, 0].sum((1, 2)) / 255
    assert 0.36 * 25 * 0.9 < float(areas.min()) < 15
    assert 40 < float(areas.max()) < 1.96 * 25 * 1.1


def test_hue_equals_a_turn_about_the_grey_axis_step_by_step() -> None:
    images = pictures(3, 4).float() * 0.3 + 90  # far from the ends of the range: nothing is cut
    turns = torch.tensor([0.2, -0.35, 0.5])
    found = turn_hue(images, turns)
    axis = np.ones(3) / math.sqrt(3)
    for picture, out, turn in zip(images.double().numpy(), found.numpy(), turns, strict=True):
        angle = 2 * math.pi * float(turn)
        for row in range(4):
            for column in range(4):
                v = picture[:, row, column]  # Rodrigues' formula
                expected = (
                    v * math.cos(angle)
                    + np.cross(axis, v) * math.sin(angle)
                    + axis * (axis @ v) * (1 - math.cos(angle))
                )
                np.testing.assert_allclose(out[:, row, column], expected, atol=1e-3)


def test_three_turns_of_a_third_come_home() -> None:
    images, third = pictures(4).float(), torch.full((4,), 1 / 3)
    once = turn_hue(images, third)
    torch.testing.assert_close(once, images.roll(1, dims=1), rtol=0, atol=1e-2)
    torch.testing.assert_close(turn_hue(turn_hue(once, third), third), images, rtol=0, atol=1e-2)


@pytest.mark.parametrize(("padding", "border"), [("zero", True), ("reflect", False)])
def test_only_zero_padding_brings_black_in(padding: str, border: bool) -> None:
    white = torch.full((50, 3, 12, 12), 255, dtype=torch.uint8)
    for settings in ({"crop_padding": 3}, {"rotation": 45.0}, {"scale": 0.5}):
        assert bool((run(white, padding=padding, **settings) < 200).any()) is border


def test_a_cutout_larger_than_the_picture_and_a_hole_of_one_pixel() -> None:
    assert (run(pictures(5), cutout=100) == 127.5).all()
    holes = cutout(torch.zeros(50, 3, 12, 12), 1, draws(50)) == 127.5
    assert holes.flatten(1).sum(1).tolist() == [3] * 50  # one pixel, three channels
    assert len({tuple(hole[0].nonzero()[0].tolist()) for hole in holes}) > 20


def test_the_pictures_given_stay_as_they_were() -> None:
    images = pictures(8)
    before = images.clone()
    run(images, **EVERYTHING)
    assert torch.equal(images, before)


def test_a_share_of_a_batch_is_changed_as_within_it() -> None:
    images = torch.randint(0, 256, (9, 3, 12, 12), dtype=torch.uint8)
    config = AugmentConfig(
        rotation=20, scale=0.2, brightness=0.3, hue=0.1, noise=0.05, cutout=4, crop_padding=2
    )
    whole = augment(images, config, torch.Generator().manual_seed(3))
    for first, end in ((0, 4), (4, 9)):
        share = augment(
            images[first:end], config, torch.Generator().manual_seed(3), batch=9, first=first
        )
        torch.testing.assert_close(share, whole[first:end])


def test_which_pictures_are_mirrored_can_be_said() -> None:
    images = torch.randint(0, 256, (3, 3, 8, 8), dtype=torch.uint8)
    config = AugmentConfig(crop_padding=0)
    mirrored = torch.tensor([True, False, True])
    found = augment(images, config, torch.Generator(), mirrored=mirrored)
    expected = [
        image.flip(2) if flip else image for image, flip in zip(images, mirrored, strict=True)
    ]
    assert torch.equal(found, torch.stack(expected).float())
