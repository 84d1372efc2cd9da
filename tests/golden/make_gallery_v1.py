"""Made tests/golden/gallery-v1: five vectors (i, i, i, i), ids 1 to 6 without 6. Run from the root."""

import sys
from pathlib import Path

import numpy as np

sys.path[:0] = [".", "tests"]
from galleries import make_gallery, new_items  # noqa: E402

here = Path(__file__).parent
gallery = make_gallery(here / "gallery-v1", image_root=here)
with gallery.writer() as writer:
    writer.add(np.repeat(np.arange(6.0), 4).reshape(6, 4), new_items(0, 6))
    writer.remove([6])
gallery.db.close()
