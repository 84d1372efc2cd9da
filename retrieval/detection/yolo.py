"""A one-stage grid without anchor boxes, as YOLOX."""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits as cross_entropy
from torch.nn.functional import one_hot
from torchvision.ops import box_convert

from retrieval.detection.boxes import overlaps, paired_overlaps
from retrieval.detection.detections import Detections
from retrieval.detection.detector import Batch, Detector, Target
from retrieval.detection.grid_assignment import assign_cells
from retrieval.detection.pyramid import Pyramid
from retrieval.detection.suppression import best_objects
from retrieval.device import in_float32
from retrieval.layers import convolution
from retrieval.specs import DetectorSpec

WIDTH = 96
OBJECTS_FIRST = 0.01
"""What each cell is at first said to hold an object by."""
BOX_WEIGHT = 5.0
LARGEST_EXPONENT = 8.0
LEAST_CHANCE = 1e-6


class Grid(nn.Module):
    """A map (B,C,h,w) → (B,h·w,5+L): shift of the centre and logarithms of the sides, in cells; logits
    of there being an object, and of each class. Classes and boxes have convolutions of their own."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.entry = nn.Sequential(*_convolve(channels, 1))
        self.of_class = nn.Sequential(*_convolve(WIDTH, 3), *_convolve(WIDTH, 3))
        self.of_box = nn.Sequential(*_convolve(WIDTH, 3), *_convolve(WIDTH, 3))
        self.classes = nn.Conv2d(WIDTH, classes, 1)
        self.boxes = nn.Conv2d(WIDTH, 5, 1)
        odds = math.log(OBJECTS_FIRST / (1 - OBJECTS_FIRST))
        with torch.no_grad():
            for head, first in ((self.classes, 0), (self.boxes, 4)):
                assert head.bias is not None
                head.bias.zero_()[first:] = odds

    def forward(self, features: Tensor) -> Tensor:
        features = self.entry(features)
        parts = [self.boxes(self.of_box(features)), self.classes(self.of_class(features))]
        return torch.cat(parts, 1).flatten(2).transpose(1, 2).float()


def _convolve(before: int, kernel: int) -> list[nn.Module]:
    return convolution(before, WIDTH, kernel, padding=kernel // 2, batch_norm=True)


class Yolo(Detector):
    """Each cell of three grids (8, 16 and 32 pixels a cell) tells of one object.

    Head, assignment and losses are those of YOLOX (Ge et al., "YOLOX: Exceeding YOLO Series in 2021"):
    no anchor boxes, classes and boxes told apart, and cells assigned to objects by how well they
    already find them (``assign_cells``). Its backbone, its neck (here a feature pyramid), its
    augmentation and its L1 loss of the last epochs are not part of this.
    """

    cells: Tensor

    def __init__(self, spec: DetectorSpec, weights: str | None = None) -> None:
        super().__init__(spec, weights)
        # A trunk of one map of 8 pixels a cell gets two more.
        self.pyramid = Pyramid(self.backbone, self.spec, finest=8, fused=True, width=WIDTH)
        coarser = max(3 - len(self.pyramid.sides), 0)
        if coarser:
            self.pyramid = Pyramid(
                self.backbone, self.spec, finest=8, coarser=coarser, fused=True, width=WIDTH
            )
        self.grids = nn.ModuleList(Grid(c, len(spec.classes)) for c in self.pyramid.channels)
        cells = torch.cat([_cells(spec.image_size, side) for side in self.pyramid.sides])
        self.register_buffer("cells", cells, persistent=False)

    def predict(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Boxes float32 (B,A,4) in pixels; logits float32 (B,A,1+L) of an object and of each class."""
        maps = self.pyramid(self.backbone, images)
        raw = torch.cat([grid(m) for grid, m in zip(self.grids, maps, strict=True)], 1)
        sides = self.cells[:, 2:]
        centres = self.cells[:, :2] + raw[..., :2] * sides
        shapes = raw[..., 2:4].clamp(max=LARGEST_EXPONENT).exp() * sides
        boxes = box_convert(torch.cat([centres, shapes], -1), "cxcywh", "xyxy")
        return boxes, raw[..., 4:]

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """1 − IoU² of boxes, times 5, and cross-entropies: of objects in all cells, of classes, whose
        goal is the IoU. All divided by the number of cells that hold objects."""
        boxes, logits = self.predict(batch.images)
        with in_float32(boxes):
            holds = torch.zeros_like(logits[..., 0])
            box = of_class = logits.new_zeros(())
            for row, target in enumerate(batch.targets):
                assigned = self.assign(boxes[row].detach(), logits[row].detach(), target)
                there = assigned >= 0
                objects = assigned[there]
                holds[row] = there.float()
                ious = paired_overlaps(boxes[row, there], target.boxes[objects])
                goal = one_hot(target.labels[objects], len(self.spec.classes))
                goal = goal * ious.detach().unsqueeze(1)
                box = box + (1 - ious.square()).sum()
                of_class = of_class + cross_entropy(logits[row, there, 1:], goal, reduction="sum")
            count = holds.sum().clamp(min=1)
            of_object = cross_entropy(logits[..., 0], holds, reduction="sum")
        return {
            "box": BOX_WEIGHT * box / count,
            "object": of_object / count,
            "class": of_class / count,
        }

    def assign(self, boxes: Tensor, logits: Tensor, target: Target) -> Tensor:
        """The object int64 (A,) that each cell of a picture is to find, or −1."""
        chances = (logits[:, 1:].sigmoid() * logits[:, :1].sigmoid()).sqrt()
        chances = chances.clamp(LEAST_CHANCE, 1 - LEAST_CHANCE)
        right, wrong = -chances.log(), -(1 - chances).log()
        costs = (right - wrong)[:, target.labels] + wrong.sum(1, keepdim=True)
        ious = overlaps(target.boxes, boxes)
        return assign_cells(target.boxes, self.cells, ious, costs.T)

    @torch.no_grad()
    def find(self, images: Tensor) -> list[Detections]:
        """The objects of standardised pictures (B,3,S,S); scores are object times class."""
        return [
            best_objects(boxes, logits[:, :1].sigmoid() * logits[:, 1:].sigmoid(), self.spec)
            for boxes, logits in zip(*self.predict(images), strict=True)
        ]


def _cells(size: int, side: int) -> Tensor:
    """Centre and sides (side²,4) of the cells of a grid over a square of ``size`` pixels, row by
    row."""
    at = (torch.arange(side) + 0.5) * size / side
    y, x = torch.meshgrid(at, at, indexing="ij")
    sides = torch.full_like(x, size / side)
    return torch.stack([x, y, sides, sides], -1).reshape(-1, 4)
