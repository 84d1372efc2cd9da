"""What commands that train share: the run folder, its configuration, and the pictures."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from retrieval.cli.options import print_json, say
from retrieval.presets import DATASET_SETTINGS, IN_PIXELS, PRESETS, fine_tuning_share
from retrieval.run_config import TrainConfig

if TYPE_CHECKING:
    from retrieval.checkpoint import Run
    from retrieval.labeled_images import LabeledImages
    from retrieval.run_config import TrainClassifyConfig, TrainEmbedConfig
    from retrieval.training import Task
    from retrieval.trial import Trial

Command = Callable[..., Any]
T = TypeVar("T", bound=TrainConfig)
MEASURED = ("mean", "std")
"""Settings of a network that are taken from its pictures, or its weights, whatever was said."""

preset_option = click.option(
    "--preset",
    type=click.Choice(sorted(PRESETS)),
    help="A set of choices: fast and default learn small pictures, such as CIFAR-10's, from nothing; "
    "best goes on from efficientnet-lite0, the model in the box, for hours on a processor. Options "
    "that are given take precedence.  [default: default]",
)
data_dir_option = click.option(
    "--data-dir",
    type=click.Path(path_type=Path),
    envvar="RETRIEVAL_DATA",
    help="Where data sets are downloaded to, and decoded pictures are kept.",
)
resume_option = click.option("--resume", is_flag=True, help="Continue an interrupted run, exactly.")
dry_run_option = click.option(
    "--dry-run", is_flag=True, help="Train three batches, print sizes and times, keep nothing."
)
overwrite_option = click.option(
    "--overwrite", is_flag=True, help="Replace a run that is there already."
)


def suited(
    config: TrainConfig,
    preset: str | None,
    values: Mapping[str, Any],
    backbone_settings: Mapping[str, dict[str, Any]],
) -> dict[str, Any]:
    """What suits the preset, the backbone and the data set that ``values`` name, if they do.

    Raises ConfigError where ``values`` name another network than the preset.
    """
    dataset = DATASET_SETTINGS.get(values.get("dataset", config.dataset), {})
    chosen = _chosen(preset or "default", values)
    weights = values.get("weights", chosen.get("weights"))
    going_on = continued({**values, "weights": weights})
    backbone = values.get("backbone", going_on.get("backbone", config.network.backbone))
    own = backbone_settings.get(backbone, {})
    if "weights" in chosen:  # made for the network that it names, and for any pictures
        suiting = {**dataset, **own, **chosen}
    elif backbone == "fast-resnet":
        suiting = {**own, **chosen, **dataset}
    else:  # the other presets are made for fast-resnet, by whose step no other would learn
        suiting = {**chosen, **own, **dataset}
    if weights is not None:
        suiting["lr"] = fine_tuning_share(backbone) * suiting.get("lr", config.fit.lr)
    return suiting


def _chosen(preset: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a preset, those in pixels for the size of pictures that ``values`` name."""
    from retrieval.errors import ConfigError

    chosen = dict(PRESETS[preset])
    if "weights" not in chosen:
        return chosen
    named = next((n for n in ("weights", "backbone") if n in values), None)
    if named and values[named] != chosen["weights"]:
        raise ConfigError(
            f"--preset {preset} goes on from {chosen['weights']}, and --{named} is {values[named]}; "
            "leave out one of them"
        )
    made_for = chosen["image_size"]
    chosen["image_size"] = values.get("image_size", made_for)
    for name in IN_PIXELS:
        chosen[name] = round(chosen[name] * chosen["image_size"] / made_for)
    return chosen


def continued(values: Mapping[str, Any]) -> dict[str, Any]:
    """What the network is where ``values`` name a model of ours to go on from, else nothing.

    Raises ConfigError where ``values`` ask for another network beside it.
    """
    import dataclasses

    from retrieval.errors import ConfigError
    from retrieval.initial_network import CONTINUED
    from retrieval.network_files import kind_of_model, network_spec

    weights = values.get("weights")
    if weights is None or kind_of_model(Path(weights)) is None:
        return {}
    spec = dataclasses.asdict(network_spec(Path(weights)))
    for name in sorted(CONTINUED & set(values)):
        if values[name] != spec[name]:
            raise ConfigError(
                f"{weights} was trained with --{name.replace('_', '-')} {spec[name]}, which "
                f"stays what it is, and {values[name]} was given; leave it out, or do not go on from "
                f"{weights}"
            )
    return {name: spec[name] for name in CONTINUED}


def configuration(
    run: "Run[T]",
    values: dict[str, Any],
    suiting: Mapping[str, Any],
    resume: bool,
    overwrite: bool,
    preset: str | None = None,
) -> tuple[T, int | None]:
    """The configuration of the run, and the side of its pictures where one was chosen.

    The ``values`` given take precedence over those ``suiting``. Raises ConfigError where a run that is
    resumed is given others, or a preset, and where there is a run that is neither resumed nor replaced.
    """
    from retrieval.errors import ConfigError

    if resume:
        config = run.config()
        if preset or config.with_values(values) != config:
            named = [*(["preset"] if preset else []), *values]
            raise ConfigError(
                f"--resume continues {run.folder} with the options that it was started with; leave "
                f"out {', '.join('--' + name.replace('_', '-') for name in named)}"
            )
        return config, config.network.image_size
    if run.exists and not overwrite:
        raise ConfigError(
            f"{run.folder} holds a run already; give --resume to continue it, --overwrite to "
            "replace it, or another --out"
        )
    network = continued({**values, "weights": values.get("weights", suiting.get("weights"))})
    config = run.kind().with_values({**suiting, **network, **values})
    # Presets set a width whatever the network is; a person who gives it means something by it.
    if "width" in values and config.network.backbone != "fast-resnet":
        raise ConfigError(
            "--width goes with --backbone fast-resnet alone; the others take --width-factor"
        )
    size = size_of_weights(config.weights, config.network.backbone)
    if "image_size" in suiting or "image_size" in values:
        return config, config.network.image_size
    return config, size


def size_of_weights(weights: str | None, backbone: str) -> int | None:
    """The side of the pictures that these weights were trained with.

    Raises CheckpointError where they are neither published, nor a model of ours, nor a file.
    """
    from retrieval.network_files import kind_of_model, network_spec
    from retrieval.published import published_size

    if weights is None:
        return None
    path = Path(weights)
    # A folder, and what does not exist, can be nothing but a model of ours.
    ours = path.is_dir() or not path.exists() or kind_of_model(path) is not None
    if weights != "imagenet" and ours:
        return network_spec(path).image_size
    return published_size(backbone)


def read_data(
    config: TrainConfig, data_dir: Path | None, size: int | None, tell: Callable[[str], None]
) -> "LabeledImages":
    from retrieval.datasets import load_dataset
    from retrieval.progress import Progress

    with Progress("Reading", None, "pictures") as progress:
        data = load_dataset(
            config.dataset, data_dir=data_dir, image_size=size, on_picture=progress.set_of
        )
    tell(
        f"{data.name}: {len(data):,} pictures of {data.images.shape[1]} pixels, "
        f"{len(data.classes)} classes"
    )
    tell_remarks(data, tell)
    return data


def tell_remarks(data: "LabeledImages", tell: Callable[[str], None] = say) -> None:
    """Say which pictures of a data set could not be taken, and what else is odd about it."""
    for note in data.notes:
        tell(note)
    if data.left_out:
        path, reason = data.left_out[0]
        tell(
            f"{len(data.left_out):,} pictures of {data.name} were left out, the first: {path}: {reason}"
        )


def silent(text: str) -> None:
    """What processes other than the first have to say."""


def begin(
    config: TrainConfig,
    device: str,
    data_dir: Path | None,
    size: int | None,
    into: str,
) -> tuple["LabeledImages", Any, Callable[[str], None]]:
    """The pictures, the device, and how this process speaks, where several train together."""
    from retrieval.device import choose_device, describe
    from retrieval.processes import Processes

    chosen = choose_device(device)
    processes = Processes.join(chosen)
    tell = say if processes.first else silent
    tell(f"Training on {describe(chosen, config.fit.precision)} {into}")
    if not processes.first:
        processes.wait()  # the first one decodes, the others take what it kept
    data = read_data(config, data_dir, size, tell)
    if processes.first:
        processes.wait()
    return data, chosen, tell


def print_trial(trial: "Trial | None", as_json: bool) -> None:
    """Sizes and times of a run; of several processes one knows them."""
    import dataclasses

    if trial is None:
        return
    if as_json:
        print_json(dataclasses.asdict(trial))
        return
    for name, text in trial.lines():
        click.echo(f"{name:<22} {text}")


def try_out(
    config: "TrainEmbedConfig | TrainClassifyConfig",
    make_task: "Callable[..., Task]",
    data: "LabeledImages",
    device: Any,
    as_json: bool,
    state: dict[str, Any] | None,
) -> None:
    """Print what training would cost, going on from ``state`` if there is one: two batches measured."""
    from retrieval.batches import small_epochs
    from retrieval.processes import Processes
    from retrieval.trial import try_training

    folds = getattr(config, "folds", 0)
    if folds:
        fitting, held_out = data.fold(0, folds, config.fit.seed)
    else:
        fitting, held_out = data.holdout(config.validation, config.fit.seed)
    processes = Processes.join(device)
    task = make_task(config, fitting, held_out, device, processes=processes, state=state)
    rows = len(task.batches(0, 0)[1])
    trial = try_training(
        task, config, len(fitting), rows, small_epochs=small_epochs(config), runs=folds or 1
    )
    print_trial(trial, as_json)
