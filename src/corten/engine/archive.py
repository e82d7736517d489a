"""``cp`` and ``export``: files of a container in and out as tar streams.

Everything happens below a descriptor of the container's root; a container's path is never resolved on the host
(CVE-2018-15664).  In a stopped container a path in a volume or bind is resolved against that mount's own directory.
"""

from __future__ import annotations

import contextlib
import os
import stat as modes
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from corten.dockerapi.timestamps import format_ns
from corten.engine.container import Container
from corten.engine.mount_points import MountPoint
from corten.errors import Forbidden, InvalidParameter, NotFound
from corten.image.archive import tar_tree, untar_into
from corten.linux import paths

# Go's os.FileMode bits, which the stat header carries
_GO_BITS = (
    (modes.S_IFDIR, 1 << 31),
    (modes.S_IFLNK, 1 << 27),
    (modes.S_IFBLK, 1 << 26),
    (modes.S_IFCHR, 1 << 26 | 1 << 21),
    (modes.S_IFIFO, 1 << 25),
    (modes.S_IFSOCK, 1 << 24),
)


@dataclass(frozen=True, slots=True)
class View:
    """A container's files: the descriptor of its root, and its mounts when they are not in it already."""

    container: Container
    root: int

    @property
    def mounts(self) -> list[MountPoint]:
        """Mounts that the root does not show: a stopped container's."""
        if self.container.is_running:
            return []
        return [point for point in self.container.mount_points if point.type != "tmpfs"]


def go_mode(mode: int) -> int:
    """A mode as Go counts it."""
    value = mode & 0o777
    value |= next((bits for kind, bits in _GO_BITS if modes.S_IFMT(mode) == kind), 0)
    for bit, go in ((modes.S_ISUID, 1 << 23), (modes.S_ISGID, 1 << 22), (modes.S_ISVTX, 1 << 20)):
        if mode & bit:
            value |= go
    return value


def _clean(path: str) -> str:
    if "\0" in path:
        raise InvalidParameter("invalid path: it contains a NUL byte")
    return paths.clean(path)


@contextlib.contextmanager
def _base(view: View, path: str) -> Iterator[tuple[int, str, MountPoint | None]]:
    """(directory descriptor, path below it, the mount it belongs to)."""
    for point in sorted(view.mounts, key=lambda item: len(item.destination), reverse=True):
        if path == point.destination or path.startswith(f"{point.destination}/"):
            with _opened(os.open(point.source, os.O_PATH | os.O_CLOEXEC)) as descriptor:
                yield descriptor, path[len(point.destination) :] or "/", point
            return
    yield view.root, path, None


@contextlib.contextmanager
def _opened(descriptor: int) -> Iterator[int]:
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _missing(view: View, path: str) -> NotFound:
    return NotFound(f"Could not find the file {path} in container {view.container.id}")


def _parent(view: View, base: int, path: str, shown: str) -> tuple[int, str]:
    """(descriptor of the parent directory, last name); links of the parents are followed inside the root."""
    directory, name = paths.split(path)
    try:
        return paths.open_in_root(base, directory, os.O_PATH | os.O_DIRECTORY), name or "."
    except OSError:
        raise _missing(view, shown) from None


def stat(view: View, path: str) -> dict[str, Any]:
    """The document of the header ``X-Docker-Container-Path-Stat``.  Errors: NotFound."""
    clean = _clean(path)
    with _base(view, clean) as (base, inner, _):
        if inner == "/" and not modes.S_ISDIR(os.fstat(base).st_mode):
            return _describe(os.path.basename(clean), os.fstat(base), "")
        directory, name = _parent(view, base, inner, path)
        with _opened(directory):
            try:
                status = os.stat(name, dir_fd=directory, follow_symlinks=False)
            except OSError:
                raise _missing(view, path) from None
            target = ""
            if modes.S_ISLNK(status.st_mode):
                target = _resolved(base, inner)
    return _describe(os.path.basename(clean) or "/", status, target)


def _describe(name: str, status: os.stat_result, target: str) -> dict[str, Any]:
    return {
        "name": name,
        "size": status.st_size,
        "mode": go_mode(status.st_mode),
        "mtime": format_ns(status.st_mtime_ns),
        "linkTarget": target,
    }


def _resolved(base: int, path: str) -> str:
    """Where a link leads inside the root; its own text when it dangles."""
    try:
        descriptor = paths.open_in_root(base, path, os.O_PATH)
    except OSError:
        return ""
    with _opened(descriptor), _opened(paths.open_in_root(base, "/", os.O_PATH)) as top:
        inside, root = os.readlink(f"/proc/self/fd/{descriptor}"), os.readlink(f"/proc/self/fd/{top}")
    return inside if root == "/" else inside.removeprefix(root) or "/"


def get(view: View, path: str) -> Iterator[bytes]:
    """A tar of a file or directory; its entries begin with the last part of the path.  Errors: NotFound."""
    clean = _clean(path)
    arcname = os.path.basename(clean) or "/"
    with _base(view, clean) as (base, inner, _):
        if inner == "/":
            yield from _tar_base(base, arcname)
            return
        directory, name = _parent(view, base, inner, path)
        with _opened(directory):
            try:
                status = os.stat(name, dir_fd=directory, follow_symlinks=False)
            except OSError:
                raise _missing(view, path) from None
            trailing = path.endswith(("/", "/."))
            if trailing and modes.S_ISLNK(status.st_mode):
                with _opened(_directory(base, inner)) as opened:
                    yield from tar_tree(opened, ".", arcname)
                return
            if path.endswith("/.") and modes.S_ISDIR(status.st_mode):
                with _opened(_directory(base, inner)) as opened:
                    yield from tar_tree(opened, ".", arcname)
                return
            yield from tar_tree(directory, name, arcname)


def _directory(base: int, path: str) -> int:
    return paths.open_in_root(base, path, os.O_PATH | os.O_DIRECTORY)


def _tar_base(base: int, arcname: str) -> Iterator[bytes]:
    """The root of a container or of a mount; a bind may be a single file."""
    if modes.S_ISDIR(os.fstat(base).st_mode):
        yield from tar_tree(base, ".", arcname)
        return
    where = os.readlink(f"/proc/self/fd/{base}")
    with _opened(os.open(os.path.dirname(where), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)) as directory:
        yield from tar_tree(directory, os.path.basename(where), arcname)


def put(view: View, path: str, stream: Any, *, no_overwrite_dir_non_dir: bool, copy_uid_gid: bool) -> None:
    """Unpack a tar (any compression) into a directory.

    Errors: NotFound, InvalidParameter (no directory, bad archive), Forbidden (read-only).
    """
    clean = _clean(path)
    with _base(view, clean) as (base, inner, point):
        _check_writable(view, clean, point)
        try:
            target = paths.open_in_root(base, inner, os.O_PATH)
        except OSError:
            raise _missing(view, path) from None
        with _opened(target):
            if not modes.S_ISDIR(os.stat(target).st_mode):
                raise InvalidParameter("extraction point is not a directory")
            owner = None
            if copy_uid_gid:
                status = os.stat(target)
                owner = (status.st_uid, status.st_gid)
            untar_into(target, stream, no_overwrite_dir_non_dir=no_overwrite_dir_non_dir, owner=owner)


def _check_writable(view: View, path: str, point: MountPoint | None) -> None:
    covering = point
    if covering is None:
        inside = [item for item in view.container.mount_points if path == item.destination or path.startswith(f"{item.destination}/")]
        covering = max(inside, key=lambda item: len(item.destination), default=None)
    if covering is not None:
        if not covering.rw:
            raise Forbidden("mounted volume is marked read-only")
    elif view.container.host_config.readonly_rootfs:
        raise Forbidden("container rootfs is marked read-only")


def export(root: int) -> Iterator[bytes]:
    """The whole root as one tar, without what is mounted in it."""
    yield from tar_tree(root, ".", "", one_file_system=True)
