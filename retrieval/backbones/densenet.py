"""torchvision's DenseNets as trunks."""

from torch import Tensor, nn
from torchvision.models import DenseNet as TorchvisionDenseNet

from retrieval.specs import NetworkSpec

FORMS = {
    "densenet121": (32, (6, 12, 24, 16), 64),
    "densenet161": (48, (6, 12, 36, 24), 96),
    "densenet169": (32, (6, 12, 32, 32), 64),
    "densenet201": (32, (6, 12, 48, 32), 64),
}
"""Growth rate, layers of the four blocks, channels of the entry."""


class DenseNet(nn.Module):
    """(B,1 or 3,H,W) → (B,C,h,w), C 1024 for densenet121; stride 32 (stock) or 8 (small).

    Stock is torchvision's, weights included (Huang et al., "Densely Connected Convolutional
    Networks", table 1, the form with bottlenecks and compression), and the activation after its last
    normalisation, which torchvision has outside of ``features``. The small form begins with 3×3
    filters of stride 1 and without a maximum, as the paper does for CIFAR.
    """

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        growth, layers, entry = FORMS[spec.backbone]
        entry = spec.scaled(entry)
        network = TorchvisionDenseNet(
            spec.scaled(growth), layers, entry, drop_rate=spec.dropout or 0.0, num_classes=1
        )
        small = spec.stem == "small"
        if small or spec.channels != 3:
            place = (3, 1, 1) if small else (7, 2, 3)
            conv = nn.Conv2d(spec.channels, entry, *place, bias=False)
            nn.init.kaiming_normal_(conv.weight)
            network.features.conv0 = conv
        if small:
            network.features.pool0 = nn.Identity()
        self.features = network.features
        self.out_channels: int = network.classifier.in_features
        self.stride, self.smallest = (8, 16) if small else (32, 61)

    def forward(self, images: Tensor) -> Tensor:
        return nn.functional.relu(self.features(images))
