"""The container's root: the mount itself, masks, sysctls, and the step into it."""

from __future__ import annotations

import errno
import os
import stat
from typing import Any

from corten.errors import InvalidParameter, SystemFailure
from corten.linux import mount as kernel
from corten.linux import mounts, paths, user_namespace

PROPAGATION = {
    "": kernel.MS_PRIVATE,
    "private": kernel.MS_PRIVATE,
    "rprivate": kernel.MS_PRIVATE,
    "slave": kernel.MS_SLAVE,
    "rslave": kernel.MS_SLAVE,
    "shared": kernel.MS_SHARED,
    "rshared": kernel.MS_SHARED,
    "unbindable": kernel.MS_UNBINDABLE,
    "runbindable": kernel.MS_UNBINDABLE,
}


def attach(copy: int, path: str) -> None:
    """Cut the new mount namespace off the host and put the root into it, at its own path."""
    # never shared while we work: what is mounted here must not reach the host
    kernel.mount("", "/", "", kernel.MS_REC | kernel.MS_PRIVATE)
    try:
        place = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except PermissionError:
        # closed to the ids of this user namespace: any place will do for the moment until it becomes "/"
        place = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        kernel.move_mount(copy, place)
    finally:
        os.close(place)


class Masks:
    """Masked paths: files become the null device, directories one shared, empty, read-only tmpfs."""

    def __init__(self, label: str = "") -> None:
        """label: ``linux.mountLabel``, for the tmpfs."""
        self._options = ["nr_blocks=1", "nr_inodes=1", *([f"context={label}"] if label else [])]
        self._attached_null = -1
        self._attached_empty = -1

    def cover(self, root: int, path: str) -> None:
        """Nothing there is nothing to hide."""
        try:
            place = paths.open_in_root(root, path, os.O_PATH)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EACCES):
                return
            raise
        try:
            if stat.S_ISDIR(os.stat(place).st_mode):
                self._attached_empty = self._cover(place, self._attached_empty, self._empty)
            else:
                self._attached_null = self._cover(place, self._attached_null, lambda: _null_device(root))
        finally:
            os.close(place)

    def _empty(self) -> int:
        attributes = (
            kernel.MOUNT_ATTR_RDONLY | kernel.MOUNT_ATTR_NOSUID | kernel.MOUNT_ATTR_NODEV | kernel.MOUNT_ATTR_NOEXEC
        )
        return kernel.new_filesystem("tmpfs", "tmpfs", self._options, attributes)

    @staticmethod
    def _cover(place: int, attached: int, first: Any) -> int:
        """Only an attached mount can be copied on kernels before 6.15: the first cover serves as the pattern."""
        if attached < 0:
            attached = first()
            kernel.move_mount(attached, place)
            return attached
        copy = kernel.open_tree(attached, "", kernel.OPEN_TREE_CLONE | kernel.AT_EMPTY_PATH)
        try:
            kernel.move_mount(copy, place)
        finally:
            os.close(copy)
        return attached


def _null_device(root: int) -> int:
    """A detached mount of the container's null device, or of the host's where an image has put something else there.

    Its mode and owner cannot be changed through the mount: the host's device is everybody's.
    """
    copy = _own_null_device(root)
    if copy < 0:
        copy = kernel.clone_tree("/dev/null")
        if not _is_null_device(copy):
            raise SystemFailure("the host's /dev/null is not the null device", step="mask paths")
    kernel.mount_setattr(copy, set_=kernel.MOUNT_ATTR_RDONLY | kernel.MOUNT_ATTR_NOSUID | kernel.MOUNT_ATTR_NOEXEC)
    return copy


def _own_null_device(root: int) -> int:
    """-1 when the container's /dev/null is none (CVE-2025-31133)."""
    try:
        place = paths.open_in_root(root, "/dev/null", os.O_PATH | os.O_NOFOLLOW)
    except OSError:
        return -1
    try:
        if not _is_null_device(place):
            return -1
        return kernel.open_tree(place, "", kernel.OPEN_TREE_CLONE | kernel.AT_EMPTY_PATH)
    finally:
        os.close(place)


def _is_null_device(descriptor: int) -> bool:
    status = os.stat(descriptor)
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == os.makedev(1, 3)


def make_readonly(root: int, path: str) -> None:
    """A path that can be read and no longer written."""
    try:
        place = paths.open_in_root(root, path, os.O_PATH)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return
        raise
    try:
        copy = kernel.open_tree(place, "", kernel.OPEN_TREE_CLONE | kernel.AT_EMPTY_PATH | kernel.AT_RECURSIVE)
        try:
            kernel.mount_setattr(copy, set_=kernel.MOUNT_ATTR_RDONLY, recursive=True)
            kernel.move_mount(copy, place)
        finally:
            os.close(copy)
    finally:
        os.close(place)


def sysctl_path(name: str) -> str:
    """net.ipv4.ip_forward or net/ipv4/conf/eth0.1/forwarding -> path below /proc/sys.

    The first separator decides which one it is, as with sysctl(8).
    """
    dot, slash = name.find("."), name.find("/")
    if slash >= 0 and (dot < 0 or slash < dot):
        return name
    return "/".join(part.replace("/", ".") for part in name.split("."))


def write_sysctls(values: dict[str, str], procfs: int) -> None:
    """Through a procfs that nothing can lie in front of (CVE-2025-52881).

    procfs: descriptor of one that this process has made, -1 to have another made: to let go of that waits for all
            processors
    """
    if not values:
        return
    descriptor = os.dup(procfs) if procfs >= 0 else _procfs()
    try:
        for name, value in values.items():
            _write_sysctl(descriptor, name, value)
    finally:
        os.close(descriptor)


def _procfs() -> int:
    """A procfs that is not the container's to shape."""
    try:
        return kernel.new_filesystem("proc", "proc", [])
    except PermissionError:
        # in a user namespace with the pid namespace of the host: the root has not been entered, /proc is the host's
        if user_namespace.is_initial():
            raise
    descriptor = os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    if paths.filesystem_type(descriptor) != paths.PROC_SUPER_MAGIC:
        os.close(descriptor)
        raise SystemFailure("/proc of the host is not a procfs", step="sysctl")
    return descriptor


def _write_sysctl(procfs: int, name: str, value: str) -> None:
    resolve = paths.RESOLVE_BENEATH | paths.RESOLVE_NO_SYMLINKS | paths.RESOLVE_NO_XDEV | paths.RESOLVE_NO_MAGICLINKS
    try:
        file = paths.openat2(procfs, f"sys/{sysctl_path(name)}", os.O_WRONLY, resolve=resolve)
        try:
            os.write(file, value.encode())
        finally:
            os.close(file)
    except FileNotFoundError:
        raise InvalidParameter(f"sysctl '{name}' does not exist on this kernel") from None
    except OSError as error:
        raise OSError(error.errno, f"{name}={value}: {(error.strerror or '').lower()}") from error


def pivot(root: int) -> None:
    """Make ``root`` the process's "/" and let go of the host's file systems (pivot_root(2))."""
    os.fchdir(root)
    kernel.pivot_root(".", ".")
    # the old root lies over the new one now; it has been private since ``attach``, so the host does not notice
    kernel.umount2(".", kernel.MNT_DETACH)
    os.chdir("/")


def parts_of(copy: int, path: str) -> list[int]:
    """Descriptors of the mounts that belong to a root itself, those that it had before anything was mounted in it.

    Without the machine's root a root may consist of several (``linux/root_pieces.py``).

    copy: the root's, recursive; path: where the original is
    """
    inside = f"{path.rstrip('/')}/"
    return [
        paths.open_in_root(copy, entry.target.removeprefix(inside), os.O_PATH)
        for entry in mounts.read()
        if entry.target.startswith(inside)
    ]


def make_read_only(parts: list[int]) -> None:
    """The root that has been entered, and the other mounts that belong to it."""
    descriptor = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    for place in (descriptor, *parts):
        kernel.mount_setattr(place, set_=kernel.MOUNT_ATTR_RDONLY)
        os.close(place)


def propagate(propagation: str) -> None:
    """``linux.rootfsPropagation`` of the root that has been entered; each mount below has its own."""
    if propagation in ("", "private", "rprivate"):
        return
    descriptor = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        kernel.mount_setattr(descriptor, propagation=PROPAGATION[propagation])
    finally:
        os.close(descriptor)
