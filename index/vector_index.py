# The stubs that FAISS ships lag behind it: search parameters that exist are missing there.
# mypy: disable-error-code="call-arg, arg-type, attr-defined"
"""One FAISS index over the vectors of a gallery: which are allowed, building, searching, files.

An index numbers its vectors by position; the gallery keeps which id stands at which position. FAISS's
own id maps are not used: ``remove_ids`` under IndexIDMap2 around an IVF index silently gives wrong ids.
"""

import re
from pathlib import Path

import faiss
import numpy as np

from index.errors import DamagedGallery, IndexKeyError
from index.neighbors import FAISS_METRIC

FLAT = "Flat"
TRAIN_ROWS = 200_000
"""At most this many vectors train the lists and codes of an index."""

# What each metric may be paired with. FAISS accepts other pairs too, and some of them answer wrongly.
ALLOWED_KEYS = {
    "l2": r"(IVF|HNSW|PQ|SQ|OPQ|PCA|RaBitQ).*",
    "cosine": r"(IVF|HNSW|PQ|SQ|OPQ|PCA|RaBitQ).*",
    "l1": r"IVF\d+(,Flat)?|HNSW\d+(,Flat)?",
}


def check_key(key: str, metric: str, dim: int) -> None:
    """Refuse an index key that is unknown to FAISS, or that does not go with the metric.

    Raises IndexKeyError.
    """
    if key == FLAT:
        return
    # Re-scoring is done here, from the stored vectors; ids are the gallery's own.
    wrapped = re.search("RFlat|Refine|IDMap", key)
    if wrapped or not re.fullmatch(ALLOWED_KEYS[metric], key):
        allowed = "Flat, IVFn,Flat, HNSWn" if metric == "l1" else "Flat, IVFn,…, HNSWn, PQ…, SQ…"
        raise IndexKeyError(
            f"--index-key {key} does not go with the {metric} metric; allowed are: {allowed}"
        )
    empty_index(key, metric, dim)


def empty_index(key: str, metric: str, dim: int) -> "faiss.Index":
    """An untrained index. Raises IndexKeyError where FAISS cannot make it."""
    try:
        return faiss.index_factory(dim, key, FAISS_METRIC[metric])
    except RuntimeError as error:
        reason = str(error).rsplit("Error: ", 1)[-1].splitlines()[0]
        raise IndexKeyError(
            f"--index-key {key} cannot be made for {dim} dimensions and {metric}: {reason}"
        ) from error


def build_index(key: str, metric: str, vectors: np.ndarray, seed: int = 0) -> "faiss.Index":
    """A trained index that holds vectors float32 (n,D), at positions 0 … n−1.

    Raises IndexKeyError where there are too few vectors to train it.
    """
    index = empty_index(key, metric, vectors.shape[1])
    lists = _lists(index)
    if lists > len(vectors):
        raise IndexKeyError(
            f"--index-key {key} has {lists} lists, and there are {len(vectors)} vectors; at most "
            "one list for each vector is possible, and one for each 39 is advised"
        )
    if not index.is_trained:
        rows = np.random.default_rng(seed).permutation(len(vectors))[:TRAIN_ROWS]
        try:
            index.train(np.ascontiguousarray(vectors[np.sort(rows)]))
        except RuntimeError as error:
            reason = str(error).rsplit("Error: ", 1)[-1].splitlines()[0]
            raise IndexKeyError(f"--index-key {key} cannot be trained: {reason}") from error
    index.add(vectors)
    return index


def search_index(
    index: "faiss.Index", queries: np.ndarray, k: int, allowed: np.ndarray | None, effort: int
) -> np.ndarray:
    """Positions int64 (Q,k) of about the nearest vectors, −1 where fewer were found.

    ``allowed``: bool (n,), which positions may be found (None: all). ``effort`` counts from 0: each
    step visits four times as many lists or candidates.
    """
    selector = None
    if allowed is not None:
        bits = np.packbits(allowed, bitorder="little")
        selector = faiss.IDSelectorBitmap(bits)
    k = min(k, index.ntotal)
    parameters = _parameters(index, selector, k, effort)
    try:
        _, positions = index.search(queries, k, params=parameters)
    except RuntimeError:
        if selector is None or allowed is None:
            raise
        # Some indexes know no filters: take more, and filter here.
        more = min(4 * k + int((~allowed).sum()), index.ntotal)
        _, positions = index.search(queries, more)
        positions[~((positions >= 0) & allowed[positions])] = -1
    return positions


def candidates(key: str, k: int) -> int:
    """How many candidates are fetched, to be re-scored by their true distances, for k neighbours.

    An index of whole vectors errs by rounding alone; one of codes errs by far more. The number does not
    depend on k as long as k is ordinary, so that the first 5 of k = 15 are the answer for k = 5.
    """
    whole = re.fullmatch(r"IVF\d+(_HNSW\d+)?,Flat|HNSW\d+(,Flat)?", key)
    return k + 16 if whole else max(256, 2 * k)


def visits_all(index: "faiss.Index", effort: int) -> bool:
    """Whether more effort would change nothing."""
    lists = _lists(index)
    return _probes(lists, effort) >= lists if lists else effort >= 4


def _parameters(
    index: "faiss.Index", selector: "faiss.IDSelector | None", k: int, effort: int
) -> "faiss.SearchParameters | None":
    options = {} if selector is None else {"sel": selector}
    inner = faiss.downcast_index(index)
    if isinstance(inner, faiss.IndexPreTransform):
        nested = _parameters(inner.index, selector, k, effort)
        return faiss.SearchParametersPreTransform(index_params=nested)
    if _lists(index):
        return faiss.SearchParametersIVF(nprobe=_probes(_lists(index), effort), **options)
    if isinstance(inner, faiss.IndexHNSW):
        return faiss.SearchParametersHNSW(efSearch=max(128, k) * 4**effort, **options)
    return faiss.SearchParameters(**options) if options else None


def _lists(index: "faiss.Index") -> int:
    inner = faiss.try_extract_index_ivf(index)
    return int(inner.nlist) if inner is not None else 0


def _probes(lists: int, effort: int) -> int:
    return min(max(8, lists // 16) * 4**effort, lists)


def index_bytes(index: "faiss.Index") -> bytes:
    """The index as a file's content."""
    return bytes(faiss.serialize_index(index).tobytes())


def read_index(file: Path, count: int, dim: int, metric: str) -> "faiss.Index":
    """The index in a file whose checksum was found right.

    Raises DamagedGallery where it is not an index, or not one of this many vectors.
    """
    try:
        index = faiss.read_index(str(file), faiss.IO_FLAG_READ_ONLY)
    except RuntimeError as error:
        raise DamagedGallery(f"{file} is not a readable FAISS index: {error}") from error
    found = (index.ntotal, index.d, index.metric_type)
    expected = (count, dim, FAISS_METRIC[metric])
    if found != expected:
        raise DamagedGallery(
            f"{file} holds (vectors, dimension, metric) {found}; expected {expected}"
        )
    return index
