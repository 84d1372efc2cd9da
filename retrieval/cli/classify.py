"""Commands that train a classifier and ask it."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from retrieval.cli.answers import one_line
from retrieval.cli.options import config_options, device_option, json_option, print_json, say
from retrieval.cli.runs import (
    MEASURED,
    begin,
    configuration,
    data_dir_option,
    dry_run_option,
    overwrite_option,
    preset_option,
    resume_option,
    silent,
    suited,
    try_out,
)
from retrieval.config import AugmentConfig, ClassLossConfig, FitConfig
from retrieval.presets import CLASSIFY_SETTINGS
from retrieval.run_config import TrainClassifyConfig
from retrieval.specs import ClassifierSpec

if TYPE_CHECKING:
    from retrieval.train_classify import ClassifierRun

views_option = click.option(
    "--tta",
    "views",
    type=click.Choice(["none", "flip", "crops"]),
    default="none",
    show_default=True,
    help="Average over views: the mirror image too, or five crops and their mirror images.",
)


@click.command("train-classify")
@preset_option
@config_options(
    TrainClassifyConfig,
    ClassifierSpec,
    ClassLossConfig,
    FitConfig,
    AugmentConfig,
    leave_out=MEASURED,
)
@click.option(
    "--out", type=click.Path(path_type=Path), help="Run folder.  [default: runs/classify-DATASET]"
)
@data_dir_option
@resume_option
@overwrite_option
@dry_run_option
@device_option
@json_option
def train_classify(
    preset: str | None,
    out: Path | None,
    data_dir: Path | None,
    resume: bool,
    overwrite: bool,
    dry_run: bool,
    device: str,
    as_json: bool,
    **given: Any,
) -> None:
    """Learn to tell classes of pictures apart.

    \b
    Examples:
      retrieval train-classify                                 CIFAR-10, downloaded
      retrieval train-classify --dataset flowers/ --backbone resnet18 --out runs/kinds
      retrieval train-classify --dataset clothes/ --backbone lenet --batch-norm --channels 1
      retrieval train-classify --dataset flowers/ --from runs/embed-flowers --freeze stages.0
      retrieval train-classify --dataset flowers/ --folds 5
      retrieval train-classify --dataset flowers/ --dry-run    how long would it take?
      retrieval train-classify --dataset flowers/ --out runs/kinds --resume

    The folder flowers/ holds one folder of pictures for each class, or train/ and test/ folders
    that do. The best classifier is kept in RUN/model.safetensors, progress in RUN/metrics.jsonl and
    RUN/curves.png. Ctrl-C stops after the step; --resume goes on as if nothing had happened.
    """
    from retrieval.train_classify import run_at

    values = {name: value for name, value in given.items() if value is not None}
    dataset = values.get("dataset", TrainClassifyConfig().dataset)
    run = run_at(out or Path("runs") / f"classify-{Path(dataset).name or 'pictures'}")
    suiting = suited(TrainClassifyConfig(), preset, values, CLASSIFY_SETTINGS)
    keeps_nothing = dry_run and not resume
    config, size = configuration(run, values, suiting, resume, overwrite or keeps_nothing, preset)
    into = "to keep nothing" if dry_run else f"into {run.folder}"
    data, chosen, tell = begin(config, device, data_dir, size, into)
    config = config.with_values({"image_size": data.images.shape[1]})
    if dry_run:
        from retrieval.train_classify import classifying_task

        state = run.load_state() if resume else None
        try_out(config, classifying_task, data, chosen, as_json, state)
        return
    result = _train(config, data, run, chosen, resume, quiet=tell is silent)
    if result is None:
        tell(f"Stopped. Continue with: retrieval train-classify --out {run.folder} --resume")
        raise SystemExit(130)
    if tell is not silent:
        _print_result(run, result, as_json)


def _train(
    config: TrainClassifyConfig,
    data: Any,
    run: "ClassifierRun",
    device: Any,
    resume: bool,
    *,
    quiet: bool,
) -> dict[str, Any] | None:
    """What is to be printed, or None where Ctrl-C stopped training."""
    from retrieval.progress import Progress
    from retrieval.train_classify import Listener, cross_validate, train_classify

    def work(listener: Listener) -> dict[str, Any] | None:
        options: Any = {"device": device, "resume": resume, "listener": listener}
        if config.folds:
            return cross_validate(config, data, run, **options)
        return _best(run) if train_classify(config, data, run, **options) else None

    if quiet:
        return work(Listener())
    with Progress("Training", None, "steps") as progress:
        return work(
            Listener(
                on_step=progress.set_of,
                on_epoch=lambda record: progress.note(epoch_line(record, config)),
                on_fold=lambda number: progress.note(f"fold {number + 1} of {config.folds}"),
            )
        )


def _best(run: "ClassifierRun") -> dict[str, Any]:
    best = run.best("accuracy")
    return {"epochs": len(run.history()), "accuracy": None if best is None else best["accuracy"]}


def _print_result(run: "ClassifierRun", result: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json({"run": str(run.folder), **result})
    elif "mean" in result:
        click.echo(
            f"{run.folder}: accuracy {result['mean']:.3f} ± {result['deviation']:.3f} over "
            f"{len(result['accuracies'])} folds"
        )
    else:
        found = result["accuracy"]
        told = "nothing was held out"
        if found is not None:
            told = f"accuracy {found:.3f} on held-out pictures"
        click.echo(f"{run.folder}: {told}")
        say(f"Next: retrieval classify photo.png --model {run.folder}")


def epoch_line(record: dict[str, float], config: TrainClassifyConfig) -> str:
    """One line on an epoch."""
    parts = [f"epoch {record['epoch']:.0f}/{config.fit.epochs}", f"loss {record['loss']:.3f}"]
    parts.append(f"accuracy {record['training_accuracy']:.3f}")
    if "accuracy" in record:
        parts.append(f"{record['accuracy']:.3f} (held out)")
    parts.append(f"{record['seconds']:.0f} s")
    return "  ".join(parts)


@click.command()
@click.argument("photos", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--model",
    "models",
    multiple=True,
    required=True,
    type=click.Path(path_type=Path),
    help="A run folder of train-classify; several are asked together, their answers averaged.",
)
@click.option("--top", default=5, show_default=True, type=click.IntRange(1))
@views_option
@device_option
@json_option
def classify(
    photos: tuple[Path, ...],
    models: tuple[Path, ...],
    top: int,
    views: str,
    device: str,
    as_json: bool,
) -> None:
    """Say what is on photos: the most probable classes.

    \b
    Examples:
      retrieval classify photo.png --model runs/kinds
      retrieval classify *.jpg --model runs/kinds --top 3 --json
      retrieval classify photo.png --model runs/a --model runs/b --tta flip

    Photos that cannot be read are named on stderr, and the exit status is then 1.
    """
    from retrieval.device import choose_device
    from retrieval.labelling import Labeller

    labeller = Labeller.open(models, views=views, device=choose_device(device))
    answers, unreadable = labeller.classify_files(photos, top)
    if as_json:
        print_json([answer.to_dict() for answer in answers])
    for answer in [] if as_json else answers:
        click.echo(one_line(answer.photo))
        for name, probability in answer.classes:
            click.echo(f"  {probability:7.2%}  {one_line(name)}")
    for photo, reason in unreadable:
        say(f"{photo}: {reason}")
    if unreadable:
        raise SystemExit(1)
