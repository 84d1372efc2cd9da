"""The course of training as a picture: curves.png of a run folder."""

import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from index.atomic import write_atomically

EMBED_CURVES = (
    ("loss", lambda name: name.startswith("loss")),
    ("recall@1, held out", lambda name: name == "recall_at_1"),
    ("share of active triplets", lambda name: name == "active_triplets"),
    ("distances within and between classes", lambda name: name.endswith("_distance")),
    ("effective rank", lambda name: name == "effective_rank"),
    ("learning rate", lambda name: name == "lr"),
)
CLASS_CURVES = (
    ("loss", lambda name: name.startswith(("loss", "validation_loss"))),
    ("accuracy", lambda name: name in ("accuracy", "training_accuracy")),
    ("learning rate", lambda name: name == "lr"),
)
DETECT_CURVES = (
    ("loss, by term", lambda name: name.startswith("loss")),
    ("average precision, held out", lambda name: name in ("map", "map_50")),
    ("learning rate", lambda name: name == "lr"),
)


def training_curves(
    records: Iterable[dict[str, Any]], path: Path, panels: Sequence[Any] = EMBED_CURVES
) -> None:
    """Write a PNG of what ``records`` (one an epoch) hold, each kind of figure in a panel."""
    from matplotlib.figure import Figure

    records = list(records)
    rows = len(panels) // 3
    figure = Figure(figsize=(13, 3 * rows), layout="constrained")
    for axes, (title, wanted) in zip(figure.subplots(rows, 3).flat, panels, strict=True):
        names = [name for name in dict.fromkeys(n for r in records for n in r) if wanted(name)]
        for name in names:
            points = [(r["epoch"], r[name]) for r in records if name in r]
            x, y = zip(*points, strict=True)
            axes.plot(x, y, marker="o", markersize=3, label=name.removeprefix("loss/"))
        if len(names) > 1:
            axes.legend(frameon=False, fontsize=8)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("epoch", fontsize=8)
        axes.grid(alpha=0.25)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    write_atomically(path, buffer.getvalue())
