"""The container's root: the mount itself, devices, masks, and the step into it."""

from __future__ import annotations

import errno
import os
import stat
from typing import Any

from corten.errors import InvalidParameter, SystemFailure
from corten.linux import mount as kernel
from corten.linux import paths

_PROPAGATION = {
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

# (name, major, minor): runtime-spec config-linux.md, "Default Devices"
DEFAULT_DEVICES = (("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0))
_DEFAULT_LINKS = (
    ("/proc/self/fd", "fd"),
    ("/proc/self/fd/0", "stdin"),
    ("/proc/self/fd/1", "stdout"),
    ("/proc/self/fd/2", "stderr"),
    ("pts/ptmx", "ptmx"),
)
_KINDS = {"c": stat.S_IFCHR, "u": stat.S_IFCHR, "b": stat.S_IFBLK, "p": stat.S_IFIFO}


def enter_mount_namespace(rootfs: str, propagation: str) -> int:
    """Cut the new namespace off the host and put the root on a mount of its own; its descriptor.

    Errors: InvalidParameter for an unknown propagation or an absent root.
    """
    if propagation not in _PROPAGATION:
        raise InvalidParameter(f"linux.rootfsPropagation: '{propagation}' is not a propagation")
    # never shared while we work: what is mounted here must not reach the host
    flag = kernel.MS_PRIVATE if _PROPAGATION[propagation] == kernel.MS_PRIVATE else kernel.MS_SLAVE
    kernel.mount("", "/", "", kernel.MS_REC | flag)
    try:
        copy = kernel.clone_tree(rootfs, recursive=True)
    except FileNotFoundError as error:
        raise InvalidParameter(f"root.path: {rootfs} does not exist") from error
    place = os.open(rootfs, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        kernel.mount_setattr(copy, propagation=kernel.MS_PRIVATE)
        kernel.move_mount(copy, place)
    finally:
        os.close(place)
    return copy


def _device_directory(root: int) -> int:
    return paths.mkdirs_in_root(root, "/dev")


def make_devices(root: int, devices: list[dict[str, Any]], *, bind: bool) -> None:
    """Default devices and those of ``linux.devices``.

    bind: bind the host's nodes instead of making new ones (a user namespace may not make any)
    """
    wanted = [
        {"path": f"/dev/{name}", "type": "c", "major": major, "minor": minor, "fileMode": 0o666, "uid": 0, "gid": 0}
        for name, major, minor in DEFAULT_DEVICES
    ]
    given = {device["path"] for device in devices}
    for device in [item for item in wanted if item["path"] not in given] + devices:
        if device["path"] in ("/dev/ptmx", "/dev/console"):
            continue  # the container's own terminals stand there
        _make_device(root, device, bind=bind)


def _make_device(root: int, device: dict[str, Any], *, bind: bool) -> None:
    parent, name = paths.split(device["path"])
    if device["type"] not in _KINDS:
        raise InvalidParameter(f"linux.devices: {device['path']}: unknown type '{device['type']}'")
    directory = paths.mkdirs_in_root(root, parent)
    try:
        if bind:
            _bind_device(directory, name, device)
            return
        mode = device.get("fileMode")
        mode = 0o666 if mode is None else mode
        kind, number = _KINDS[device["type"]], os.makedev(device.get("major", 0), device.get("minor", 0))
        try:
            os.mknod(name, kind | mode, number, dir_fd=directory)
        except FileExistsError:
            if stat.S_ISDIR(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
                raise InvalidParameter(f"linux.devices: {device['path']} is a directory in the image") from None
            os.unlink(name, dir_fd=directory)
            os.mknod(name, kind | mode, number, dir_fd=directory)
        # by the directory's descriptor and never through a link: what we made is what we change
        os.chown(name, device.get("uid") or 0, device.get("gid") or 0, dir_fd=directory, follow_symlinks=False)
        made = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
        try:
            os.chmod(f"/proc/self/fd/{made}", mode)
        finally:
            os.close(made)
    finally:
        os.close(directory)


def _bind_device(directory: int, name: str, device: dict[str, Any]) -> None:
    host = os.stat(device["path"])
    if (os.major(host.st_rdev), os.minor(host.st_rdev)) != (device.get("major"), device.get("minor")):
        raise InvalidParameter(f"linux.devices: {device['path']} differs from the host's")
    copy = kernel.clone_tree(device["path"])
    try:
        try:
            os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644, dir_fd=directory))
        except FileExistsError:
            pass
        place = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
        try:
            kernel.move_mount(copy, place)
        finally:
            os.close(place)
    finally:
        os.close(copy)


def make_links(root: int) -> None:
    """/dev/fd, /dev/stdin and their like."""
    directory = _device_directory(root)
    try:
        links = list(_DEFAULT_LINKS)
        if os.path.exists("/proc/kcore"):
            links.append(("/proc/kcore", "core"))
        for target, name in links:
            try:
                os.symlink(target, name, dir_fd=directory)
            except FileExistsError:
                if name == "ptmx":
                    os.unlink(name, dir_fd=directory)
                    os.symlink(target, name, dir_fd=directory)
    finally:
        os.close(directory)


def attach_console(root: int, slave: int) -> None:
    """/dev/console is the container's terminal, bound from its descriptor and never by its path (CVE-2025-52565)."""
    copy = kernel.open_tree(slave, "", kernel.OPEN_TREE_CLONE | kernel.AT_EMPTY_PATH)
    try:
        directory = _device_directory(root)
        try:
            try:
                os.close(os.open("console", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=directory))
            except FileExistsError:
                pass
            place = os.open("console", os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
            try:
                kernel.move_mount(copy, place)
            finally:
                os.close(place)
        finally:
            os.close(directory)
    finally:
        os.close(copy)


class Masks:
    """Masked paths: files become the null device, directories one shared, empty, read-only tmpfs."""

    def __init__(self) -> None:
        self._null = kernel.clone_tree("/dev/null")
        status = os.stat(self._null)
        if not stat.S_ISCHR(status.st_mode) or status.st_rdev != os.makedev(1, 3):
            raise SystemFailure("the host's /dev/null is not the null device", step="mask paths")
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
                self._attached_null = self._cover(place, self._attached_null, lambda: self._null)
        finally:
            os.close(place)

    @staticmethod
    def _empty() -> int:
        attributes = kernel.MOUNT_ATTR_RDONLY | kernel.MOUNT_ATTR_NOSUID | kernel.MOUNT_ATTR_NODEV | kernel.MOUNT_ATTR_NOEXEC
        return kernel.new_filesystem("tmpfs", "tmpfs", ["nr_blocks=1", "nr_inodes=1"], attributes)

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


def write_sysctls(values: dict[str, str]) -> None:
    """Through a procfs of our own that nothing can lie in front of (CVE-2025-52881)."""
    if not values:
        return
    descriptor = kernel.new_filesystem("proc", "proc", [])
    try:
        for name, value in values.items():
            path = "sys/" + name.replace(".", "/")
            try:
                file = paths.openat2(
                    descriptor,
                    path,
                    os.O_WRONLY,
                    resolve=paths.RESOLVE_BENEATH | paths.RESOLVE_NO_SYMLINKS | paths.RESOLVE_NO_XDEV | paths.RESOLVE_NO_MAGICLINKS,
                )
                try:
                    os.write(file, value.encode())
                finally:
                    os.close(file)
            except FileNotFoundError:
                raise InvalidParameter(f"sysctl '{name}' does not exist on this kernel") from None
            except OSError as error:
                raise OSError(error.errno, f"sysctl {name}={value}: {(error.strerror or '').lower()}") from error
    finally:
        os.close(descriptor)


def pivot(root: int) -> None:
    """Make ``root`` the process's "/" and let go of the host's file systems (pivot_root(2))."""
    os.fchdir(root)
    kernel.pivot_root(".", ".")
    # the old root lies over the new one now; nothing that is unmounted here may reach the host
    kernel.mount("", ".", "", kernel.MS_REC | kernel.MS_SLAVE)
    kernel.umount2(".", kernel.MNT_DETACH)
    os.chdir("/")


def finish_root(propagation: str, *, read_only: bool) -> None:
    """Attributes of the root mount, set from the inside."""
    descriptor = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if read_only:
            kernel.mount_setattr(descriptor, set_=kernel.MOUNT_ATTR_RDONLY)
        if propagation not in ("", "private", "rprivate"):
            kernel.mount_setattr(descriptor, propagation=_PROPAGATION[propagation], recursive=propagation.startswith("r"))
    finally:
        os.close(descriptor)
