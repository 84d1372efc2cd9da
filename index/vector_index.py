# The stubs that FAISS ships lag behind it: search parameters that exist are missing there.
# mypy: disable-error-code="call-arg, arg-type, attr-defined, union-attr"
"""One FAISS index over the vectors of a gallery: which are allowed, building, searching, files.

An index numbers its vectors by position; the gallery keeps which id stands at which position. FAISS's
own id maps are not used: ``remove_ids`` under IndexIDMap2 around an IVF index silently gives wrong ids.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from index.code_keys import CodeKey, code_index, is_code
from index.errors import DamagedGallery, IndexKeyError
from index.neighbors import FAISS_METRIC

FLAT = "Flat"
AUTO = "auto"
TRAIN_ROWS = 131_072
"""At most this many vectors train the lists and codes of an index, so that memory is bounded."""

# What each metric may be paired with. FAISS accepts other pairs too, and some of them answer wrongly.
ALLOWED_KEYS = {
    "l2": r"(IVF|HNSW|PQ|SQ|OPQ|PCA|RaBitQ).*",
    "cosine": r"(IVF|HNSW|PQ|SQ|OPQ|PCA|RaBitQ).*",
    "l1": r"IVF\d+(,Flat)?|HNSW\d+(,Flat)?",
}


# Some that FAISS makes end the process, or cannot be filled bit by bit, asked or read again.
IMPOSSIBLE = {
    r"(?<!\d)0+(?!\d)": "holds the number 0; all have to be 1 or more",
    r"HNSW0*1(?!\d)": "asks for a graph of 1 neighbour; give HNSW2 or more, such as HNSW32",
    r"PQ\d+x0*[12](?!\d)": "asks for product codes of 1 or 2 bits; give 3 or more, such as PQ8x4",
    r"NSG|ZnLattice|HNSW\d*_\d+\+|IVF.*(RQ|LSQ)[\dx]+fs": (
        "names a kind that cannot be kept in a gallery; give IVFn,…, HNSWn, PQ… or SQ…"
    ),
}


def check_key(key: str, metric: str, dim: int) -> None:
    """Refuse an index key that is unknown to FAISS, or does not go with the metric; auto and Flat do.

    Raises IndexKeyError.
    """
    if key in (FLAT, AUTO):
        return
    if is_code(key):
        CodeKey.parse(key, dim)
        if metric == "l1":
            raise IndexKeyError(f"--index {key} goes with l2 and cosine, not with the l1 metric")
        return
    # Re-scoring is done here, from the stored vectors; ids are the gallery's own.
    wrapped = re.search("RFlat|Refine|IDMap", key)
    if wrapped or not re.fullmatch(ALLOWED_KEYS[metric], key):
        allowed = "Flat, IVFn,Flat, HNSWn" if metric == "l1" else "Flat, IVFn,…, HNSWn, PQ…, SQ…"
        raise IndexKeyError(
            f"--index {key} does not go with the {metric} metric; allowed are: {allowed}"
        )
    for pattern, reason in IMPOSSIBLE.items():
        if re.search(pattern, key):
            raise IndexKeyError(f"--index {key} {reason}")
    if empty_index(key, metric, dim).metric_type != FAISS_METRIC[metric]:
        raise IndexKeyError(
            f"--index {key} is always of another metric than {metric}; give IVFn,…, HNSWn, PQ… or SQ…"
        )


def empty_index(key: str, metric: str, dim: int) -> "faiss.Index":
    """An untrained index. Raises IndexKeyError where FAISS cannot make it."""
    try:
        return faiss.index_factory(dim, key, FAISS_METRIC[metric])
    except RuntimeError as error:
        reason = str(error).rsplit("Error: ", 1)[-1].splitlines()[0]
        raise IndexKeyError(
            f"--index {key} cannot be made for {dim} dimensions and {metric}: {reason}"
        ) from error


def train_index(
    key: str, metric: str, sample: np.ndarray, seed: int = 0, lists: np.ndarray | None = None
) -> "faiss.Index":
    """An empty index whose lists and codes were learnt from a sample float32 (n,D), n ≤ TRAIN_ROWS.

    ``lists``: centres float32 (L,D) that another index has learnt, not to be learnt again. Raises
    IndexKeyError where there are too few vectors to train it.
    """
    if is_code(key):
        learnt = CodeKey.parse(key, sample.shape[1]).learn(sample, seed)
        return code_index(learnt, metric)
    index = empty_index(key, metric, sample.shape[1])
    if _lists(index) > len(sample):
        raise IndexKeyError(
            f"--index {key} has {_lists(index)} lists, and there are {len(sample)} vectors; at most "
            "one list for each vector is possible, and one for each 39 is advised"
        )
    inner = faiss.downcast_index(faiss.try_extract_index_ivf(index) or index)
    for part in (inner, getattr(inner, "pq", None)):
        if hasattr(part, "cp"):  # FAISS prints a warning below 39 vectors for each list or code
            part.cp.min_points_per_centroid, part.cp.seed = 1, seed + 1
    if lists is not None and len(lists) == _lists(index):
        inner.quantizer.add(lists)
    if not index.is_trained:
        try:
            index.train(np.ascontiguousarray(sample, np.float32))
        except RuntimeError as error:
            reason = str(error).rsplit("Error: ", 1)[-1].splitlines()[0]
            raise IndexKeyError(f"--index {key} cannot be trained: {reason}") from error
    return index


def lists_of(index: "faiss.Index") -> np.ndarray | None:
    """The centres float32 (L,D) of an IVF index's lists; None for other kinds."""
    inner = faiss.try_extract_index_ivf(index)
    return None if inner is None else inner.quantizer.reconstruct_n(0, int(inner.nlist))


def search_index(
    index: "faiss.Index", queries: np.ndarray, fetch: int, allowed: np.ndarray | None, effort: int
) -> np.ndarray:
    """Positions int64 (Q,fetch) of about the nearest vectors, −1 where fewer were found.

    ``allowed``: bool (n,), which positions may be found (None: all). ``effort``: how many lists of an
    IVF index are visited, how many candidates a graph keeps; 0 where there is nothing to choose.
    """
    selector = None
    if allowed is not None:
        bits = np.packbits(allowed, bitorder="little")
        selector = faiss.IDSelectorBitmap(bits)
    fetch = min(fetch, index.ntotal)
    try:
        _, positions = index.search(queries, fetch, params=_parameters(index, selector, effort))
    except RuntimeError:
        if selector is None or allowed is None:
            raise
        # Some indexes know no filters: take more, and filter here.
        more = min(4 * fetch + int((~allowed).sum()), index.ntotal)
        _, positions = index.search(queries, more, params=_parameters(index, None, effort))
        positions[~((positions >= 0) & allowed[positions])] = -1
        order = np.argsort(positions < 0, axis=1, kind="stable")[:, :fetch]
        positions = np.take_along_axis(positions, order, 1)
    return positions


def holds_whole_vectors(key: str) -> bool:
    """Whether an index of this key errs by rounding alone, not by what codes leave out."""
    return re.fullmatch(r"IVF\d+(_HNSW\d+)?(,Flat)?|HNSW\d+(,Flat)?", key) is not None


def is_graph(index: "faiss.Index") -> bool:
    """Whether it is searched from neighbour to neighbour."""
    inner = faiss.downcast_index(index)
    if isinstance(inner, faiss.IndexPreTransform):
        return is_graph(inner.index)
    return isinstance(inner, faiss.IndexHNSW)


def usual_effort(index: "faiss.Index") -> int:
    """The effort where none was measured: FAISS's own (1 list) is far too little."""
    lists = _lists(index)
    return min(max(8, lists // 16), lists) if lists else 128 * is_graph(index)


def most_effort(index: "faiss.Index") -> int:
    """The effort beyond which nothing changes."""
    return _lists(index) or index.ntotal * is_graph(index)


def efforts(index: "faiss.Index") -> list[int]:
    """Efforts worth trying, ascending, about three to each doubling; more than 4,096 is not."""
    most = min(most_effort(index), 4096)
    found = [min(32 if is_graph(index) else 1, most)]
    while found[-1] < most:
        found.append(min(max(round(found[-1] * 2 ** (1 / 3)), found[-1] + 1), most))
    return found


def expected_bytes(key: str, rows: int, dim: int) -> int:
    """About the bytes of an index: codes, IVF with Flat, SQ8, RaBitQ or fast-scan codes, or HNSW."""
    if is_code(key):
        return rows * CodeKey.parse(key, dim).bytes(dim)
    if graph := re.fullmatch(r"HNSW(\d+)", key):
        return rows * (4 * dim + 8 * int(graph[1]) + 16)
    lists, code = re.fullmatch(r"IVF(\d+),(\w+)", key).groups()
    if scan := re.fullmatch(r"PQ(\d+)x4fs", code):
        rows += 16 * int(lists)  # lists are filled up to multiples of 32
        width = (int(scan[1]) + 1) // 2
    else:
        width = {"Flat": 4 * dim, "SQ8": dim, "RaBitQ": -(-dim // 8) + 8}[code]
    return rows * (width + 8) + int(lists) * (4 * dim + 8)


def _parameters(
    index: "faiss.Index", selector: "faiss.IDSelector | None", effort: int
) -> "faiss.SearchParameters | None":
    options: dict[str, Any] = {} if selector is None else {"sel": selector}
    inner = faiss.downcast_index(index)
    if isinstance(inner, faiss.IndexPreTransform):
        nested = _parameters(inner.index, selector, effort)
        return faiss.SearchParametersPreTransform(index_params=nested)
    if lists := _lists(index):
        effort = min(effort, lists)
        # A graph that finds the lists, as of IVFn_HNSWm, stops after 16 steps otherwise.
        options["quantizer_params"] = _parameters(inner.quantizer, None, effort)
        return faiss.SearchParametersIVF(nprobe=effort, **options)
    if isinstance(inner, faiss.IndexHNSW):
        return faiss.SearchParametersHNSW(efSearch=effort, **options)
    return faiss.SearchParameters(**options) if options else None


def _lists(index: "faiss.Index") -> int:
    inner = faiss.try_extract_index_ivf(index)
    return int(inner.nlist) if inner is not None else 0


def write_index(index: "faiss.Index", write: Callable[[bytes], int]) -> None:
    """Hand the index to ``write`` as a file's content, piece by piece."""
    faiss.write_index(index, faiss.PyCallbackIOWriter(write))


def map_index(data: np.ndarray, count: int, dim: int, metric: str, name: object) -> "faiss.Index":
    """The index in the bytes uint8 (n,) of a file, whose checksum was found right; nothing is copied.

    Raises DamagedGallery where it is not an index, or not one of this many vectors.
    """
    reader = faiss.ZeroCopyIOReader(faiss.swig_ptr(data), len(data))
    try:
        index = faiss.read_index(reader, faiss.IO_FLAG_READ_ONLY)
    except RuntimeError as error:
        raise DamagedGallery(f"{name} is not a readable FAISS index: {error}") from error
    found = (index.ntotal, index.d, index.metric_type)
    expected = (count, dim, FAISS_METRIC[metric])
    if found != expected:
        raise DamagedGallery(
            f"{name} holds (vectors, dimension, metric) {found}; expected {expected}"
        )
    return index


def index_bytes(index: "faiss.Index") -> int:
    """How large its file will be."""
    size = 0

    def count(data: bytes) -> int:
        nonlocal size
        size += len(data)
        return len(data)

    write_index(index, count)
    return size


def load_index(file: Path) -> "faiss.Index":
    """A copy in memory, to be added to, of an index file that was found sound."""
    return faiss.read_index(str(file))
