"""What a network is made of: its layers with shapes, parameters and work; its parameters by name."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from retrieval.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class LayerFacts:
    """A layer: where it is, what it is, shapes of one picture's input and output, size and work.

    ``flops`` counts a multiplication and an addition as two, of convolutions and matrices.
    """

    name: str
    kind: str
    output: tuple[int, ...]
    parameters: int
    flops: int


@dataclasses.dataclass(frozen=True)
class ParameterFacts:
    """A parameter by name: its shape, L2 norm, mean and standard deviation, and whether it learns."""

    name: str
    shape: tuple[int, ...]
    norm: float
    mean: float
    deviation: float
    learns: bool


def layers_of(network: nn.Module, shape: Sequence[int]) -> list[LayerFacts]:
    """The layers without parts of their own, as one input of ``shape`` (C,H,W) meets them.

    A layer that is used twice stands here twice, its parameters
    the first time. Raises ConfigError where the picture is too small.
    """
    found: list[LayerFacts] = []
    seen: set[nn.Parameter] = set()
    counter = FlopCounterMode(display=False)
    root = network.network if isinstance(network, Extractor) else network
    names = {part: name for name, part in root.named_modules() if not list(part.children())}
    before: dict[str, int] = {}

    def enter(layer: nn.Module, inputs: Any) -> None:
        before[names[layer]] = counter.get_total_flops()

    def leave(layer: nn.Module, inputs: Any, output: Any) -> None:
        if not isinstance(output, Tensor):  # what only rearranges, such as the boxes of a detector
            return
        own = [p for p in layer.parameters() if p not in seen]
        seen.update(own)
        name = names[layer]
        found.append(
            LayerFacts(
                name, type(layer).__name__, tuple(output.shape[1:]), sum(p.numel() for p in own),
                counter.get_total_flops() - before[name],
            )
        )  # fmt: skip

    hooks = [m.register_forward_pre_hook(enter) for m in names]
    hooks += [m.register_forward_hook(leave) for m in names]
    was_training = network.training
    network.eval()
    device = next((p.device for p in network.parameters()), torch.device("cpu"))
    try:
        with counter, torch.no_grad():
            asked(network)(torch.zeros(1, *shape, device=device))
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        size = "×".join(map(str, shape))
        raise ConfigError(f"pictures of {size} do not go through this network: {reason}") from error
    finally:
        network.train(was_training)
        for hook in hooks:
            hook.remove()
    return found


def parameters_of(network: nn.Module) -> list[ParameterFacts]:
    """All parameters by name."""
    facts = []
    for name, parameter in network.named_parameters():
        values = parameter.detach().double()
        norm, mean, deviation = values.norm(), values.mean(), values.std(correction=0)
        facts.append(
            ParameterFacts(
                name, tuple(parameter.shape), float(norm), float(mean), float(deviation),
                parameter.requires_grad,
            )
        )  # fmt: skip
    return facts


def asked(network: nn.Module) -> Callable[[Tensor], Any]:
    """What computes for pictures alone: a detector's ``forward`` would need known objects."""
    asked: Callable[[Tensor], Any] = getattr(network, "find", network)
    return asked


class Extractor(nn.Module):
    """A network cut off after one of its parts: gives that part's output, computes nothing beyond.

    The parts are those of ``network``, not copies. Any part that ``named_modules`` lists will do.
    Raises ConfigError where there is no such part.
    """

    def __init__(self, network: nn.Module, layer: str) -> None:
        super().__init__()
        parts = {name: module for name, module in network.named_modules() if name}
        if layer not in parts:
            known = ", ".join(name for name in parts if name.count(".") < 2)
            raise ConfigError(
                f"--layer is {layer!r}, and there is no such part; there are: {known}"
            )
        self.network, self.layer = network, layer

    def forward(self, images: Tensor) -> Tensor:
        """What the part gives for these inputs of the network, the first time that it is used."""

        def leave(module: nn.Module, inputs: Any, output: Tensor) -> None:
            raise _Reached(output)

        hook = self.network.get_submodule(self.layer).register_forward_hook(leave)
        try:
            asked(self.network)(images)
        except _Reached as reached:
            return reached.output
        finally:
            hook.remove()
        raise ConfigError(f"--layer {self.layer}: the network does not use this part")


class _Reached(Exception):
    def __init__(self, output: Tensor) -> None:
        super().__init__()
        self.output = output
