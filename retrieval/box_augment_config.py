"""How pictures with boxes are changed for training."""

from dataclasses import dataclass

from retrieval.errors import ConfigError
from retrieval.settings import Checked, choice


@dataclass(frozen=True)
class BoxAugmentConfig(Checked):
    """How a training picture is changed together with its boxes; each has draws of its own."""

    flip: bool = choice(True, "mirror left to right, by a coin for each picture")
    zoom_out: float = choice(
        1.0, "put half of the pictures on a grey ground of up to this many times the side (1: never)",
        at_least=1, at_most=8,
    )  # fmt: skip
    iou_crop: float = choice(
        0.0,
        "share of pictures cut to a random part that keeps some box well in sight, as SSD does",
        at_least=0,
        at_most=1,
    )
    scale_jitter: tuple[float, ...] = choice(
        (1.0, 1.0),
        "resize by a factor between these two, such as 0.5,1.5; what is too large is cut at random",
        at_least=0.1,
        at_most=4,
    )
    brightness: float = choice(
        0.1, "change brightness by up to ± this share", at_least=0, at_most=1
    )
    contrast: float = choice(0.1, "change contrast by up to ± this share", at_least=0, at_most=1)
    saturation: float = choice(
        0.1, "change saturation by up to ± this share", at_least=0, at_most=1
    )
    hue: float = choice(0.02, "turn the hue by up to ± this share of the circle", at_least=0,
                        at_most=0.5)  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.scale_jitter) != 2 or self.scale_jitter[0] > self.scale_jitter[1]:
            raise ConfigError(
                f"--scale-jitter is {','.join(f'{x:g}' for x in self.scale_jitter)}; it must be two "
                "factors, the smaller one first, such as 0.5,1.5"
            )
