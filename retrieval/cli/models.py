"""The command that lists what a gallery can be built with, and training started from."""

from pathlib import Path
from typing import Any

import click

from retrieval.cli.options import json_option, print_json


@click.command("models")
@click.argument("model", required=False)
@json_option
def models(model: str | None, as_json: bool) -> None:
    """List the models there are, or show what is known of one: a name, a run, or a file.

    \b
    Examples:
      retrieval models
      retrieval models cifar10
      retrieval models resnet50
      retrieval models runs/flowers --json
    """
    if model is not None:
        _show(model, as_json)
        return
    from retrieval.models import DEFAULT

    boxed, published = _in_the_box(), _published()
    if as_json:
        print_json({"in the box": boxed, "published weights": published})
        return
    click.echo("In the box (--model NAME):")
    for entry in boxed:
        click.echo(
            f"  {entry['name']:<18} {entry['backbone']}, {entry['dim']} numbers for pictures of "
            f"{entry['image_size']} pixels, {entry['mebibytes']:.1f} MiB"
            + (", the default" if entry["name"] == DEFAULT else "")
        )
    click.echo(
        "\nPublished by torchvision, downloaded when first used (--model NAME; to learn on from one: "
        "train-embed --backbone NAME --stem stock --weights imagenet):"
    )
    for entry in published:
        click.echo(
            f"  {entry['name']:<18} {entry['parameters'] / 1e6:.0f} million parameters, "
            f"{entry['mebibytes']:.0f} MiB, ImageNet accuracy {entry['accuracy']:.1f} %"
        )
    click.echo("\nYour own: any run folder or model file, as in --model runs/flowers")


def _in_the_box() -> list[dict[str, Any]]:
    from retrieval.models import model_in_the_box, names

    files = {name: model_in_the_box(name) for name in names()}
    return [{"name": name, **_facts(file)} for name, file in files.items() if file is not None]


def _facts(file: Path) -> dict[str, Any]:
    from retrieval.network_files import embedder_id, network_spec
    from retrieval.specs import ClassifierSpec, DetectorSpec, EmbedderSpec

    spec = network_spec(file)
    width = f", width {spec.width}" if spec.backbone == "fast-resnet" else ""
    facts: dict[str, Any] = {"backbone": spec.backbone + width}
    if isinstance(spec, EmbedderSpec):
        facts |= {"dim": spec.embedding_dim, "distance": spec.distance}
        facts["embedder_id"] = embedder_id(file)
    if isinstance(spec, DetectorSpec):
        facts = {"detector": spec.model, **facts}
    if isinstance(spec, ClassifierSpec | DetectorSpec):
        facts["classes"] = ", ".join(spec.classes)
    return {
        **facts,
        "image_size": spec.image_size,
        "mebibytes": round(file.stat().st_size / 2**20, 2),
        "file": str(file),
    }


def _published() -> list[dict[str, Any]]:
    from torchvision.models import get_model_weights

    from retrieval.backbones import PUBLISHED

    entries = []
    for name in PUBLISHED:
        weights = get_model_weights(name.replace("-", "_"))["DEFAULT"]
        meta = weights.meta
        entries.append(
            {
                "name": name,
                "parameters": meta["num_params"],
                "mebibytes": round(meta["_file_size"], 1),
                "accuracy": meta["_metrics"]["ImageNet-1K"]["acc@1"],
                "url": weights.url,
            }
        )
    return entries


def _show(model: str, as_json: bool) -> None:
    from retrieval.models import card, names
    from retrieval.network_files import is_published, model_file

    if is_published(Path(model)):  # nothing is downloaded to tell of it
        (facts,) = (entry for entry in _published() if entry["name"] == model)
    else:
        facts = _facts(model_file(Path(model)))
    if as_json:
        print_json(facts)
        return
    if model in names():
        click.echo(card(model))
    for name, value in facts.items():
        click.echo(f"{name:<12} {value}")
