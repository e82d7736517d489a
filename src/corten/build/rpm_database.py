"""The headers in an image's database of rpm: SQLite (``rpmdb.sqlite``), ndb (``Packages.db``) and,
before 4.16, Berkeley DB (``Packages``).

The database is the image's: nothing that it says is executed, and what is broken is a ValueError.
"""

from __future__ import annotations

import contextlib
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from corten.build import rpm_ndb
from corten.build.berkeley_db import HashTable
from corten.build.rpm_header import RpmHeader, read_header
from corten.build.tree import Tree, resolve

PLACES = ("var/lib/rpm", "usr/lib/sysimage/rpm", "usr/share/rpm")
_SQLITE, _BERKELEY, _NDB = "rpmdb.sqlite", "Packages", "Packages.db"
_MAX_DATABASE = 1 << 30
_MAX_STEPS = 10_000  # of the virtual machine's thousands of instructions: a table of a million rows takes fewer
_MAX_BLOB = 64 << 20


def headers(root: Tree) -> Iterator[RpmHeader]:
    """Of all packages.  Errors: ValueError for a database that cannot be read."""
    seen: set[str] = set()
    for place in PLACES:
        for name, read in ((_SQLITE, _of_sqlite), (_NDB, _of_ndb), (_BERKELEY, _of_berkeley_db)):
            found = resolve(root, f"{place}/{name}")
            if found is None or not found[1].is_regular or found[0] in seen:
                continue
            seen.add(found[0])  # the places are links to each other in some distributions
            if found[1].size > _MAX_DATABASE:
                raise ValueError(f"{place}/{name} is larger than {_MAX_DATABASE >> 30} GB")
            yield from (read_header(blob) for blob in read(root, f"{place}/{name}"))
            break


def _copy(root: Tree, path: str, target: Path) -> None:
    found = resolve(root, path)
    if found is None or not found[1].is_regular or found[1].size > _MAX_DATABASE:
        return
    with open(target, "wb") as file:
        for chunk in root.chunks(*found):
            file.write(chunk)


def _of_sqlite(root: Tree, path: str) -> Iterator[bytes]:
    """Its journal is read with it: what rpm has written last may be there alone."""
    with tempfile.TemporaryDirectory(prefix="corten-rpm-") as directory:
        copy = Path(directory, _SQLITE)
        for suffix in ("", "-wal"):
            _copy(root, f"{path}{suffix}", Path(f"{copy}{suffix}"))
        connection = sqlite3.connect(copy)
        try:
            yield from _rows(connection)
        except sqlite3.Error as error:
            raise ValueError(f"{path}: {error}") from None
        finally:
            connection.close()


def _rows(connection: sqlite3.Connection) -> Iterator[bytes]:
    """Of a plain table: nothing is computed by views, virtual tables or columns of the file."""
    steps = iter(range(_MAX_STEPS))
    connection.set_progress_handler(lambda: next(steps, None) is None, 1000)
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _MAX_BLOB)
    connection.execute("PRAGMA trusted_schema = OFF")
    connection.execute("PRAGMA cell_size_check = ON")
    query = "SELECT type, rootpage FROM sqlite_master WHERE name = 'Packages'"
    kind, page = connection.execute(query).fetchone() or ("", 0)
    if kind != "table" or not page:
        raise ValueError("an rpm database has no table of packages")
    columns = "SELECT 1 FROM pragma_table_xinfo('Packages') WHERE hidden"
    if connection.execute(columns).fetchone():
        raise ValueError("an rpm database has columns that are computed")
    connection.set_authorizer(_only_reading)
    for (blob,) in connection.execute("SELECT blob FROM Packages"):
        if not isinstance(blob, bytes):
            raise ValueError("an rpm database has a package that is no header")
        yield blob


def _only_reading(action: int, first: str | None, *_: str | None) -> int:
    if action == sqlite3.SQLITE_SELECT or (action == sqlite3.SQLITE_READ and first == "Packages"):
        return sqlite3.SQLITE_OK
    return sqlite3.SQLITE_DENY


def _of_berkeley_db(root: Tree, path: str) -> Iterator[bytes]:
    with _copied(root, path) as file:
        for key, value in HashTable(file).items():
            if any(key):  # the one with number 0 is a counter
                yield value


def _of_ndb(root: Tree, path: str) -> Iterator[bytes]:
    with _copied(root, path) as file:
        yield from rpm_ndb.blobs(file)


@contextlib.contextmanager
def _copied(root: Tree, path: str) -> Iterator[BinaryIO]:
    """Its content in a file without a name, which can be read anywhere."""
    with tempfile.TemporaryFile(prefix="corten-rpm-") as file:
        found = resolve(root, path)
        for chunk in root.chunks(*found) if found is not None else ():
            file.write(chunk)
        yield file
