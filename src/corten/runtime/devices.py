"""Device nodes of a container, never made by a path that its files could redirect (CVE-2024-45310 and its like).

Sources: runtime-spec config-linux.md "Devices" and "Default Devices", runtime-linux.md "Dev symbolic links".
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Collection
from typing import Any

from corten.errors import InvalidParameter
from corten.linux import mount as kernel
from corten.linux import paths

# (name, major, minor): runtime-spec config-linux.md, "Default Devices"
DEFAULT_DEVICES = (("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0))
_DEFAULT_LINKS = (
    ("/proc/self/fd", "fd"),
    ("/proc/self/fd/0", "stdin"),
    ("/proc/self/fd/1", "stdout"),
    ("/proc/self/fd/2", "stderr"),
    ("pts/ptmx", "ptmx"),
)
KINDS = {"c": stat.S_IFCHR, "u": stat.S_IFCHR, "b": stat.S_IFBLK, "p": stat.S_IFIFO}


def make_devices(root: int, devices: list[dict[str, Any]], *, bind: bool, covered: Collection[str] = ()) -> None:
    """Default devices and those of ``linux.devices``; the umask is 0, so that modes are what they say.

    bind:    bind the host's nodes instead of making new ones (a user namespace may not make any)
    covered: where mounts lie: one of the host's /dev/urandom at /dev/random is what the caller wants there
    """
    wanted = [
        {"path": f"/dev/{name}", "type": "c", "major": major, "minor": minor, "fileMode": 0o666, "uid": 0, "gid": 0}
        for name, major, minor in DEFAULT_DEVICES
    ]
    given = {paths.clean(device["path"]) for device in devices}
    parent, directory = "", -1
    try:
        for device in [item for item in wanted if item["path"] not in given] + devices:
            place = paths.clean(device["path"])
            if place in covered or place in ("/dev/ptmx", "/dev/console"):
                continue  # the container's own terminals stand at the latter
            above, name = paths.split(device["path"])
            if above != parent:
                if directory >= 0:
                    os.close(directory)
                    directory = -1
                directory, parent = paths.mkdirs_in_root(root, above), above
            _make_device(directory, name, device, bind=bind)
    finally:
        if directory >= 0:
            os.close(directory)


def _make_device(directory: int, name: str, device: dict[str, Any], *, bind: bool) -> None:
    if bind and device["type"] != "p":
        _bind_device(directory, name, device)
        return
    try:
        _make_node(directory, name, device)
    except PermissionError:
        # this host does not let us make any
        _bind_device(directory, name, device)


def _make_node(directory: int, name: str, device: dict[str, Any]) -> None:
    mode = device.get("fileMode")
    mode = 0o666 if mode is None else mode & 0o7777
    kind, number = KINDS[device["type"]] | mode, os.makedev(device.get("major") or 0, device.get("minor") or 0)
    try:
        os.mknod(name, kind, number, dir_fd=directory)
    except FileExistsError:
        if stat.S_ISDIR(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
            raise InvalidParameter(f"linux.devices: {device['path']} is a directory in the image") from None
        os.unlink(name, dir_fd=directory)
        os.mknod(name, kind, number, dir_fd=directory)
    uid, gid = device.get("uid") or 0, device.get("gid") or 0
    if uid or gid:
        # by the directory's descriptor and never through a link: what we made is what we change
        os.chown(name, uid, gid, dir_fd=directory, follow_symlinks=False)


def _bind_device(directory: int, name: str, device: dict[str, Any]) -> None:
    """The host's node itself: read and written, but mode and owner stay as they are for everybody."""
    copy = kernel.clone_tree(_host_node(device))
    try:
        kernel.mount_setattr(copy, set_=kernel.MOUNT_ATTR_RDONLY | kernel.MOUNT_ATTR_NOSUID)
        _cover(directory, name, copy)
    finally:
        os.close(copy)


def _host_node(device: dict[str, Any]) -> str:
    """The host's node of the same numbers: at the same path, or where the kernel says that it is.

    Errors: InvalidParameter when there is none.
    """
    kind = stat.S_IFBLK if device["type"] == "b" else stat.S_IFCHR
    number = os.makedev(device.get("major") or 0, device.get("minor") or 0)
    candidates: list[str] = [device["path"]]
    directory = "block" if kind == stat.S_IFBLK else "char"
    with (
        contextlib.suppress(OSError),
        open(f"/sys/dev/{directory}/{os.major(number)}:{os.minor(number)}/uevent") as event,
    ):
        candidates += [f"/dev/{line[8:].strip()}" for line in event if line.startswith("DEVNAME=")]
    for candidate in candidates:
        with contextlib.suppress(OSError):
            status = os.lstat(candidate)
            if stat.S_IFMT(status.st_mode) == kind and status.st_rdev == number:
                return candidate
    raise InvalidParameter(
        f"linux.devices: {device['path']}: this host has no such device, and a new one cannot be made here"
    )


def _cover(directory: int, name: str, copy: int) -> None:
    """Attach a detached mount over the file ``name``, made when it is missing."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with contextlib.suppress(FileExistsError):
        os.close(os.open(name, flags, 0o600, dir_fd=directory))
    place = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    try:
        kernel.move_mount(copy, place)
    finally:
        os.close(place)


def make_links(root: int) -> None:
    """/dev/fd, /dev/stdin and their like."""
    directory = paths.mkdirs_in_root(root, "/dev")
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
        directory = paths.mkdirs_in_root(root, "/dev")
        try:
            _cover(directory, "console", copy)
        finally:
            os.close(directory)
    finally:
        os.close(copy)
