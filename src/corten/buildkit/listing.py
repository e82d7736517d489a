"""What a client says of its files, checked: a listing is sorted, complete above each entry, and stays in its tree.

Source: tonistiigi/fsutil, ``validator.go`` (order), ``hardlinks.go``; modes are those of Go's os.FileMode.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from corten.build.tree import Node
from corten.errors import InvalidParameter
from corten.image import tarheader as header

if TYPE_CHECKING:
    from corten.buildkit.proto.fsutil_pb2 import Stat

MAX_ENTRIES = 2_000_000
MAX_NAMES = 512 << 20  # bytes of all paths, links and attributes together
_MAX_PATH = 4096
_MAX_XATTR_NAME = 255  # XATTR_NAME_MAX, XATTR_SIZE_MAX of the kernel
_MAX_XATTR = 64 << 10
_MAX_SIZE = 1 << 50
_MAX_DEVICE = 1 << 20
_NO_DEVICE = (0, 0)
_SHOWN = 200

# os.FileMode
PERMISSIONS = 0o777
DIRECTORY = 1 << 31
SYMLINK = 1 << 27
DEVICE = 1 << 26
NAMED_PIPE = 1 << 25
SOCKET = 1 << 24
CHARACTER = 1 << 21
IRREGULAR = 1 << 19
_TYPE = DIRECTORY | SYMLINK | DEVICE | NAMED_PIPE | SOCKET | CHARACTER | IRREGULAR
_KINDS = {
    0: header.REGULAR,
    DIRECTORY: header.DIRECTORY,
    SYMLINK: header.SYMLINK,
    DEVICE: header.BLOCK_DEVICE,
    DEVICE | CHARACTER: header.CHARACTER,
    NAMED_PIPE: header.FIFO,
}
_SPECIAL = {1 << 23: 0o4000, 1 << 22: 0o2000, 1 << 20: 0o1000}  # set-user-id, set-group-id, sticky
_ANY_SPECIAL = sum(_SPECIAL)
_UNCLEAN = re.compile(rb"(?:\A|/)(?:\.{0,2})(?:/|\Z)|\0")
# attributes that mean something in an image; others belong to the client's machine
_KEPT = ("security.capability", "user.")


def go_mode(node: Node) -> int:
    """A node's mode as os.FileMode."""
    kind = next(bits for bits, kind in _KINDS.items() if kind == node.kind)
    special = sum(bit for bit, mode in _SPECIAL.items() if node.mode & mode)
    return kind | special | (node.mode & PERMISSIONS)


def can_be_asked_for(mode: int) -> bool:
    """Whether the sender gives this entry's number a content."""
    return not mode & _TYPE


class Entry:
    """One file, directory, link or device as a client lists it, proven as far as that can be done without the others.

    first: for a further name of a file the path of its first one, else ""
    can_be_asked_for: whether the sender gives its number a content; digest: of that, when an earlier build had it
    parent, name: its path; weight: bytes of all names
    """

    __slots__ = ("can_be_asked_for", "digest", "first", "name", "node", "parent", "path", "weight")

    def __init__(self, stat: Stat) -> None:
        """Errors: InvalidParameter."""
        path: bytes = stat.path
        if len(path) > _MAX_PATH or _UNCLEAN.search(path):
            raise _wrong(path, "is no path below the directory")
        mode, size, linkname = stat.mode, stat.size, stat.linkname
        kind = _KINDS.get(mode & _TYPE)
        if kind is None:
            raise _wrong(path, f"is of no known kind (mode {mode:#o})")
        if not 0 <= size <= _MAX_SIZE:
            raise _wrong(path, f"has a size of {size}")
        link = _link(path, linkname) if linkname else ""
        if kind == header.SYMLINK and not link:
            raise _wrong(path, "is a link to nothing")
        xattrs = _xattrs(path, stat)
        self.node = Node(
            kind=kind,
            mode=(mode & PERMISSIONS) | (mode & _ANY_SPECIAL and _special(mode)),
            mtime_ns=stat.modTime,
            size=size if kind == header.REGULAR else 0,
            link=link if kind == header.SYMLINK else "",
            device=_device(path, kind, stat),
            xattrs=xattrs,
        )
        self.path = os.fsdecode(path)
        self.first = link if kind == header.REGULAR else ""
        self.can_be_asked_for = can_be_asked_for(mode)
        self.digest: bytes | None = None
        self.parent, _, self.name = path.rpartition(b"/")
        self.weight = len(path) + len(linkname)
        if xattrs:
            self.weight += sum(len(name) + len(value) for name, value in xattrs)


class Listing:
    """Entries in the order in which they come."""

    def __init__(self) -> None:
        self._open: list[tuple[bytes, bytes]] = [(b"", b"")]  # directories above the next entry, last name in each
        self._count = 0
        self._bytes = 0

    def take(self, entry: Entry) -> None:
        """Errors: InvalidParameter for one that cannot come now."""
        self._count += 1
        self._bytes += entry.weight
        if self._count > MAX_ENTRIES or self._bytes > MAX_NAMES:
            raise InvalidParameter(f"the client lists too many files: {self._count}, {self._bytes} bytes of names")
        parent, name = entry.parent, entry.name
        above = self._open
        while above and above[-1][0] != parent:
            above.pop()
        if not above or above[-1][1] >= name:
            raise _wrong(os.fsencode(entry.path), "is listed out of order, twice, or without its directory")
        above[-1] = (parent, name)
        if entry.node.kind == header.DIRECTORY:
            above.append((os.fsencode(entry.path), b""))


def _special(mode: int) -> int:
    return sum(bit for of_go, bit in _SPECIAL.items() if mode & of_go)


def _device(path: bytes, kind: int, stat: Stat) -> tuple[int, int]:
    if not stat.devmajor and not stat.devminor:
        return _NO_DEVICE
    if kind in (header.BLOCK_DEVICE, header.CHARACTER) and not (
        0 <= stat.devmajor < _MAX_DEVICE and 0 <= stat.devminor < _MAX_DEVICE
    ):
        raise _wrong(path, "is a device with impossible numbers")
    return stat.devmajor, stat.devminor


def _link(path: bytes, link: bytes) -> str:
    if len(link) > _MAX_PATH or b"\0" in link:
        raise _wrong(path, "is a link to an impossible path")
    return os.fsdecode(link)


def _xattrs(path: bytes, stat: Stat) -> tuple[tuple[bytes, bytes], ...]:
    if not stat.xattrs:
        return ()
    kept = sorted((name.encode(), value) for name, value in stat.xattrs.items() if name.startswith(_KEPT))
    if any(b"\0" in name or len(name) > _MAX_XATTR_NAME or len(value) > _MAX_XATTR for name, value in kept):
        raise _wrong(path, "has an impossible extended attribute")
    return tuple(kept)


def _wrong(path: bytes, what: str) -> InvalidParameter:
    return InvalidParameter(f"the client's listing is invalid: {os.fsdecode(path)[:_SHOWN]!r} {what}")
