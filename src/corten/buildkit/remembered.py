"""What clients have listed, by the very bytes of it: what is listed again need not be understood again, and contents of
unchanged files need not be sent again.
"""

from __future__ import annotations

import itertools
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from corten.buildkit.listing import Entry  # speaks protobuf, which no daemon imports before it is used

MAX_ENTRIES = 65_536  # some 600 bytes each
_MAX_PACKET = 512
_FRESH_NS = 2 * 10**9  # a file that was changed so short ago may change again within one tick of its clock


class Known:
    """Entries of one directory by their packets, which tell a file's mode, size and time.

    Those used last go last.
    """

    def __init__(self) -> None:
        self._entries: dict[bytes, Entry] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, packet: bytes) -> Entry | None:
        entry = self._entries.pop(packet, None)
        if entry is not None:
            self._entries[packet] = entry
        return entry

    def put(self, packet: bytes, entry: Entry) -> None:
        if len(packet) > _MAX_PACKET:
            return
        if len(self._entries) >= MAX_ENTRIES:
            for old in list(itertools.islice(self._entries, MAX_ENTRIES // 4 + 1)):
                del self._entries[old]
        self._entries[packet] = entry


class Remembered:
    """Over all builds of a daemon.  Used on the loop."""

    def __init__(self) -> None:
        self._directories: dict[tuple[str, str], Known] = {}

    def directory(self, shared_key: str, name: str) -> Known:
        """What is known of a client's directory; what was used long ago is forgotten.

        A client that gives no shared key is told apart from nobody, so nothing of it is remembered.
        """
        if not shared_key:
            return Known()
        known = self._directories.pop((shared_key, name), None) or Known()
        self._directories[shared_key, name] = known
        excess = sum(map(len, self._directories.values())) - MAX_ENTRIES
        for key in list(self._directories)[:-1]:
            if excess > 0:
                excess -= len(self._directories.pop(key))
        return known


def remember(entry: Entry, digest: bytes) -> None:
    """The SHA-256 of a file's content, for builds to come.  From any thread."""
    if time.time_ns() - entry.node.mtime_ns >= _FRESH_NS:
        entry.digest = digest
