"""A container's files as a descriptor of its root, with everything mounted in it.

Of a container that runs it is the root of its program, in its mount namespace.  Of one that does not, a mount namespace
is made that nobody else sees: the container's file system with its binds and volumes, gone with its descriptors.
No path of a container is ever resolved on the host (CVE-2018-15664, CVE-2026-41568): mount points are opened by
openat2(2) inside the root, and detached mounts are moved onto the descriptors.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

from corten.engine.container import Container
from corten.engine.container_volumes import ContainerVolumes
from corten.engine.image_mounts import ImageMounts
from corten.engine.mount_point import MountPoint
from corten.errors import Conflict, SystemFailure
from corten.linux import mount as kernel
from corten.linux import paths, process, user_namespace
from corten.snapshot.api import Snapshotter

_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


@contextlib.contextmanager
def running_root(container: Container) -> Iterator[int]:
    """The root of a container's program.

    Errors: Conflict when it has just ended.  The process is pinned by its directory in /proc before anything is read of
    it, and must be in the container's cgroup: a new process with its number is never taken for it.
    """
    ended = Conflict(f"container {container.id} is not running")
    with contextlib.ExitStack() as stack:
        try:
            directory = os.open(f"/proc/{container.state.pid}", _DIRECTORY)
            stack.callback(os.close, directory)
            if not _is_of(container.id, directory):
                raise ended
            descriptor = os.open("root", _DIRECTORY, dir_fd=directory)
        except (FileNotFoundError, ProcessLookupError, PermissionError) as error:
            raise ended from error
        stack.callback(os.close, descriptor)
        yield descriptor


def _is_of(container_id: str, process: int) -> bool:
    """process: a descriptor of a process's directory in /proc.  Errors: OSError."""

    def lines(name: str) -> list[str]:
        with open(os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=process), errors="replace") as file:
            return file.readlines()

    if user_namespace.is_initial():
        return any(container_id in line for line in lines("cgroup"))
    # without a control group: what it has as its root, whose layers are in a directory of that name
    root = [line for line in lines("mountinfo") if line.split(" ")[4] == "/"]
    return bool(root) and container_id in root[-1]


class StoppedRoot:
    """Opens the roots of containers that do not run."""

    def __init__(self, snapshotter: Snapshotter, volumes: ContainerVolumes, image_mounts: ImageMounts) -> None:
        self._snapshotter = snapshotter
        self._volumes = volumes
        self._image_mounts = image_mounts

    def lacks_mount_points(self, container: Container) -> bool:
        """Whether a mount point is missing in the root: only a writable view can show what belongs there."""
        points = _bound(container)
        if not points:
            return False
        with self._snapshotter.open_rootfs(container.id, True) as root:
            return not all(_exists(root, point.destination) for point in points)

    @contextlib.contextmanager
    def open(self, container: Container, place: Path, *, read_only: bool) -> Iterator[int]:
        """A descriptor of the root, mounts included.

        place:     the container's own directory; the root is mounted on it, in a namespace of its own
        read_only: nothing can be written into the root itself; mount points that are missing are left out.  A writable
        one makes them.  The caller sees to it that no other writable one is open and that nothing starts meanwhile.
        Errors: SystemFailure.
        """
        points = [*_bound(container), *_network_files(container, place)]
        with contextlib.ExitStack() as stack:
            root = stack.enter_context(self._snapshotter.open_rootfs(container.id, read_only))
            if not points:
                yield root
                return
            stack.enter_context(self._volumes.mounted(points))
            trees: list[tuple[MountPoint, int]] = []
            for point in points:
                tree = self._tree(point)
                if tree >= 0:
                    stack.callback(os.close, tree)
                    trees.append((point, tree))
            try:
                # recursive: without the machine's root it may consist of several (linux/root_pieces.py)
                base = kernel.clone_tree("", directory=root, recursive=True)
                stack.callback(os.close, base)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                base = root  # detached already, which kernels before 6.15 do not clone
            # a copy of a mount that is shared, as all are under systemd, would show what is mounted in it to the host
            kernel.mount_setattr(base, propagation=kernel.MS_PRIVATE)
            yield stack.enter_context(_assembled(base, place, trees, create=not read_only))

    def _tree(self, point: MountPoint) -> int:
        """A detached copy of what the point mounts; -1 when the source of a bind is gone."""
        if point.type == "image":
            with self._image_mounts.open(point) as source:
                # a copy of a mount that is detached already needs Linux 6.15
                return kernel.clone_tree("", directory=source) if point.subpath else os.dup(source)
        try:
            if point.type == "volume":
                source = self._volumes.open_volume(point)
            else:
                source = os.open(point.source, os.O_PATH | os.O_CLOEXEC)
        except FileNotFoundError:
            return -1
        try:
            tree = kernel.clone_tree("", directory=source, recursive=not point.non_recursive)
        finally:
            os.close(source)
        try:
            kernel.mount_setattr(tree, propagation=kernel.MS_PRIVATE, recursive=True)
            if not point.rw:
                kernel.mount_setattr(tree, set_=kernel.MOUNT_ATTR_RDONLY, recursive=not point.shallow_read_only)
        except BaseException:
            os.close(tree)
            raise
        return tree


def _bound(container: Container) -> list[MountPoint]:
    """What exists without the program; a tmpfs does not."""
    return [point for point in container.mount_points if point.type != "tmpfs"]


def _network_files(container: Container, directory: Path) -> list[MountPoint]:
    """What the program last saw as its hosts, hostname and resolv.conf; nothing before the first start."""
    taken = {point.destination for point in container.mount_points}
    return [
        MountPoint(type="bind", source=str(directory / name), destination=f"/etc/{name}")
        for name in ("hostname", "hosts", "resolv.conf")
        if f"/etc/{name}" not in taken and (directory / name).is_file()
    ]


def _exists(root: int, path: str) -> bool:
    try:
        os.close(paths.open_in_root(root, path, os.O_PATH))
    except OSError:
        return False
    return True


@contextlib.contextmanager
def _assembled(base: int, place: Path, trees: list[tuple[MountPoint, int]], *, create: bool) -> Iterator[int]:
    """A descriptor of ``base`` with all trees mounted in it, in a mount namespace that lives as long as the block."""
    opened: list[int] = []
    failure: list[BaseException] = []

    def assemble() -> None:
        try:
            _assemble(base, place, trees, create, opened)
        except BaseException as error:
            failure.append(error)

    # the namespace of one thread is changed, so it must be a thread that does nothing else and ends (unshare(2))
    thread = threading.Thread(target=assemble, name="corten-root")
    thread.start()
    thread.join()
    try:
        if failure:
            error = failure[0]
            if isinstance(error, OSError):
                raise SystemFailure(
                    f"cannot show the files of a stopped container: {error}",
                    step="assemble root",
                    errno=error.errno or 0,
                ) from error
            raise error
        yield opened[-1]
    finally:
        for descriptor in opened:
            os.close(descriptor)


def _assemble(base: int, place: Path, trees: list[tuple[MountPoint, int]], create: bool, opened: list[int]) -> None:
    """In a namespace of this thread.  ``opened`` gets a descriptor that keeps the namespace, then the root's."""
    process.unshare(process.CLONE_NEWNS)
    kernel.mount("", "/", "", kernel.MS_REC | kernel.MS_PRIVATE)
    opened.append(os.open("/proc/thread-self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC))
    below = os.open(place, _DIRECTORY)
    try:
        kernel.move_mount(base, below)
    finally:
        os.close(below)
    root = os.open(place, _DIRECTORY)
    opened.append(root)
    for point, tree in trees:
        target = _mount_point(root, point.destination, stat.S_ISDIR(os.stat(tree).st_mode), create)
        if target < 0:
            continue
        try:
            kernel.move_mount(tree, target)
        finally:
            os.close(target)


def _mount_point(root: int, path: str, directory: bool, create: bool) -> int:
    """An O_PATH descriptor of a mount point; -1 when it is missing and may not be made, or is of another kind."""
    try:
        target = paths.open_in_root(root, path, os.O_PATH)
    except FileNotFoundError:
        if not create:
            return -1
        return paths.mkdirs_in_root(root, path) if directory else paths.create_file_in_root(root, path)
    if stat.S_ISDIR(os.stat(target).st_mode) != directory:
        os.close(target)
        return -1  # the program could not start with it either
    return target
