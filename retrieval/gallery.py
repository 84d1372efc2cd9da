"""Galleries of pictures, for programs: what the commands do, as methods. See docs/galleries.md."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from index.gallery import Gallery as VectorGallery
from index.merging import MergeSummary, merge_into
from index.parts import Box
from retrieval import building
from retrieval.comparing import as_stored
from retrieval.errors import ImageError
from retrieval.pictures import list_pictures
from retrieval.questions import picture_question, stored_questions
from retrieval.search import Answer, Searcher
from retrieval.summary import FillSummary

Sources = Path | str | Sequence[Path | str]


class Gallery:
    """Pictures that can be found by pictures.

    It answers from the newest commit, whichever process made it, and from the gallery that has taken
    the place of an older one. Changes wait ``wait`` seconds for another writer, then raise
    GalleryLocked. All errors are GalleryErrors and RetrievalErrors. Only the thread that opened it can
    use it: open one in each.
    """

    def __init__(self, vectors: VectorGallery) -> None:
        self.vectors = vectors
        """The vectors, items and index beneath: see ``index.gallery``."""
        self._asking: Searcher | None = None
        self._made_by: dict[str, Any] = {}

    @classmethod
    def open(cls, path: Path | str) -> Self:
        """The gallery in a folder. Raises NotAGallery or DamagedGallery."""
        return cls(VectorGallery.open(Path(path)))

    @classmethod
    def create(
        cls,
        path: Path | str,
        images: Path | str,
        *,
        model: Path | str | None = None,
        objects: Path | str | None = None,
        **options: Any,
    ) -> Self:
        """The gallery in a folder, a new, empty one where there is none.

        With ``objects``, a detector, it is one of the objects in pictures. Paths are kept relative to
        the folder ``images``; ``options`` are those of ``building.open_or_create``. Raises
        GalleryError where there is one that is of another kind.
        """
        options |= {
            "sources": [Path(images)],
            "objects": None if objects is None else Path(objects),
        }
        own = None if model is None else Path(model)
        return cls(building.open_or_create(Path(path), own, **options))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        self.vectors.refresh()
        return len(self.vectors)

    def close(self) -> None:
        """Let go of the files."""
        self.vectors.close()

    def info(self) -> dict[str, Any]:
        """What the gallery holds, and what made it."""
        self.vectors.refresh()
        return self.vectors.info()

    def add(self, sources: Sources, *, labels: bool = True, **options: Any) -> FillSummary:
        """Add pictures (files, folders, CSV files); ``labels``: after their folders, in default.

        ``options`` are those of ``building.fill``.
        """
        pictures = list_pictures(self._as_stored(sources), labels)
        return building.fill(self.vectors, pictures, **options)

    def sync(self, folders: Sources, *, labels: bool = True, **options: Any) -> FillSummary:
        """Make the gallery hold what folders hold now; ``options`` are those of ``building.sync``."""
        paths = self._as_stored(folders)
        pictures = list_pictures(paths, labels)
        return building.sync(self.vectors, paths, pictures, **options)

    def remove(
        self,
        pictures: Sources = (),
        *,
        ids: Sequence[int] = (),
        where: str | None = None,
        wait: float = 0.0,
    ) -> int:
        """Remove pictures (files, or folders with all in them) and ids, or what a filter says.

        With both, those of them of which the filter holds. How many there were; files stay. Raises
        DataError for what is not in the gallery.
        """
        return building.remove_pictures(self.vectors, _paths(pictures), ids, where, wait)

    def merge(self, galleries: "Gallery | Sequence[Gallery]", *, wait: float = 0.0) -> MergeSummary:
        """Add all that other galleries of the same model and metric hold."""
        others = [galleries] if isinstance(galleries, Gallery) else galleries
        return merge_into(self.vectors, [other.vectors for other in others], wait=wait)

    def compact(self, *, wait: float = 0.0) -> int:
        """Free the space of removed pictures; how many rows that was."""
        with self.vectors.writer(wait) as writer:
            rows: int = writer.compact()
        return rows

    def query(self, photos: Sources, k: int = 10, **options: Any) -> list[Answer]:
        """The k nearest pictures of each photo; ``options`` are those of ``Searcher.query_files``.

        With ``objects=True`` an answer for each object of each photo. Raises ImageError for a photo
        that cannot be read.
        """
        self.vectors.refresh()
        answers, unreadable = self._searcher().query_files(_paths(photos), k, **options)
        for photo, reason in unreadable:
            raise ImageError(f"{photo}: {reason}")
        return answers

    def load_model(self) -> None:
        """Load the model that photos are embedded with now, and not when the first one asks.

        Raises GalleryError where there is none, ModelMismatch where its files are not those of it.
        """
        _ = self._searcher().embedder

    def query_picture(
        self, picture: bytes, k: int = 10, *, box: Box | None = None, **options: Any
    ) -> Answer:
        """The k nearest of a picture in memory (the bytes of a file), or of a box of it.

        ``options`` are those of ``Searcher.nearest``. Raises ImageError where it cannot be read.
        """
        self.vectors.refresh()
        searcher = self._searcher()
        question = picture_question(searcher.embedder, picture, box, searcher.objects)
        return next(searcher.nearest([question], k, **options))

    def query_stored(self, item_id: int, k: int = 10, **options: Any) -> Answer:
        """The k nearest of a picture that the gallery holds, itself left out.

        ``options`` are those of ``Searcher.nearest``. Raises DataError where it holds none of that id.
        """
        self.vectors.refresh()
        (question,) = stored_questions(self.vectors, [item_id])
        return next(self._searcher().nearest([question], k, **options))

    def _as_stored(self, sources: Sources) -> tuple[Path, ...]:
        self.vectors.refresh()
        return as_stored(self.vectors, _paths(sources))

    def _searcher(self) -> Searcher:
        # It holds the models that made the gallery, and another gallery may be there by now.
        made_by = {"embedder": self.vectors.embedder_id, "objects": self.vectors.objects}
        if self._asking is None or made_by != self._made_by:
            self._asking, self._made_by = Searcher(self.vectors), made_by
        return self._asking


def _paths(sources: Sources) -> list[Path]:
    return [Path(sources)] if isinstance(sources, Path | str) else [Path(s) for s in sources]
