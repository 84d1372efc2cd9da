"""Fast R-CNN: regions by selective search, pooled from the map of the whole picture, and classified.

Source: Girshick 2015, "Fast R-CNN"; torchvision's heads on our map.
"""

import torch
from torch import Tensor

from retrieval.detection.detector import Batch
from retrieval.detection.region_detector import RegionDetector, whole_picture
from retrieval.detection.selective_search import search_batch, selective_search


class FastRCNN(RegionDetector):
    """Loss terms: classes and boxes. ``find`` searches the pictures for regions itself."""

    propose = staticmethod(selective_search)

    def regions(
        self, images: Tensor, maps: dict[str, Tensor], batch: Batch | None
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        if batch is None or batch.proposals is None:
            return search_batch(images, self.mean, self.std), {}
        whole = whole_picture(images)
        return [torch.cat([whole, boxes.float()]) for boxes in batch.proposals], {}
