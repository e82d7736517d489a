"""``cp`` and ``export``: files of a container in and out as tar streams.

Everything happens below a descriptor of the container's root (``container_root``): links lead nowhere outside of it,
and what a path means cannot change between a check and its use.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat as modes
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

from corten.dockerapi.timestamps import format_ns
from corten.engine.container import Container
from corten.errors import CortenError, Forbidden, InvalidParameter, NotFound, SystemFailure
from corten.image.archive import tar_tree, unreadable, untar_into
from corten.linux import paths, process, user_namespace
from corten.linux.subids import Translation
from corten.runtime import users

# Go's os.FileMode bits, which the stat header carries
_GO_KINDS = {
    modes.S_IFDIR: 1 << 31,
    modes.S_IFLNK: 1 << 27,
    modes.S_IFBLK: 1 << 26,
    modes.S_IFCHR: 1 << 26 | 1 << 21,
    modes.S_IFIFO: 1 << 25,
    modes.S_IFSOCK: 1 << 24,
}
_GO_SPECIAL = ((modes.S_ISUID, 1 << 23), (modes.S_ISGID, 1 << 22), (modes.S_ISVTX, 1 << 20))
_MAX_LINKS = 255
_DIRECTORY = os.O_PATH | os.O_DIRECTORY


@dataclass(frozen=True, slots=True)
class View:
    """A container's files.  root: a descriptor of its root;  shown: how the client calls the container"""

    container: Container
    root: int
    shown: str = ""

    @property
    def ids(self) -> Translation | None:
        """Those of the user namespace in which the program sees its files; None without one."""
        maps = self.container.id_maps
        return Translation(maps.uids, maps.gids) if maps else None

    def missing(self, path: str) -> NotFound:
        return NotFound(f"Could not find the file {path} in container {self.shown or self.container.name}")

    def failed(self, path: str, error: OSError) -> CortenError:
        """What a refused path means to the client."""
        if error.errno == errno.ENOENT:
            return self.missing(path)
        reason = os.strerror(error.errno or 0).lower()
        if error.errno in (errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL):
            return InvalidParameter(f"{path}: {reason}")
        return SystemFailure(f"cannot open {path}: {reason}", step="open path", errno=error.errno or 0)


@dataclass(frozen=True, slots=True)
class _Path:
    """A client's path.

    clean:   absolute, read as text
    inside:  it ends with "/" or "/.": what a link leads to is meant, which must be a directory
    base:    how the top member of an archive is called: the last name, "." for "/.", "/" for the root
    """

    clean: str
    inside: bool
    base: str

    @classmethod
    def parse(cls, text: str) -> _Path:
        if "\0" in text:
            raise InvalidParameter("invalid path: it contains a NUL byte")
        clean = paths.clean(text)
        last = text.rpartition("/")[2]
        inside = last in ("", ".") or clean == "/"
        return cls(clean, inside, "." if last == "." else os.path.basename(clean) or "/")


def go_mode(mode: int) -> int:
    """A mode as Go counts it."""
    value = mode & 0o777 | _GO_KINDS.get(modes.S_IFMT(mode), 0)
    for bit, go in _GO_SPECIAL:
        if mode & bit:
            value |= go
    return value


@contextlib.contextmanager
def _opened(descriptor: int) -> Iterator[int]:
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _found(view: View, text: str) -> Iterator[tuple[_Path, int, str, os.stat_result]]:
    """(path, directory, name in it, status): links are followed up to the last name, which is not."""
    path = _Path.parse(text)
    parent, name = (path.clean, ".") if path.inside else paths.split(path.clean)
    try:
        directory = paths.open_in_root(view.root, parent, _DIRECTORY)
    except OSError as error:
        raise view.failed(text, error) from error
    with _opened(directory):
        try:
            status = os.stat(name, dir_fd=directory, follow_symlinks=False)
        except OSError as error:
            raise view.failed(text, error) from error
        if name != "." and paths.filesystem_type(directory) in paths.KERNEL_FILESYSTEMS:
            raise view.missing(text)  # dockerd sees such a mount point empty; its files have no size, or a wrong one
        yield path, directory, name, status


def stat(view: View, text: str) -> dict[str, Any]:
    """The document of the header ``X-Docker-Container-Path-Stat``.  Errors: NotFound, InvalidParameter."""
    with _found(view, text) as (path, _, _, status):
        return {
            "name": path.base,
            "size": status.st_size,
            "mode": go_mode(status.st_mode),
            "mtime": format_ns(status.st_mtime_ns),
            "linkTarget": evaluate(view.root, path.clean) if modes.S_ISLNK(status.st_mode) else "",
        }


def evaluate(root: int, path: str) -> str:
    """Where a path leads once all links are followed inside the root; from the first missing name on it is text.

    Errors: InvalidParameter for a loop.
    """
    resolved = ""
    pending = path.split("/")[::-1]
    links = 0
    while pending:
        part = pending.pop()
        if part in ("", "."):
            continue
        if part == "..":
            resolved = resolved.rpartition("/")[0]
            continue
        target = _link(root, f"{resolved}/{part}")
        if target is None:
            resolved = f"{resolved}/{part}"
            continue
        links += 1
        if links > _MAX_LINKS:
            raise InvalidParameter(f"{path}: {os.strerror(errno.ELOOP).lower()}")
        if target.startswith("/"):
            resolved = ""
        pending += target.split("/")[::-1]
    return resolved or "/"


def _link(root: int, path: str) -> str | None:
    """The text of a link; None for anything else."""
    try:
        descriptor = paths.open_in_root(root, path, os.O_PATH | os.O_NOFOLLOW)
    except OSError:
        return None
    with _opened(descriptor):
        try:
            return os.readlink("", dir_fd=descriptor)
        except OSError:
            return None


def get(view: View, text: str) -> Iterator[bytes]:
    """A tar of a file or directory.  Errors: NotFound, InvalidParameter, before the first byte; SystemFailure."""
    with _found(view, text) as (path, directory, name, status):
        if not modes.S_ISDIR(status.st_mode):
            yield from tar_tree(directory, name, path.base, ids=view.ids)
            return
        with _opened(os.open(name, _DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)) as top:
            # the devices that every running program has are no files of the container
            own = any(point.destination == "/dev" for point in view.container.mount_points)
            hollow = (b"dev",) if path.clean == "/" and not own else ()
            yield from tar_tree(top, ".", path.base, ids=view.ids, hollow=hollow)


def put(view: View, text: str, stream: BinaryIO, *, no_overwrite_dir_non_dir: bool, copy_uid_gid: bool) -> None:
    """Unpack a tar (any compression) into a directory.

    copy_uid_gid: everything gets the owner that the container's program has, when its configuration names one
    Errors: NotFound, InvalidParameter (no directory, bad archive, unknown user), Forbidden (read-only).
    """
    path = _Path.parse(text)
    try:
        target = paths.open_in_root(view.root, path.clean, os.O_PATH)
    except OSError as error:
        raise view.failed(text, error) from error
    with _opened(target):
        if not modes.S_ISDIR(os.stat(target).st_mode):
            raise InvalidParameter("extraction point is not a directory")
        _check_writable(view, target)
        owner = None
        if copy_uid_gid and view.container.config.user:
            identity = users.resolve(view.root, view.container.config.user, [])
            owner = (identity.uid, identity.gid)
        with contextlib.ExitStack() as stack:
            if view.ids is not None:
                stack.enter_context(process.making_files_as(*view.ids.outside(0, 0)))
                owner = view.ids.outside(*owner) if owner is not None else None
            untar_into(target, stream, no_overwrite_dir_non_dir=no_overwrite_dir_non_dir, owner=owner, ids=view.ids)


def _check_writable(view: View, target: int) -> None:
    """By the mount that the directory lies on, however the path came there.  Errors: Forbidden."""
    read_only = bool(os.fstatvfs(target).f_flag & os.ST_RDONLY)
    if _mount_id(target) != _mount_id(view.root):
        if read_only:
            raise Forbidden("mounted volume is marked read-only")
    elif read_only or view.container.host_config.readonly_rootfs:
        raise Forbidden("container rootfs is marked read-only")


def _mount_id(descriptor: int) -> str:
    with open(f"/proc/self/fdinfo/{descriptor}") as file:
        return next(line for line in file if line.startswith("mnt_id:"))


def export(view: View) -> Iterator[bytes]:
    """Everything below a root as one tar.  view: of a root without what is mounted in it

    Errors: Forbidden, before the first byte: a stream that has begun could only be cut.
    """
    # without the machine's root: the machine as an image has files that are closed to this daemon
    if (os.geteuid() != 0 or not user_namespace.is_initial()) and (closed := unreadable(view.root)) is not None:
        raise _closed(view, closed)
    try:
        yield from tar_tree(view.root, ".", "", ids=view.ids)
    except PermissionError as error:  # what overlayfs refuses although the modes allow it
        raise _closed(view, os.fsdecode(error.filename or "a file")) from error


def _closed(view: View, path: str) -> Forbidden:
    return Forbidden(f"cannot read {path} of container {view.container.name}: permission denied")
