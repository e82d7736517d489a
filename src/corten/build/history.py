"""What was built: kept in a database of its own, with the log of every build.

Records say how a build was asked for and what it used, which is what its provenance is made of.  The newest are kept.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from corten.build.database import Database
from corten.errors import InvalidParameter, NotFound, SystemFailure

Document = dict[str, Any]
RUNNING, COMPLETED, ERROR, CANCELED = "running", "completed", "error", "canceled"
_KEPT = 500
_SCHEMA = """
CREATE TABLE IF NOT EXISTS builds (
    id TEXT PRIMARY KEY,
    started INTEGER NOT NULL,      -- ns
    status TEXT NOT NULL,
    record BLOB NOT NULL,          -- JSON, compressed
    log BLOB                       -- JSON, compressed
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS builds_by_time ON builds(started);
"""


@dataclass(slots=True, kw_only=True)
class Record:
    """One build.  Times in nanoseconds, 0 for one that has not ended.

    context: where its files came from; dockerfile: its path; definition: its text
    arguments, labels, secrets (ids), target, platform, network, allow: as they were asked for
    materials: address of what came from outside -> digest; image: the result's id
    attributes, exporters, response: of a build over BuildKit's protocol, as they were asked for and answered
    part_of: the build of several platforms that this is one of; pinned: the client wants it kept
    """

    id: str = field(default_factory=lambda: secrets.token_hex(12))
    name: str = ""
    started: int = 0
    completed: int = 0
    status: str = RUNNING
    error: str = ""
    context: str = ""
    dockerfile: str = ""
    definition: str = ""
    arguments: dict[str, str | None] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    secrets: list[str] = field(default_factory=list)
    target: str = ""
    platform: str = ""
    network: str = ""
    no_cache: bool = False
    allow: list[str] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)
    materials: dict[str, str] = field(default_factory=dict)
    image: str = ""
    steps: int = 0
    cached: int = 0
    attributes: dict[str, str] = field(default_factory=dict)
    exporters: list[Document] = field(default_factory=list)
    response: dict[str, str] = field(default_factory=dict)
    part_of: str = ""
    pinned: bool = False

    def document(self) -> Document:
        return {name: getattr(self, name) for name in self.__slots__}


class History:
    """Thread-safe.  A disk that is full makes it forget, and no build fail.

    Errors: SystemFailure when the database cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._database = Database(path, _SCHEMA)
        self._run = self._database.run
        self._watchers: list[Callable[[], None]] = []
        # a daemon's end has interrupted them
        self._run("UPDATE builds SET status = ? WHERE status = ?", (CANCELED, RUNNING))

    def close(self) -> None:
        self._database.close()

    def put(self, record: Record, log: list[Document] | None = None) -> None:
        with contextlib.suppress(SystemFailure):
            self._run(
                "INSERT OR REPLACE INTO builds VALUES (?, ?, ?, ?, ?)",
                (record.id, record.started, record.status, _packed(record.document()), _packed(log or [])),
            )
            self._forget_old()
        self._tell()

    def _forget_old(self) -> None:
        rows = self._run(
            "SELECT status, record FROM builds WHERE status != ? AND id NOT IN "
            "(SELECT id FROM builds ORDER BY started DESC LIMIT ?)",
            (RUNNING, _KEPT),
        )
        for record in (_record(*row) for row in rows):
            if not record.pinned:
                self._delete(record.id)

    def _delete(self, build: str) -> None:
        self._run("DELETE FROM builds WHERE id = ?", (build,))

    @contextlib.contextmanager
    def watched(self, changed: Callable[[], None]) -> Iterator[None]:
        """For the time of the block ``changed`` is called after each change, by whoever made it."""
        self._watchers.append(changed)
        try:
            yield
        finally:
            self._watchers.remove(changed)

    def _tell(self) -> None:
        for changed in list(self._watchers):
            changed()

    def all(self) -> list[Record]:
        """Newest first."""
        rows = self._run("SELECT status, record FROM builds ORDER BY started DESC, id")
        return [_record(*row) for row in rows]

    def get(self, ref: str) -> Record:
        """By id or its unambiguous beginning; "" is the newest.  Errors: NotFound, InvalidParameter."""
        return _record(*self._find(ref)[:2])

    def log(self, ref: str) -> list[Document]:
        """Errors: as ``get``."""
        found: list[Document] = _unpacked(self._find(ref)[2])
        return found

    def _find(self, ref: str) -> tuple[str, bytes, bytes]:
        order = "SELECT status, record, log FROM builds"
        if not ref:
            rows = self._run(f"{order} ORDER BY started DESC LIMIT 1")
        else:
            rows = self._run(f"{order} WHERE id = ?", (ref,)) or self._run(f"{order} WHERE id = ?", (self._whole(ref),))
        if not rows:
            raise NotFound(f"no record found for build {ref}" if ref else "there is no build yet")
        return rows[0]

    def _whole(self, start: str) -> str:
        """The id of the only build that begins so; the ids of its parts begin with its own.  "" without one.

        Errors: InvalidParameter.
        """
        order = "SELECT id FROM builds WHERE substr(id, 1, ?) = ? ORDER BY length(id)"
        found = [build for (build,) in self._run(order, (len(start), start))]
        if any(not build.startswith(f"{found[0]}-") for build in found[1:]):
            raise InvalidParameter(f"the id {start} is ambiguous: several builds begin with it")
        return found[0] if found else ""

    def remove(self, ref: str) -> None:
        """A build with the other builds that it is made of.  Errors: as ``get``."""
        build = self.get(ref).id
        for part in self._parts(build):
            self._delete(part)
        self._delete(build)
        self._tell()

    def _parts(self, build: str) -> list[str]:
        start = f"{build}-"  # with which their ids begin
        rows = self._run("SELECT status, record FROM builds WHERE substr(id, 1, ?) = ?", (len(start), start))
        return [record.id for record in (_record(*row) for row in rows) if record.part_of == build]


def _packed(document: Any) -> bytes:
    return zlib.compress(json.dumps(document).encode("utf-8", "surrogatepass"), 1)


def _unpacked(data: bytes) -> Any:
    return json.loads(zlib.decompress(data))


def _record(status: str, data: bytes) -> Record:
    known = {name: value for name, value in _unpacked(data).items() if name in Record.__slots__}
    return Record(**{**known, "status": status})
