"""Which picture files a folder or a CSV file has for a part, and of which class each is."""

import dataclasses
from pathlib import Path

from retrieval.csv_rows import csv_rows
from retrieval.errors import DataError
from retrieval.picture_files import find_images, holds_pictures, images_in

TEST_PARTS = ("test", "val", "valid", "validation")
"""What data sets call the part to measure with; the first of them that is there is taken."""
PARTS = {"train": ("train",), "test": TEST_PARTS}
SPLIT_FOLDERS = {**PARTS, "gallery": PARTS["train"]}


@dataclasses.dataclass(frozen=True)
class PictureList:
    """Picture files with the names of their classes (all None: no labels).

    ``left_out`` says which files beside them are not taken, and why; ``notes`` what else people should
    know.
    """

    name: str
    paths: list[Path]
    labels: list[str | None]
    classes: tuple[str, ...]
    left_out: tuple[tuple[Path, str], ...] = ()
    notes: tuple[str, ...] = ()


def list_folder(root: Path, split: str) -> PictureList:
    """The pictures of a part of a folder: "train", "gallery" or "test".

    Their classes are the folders below it, each with all that lies in it; without such folders there
    are no labels. Raises DataError where there is a train folder, but none for this part, where train
    may be a class, and where all classes would have names of parts.
    """
    parts = {part: [root / n for n in names if (root / n).is_dir()]
             for part, names in SPLIT_FOLDERS.items()}  # fmt: skip
    if parts["train"]:
        others = [] if parts["test"] else [n for n in _class_folders(root) if n != "train"]
        if others:
            raise DataError(
                f"{root} has a folder train beside {', '.join(others[:3])}, and none of: "
                f"{', '.join(SPLIT_FOLDERS['test'])}; if train is a class, give it another name; if "
                "it is what to learn from, move the others away"
            )
        if not parts[split]:
            raise DataError(
                f"{root} has a train folder, but none of: {', '.join(SPLIT_FOLDERS[split])}"
            )
        # Classes come from the training part, so that labels mean the same in both.
        classes = _class_folders(parts["train"][0])
        root = parts[split][0]
        classes = tuple(sorted({*classes, *_class_folders(root)}))
    else:
        classes = _class_folders(root)
        _check_no_parts(root, classes)
    paths: list[Path] = []
    labels: list[str | None] = []
    for name in classes:
        found = find_images([root / name]) if (root / name).is_dir() else []
        paths += found
        labels += [name] * len(found)
    if not paths:
        # Pictures side by side, without class folders: to be learnt from without labels.
        paths = find_images([root])
        labels, classes = [None] * len(paths), ()
    beside = "it lies beside the folders of the classes, in none of them"
    left_out = [(path, beside) for path in images_in(root)] if classes else []
    return PictureList(str(root), paths, labels, classes, tuple(left_out))


def _check_no_parts(root: Path, classes: tuple[str, ...]) -> None:
    """Raises DataError where all class folders are called as parts are, such as Train and Test."""
    parts = ("train", *TEST_PARTS)
    if classes and all(name.lower() in parts for name in classes):
        raise DataError(
            f"{root} has no folders of pictures but {', '.join(classes)}, which are names of parts, "
            "not of classes; name the part to learn from train, and the one to measure with "
            f"{', '.join(TEST_PARTS[:-1])} or {TEST_PARTS[-1]}, or give {root / classes[0]} alone"
        )


def _class_folders(root: Path) -> tuple[str, ...]:
    """Folders with a picture somewhere below."""
    return tuple(
        sorted(
            folder.name for folder in root.iterdir()
            if folder.is_dir() and not folder.name.startswith(".") and holds_pictures(folder)
        )
    )  # fmt: skip


def list_csv(file: Path, split: str) -> PictureList:
    """The pictures of a part of a CSV file with path,label[,split,is_query,is_gallery].

    Of the names for the test part the first that occurs is taken, as of folders. Paths are relative to
    the file. Raises DataError where it is not such a file.
    """
    paths, labels = [], []
    names: set[str] = set()
    with csv_rows(file, skipinitialspace=True) as (columns, rows):
        missing = [name for name in ("path", "label") if name not in columns]
        if missing:
            raise DataError(
                f"{file} has no column {missing[0]!r}; its first line has: "
                f"{', '.join(columns) or 'nothing'}; expected path,label[,split,is_query,is_gallery]"
            )
        lines = [(where, row, _part(row, where)) for where, row in rows]
        occurring = {part for _, _, part in lines}
        taken = next((name for name in SPLIT_FOLDERS[split] if name in occurring), None)
        for where, row, part in lines:
            label = row["label"].strip()
            if not row["path"] or not label:
                raise DataError(f"{where}: path or label is missing")
            names.add(label)
            if _belongs(row, split, part, taken, where):
                paths.append(file.parent / row["path"])
                labels.append(label)
    blank = [where for where, _, part in lines if part is None]
    apart = len(blank) < len(lines) and {"is_query", "is_gallery"}.isdisjoint(columns)
    # Who searches what is measured has heard of it with the queries.
    notes = (_note(blank),) if blank and apart and split != "gallery" else ()
    return PictureList(str(file), paths, list(labels), tuple(sorted(names)), notes=notes)


def _note(blank: list[str]) -> str:
    """What is said of rows without a split, where others have one."""
    others = f", and in {len(blank) - 1:,} other rows" if len(blank) > 1 else ""
    return (
        f"{blank[0]}: split is blank{others}: such pictures are learnt from and measured, too; write "
        f"train or {TEST_PARTS[0]} there"
    )


def _part(row: dict[str, str], where: str) -> str | None:
    """What a row says in the column split."""
    part = row.get("split") or None
    if part not in (None, "train", *SPLIT_FOLDERS["test"]):
        raise DataError(f"{where}: split is {part!r}; it can be train, {', '.join(TEST_PARTS)}")
    return part


def _belongs(
    row: dict[str, str], split: str, part: str | None, taken: str | None, where: str
) -> bool:
    """Whether a row of this ``part`` is of the split, of which the part ``taken`` is.

    What asks and what is searched is marked is_query and is_gallery, or else told by the split. What
    is learnt from is told by the split, or else by the marks: a query is not learnt from, unless it
    is in the gallery too.
    """
    blank = None if part else False  # where nothing else tells, a mark that is not made is none
    asks, searched = (_mark(row.get(name), blank, where) for name in ("is_query", "is_gallery"))
    if split == "train":
        if part is not None:
            return part == "train"
        return searched if searched is not None else not asks
    mark = asks if split == "test" else searched
    if mark is not None:
        return mark
    return part in (None, taken)


def _mark(text: str | None, blank: bool | None, where: str) -> bool | None:
    """What a mark says; None where there is no such column."""
    if text in (None, ""):
        return blank if text == "" else None
    if text.lower() not in ("1", "0", "true", "false"):
        raise DataError(f"{where}: is_query and is_gallery are true or false, not {text!r}")
    return text.lower() in ("1", "true")
