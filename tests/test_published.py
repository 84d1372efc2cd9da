"""Published weights in files: read, and refused."""

import hashlib
import re
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision import models
from weights_hub import put_in_hub

from retrieval import published
from retrieval.backbones import build_backbone
from retrieval.errors import CheckpointError, ConfigError
from retrieval.specs import NetworkSpec


def backbone_called(name: str, weights: str | None = None, **options: object) -> nn.Module:
    return build_backbone(NetworkSpec(backbone=name, **options), weights)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_are_read_from_a_file(tmp_path: Path, suffix: str) -> None:
    torch.manual_seed(0)
    theirs = models.resnet18()
    file = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save(theirs.state_dict(), file)
    else:
        save_file(theirs.state_dict(), file)
    ours = backbone_called("resnet18", stem="stock", weights=str(file)).eval()
    images = torch.randn(1, 3, 64, 64)
    expected = nn.Sequential(*list(theirs.eval().children())[:-2])(images)
    torch.testing.assert_close(ours(images), expected)


def test_names_of_old_files_are_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The published files of DenseNets say norm.1 where the module is norm1."""
    torch.manual_seed(0)
    theirs = models.densenet121().eval()
    old = re.compile(r"(denselayer\d+\.(?:norm|conv))([12])\.")
    state = {old.sub(r"\1.\2.", key): value for key, value in theirs.state_dict().items()}
    assert "features.denseblock1.denselayer1.norm.1.weight" in state
    put_in_hub("densenet121", state, tmp_path, monkeypatch)
    ours = backbone_called("densenet121", stem="stock", weights="imagenet").eval()
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(ours(images), theirs.features(images).relu())


def test_damage_to_what_was_downloaded_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch compares checksums only while it downloads."""
    check = published._check_sum
    weights = models.alexnet().features.state_dict(prefix="features.")
    file = put_in_hub("alexnet", weights, tmp_path, monkeypatch)
    monkeypatch.setattr("retrieval.published._check_sum", check)
    with pytest.raises(CheckpointError, match=r"alexnet-owt-7be5be79.pth is damaged.*delete it"):
        backbone_called("alexnet", stem="stock", weights="imagenet")
    named = file.with_name(f"any-{hashlib.sha256(file.read_bytes()).hexdigest()[:8]}.pth")
    check(file.rename(named))


def test_downloads_run_no_code_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = put_in_hub("alexnet", {}, tmp_path, monkeypatch)
    file.write_bytes(_evil_pickle(tmp_path / "pwned"))
    with pytest.raises(CheckpointError, match=r"cannot be had.*put the file into .*checkpoints"):
        backbone_called("alexnet", stem="stock", weights="imagenet")
    assert not (tmp_path / "pwned").exists()


def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--stem stock"):
        backbone_called("resnet18", weights="imagenet")
    with pytest.raises(ConfigError, match="no published weights"):
        backbone_called("fast-resnet", weights="imagenet")
    for name in ("resnet18", "fast-resnet"):
        with pytest.raises(CheckpointError, match=r"there is no model at .*missing\.pth"):
            backbone_called(name, stem="stock", weights=str(tmp_path / "missing.pth"))
    torch.save(
        {"conv1.weight": torch.zeros(64, 3, 7, 7), "odd": torch.zeros(1)}, tmp_path / "w.pth"
    )
    with pytest.raises(CheckpointError, match=r"are missing.*1 are unknown"):
        backbone_called("resnet18", stem="stock", weights=str(tmp_path / "w.pth"))
    torch.save({"conv1.weight": torch.zeros(64, 3, 7, 7)}, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=r"first: bn1.*0 are unknown"):
        backbone_called("resnet18", stem="stock", weights=str(tmp_path / "w.pth"))
    torch.save(models.resnet18().state_dict(), tmp_path / "w18.pth")
    with pytest.raises(CheckpointError, match="does not hold weights of resnet50: 165 are missing"):
        backbone_called("resnet50", stem="stock", weights=str(tmp_path / "w18.pth"))
    torch.save(models.resnet18().state_dict() | {"bn1.bias": torch.zeros(3)},
               tmp_path / "shape.pth")  # fmt: skip
    with pytest.raises(CheckpointError, match="cannot read weights of resnet18") as caught:
        backbone_called("resnet18", stem="stock", weights=str(tmp_path / "shape.pth"))
    assert "\n" not in str(caught.value)
    for data in (b"", b"text", [1, 2]):
        (tmp_path / "w.safetensors").write_bytes(bytes(data))
        torch.save(data, tmp_path / "w.pth")
        for name in ("w.pth", "w.safetensors"):
            with pytest.raises(CheckpointError, match=name):
                backbone_called("resnet18", stem="stock", weights=str(tmp_path / name))
    marker = tmp_path / "pwned"
    (tmp_path / "evil.pth").write_bytes(_evil_pickle(marker))
    with pytest.raises(CheckpointError):
        backbone_called("resnet18", stem="stock", weights=str(tmp_path / "evil.pth"))
    assert not marker.exists()


def _evil_pickle(marker: Path) -> bytes:
    import pickle

    class Evil:
        def __reduce__(self):
            return subprocess.call, (["touch", str(marker)],)

    return pickle.dumps(Evil())
