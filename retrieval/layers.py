"""Pieces that several networks are made of."""

from torch import nn

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU, "sigmoid": nn.Sigmoid, "tanh": nn.Tanh,
}  # fmt: skip
NORMAL_DEVIATION = CONSTANT = 0.01


def convolution(
    in_channels: int,
    out_channels: int,
    kernel: int,
    *,
    stride: int = 1,
    padding: int = 0,
    batch_norm: bool = False,
    activation: str = "relu",
) -> list[nn.Module]:
    """A convolution, its normalisation if so wanted, and its activation."""
    layers: list[nn.Module] = [
        nn.Conv2d(in_channels, out_channels, kernel, stride, padding, bias=not batch_norm)
    ]
    if batch_norm:
        layers.append(nn.BatchNorm2d(out_channels))
    return [*layers, ACTIVATIONS[activation]()]


def initialise(module: nn.Module, how: str) -> None:
    """Set weights of convolutions and linear layers anew, their biases to 0.

    normal: deviation 0.01; constant: 0.01 everywhere (which no network can learn from, since its
    channels stay alike); xavier: uniform (Glorot and Bengio 2010); kaiming: normal, by the outputs
    (He et al. 2015). Weights that are kept fixed stay as they are.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear) and layer.weight.requires_grad:
            match how:
                case "normal":
                    nn.init.normal_(layer.weight, std=NORMAL_DEVIATION)
                case "constant":
                    nn.init.constant_(layer.weight, CONSTANT)
                case "xavier":
                    nn.init.xavier_uniform_(layer.weight)
                case "kaiming":
                    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
