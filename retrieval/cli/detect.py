"""Commands that train a detector and ask it."""

import functools
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from retrieval.cli.answers import one_line
from retrieval.cli.options import (
    NEW_FILE,
    FiniteRange,
    config_options,
    device_option,
    json_option,
    print_json,
    say,
)
from retrieval.cli.runs import (
    MEASURED,
    configuration,
    dry_run_option,
    overwrite_option,
    print_trial,
    resume_option,
)
from retrieval.config import BoxAugmentConfig
from retrieval.errors import DataError
from retrieval.presets import DETECT_SETTINGS
from retrieval.run_config import TrainDetectConfig
from retrieval.specs import DetectorSpec

if TYPE_CHECKING:
    from retrieval.detection.boxed_pictures import BoxedPictures
    from retrieval.train_detect import DetectorRun


TUNING_LR = 5e-4
"""The learning rate of weights that have learnt already: steps of AdamW that are too long undo them."""
LONGEST_NAME = 255
"""Bytes that the name of a file may have."""


@click.command("train-detect")
@config_options(
    TrainDetectConfig, DetectorSpec, TrainDetectConfig().fit, BoxAugmentConfig, leave_out=MEASURED
)
@click.option(
    "--out", type=click.Path(path_type=Path), help="Run folder.  [default: runs/detect-DATASET]"
)
@resume_option
@overwrite_option
@dry_run_option
@device_option
@json_option
def train_detect(
    out: Path | None,
    resume: bool,
    overwrite: bool,
    dry_run: bool,
    device: str,
    as_json: bool,
    **given: Any,
) -> None:
    """Learn to find objects in pictures.

    \b
    Examples:
      retrieval train-detect                                   made-up scenes, no data needed
      retrieval train-detect --dataset scenes:flowers/         pictures of flowers, pasted
      retrieval train-detect --dataset raccoon/ --model ssd --out runs/raccoon
      retrieval train-detect --dataset coco.json --model faster-rcnn --backbone resnet50 \\
          --weights imagenet --pyramid
      retrieval train-detect --dataset raccoon/ --model yolo --dry-run      how long would it take?
      retrieval train-detect --dataset raccoon/ --from runs/detect-scenes
      retrieval train-detect --dataset raccoon/ --out runs/raccoon --resume

    Pictures with boxes are a COCO JSON file, a CSV file, a data.yaml of YOLO, or a folder with one of
    these or with Pascal VOC files. The best detector is kept in RUN/model.safetensors, progress in
    RUN/metrics.jsonl and RUN/curves.png. Ctrl-C stops after the step; --resume goes on as if nothing
    had happened.

    --from takes the backbone of an embedder or a classifier, and of a detector its form and all
    weights that fit. --lr is then 0.0005, as with --weights, unless it is given.
    """
    from retrieval.device import choose_device, describe
    from retrieval.train_detect import run_at

    values = {name: value for name, value in given.items() if value is not None}
    dataset = values.get("dataset", TrainDetectConfig().dataset)
    name = Path(dataset.replace(":", "-")).stem or "pictures"
    run = run_at(out or Path("runs") / f"detect-{name}")
    overwrite = overwrite or (dry_run and not resume)  # which it does not do
    config, _ = configuration(run, values, _suited(values), resume, overwrite)
    chosen = choose_device(device)
    into = "to keep nothing" if dry_run else f"into {run.folder}"
    say(f"Training on {describe(chosen, config.fit.precision)} {into}")
    data = read_boxed(config.dataset, "train")
    if dry_run:
        _dry_run(config, data, chosen, as_json, run.load_state() if resume else None)
        return
    if not _train(config, data, run, chosen, resume):
        say(f"Stopped. Continue with: retrieval train-detect --out {run.folder} --resume")
        raise SystemExit(130)
    _print_result(run, as_json)


def _suited(values: dict[str, Any]) -> dict[str, Any]:
    """What suits the model: that which is named, that of the detector to go on from, or the default."""
    import dataclasses

    from retrieval.network_files import kind_of_model, network_spec
    from retrieval.specs import NetworkSpec

    taken: dict[str, Any] = {}
    weights = Path(values.get("weights", ""))
    if "weights" in values and kind_of_model(weights) == "detector":
        names = {f.name for f in dataclasses.fields(DetectorSpec)}
        names -= {f.name for f in dataclasses.fields(NetworkSpec)} - {"image_size"} | {"classes"}
        spec = network_spec(weights)
        taken = {name: getattr(spec, name) for name in sorted(names)}
    model = values.get("model", taken.get("model", DetectorSpec().model))
    # Of another model nothing is taken but the backbone, and the size that it is used to.
    taken = {name: taken[name] for name in taken if model == taken["model"] or name == "image_size"}
    tuned = {"lr": TUNING_LR} if "weights" in values else {}
    return {**DETECT_SETTINGS[model], **tuned, **taken}


def read_boxed(dataset: str, split: Any) -> "BoxedPictures":
    """Pictures with boxes, of which people are told."""
    from retrieval.detection.boxed_datasets import load_boxed_pictures

    data = load_boxed_pictures(dataset, split=split)
    objects = sum(len(each) for each in data.objects)
    say(
        f"{data.name}: {len(data):,} pictures with {objects:,} objects of {len(data.classes)} classes"
    )
    if data.left_out:
        path, reason = data.left_out[0]
        say(
            f"{len(data.left_out):,} pictures or objects were left out, the first: {path}: {reason}"
        )
    return data


def _train(
    config: TrainDetectConfig, data: "BoxedPictures", run: "DetectorRun", device: Any, resume: bool
) -> bool:
    from retrieval.progress import COMPLETING, Progress, Stages
    from retrieval.train_detect import Listener, train_detect

    with Progress("Training", None, "steps") as progress, Stages() as stages:
        listener = Listener(
            on_step=progress.set_of,
            on_epoch=lambda record: progress.note(epoch_line(record, config)),
            on_notice=progress.note,
            on_completed=functools.partial(stages, COMPLETING),
        )
        return train_detect(config, data, run, device=device, resume=resume, listener=listener)


def _dry_run(
    config: TrainDetectConfig,
    data: "BoxedPictures",
    device: Any,
    as_json: bool,
    state: dict[str, Any] | None,
) -> None:
    from retrieval.train_detect import detecting_task
    from retrieval.trial import try_training

    fitting, held_out = data.holdout(config.validation, config.fit.seed)
    task = detecting_task(config, fitting, held_out, device, state=state)
    batch = min(config.batch_size, len(fitting))
    print_trial(try_training(task, config, len(fitting), batch), as_json)


def epoch_line(record: dict[str, float], config: TrainDetectConfig) -> str:
    """One line on an epoch."""
    terms = {n.removeprefix("loss/"): v for n, v in record.items() if n.startswith("loss/")}
    shown = " + ".join(f"{name} {value:.3f}" for name, value in terms.items())
    parts = [f"epoch {record['epoch']:.0f}/{config.fit.epochs}", shown]
    if "map_50" in record:
        parts.append(f"mAP@0.5 {record['map_50']:.3f}  mAP {record['map']:.3f} (held out)")
    parts.append(f"{record['seconds']:.0f} s")
    return "  ".join(parts)


def _print_result(run: "DetectorRun", as_json: bool) -> None:
    best = run.best("map_50")
    if as_json:
        figures = {name: None if best is None else best[name] for name in ("map_50", "map")}
        print_json({"run": str(run.folder), "epochs": len(run.history()), **figures})
        return
    told = "nothing was held out, or it shows no object"
    if best is not None:
        told = f"mAP@0.5 {best['map_50']:.3f}, mAP@[.5:.95] {best['map']:.3f} on held-out pictures"
    click.echo(f"{run.folder}: {told}")
    say(f"Next: retrieval detect photo.jpg --model {run.folder}")


@click.command()
@click.argument("photos", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--model",
    required=True,
    type=click.Path(path_type=Path),
    help="A run folder of train-detect, or a model file.",
)
@click.option(
    "--score",
    default=0.5,
    show_default=True,
    type=FiniteRange(0, 1),
    help="Leave out objects less sure than this.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("detected"),
    show_default=True,
    help="Folder for the pictures with boxes drawn, each a PNG.",
)
@click.option("--draw/--no-draw", default=True, help="Whether to draw them.  [default: on]")
@click.option(
    "--coco",
    type=NEW_FILE,
    help="Write what was found to this file too, as COCO JSON with scores.",
)
@device_option
@json_option
def detect(
    photos: tuple[Path, ...],
    model: Path,
    score: float,
    out: Path,
    draw: bool,
    coco: Path | None,
    device: str,
    as_json: bool,
) -> None:
    """Find the objects in photos: a table, and each photo with boxes drawn.

    \b
    Examples:
      retrieval detect photo.jpg --model runs/detect-scenes
      retrieval detect photos/ --model runs/raccoon --score 0.3 --out boxes/
      retrieval detect *.jpg --model runs/raccoon --no-draw --json
      retrieval detect photos/ --model runs/raccoon --no-draw --coco found.json

    A box is left, top, right, bottom in pixels of the photo, held upright. Photos that cannot be read
    are named on stderr, and the exit status is then 1.
    """
    from retrieval.detection.coco_detections import CocoDetections
    from retrieval.device import choose_device
    from retrieval.drawing import draw_objects
    from retrieval.object_finder import ObjectFinder
    from retrieval.outputs import check_outside_galleries
    from retrieval.picture_files import find_images
    from retrieval.progress import Progress
    from retrieval.report import write_picture

    finder = ObjectFinder.open(model, score=score, device=choose_device(device))
    files = find_images(photos)
    if not files:
        raise DataError(f"there are no pictures in {', '.join(map(str, photos))}")
    if draw:
        check_outside_galleries(out, "--out")
    drawn = dict(zip(files, _places(files, out), strict=True))
    export = CocoDetections(finder.classes)
    answers: list[dict[str, Any]] = []
    unreadable: list[str] = []
    with Progress("Looking", len(files), "photos") as progress:
        for finding in finder.find(files, lambda p, why: unreadable.append(f"{p}: {why}")):
            answer = finding.to_dict()
            if draw:
                place = drawn[finding.photo]
                place.parent.mkdir(parents=True, exist_ok=True)
                write_picture(draw_objects(finding.picture, finding.objects, finder.classes), place)
                answer["drawn"] = str(place)
            if coco is not None:
                # Where data sets look: from the folder of the JSON file on.
                name = os.path.relpath(finding.photo, coco.parent)
                export.add(name, finding.picture.shape[:2], finding.objects)
            answers.append(answer)
            if not as_json:
                _print_answer(answer)
            progress.set(len(answers) + len(unreadable))
    if as_json:
        print_json(answers)
    if coco is not None:
        export.write(coco)
    for line in unreadable:
        say(line)
    if unreadable:
        raise SystemExit(1)


def _places(files: list[Path], folder: Path) -> list[Path]:
    """Where each file's picture goes: a PNG of its name, with a number where the name is taken.

    Taken, too, is what is one of the photos themselves, or another photo.
    """
    from retrieval.outputs import is_photo

    taken = {str(file.resolve()).lower() for file in files}
    places = []
    for file in files:
        place, number = folder / _name(file.stem, ".png"), 1
        while str(place.resolve()).lower() in taken or is_photo(place):
            number += 1
            place = folder / _name(file.stem, f"-{number}.png")
        taken.add(str(place.resolve()).lower())
        places.append(place)
    return places


def _name(stem: str, ending: str) -> str:
    """Both, of ``stem`` only as many letters as the name of a file has room for."""
    while len(os.fsencode(stem + ending)) > LONGEST_NAME:
        stem = stem[:-1]
    return stem + ending


def _print_answer(answer: dict[str, Any]) -> None:
    """The photo, and a line for each of its objects."""
    drawn = f"  →  {one_line(answer['drawn'])}" if "drawn" in answer else ""
    click.echo(one_line(answer["photo"]) + drawn)
    if not answer["objects"]:
        click.echo("  nothing")
        return
    width = max(5, *(len(each["class"]) for each in answer["objects"]))
    sides = "  ".join(f"{name:>7}" for name in ("left", "top", "right", "bottom"))
    click.echo(f"  {'class':<{width}}   score  {sides}")
    for each in answer["objects"]:
        box = "  ".join(f"{x:7.1f}" for x in each["box"])
        click.echo(f"  {one_line(each['class']):<{width}}  {each['score']:6.1%}  {box}")
