"""VGG trunks: blocks of 3×3 convolutions, each block followed by a maximum over 2×2."""

from functools import partial

from torch import Tensor, nn

from retrieval.errors import ConfigError
from retrieval.layers import convolution, initialise
from retrieval.specs import NetworkSpec

CHANNELS = (64, 128, 256, 512, 512)
CONVOLUTIONS = {
    "vgg11": (1, 1, 2, 2, 2),
    "vgg13": (2, 2, 2, 2, 2),
    "vgg16": (2, 2, 3, 3, 3),
    "vgg19": (2, 2, 4, 4, 4),
}


class VGG(nn.Module):
    """(B,1 or 3,H,W) → (B,C,h,w), C 512 by default.

    The stock form is torchvision's, weights included: 5 blocks of stride 2, so 224 pixels end in 7×7.
    The small form leaves the last maximum out and rounds halves up: 32 pixels end in 2×2, and so do
    28. With batch normalisation convolutions have no biases, which torchvision's have (to no effect),
    so that weights of torchvision's vggN_bn do not fit. Source: Simonyan and Zisserman, "Very Deep
    Convolutional Networks for Large-Scale Image Recognition", table 1, columns A, B, D, E.
    Raises ConfigError where the blocks cannot be understood.
    """

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        convolve = partial(
            convolution, batch_norm=spec.batch_norm, activation=spec.activation or "relu"
        )
        blocks = vgg_blocks(spec)
        small = spec.stem == "small"
        layers: list[nn.Module] = []
        before = spec.channels
        for number, (count, width) in enumerate(blocks, 1):
            for _ in range(count):
                layers += convolve(before, width, 3, padding=1)
                before = width
            if not (small and number == len(blocks)):
                layers.append(nn.MaxPool2d(2, ceil_mode=small))
        self.features = nn.Sequential(*layers)
        self.out_channels = before
        halvings = len(blocks) - small
        self.stride = 2**halvings
        self.smallest = 2**halvings + 1 if small else 2 ** (halvings + 1)
        initialise(self, "kaiming")

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.features(images)
        return features


def vgg_blocks(spec: NetworkSpec) -> list[tuple[int, int]]:
    """(convolutions, channels) of each block. Raises ConfigError where ``blocks`` is no such list."""
    if spec.backbone in CONVOLUTIONS:
        pairs = list(zip(CONVOLUTIONS[spec.backbone], CHANNELS, strict=True))
    else:
        try:
            pairs = [_pair(part) for part in spec.blocks.split(",")]
        except ValueError as error:
            raise ConfigError(
                f"--blocks is {spec.blocks!r}; for --backbone vgg it must be blocks as "
                "CONVOLUTIONSxCHANNELS, such as 1x64,1x128,2x256,2x512,2x512"
            ) from error
    return [(count, spec.scaled(width)) for count, width in pairs]


def _pair(text: str) -> tuple[int, int]:
    count, width = (int(number) for number in text.split("x"))
    if not (0 < count <= 100 and 0 < width <= 8192):
        raise ValueError(text)
    return count, width
