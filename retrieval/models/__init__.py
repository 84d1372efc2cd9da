"""Models in the box: small trained embedders that come with the package, by name.

Each is NAME.safetensors beside its card NAME.md, which says what it learnt from, how good it is, and
where it fails.
"""

from pathlib import Path

FOLDER = Path(__file__).parent
DEFAULT = "efficientnet-lite0"
"""The one that a gallery is built with when none is named."""


def names() -> list[str]:
    """The names of all models in the box, in order."""
    return sorted(file.stem for file in FOLDER.glob("*.safetensors"))


def model_in_the_box(name: str) -> Path | None:
    """The file of the model called ``name``, or None where there is none."""
    return FOLDER / f"{name}.safetensors" if name in names() else None


def card(name: str) -> str:
    """The card of the model called ``name``: Markdown."""
    return (FOLDER / f"{name}.md").read_text()
