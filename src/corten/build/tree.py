"""Where COPY takes files from: a context or the root of an image, seen the same way.

Paths are relative to the tree's root, without ".", ".." and slashes at the ends; "" is the root.  Links are followed
inside the tree: nothing outside of it can be named, whatever its links say (an absolute link counts from its root).
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from corten.errors import InvalidParameter
from corten.image import tarheader as header
from corten.image.directories import Directories
from corten.image.extract import OVERLAY_XATTRS

CHUNK = 1 << 20
CAPABILITY = b"security.capability"
_MAX_LINKS = 255
_NO_DEVICE = (0, 0)


@dataclass(frozen=True, slots=True)
class Node:
    """A file, directory, link or device.

    kind: as in a tar header; size: bytes; place: where its tree finds the content
    """

    kind: int
    mode: int
    uid: int = 0
    gid: int = 0
    mtime_ns: int = 0
    size: int = 0
    link: str = ""
    device: tuple[int, int] = (0, 0)
    xattrs: tuple[tuple[bytes, bytes], ...] = ()
    place: int = 0

    @property
    def is_directory(self) -> bool:
        return self.kind == header.DIRECTORY

    @property
    def is_regular(self) -> bool:
        return self.kind == header.REGULAR


ROOT = Node(header.DIRECTORY, 0o755)


class Tree(Protocol):
    def node(self, path: str) -> Node | None:
        """What is at a path without links in its parents; not followed itself."""
        ...

    def names(self, path: str) -> list[str]:
        """Sorted entries of a directory; a path without links."""
        ...

    def chunks(self, path: str, node: Node) -> Iterator[bytes]:
        """Content of a regular file."""
        ...

    def digest(self, path: str, node: Node) -> bytes:
        """SHA-256 of the content of a regular file."""
        ...


def cleaned(path: str) -> str:
    """A path as trees take it.  Errors: InvalidParameter for one that leads out of the tree."""
    parts: list[str] = []
    for part in path.split("/"):
        if part == "..":
            if not parts:
                raise InvalidParameter(f"forbidden path outside the build context: {path} ()")
            parts.pop()
        elif part not in ("", "."):
            parts.append(part)
    return "/".join(parts)


def resolve(tree: Tree, path: str, *, follow: bool = True) -> tuple[str, Node] | None:
    """(path without links, what is there); None when nothing is.  ``follow``: also a link at the end.

    ``..`` at the root stays there.
    Errors: InvalidParameter for too many links.
    """
    pending = [part for part in reversed(path.split("/")) if part not in ("", ".")]
    here: list[str] = []
    node: Node | None = tree.node("")
    links = 0
    while pending:
        part = pending.pop()
        if part == "..":
            if here:
                here.pop()
            node = tree.node("/".join(here))
            continue
        if node is None or not node.is_directory:
            return None
        node = tree.node("/".join([*here, part]))
        if node is None:
            return None
        if node.kind == header.SYMLINK and (pending or follow):
            links += 1
            if links > _MAX_LINKS:
                raise InvalidParameter(f"too many links in {path}")
            pending.extend(item for item in reversed(node.link.split("/")) if item not in ("", "."))
            if node.link.startswith("/"):
                here.clear()
            node = tree.node("/".join(here))
            continue
        here.append(part)
    return ("/".join(here), node) if node is not None else None


def walk(tree: Tree, path: str, node: Node) -> Iterator[tuple[str, Node]]:
    """(path relative to ``path``, node) of everything below a directory, depth first, sorted; not the directory."""
    pending = [(path, "", iter(tree.names(path)))]
    while pending:
        place, relative, names = pending[-1]
        name = next(names, None)
        if name is None:
            pending.pop()
            continue
        child = f"{place}/{name}" if place else name
        found = tree.node(child)
        if found is None:
            continue
        below = f"{relative}/{name}" if relative else name
        yield below, found
        if found.is_directory:
            pending.append((child, below, iter(tree.names(child))))


class RootTree:
    """The files below a directory descriptor that nobody changes meanwhile."""

    def __init__(self, root_fd: int) -> None:
        self._root = root_fd
        self._directories = Directories(root_fd)

    def close(self) -> None:
        self._directories.forget()

    def _parent(self, path: str) -> tuple[int, str]:
        parent, _, base = path.rpartition("/")
        return self._directories.get(os.fsencode(parent)), base or "."

    def node(self, path: str) -> Node | None:
        found = self.look(path)
        return found[0] if found is not None else None

    def look(self, path: str, *, as_context: bool = False) -> tuple[Node, os.stat_result] | None:
        """``node``, with what the kernel says of it.

        as_context: as a context has it: owners are root, of attributes there are capabilities, and those only of what
            can be executed, since a look at each file costs time
        """
        try:
            directory, base = self._parent(path)
            status = os.stat(base, dir_fd=directory, follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            return None
        kind = _KINDS.get(stat.S_IFMT(status.st_mode))
        if kind is None:
            return None  # a socket: no archive holds one
        link = os.readlink(base, dir_fd=directory) if kind == header.SYMLINK else ""
        node = Node(
            kind=kind,
            mode=stat.S_IMODE(status.st_mode),
            uid=0 if as_context else status.st_uid,
            gid=0 if as_context else status.st_gid,
            mtime_ns=status.st_mtime_ns,
            size=status.st_size if kind == header.REGULAR else 0,
            link=link,
            device=(os.major(status.st_rdev), os.minor(status.st_rdev)) if status.st_rdev else _NO_DEVICE,
            xattrs=_capabilities(directory, base, status.st_mode) if as_context else _xattrs(directory, base),
        )
        return node, status

    def names(self, path: str) -> list[str]:
        directory, base = self._parent(path)
        descriptor = os.open(base, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
        try:
            return sorted(os.listdir(descriptor))
        finally:
            os.close(descriptor)

    def open(self, path: str) -> int:
        """A descriptor for reading a file; links are not followed, and nothing that is no file can hold it up."""
        directory, base = self._parent(path)
        return os.open(base, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)

    def chunks(self, path: str, node: Node) -> Iterator[bytes]:
        descriptor = self.open(path)
        try:
            left = node.size
            while left:
                data = os.read(descriptor, min(CHUNK, left))
                if not data:
                    raise InvalidParameter(f"{path} became shorter while it was read")
                left -= len(data)
                yield data
        finally:
            os.close(descriptor)

    def digest(self, path: str, node: Node) -> bytes:
        running = hashlib.sha256()
        for chunk in self.chunks(path, node):
            running.update(chunk)
        return running.digest()


def _capabilities(directory: int, base: str, mode: int) -> tuple[tuple[bytes, bytes], ...]:
    if not (stat.S_ISREG(mode) and mode & 0o111):
        return ()
    try:
        value = os.getxattr(f"/proc/self/fd/{directory}/{base}", CAPABILITY, follow_symlinks=False)
    except OSError:
        return ()
    return ((CAPABILITY, value),)


def _xattrs(directory: int, base: str) -> tuple[tuple[bytes, bytes], ...]:
    place = f"/proc/self/fd/{directory}/{base}"
    try:
        names = os.listxattr(place, follow_symlinks=False)
    except OSError:
        return ()
    found = []
    for name in sorted(names):
        raw = os.fsencode(name)
        if raw.startswith(OVERLAY_XATTRS) or raw == b"security.selinux":
            continue
        found.append((raw, os.getxattr(place, name, follow_symlinks=False)))
    return tuple(found)


_KINDS = {
    stat.S_IFREG: header.REGULAR,
    stat.S_IFDIR: header.DIRECTORY,
    stat.S_IFLNK: header.SYMLINK,
    stat.S_IFCHR: header.CHARACTER,
    stat.S_IFBLK: header.BLOCK_DEVICE,
    stat.S_IFIFO: header.FIFO,
}
