"""The fast small ResNet: three stages of two convolutions for pictures of about 32 pixels.

It is laid out for speed on processors as well as GPUs: dense 3×3 convolutions only, pooling before
normalisation, at most 31×31 positions, widths w, 4w, 4w. The first layer is fixed: it whitens 2×2
patches. Normalisation has no scales, and its biases learn 64 times as fast as the filters. The design
follows Keller Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU" (arXiv 2404.00498, §3), whose
second convolution of a stage is a residual one at the start (identity filters); there is no final
pooling, since heads pool.
"""

import torch
from torch import Tensor, nn

from retrieval.device import in_float32
from retrieval.specs import NetworkSpec

BIAS_LR_SCALE = 64.0


class BiasNorm(nn.BatchNorm2d):
    """Batch normalisation that learns biases alone, and fast; its statistics follow quickly."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, momentum=0.4)
        self.weight.requires_grad_(False)
        self.lr_scale = BIAS_LR_SCALE


class Stage(nn.Module):
    """Convolve, halve, normalise; convolve, normalise: (H,W) → (H/2,W/2)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, bias=False)  # padded in forward
        self.pool = nn.MaxPool2d(2)
        self.norm1 = BiasNorm(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.norm2 = BiasNorm(out_channels)
        self.activate = nn.GELU()
        # Identity filters first: the signal of the stage below passes through from step one.
        nn.init.dirac_(self.conv1.weight[:in_channels].data)
        nn.init.dirac_(self.conv2.weight.data)

    def forward(self, features: Tensor) -> Tensor:
        # Halving drops the last of an odd number of rows: a tenth of the work, so it is not done.
        height, width = features.shape[2:]
        padded = nn.functional.pad(features, (1, 1 - width % 2, 1, 1 - height % 2))
        features = self.activate(self.norm1(self.pool(self.conv1(padded))))
        stage: Tensor = self.activate(self.norm2(self.conv2(features)))
        return stage


class FastResNet(nn.Module):
    """(B,1 or 3,H,W) → (B,4·width,(H−1)//8,(W−1)//8); pictures from 17 pixels give at least 2×2."""

    stride, smallest = 8, 17

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        width, whitened = spec.width, 8 * spec.channels
        self.out_channels = 4 * width
        self.whiten = nn.Conv2d(spec.channels, whitened, 2)
        # Not even the bias learns: a gradient for it would cost a tenth of each step.
        self.whiten.requires_grad_(False)
        self.stages = nn.Sequential(
            Stage(whitened, width), Stage(width, 4 * width), Stage(4 * width, 4 * width)
        )

    def forward(self, images: Tensor) -> Tensor:
        # Whitening takes small differences of large numbers: in bf16 little would be left of them.
        with in_float32(images):
            white = nn.functional.gelu(self.whiten(images))
        features: Tensor = self.stages(white)
        return features

    @torch.no_grad()
    def whiten_from(self, images: Tensor, eps: float = 5e-4) -> None:
        """Set the fixed first layer from standardised pictures (N,C,H,W), float32.

        Its filters are the eigenvectors of the covariance of 2×2 patches, divided by the square
        root of their eigenvalues, and the negatives of these. Source: arXiv 2404.00498, §3.2.
        """
        channels = images.shape[1]
        size = 4 * channels  # numbers in a patch
        n, total = 0, images.new_zeros(size, dtype=torch.float64)
        products = images.new_zeros(size, size, dtype=torch.float64)
        for some in images.split(64):  # the patches of all at once would fill the memory
            patches = some.unfold(2, 2, 1).unfold(3, 2, 1)  # (n,C,H−1,W−1,2,2)
            patches = patches.permute(0, 2, 3, 1, 4, 5).reshape(-1, size).double()
            n += len(patches)
            total += patches.sum(0)
            products += patches.T @ patches
        covariance = (products - total.outer(total) / n) / max(n - 1, 1)
        values, vectors = torch.linalg.eigh(covariance)
        filters = (vectors / (values + eps).sqrt()).T.reshape(size, channels, 2, 2)
        self.whiten.weight.copy_(torch.cat([filters, -filters]))
        assert self.whiten.bias is not None
        self.whiten.bias.zero_()
