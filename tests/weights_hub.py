"""A folder of published weights that are downloaded already."""

from pathlib import Path

import pytest
import torch
from torchvision.models import get_model_weights


def put_in_hub(
    name: str, state: dict[str, torch.Tensor], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """The file that torchvision will find in ``folder`` as the ImageNet weights of ``name``.

    Made-up weights have another checksum than the name says, which is not looked at.
    """
    monkeypatch.setattr("retrieval.published._check_sum", lambda file: None)
    monkeypatch.setenv("TORCH_HOME", str(folder))
    file = folder / "hub" / "checkpoints" / Path(get_model_weights(name)["DEFAULT"].url).name
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state, file)
    return file
