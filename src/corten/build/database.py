"""SQLite files that builds keep: the cache of steps and the history."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from corten.errors import SystemFailure


class Database:
    """One file, readable by its owner alone.  Thread-safe: one statement at a time; each call is a transaction.

    lock: to be held where several statements are one step
    Errors of all methods but ``close``: SystemFailure.
    """

    def __init__(self, path: Path, schema: str) -> None:
        """schema: statements that make what is missing"""
        self.lock = threading.RLock()
        self._name = path.name
        try:
            self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=10)
            path.chmod(0o600)
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.execute("PRAGMA synchronous=NORMAL")
            self._connection.executescript(schema)
        except sqlite3.Error as error:
            raise SystemFailure(f"cannot open {path}: {error}", step=f"open {path.name}") from error

    def close(self) -> None:
        with self.lock:
            self._connection.close()

    def run(self, statement: str, values: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        """The rows of one statement."""
        with self.lock:
            try:
                return self._connection.execute(statement, values).fetchall()
            except sqlite3.Error as error:
                raise SystemFailure(f"{self._name}: {error}", step=self._name) from error

    def run_many(self, statement: str, rows: Sequence[tuple[Any, ...]]) -> None:
        """One statement with each of these values, as one transaction."""
        with self.lock:
            try:
                self._connection.execute("BEGIN")
                try:
                    self._connection.executemany(statement, rows)
                    self._connection.execute("COMMIT")
                except BaseException:
                    self._connection.execute("ROLLBACK")
                    raise
            except sqlite3.Error as error:
                raise SystemFailure(f"{self._name}: {error}", step=self._name) from error
