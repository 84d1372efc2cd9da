"""Data sets to learn detection from: by name, or in whichever format a file or folder has."""

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path

from retrieval.datasets import NAMES, load_dataset
from retrieval.detection.annotations import Listing, checked_pictures
from retrieval.detection.box_csv import read_boxes, write_boxes
from retrieval.detection.boxed_pictures import BoxedPictures
from retrieval.detection.coco_json import read_coco, write_coco
from retrieval.detection.cutouts import SHAPES
from retrieval.detection.penn_fudan import read_penn_fudan
from retrieval.detection.scenes import make_scenes
from retrieval.detection.voc_xml import annotations_folder, read_voc, write_voc
from retrieval.detection.yolo_text import read_yolo, write_yolo
from retrieval.errors import DataError
from retrieval.picture_lists import PARTS

SCENES = {"train": (1000, 1), "test": (100, 2)}
"""How many scenes a part of ``scenes`` has, and their seed."""
WRITERS: dict[str, Callable[[BoxedPictures, Path], None]] = {
    "coco": write_coco, "voc": write_voc, "yolo": write_yolo, "csv": write_boxes,
}  # fmt: skip
"""What writes pictures with boxes into a new folder, by format."""
ALLOWED = (
    "scenes, scenes:SHAPE+SHAPE or scenes:DATASET; a COCO JSON file; a CSV file; a data.yaml of YOLO; "
    "or a folder with one of these, with Pascal VOC XML (Annotations/), with PedMasks/, or with "
    "train/ and test/ (or val/) folders of them"
)


def load_boxed_pictures(name: str, *, split: str = "train") -> BoxedPictures:
    """The "train" or "test" part of pictures with boxes.

    "scenes" are made, with drawn shapes; "scenes:star+circle" with these alone, and "scenes:digits",
    or scenes: and a folder of class folders, with that data set's pictures pasted.
    A file or folder that tells of no parts is one part, which serves as both. Parts are told by the
    split column of a CSV file, ImageSets/Main of VOC, the keys of a data.yaml, or by the word train,
    test, val, valid or validation in the names of folders and files; "test" is the first of the last
    four that is there. Labels mean the same in both parts.
    Raises DataError where the data set is missing, empty, or not laid out as expected.
    """
    if split not in PARTS:
        raise DataError(f"the part is {split!r}; it can be {', '.join(PARTS)}")
    return _scenes(name, split) if _made(name) else checked_pictures(name, _listed(name, split))


def has_test_part(name: str) -> bool:
    """Whether the test part has pictures of its own, none of which are learnt from too.

    Annotations alone are read for it. Raises DataError as ``load_boxed_pictures`` does for these.
    """
    if _made(name):
        return True
    train, test = ({each.path for each in _listed(name, split).pictures} for split in PARTS)
    return train.isdisjoint(test)


def _made(name: str) -> bool:
    return name == "scenes" or name.startswith("scenes:")


def _listed(name: str, split: str) -> Listing:
    path = Path(name).expanduser()
    if not name or not path.exists():  # Path("") would be the current folder
        raise DataError(f"there is no data set {name!r}; it can be {ALLOWED}")
    return _listing(path, split)


def _scenes(name: str, split: str) -> BoxedPictures:
    count, seed = SCENES[split]
    pasted = name.removeprefix("scenes").removeprefix(":")
    shapes = tuple(dict.fromkeys(pasted.split("+")))
    if name == "scenes":
        return make_scenes(None, count, seed=seed)
    if all(shape in SHAPES for shape in shapes):
        return make_scenes(None, count, seed=seed, shapes=shapes, name=name)
    if pasted in NAMES or (pasted and Path(pasted).expanduser().exists()):
        pictures = load_dataset(str(Path(pasted).expanduser()), split=split)
        return make_scenes(pictures, count, seed=seed, name=name)
    raise DataError(
        f"{name!r} is to paste {pasted!r}, which is neither a data set nor shapes such as star+circle; "
        f"there are {', '.join(SHAPES)}, the data sets {', '.join(NAMES)}, and folders of class folders"
    )


def _listing(path: Path, split: str) -> Listing:
    if path.is_dir():
        return _folder(path, split)
    suffix = path.suffix.lower()
    if suffix == ".json":
        return read_coco(path)
    if suffix == ".csv":
        return read_boxes(path, split)
    if suffix in (".yaml", ".yml"):
        return read_yolo(path, split)
    raise DataError(f"{path} is a {suffix or 'nameless'} file; a data set can be {ALLOWED}")


def _folder(root: Path, split: str) -> Listing:
    """Whatever is in the folder, what tells most of parts first."""
    yaml = sorted([*root.glob("*.yaml"), *root.glob("*.yml")])
    if yaml:
        return read_yolo(_only(yaml, root), split)
    if (root / "PedMasks").is_dir():
        return read_penn_fudan(root)
    folders = sorted(each for each in root.iterdir() if each.is_dir() and _part(each) == each.name)
    if any(each.name == "train" for each in folders):
        return _of_parts(folders, root, split)
    tables = sorted(root.glob("*.json")) or sorted(root.glob("annotations/*.json"))
    # COCO has files of key points and captions beside those of boxes.
    tables = [each for each in tables if each.stem.startswith("instances_")] or tables
    for files in (tables, sorted(root.glob("*.csv"))):
        if any(_part(file) == "train" for file in files):
            return _of_parts([file for file in files if _part(file)], root, split)
        if files and (len(files) == 1 or annotations_folder(root) is None):
            return _listing(_only(files, root), split)
    if annotations_folder(root) is not None:
        return read_voc(root, split)
    names = sorted(each.name + "/" * each.is_dir() for each in root.iterdir())
    found = ", ".join(names[:8])
    raise DataError(
        f"{root} is not a data set with boxes: it has {found or 'nothing'}; a data set can be {ALLOWED}"
    )


def _part(path: Path) -> str:
    """The word for a part in the name of a file or folder, or nothing."""
    words = re.findall(r"[a-z]+", path.stem.lower())
    return next((word for word in words if any(word in names for names in PARTS.values())), "")


def _only(files: list[Path], root: Path) -> Path:
    if len(files) > 1:
        names = ", ".join(file.name for file in files[:8])
        raise DataError(f"{root} has several files that may be meant: {names}; name one of them")
    return files[0]


def _of_parts(places: list[Path], root: Path, split: str) -> Listing:
    """The part that is wanted, with the classes of training first, so that labels mean the same."""
    taken: dict[str, Path] = {}
    for part, names in PARTS.items():
        found = [place for name in names for place in places if _part(place) == name]
        if found:
            taken[part] = _only([each for each in found if _part(each) == _part(found[0])], root)
    if split not in taken:
        raise DataError(f"{root} has a train part, but none of: {', '.join(PARTS[split])}")
    listings = {part: _listing(place, part) for part, place in taken.items()}
    ordered = [listings[part] for part in PARTS if part in listings]
    classes = dict.fromkeys(name for listing in ordered for name in listing.classes)
    return dataclasses.replace(listings[split], classes=tuple(classes))
