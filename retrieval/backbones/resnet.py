"""torchvision's ResNets as trunks, with their own entry or one for small pictures."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from retrieval.errors import CheckpointError, ConfigError


class ResNet(nn.Module):
    """(B,3,H,W) → (B,C,⌈H/s⌉,⌈W/s⌉), C 512 or 2048, stride s 32 with the stock stem.

    The small stem replaces the 7×7 stride-2 convolution by a 3×3 of stride 1 and leaves out the
    max-pooling, so that the stride is 8 and a picture of 32 pixels ends in a 4×4 map (He et al.,
    "Deep Residual Learning for Image Recognition", §4.2, do likewise for CIFAR-10).
    Raises ConfigError where weights are asked for with the small stem, CheckpointError where they
    cannot be had or do not fit.
    """

    def __init__(self, name: str, stem: str, weights: str | None) -> None:
        super().__init__()
        if weights is not None and stem != "stock":
            raise ConfigError(
                f"--weights {weights} needs the entry that they were trained with; give --stem stock"
            )
        network = _load(name, weights)
        self.out_channels: int = network.fc.in_features
        self.stride, self.smallest = (32, 33) if stem == "stock" else (8, 9)
        if stem == "stock":
            self.stem = nn.Sequential(network.conv1, network.bn1, network.relu, network.maxpool)
        else:
            conv = nn.Conv2d(3, 64, 3, padding=1, bias=False)
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
            self.stem = nn.Sequential(conv, network.bn1, network.relu)
        self.layer1, self.layer2 = network.layer1, network.layer2
        self.layer3, self.layer4 = network.layer3, network.layer4

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.stem(images)
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            features = layer(features)
        return features


def _load(name: str, weights: str | None) -> Any:
    from torchvision import models

    if weights == "imagenet":
        try:
            return models.get_model(name, weights="DEFAULT")
        except (OSError, RuntimeError) as error:  # no network, or a file of another checksum
            url = models.get_model_weights(name)["DEFAULT"].url
            raise CheckpointError(
                f"the ImageNet weights of {name} cannot be downloaded ({error}); fetch {url} on "
                "another machine and give the file with --weights FILE"
            ) from error
    network = models.get_model(name, weights=None)
    if weights is not None:
        _load_file(network, name, Path(weights))
    return network


def _load_file(network: nn.Module, name: str, file: Path) -> None:
    """Fill ``network`` from a torchvision state dict (.pth) or a safetensors file."""
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(file)
        else:
            state = torch.load(file, map_location="cpu", weights_only=True)
        state = {key: value for key, value in state.items() if not key.startswith("fc.")}
        missing, unexpected = network.load_state_dict(state, strict=False)
    except Exception as error:
        reason = " ".join(str(error).split())  # torch writes several lines
        raise CheckpointError(f"cannot read weights of {name} from {file}: {reason}") from error
    missing = [key for key in missing if not key.startswith("fc.")]
    if missing or unexpected:
        raise CheckpointError(
            f"{file} does not hold weights of {name}: {len(missing)} are missing"
            f" (first: {(missing or ['none'])[0]}), {len(unexpected)} are unknown"
            f" (first: {(unexpected or ['none'])[0]}); expected torchvision's names"
        )
