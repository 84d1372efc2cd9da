"""Detectors by name."""

from importlib import import_module

from retrieval.detection.detector import Detector
from retrieval.errors import ConfigError
from retrieval.specs import DetectorSpec

CLASSES = {
    "tiny-ssd": "tiny_ssd.TinySSD",
    "ssd": "ssd.SSD",
    "yolo": "yolo.Yolo",
    "faster-rcnn": "faster_rcnn.FasterRCNN",
    "mask-rcnn": "mask_rcnn.MaskRCNN",
    "fast-rcnn": "fast_rcnn.FastRCNN",
    "rcnn": "rcnn.RCNN",
}
"""Where each is, by name."""


def build_detector(spec: DetectorSpec, weights: str | None = None) -> Detector:
    """The detector that ``spec`` describes; ``weights`` fill its backbone, as in ``build_backbone``.

    Raises ConfigError for options that do not fit it, CheckpointError for weights that do not.
    """
    if spec.model not in CLASSES:
        raise ConfigError(f"--model is {spec.model!r}; it can be {', '.join(CLASSES)}")
    if not spec.classes:
        raise ConfigError("a detector needs at least 1 class; the pictures name none")
    module, class_name = CLASSES[spec.model].split(".")
    kind: type[Detector] = getattr(import_module(f"retrieval.detection.{module}"), class_name)
    return kind(spec, weights)
