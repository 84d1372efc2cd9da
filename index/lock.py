"""The lock that one writer holds."""

import datetime
import fcntl
import os
import socket
import time
from pathlib import Path
from typing import IO

from index.errors import GalleryError, GalleryLocked, NotAGallery

LOCK = "writer.lock"
ASK_EVERY_SECONDS = 0.05


def take_lock(folder: Path, wait: float = 0.0) -> IO[str]:
    """An open, locked file, whose content names the process; closing it frees the lock.

    Another writer is waited for ``wait`` seconds. Raises GalleryLocked, which names who holds it,
    NotAGallery where there is no such folder, and GalleryError where it cannot be written to.
    """
    until = time.monotonic() + wait
    lock = _take(folder, until, wait)
    while not _lies_in(folder, lock):  # the folder has been replaced while it was waited for
        lock.close()
        lock = _take(folder, until, wait)
    lock.truncate(0)
    since = datetime.datetime.now().isoformat(" ", "seconds")
    lock.write(f"{os.getpid()} on {socket.gethostname()} since {since}")
    lock.flush()
    return lock


def _lies_in(folder: Path, lock: IO[str]) -> bool:
    try:
        return os.path.samestat(os.fstat(lock.fileno()), (folder / LOCK).stat())
    except FileNotFoundError:
        return False


def _take(folder: Path, until: float, wait: float) -> IO[str]:
    try:
        lock = (folder / LOCK).open("a+", errors="replace")
    except FileNotFoundError as error:
        raise NotAGallery(f"{folder} is no more") from error
    except OSError as error:
        raise GalleryError(
            f"{folder} cannot be written to: {error.strerror}; ask its owner for leave, or make a copy"
        ) from error
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return lock
        except OSError as error:
            if time.monotonic() >= until:
                lock.seek(0)
                holder = lock.read(200).strip() or "unknown"
                lock.close()
                waited = f" after {wait:g} s" if wait else ""
                raise GalleryLocked(
                    f"{folder} is still being written to{waited} by process {holder}; wait until it "
                    "is done (--wait SECONDS does), or stop it"
                ) from error
            time.sleep(ASK_EVERY_SECONDS)
