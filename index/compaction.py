"""Which shards are worth rewriting, and what of them is kept."""

from collections.abc import Iterator, Sequence

import numpy as np

from index.shards import Shard
from index.snapshot import Snapshot

SHARD_BYTES = 256 << 20
"""About how large a shard becomes: so much stands twice on the disk meanwhile."""
PART_BYTES = 8 << 20
JOINED = 16
"""Each shard costs every query a little: so many small ones are worth being made one."""


def groups_to_rewrite(snapshot: Snapshot) -> list[list[Shard]]:
    """Shards that follow each other and fit into one, but for single ones with nothing removed.

    Done twice there is nothing left to do: what did not fit into one before does not fit afterwards.
    """
    living = [
        int(snapshot.keep(snapshot.arrays[shard.ids_file].array, None).sum())
        for shard in snapshot.shards
    ]
    left = dict(zip(snapshot.shards, living, strict=True))
    groups = _groups(snapshot, living)
    return [group for group in groups if len(group) > 1 or left[group[0]] < group[0].rows]


def groups_to_join(snapshot: Snapshot) -> list[list[Shard]]:
    """Shards that follow each other and fit into one, where they are JOINED or more.

    So a gallery that grows by little things is rewritten seldom, and never has many files.
    """
    groups = _groups(snapshot, [shard.rows for shard in snapshot.shards])
    return [group for group in groups if len(group) >= JOINED]


def _groups(snapshot: Snapshot, sizes: Sequence[int]) -> list[list[Shard]]:
    """All shards, in their order, in groups whose rows fit into one."""
    limit = max(SHARD_BYTES // snapshot.storage.row_bytes, 1)
    groups: list[list[Shard]] = []
    rows = 0
    for shard, size in zip(snapshot.shards, sizes, strict=True):
        if not groups or rows + size > limit:
            groups.append([])
            rows = 0
        groups[-1].append(shard)
        rows += size
    return groups


def rows_of(
    snapshot: Snapshot, group: Sequence[Shard], *, dead: bool
) -> tuple[np.ndarray, Iterator[np.ndarray]]:
    """The ids int64 (n,) of some shards, and their rows, as stored, in parts of about 8 MiB.

    The living alone, or with ``dead`` all.
    """
    step = max(PART_BYTES // snapshot.storage.row_bytes, 1)
    there = [snapshot.arrays[shard.ids_file].array for shard in group]
    kept = [np.full(len(ids), True) if dead else snapshot.keep(ids, None) for ids in there]

    def vectors() -> Iterator[np.ndarray]:
        for shard, keep in zip(group, kept, strict=True):
            for start in range(0, shard.rows, step):
                rows = snapshot.arrays[shard.vectors_file].stored(start, start + step)
                yield rows[keep[start : start + step]]

    return np.concatenate([ids[keep] for ids, keep in zip(there, kept, strict=True)]), vectors()
