"""Selective search: regions of a picture that may hold an object, whatever it is.

Source: Uijlings et al. 2013, "Selective Search for Object Recognition"; its fast form as OpenCV has it.
"""

from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from retrieval.errors import ConfigError

LONGEST_SIDE = 256
"""Larger pictures are searched at this size, which bounds the time."""
SMALLEST_SIDE = 6
"""Regions narrower than this, in pixels of the picture that is searched, are specks."""
MOST = 2000


def selective_search(picture: np.ndarray) -> np.ndarray:
    """Boxes float32 (P,4) of a picture uint8 (H,W,3): left, top, right, bottom in its pixels.

    1 ≤ P ≤ 2,000, no two alike: the whole picture, then the others from large to small. The same
    picture gives the same boxes. Raises ConfigError where OpenCV with its contributed modules is not
    installed.
    """
    height, width = picture.shape[:2]
    whole = np.array([[0, 0, width, height]], np.float32)
    scale = min(LONGEST_SIDE / max(height, width), 1.0)
    shape = max(round(width * scale), 1), max(round(height * scale), 1)
    if min(shape) < SMALLEST_SIDE:
        return whole
    if scale < 1:
        picture = np.asarray(Image.fromarray(picture).resize(shape, Image.Resampling.BILINEAR))
    search = _segmentation().createSelectiveSearchSegmentation()
    search.setBaseImage(np.ascontiguousarray(picture[:, :, ::-1]))  # OpenCV has blue first
    search.switchToSelectiveSearchFast()
    found = np.asarray(search.process(), np.int64).reshape(-1, 4)  # left, top, width, height
    found = found[(found[:, 2:] >= SMALLEST_SIDE).all(1) & (found[:, 2:] < shape).any(1)]
    # OpenCV ranks regions with a random number; from large to small is an order that stays.
    areas = found[:, 2] * found[:, 3]
    found = found[np.lexsort((*found.T, -areas))]
    corners = np.concatenate([found[:, :2], found[:, :2] + found[:, 2:]], 1)
    corners = corners[
        np.concatenate([[True], (np.diff(corners, axis=0) != 0).any(1)])[: len(found)]
    ]
    boxes = corners * (np.array([width, height] * 2) / np.array([*shape, *shape]))
    return np.concatenate([whole, boxes[: MOST - 1].astype(np.float32)])


def search_batch(images: Tensor, mean: Tensor, std: Tensor) -> list[Tensor]:
    """Boxes of ``selective_search`` for each of these standardised pictures (B,C,S,S).

    ``mean`` and ``std`` (3,1,1) are what they were standardised with; grey ones are searched as grey.
    """
    pixels = (images.float() * std + mean) * 255
    if images.shape[1] == 1:
        pixels = (images.float() * std.mean() + mean.mean()).expand(-1, 3, -1, -1) * 255
    pictures = pixels.round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy()
    return [torch.from_numpy(selective_search(p)).to(images.device) for p in pictures]


def _segmentation() -> Any:
    try:
        from cv2.ximgproc import segmentation
    except ImportError as error:
        raise ConfigError(
            "selective search, which --model fast-rcnn and rcnn need, comes with OpenCV's contributed "
            "modules, and these are not installed; install them with: pip install 'retrieval[regions]'"
        ) from error
    return segmentation
