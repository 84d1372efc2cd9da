"""Boxes as in Pascal VOC: one XML file for each picture.

The coordinates there number the pixels from 1, and the last pixel is part of the box: xmin 1 and xmax
10 are the edges 0 and 10 here. A box of one pixel (xmin = xmax and ymin = ymax) is where someone only
clicked, and counts as one without area. ``difficult`` objects become crowds: neither learnt from nor
missed.
"""

from pathlib import Path
from xml.etree import ElementTree
from xml.parsers import expat

from retrieval.detection.annotations import (
    AnnotatedPicture,
    Annotation,
    Listing,
    find_picture,
    number_in,
)
from retrieval.detection.boxed_pictures import BoxedPictures
from retrieval.detection.picture_folder import filled_folder, saved_pictures
from retrieval.errors import DataError
from retrieval.picture_files import EXTENSIONS

LISTS = {"train": ("train", "trainval"), "test": ("test", "val")}
"""The files in ImageSets/Main that name the pictures of a part; the first that is there is taken."""
PICTURES = ("JPEGImages", "images", "Images", "JPEGs", "PNGImages")
CORNERS = ("xmin", "ymin", "xmax", "ymax")


def annotations_folder(root: Path) -> Path | None:
    """Where a folder has its XML files: in Annotations/, annotations/ or itself; None without any."""
    for folder in (root / "Annotations", root / "annotations", root):
        if folder.is_dir() and any(folder.glob("*.xml")):
            return folder
    return None


def read_voc(root: Path, split: str) -> Listing:
    """The pictures with XML files in a folder, and the classes of all that are there.

    Which are of the "train" or "test" part, ImageSets/Main tells; without it all are of both.
    Raises DataError that names file and line for XML that cannot be read, or is not of this kind.
    """
    folder = annotations_folder(root)
    if folder is None:
        raise DataError(f"there are no XML files in {root}, nor in its Annotations folder")
    read = {file.stem: _read_file(file, root) for file in sorted(folder.glob("*.xml"))}
    classes = sorted({each.label for picture in read.values() for each in picture.objects})
    names = _listed(root, split)
    missing = [name for name in names or () if name not in read]
    if missing:
        raise DataError(
            f"{missing[0]!r} is listed in {root / 'ImageSets' / 'Main'}, but there is no "
            f"{folder / missing[0]}.xml"
        )
    chosen = list(read) if names is None else names
    return Listing(tuple(classes), [read[name] for name in chosen])


def _listed(root: Path, split: str) -> list[str] | None:
    folder = root / "ImageSets" / "Main"
    if not any((folder / f"{name}.txt").is_file() for part in LISTS.values() for name in part):
        return None
    for name in LISTS[split]:
        file = folder / f"{name}.txt"
        if file.is_file():
            names = [line.strip() for line in _text(file).splitlines() if line.strip()]
            if not names:
                raise DataError(f"{file} is empty; it must name the pictures of the {split} part")
            return list(dict.fromkeys(names))
    raise DataError(f"{folder} has none of: {', '.join(f'{n}.txt' for n in LISTS[split])}")


def _text(file: Path) -> str:
    try:
        return file.read_text("utf-8-sig", errors="surrogateescape")
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}") from error


def _read_file(file: Path, root: Path) -> AnnotatedPicture:
    tree = _parse(file)
    if tree.tag != "annotation":
        raise DataError(f"{file}: the outermost element is <{tree.tag}>, but must be <annotation>")
    objects = [_object(element, f"{file}, object {number}")
               for number, element in enumerate(tree.findall("object"), 1)]  # fmt: skip
    size = tuple(
        int(number_in(tree.findtext(f"size/{side}", "").strip() or "0", str(file), side))
        for side in ("width", "height")
    )
    told = (size[0], size[1]) if min(size) > 0 else None  # some tools write 0 for unknown
    return AnnotatedPicture(
        _picture(file, root, tree.findtext("filename", "").strip()), objects, told
    )


def _parse(file: Path) -> ElementTree.Element:
    """The tree of an XML file; without document types, whose entities can swell without bound."""

    def refuse(name: str, *_: object) -> None:
        line = parser.CurrentLineNumber
        raise DataError(f"{file}, line {line}: document types such as {name!r} are refused")

    parser = expat.ParserCreate()
    parser.StartDoctypeDeclHandler = refuse
    try:
        data = file.read_bytes()
        parser.Parse(data, True)
        return ElementTree.fromstring(data)
    except (expat.ExpatError, ElementTree.ParseError) as error:
        line = getattr(error, "lineno", 0) or getattr(error, "position", (0, 0))[0]
        raise DataError(f"{file}, line {line}: it is not sound XML ({error})") from error
    except (ValueError, LookupError) as error:  # an encoding that is not known
        if isinstance(error, DataError):
            raise
        raise DataError(f"{file}: it is not sound XML ({error})") from error
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}") from error


def _object(element: ElementTree.Element, where: str) -> Annotation:
    label = element.findtext("name", "").strip()
    if not label:
        raise DataError(f"{where} has no <name>")
    corners = []
    for corner in CORNERS:
        text = element.findtext(f"bndbox/{corner}")
        if text is None:
            raise DataError(f"{where} has no <bndbox> with <{corner}>")
        corners.append(number_in(text, where, corner))
    left, top, right, bottom = corners
    return Annotation(
        label,
        (left - 1, top - 1, right, bottom),
        where,
        crowd=element.findtext("difficult", "0").strip() == "1",
        point=left == right and top == bottom,
    )


def _picture(file: Path, root: Path, name: str) -> Path:
    """The picture of an XML file: as it is named there, else with the name of the file."""
    folders = [*(root / each for each in PICTURES if (root / each).is_dir()), root, file.parent]
    # Some tools write a path of another machine.
    named = find_picture(name.replace("\\", "/").rsplit("/", 1)[-1] or file.stem, folders)
    if named.is_file():
        return named
    for folder in folders:
        for extension in sorted(EXTENSIONS):
            for each in (extension, extension.upper()):
                if (folder / f"{file.stem}{each}").is_file():
                    return folder / f"{file.stem}{each}"
    return named


def write_voc(data: BoxedPictures, folder: Path) -> None:
    """Pictures into JPEGImages/ and XML files into Annotations/ of a new folder. No masks.

    Crowds are written as ``difficult``. Raises DataError where the folder is not empty, a picture
    cannot be read, or a box is of one pixel or less, which would read as none.
    """
    with filled_folder(folder) as new:
        names = saved_pictures(data, new / "JPEGImages")
        (new / "Annotations").mkdir()
        for row, (name, (width, height)) in enumerate(names):
            tree = ElementTree.Element("annotation")
            ElementTree.SubElement(tree, "filename").text = name
            size = ElementTree.SubElement(tree, "size")
            for tag, value in (("width", width), ("height", height), ("depth", 3)):
                ElementTree.SubElement(size, tag).text = str(value)
            objects = data.objects[row]
            for box, label, crowd in zip(
                objects.boxes.tolist(), objects.labels, objects.crowd, strict=True
            ):
                tree.append(_element(data.classes[label], box, bool(crowd), name))
            ElementTree.indent(tree)
            file = new / "Annotations" / f"{Path(name).stem}.xml"
            file.write_bytes(ElementTree.tostring(tree, "utf-8"))


def _element(label: str, box: list[float], crowd: bool, picture: str) -> ElementTree.Element:
    left, top, right, bottom = box[0] + 1, box[1] + 1, box[2], box[3]
    if left == right and top == bottom:
        raise DataError(
            f"the box {box} of {picture} is one pixel, which VOC XML cannot tell from none"
        )
    element = ElementTree.Element("object")
    ElementTree.SubElement(element, "name").text = label
    ElementTree.SubElement(element, "difficult").text = str(int(crowd))
    bounds = ElementTree.SubElement(element, "bndbox")
    for corner, value in zip(CORNERS, (left, top, right, bottom), strict=True):
        ElementTree.SubElement(bounds, corner).text = repr(value).removesuffix(".0")
    return element
