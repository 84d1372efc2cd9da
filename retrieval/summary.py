"""What a command did to a gallery, in counts."""

import dataclasses
from typing import Any


@dataclasses.dataclass
class FillSummary:
    """What became of the pictures given.

    Of a gallery of objects also how many ``objects`` were stored, and in how many of the pictures that
    were looked at there is none; None elsewhere.
    """

    added: int = 0
    replaced: int = 0
    moved: int = 0
    relabelled: int = 0
    removed: int = 0
    unchanged: int = 0
    failed: int = 0
    objects: int | None = None
    without_objects: int | None = None
    seconds: float = 0.0
    interrupted: bool = False

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON types, without those on objects where there are none."""
        fields = dataclasses.asdict(self)
        return {name: value for name, value in fields.items() if value is not None}

    def text(self) -> str:
        """One line for people."""
        parts = [f"{self.added:,} added"]
        for count, what in (
            (self.replaced, "replaced"),
            (self.moved, "moved"),
            (self.relabelled, "relabelled"),
            (self.removed, "removed"),
            (self.unchanged, "unchanged"),
            (self.failed, "left out"),
        ):
            if count:
                parts.append(f"{count:,} {what}")
        if self.objects is not None:
            parts.append(f"{self.objects:,} objects stored")
        if self.without_objects:
            parts.append(f"{self.without_objects:,} without objects")
        return f"{', '.join(parts)} ({self.seconds:.1f} s)"
