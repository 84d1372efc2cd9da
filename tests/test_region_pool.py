import math

import numpy as np
import pytest
import torch
from torchvision.ops import MultiScaleRoIAlign

from retrieval.detection.region_pool import RegionPool

SHAPES = [(64, 64)] * 2


def some_maps(*sides: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {str(i): torch.randn(2, 3, s, s, generator=generator) for i, s in enumerate(sides)}


def some_boxes(counts: tuple[int, ...] = (5, 4)) -> list[torch.Tensor]:
    rng = np.random.default_rng(0)
    corners = [np.sort(rng.uniform(0, 64, (n, 2, 2)), axis=1).reshape(n, 4) for n in counts]
    return [torch.from_numpy(c.astype(np.float32)) for c in corners]


def largest_of_whole_cells(
    features: np.ndarray, box: np.ndarray, side: int, stride: int
) -> np.ndarray:
    """RoI pool, cell by cell: corners are rounded to cells, and bins to whole cells outwards."""
    left, top, right, bottom = (math.floor(v / stride + 0.5) for v in box)
    width, height = max(right - left + 1, 1), max(bottom - top + 1, 1)
    found = np.zeros((len(features), side, side), np.float32)
    for row in range(side):
        for column in range(side):
            rows = range(math.floor(row * height / side), math.ceil((row + 1) * height / side))
            columns = range(
                math.floor(column * width / side), math.ceil((column + 1) * width / side)
            )
            cells = [
                features[:, top + y, left + x]
                for y in rows
                for x in columns
                if top + y < features.shape[1] and left + x < features.shape[2]
            ]
            if cells:
                found[:, row, column] = np.max(cells, axis=0)
    return found


def test_align_is_torchvisions() -> None:
    maps, boxes = some_maps(8), some_boxes()
    expected = MultiScaleRoIAlign(["0"], 7, 2)(maps, boxes, SHAPES)
    assert torch.equal(RegionPool("align", 7, [8])(maps, boxes, SHAPES), expected)


def test_pool_is_the_largest_of_whole_cells() -> None:
    maps, boxes = some_maps(16), some_boxes()
    found = RegionPool("pool", 3, [4])(maps, boxes, SHAPES)
    pictures = [0] * 5 + [1] * 4
    for pooled, picture, box in zip(found, pictures, torch.cat(boxes), strict=True):
        slow = largest_of_whole_cells(maps["0"][picture].numpy(), box.numpy(), 3, 4)
        np.testing.assert_array_equal(pooled.numpy(), slow)
    assert not torch.allclose(found, RegionPool("align", 3, [4])(maps, boxes, SHAPES))


@pytest.mark.parametrize("how", ["align", "pool"])
def test_each_region_comes_from_the_map_of_its_size(how: str) -> None:
    maps, boxes = some_maps(16, 8, 4), some_boxes()
    pool = RegionPool(how, 2, [4, 8, 16])
    found = pool(maps, boxes, SHAPES)
    levels = []
    for row, (picture, box) in enumerate((p, b) for p, some in enumerate(boxes) for b in some):
        size = math.sqrt((box[2] - box[0]) * (box[3] - box[1]))
        level = max([i for i, stride in enumerate((4, 8, 16)) if size >= 2 * stride], default=0)
        levels.append(level)
        one = {"0": maps[str(level)][picture : picture + 1]}
        alone = RegionPool(how, 2, [4 * 2**level])(one, [box[None]], SHAPES[:1])
        torch.testing.assert_close(found[row], alone[0])
    assert pool.levels_of(torch.cat(boxes)).tolist() == levels
    assert len(set(levels)) > 1
    exact = torch.tensor([[0.0, 0, 16, 16], [0, 0, 15.9, 16], [3, 3, 3, 3]])
    assert pool.levels_of(exact).tolist() == [1, 0, 0]


@pytest.mark.parametrize("sides", [(8,), (8, 4)])
@pytest.mark.parametrize("how", ["align", "pool"])
def test_no_regions_and_bf16(how: str, sides: tuple[int, ...]) -> None:
    pool = RegionPool(how, 3, [8, 16][: len(sides)])
    maps = some_maps(*sides)
    assert pool(maps, some_boxes((0, 0)), SHAPES).shape == (0, 3, 3, 3)
    coarse = {name: features.bfloat16() for name, features in maps.items()}
    found = pool(coarse, some_boxes((0, 2)), SHAPES)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, pool(maps, some_boxes((0, 2)), SHAPES), atol=0.03, rtol=0.02)


def test_gradients_reach_every_map() -> None:
    maps = {name: features.requires_grad_() for name, features in some_maps(16, 8).items()}
    boxes = [torch.tensor([[0.0, 0, 10, 10], [0, 0, 60, 60]]), torch.zeros(0, 4)]
    RegionPool("align", 2, [4, 8])(maps, boxes, SHAPES).sum().backward()
    for features in maps.values():
        assert features.grad is not None
        assert features.grad[0].abs().sum() > 0
        assert features.grad[1].abs().sum() == 0
