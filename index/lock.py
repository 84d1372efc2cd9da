"""The lock that one writer holds."""

import datetime
import fcntl
import os
import socket
import time
from pathlib import Path
from typing import IO

from index.errors import GalleryLocked

LOCK = "writer.lock"
ASK_EVERY_SECONDS = 0.05


def take_lock(folder: Path, wait: float = 0.0) -> IO[str]:
    """An open, locked file, whose content names the process; closing it frees the lock.

    Another writer is waited for ``wait`` seconds. Raises GalleryLocked, which names who holds it.
    """
    lock = (folder / LOCK).open("a+", errors="replace")
    until = time.monotonic() + wait
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
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
    lock.truncate(0)
    since = datetime.datetime.now().isoformat(" ", "seconds")
    lock.write(f"{os.getpid()} on {socket.gethostname()} since {since}")
    lock.flush()
    return lock
