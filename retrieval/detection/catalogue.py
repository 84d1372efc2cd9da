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
FITS = {
    "pyramid": ("ssd", "faster-rcnn", "mask-rcnn"),
    "region_pool": ("faster-rcnn", "mask-rcnn", "fast-rcnn"),
}
"""Which detectors an option concerns, of those that not all have."""
WITH_MASKS = ("mask-rcnn",)
"""Which detectors learn from masks."""


def build_detector(spec: DetectorSpec, weights: str | None = None) -> Detector:
    """The detector that ``spec`` describes; ``weights`` fill its backbone, as in ``build_backbone``.

    Raises ConfigError for options that do not fit it, CheckpointError for weights that do not.
    """
    if spec.model not in CLASSES:
        raise ConfigError(f"--model is {spec.model!r}; it can be {', '.join(CLASSES)}")
    if not spec.classes:
        raise ConfigError("a detector needs at least 1 class; the pictures name none")
    for option, names in FITS.items():
        if getattr(spec, option) != getattr(DetectorSpec(), option) and spec.model not in names:
            raise ConfigError(
                f"--{option.replace('_', '-')} does not go with --model {spec.model}; it goes with "
                f"{', '.join(names)}"
            )
    module, class_name = CLASSES[spec.model].split(".")
    kind: type[Detector] = getattr(import_module(f"retrieval.detection.{module}"), class_name)
    return kind(spec.with_backbone(), weights)
