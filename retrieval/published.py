"""Weights that torchvision publishes, for trunks that are named as its networks."""

import hashlib
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from retrieval.errors import CheckpointError

HEADS = ("fc.", "classifier.", "aux1.", "aux2.", "AuxLogits.")
"""What torchvision's networks have beyond the trunk."""
LOOKS = {"googlenet": ((0.5,) * 3, (0.5,) * 3), "inception-v3": ((0.5,) * 3, (0.5,) * 3)}
"""Mean and deviation of colours that these weights expect, where they are not ImageNet's."""
IMAGENET_LOOK = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


OLD_NAME = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)")
"""Names of before a module's name could not have a point: those in the files of DenseNets."""
SIZES = {"inception-v3": 299}
"""Sides of the pictures that networks learnt from, where they are not 224 pixels."""


def published_size(name: str) -> int:
    """The side in pixels of the pictures that these weights learnt from."""
    return SIZES.get(name, 224)


def published_look(name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of red, green, blue by which pictures are to be standardised."""
    return LOOKS.get(name, IMAGENET_LOOK)


def load_published(trunk: nn.Module, name: str, weights: str) -> None:
    """Fill ``trunk`` with ImageNet weights of the network ``name``, or with those in a file.

    A file is a state dict (.pth, read weights-only) or safetensors, with torchvision's names; a head
    in it is passed over. Raises CheckpointError where they cannot be had or do not fit.
    """
    state = _downloaded(name) if weights == "imagenet" else _in_file(name, Path(weights))
    renamed: dict[str, str] = getattr(trunk, "published_names", {})
    ours = {_theirs(key, renamed): key for key in trunk.state_dict()}
    state = {
        OLD_NAME.sub(r"\1\2", key): value
        for key, value in state.items() if not key.startswith(HEADS)
    }  # fmt: skip
    # Weights of before batches were counted lack these, and nothing needs them.
    missing = [key for key in ours if key not in state and not key.endswith("num_batches_tracked")]
    unknown = [key for key in state if key not in ours]
    if missing or unknown:
        raise CheckpointError(
            f"{weights} does not hold weights of {name}: {len(missing)} are missing"
            f" (first: {(missing or ['none'])[0]}), {len(unknown)} are unknown"
            f" (first: {(unknown or ['none'])[0]}); expected torchvision's names"
        )
    try:
        trunk.load_state_dict({ours[key]: value for key, value in state.items()}, strict=False)
    except Exception as error:  # shapes that differ, or values that are no tensors
        raise _unreadable(name, weights, error) from error


def _theirs(key: str, renamed: dict[str, str]) -> str:
    for theirs, ours in renamed.items():
        if key.startswith(ours):
            return theirs + key.removeprefix(ours)
    return key


def _downloaded(name: str) -> dict[str, Tensor]:
    from torchvision import models

    published = models.get_model_weights(name.replace("-", "_"))["DEFAULT"]
    try:
        # Weights only: nothing in such a file is ever run.
        state: dict[str, Tensor] = published.get_state_dict(
            progress=True, check_hash=True, weights_only=True
        )
        _check_sum(Path(torch.hub.get_dir()) / "checkpoints" / Path(published.url).name)
    except Exception as error:  # no network, a file of another checksum, or one that is none
        reason = " ".join(str(error).split())
        raise CheckpointError(
            f"the ImageNet weights of {name} cannot be had ({reason}); fetch {published.url} on "
            f"another machine and put the file into {Path(torch.hub.get_dir()) / 'checkpoints'}"
        ) from error
    return state


def _check_sum(file: Path) -> None:
    """Raises ValueError where a file is not the one whose SHA-256 its name begins to say.

    torch looks when it downloads it, and not when it is there already.
    """
    with file.open("rb") as opened:
        found = hashlib.file_digest(opened, "sha256").hexdigest()
    expected = file.stem.rpartition("-")[2]
    if not found.startswith(expected):
        raise ValueError(f"{file} is damaged: its SHA-256 begins {found[:8]}; delete it")


def _in_file(name: str, file: Path) -> dict[str, Any]:
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(file)
        state = torch.load(file, map_location="cpu", weights_only=True)
        return {str(key): value for key, value in state.items()}
    except Exception as error:
        raise _unreadable(name, str(file), error) from error


def _unreadable(name: str, weights: str, error: Exception) -> CheckpointError:
    reason = " ".join(str(error).split())  # torch writes several lines
    return CheckpointError(f"cannot read weights of {name} from {weights}: {reason}")
