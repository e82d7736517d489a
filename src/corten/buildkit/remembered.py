"""What files of clients had in them, by what clients say of them: unchanged files need not be sent again."""

from __future__ import annotations

import hashlib
import threading
import time

from corten.build.tree import Node

_MAX = 131_072
_FRESH_NS = 2 * 10**9  # a file that was changed so short ago may change again within one tick of its clock


class Remembered:
    """SHA-256 of contents over all builds of a daemon.  Thread-safe.

    A key is made of the shared key and name of a directory, a path, and the file's mode, size and time; a client that
    gives no shared key is told apart from nobody, so nothing of it is remembered.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[bytes, bytes] = {}

    def get(self, key: bytes) -> bytes | None:
        with self._lock:
            found = self._known.pop(key, None)
            if found is not None:
                self._known[key] = found  # the last one used goes last
            return found

    def put(self, key: bytes, digest: bytes, mtime_ns: int) -> None:
        if not key or time.time_ns() - mtime_ns < _FRESH_NS:
            return
        with self._lock:
            self._known[key] = digest
            if len(self._known) > _MAX:
                del self._known[next(iter(self._known))]

    def forget(self, key: bytes) -> None:
        with self._lock:
            self._known.pop(key, None)


def key_of(directory: tuple[str, str], path: str, node: Node) -> bytes:
    """directory: (shared key, name); b"" when nothing may be remembered"""
    if not directory[0]:
        return b""
    text = "\0".join((*directory, path, str(node.mode), str(node.size), str(node.mtime_ns)))
    return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=16).digest()
