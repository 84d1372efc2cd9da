"""Boxes and masks as COCO has them: one JSON file for all pictures."""

import json
from pathlib import Path
from typing import Any

from retrieval.detection.annotations import (
    AnnotatedPicture,
    Annotation,
    Listing,
    find_picture,
    number_in,
)
from retrieval.detection.boxed_pictures import BoxedPictures
from retrieval.detection.picture_folder import filled_folder, saved_pictures
from retrieval.detection.segmentations import mask_drawer, runs_of
from retrieval.errors import DataError


def read_coco(file: Path) -> Listing:
    """The pictures, boxes, masks and categories (in the order of their ids) of a COCO file.

    Pictures are looked for beside the file, one folder up, and in the folders there that are called
    images, or as the file is (instances_val2017.json: val2017). ``iscrowd`` makes crowds.
    Raises DataError that names the file, and the line or the annotation, for what is not so.
    """
    content = _content(file)
    categories = _categories(content["categories"], file)
    objects: dict[Any, list[Annotation]] = {}
    images: dict[Any, dict[str, Any]] = {}
    for number, image in enumerate(content["images"]):
        where = f"{file}, images[{number}]"
        name = _of(image, "file_name", str, where)
        key = _of(image, "id", int | str, where)
        if key in images or not name:
            raise DataError(
                f"{where}: " + ("its name is empty" if not name else f"id {key!r} is there twice")
            )
        images[key] = image
        objects[key] = []
    for number, annotation in enumerate(content["annotations"]):
        where = f"{file}, annotations[{number}]"
        key = _of(annotation, "image_id", int | str, where)
        if key not in images:
            raise DataError(f"{where}: there is no image with the id {key!r}")
        objects[key].append(_annotation(annotation, categories, where))
    folders = _folders(file)
    pictures = [
        AnnotatedPicture(find_picture(image["file_name"], folders), objects[key], _size(image))
        for key, image in images.items()
    ]
    return Listing(tuple(dict.fromkeys(categories.values())), pictures)


def _content(file: Path) -> dict[str, list[Any]]:
    try:
        content = json.loads(file.read_text("utf-8-sig"))
    except json.JSONDecodeError as error:
        raise DataError(
            f"{file}, line {error.lineno}: it is not sound JSON ({error.msg})"
        ) from error
    except (UnicodeDecodeError, RecursionError) as error:
        raise DataError(f"{file} is not sound JSON ({error})") from error
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}") from error
    parts = ("images", "annotations", "categories")
    lists = {part: content.get(part) for part in parts} if isinstance(content, dict) else {}
    wrong = [part for part in parts if not isinstance(lists.get(part), list)]
    if wrong:
        raise DataError(
            f"{file} has no list {wrong[0]!r}; a COCO file has the lists images, annotations and "
            "categories"
        )
    return lists  # type: ignore[return-value]


def _of(entry: Any, key: str, kind: Any, where: str) -> Any:
    """A value of an entry of JSON. Raises DataError where it is missing or of another kind."""
    value = entry.get(key) if isinstance(entry, dict) else None
    if not isinstance(value, kind) or isinstance(value, bool):
        raise DataError(f"{where}: {key} is missing, or not of its kind: {value!r:.40}")
    return value


def _categories(entries: list[Any], file: Path) -> dict[Any, str]:
    """Names by id, in the order of the ids."""
    names: dict[Any, str] = {}
    for number, entry in enumerate(entries):
        where = f"{file}, categories[{number}]"
        key = _of(entry, "id", int | str, where)
        if key in names:
            raise DataError(f"{where}: id {key!r} is there twice")
        names[key] = _of(entry, "name", str, where)
    return dict(sorted(names.items(), key=lambda item: (str(type(item[0])), item[0])))


def _annotation(entry: Any, categories: dict[Any, str], where: str) -> Annotation:
    category = _of(entry, "category_id", int | str, where)
    if category not in categories:
        raise DataError(
            f"{where}: there is no category {category!r}; there are "
            f"{', '.join(map(str, list(categories)[:12])) or 'none'}"
        )
    box = _of(entry, "bbox", list, where)
    if len(box) != 4:
        raise DataError(
            f"{where}: bbox has {len(box)} numbers; it must be left, top, width, height"
        )
    left, top, width, height = (number_in(value, where, "bbox") for value in box)
    segmentation = entry.get("segmentation")
    if segmentation == [[]]:  # as some tools write where there are boxes alone
        segmentation = None
    return Annotation(
        categories[category],
        (left, top, left + width, top + height),
        where,
        crowd=entry.get("iscrowd") in (1, True),
        draw=mask_drawer(segmentation, where) if segmentation else None,
    )


def _size(image: dict[str, Any]) -> tuple[int, int] | None:
    width, height = image.get("width"), image.get("height")
    known = isinstance(width, int) and isinstance(height, int) and min(width, height) > 0
    return (width, height) if known else None  # type: ignore[return-value]


def _folders(file: Path) -> list[Path]:
    part = file.stem.split("_", 1)[-1]
    up = file.parent.parent
    return [file.parent, file.parent / "images", up, up / "images", up / part, up / "images" / part]


def write_coco(data: BoxedPictures, folder: Path) -> None:
    """Pictures into images/ and annotations.json of a new folder, with masks as runs.

    Raises DataError where the folder is not empty, or a picture cannot be read.
    """
    with filled_folder(folder) as new:
        names = saved_pictures(data, new / "images")
        content: dict[str, list[Any]] = {
            "images": [
                {"id": row, "file_name": name, "width": width, "height": height}
                for row, (name, (width, height)) in enumerate(names, 1)
            ],
            "annotations": [],
            "categories": [{"id": row, "name": name} for row, name in enumerate(data.classes, 1)],
        }
        for row, objects in enumerate(data.objects, 1):
            for place in range(len(objects)):
                left, top, right, bottom = objects.boxes[place].tolist()
                mask = None if objects.masks is None else objects.masks[place]
                content["annotations"].append(
                    {
                        "id": len(content["annotations"]) + 1,
                        "image_id": row,
                        "category_id": int(objects.labels[place]) + 1,
                        "bbox": [left, top, right - left, bottom - top],
                        "area": (right - left) * (bottom - top)
                        if mask is None
                        else int(mask.sum()),
                        "iscrowd": int(objects.crowd[place]),
                        **({} if mask is None else {"segmentation": runs_of(mask)}),
                    }
                )
        (new / "annotations.json").write_text(json.dumps(content))
