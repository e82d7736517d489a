"""Layers as whole copies: slow and large, and right on every file system.

``vfs/dir/<id>`` is the complete tree of a layer; ``vfs/meta/<id>`` names its parent once it is committed.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path

from corten.errors import InvalidParameter, NotImplementedYet
from corten.linux import paths
from corten.snapshot import changes, init_layer
from corten.snapshot.api import Change, RootfsMount
from corten.snapshot.overlay import tree_size

_FICLONE = 0x40049409


class VfsSnapshotter:
    """Layers below ``<data-root>/vfs``."""

    name = "vfs"
    overlay_whiteouts = False

    def __init__(self, data_root: Path) -> None:
        self._root = data_root / "vfs" / "dir"
        self._meta = data_root / "vfs" / "meta"
        for directory in (self._root, self._meta):
            directory.mkdir(parents=True, exist_ok=True, mode=0o710)
        self.moving: set[str] = set()

    def stage(self, parent: str | None) -> str:
        layer_id = secrets.token_hex(32)
        self.moving.add(layer_id)
        self._copy(parent, layer_id)
        return layer_id

    def _copy(self, parent: str | None, snapshot_id: str) -> None:
        target = self._root / snapshot_id
        target.mkdir(mode=0o755)
        if parent is not None:
            copy_tree(self._root / parent, target)

    def diff_path(self, layer_id: str) -> Path:
        return self._root / layer_id

    def layer_path(self, layer_id: str) -> Path:
        directory = self._meta / f"{layer_id}.d"
        directory.mkdir(mode=0o710, exist_ok=True)
        return directory

    def commit(self, layer_id: str, parent: str | None) -> None:
        descriptor = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            paths.sync_filesystem(descriptor)
        finally:
            os.close(descriptor)
        (self._meta / layer_id).write_text(parent or "")

    def register_directory(self, layer_id: str, directory: str) -> None:
        raise NotImplementedYet(f"the storage driver vfs would have to copy {directory}: the host image needs overlay2")

    def discard(self, layer_id: str) -> None:
        for place, name in ((self._root, layer_id), (self._meta, f"{layer_id}.d"), (self._meta, layer_id)):
            descriptor = os.open(place, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                paths.remove_tree(descriptor, name)
            finally:
                os.close(descriptor)
        self.moving.discard(layer_id)

    def flaw(self, layer_id: str) -> str:
        if not (self._root / layer_id).is_dir():
            return "its directory is missing"
        return "" if self.is_committed(layer_id) else "it was never completed"

    def is_linked(self, layer_id: str, parent: str | None) -> bool:
        return True  # whole copies stand on nothing

    def relink(self, layer_id: str, parent: str | None) -> None:
        (self._meta / layer_id).write_text(parent or "")

    def replace(self, layer_id: str, staged_id: str) -> None:
        self.discard(layer_id)
        (self._meta / f"{staged_id}.d").rename(self._meta / f"{layer_id}.d")
        (self._root / staged_id).rename(self._root / layer_id)
        (self._meta / staged_id).rename(self._meta / layer_id)
        self.moving.discard(staged_id)

    def strays(self, known: set[str]) -> list[Path]:
        return []

    def container_flaw(self, container_id: str) -> str:
        return "" if (self._root / container_id).is_dir() else "its files are missing"

    def create(self, container_id: str, parent: str | None, *, size_limit: int = 0) -> None:
        if size_limit:
            raise InvalidParameter("--storage-opt size is not supported by the storage driver vfs")
        try:
            self._copy(parent, f"{container_id}-init")
            init = self._root / f"{container_id}-init"
            self._fill_init(init)
            self._copy(f"{container_id}-init", container_id)
        except BaseException:
            self.remove(container_id)
            raise

    @staticmethod
    def _fill_init(init: Path) -> None:
        """Mount points that the image lacks, made beside the copy and moved in."""
        scratch = init.with_name(f"{init.name}.new")
        scratch.mkdir()
        try:
            init_layer.make(scratch, [init])
            for directory, names, files in os.walk(scratch):
                relative = os.path.relpath(directory, scratch)
                for name in names:
                    (init / relative / name).mkdir(mode=0o755, exist_ok=True)
                for name in files:
                    os.rename(f"{directory}/{name}", init / relative / name)
        finally:
            parent = os.open(scratch.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                paths.remove_tree(parent, scratch.name)
            finally:
                os.close(parent)

    def remove(self, container_id: str) -> None:
        self.discard(container_id)
        self.discard(f"{container_id}-init")

    def rootfs(self, container_id: str) -> RootfsMount:
        path = str(self._root / container_id)
        return RootfsMount(type="bind", lower=[], upper="", work="", source=path, target=path, options=[])

    @contextlib.contextmanager
    def open_rootfs(self, container_id: str, read_only: bool) -> Iterator[int]:
        with self._open(container_id) as descriptor:
            yield descriptor

    @contextlib.contextmanager
    def open_layer(self, layer_id: str) -> Iterator[int]:
        with self._open(layer_id) as descriptor:
            yield descriptor

    @contextlib.contextmanager
    def _open(self, snapshot_id: str) -> Iterator[int]:
        descriptor = os.open(self._root / snapshot_id, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def data(self, container_id: str) -> dict[str, str]:
        return {}

    def layer_data(self, layer_id: str) -> dict[str, str]:
        return {}

    def changes(self, container_id: str) -> list[Change]:
        return changes.of_trees(self._root / container_id, self._root / f"{container_id}-init")

    def upper_path(self, container_id: str) -> Path:
        return self._root / container_id

    def usage(self, snapshot_id: str) -> int:
        return tree_size(self._root / snapshot_id)

    def ids(self) -> set[str]:
        return set(os.listdir(self._root))

    def is_container(self, snapshot_id: str) -> bool:
        container_id = snapshot_id.removesuffix("-init")
        return snapshot_id.endswith("-init") or (self._root / f"{container_id}-init").exists()

    def is_committed(self, layer_id: str) -> bool:
        return (self._meta / layer_id).exists()


def copy_tree(source: Path, target: Path) -> None:
    """Copy a tree with owners, modes, times, links, extended attributes, devices and holes."""
    links: dict[tuple[int, int], str] = {}
    _copy_directory(str(source), str(target), links)
    _copy_attributes(str(source), str(target), os.lstat(source))


def _copy_directory(source: str, target: str, links: dict[tuple[int, int], str]) -> None:
    with os.scandir(source) as entries:
        listed = sorted(entries, key=lambda entry: entry.name)
    for entry in listed:
        status = entry.stat(follow_symlinks=False)
        place = f"{target}/{entry.name}"
        if stat.S_ISDIR(status.st_mode):
            os.mkdir(place, 0o700)
            _copy_directory(entry.path, place, links)
        elif status.st_nlink > 1 and (status.st_dev, status.st_ino) in links:
            os.link(links[status.st_dev, status.st_ino], place, follow_symlinks=False)
            continue
        elif stat.S_ISLNK(status.st_mode):
            os.symlink(os.readlink(entry.path), place)
        elif stat.S_ISREG(status.st_mode):
            copy_file(entry.path, place, status.st_size)
        else:
            os.mknod(place, status.st_mode, status.st_rdev)
        if status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode):
            links[status.st_dev, status.st_ino] = place
        _copy_attributes(entry.path, place, status)


def _copy_attributes(source: str, target: str, status: os.stat_result) -> None:
    os.chown(target, status.st_uid, status.st_gid, follow_symlinks=False)
    if not stat.S_ISLNK(status.st_mode):
        os.chmod(target, stat.S_IMODE(status.st_mode))
    for name in os.listxattr(source, follow_symlinks=False):
        with contextlib.suppress(OSError):
            os.setxattr(target, name, os.getxattr(source, name, follow_symlinks=False), follow_symlinks=False)
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns), follow_symlinks=False)


def copy_file(source: str, target: str, size: int) -> None:
    """By reference where the file system can, else by ranges that hold data."""
    reading = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    writing = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.ioctl(writing, _FICLONE, reading)
            return
        except OSError:
            os.ftruncate(writing, size)
        position = 0
        while position < size:
            try:
                start = os.lseek(reading, position, os.SEEK_DATA)
                end = os.lseek(reading, start, os.SEEK_HOLE)
            except OSError:
                break  # nothing but a hole is left
            while start < end:
                copied = os.copy_file_range(reading, writing, end - start, start, start)
                if not copied:
                    break
                start += copied
            position = end
    finally:
        os.close(reading)
        os.close(writing)
