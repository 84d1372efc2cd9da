"""Trained networks in files: one safetensors file each, with the network's spec in its header."""

import contextlib
import functools
import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from index.atomic import write_atomically
from index.errors import GalleryError
from index.gallery import Gallery
from retrieval import models
from retrieval.backbones import PUBLISHED
from retrieval.classifier import Classifier
from retrieval.datasets import data_folder
from retrieval.detection.catalogue import build_detector
from retrieval.detection.detector import Detector
from retrieval.embedder import Embedder, published_embedder
from retrieval.errors import CheckpointError, ConfigError
from retrieval.network import Network
from retrieval.specs import ClassifierSpec, DetectorSpec, EmbedderSpec, NetworkSpec

MODEL_FILE = "model.safetensors"
N = TypeVar("N", bound=Network)


class Format(NamedTuple):
    """What a file holds: the kind of network in one word, its spec, its class, and what makes one.

    ``command`` trains it, ``build`` gives one without weights, for a spec.
    """

    kind: str
    spec: type[NetworkSpec]
    network: type[Network]
    command: str
    build: Callable[[Any], Network]


FORMATS = {
    "retrieval-embedder-1": Format("embedder", EmbedderSpec, Embedder, "train-embed", Embedder),
    "retrieval-classifier-1": Format(
        "classifier", ClassifierSpec, Classifier, "train-classify", Classifier
    ),
    "retrieval-detector-1": Format(
        "detector", DetectorSpec, Detector, "train-detect", build_detector
    ),
}
"""By the format in the header."""


def save_network(network: Network, file: Path, *, dtype: torch.dtype = torch.float32) -> None:
    """Write spec and weights of a network to one safetensors file, atomically.

    With float16 as ``dtype`` filters take half the space; statistics and biases stay as they are.
    Equal networks give equal files.
    """
    (written,) = (f for f, known in FORMATS.items() if isinstance(network, known.network))
    state = {
        # A copy each: safetensors takes no memory that two names share.
        name: (t.to(dtype) if t.ndim > 1 else t).detach().cpu().contiguous().clone()
        for name, t in network.state_dict().items()
    }
    metadata = {"format": written, "spec": json.dumps(network.spec.to_dict())}
    metadata[_id_key(written)] = _hash(metadata["spec"], state)
    write_atomically(file, _in_order(save(state, metadata)))


def _in_order(data: bytes) -> bytes:
    """A safetensors file with the names in its header sorted: the library writes them as they come."""
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8:end]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # tensors begin at a multiple of 8
    return len(header).to_bytes(8, "little") + header + data[end:]


def load_embedder(path: Path) -> Embedder:
    """The embedder in a run folder, a ``model`` folder of a gallery, or a safetensors file.

    It is in evaluation mode, on the CPU. Raises CheckpointError where there is none, where its
    contents are not what was written, or where it comes from a newer version.
    """
    return _load(path, Embedder)


def load_classifier(path: Path) -> Classifier:
    """The classifier in a run folder or a safetensors file; as ``load_embedder``."""
    return _load(path, Classifier)


def load_detector(path: Path) -> Detector:
    """The detector in a run folder or a safetensors file; as ``load_embedder``."""
    return _load(path, Detector)


def load_network(path: Path) -> Network:
    """The embedder, classifier or detector, whichever is there; as ``load_embedder``."""
    return _load(path, Network)


def _load(path: Path, wanted: type[N]) -> N:
    file = model_file(path)
    metadata, state = _read(file)
    known = FORMATS[metadata["format"]]
    if not issubclass(known.network, wanted):
        needed = next(f for f in FORMATS.values() if f.network is wanted)
        raise CheckpointError(
            f"{file} holds a trained {known.kind}, and this needs the kind {needed.kind!r}; make one "
            f"with: retrieval {needed.command} --from {path}"
        )
    if _hash(metadata["spec"], state) != metadata[_id_key(metadata["format"])]:
        raise CheckpointError(
            f"{file} is damaged: its weights do not match the checksum in its header; copy it again"
        )
    try:
        network = known.build(_spec(file, metadata))
        network.load_state_dict(state)
    except (ConfigError, RuntimeError) as error:
        reason = " ".join(str(error).split())  # torch writes several lines
        raise CheckpointError(f"{file} does not describe a network of ours: {reason}") from error
    # ``issubclass`` above has found that it is of the kind wanted.
    return cast("N", network.eval())


def embedder_id(path: Path) -> str:
    """The SHA-256 over spec and weights of a saved embedder, in hexadecimal.

    It is read from the header; whether it is true of the weights, ``load_embedder`` finds out.
    """
    file = model_file(path)
    with _opened(file) as opened:
        metadata = _metadata(file, opened)
    if "embedder_id" not in metadata:
        kind = FORMATS[metadata["format"]].kind
        raise CheckpointError(
            f"{file} holds a {kind}, which cannot make a gallery of pictures; make an embedder with: "
            f"retrieval train-embed --from {path}"
        )
    return metadata["embedder_id"]


def model_of_gallery(gallery: Gallery) -> Path:
    """The folder of a gallery's own model. Raises GalleryError where it has none."""
    if not gallery.has_model:
        raise GalleryError(
            f"{gallery.path} was imported without a model, so that only its own pictures and vectors "
            "can ask; import into another gallery with --model"
        )
    return gallery.path / "model"


def network_spec(path: Path) -> NetworkSpec:
    """What is saved here, without reading its weights."""
    file = model_file(path)
    with _opened(file) as opened:
        return _spec(file, _metadata(file, opened))


def kind_of_model(path: Path) -> str | None:
    """ "embedder", "classifier" or "detector", or None where none of ours was saved here."""
    if is_published(path):
        return "embedder"
    try:
        file = model_file(path)
        with _opened(file) as opened:
            return FORMATS[_metadata(file, opened)["format"]].kind
    except CheckpointError:
        return None


def model_file(path: Path) -> Path:
    """The safetensors file that ``path`` stands for: a folder, a file, or a name.

    A name is that of a model in the box, or of a network with published weights, which are downloaded
    when it is first asked for. Raises CheckpointError where there is none.
    """
    file = path / MODEL_FILE if path.is_dir() else path
    if file.is_file():
        return file
    boxed = None if path.exists() else models.model_in_the_box(str(path))
    if boxed is not None:
        return boxed
    if is_published(path):
        return _published_file(str(path))
    raise CheckpointError(
        f"there is no model at {path}; expected a run folder with {MODEL_FILE} in it, such a file, or "
        f"a name that `retrieval models` lists, such as {', '.join(models.names())} (make one with: "
        "retrieval train-embed --out RUN)"
    )


def is_published(path: Path) -> bool:
    """Whether this is no file, but the name of a network with published weights."""
    return str(path) in PUBLISHED and not path.exists()


def _published_file(name: str) -> Path:
    """The file in the data folder of the embedder that a published network is, made where it is not."""
    file = data_folder(None) / "models" / f"{name}.safetensors"
    if not file.is_file() or not _is_sound(file, file.stat().st_mtime_ns):
        file.parent.mkdir(parents=True, exist_ok=True)
        save_network(published_embedder(name), file)
    return file


@functools.cache
def _is_sound(file: Path, mtime_ns: int) -> bool:
    """Whether an embedder can be read from a file as it has been since then."""
    try:
        load_embedder(file)
    except CheckpointError:
        return False
    return True


def _read(file: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    with _opened(file) as opened:
        metadata = _metadata(file, opened)
        return metadata, {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118


@contextlib.contextmanager
def _opened(file: Path) -> Iterator[Any]:
    try:
        with safe_open(file, framework="pt") as opened:
            yield opened
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{file} is not a readable safetensors file: {error}") from error


def _metadata(file: Path, opened: Any) -> dict[str, str]:
    metadata: dict[str, str] = opened.metadata() or {}
    written = metadata.get("format", "none")
    if written not in FORMATS:
        raise CheckpointError(
            f"{file} has format {written!r}, this version reads {', '.join(map(repr, FORMATS))}; "
            "it was written by a newer version, or by another program"
        )
    missing = {"spec", _id_key(written)} - set(metadata)
    if missing:
        raise CheckpointError(f"{file} is damaged: its header has no {min(missing)}; copy it again")
    return metadata


def _id_key(written: str) -> str:
    return f"{FORMATS[written].kind}_id"


def _spec(file: Path, metadata: dict[str, str]) -> NetworkSpec:
    spec = FORMATS[metadata["format"]].spec
    # Embedders of before there was a choice looked at the picture alone.
    older = {"mirror": False} if spec is EmbedderSpec else {}
    try:
        return spec.from_dict(older | json.loads(metadata["spec"]))
    except (ConfigError, TypeError, ValueError) as error:
        raise CheckpointError(f"{file} does not describe a network of ours: {error}") from error


def _hash(spec: str, state: dict[str, Tensor]) -> str:
    digest = hashlib.sha256(spec.encode())
    for name in sorted(state):
        tensor = state[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
