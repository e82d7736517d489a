"""What is known about images, tags and layers: ``images.db`` (SQLite, WAL), and tables in memory for reading.

A change is one transaction, then a change in memory, both under one lock; readers see either all of it or nothing.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from corten.errors import SystemFailure

_VERSION = 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS layers (
    key TEXT PRIMARY KEY,          -- chain ID; "host:…" for layers above the machine's own root
    parent TEXT NOT NULL,          -- key of the layer below, "" for a base
    diff_id TEXT NOT NULL,         -- "" for a directory of the host
    snapshot TEXT NOT NULL UNIQUE,
    size INTEGER NOT NULL,         -- bytes of file content
    tar_size INTEGER NOT NULL,     -- bytes of the uncompressed archive
    created INTEGER NOT NULL       -- ns
) STRICT;
CREATE INDEX IF NOT EXISTS layers_by_diff_id ON layers(diff_id);
CREATE TABLE IF NOT EXISTS images (
    id TEXT PRIMARY KEY,
    parent TEXT NOT NULL,
    added INTEGER NOT NULL,        -- ns, when it came into this store
    kind TEXT NOT NULL             -- "" or "host"
) STRICT;
CREATE TABLE IF NOT EXISTS image_layers (
    image TEXT NOT NULL REFERENCES images(id) ON DELETE CASCADE,
    position INTEGER NOT NULL,
    layer TEXT NOT NULL REFERENCES layers(key),
    PRIMARY KEY (image, position)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS tags (
    name TEXT PRIMARY KEY,         -- canonical: docker.io/library/busybox:latest
    image TEXT NOT NULL REFERENCES images(id) ON DELETE CASCADE,
    tagged INTEGER NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS digests (
    name TEXT PRIMARY KEY,         -- canonical: docker.io/library/busybox@sha256:…
    image TEXT NOT NULL REFERENCES images(id) ON DELETE CASCADE
) STRICT;
CREATE TABLE IF NOT EXISTS blobs (
    diff_id TEXT NOT NULL,         -- of a stored layer
    digest TEXT NOT NULL,          -- of a blob that holds it
    repository TEXT NOT NULL,      -- where that blob is known to be: docker.io/library/busybox
    size INTEGER NOT NULL,         -- bytes of the blob
    media_type TEXT NOT NULL,
    seen INTEGER NOT NULL,         -- ns
    PRIMARY KEY (diff_id, digest, repository)
) STRICT, WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True)
class Layer:
    key: str
    parent: str
    diff_id: str
    snapshot: str
    size: int
    tar_size: int
    created: int

    @property
    def chain_id(self) -> str:
        """The key without what tells stacks on the machine's root apart."""
        return "sha256:" + self.key.rpartition("sha256:")[2]

    @property
    def is_host(self) -> bool:
        """A directory of this machine: it has no archive and cannot leave."""
        return not self.diff_id


@dataclass(frozen=True, slots=True)
class Blob:
    """A layer as a registry keeps it: which layer, which blob of how many bytes, in which repository."""

    diff_id: str
    digest: str
    repository: str
    size: int
    media_type: str
    seen: int


@dataclass(frozen=True, slots=True)
class ImageRecord:
    id: str
    parent: str
    added: int
    kind: str
    layers: tuple[str, ...]
    tags: tuple[str, ...] = ()
    digests: tuple[str, ...] = ()


@dataclass(slots=True)
class _Tables:
    layers: dict[str, Layer] = field(default_factory=dict)
    images: dict[str, ImageRecord] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)
    tagged: dict[str, int] = field(default_factory=dict)


class Metadata:
    """Open with the data root; ``lock`` may be held by callers to make several steps one."""

    def __init__(self, data_root: Path) -> None:
        self.lock = threading.RLock()
        path = data_root / "images.db"
        try:
            self._database = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=10)
            path.chmod(0o600)
            self._database.execute("PRAGMA journal_mode=WAL")
            self._database.execute("PRAGMA synchronous=NORMAL")
            self._database.execute("PRAGMA foreign_keys=ON")
            version = self._database.execute("PRAGMA user_version").fetchone()[0]
            if version > _VERSION:
                raise SystemFailure(
                    f"{path} was written by a newer version of Corten (schema {version})", step="open images.db"
                )
            self._database.executescript(_SCHEMA)
            self._database.execute(f"PRAGMA user_version={_VERSION}")
            self._tables = self._read()
        except sqlite3.Error as error:
            raise SystemFailure(f"cannot open {path}: {error}", step="open images.db") from error

    def close(self) -> None:
        with self.lock:
            self._database.close()

    def _read(self) -> _Tables:
        rows = self._database.execute
        tables = _Tables()
        for row in rows("SELECT key, parent, diff_id, snapshot, size, tar_size, created FROM layers"):
            tables.layers[row[0]] = Layer(*row)
        stacks: dict[str, list[str]] = {}
        for image, layer in rows("SELECT image, layer FROM image_layers ORDER BY image, position"):
            stacks.setdefault(image, []).append(layer)
        tables.tags = dict(rows("SELECT name, image FROM tags"))
        tables.tagged = dict(rows("SELECT name, tagged FROM tags"))
        tables.digests = dict(rows("SELECT name, image FROM digests"))
        for image, parent, added, kind in rows("SELECT id, parent, added, kind FROM images"):
            tables.images[image] = ImageRecord(image, parent, added, kind, tuple(stacks.get(image, ())))
        for image in tables.images:
            _refresh_names(tables, image)
        return tables

    @contextlib.contextmanager
    def change(self) -> Iterator[Change]:
        """One transaction.  When the block raises nothing has happened.

        Errors: SystemFailure when the database refuses (full disk).
        """
        with self.lock:
            change = Change(self._database)
            try:
                self._database.execute("BEGIN IMMEDIATE")
                yield change
                self._database.execute("COMMIT")
            except BaseException as error:
                with contextlib.suppress(sqlite3.Error):
                    self._database.execute("ROLLBACK")
                if isinstance(error, sqlite3.Error):
                    raise SystemFailure(f"images.db: {error}", step="write images.db") from error
                raise
            change.apply(self._tables)

    # -- reading ------------------------------------------------------------------------------------------------------

    def images(self) -> list[ImageRecord]:
        with self.lock:
            return list(self._tables.images.values())

    def image(self, image_id: str) -> ImageRecord | None:
        return self._tables.images.get(image_id)

    def layers(self) -> list[Layer]:
        with self.lock:
            return list(self._tables.layers.values())

    def layer(self, key: str) -> Layer | None:
        return self._tables.layers.get(key)

    def layer_by_diff_id(self, diff_id: str) -> Layer | None:
        """Any layer with that content."""
        with self.lock:
            return next((layer for layer in self._tables.layers.values() if layer.diff_id == diff_id), None)

    def tagged(self, name: str) -> str | None:
        """The image id of a canonical name with a tag."""
        return self._tables.tags.get(name)

    def tagged_at(self, name: str) -> int:
        """When a canonical name was given, ns; 0 when it is not."""
        return self._tables.tagged.get(name, 0)

    def names(self) -> list[tuple[str, str]]:
        """Every canonical name, with a tag or a digest, and the id of its image."""
        with self.lock:
            return sorted([*self._tables.tags.items(), *self._tables.digests.items()])

    def digested(self, name: str) -> str | None:
        return self._tables.digests.get(name)

    def blobs_of(self, diff_id: str) -> list[Blob]:
        """Blobs that are known to hold a layer, the one seen last first."""
        with self.lock:
            rows = self._database.execute(
                "SELECT diff_id, digest, repository, size, media_type, seen FROM blobs WHERE diff_id = ? "
                "ORDER BY seen DESC",
                (diff_id,),
            ).fetchall()
        return [Blob(*row) for row in rows]

    def tags_of_repository(self, repository: str) -> dict[str, str]:
        """Canonical tag names of a repository with their images."""
        prefix = repository + ":"
        with self.lock:
            return {name: image for name, image in self._tables.tags.items() if name.startswith(prefix)}


class Change:
    """What one transaction does; the tables in memory follow when it is committed."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._run = database.execute
        self._layers: dict[str, Layer | None] = {}
        self._images: dict[str, ImageRecord | None] = {}
        self._tags: dict[str, str | None] = {}
        self._digests: dict[str, str | None] = {}
        self._tagged: dict[str, int] = {}

    @property
    def new_images(self) -> set[str]:
        return set(self._images)

    def add_layer(self, layer: Layer) -> None:
        self._run(
            "INSERT INTO layers VALUES (?, ?, ?, ?, ?, ?, ?)",
            (layer.key, layer.parent, layer.diff_id, layer.snapshot, layer.size, layer.tar_size, layer.created),
        )
        self._layers[layer.key] = layer

    def remove_layer(self, key: str) -> None:
        self._run(
            "DELETE FROM blobs WHERE diff_id IN (SELECT diff_id FROM layers WHERE key = ?1) AND NOT EXISTS "
            "(SELECT 1 FROM layers WHERE layers.diff_id = blobs.diff_id AND key != ?1)",
            (key,),
        )
        self._run("DELETE FROM layers WHERE key = ?", (key,))
        self._layers[key] = None

    def add_blob(self, blob: Blob) -> None:
        """Remember where a layer's blob is; nothing happens when no such layer is stored."""
        self._run(
            "INSERT OR REPLACE INTO blobs SELECT ?1, ?2, ?3, ?4, ?5, ?6 "
            "WHERE EXISTS (SELECT 1 FROM layers WHERE diff_id = ?1)",
            (blob.diff_id, blob.digest, blob.repository, blob.size, blob.media_type, blob.seen),
        )

    def add_image(self, record: ImageRecord) -> None:
        """Without its names: those are set one by one."""
        self._run("INSERT INTO images VALUES (?, ?, ?, ?)", (record.id, record.parent, record.added, record.kind))
        for position, key in enumerate(record.layers):
            self._run("INSERT INTO image_layers VALUES (?, ?, ?)", (record.id, position, key))
        self._images[record.id] = record

    def remove_image(self, image_id: str) -> None:
        """With all its names."""
        self._run("DELETE FROM images WHERE id = ?", (image_id,))
        self._images[image_id] = None

    def set_tag(self, name: str, image_id: str, at_ns: int) -> None:
        self._run("INSERT OR REPLACE INTO tags VALUES (?, ?, ?)", (name, image_id, at_ns))
        self._tags[name] = image_id
        self._tagged[name] = at_ns

    def remove_tag(self, name: str) -> None:
        self._run("DELETE FROM tags WHERE name = ?", (name,))
        self._tags[name] = None

    def set_digest(self, name: str, image_id: str) -> None:
        self._run("INSERT OR REPLACE INTO digests VALUES (?, ?)", (name, image_id))
        self._digests[name] = image_id

    def remove_digest(self, name: str) -> None:
        self._run("DELETE FROM digests WHERE name = ?", (name,))
        self._digests[name] = None

    def apply(self, tables: _Tables) -> None:
        touched = set(self._images)
        tables.tagged.update(self._tagged)
        for table, changes in ((tables.tags, self._tags), (tables.digests, self._digests)):
            for name, image in changes.items():
                touched.update(item for item in (table.pop(name, None), image) if item)
                if image:
                    table[name] = image
        for key, layer in self._layers.items():
            if layer is None:
                tables.layers.pop(key, None)
            else:
                tables.layers[key] = layer
        for image_id, record in self._images.items():
            if record is None:
                tables.images.pop(image_id, None)
                for table in (tables.tags, tables.digests):
                    for name in [name for name, image in table.items() if image == image_id]:
                        del table[name]
            else:
                tables.images[image_id] = record
        for image_id in touched:
            _refresh_names(tables, image_id)


def _refresh_names(tables: _Tables, image_id: str) -> None:
    record = tables.images.get(image_id)
    if record is not None:
        tables.images[image_id] = replace(
            record,
            tags=tuple(sorted(name for name, image in tables.tags.items() if image == image_id)),
            digests=tuple(sorted(name for name, image in tables.digests.items() if image == image_id)),
        )
