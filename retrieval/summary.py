"""What a command did to a gallery, in counts."""

import dataclasses
from typing import Any


@dataclasses.dataclass
class FillSummary:
    """What became of the pictures given."""

    added: int = 0
    replaced: int = 0
    moved: int = 0
    relabelled: int = 0
    removed: int = 0
    unchanged: int = 0
    failed: int = 0
    seconds: float = 0.0
    interrupted: bool = False

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON types."""
        return dataclasses.asdict(self)

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
        return f"{', '.join(parts)} ({self.seconds:.1f} s)"
