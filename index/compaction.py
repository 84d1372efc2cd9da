"""Which shards are worth rewriting, and what of them is kept."""

from collections.abc import Iterator, Sequence

import numpy as np

from index.shards import Shard
from index.snapshot import Snapshot

SHARD_BYTES = 256 << 20
"""About how large a shard becomes: so much stands twice on the disk meanwhile."""
PART_BYTES = 8 << 20


def groups_to_rewrite(snapshot: Snapshot) -> list[list[Shard]]:
    """Shards that follow each other and fit into one, but for single ones with nothing removed.

    Done twice there is nothing left to do: what did not fit into one before does not fit afterwards.
    """
    limit = max(SHARD_BYTES // snapshot.storage.row_bytes, 1)
    groups: list[list[Shard]] = []
    dirty: list[bool] = []
    rows = 0
    for shard in snapshot.shards:
        living = int(snapshot.keep(snapshot.arrays[shard.ids_file].array, None).sum())
        if not groups or rows + living > limit:
            groups.append([])
            dirty.append(False)
            rows = 0
        groups[-1].append(shard)
        rows += living
        dirty[-1] |= len(groups[-1]) > 1 or living < shard.rows
    return [group for group, rewrite in zip(groups, dirty, strict=True) if rewrite]


def living_rows(
    snapshot: Snapshot, group: Sequence[Shard]
) -> tuple[np.ndarray, Iterator[np.ndarray]]:
    """The living ids int64 (n,) of some shards, and their rows, as stored, in parts of about 8 MiB."""
    step = max(PART_BYTES // snapshot.storage.row_bytes, 1)
    kept = [snapshot.keep(snapshot.arrays[shard.ids_file].array, None) for shard in group]
    ids = [
        snapshot.arrays[shard.ids_file].array[keep] for shard, keep in zip(group, kept, strict=True)
    ]

    def vectors() -> Iterator[np.ndarray]:
        for shard, keep in zip(group, kept, strict=True):
            for start in range(0, shard.rows, step):
                rows = snapshot.arrays[shard.vectors_file].stored(start, start + step)
                yield rows[keep[start : start + step]]

    return np.concatenate(ids), vectors()
