"""The command that shows what a network is made of."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from retrieval.cli.options import config_options, json_option, print_json
from retrieval.specs import NetworkSpec

if TYPE_CHECKING:
    from torch import nn


@click.command()
@click.argument("name")
@click.option("--size", type=click.IntRange(8, 1024), help="Side of the pictures, in pixels.")
@config_options(NetworkSpec, leave_out=("backbone", "image_size", "mean", "std"))
@click.option("--classes", type=click.IntRange(2), help="Show it as a classifier with its head.")
@click.option("--params", is_flag=True, help="List parameters instead, with shapes and norms.")
@click.option(
    "--layer",
    help="Only what is computed up to this part, such as layer2; with --params: only this part.",
)
@json_option
def summary(
    name: str,
    size: int | None,
    classes: int | None,
    params: bool,
    layer: str | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Show a network layer by layer: output shape, parameters, floating-point operations.

    NAME is a backbone, or the run folder or model file of an embedder, classifier or detector.

    \b
    Examples:
      retrieval summary lenet --size 28 --channels 1 --classes 10
      retrieval summary resnet18 --size 32
      retrieval summary resnet18 --stem stock --size 224 --layer layer2
      retrieval summary runs/kinds --params

    The part that --layer cuts out serves as a feature extractor in Python:
    retrieval.structure.Extractor(network, "layer2").
    """
    values = {key: value for key, value in given.items() if value is not None}
    network, side, channels = _network(name, size, classes, values)
    cut = network if layer is None else _cut(network, layer)
    if params:
        _show_parameters(network.get_submodule(layer or ""), as_json)
    else:
        _show_layers(cut, (channels, side, side), as_json)


def _cut(network: "nn.Module", layer: str) -> "nn.Module":
    from retrieval.structure import Extractor

    return Extractor(network, layer)


def _network(
    name: str, size: int | None, classes: int | None, values: dict[str, Any]
) -> tuple["nn.Module", int, int]:
    """The network called ``name`` or saved there, the side of its pictures and their channels."""
    from retrieval.backbones import NAMES, build_backbone, check_size
    from retrieval.classifier import Classifier
    from retrieval.errors import ConfigError
    from retrieval.network_files import kind_of_model, load_network
    from retrieval.specs import ClassifierSpec

    if name not in NAMES:
        if kind_of_model(Path(name)) is None:
            raise ConfigError(
                f"{name!r} is neither a network ({', '.join(NAMES)}) nor a run or model file of ours"
            )
        if values or classes:
            raise ConfigError(f"{name} is trained already: leave out the options of its form")
        trained = load_network(Path(name))
        return trained, size or trained.spec.image_size, trained.spec.channels
    spec = NetworkSpec(**{"backbone": name, "image_size": size or 32, **values})
    if classes is None:
        network = build_backbone(spec)
        check_size(network, name, spec.image_size)
    else:
        names = tuple(str(number) for number in range(classes))
        network = Classifier(ClassifierSpec(**vars(spec), classes=names))
    return network, spec.image_size, spec.channels


def _show_layers(network: "nn.Module", shape: tuple[int, int, int], as_json: bool) -> None:
    import dataclasses

    from retrieval.structure import layers_of

    layers = layers_of(network, shape)
    total, flops = sum(f.parameters for f in layers), sum(f.flops for f in layers)
    if as_json:
        facts = [dataclasses.asdict(f) for f in layers]
        print_json({"layers": facts, "parameters": total, "flops": flops})
        return
    width = max([5, *(len(f.name) for f in layers)])
    click.echo(f"{'layer':<{width}} {'kind':<18} {'output':>14} {'parameters':>12} {'FLOPs':>16}")
    for f in layers:
        output = "×".join(map(str, f.output))
        row = f"{f.name:<{width}} {f.kind:<18} {output:>14} {f.parameters:>12,} {f.flops:>16,}"
        click.echo(row)
    click.echo(f"{'in all':<{width}} {'':<18} {'':>14} {total:>12,} {flops:>16,}")


def _show_parameters(network: "nn.Module", as_json: bool) -> None:
    import dataclasses

    from retrieval.structure import parameters_of

    found = parameters_of(network)
    if as_json:
        print_json([dataclasses.asdict(f) for f in found])
        return
    width = max([9, *(len(f.name) for f in found)])
    click.echo(
        f"{'parameter':<{width}} {'shape':>18} {'L2 norm':>10} {'mean':>10} {'deviation':>10}"
    )
    for f in found:
        shape = "×".join(map(str, f.shape))
        fixed = "" if f.learns else "  fixed"
        click.echo(
            f"{f.name:<{width}} {shape:>18} {f.norm:>10.4f} {f.mean:>10.4f} {f.deviation:>10.4f}{fixed}"
        )
