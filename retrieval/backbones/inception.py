"""torchvision's Inception v3 as a trunk."""

from torch import Tensor, nn
from torchvision import models

from retrieval.specs import NetworkSpec

LAYERS = (
    *("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "maxpool1"),
    *("Conv2d_3b_1x1", "Conv2d_4a_3x3", "maxpool2"),
    *("Mixed_5b", "Mixed_5c", "Mixed_5d", "Mixed_6a", "Mixed_6b", "Mixed_6c", "Mixed_6d"),
    *("Mixed_6e", "Mixed_7a", "Mixed_7b", "Mixed_7c"),
)


class InceptionV3(nn.Module):
    """(B,1 or 3,H,W) → (B,2048,h,w): 299 pixels end in 8×8 (stock), 32 in 5×5 (small).

    Stock is torchvision's, weights included, without the auxiliary classifier (Szegedy et al.,
    "Rethinking the Inception Architecture for Computer Vision"). The small form has stride 1 in its
    first convolution and leaves both maxima of the entry out, since its convolutions have no borders.
    """

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        # torchvision draws initial weights by scipy, which takes a minute: as GoogLeNet's, ours.
        network = models.inception_v3(weights=None, aux_logits=False, init_weights=False)
        small = spec.stem == "small"
        if small or spec.channels != 3:
            conv = nn.Conv2d(spec.channels, 32, 3, stride=1 if small else 2, bias=False)
            network.Conv2d_1a_3x3.conv = conv
        for name in LAYERS:
            dropped = small and name.startswith("maxpool")
            self.add_module(name, nn.Identity() if dropped else getattr(network, name))
        self.out_channels = 2048
        self.stride, self.smallest = (4, 17) if small else (32, 107)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.trunc_normal_(layer.weight, std=0.1, a=-2, b=2)

    def forward(self, images: Tensor) -> Tensor:
        features = images
        for layer in self.children():
            features = layer(features)
        return features
