"""A build's context: what came as a tar, indexed, its data in one file without a name.

No file of it is ever made on disk: names, modes and links are a table, data are ranges of the spool.  What nobody uses
costs a write and nothing else, so a context of 50,000 files of which one is copied is read at the speed of the socket.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from corten.build.small_files import read_dockerfile, read_ignore
from corten.build.tree import CHUNK, ROOT, Node
from corten.dockerfile.ignore import Ignore, read_patterns
from corten.errors import InvalidParameter
from corten.image import tarheader as header
from corten.image.compression import DEFAULT_LIMITS, Limits, decompressed
from corten.image.directories import clean
from corten.image.pipes import Chunks
from corten.image.tarheader import TarEntry
from corten.image.tarstream import TarReader

_BUFFER = 1 << 20
_MAX_ENTRIES = 4_000_000
_MAX_HOLES = 16 << 30
_KNOWN = frozenset(
    {
        header.REGULAR,
        header.DIRECTORY,
        header.SYMLINK,
        header.CHARACTER,
        header.BLOCK_DEVICE,
        header.FIFO,
    }
)


class Context:
    """A ``Tree``.  Owners are root: what a client's files belong to means nothing here (Dockerfile reference, COPY)."""

    def __init__(self, scratch: Path) -> None:
        """scratch: a directory on the file system that takes the data."""
        flags = os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC
        self._spool = os.open(scratch, flags, 0o600)
        self._end = 0
        self._pending = bytearray()
        self._nodes: dict[str, Node] = {"": ROOT}
        self._children: dict[str, dict[str, None]] = {"": {}}
        self._digests: dict[str, bytes] = {}
        self.dockerfile: bytes | None = None  # as it was before it may have been ignored

    def close(self) -> None:
        if self._spool >= 0:
            os.close(self._spool)
            self._spool = -1

    # -- filling ------------------------------------------------------------------------------------------------------

    def read_tar(self, source: Chunks, limits: Limits = DEFAULT_LIMITS) -> None:
        """Take in an archive in any compression.

        Errors: InvalidParameter, DataLoss (bad archive), OSError (no space).
        """
        _, plain = decompressed(source, limits)
        reader = TarReader(plain)
        count = 0
        while (entry := reader.next()) is not None:
            count += 1
            if count > _MAX_ENTRIES:
                raise InvalidParameter(f"invalid tar archive: more than {_MAX_ENTRIES} entries")
            path = os.fsdecode(clean(entry.name))
            if entry.kind == header.HARDLINK:
                self._hard_link(entry, path)
            elif entry.kind in _KNOWN and path:
                self.add(path, self._made(entry, self._data(entry, reader)))
        self._flush()

    def _data(self, entry: TarEntry, reader: TarReader) -> int:
        """Put the data into the spool; where they begin."""
        if entry.kind != header.REGULAR:
            return 0
        if entry.sparse is not None:
            return self._sparse(entry, reader)
        place = self._end + len(self._pending)
        while reader.remaining:
            self._pending += reader.read_some()
            if len(self._pending) >= _BUFFER:
                self._flush()
        return place

    def _sparse(self, entry: TarEntry, reader: TarReader) -> int:
        if entry.real_size - entry.size > _MAX_HOLES:
            raise InvalidParameter(
                f"invalid tar archive: {header.shown(entry.name)} has holes of {entry.real_size} bytes"
            )
        self._flush()
        place = self._end
        os.ftruncate(self._spool, place + entry.real_size)
        for offset, length in entry.sparse or ():
            while length:
                view = reader.read_some(min(length, CHUNK))
                os.pwrite(self._spool, view, place + offset)
                offset += len(view)
                length -= len(view)
        self._end = place + entry.real_size
        return place

    def _flush(self) -> None:
        view = memoryview(bytes(self._pending))
        self._pending.clear()
        while view:
            written = os.pwrite(self._spool, view, self._end)
            self._end += written
            view = view[written:]

    @staticmethod
    def _made(entry: TarEntry, place: int) -> Node:
        return Node(
            kind=entry.kind,
            mode=entry.mode,
            mtime_ns=entry.mtime_ns,
            size=entry.real_size if entry.kind == header.REGULAR else 0,
            link=os.fsdecode(entry.linkname) if entry.kind == header.SYMLINK else "",
            device=(entry.devmajor, entry.devminor),
            xattrs=tuple(sorted((entry.xattrs or {}).items())),
            place=place,
        )

    def _hard_link(self, entry: TarEntry, path: str) -> None:
        target = os.fsdecode(clean(entry.linkname, "link"))
        node = self._nodes.get(target)
        if node is None or node.is_directory or not path:
            raise InvalidParameter(f"invalid tar archive: {header.shown(entry.name)} is a link to nothing")
        self.add(path, node)

    def add(self, path: str, node: Node) -> None:
        """Put a file, link or directory in; directories above it are made, what was there is replaced."""
        parent, _, name = path.rpartition("/")
        if parent not in self._children:
            self._imply(parent)
        known = self._nodes.get(path)
        if known is not None and known.is_directory and not node.is_directory:
            self.remove(path)
        self._nodes[path] = node
        self._digests.pop(path, None)
        self._children[parent][name] = None
        if node.is_directory and path not in self._children:
            self._children[path] = {}

    def add_file(self, path: str, content: bytes, mode: int = 0o644) -> None:
        self._flush()
        place = self._end
        self._pending += content
        self._flush()
        self.add(path, Node(header.REGULAR, mode, size=len(content), place=place))

    def add_stream(self, path: str, chunks: Iterable[bytes], *, mode: int, mtime_ns: int = 0) -> Node:
        """A file whose size is known at its end."""
        self._flush()
        place = self._end
        for chunk in chunks:
            self._pending += chunk
            if len(self._pending) >= _BUFFER:
                self._flush()
        self._flush()
        node = Node(header.REGULAR, mode, mtime_ns=mtime_ns, size=self._end - place, place=place)
        self.add(path, node)
        return node

    def _imply(self, path: str) -> None:
        parts = path.split("/")
        for count in range(1, len(parts) + 1):
            above = "/".join(parts[:count])
            if above not in self._children:
                self.add(above, ROOT)

    def remove(self, path: str) -> None:
        """With all that is below it.  Nothing there is no error."""
        pending = [path]
        while pending:
            place = pending.pop()
            pending += [f"{place}/{name}" for name in self._children.pop(place, ())]
            self._nodes.pop(place, None)
            self._digests.pop(place, None)
        parent, _, name = path.rpartition("/")
        self._children.get(parent, {}).pop(name, None)

    def ignore(self, dockerfile: str) -> None:
        """Leave out what the ignore file says: ``<Dockerfile>.dockerignore``, else ``.dockerignore``.

        The Dockerfile can be read all the same, as it could on the client's side.
        Errors: InvalidParameter for bad patterns.
        """
        self.dockerfile = self.find_dockerfile(dockerfile)
        content = read_ignore(self, dockerfile)
        if content is None:
            return
        ignore = Ignore(read_patterns(content))
        if not ignore:
            return
        excluded = {path for path in self._nodes if path and ignore.excludes(path)}
        # a directory stays when an exception keeps something below it
        for path in sorted(excluded, key=len, reverse=True):
            if not self._children.get(path):
                self.remove(path)

    def find_dockerfile(self, name: str) -> bytes | None:
        """The content of the Dockerfile of that name; "Dockerfile" may be written in lower case."""
        return read_dockerfile(self, name) if self.dockerfile is None else self.dockerfile

    # -- reading ------------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._nodes) - 1

    def node(self, path: str) -> Node | None:
        return self._nodes.get(path)

    def names(self, path: str) -> list[str]:
        return sorted(self._children[path])

    def chunks(self, path: str, node: Node) -> Iterator[bytes]:
        offset, left = node.place, node.size
        while left:
            data = os.pread(self._spool, min(CHUNK, left), offset)
            if not data:
                raise InvalidParameter(f"the context is cut short in {path}")
            offset += len(data)
            left -= len(data)
            yield data

    def digest(self, path: str, node: Node) -> bytes:
        known = self._digests.get(path)
        if known is None:
            running = hashlib.sha256()
            for chunk in self.chunks(path, node):
                running.update(chunk)
            known = self._digests[path] = running.digest()
        return known

    def paths(self) -> Iterator[str]:
        return (path for path in self._nodes if path)
