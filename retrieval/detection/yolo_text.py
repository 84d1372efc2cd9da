"""Boxes as YOLO has them: a text file for each picture, and a data.yaml with the parts and classes."""

from pathlib import Path
from typing import Any

from retrieval.detection.annotations import AnnotatedPicture, Annotation, Listing, number_in
from retrieval.detection.boxed_pictures import BoxedPictures
from retrieval.detection.picture_folder import filled_folder, saved_pictures
from retrieval.errors import DataError, ImageError
from retrieval.images import upright_size
from retrieval.picture_files import find_images

PARTS = {"train": ("train",), "test": ("test", "val")}
"""The keys of a part in data.yaml; the first that is there is taken."""


def read_yolo(file: Path, split: str) -> Listing:
    """The pictures of the "train" or "test" part that a data.yaml names, and its classes.

    The text file of images/…/a.jpg is labels/…/a.txt, or beside the picture; without one, the picture
    has no objects. Each line is the number of a class and the box (centre, width and height as shares
    of the picture's), or the corners of a polygon, which is the mask too.
    Raises DataError that names file and line for what is not so.
    """
    content = _content(file)
    names = _names(content.get("names"), file)
    pictures = []
    for path in _listed(content, file, split):
        pictures.append(_picture(path, names))
    return Listing(tuple(dict.fromkeys(names.values())), pictures)


def _content(file: Path) -> dict[str, Any]:
    try:
        import yaml
    except ImportError as error:
        raise DataError("YAML needs an extra: pip install 'retrieval[detection]'") from error
    try:
        content = yaml.safe_load(file.read_text("utf-8-sig"))
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise DataError(f"{file}, line {line}: it is not sound YAML ({error.problem})") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise DataError(
            f"{file} is not sound YAML ({' '.join(str(error).split())[:120]})"
        ) from error
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}") from error
    if not isinstance(content, dict):
        raise DataError(f"{file} has no keys; expected are train, val or test, and names")
    return content


def _names(names: Any, file: Path) -> dict[int, str]:
    """Names of classes by number."""
    numbered = dict(enumerate(names)) if isinstance(names, list) else names
    sound = isinstance(numbered, dict) and all(
        isinstance(key, int) and isinstance(name, str | int) for key, name in numbered.items()
    )
    if not sound or not numbered:
        raise DataError(
            f"{file}: names is {names!r:.60}; it must list the classes, or give a name for each number"
        )
    return {key: str(numbered[key]) for key in sorted(numbered)}


def _listed(content: dict[str, Any], file: Path, split: str) -> list[Path]:
    """The pictures of the part."""
    chosen = [key for key in PARTS[split] if content.get(key)]
    if not chosen:
        raise DataError(f"{file} has none of: {', '.join(PARTS[split])}; it must name the pictures")
    root = file.parent / str(content.get("path") or "")
    if not root.is_dir():
        root = file.parent  # a path of another machine
    places = content[chosen[0]]
    found: list[Path] = []
    for place in places if isinstance(places, list) else [places]:
        source = root / str(place)
        if not source.exists():  # a common slip: named from within the part's folder
            source = root / str(place).removeprefix("../")
        if source.is_file() and source.suffix == ".txt":
            lines = source.read_text("utf-8", errors="surrogateescape").splitlines()
            for line in filter(None, map(str.strip, lines)):
                # "./" stands for the folder of the list.
                found.append((source.parent if line.startswith("./") else root) / line)
        elif source.is_dir():
            found += find_images([source])
        else:
            raise DataError(f"{file}: {chosen[0]} names {source}, neither a folder nor a list")
    return found


def _labels_file(path: Path) -> Path:
    parts = list(path.parts)
    places = [place for place, part in enumerate(parts[:-1]) if part == "images"]
    if places:
        parts[places[-1]] = "labels"
        if Path(*parts).parent.is_dir():
            return Path(*parts).with_suffix(".txt")
    return path.with_suffix(".txt")


def _picture(path: Path, names: dict[int, str]) -> AnnotatedPicture:
    file = _labels_file(path)
    try:
        lines = file.read_text("utf-8-sig").splitlines() if file.is_file() else []
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file} cannot be read: {error}") from error
    try:
        size = upright_size(path) if lines else None
    except ImageError:
        return AnnotatedPicture(path, [])  # left out with its reason when pictures are checked
    objects = []
    for number, line in enumerate(lines, 1):
        if line.strip() and size is not None:
            objects.append(_object(line.split(), names, size, f"{file}, line {number}"))
    return AnnotatedPicture(path, objects, size)


def _object(
    fields: list[str], names: dict[int, str], size: tuple[int, int], where: str
) -> Annotation:
    if len(fields) != 5 and (len(fields) < 7 or len(fields) % 2 == 0):
        raise DataError(
            f"{where}: it has {len(fields)} fields; expected are 5 (class, centre x, y, width, height) "
            "or a class and at least 3 corners x and y"
        )
    label = number_in(fields[0], where, "the class")
    if label not in names:
        raise DataError(f"{where}: there is no class {fields[0]}; there are 0 to {max(names)}")
    width, height = size
    values = [number_in(text, where, "a share") for text in fields[1:]]
    if len(values) == 4:
        across, down, wide, high = values
        edges = (
            (across - wide / 2) * width, (down - high / 2) * height,
            (across + wide / 2) * width, (down + high / 2) * height,
        )  # fmt: skip
        return Annotation(names[int(label)], edges, where)
    from retrieval.detection.segmentations import mask_drawer

    corners = [value * side for value, side in zip(values, size * (len(values) // 2), strict=True)]
    edges = min(corners[::2]), min(corners[1::2]), max(corners[::2]), max(corners[1::2])
    return Annotation(names[int(label)], edges, where, draw=mask_drawer([corners], where))


def write_yolo(data: BoxedPictures, folder: Path) -> None:
    """Pictures into images/, text files into labels/ of a new folder, and data.yaml. No masks.

    Raises DataError where the folder is not empty, a picture cannot be read, or an object is a crowd,
    which YOLO text cannot say.
    """
    import yaml

    if any(objects.crowd.any() for objects in data.objects):
        raise DataError(f"{data.name} has crowds, which YOLO text cannot say; write COCO JSON")
    with filled_folder(folder) as new:
        names = saved_pictures(data, new / "images")
        (new / "labels").mkdir()
        for (name, (width, height)), objects in zip(names, data.objects, strict=True):
            lines = []
            for (left, top, right, bottom), label in zip(
                objects.boxes.tolist(), objects.labels, strict=True
            ):
                centre = (left + right) / 2 / width, (top + bottom) / 2 / height
                lines.append(
                    f"{label} {centre[0]!r} {centre[1]!r} {(right - left) / width!r} "
                    f"{(bottom - top) / height!r}\n"
                )
            (new / "labels" / f"{Path(name).stem}.txt").write_text("".join(lines))
        parts = {"train": "images", "val": "images", "names": dict(enumerate(data.classes))}
        (new / "data.yaml").write_text(yaml.safe_dump(parts, allow_unicode=True), "utf-8")
