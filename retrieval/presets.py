"""Named sets of choices, and those that suit networks and the data sets known by name."""

from typing import Any

PRESETS: dict[str, dict[str, Any]] = {
    "fast": {
        "width": 32,
        "epochs": 7,
        "optimizer": "muon",
        "averaging": "none",
        "warmup": 0.0,
        "weight_decay": 0.0,
        "crop_padding": 2,
        "cutout": 0,
    },
    "default": {},
    "best": {
        "weights": "efficientnet-lite0",
        "image_size": 224,
        "epochs": 22,
        "crop_padding": 28,
        "cutout": 96,
        "rotation": 10.0,
        "scale": 0.15,
        "brightness": 0.3,
        "contrast": 0.3,
        "saturation": 0.3,
    },
}
IN_PIXELS = ("crop_padding", "cutout")
"""Settings of a preset that are for its ``image_size``."""

# Where the defaults would not suit: digits mirrored or turned far become other digits.
DATASET_SETTINGS: dict[str, dict[str, Any]] = {
    "digits": {
        "image_size": 24,
        "width": 16,
        "flip": False,
        "crop_padding": 2,
        "cutout": 0,
        "padding": "zero",
        "rotation": 10.0,
        "scale": 0.1,
        "epochs": 12,
        "batch_size": 200,
        "validation": 0.15,
    },
    "mnist": {
        "flip": False,
        "width": 32,
        "epochs": 4,
        "crop_padding": 2,
        "cutout": 0,
        "padding": "zero",
    },
    "fashion-mnist": {"width": 32, "epochs": 10, "crop_padding": 2, "cutout": 0},
}

# The defaults suit fast-resnet. Networks without batch normalisation bear small steps only.
PLAIN_SETTINGS: dict[str, Any] = {
    "optimizer": "adamw", "lr": 1e-3, "weight_decay": 0.01, "averaging": "none", "clip_norm": 1.0,
    "batch_size": 128, "warmup": 0.23,
}  # fmt: skip
DEEP_SETTINGS: dict[str, Any] = {
    "optimizer": "nesterov", "lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4, "averaging": "none",
    "batch_size": 128, "warmup": 0.23,
}  # fmt: skip
PLAIN = ("lenet", "alexnet", "nin", "vgg", "vgg11", "vgg13", "vgg16", "vgg19", "softmax", "logistic",
         "mlp")  # fmt: skip
DEEP = ("googlenet", "inception-v3", "efficientnet-lite0", "densenet121", "densenet161", "densenet169",
        "densenet201")  # fmt: skip
RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
BACKBONE_SETTINGS: dict[str, dict[str, Any]] = {
    **dict.fromkeys(PLAIN, PLAIN_SETTINGS),
    **dict.fromkeys(DEEP, DEEP_SETTINGS),
}
CLASSIFY_SETTINGS: dict[str, dict[str, Any]] = {
    **BACKBONE_SETTINGS,
    **dict.fromkeys((*RESNETS, "tiny"), DEEP_SETTINGS),
    "fast-resnet": {
        "label_smoothing": 0.2,
        "optimizer": "muon",
        "averaging": "none",
        "warmup": 0.0,
        "weight_decay": 0.0,
        "epochs": 15,
        "crop_padding": 4,
        "cutout": 8,
    },
}
"""What suits each network; a data set's own settings and given options take precedence."""


def fine_tuning_share(backbone: str) -> float:
    """The share of its learning rate by which a network goes on: at the full one it forgets."""
    return 0.4 if backbone == "fast-resnet" else 0.2


SMALL_BATCHES = ("tiny-ssd", "faster-rcnn", "mask-rcnn", "fast-rcnn", "rcnn")
# With regions first a picture is many examples, and costs as much. The small one takes more steps.
DETECT_SETTINGS: dict[str, dict[str, Any]] = {
    **{model: {} for model in ("ssd", "yolo")},
    **{model: {"batch_size": 8} for model in SMALL_BATCHES},
}
"""What suits each detector; given options take precedence."""
