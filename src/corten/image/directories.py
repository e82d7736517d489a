"""Directories below a root that someone hostile may have filled: found by the kernel inside that root, kept open.

Every name is used relative to such a descriptor with its last component never followed, so nothing outside the root can
be reached, whatever links the archive made before.
"""

from __future__ import annotations

import errno
import os

from corten.errors import DataLoss
from corten.image.tarheader import shown
from corten.linux import paths

_FLAGS = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_INSIDE = paths.RESOLVE_IN_ROOT | paths.RESOLVE_NO_MAGICLINKS
_PLAIN = paths.RESOLVE_BENEATH | paths.RESOLVE_NO_SYMLINKS | paths.RESOLVE_NO_MAGICLINKS
_PATH_MAX = 4096
_KEPT = 96


def clean(name: bytes, what: str = "entry") -> bytes:
    """A member's name relative to the root, without ".", "..", doubled and trailing slashes; b"" is the root itself.

    An absolute name counts from the root.
    Errors: DataLoss for a name that leads out of the root.
    """
    if b"//" not in name and b"/." not in name and name[:1] not in (b".", b"/", b""):
        return name[:-1] if name[-1] == 0x2F else name
    kept: list[bytes] = []
    absolute = name.startswith(b"/")
    for part in name.split(b"/"):
        if part == b"..":
            if kept:
                kept.pop()
            elif not absolute:
                raise DataLoss(f"invalid tar archive: {what} {shown(name)} is outside of the archive's root")
        elif part and part != b".":
            kept.append(part)
    return b"/".join(kept)


def split(path: bytes) -> tuple[bytes, bytes]:
    """(parent, last name)."""
    parent, _, base = path.rpartition(b"/")
    return parent, base


class Directories:
    """Descriptors (O_PATH) of directories below ``root_fd``; the last ones used stay open.

    A descriptor is valid until two further calls.  ``forget`` must be called when a directory or a link is replaced.
    """

    def __init__(self, root_fd: int) -> None:
        self._root = root_fd
        self._open: dict[bytes, int] = {}
        self._real: dict[bytes, bytes] = {}
        self._root_path = b""

    def get(self, path: bytes) -> int:
        """The directory at ``path`` (clean); links on the way are followed inside the root.

        Errors: FileNotFoundError, NotADirectoryError, other OSErrors of openat2(2).
        """
        if not path:
            return self._root
        descriptor = self._open.pop(path, -1)
        if descriptor < 0:
            descriptor = self._find(path)
            if len(self._open) >= _KEPT:
                oldest = next(iter(self._open))
                self._real.pop(oldest, None)
                os.close(self._open.pop(oldest))
        self._open[path] = descriptor
        return descriptor

    def real(self, path: bytes) -> bytes:
        """The path without links of a directory that ``get`` has just given."""
        return self._real.get(path, path)

    def _find(self, path: bytes) -> int:
        parent, base = split(path)
        above = self._open.get(parent, -1) if parent else self._root
        try:
            if above >= 0 and parent not in self._real:
                return os.open(base, _FLAGS | os.O_NOFOLLOW, dir_fd=above)
            return self._resolve(path, _PLAIN)
        except OSError as error:
            if error.errno not in (errno.ENOTDIR, errno.ELOOP):
                raise
        descriptor = self._resolve(path, _INSIDE)
        try:
            self._real[path] = self._path_of(descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def _resolve(self, path: bytes, resolve: int) -> int:
        if len(path) < _PATH_MAX:
            return paths.openat2(self._root, path, _FLAGS, resolve=resolve)
        # longer than the kernel takes at once: piece by piece, and then without links
        descriptor = os.dup(self._root)
        try:
            parts = path.split(b"/")
            for start in range(0, len(parts), 15):
                following = paths.openat2(descriptor, b"/".join(parts[start : start + 15]), _FLAGS, resolve=_PLAIN)
                os.close(descriptor)
                descriptor = following
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def _path_of(self, descriptor: int) -> bytes:
        """Where a descriptor below the root really is, relative to the root."""
        if not self._root_path:
            self._root_path = os.readlink(b"/proc/self/fd/%d" % self._root).rstrip(b"/")
        place = os.readlink(b"/proc/self/fd/%d" % descriptor)
        if place == self._root_path:
            return b""
        return place.removeprefix(self._root_path + b"/")

    def forget(self) -> None:
        """Close all: names may mean something else now."""
        for descriptor in self._open.values():
            os.close(descriptor)
        self._open.clear()
        self._real.clear()

    def __enter__(self) -> Directories:
        return self

    def __exit__(self, *_: object) -> None:
        self.forget()
