"""Augmentation of whole batches in which every picture has draws of its own.

Pictures are tensors (B,3,S,S) of range 0…255. The draws come from a generator on the CPU, so that
they are the same whatever device the pictures are on.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from retrieval.config import AugmentConfig


def augment(
    images: Tensor,
    config: AugmentConfig,
    generator: torch.Generator,
    *,
    batch: int | None = None,
    first: int = 0,
    mirrored: Tensor | None = None,
) -> Tensor:
    """Changed pictures float32 (B,3,S,S) in [0, 255] of pictures uint8 (B,3,S,S).

    ``mirrored`` bool (B,) says which ones a flip concerns; without it a coin is thrown for each.
    Where they are the rows from ``first`` on of a larger ``batch``, they are changed as they would
    be within it.
    """
    if len(images) == 0:
        return images.float()
    draws = _Draws(
        slice(first, first + len(images)), batch or len(images), images.device, generator
    )
    if config.crop_padding:
        images = shift_crop(images, config.crop_padding, config.padding, draws)
    if config.flip:
        mirrored = draws.coin() if mirrored is None else mirrored
        images = torch.where(mirrored[:, None, None, None], images.flip(3), images)
    pixels = images.float()
    if config.rotation or config.rotation_angles or config.scale:
        pixels = rotate_and_scale(pixels, config, draws)
    if config.brightness or config.contrast or config.saturation or config.hue:
        pixels = jitter_colour(pixels, config, draws)
    if config.noise:
        pixels = pixels + 255 * config.noise * draws.normal(pixels.shape[1:])
    if config.cutout:
        pixels = cutout(pixels, config.cutout, draws)
    return pixels.clamp(0, 255)


class _Draws:
    """Random numbers (B,), one for each picture: those of ``rows`` in a batch of ``n``."""

    def __init__(
        self, rows: slice, n: int, device: torch.device, generator: torch.Generator
    ) -> None:
        self.rows, self.n, self.device, self.generator = rows, n, device, generator

    def uniform(self, low: float, high: float) -> Tensor:
        draws = torch.rand(self.n, generator=self.generator)[self.rows].to(self.device)
        return low + (high - low) * draws

    def normal(self, shape: Sequence[int]) -> Tensor:
        """Of this shape for each picture."""
        draws = torch.randn(self.n, *shape, generator=self.generator)
        return draws[self.rows].to(self.device)

    def integer(self, low: int, high: int) -> Tensor:
        """From ``low`` up to, not including, ``high``."""
        draws = torch.randint(low, high, (self.n,), generator=self.generator)
        return draws[self.rows].to(self.device)

    def coin(self) -> Tensor:
        return self.integer(0, 2).bool()


def shift_crop(images: Tensor, reach: int, padding: str, draws: _Draws) -> Tensor:
    """Each picture moved by up to ``reach`` pixels both ways, the border mirrored or zero."""
    size = images.shape[2]
    mode = "reflect" if padding == "reflect" and reach < size else "constant"
    # reflect padding is written for floating point only; uint8 values are exact in float32.
    padded = F.pad(images.float(), (reach,) * 4, mode=mode).to(images.dtype)
    windows = padded.unfold(2, size, 1).unfold(3, size, 1)  # (B,3,2r+1,2r+1,S,S), a view
    top, left = draws.integer(0, 2 * reach + 1), draws.integer(0, 2 * reach + 1)
    everyone = torch.arange(len(images), device=images.device)
    return windows[everyone, :, top, left]


def rotate_and_scale(pixels: Tensor, config: AugmentConfig, draws: _Draws) -> Tensor:
    """Each picture turned and zoomed about its centre, sampled bilinearly."""
    if config.rotation_angles:
        angles = torch.tensor(config.rotation_angles, device=pixels.device)
        degrees = angles[draws.integer(0, len(angles))]
    else:
        degrees = draws.uniform(-config.rotation, config.rotation)
    zoom = 1 / (1 + draws.uniform(-config.scale, config.scale))
    radians = degrees * (math.pi / 180)
    cos, sin, zero = radians.cos() * zoom, radians.sin() * zoom, torch.zeros_like(zoom)
    matrices = torch.stack([cos, -sin, zero, sin, cos, zero], dim=1).view(-1, 2, 3)
    grid = F.affine_grid(matrices, list(pixels.shape), align_corners=False)
    mode = "reflection" if config.padding == "reflect" else "zeros"
    return F.grid_sample(pixels, grid, mode="bilinear", padding_mode=mode, align_corners=False)


def jitter_colour(pixels: Tensor, config: AugmentConfig, draws: _Draws) -> Tensor:
    """Brightness, contrast, saturation and hue, in this order, each by a factor of its own."""

    def factor(reach: float) -> Tensor:
        return (1 + draws.uniform(-reach, reach))[:, None, None, None]

    if config.brightness:
        pixels = (pixels * factor(config.brightness)).clamp(0, 255)
    if config.contrast:
        mean = _grey(pixels).mean(dim=(1, 2, 3), keepdim=True)
        pixels = (mean + (pixels - mean) * factor(config.contrast)).clamp(0, 255)
    if config.saturation:
        grey = _grey(pixels)
        pixels = (grey + (pixels - grey) * factor(config.saturation)).clamp(0, 255)
    if config.hue:
        pixels = turn_hue(pixels, draws.uniform(-config.hue, config.hue))
    return pixels


def _grey(pixels: Tensor) -> Tensor:
    """Luma (B,1,S,S) by ITU-R BT.601."""
    weights = pixels.new_tensor([0.299, 0.587, 0.114]).view(3, 1, 1)
    return (pixels * weights).sum(1, keepdim=True)


def turn_hue(pixels: Tensor, turns: Tensor) -> Tensor:
    """Colours turned about the grey axis by ``turns`` (B,) of a whole circle; greys stay."""
    angle = turns * 2 * math.pi
    cos, sin = angle.cos()[:, None, None], angle.sin()[:, None, None]
    one_third = pixels.new_full((3, 3), 1 / 3)
    cross = pixels.new_tensor([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
    matrices = cos * torch.eye(3, device=pixels.device) + (1 - cos) * one_third + sin * cross
    return torch.einsum("bij,bjhw->bihw", matrices, pixels).clamp(0, 255)


def cutout(pixels: Tensor, side: int, draws: _Draws) -> Tensor:
    """A square of ``side`` pixels made mid-grey, its centre anywhere in the picture.

    Source: DeVries and Taylor, "Improved Regularization of Convolutional Neural Networks with
    Cutout".
    """
    size = pixels.shape[2]
    position = torch.arange(size, device=pixels.device)

    def span() -> Tensor:
        start = draws.integer(0, size)[:, None] - side // 2
        return (position >= start) & (position < start + side)

    hole = span()[:, None, :, None] & span()[:, None, None, :]
    return pixels.masked_fill(hole, 127.5)
