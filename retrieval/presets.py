"""Named sets of choices, and those that suit the data sets known by name."""

from typing import Any

PRESETS: dict[str, dict[str, Any]] = {
    "fast": {"width": 32, "epochs": 7},
    "default": {},
    "best": {"width": 128, "epochs": 60, "crop_padding": 4, "cutout": 8},
}

# Where the defaults would not suit: digits mirrored or turned far become other digits.
DATASET_SETTINGS: dict[str, dict[str, Any]] = {
    "digits": {
        "image_size": 24,
        "width": 16,
        "flip": False,
        "crop_padding": 2,
        "padding": "zero",
        "rotation": 10.0,
        "scale": 0.1,
        "epochs": 12,
        "batch_size": 200,
        "validation": 0.15,
    },
    "mnist": {"flip": False, "width": 32, "epochs": 4, "padding": "zero"},
    "fashion-mnist": {"width": 32, "epochs": 10},
}
