"""Learning how to store vectors as codes, and measuring what that loses."""

from typing import Any

import numpy as np

from index.code_keys import CodeKey
from index.errors import GalleryError
from index.exact_search import exact_search
from index.snapshot import Snapshot
from index.storage import Storage
from index.vector_index import TRAIN_ROWS

K = 10
ASKED = 500
COMPARED = 20_000


def learn_storage(snapshot: Snapshot, key: str, seed: int = 0) -> tuple[Storage, dict[str, Any]]:
    """Storage as codes that suit the vectors of a snapshot, and what they are worth.

    Raises as ``check_encoding``.
    """
    check_encoding(snapshot, key)
    dim, metric = snapshot.settings["dim"], snapshot.settings["metric"]
    code = CodeKey.parse(key, dim)
    order = np.random.default_rng(seed).permutation(snapshot.living_ids())
    held = np.sort(order[: min(ASKED, len(order) // 20)])
    sample = np.sort(order[len(held) :][:TRAIN_ROWS])
    vectors = snapshot.vectors_of(sample)
    storage = Storage(key, dim, metric, code.learn(vectors, seed))
    return storage, _worth(storage, snapshot.vectors_of(held), vectors[:COMPARED])


def check_encoding(snapshot: Snapshot, key: str) -> None:
    """Raises IndexKeyError for a key that is no code, GalleryError where vectors cannot become it.

    That is where there are none to learn from, or they are other codes already.
    """
    CodeKey.parse(key, snapshot.settings["dim"])
    if snapshot.storage.codebook is not None and snapshot.storage.name != key:
        raise GalleryError(
            f"the vectors are stored as {snapshot.storage.name} already, and cannot become {key}; "
            "build the gallery again"
        )
    if snapshot.n_items == 0:
        raise GalleryError(f"there are no vectors to learn {key} from; add pictures first")


def _worth(storage: Storage, held: np.ndarray, vectors: np.ndarray) -> dict[str, Any]:
    """What stays the same for questions (Q,D) that the codebook was not learnt from, as JSON types.

    ``overlap``: the share of their 10 nearest among ``compared`` vectors (n,D) that are still among the
    10 nearest when these are codes; None where there are no questions. ``bytes`` of a vector.
    """
    coded = storage.decode(storage.encode(vectors))
    k = min(K, len(vectors))
    near = [_nearest(held, k, rows, storage.metric) for rows in (vectors, coded)]
    shared = [len(np.intersect1d(a, b)) / k for a, b in zip(*near, strict=True)]
    return {
        "overlap": float(np.mean(shared)) if shared else None,
        "k": k,
        "compared": len(vectors),
        "bytes": storage.row_bytes,
    }


def _nearest(queries: np.ndarray, k: int, vectors: np.ndarray, metric: str) -> np.ndarray:
    ids = np.arange(len(vectors))
    return exact_search(
        queries, k, lambda: [(vectors, ids)], lambda wanted: vectors[wanted], metric
    ).ids
