"""Options of galleries of objects, and of how their objects are cut out."""

from dataclasses import dataclass
from typing import Any, Self

from retrieval.settings import Checked, choice


@dataclass(frozen=True)
class ObjectsSpec(Checked):
    """Which of the objects that a detector finds are taken, and how they are cut out."""

    least_score: float = choice(
        0.5, "with --objects: objects of which the detector is less sure than this are passed over",
        at_least=0, at_most=1,
    )  # fmt: skip
    least_side: int = choice(
        8, "with --objects: objects narrower or lower than this many pixels are passed over",
        at_least=1,
    )  # fmt: skip
    most_objects: int = choice(
        100, "with --objects: so many objects of a picture at most, the surest ones",
        at_least=1, at_most=1000,
    )  # fmt: skip
    margin: float = choice(
        0.0, "with --objects: what is embedded around an object, as a share of its longer side",
        at_least=0, at_most=4,
    )  # fmt: skip
    whole: bool = choice(False, "with --objects: store the whole picture too, with its own label")

    @classmethod
    def noted(cls, objects: dict[str, Any]) -> Self:
        """What a gallery's note on its objects says: see ``index.gallery.Gallery.objects``."""
        return cls.from_dict({name: v for name, v in objects.items() if name != "detector"})
