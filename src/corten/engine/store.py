"""The engine's state on disk: one SQLite database in WAL mode.

A change is one transaction: complete or absent after a crash.  ``synchronous=NORMAL`` keeps the database consistent
through a power cut; the last commits before one may be missing, never half there
(sqlite.org/pragma.html#pragma_synchronous).
"""

from __future__ import annotations

import fcntl
import logging
import os
import sqlite3
from pathlib import Path

import msgspec

from corten.engine.container import Container
from corten.errors import Conflict, SystemFailure

logger = logging.getLogger(__name__)

SCHEMA_VERSION = 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS containers
    (id TEXT PRIMARY KEY, name TEXT UNIQUE NOT NULL, document BLOB NOT NULL) WITHOUT ROWID;
"""


class RootLock:
    """One daemon per data root: an flock that the kernel drops when the daemon ends, however it ends."""

    def __init__(self, data_root: Path) -> None:
        self._fd = os.open(data_root / "daemon.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            owner = os.pread(self._fd, 32, 0).decode(errors="replace").strip()
            os.close(self._fd)
            raise Conflict(f"another daemon (pid {owner or 'unknown'}) uses the data root {data_root}") from None
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        os.close(self._fd)


class Store:
    """Containers by id.  Used from the event loop's thread only: a commit takes well under a millisecond."""

    def __init__(self, data_root: Path) -> None:
        """Errors: SystemFailure when the database is of a newer version or cannot be opened."""
        path = data_root / "corten.db"
        try:
            self.connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            path.chmod(0o600)
            self.connection.execute("PRAGMA journal_mode=WAL")
            self.connection.execute("PRAGMA synchronous=NORMAL")
            self.connection.executescript(_SCHEMA)
            self._check_version(path)
        except sqlite3.Error as error:
            raise SystemFailure(f"cannot open the state database {path}: {error}", step="open state") from error
        self._encode = msgspec.json.Encoder().encode
        self._unsaved: dict[str, Container] = {}
        self._decode = msgspec.json.Decoder(Container).decode

    def _check_version(self, path: Path) -> None:
        row = self.connection.execute("SELECT value FROM meta WHERE key='schema'").fetchone()
        if row is None:
            self.connection.execute("INSERT INTO meta VALUES ('schema', ?)", (str(SCHEMA_VERSION),))
        elif int(row[0]) > SCHEMA_VERSION:
            raise SystemFailure(
                f"the state database {path} has schema version {row[0]}, this corten knows up to {SCHEMA_VERSION}",
                step="open state",
            )

    def containers(self) -> list[Container]:
        """All records; one that cannot be read is logged and left where it is."""
        found = []
        for container_id, document in self.connection.execute("SELECT id, document FROM containers"):
            try:
                found.append(self._decode(document))
            except msgspec.DecodeError as error:
                logger.error("the record of container %s is damaged and is left out: %s", container_id, error)
        return found

    def save(self, container: Container) -> None:
        """Insert or replace.  Errors: SystemFailure when the disk refuses."""
        self._write(container)
        self._unsaved.pop(container.id, None)
        while self._unsaved:
            other = next(iter(self._unsaved.values()))
            try:
                self._write(other)
            except SystemFailure:
                return
            del self._unsaved[other.id]

    def record(self, container: Container) -> bool:
        """Save what has happened and cannot be taken back: a full disk must not keep a program from being stopped.

        Whether it was saved; if not, it is logged and written together with the next record that the disk takes.
        """
        try:
            self.save(container)
        except SystemFailure as error:
            logger.error("%s: it is tried again later", error)
            self._unsaved[container.id] = container
            return False
        return True

    def is_saved(self, container: Container) -> bool:
        return container.id not in self._unsaved

    def _write(self, container: Container) -> None:
        try:
            self.connection.execute(
                "INSERT INTO containers VALUES (?, ?, ?) "
                "ON CONFLICT(id) DO UPDATE SET name=excluded.name, document=excluded.document",
                (container.id, container.name, self._encode(container)),
            )
        except sqlite3.Error as error:
            raise SystemFailure(f"cannot save container {container.id}: {error}", step="save state") from error

    def remove(self, container_id: str) -> None:
        """Errors: SystemFailure when the disk refuses."""
        try:
            self.connection.execute("DELETE FROM containers WHERE id=?", (container_id,))
        except sqlite3.Error as error:
            raise SystemFailure(f"cannot forget container {container_id}: {error}", step="save state") from error
        self._unsaved.pop(container_id, None)

    def close(self) -> None:
        self.connection.close()
