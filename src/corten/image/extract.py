"""Tar members become files below a directory descriptor.  Nothing outside of it is ever read, written or followed.

Each member's parent is found inside the root (``directories``), its last name is only ever created, never opened
when it exists: what is in the way is removed first.  Metadata go through the new file's own descriptor.  This is
the part that layers, ``cp`` and imports share; what ``.wh.`` names mean is ``layer_apply``'s business.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field

from corten.errors import Conflict, InvalidParameter, SystemFailure
from corten.image import tarheader as header
from corten.image.directories import Directories, clean, split
from corten.image.extract_parts import Later, bounded_time, entry_error, umask, write_all, write_with_holes
from corten.image.tarheader import TarEntry, shown
from corten.image.tarstream import TarReader
from corten.linux import paths
from corten.linux.subids import Translation

_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_SMALL = 1 << 16
Given = Mapping[int, int]
NONE_GIVEN: Given = {}
_THERE = -1  # instead of a descriptor: the content needs no writing
_IMPLIED_MODE = 0o755
_DEFAULT_ACL = b"system.posix_acl_default"
# names that mean something to overlayfs: a layer must not be able to hide or redirect what is below it
OVERLAY_XATTRS = (b"trusted.overlay.", b"user.overlay.", b"user.fuseoverlayfs.")
_MAX_MAJOR, _MAX_MINOR = (1 << 12) - 1, (1 << 20) - 1
_SPACE_CHECK_ENTRIES = 8192
_SPACE_CHECK_BYTES = 64 << 20
RESERVED_BYTES = 32 << 20  # an extraction leaves this much of the file system to others
RESERVED_INODES = 1024


@dataclass(frozen=True, slots=True)
class ExtractOptions:
    """owner: (uid, gid) for everything instead of the archive's; chown: set owners at all (needs privilege)

    devices: make device nodes; no_overwrite_dir_non_dir: refuse to replace a directory by something else and vice versa
    keep_root: a member "." does not change the root directory itself
    new_tree: the root is an empty directory of our own, whose inherited group and modes are known
    keep_space: stop before the file system is full
    ids: the archive's owners are those of a user namespace; the caller makes files as its root (making_files_as)
    given: descriptors of files without a name that have the content of a member and may become its file, by the
        member's number, the first one being 1; known before the member is read
    """

    chown: bool = True
    owner: tuple[int, int] | None = None
    devices: bool = True
    no_overwrite_dir_non_dir: bool = False
    keep_root: bool = False
    new_tree: bool = False
    keep_space: bool = True
    ids: Translation | None = None
    given: Given = field(default_factory=dict)
    max_entries: int = 4_000_000


class Extractor:
    """Unpacks ``reader`` below ``root_fd``; use once, through ``run``."""

    def __init__(self, root_fd: int, reader: TarReader, options: ExtractOptions) -> None:
        self._root = root_fd
        self._reader = reader
        self._options = options
        self._directories = Directories(root_fd)
        self._later = Later()
        self._entries = 0
        self._written = 0
        self._next_space_check = _SPACE_CHECK_BYTES
        # bits that open(2)'s mode cannot set for sure: those the umask takes, and set-id and sticky
        self._extra_mode = umask() | 0o7000
        # a set-group-id directory would give its group to what is made below: then every owner is set
        self._inherits = not options.new_tree or bool(os.fstat(root_fd).st_mode & stat.S_ISGID)
        # new files belong to the calling thread's ids: those of the root of ``ids`` when there are some
        self._me = options.ids.outside(0, 0) if options.ids is not None else (os.geteuid(), os.getegid())
        self._kinds = {
            header.REGULAR: self._regular,
            header.DIRECTORY: self._directory,
            header.SYMLINK: self._symlink,
            header.HARDLINK: self._hardlink,
            header.CHARACTER: self._node,
            header.BLOCK_DEVICE: self._node,
            header.FIFO: self._node,
        }

    # -- the loop -----------------------------------------------------------------------------------------------------

    def run(self) -> int:
        """Unpack everything; the number of members.

        Errors: InvalidParameter and DataLoss for bad archives, SystemFailure (disk full, I/O error).
        """
        try:
            while (entry := self._reader.next()) is not None:
                self._count()
                try:
                    self._entry(entry)
                except OSError as error:
                    raise entry_error(entry.name, error) from error
            self._settle_directories()
        finally:
            self._directories.forget()
        return self._entries

    def _entry(self, entry: TarEntry) -> None:
        self._dispatch(entry, clean(entry.name))

    def _dispatch(self, entry: TarEntry, path: bytes) -> None:
        action = self._kinds.get(entry.kind)
        if action is None:
            raise InvalidParameter(f"unhandled tar header type {entry.kind} of {shown(entry.name)}")
        if not path:
            self._root_entry(entry)
            return
        parent, base = split(path)
        action(entry, self._parent(parent), base, path)

    def _count(self) -> None:
        self._entries += 1
        if self._entries > self._options.max_entries:
            raise InvalidParameter(f"invalid tar archive: more than {self._options.max_entries} entries")
        if self._entries % _SPACE_CHECK_ENTRIES == 0:
            self._check_space()

    def _wrote(self, size: int) -> None:
        self._written += size
        if self._written >= self._next_space_check:
            self._next_space_check = self._written + _SPACE_CHECK_BYTES
            self._check_space()

    def _check_space(self) -> None:
        if not self._options.keep_space:
            return
        free = os.fstatvfs(self._root)
        if free.f_bavail * free.f_frsize < RESERVED_BYTES or (free.f_files and free.f_favail < RESERVED_INODES):
            raise SystemFailure("no space left on device", step="extract", errno=errno.ENOSPC)

    # -- places -------------------------------------------------------------------------------------------------------

    def _parent(self, path: bytes) -> int:
        try:
            return self._directories.get(path)
        except (FileNotFoundError, NotADirectoryError):
            try:
                return self._imply(path)
            except FileExistsError as error:
                raise NotADirectoryError(errno.ENOTDIR, "not a directory") from error

    def _imply(self, path: bytes) -> int:
        """Make the directories that the archive forgot to list."""
        parent, base = split(path)
        try:
            above = self._directories.get(parent)
        except (FileNotFoundError, NotADirectoryError):
            above = self._imply(parent)
        self._make_implied(above, base, path)
        return self._directories.get(path)

    def _make_implied(self, above: int, base: bytes, path: bytes) -> None:
        os.mkdir(base, _IMPLIED_MODE, dir_fd=above)
        owner = self._options.owner if self._options.chown else None
        if owner or self._inherits or self._extra_mode & _IMPLIED_MODE:
            descriptor = self._open_directory(base, above)
            try:
                if self._options.chown:
                    os.fchown(descriptor, *(owner or self._owner(0, 0)))
                os.fchmod(descriptor, _IMPLIED_MODE)
            finally:
                os.close(descriptor)

    def _clear(self, directory: int, base: bytes, path: bytes, entry: TarEntry) -> None:
        """Remove what is at the place of a new member."""
        status = os.stat(base, dir_fd=directory, follow_symlinks=False)
        is_directory = stat.S_ISDIR(status.st_mode)
        if self._options.no_overwrite_dir_non_dir:
            if is_directory and entry.kind != header.DIRECTORY:
                raise Conflict(f"cannot overwrite directory {shown(path)} with non-directory")
            if not is_directory and entry.kind == header.DIRECTORY:
                raise Conflict(f"cannot overwrite non-directory {shown(path)} with directory")
        if is_directory or stat.S_ISLNK(status.st_mode):
            self._directories.forget()
            directory = self._directories.get(split(path)[0])
        self._remove(directory, base, path, status)

    def _remove(self, directory: int, base: bytes, path: bytes, status: os.stat_result) -> None:
        if stat.S_ISDIR(status.st_mode):
            paths.remove_tree(directory, os.fsdecode(base))
        else:
            os.unlink(base, dir_fd=directory)

    def _owner(self, uid: int, gid: int) -> tuple[int, int]:
        """Whom a member belongs to here.  Errors: OSError for an id that does not exist here."""
        if self._options.owner is not None:
            return self._options.owner
        return self._options.ids.outside(uid, gid) if self._options.ids is not None else (uid, gid)

    # -- members ------------------------------------------------------------------------------------------------------

    def _root_entry(self, entry: TarEntry) -> None:
        if entry.kind != header.DIRECTORY:
            raise InvalidParameter(f"invalid tar archive: {shown(entry.name)} would replace the root")
        if self._options.keep_root:
            return
        descriptor = os.open(b".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._root)
        try:
            self._directory_metadata(descriptor, entry, b"")
        finally:
            os.close(descriptor)

    def _open_directory(self, base: bytes, directory: int) -> int:
        return os.open(base, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)

    def _directory(self, entry: TarEntry, directory: int, base: bytes, path: bytes) -> None:
        try:
            os.mkdir(base, 0o700, dir_fd=directory)
        except FileExistsError:
            try:
                descriptor = self._open_directory(base, directory)
            except OSError:
                self._clear(directory, base, path, entry)
                directory = self._directories.get(split(path)[0])
                os.mkdir(base, 0o700, dir_fd=directory)
                descriptor = self._open_directory(base, directory)
        else:
            descriptor = self._open_directory(base, directory)
        try:
            self._directory_metadata(descriptor, entry, path)
        finally:
            os.close(descriptor)

    def _directory_metadata(self, descriptor: int, entry: TarEntry, path: bytes) -> None:
        if self._options.chown:
            os.fchown(descriptor, *self._owner(entry.uid, entry.gid))
        os.fchmod(descriptor, entry.mode)
        if entry.mode & stat.S_ISGID:
            self._inherits = True
        acl = b""
        if entry.xattrs:
            acl = entry.xattrs.pop(_DEFAULT_ACL, b"")
            self._xattrs(descriptor, entry.xattrs)
        self._later.add(path, entry.mtime_ns, acl)

    def _regular(self, entry: TarEntry, directory: int, base: bytes, path: bytes) -> None:
        given = self._options.given.get(self._entries)
        if given is not None and self._is_linked(given, entry, directory, base):
            self._adopt(given, entry, path)
            return
        try:
            descriptor = os.open(base, _CREATE, entry.mode & 0o777, dir_fd=directory)
        except FileExistsError:
            self._clear(directory, base, path, entry)
            directory = self._directories.get(split(path)[0])
            descriptor = os.open(base, _CREATE, entry.mode & 0o777, dir_fd=directory)
        try:
            self._content(descriptor, entry, path)
            self._file_metadata(descriptor, entry)
        finally:
            os.close(descriptor)

    def _is_linked(self, given: int, entry: TarEntry, directory: int, base: bytes) -> bool:
        """Whether a given file has its name now; where it cannot be had, its content is written."""
        if entry.sparse is not None or os.fstat(given).st_size != entry.size:
            return False
        try:
            os.link(b"/proc/self/fd/%d" % given, base, dst_dir_fd=directory, follow_symlinks=True)
        except OSError:  # something is in its place, or another file system
            return False
        return True

    def _adopt(self, given: int, entry: TarEntry, path: bytes) -> None:
        self._content(_THERE, entry, path)
        os.fchmod(given, entry.mode & 0o777)
        self._file_metadata(given, entry)

    def _content(self, descriptor: int, entry: TarEntry, path: bytes) -> None:
        size = entry.size
        if descriptor == _THERE:
            self._reader.skip()
        elif entry.sparse is not None:
            self._write_sparse(descriptor, entry)
        elif size > _SMALL:
            self._write(descriptor, size)
        elif size:
            data = self._reader.read_all()
            written = os.write(descriptor, data)
            if written != size:
                write_all(descriptor, data[written:])
            self._wrote(size)

    def _write(self, descriptor: int, size: int) -> None:
        """A large file: block by block, long runs of zeros as holes."""
        reader = self._reader
        ends_in_hole = False
        while reader.remaining:
            view = reader.read_some()
            ends_in_hole = write_with_holes(descriptor, view)
            self._wrote(len(view))
        if ends_in_hole:
            os.ftruncate(descriptor, size)

    def _write_sparse(self, descriptor: int, entry: TarEntry) -> None:
        os.ftruncate(descriptor, entry.real_size)
        for offset, length in entry.sparse or ():
            os.lseek(descriptor, offset, os.SEEK_SET)
            while length:
                view = self._reader.read_some(min(length, 1 << 20))
                write_all(descriptor, view)
                length -= len(view)
                self._wrote(len(view))

    def _file_metadata(self, descriptor: int, entry: TarEntry) -> None:
        mode = entry.mode
        if self._options.chown:
            owner = self._owner(entry.uid, entry.gid)
            if owner != self._me or self._inherits:
                os.fchown(descriptor, *owner)
        # chown clears set-id bits and capabilities: mode and attributes come after it
        if mode & self._extra_mode or self._inherits:
            os.fchmod(descriptor, mode)
        if entry.xattrs:
            self._xattrs(descriptor, entry.xattrs)
        mtime = bounded_time(entry.mtime_ns)
        atime = entry.atime_ns
        os.utime(descriptor, ns=(mtime if atime is None else bounded_time(atime), mtime))

    def _symlink(self, entry: TarEntry, directory: int, base: bytes, path: bytes) -> None:
        if not entry.linkname:
            raise InvalidParameter(f"invalid tar archive: {shown(entry.name)} is a link to nothing")
        try:
            os.symlink(entry.linkname, base, dir_fd=directory)
        except FileExistsError:
            self._clear(directory, base, path, entry)
            directory = self._directories.get(split(path)[0])
            os.symlink(entry.linkname, base, dir_fd=directory)
        self._node_metadata(entry, directory, base)

    def _hardlink(self, entry: TarEntry, directory: int, base: bytes, path: bytes) -> None:
        source = clean(entry.linkname, "link")
        if not source:
            raise InvalidParameter(f"invalid tar archive: {shown(entry.name)} is a hard link to the root")
        source_parent, source_base = split(source)
        source_directory = self._directories.get(source_parent)
        try:
            self._link(source_directory, source_base, directory, base)
        except FileExistsError:
            ours = os.stat(base, dir_fd=directory, follow_symlinks=False)
            theirs = os.stat(source_base, dir_fd=source_directory, follow_symlinks=False)
            if (ours.st_dev, ours.st_ino) == (theirs.st_dev, theirs.st_ino):
                return
            self._clear(directory, base, path, entry)
            directory = self._directories.get(split(path)[0])
            self._link(self._directories.get(source_parent), source_base, directory, base)

    def _link(self, source_directory: int, source: bytes, directory: int, base: bytes) -> None:
        os.link(source, base, src_dir_fd=source_directory, dst_dir_fd=directory, follow_symlinks=False)

    def _node(self, entry: TarEntry, directory: int, base: bytes, path: bytes) -> None:
        if entry.kind == header.FIFO:
            mode, device = stat.S_IFIFO, 0
        else:
            if not self._options.devices:
                return
            if not (0 <= entry.devmajor <= _MAX_MAJOR and 0 <= entry.devminor <= _MAX_MINOR):
                raise InvalidParameter(f"invalid tar archive: device number of {shown(entry.name)} out of range")
            mode = stat.S_IFCHR if entry.kind == header.CHARACTER else stat.S_IFBLK
            device = os.makedev(entry.devmajor, entry.devminor)
            if device == 0 and entry.kind == header.CHARACTER:
                return  # to overlayfs this is a whiteout; in a tar it is none
        try:
            os.mknod(base, mode | (entry.mode & 0o777), device, dir_fd=directory)
        except FileExistsError:
            self._clear(directory, base, path, entry)
            directory = self._directories.get(split(path)[0])
            os.mknod(base, mode | (entry.mode & 0o777), device, dir_fd=directory)
        self._node_metadata(entry, directory, base)

    def _node_metadata(self, entry: TarEntry, directory: int, base: bytes) -> None:
        """For what cannot be opened: links, devices, FIFOs."""
        owner = self._owner(entry.uid, entry.gid)
        chown = self._options.chown and (owner != self._me or self._inherits)
        chmod = entry.kind != header.SYMLINK and bool(entry.mode & self._extra_mode or self._inherits)
        if chown or chmod or entry.xattrs:
            # an O_PATH descriptor holds the inode; its /proc name leads to it, and not further when it is a link
            descriptor = os.open(base, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
            try:
                place = b"/proc/self/fd/%d" % descriptor
                if chown:
                    os.chown(place, *owner)
                if chmod:
                    os.chmod(place, entry.mode)
                if entry.xattrs:
                    self._xattrs(place, entry.xattrs)
            finally:
                os.close(descriptor)
        mtime = bounded_time(entry.mtime_ns)
        os.utime(base, ns=(mtime, mtime), dir_fd=directory, follow_symlinks=False)

    def _xattrs(self, target: int | bytes, attributes: dict[bytes, bytes]) -> None:
        for name, value in attributes.items():
            # a label is this machine's policy's to give
            if name.startswith(OVERLAY_XATTRS) or name == b"security.selinux":
                continue
            try:
                os.setxattr(target, name, value)
            except OSError as error:
                # as Docker: attributes that this file system or this user cannot have are left out
                if error.errno not in (errno.ENOTSUP, errno.EPERM):
                    raise

    def _settle_directories(self) -> None:
        for path, mtime_ns, acl in self._later:
            mtime = bounded_time(mtime_ns)
            try:
                if path:
                    parent, base = split(path)
                    descriptor = self._open_directory(base, self._directories.get(parent))
                else:
                    descriptor = os.open(b".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._root)
            except OSError:
                continue  # replaced later in the archive
            try:
                if acl:
                    self._xattrs(descriptor, {_DEFAULT_ACL: acl})
                os.utime(descriptor, ns=(mtime, mtime))
            finally:
                os.close(descriptor)
