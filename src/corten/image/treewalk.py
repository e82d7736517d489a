"""Files below a directory descriptor as tar members, in a fixed order, never following a link out.

Shared by layers made of a container's changes, ``cp`` and ``export``.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Container, Iterator

from corten.errors import SystemFailure
from corten.image import tarheader as header
from corten.image import tarwrite
from corten.image.directories import Directories, split
from corten.image.extract import OVERLAY_XATTRS
from corten.image.tarheader import TarEntry, shown
from corten.linux import paths
from corten.linux.subids import Translation

CHUNK = 1 << 20
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# holes from this size on are written as a sparse map; below it as zeros, since engines that take layers apart by
# header and data (Docker's tar-split) cannot put sparse members together again
SPARSE_FROM = 64 << 20


class TreeWriter:
    """Turns entries of one tree into tar bytes; hard links are known by their inode across the whole tree.

    ``pending`` collects bytes; take them with ``take`` between entries.
    """

    def __init__(self, root_fd: int, ids: Translation | None = None) -> None:
        """ids: of the user namespace whose owners are written"""
        self._ids = ids
        self.directories = Directories(root_fd)
        self._links: dict[tuple[int, int], bytes] = {}
        self._parts: list[bytes] = []
        self._held = 0

    def close(self) -> None:
        self.directories.forget()

    # -- output -------------------------------------------------------------------------------------------------------

    def _put(self, data: bytes) -> None:
        self._parts.append(data)
        self._held += len(data)

    def take(self, *, all: bool = False) -> Iterator[bytes]:
        """What has gathered, once it is worth a chunk."""
        if self._held >= CHUNK or (all and self._held):
            yield b"".join(self._parts)
            self._parts.clear()
            self._held = 0

    def bare(self, name: bytes, kind: int = header.REGULAR, mode: int = 0o600) -> None:
        """A member without content and owner: a mark."""
        entry = TarEntry()
        entry.name, entry.kind, entry.mode = name, kind, mode
        self._put(tarwrite.encode(entry))

    def member(self, directory: int, base: bytes, status: os.stat_result, name: bytes) -> Iterator[bytes]:
        """One file, link or device as member ``name``; sockets are left out, as everywhere.

        Errors: SystemFailure when a file cannot be read.
        """
        entry = _described(status, name)
        if entry is None:
            return
        if self._ids is not None:
            entry.uid, entry.gid = self._ids.inside(entry.uid, entry.gid)
        if entry.kind == header.DIRECTORY:
            entry.name += b"/"
        elif status.st_nlink > 1:
            first = self._links.setdefault((status.st_dev, status.st_ino), name)
            if first is not name:
                entry.kind, entry.linkname, entry.size = header.HARDLINK, first, 0
                self._put(tarwrite.encode(entry))
                return
        if entry.kind == header.SYMLINK:
            entry.linkname = os.readlink(base, dir_fd=directory)
            entry.mode = 0o777
        if entry.kind == header.REGULAR:
            yield from self._file(directory, base, entry)
            return
        entry.xattrs = _attributes(b"/proc/self/fd/%d/%s" % (directory, base), follow=False)
        self._put(tarwrite.encode(entry))

    def _file(self, directory: int, base: bytes, entry: TarEntry) -> Iterator[bytes]:
        descriptor = os.open(base, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise SystemFailure(f"{shown(entry.name)} was replaced while it was read", step="read")
            entry.size = entry.real_size = status.st_size
            entry.xattrs = _attributes(descriptor)
            if entry.size < 1 << 16:
                data = os.pread(descriptor, entry.size, 0)
                if len(data) == entry.size:
                    self._put(tarwrite.encode(entry) + data + tarwrite.padding(entry.size))
                    return
            pairs = _data_ranges(descriptor, status)
            if entry.size - sum(length for _, length in pairs) >= SPARSE_FROM:
                entry.sparse = pairs
                entry.size = sum(length for _, length in pairs)
            self._put(tarwrite.encode(entry))
            yield from self._ranges(descriptor, entry, pairs)
            self._put(tarwrite.padding(entry.size))
        finally:
            os.close(descriptor)

    def _ranges(self, descriptor: int, entry: TarEntry, pairs: list[tuple[int, int]]) -> Iterator[bytes]:
        """The content; a file that shrinks meanwhile is filled up with zeros, the header has been written."""
        position = 0
        for offset, length in pairs:
            if entry.sparse is None:
                yield from self._zeros(offset - position)
            end = offset + length
            while offset < end:
                data = os.pread(descriptor, min(CHUNK, end - offset), offset)
                if not data:
                    yield from self._zeros(end - offset)
                    break
                offset += len(data)
                self._put(data)
                yield from self.take()
            position = end
        if entry.sparse is None:
            yield from self._zeros(entry.size - position)

    def _zeros(self, count: int) -> Iterator[bytes]:
        while count > 0:
            step = min(count, CHUNK)
            self._put(bytes(step))
            count -= step
            yield from self.take()

    # -- walking ------------------------------------------------------------------------------------------------------

    def listed(self, path: bytes) -> list[bytes]:
        """Names in the directory at ``path`` (relative to the root), sorted."""
        descriptor = self._open(path)
        try:
            return sorted(map(os.fsencode, os.listdir(descriptor)))
        finally:
            os.close(descriptor)

    def is_of_kernel(self, path: bytes) -> bool:
        """Whether a directory is one of /proc, /sys and their like."""
        descriptor = self._open(path)
        try:
            return paths.filesystem_type(descriptor) in paths.KERNEL_FILESYSTEMS
        finally:
            os.close(descriptor)

    def _open(self, path: bytes) -> int:
        if not path:
            return os.open(b".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self.directories.get(b""))
        parent, base = split(path)
        return os.open(base, _DIRECTORY, dir_fd=self.directories.get(parent))

    def unreadable(self) -> bytes | None:
        """The path of a file or directory that this process may not read; None when it may read all."""
        pending = [b""]
        while pending:
            path = pending.pop()
            try:
                closed = self._unreadable_in(path, pending)
            except PermissionError:  # overlayfs may open a directory and then refuse to list it
                return path
            if closed is not None:
                return closed
        return None

    def _unreadable_in(self, path: bytes, pending: list[bytes]) -> bytes | None:
        """A file in the directory ``path``; the directories in it are added to ``pending``."""
        descriptor = self._open(path)
        try:
            with os.scandir(descriptor) as entries:
                for entry in entries:
                    child = path + b"/" + os.fsencode(entry.name) if path else os.fsencode(entry.name)
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(child)
                    elif entry.is_file(follow_symlinks=False) and not _may_read(descriptor, entry.name):
                        return child
        finally:
            os.close(descriptor)
        return None

    def attribute(self, path: bytes, name: str) -> bytes:
        """An extended attribute of a directory, b"" when it has none."""
        descriptor = self._open(path)
        try:
            return os.getxattr(descriptor, name)
        except OSError:
            return b""
        finally:
            os.close(descriptor)


def _may_read(directory: int, name: str) -> bool:
    return os.access(name, os.R_OK, dir_fd=directory, effective_ids=True, follow_symlinks=False)


def _described(status: os.stat_result, name: bytes) -> TarEntry | None:
    entry = TarEntry()
    entry.name = name
    entry.mode = stat.S_IMODE(status.st_mode)
    entry.uid, entry.gid = status.st_uid, status.st_gid
    entry.mtime_ns = status.st_mtime_ns
    kind = _KINDS.get(stat.S_IFMT(status.st_mode))
    if kind is None:
        return None
    entry.kind = kind
    if kind in (header.CHARACTER, header.BLOCK_DEVICE):
        entry.devmajor, entry.devminor = os.major(status.st_rdev), os.minor(status.st_rdev)
    return entry


_KINDS = {
    stat.S_IFREG: header.REGULAR,
    stat.S_IFDIR: header.DIRECTORY,
    stat.S_IFLNK: header.SYMLINK,
    stat.S_IFCHR: header.CHARACTER,
    stat.S_IFBLK: header.BLOCK_DEVICE,
    stat.S_IFIFO: header.FIFO,
}


def _attributes(target: int | bytes, *, follow: bool = True) -> dict[bytes, bytes] | None:
    """Extended attributes but those of overlayfs; None when there are none."""
    try:
        names = os.listxattr(target) if follow else os.listxattr(target, follow_symlinks=False)
    except OSError:
        return None
    found = {}
    for name in names:
        raw = os.fsencode(name)
        if raw.startswith(OVERLAY_XATTRS) or raw == b"security.selinux":
            continue
        with contextlib.suppress(OSError):
            found[raw] = os.getxattr(target, name, follow_symlinks=follow)
    return found or None


def _data_ranges(descriptor: int, status: os.stat_result) -> list[tuple[int, int]]:
    """(offset, length) of what is no hole."""
    size = status.st_size
    if status.st_blocks * 512 >= size:
        return [(0, size)] if size else []
    pairs = []
    position = 0
    while position < size:
        try:
            start = os.lseek(descriptor, position, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                break  # nothing but a hole is left
            return [(0, size)]
        end = min(os.lseek(descriptor, start, os.SEEK_HOLE), size)
        if start < end:
            pairs.append((start, end - start))
        position = end
    return pairs


def walk(
    writer: TreeWriter, path: bytes, status: os.stat_result, arcname: bytes, *, top: bool, hollow: Container[bytes] = ()
) -> Iterator[bytes]:
    """The tree at ``path`` as members below ``arcname`` ("/" for names that begin with a slash); depth first, sorted.

    top:    write a member for ``path`` itself
    hollow: mount points, as paths, whose content is left out
    What the kernel makes up (/proc, /sys) is left out, mount points stay.
    """
    parent, base = split(path)
    if top:
        yield from writer.member(writer.directories.get(parent), base or b".", status, arcname.rstrip(b"/"))
    if not stat.S_ISDIR(status.st_mode) or writer.is_of_kernel(path):
        yield from writer.take(all=True)
        return
    pending = [(path, arcname, status.st_dev, iter(writer.listed(path)))]
    while pending:
        path, arcname, device, names = pending[-1]
        descended = False
        for base in names:
            child = path + b"/" + base if path else base
            name = arcname.rstrip(b"/") + b"/" + base if arcname else base
            directory = writer.directories.get(path)
            try:
                found = os.stat(base, dir_fd=directory, follow_symlinks=False)
                yield from writer.member(directory, base, found, name)
            except FileNotFoundError:
                continue  # gone since it was listed
            yield from writer.take()
            if stat.S_ISDIR(found.st_mode):
                try:
                    if found.st_dev != device and (child in hollow or writer.is_of_kernel(child)):
                        continue
                    pending.append((child, name, found.st_dev, iter(writer.listed(child))))
                except (FileNotFoundError, NotADirectoryError):
                    continue
                descended = True
                break
        if not descended:
            pending.pop()
    yield from writer.take(all=True)
