"""From very many scored boxes to the objects of a picture."""

import torch
from torch import Tensor
from torchvision.ops import batched_nms, clip_boxes_to_image, nms

from retrieval.detection.detections import Detections
from retrieval.specs import DetectorSpec

CANDIDATES = 1000
"""The surest boxes of a picture, beyond which none is looked at."""


def best_objects(boxes: Tensor, scores: Tensor, spec: DetectorSpec) -> Detections:
    """The objects among boxes (A,4), in pixels, with scores (A,L) of L classes in [0,1].

    Each box may be of several classes. Boxes are cut at the border of the square of ``spec.image_size``
    pixels; those without area, or less sure than ``spec.least_score``, are passed over. Of two that
    overlap by more than ``spec.nms_iou`` the surer one stays: two of one class, or any two with
    ``spec.across_classes``. Ties: the first box, then the first class.
    Raises ValueError where boxes and scores are not as many.
    """
    if boxes.shape != (len(scores), 4) or scores.ndim != 2:
        raise ValueError(
            f"boxes {tuple(boxes.shape)} and scores {tuple(scores.shape)}; expected (A,4) and (A,L)"
        )
    size = spec.image_size
    boxes = clip_boxes_to_image(boxes.float(), (size, size))
    there = (boxes[:, 2:] > boxes[:, :2]).all(1, keepdim=True)
    rows, labels = torch.where(there & (scores >= spec.least_score))
    order = scores[rows, labels].argsort(descending=True, stable=True)[:CANDIDATES]
    rows, labels = rows[order], labels[order]
    boxes, sure = boxes[rows], scores[rows, labels].float()
    if spec.across_classes:
        kept = nms(boxes, sure, spec.nms_iou)
    else:
        kept = batched_nms(boxes, sure, labels, spec.nms_iou)
    kept = kept[: spec.most]
    return Detections(
        boxes[kept].cpu().numpy(), labels[kept].cpu().numpy(), sure[kept].cpu().numpy()
    )
