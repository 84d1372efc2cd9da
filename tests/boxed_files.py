"""Picture files with boxes in each format, written without the code that reads them."""

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image

WIDTH, HEIGHT = 40, 30
Row = tuple[str, str, float, float, float, float]
"""Picture, class, and edges."""
Write = Callable[[Path, Sequence[Row], Sequence[str]], Path]


def picture(path: Path, size: tuple[int, int] = (WIDTH, HEIGHT), exif: int = 1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", size, (90, 120, 30))
    tags = image.getexif()
    tags[274] = exif
    image.save(path, exif=tags)
    return path


def write_coco(root: Path, rows: Sequence[Row], names: Sequence[str]) -> Path:
    classes = sorted({row[1] for row in rows})
    content = {
        "images": [{"id": n, "file_name": name} for n, name in enumerate(names)],
        "annotations": [
            {"image_id": list(names).index(name), "category_id": classes.index(label),
             "bbox": [left, top, right - left, bottom - top]}
            for name, label, left, top, right, bottom in rows
        ],
        "categories": [{"id": n, "name": name} for n, name in enumerate(classes)],
    }  # fmt: skip
    (root / "boxes.json").write_text(json.dumps(content))
    return root / "boxes.json"


def write_voc(root: Path, rows: Sequence[Row], names: Sequence[str]) -> Path:
    (root / "Annotations").mkdir()
    for name in names:
        parts = [
            f"<object><name>{label}</name><bndbox><xmin>{left + 1}</xmin><ymin>{top + 1}</ymin>"
            f"<xmax>{right}</xmax><ymax>{bottom}</ymax></bndbox></object>"
            for each, label, left, top, right, bottom in rows
            if each == name
        ]
        text = f"<annotation><filename>{name}</filename>{''.join(parts)}</annotation>"
        (root / "Annotations" / f"{Path(name).stem}.xml").write_text(text)
    return root


def write_yolo(root: Path, rows: Sequence[Row], names: Sequence[str]) -> Path:
    classes = sorted({row[1] for row in rows})
    for name in names:
        lines = [
            f"{classes.index(label)} {(left + right) / 2 / WIDTH} {(top + bottom) / 2 / HEIGHT} "
            f"{(right - left) / WIDTH} {(bottom - top) / HEIGHT}\n"
            for each, label, left, top, right, bottom in rows
            if each == name
        ]
        (root / name).with_suffix(".txt").write_text("".join(lines))
    (root / "list.txt").write_text("\n".join(names))
    (root / "data.yaml").write_text(f"train: list.txt\nval: list.txt\nnames: {classes}\n")
    return root / "data.yaml"


def write_csv(root: Path, rows: Sequence[Row], names: Sequence[str]) -> Path:
    with (root / "boxes.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["path", "label", "left", "top", "right", "bottom"])
        for name in names:
            writer.writerows([row for row in rows if row[0] == name] or [[name]])
    return root / "boxes.csv"


FORMATS: dict[str, Write] = {
    "coco": write_coco, "voc": write_voc, "yolo": write_yolo, "csv": write_csv,
}  # fmt: skip
