"""Shards: files of vectors and of their ids, never changed once written, and checked when first used.

A file has a SHA-256, which ``index.verify`` compares, and a CRC-32 of each 64 KiB. Those are compared
when a process first touches the block: so no answer is made from bytes that have changed, and opening
a gallery reads next to nothing.
"""

import dataclasses
import hashlib
import io
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from index.atomic import atomic_file
from index.database import Database
from index.errors import DamagedGallery
from index.npy_header import read_header

BLOCK_BITS = 16
BLOCK_BYTES = 1 << BLOCK_BITS


@dataclasses.dataclass(frozen=True)
class Shard:
    """A file of vectors and one of their ids, ascending."""

    number: int
    rows: int

    @property
    def vectors_file(self) -> str:
        return f"vectors-{self.number:06}.npy"

    @property
    def ids_file(self) -> str:
        return f"ids-{self.number:06}.npy"


class CheckedArray:
    """An array (n,…) in a mapped file, each block of which is checked when it is first used.

    ``rows`` and ``take`` give what ``decode`` makes of it.
    """

    def __init__(
        self,
        file: Path,
        record: "FileRecord",
        shape: tuple[int, ...],
        dtype: str,
        decode: Callable[[np.ndarray], np.ndarray] = lambda rows: rows,
    ) -> None:
        """Raises DamagedGallery where the file has another size, shape or type, FileNotFoundError."""
        self.file, self.record = file, record
        found = file.stat().st_size
        if found != record.bytes or found == 0:
            raise DamagedGallery(
                f"{file} has {found} bytes, {record.bytes} were committed; restore it from a copy, or "
                "build the gallery again"
            )
        self.decode = decode
        self.raw = np.memmap(file, np.uint8, "r").view(np.ndarray)
        self.unchecked = np.ones(-(-found // BLOCK_BYTES), bool)
        self.pending = True
        if record.crc32 is not None and len(record.crc32) != len(self.unchecked):
            raise DamagedGallery(f"{file} has {len(record.crc32)} checksums of {found} bytes")
        self._check(np.zeros(1, np.int64))
        self.array = self._array(shape, np.dtype(dtype))

    def _array(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        try:
            *found, self.offset = read_header(self.raw)
        except ValueError as error:
            raise DamagedGallery(f"{self.file} is not a readable array: {error}") from error
        self.row_bytes = dtype.itemsize * int(np.prod(shape[1:]))
        if found != [shape, dtype] or len(self.raw) != self.offset + shape[0] * self.row_bytes:
            raise DamagedGallery(
                f"{self.file} has (shape, type) {found}, {[shape, dtype]} was committed"
            )
        return self.raw[self.offset :].view(dtype).reshape(shape)

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Rows ``start`` … ``stop`` − 1. Raises DamagedGallery where bytes have changed."""
        return self.decode(self.stored(start, stop))

    def stored(self, start: int, stop: int) -> np.ndarray:
        """The same as they lie in the file, not copied. Raises as ``rows``."""
        stop = min(stop, len(self.array))
        if self.pending and start < stop:
            first, last = (self.offset + row * self.row_bytes for row in (start, stop))
            self._check(np.arange(first // BLOCK_BYTES, (last - 1) // BLOCK_BYTES + 1))
        return self.array[start:stop]

    def take(self, rows: np.ndarray) -> np.ndarray:
        """A copy of these rows. Raises DamagedGallery where bytes have changed."""
        return self.decode(self.touched(rows)[rows])

    def touched(self, rows: np.ndarray) -> np.ndarray:
        """All of it as it lies in the file, these rows checked. Raises as ``rows``."""
        if self.pending and len(rows):
            first = self.offset + rows * self.row_bytes
            last = (first + self.row_bytes - 1) >> BLOCK_BITS
            first >>= BLOCK_BITS
            most = (self.row_bytes - 2) // BLOCK_BYTES + 2
            spans = (np.minimum(first + step, last) for step in range(most))
            # Nearly always all have been checked before.
            self._check(np.unique(np.concatenate([s[self.unchecked[s]] for s in spans])))
        return self.array

    def whole(self) -> np.ndarray:
        """All of it."""
        return self.rows(0, len(self.array))

    def _check(self, blocks: np.ndarray) -> None:
        if self.record.crc32 is None:
            self._check_file()
            return
        for block in blocks[self.unchecked[blocks]].tolist():
            start = block * BLOCK_BYTES
            if zlib.crc32(self.raw[start : start + BLOCK_BYTES].data) != self.record.crc32[block]:
                raise DamagedGallery(
                    f"{self.file} has changed since it was committed, at bytes {start} to "
                    f"{min(start + BLOCK_BYTES, len(self.raw)) - 1}; restore it from a copy, or build "
                    "the gallery again"
                )
            self.unchecked[block] = False
        self.pending = bool(self.unchecked.any())

    def _check_file(self) -> None:
        """For files of before there were checksums of blocks: all of it at once."""
        finding = check_file(self.file, self.record.bytes, self.record.sha256)
        if finding:
            raise DamagedGallery(f"{finding}; restore it from a copy, or build the gallery again")
        self.unchecked[:] = self.pending = False


@dataclasses.dataclass(frozen=True)
class FileRecord:
    """What was noted of a file: its size, SHA-256, and the CRC-32 uint32 (n,) of its blocks, if any."""

    bytes: int
    sha256: str
    crc32: np.ndarray | None = None


def read_records(db: Database) -> dict[str, FileRecord]:
    """What was noted of each file, by name."""
    there = db.execute("SELECT 1 FROM sqlite_master WHERE name = 'checks'").fetchone()
    checks = "LEFT JOIN checks USING (name)" if there else "LEFT JOIN (SELECT NULL AS crc32)"
    rows = db.execute(f"SELECT name, bytes, sha256, crc32 FROM files {checks}")
    return {
        name: FileRecord(size, sha, None if crc is None else np.frombuffer(crc, "<u4"))
        for name, size, sha, crc in rows
    }


def write_array(
    file: Path, parts: Iterable[np.ndarray], shape: tuple[int, ...], dtype: str
) -> FileRecord:
    """Write an array (n,…) of which the parts, together n rows, come one after another."""
    header = io.BytesIO()
    facts = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(header, facts)
    digest, crcs, size, rest = hashlib.sha256(), [], 0, b""
    with atomic_file(file) as stream:
        for data in _chain(header.getvalue(), parts, dtype):
            stream.write(data)
            digest.update(data)
            size += len(data)
            rest += data
            whole = len(rest) // BLOCK_BYTES * BLOCK_BYTES
            crcs += [zlib.crc32(rest[at : at + BLOCK_BYTES]) for at in range(0, whole, BLOCK_BYTES)]
            rest = rest[whole:]
    crcs += [zlib.crc32(rest)] if rest else []
    return FileRecord(size, digest.hexdigest(), np.array(crcs, "<u4"))


def write_file(file: Path, content: Callable[[Callable[[bytes], int]], None]) -> FileRecord:
    """Write what ``content``, given a function that writes bytes, hands to it piece by piece."""
    digest, size = hashlib.sha256(), 0

    def write(data: bytes) -> int:
        nonlocal size
        digest.update(data)
        size += len(data)
        return stream.write(data)

    with atomic_file(file) as stream:
        content(write)
    return FileRecord(size, digest.hexdigest())


def _chain(header: bytes, parts: Iterable[np.ndarray], dtype: str) -> Iterable[bytes]:
    yield header
    for part in parts:
        yield np.ascontiguousarray(part, dtype).tobytes()


def check_file(file: Path, size: int, sha256: str | None = None) -> str | None:
    """What is wrong with a committed file, or None; without ``sha256`` its size alone is compared."""
    if not file.is_file():
        return f"{file} is missing"
    found = file.stat().st_size
    if found != size:
        return f"{file} has {found} bytes, {size} were committed"
    if sha256 is not None:
        with file.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        if digest != sha256:
            return (
                f"{file} has changed: its checksum is {digest[:12]}…, {sha256[:12]}… was committed"
            )
    return None
