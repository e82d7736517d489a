"""A COPY or ADD as a layer's tar: written from its sources straight into a new layer, without mounting or a container.

What is below matters for three things: where links lead that the target's path goes through, which of its directories
exist (they keep owner and mode), and whether the target is a directory.  Everything else is the overlay's work.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass

from corten.build.contexts import Giving
from corten.build.owners import Mode
from corten.build.selection import Source, members
from corten.build.tree import Node, Tree
from corten.dockerfile.ignore import Ignore
from corten.errors import Conflict, InvalidParameter
from corten.image import tarheader as header
from corten.image import tarwrite
from corten.image.compression import decompressed
from corten.image.directories import clean
from corten.image.pipes import iterated
from corten.image.tarheader import TarEntry
from corten.image.tarstream import TarReader

_GATHER = 1 << 20
_WHITEOUT = ".wh."
_MAX_LINKS = 255
NOTHING = Ignore(())


@dataclass(frozen=True, slots=True)
class Wanted:
    """target: absolute path; to_directory: it was written as one ("/x/", ".")

    owner: for everything; None keeps the sources' own; mode: changes modes; now_ns: time of directories that are made
    """

    sources: Sequence[Source]
    target: str
    to_directory: bool
    now_ns: int
    owner: tuple[int, int] | None = None
    mode: Mode | None = None
    exclude: Ignore = NOTHING


def looks_like_archive(source: Source) -> bool:
    """Whether a file is a tar in a compression that we read: what ADD unpacks."""
    if not source.node.is_regular or not source.node.size:
        return False
    try:
        _, plain = decompressed(iterated(source.tree.chunks(source.path, source.node)))
        return TarReader(plain).next() is not None
    except Exception:  # whatever a file is that does not read as an archive, it is a file
        return False


class LayerTar:
    """base: the root of the image below, None for none.  Use once."""

    def __init__(self, wanted: Wanted, base: Tree | None) -> None:
        self._wanted = wanted
        self._base = base
        self._made: dict[str, bool] = {}  # path -> whether it is a directory
        self._fresh: set[str] = set()  # directories that hide what is below
        self._real: dict[str, str] = {}
        self._parts: list[bytes] = []
        self._held = 0
        self._members = 0
        self.given: dict[int, int] = {}  # see ``image.extract.ExtractOptions``; filled while the archive is made

    def chunks(self) -> Generator[bytes, None, None]:
        """The archive; who does not read it to its end closes it.

        Errors: Conflict (a directory is needed where a file is), InvalidParameter, DataLoss (bad archive).
        """
        yield from self.members()
        yield tarwrite.END

    def members(self) -> Iterator[bytes]:
        """The archive without what marks its end.  Errors: as ``chunks``."""
        wanted = self._wanted
        for source in wanted.sources:
            if source.unpack:
                yield from self._unpacked(source, self._directory(wanted.target))
            elif source.kept is not None or source.node.is_directory:
                yield from self._tree(source)
            else:
                yield from self._file(source)
        yield from self._take(everything=True)

    def directory_only(self) -> list[bytes] | None:
        """The target's directory as a whole tar; None when it is there already."""
        place = self._directory(self._wanted.target)
        if not place or self._is_directory(place):
            return None
        self._above(place)
        self._make(place)
        return [*self._parts, tarwrite.END]

    # -- places -------------------------------------------------------------------------------------------------------

    def _node(self, path: str) -> Node | None:
        return self._base.node(path) if self._base is not None else None

    def _find(self, path: str) -> str:
        """The path with the links of what is below followed; parts that are not there stay as they are.

        Errors: Conflict for a file where a directory is needed.
        """
        pending = [part for part in reversed(path.split("/")) if part not in ("", ".")]
        here: list[str] = []
        links = 0
        while pending:
            part = pending.pop()
            if part == "..":
                here = here[:-1]
                continue
            place = "/".join([*here, part])
            node = None if place in self._made else self._node(place)
            if node is not None and node.kind == header.SYMLINK:
                links += 1
                if links > _MAX_LINKS:
                    raise InvalidParameter(f"too many links in {path}")
                pending.extend(item for item in reversed(node.link.split("/")) if item not in ("", "."))
                if node.link.startswith("/"):
                    here.clear()
                continue
            if pending and not self._is_directory(place, missing=True):
                raise Conflict(f"cannot copy to {path}: {place} is not a directory")
            here.append(part)
        return "/".join(here)

    def _is_directory(self, place: str, *, missing: bool = False) -> bool:
        if place in self._made:
            return self._made[place]
        node = self._node(place)
        return missing if node is None else node.is_directory

    def _directory(self, path: str) -> str:
        place = self._find(path)
        if place and not self._is_directory(place, missing=True):
            raise Conflict(f"cannot copy to non-directory: /{place}")
        return place

    def _parent(self, path: str) -> str:
        """Where the files of a directory of this layer go, when links below lead elsewhere."""
        known = self._real.get(path)
        if known is None:
            known = self._real[path] = path if self._made.get(path) else self._find(path)
        return known

    # -- members ------------------------------------------------------------------------------------------------------

    def _entry(self, path: str, node: Node) -> TarEntry:
        wanted = self._wanted
        if _WHITEOUT in path and (path.startswith(_WHITEOUT) or f"/{_WHITEOUT}" in path):
            raise InvalidParameter(f"the name of {path} means a removed file in a layer: it cannot be copied")
        entry = TarEntry()
        entry.name = os.fsencode(path)
        entry.kind = node.kind
        if node.is_directory:
            entry.name += b"/"
        entry.mode = node.mode
        if wanted.mode is not None and node.kind != header.SYMLINK:
            entry.mode = wanted.mode(node)
        if node.kind == header.SYMLINK:
            entry.mode = 0o777
        entry.uid, entry.gid = wanted.owner or (node.uid, node.gid)
        entry.mtime_ns = node.mtime_ns
        entry.size = entry.real_size = node.size
        entry.linkname = os.fsencode(node.link)
        entry.devmajor, entry.devminor = node.device
        entry.xattrs = dict(node.xattrs) or None
        return entry

    def _put(self, data: bytes) -> None:
        self._parts.append(data)
        self._held += len(data)

    def _head(self, entry: TarEntry) -> None:
        self._members += 1
        self._put(tarwrite.encode(entry))

    def _take(self, *, everything: bool = False) -> Iterator[bytes]:
        if self._held >= _GATHER or (everything and self._held):
            yield b"".join(self._parts)
            self._parts.clear()
            self._held = 0

    def _above(self, path: str) -> None:
        """The directories that lead to a path: those below keep what they are, others are made."""
        parts = path.split("/")
        for count in range(1, len(parts)):
            place = "/".join(parts[:count])
            if self._made.get(place) is False:
                return  # a link of the same archive: the layer's extraction follows it inside the layer
            self._make(place)

    def _make(self, place: str) -> None:
        if not place or self._made.get(place):
            return
        hidden = place in self._made or place.rpartition("/")[0] in self._fresh
        node = None if hidden else self._node(place)
        if node is not None and node.is_directory:
            entry = self._entry(place, node)
            entry.uid, entry.gid, entry.mode = node.uid, node.gid, node.mode
        else:
            made = Node(header.DIRECTORY, 0o755, mtime_ns=self._wanted.now_ns)
            entry = self._entry(place, made)
            entry.mode = made.mode
            self._fresh.add(place)
        self._made[place] = True
        self._head(entry)

    def _member(self, path: str, node: Node, source: Source, place: str) -> Iterator[bytes]:
        """place: where the source's tree has it"""
        self._above(path)
        self._made[path] = node.is_directory
        if node.is_regular and node.size >= _GATHER and isinstance(source.tree, Giving):
            descriptor = source.tree.given(place)
            if descriptor is not None:
                self.given[self._members + 1] = descriptor
        self._head(self._entry(path, node))
        if node.is_regular and node.size:
            for chunk in source.tree.chunks(place, node):
                self._put(chunk)
                yield from self._take()
            self._put(tarwrite.padding(node.size))
        yield from self._take()

    def _file(self, source: Source) -> Iterator[bytes]:
        wanted = self._wanted
        place = self._find(wanted.target)
        if wanted.to_directory or not place or self._is_directory(place):
            if place and not self._is_directory(place, missing=True):
                raise Conflict(f"cannot copy to non-directory: /{place}")
            place = f"{place}/{source.name}" if place else source.name
        for _, node in members(source, wanted.exclude):
            yield from self._member(place, node, source, source.path)

    def _tree(self, source: Source) -> Iterator[bytes]:
        """A directory's content; with ``--parents`` a file or directory below the directories that lead to it."""
        wanted = self._wanted
        top = self._directory(wanted.target)
        if source.kept is not None:
            top = "/".join(part for part in (top, source.kept, source.name) if part)
        if source.node.is_directory:
            self._above(top)
            self._make(top)
        for relative, node in members(source, wanted.exclude):
            if not relative:
                if not node.is_directory:
                    yield from self._member(top, node, source, source.path)
                continue
            place = f"{source.path}/{relative}" if source.path else relative
            yield from self._member(f"{top}/{relative}" if top else relative, node, source, place)

    # -- archives -----------------------------------------------------------------------------------------------------

    def _unpacked(self, source: Source, top: str) -> Iterator[bytes]:
        wanted = self._wanted
        _, plain = decompressed(iterated(source.tree.chunks(source.path, source.node)))
        reader = TarReader(plain)
        self._above(top)
        self._make(top)
        while (entry := reader.next()) is not None:
            relative = os.fsdecode(clean(entry.name))
            if not relative:
                continue
            if wanted.exclude and wanted.exclude.excludes(relative):
                continue
            parent, _, base = (f"{top}/{relative}" if top else relative).rpartition("/")
            parent = self._parent(parent) if parent else ""
            path = f"{parent}/{base}" if parent else base
            self._above(path)
            self._made[path] = entry.kind == header.DIRECTORY
            if entry.kind == header.HARDLINK:
                target = os.fsdecode(clean(entry.linkname, "link"))
                entry.linkname = os.fsencode(f"{top}/{target}" if top else target)
            self._rewrite(entry, path)
            self._head(entry)
            size = reader.remaining
            while reader.remaining:
                self._put(bytes(reader.read_some()))
                yield from self._take()
            self._put(tarwrite.padding(size))
            yield from self._take()

    def _rewrite(self, entry: TarEntry, path: str) -> None:
        wanted = self._wanted
        if _WHITEOUT in path and (path.startswith(_WHITEOUT) or f"/{_WHITEOUT}" in path):
            raise InvalidParameter(f"the name of {path} means a removed file in a layer: it cannot be unpacked")
        entry.name = os.fsencode(path) + (b"/" if entry.kind == header.DIRECTORY else b"")
        if wanted.owner is not None:
            entry.uid, entry.gid = wanted.owner
        if wanted.mode is not None and entry.kind != header.SYMLINK:
            entry.mode = wanted.mode(Node(entry.kind, entry.mode))
