"""Volumes in the engine's database: their names, labels, options and users.  Every change is one transaction."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from dataclasses import dataclass
from typing import Any

from corten.errors import SystemFailure

_SCHEMA = """
CREATE TABLE IF NOT EXISTS volumes (
    name TEXT PRIMARY KEY, created_ns INTEGER NOT NULL, labels TEXT NOT NULL, options TEXT NOT NULL,
    filling INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS volume_references (
    name TEXT NOT NULL, container TEXT NOT NULL, PRIMARY KEY (name, container)
) WITHOUT ROWID;
"""
_COLUMNS = "name, created_ns, labels, options, filling"


@dataclass(frozen=True, slots=True)
class VolumeRow:
    """created_ns: since the epoch;  options: of the driver;  filling: its copy-up has begun and not ended."""

    name: str
    created_ns: int
    labels: dict[str, str]
    options: dict[str, str]
    filling: bool


def _row(values: tuple[Any, ...]) -> VolumeRow:
    return VolumeRow(values[0], values[1], json.loads(values[2]), json.loads(values[3]), bool(values[4]))


class VolumeTable:
    """Usable from any thread.  Errors of all methods: SystemFailure when the disk refuses."""

    def __init__(self, database: sqlite3.Connection) -> None:
        """database: in autocommit mode, not bound to a thread"""
        self._database = database
        self._lock = threading.Lock()
        database.executescript(_SCHEMA)

    def _run(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        try:
            with self._lock:
                return self._database.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            raise SystemFailure(f"cannot read or save volumes: {error}", step="save state") from error

    def all(self) -> list[VolumeRow]:
        """By name."""
        return [_row(values) for values in self._run(f"SELECT {_COLUMNS} FROM volumes ORDER BY name")]

    def find(self, name: str) -> VolumeRow | None:
        rows = self._run(f"SELECT {_COLUMNS} FROM volumes WHERE name=?", name)
        return _row(rows[0]) if rows else None

    def add(self, name: str, labels: dict[str, str], options: dict[str, str]) -> None:
        self._run(
            "INSERT INTO volumes VALUES (?, ?, ?, ?, 0)",
            *(name, time.time_ns(), json.dumps(labels), json.dumps(options)),
        )

    def remove(self, name: str) -> None:
        self._run("DELETE FROM volumes WHERE name=?", name)

    def set_filling(self, name: str, filling: bool) -> None:
        self._run("UPDATE volumes SET filling=? WHERE name=?", int(filling), name)

    # -- users --------------------------------------------------------------------------------------------------------

    def refer(self, name: str, container_id: str) -> None:
        self._run("INSERT OR IGNORE INTO volume_references VALUES (?, ?)", name, container_id)

    def release(self, container_id: str) -> None:
        """The container uses no volume any more."""
        self._run("DELETE FROM volume_references WHERE container=?", container_id)

    def users(self, name: str) -> list[str]:
        """Ids of the containers that name a volume."""
        rows = self._run("SELECT container FROM volume_references WHERE name=? ORDER BY container", name)
        return [row[0] for row in rows]

    def all_users(self) -> set[str]:
        return {row[0] for row in self._run("SELECT DISTINCT container FROM volume_references")}

    def used(self) -> set[str]:
        """Names of the volumes that some container names."""
        return {row[0] for row in self._run("SELECT DISTINCT name FROM volume_references")}
