"""The cache of steps: which image a step made of which inputs.  It survives the daemon.

A key is a digest of the parent image's id, the instruction with its variables replaced, and the content of what it
uses.  What was pulled or loaded has no entry here, whatever its history claims (CVE-2024-24557).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from corten.build.database import Database
from corten.build.workshop import Cancellation
from corten.errors import SystemFailure

FORMAT = "1"  # another one makes all entries strangers
_SCHEMA = """
CREATE TABLE IF NOT EXISTS steps (
    key TEXT PRIMARY KEY,
    image TEXT NOT NULL,
    parent TEXT NOT NULL,          -- image id, "" for scratch
    description TEXT NOT NULL,     -- the history line
    created INTEGER NOT NULL,      -- ns
    used INTEGER NOT NULL,         -- ns
    uses INTEGER NOT NULL,
    size INTEGER NOT NULL          -- bytes of the layer
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS steps_by_image ON steps(image);
CREATE TABLE IF NOT EXISTS inputs (
    place TEXT PRIMARY KEY,        -- parent's place and instruction
    inputs BLOB NOT NULL,          -- what the key was made of, to tell what has changed
    used INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS mounts (
    id TEXT PRIMARY KEY,           -- of a cache mount; its directory
    description TEXT NOT NULL,
    created INTEGER NOT NULL,
    used INTEGER NOT NULL,
    uses INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS containers (id TEXT PRIMARY KEY) STRICT, WITHOUT ROWID;
"""
_MAX_INPUTS = 4096


@dataclass(frozen=True, slots=True)
class Entry:
    """Times in nanoseconds; size in bytes."""

    key: str
    image: str
    parent: str
    description: str
    created: int
    used: int
    uses: int
    size: int


@dataclass(frozen=True, slots=True)
class CacheMount:
    id: str
    description: str
    created: int
    used: int
    uses: int


def key_of(*parts: str) -> str:
    """A digest of parts that cannot be confused with other parts."""
    running = hashlib.sha256(FORMAT.encode())
    for part in parts:
        data = part.encode("utf-8", "surrogateescape")
        running.update(b"%d:" % len(data))
        running.update(data)
    return running.hexdigest()


class StepCache:
    """Thread-safe.

    exists: whether an image is still there
    Errors: SystemFailure when the database cannot be opened; later ones make the cache forget, and no build fail.
    """

    def __init__(self, path: Path, exists: Callable[[str], bool]) -> None:
        self._database = Database(path, _SCHEMA)
        self._run = self._database.run
        self._exists = exists
        self._working: dict[str, threading.Event] = {}
        self._used: dict[str, tuple[int, int]] = {}  # key -> when it was used last, how often; not written down yet

    def close(self) -> None:
        self.note_uses()
        self._database.close()

    # -- steps --------------------------------------------------------------------------------------------------------

    def find(self, key: str) -> str:
        """The image of a step, "" when it is not known or has been removed."""
        rows = self._run("SELECT image FROM steps WHERE key = ?", (key,))
        if not rows:
            return ""
        image: str = rows[0][0]
        if not self._exists(image):
            self._run("DELETE FROM steps WHERE key = ?", (key,))
            return ""
        with self._database.lock:
            self._used[key] = (time.time_ns(), self._used.get(key, (0, 0))[1] + 1)
        return image

    def note_uses(self) -> None:
        """Write down what has been used, all of it at once: after each build, and before it is looked at."""
        with self._database.lock:
            rows = [(moment, count, key) for key, (moment, count) in self._used.items()]
            self._used.clear()
            if rows:
                with contextlib.suppress(SystemFailure):  # a full disk: the entries are good all the same
                    self._database.run_many("UPDATE steps SET used = ?, uses = uses + ? WHERE key = ?", rows)

    def add(self, key: str, image: str, *, parent: str, description: str, size: int) -> None:
        """A full disk is no error: the step is done anew next time."""
        now = time.time_ns()
        with contextlib.suppress(SystemFailure):
            self._run(
                "INSERT OR REPLACE INTO steps VALUES (?, ?, ?, ?, ?, ?, 0, ?)",
                (key, image, parent, description[:4096].encode("utf-8", "replace").decode(), now, now, size),
            )

    @contextlib.contextmanager
    def claim(self, key: str, cancellation: Cancellation) -> Iterator[str]:
        """The image of a step; "" makes the caller the one who does it, and others wait for him within the block.

        Errors: Cancelled while waiting.
        """
        while True:
            with self._database.lock:
                image = self.find(key)
                other = None if image else self._working.get(key)
                if not image and other is None:
                    done = self._working[key] = threading.Event()
                    break
            if image:
                yield image
                return
            assert other is not None
            while not other.wait(0.2):
                cancellation.check()
        try:
            yield ""
        finally:
            with self._database.lock:
                del self._working[key]
            done.set()

    def entries(self) -> list[Entry]:
        self.note_uses()
        rows = self._run("SELECT key, image, parent, description, created, used, uses, size FROM steps")
        return [Entry(*row) for row in rows if self._exists(row[1])]

    def remove(self, keys: list[str]) -> None:
        for key in keys:
            self._run("DELETE FROM steps WHERE key = ?", (key,))

    # -- what a miss is explained with --------------------------------------------------------------------------------

    def last_inputs(self, place: str) -> dict[str, str] | None:
        rows = self._run("SELECT inputs FROM inputs WHERE place = ?", (place,))
        if not rows:
            return None
        found = json.loads(zlib.decompress(rows[0][0]))
        return found if isinstance(found, dict) else None

    def remember_inputs(self, place: str, inputs: dict[str, str]) -> None:
        packed = zlib.compress(json.dumps(inputs).encode("utf-8", "surrogatepass"), 1)
        with contextlib.suppress(SystemFailure):
            self._run("INSERT OR REPLACE INTO inputs VALUES (?, ?, ?)", (place, packed, time.time_ns()))
            self._run(
                "DELETE FROM inputs WHERE place IN (SELECT place FROM inputs ORDER BY used DESC LIMIT -1 OFFSET ?)",
                (_MAX_INPUTS,),
            )

    # -- cache mounts -------------------------------------------------------------------------------------------------

    def use_mount(self, mount_id: str, description: str) -> None:
        now = time.time_ns()
        self._run(
            "INSERT INTO mounts VALUES (?, ?, ?, ?, 1) "
            "ON CONFLICT(id) DO UPDATE SET used = excluded.used, uses = uses + 1",
            (mount_id, description, now, now),
        )

    def mounts(self) -> list[CacheMount]:
        return [CacheMount(*row) for row in self._run("SELECT id, description, created, used, uses FROM mounts")]

    def forget_mount(self, mount_id: str) -> None:
        self._run("DELETE FROM mounts WHERE id = ?", (mount_id,))

    # -- containers of steps that run now -----------------------------------------------------------------------------

    def container_began(self, container_id: str) -> None:
        self._run("INSERT OR REPLACE INTO containers VALUES (?)", (container_id,))

    def container_ended(self, container_id: str) -> None:
        """A full disk is no error, and least of all the reason why a step failed: the next daemon looks for it then."""
        with contextlib.suppress(SystemFailure):
            self._run("DELETE FROM containers WHERE id = ?", (container_id,))

    def leftover_containers(self) -> list[str]:
        """Of steps that a daemon's end has interrupted."""
        return [row[0] for row in self._run("SELECT id FROM containers")]
