"""The mounts of ``config.json``, made through descriptors below the container's root.

No mount is ever made by a path that the container's files could redirect: the destination is opened inside the root by
openat2 and the detached mount is moved onto that descriptor (CVE-2021-30465, CVE-2019-19921 and their like).
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Collection
from typing import Any

from corten.cgroup.hierarchy import Hierarchies
from corten.cgroup.manager import Cgroup
from corten.errors import InvalidParameter
from corten.linux import mount as kernel
from corten.linux import overlay, paths
from corten.runtime.mount_options import MountOptions, parse
from corten.runtime.sources import apply_attributes, apply_propagation, is_bind

_PLAIN_ONLY = ("/proc", "/sys")
_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
# what lxcfs and its like may cover of a container's procfs; anything else there could mislead who reads or writes it
_PROC_FILES = tuple(
    f"/proc/{name}"
    for name in (
        "cpuinfo", "diskstats", "meminfo", "stat", "swaps", "uptime", "loadavg", "slabinfo", "sys/kernel/ns_last_pid",
        "sys/crypto/fips_enabled",
    )
)  # fmt: skip
# file systems that show one kind of namespace, and where the host has its own
_SHOWS = {"proc": "pid", "sysfs": "network", "mqueue": "ipc"}
_OF_THE_HOST = {"proc": "/proc", "sysfs": "/sys", "mqueue": "/dev/mqueue"}
# what has no files but those that are made in it, or shows nothing but a namespace
_VIRTUAL = ("proc", "sysfs", "mqueue", "tmpfs", "devpts")
_LONGEST_OPTION = 255  # fsconfig(2)


def _open_destination(root: int, destination: str, kind: str, *, directory: bool) -> int:
    """The mount point, made when it is missing.

    Errors: InvalidParameter when /proc or /sys is anything but a plain directory, or the place lies inside /proc.
    """
    clean = paths.clean(destination)
    if clean == "/":
        raise InvalidParameter("a mount cannot replace the container's root '/'")
    if clean in _PLAIN_ONLY:
        return _open_plain(root, clean)
    place = paths.mkdirs_in_root(root, clean) if directory else paths.create_file_in_root(root, clean)
    if paths.filesystem_type(place) == paths.PROC_SUPER_MAGIC and clean not in _PROC_FILES and kind != "proc":
        os.close(place)
        raise InvalidParameter(f"{destination} cannot be mounted because it is inside /proc")
    return place


def _open_plain(root: int, clean: str) -> int:
    try:
        return paths.openat2(
            root,
            clean[1:],
            _DIRECTORY,
            resolve=paths.RESOLVE_IN_ROOT | paths.RESOLVE_NO_SYMLINKS | paths.RESOLVE_NO_MAGICLINKS,
        )
    except FileNotFoundError:
        return paths.mkdirs_in_root(root, clean)
    except OSError as error:
        raise InvalidParameter(f"{clean} must be mounted on ordinary directory") from error


def make_ahead(spec: dict[str, Any], own: Collection[str]) -> dict[int, int]:
    """Those of ``mounts`` that need nothing but namespaces of our own, detached, by index.

    own: the kinds of namespaces that the caller will not leave
    What cannot be made is left for ``make`` to say why.
    """
    label = (spec.get("linux") or {}).get("mountLabel") or ""
    made = {}
    for index, mount in enumerate(spec.get("mounts") or ()):
        kind = mount.get("type") or ""
        options = parse(mount.get("options") or [])
        if kind not in _VIRTUAL or _SHOWS.get(kind, "pid") not in own or options.remount or is_bind(mount, options):
            continue
        with contextlib.suppress(OSError):
            made[index] = _new_filesystem(kind, mount.get("source") or kind, options, label)
    return made


def make(
    root: int,
    mount: dict[str, Any],
    *,
    source: int,
    made: int = -1,
    cgroup: Cgroup,
    own: Collection[str],
    label: str = "",
) -> None:
    """One entry of ``mounts``.

    source: the detached mount of a bind, -1 for others
    made:   the file system, when ``make_ahead`` has made it
    own:    the kinds of namespaces that are not the host's
    cgroup: the container's group, which a mount of type cgroup shows
    label:  ``linux.mountLabel``, for file systems that are made here
    Errors: InvalidParameter (cannot be honoured), OSError naming call and path.
    """
    options = parse(mount.get("options") or [])
    kind = mount.get("type") or ""
    destination = mount["destination"]
    try:
        if options.remount:
            _remount(root, destination, options)
        elif is_bind(mount, options):
            _bind(root, destination, source)
        elif kind in ("cgroup", "cgroup2"):
            _cgroup(root, destination, options, cgroup, label, "cgroup" in own)
        else:
            is_own = _SHOWS.get(kind, "") in own
            _filesystem(root, destination, kind, mount.get("source") or kind, options, label, is_own, made)
    except OSError as error:
        text = (error.strerror or str(error)).lower()
        raise OSError(error.errno, f"mount {mount.get('source') or kind} at {destination}: {text}") from error


def _remount(root: int, destination: str, options: MountOptions) -> None:
    place = paths.open_in_root(root, destination, os.O_PATH)
    try:
        apply_attributes(place, options)
        apply_propagation(place, options)
    finally:
        os.close(place)


def _bind(root: int, destination: str, source: int) -> None:
    if paths.clean(destination) == "/proc" and paths.filesystem_type(source) != paths.PROC_SUPER_MAGIC:
        raise InvalidParameter("only a procfs can be mounted at /proc")
    is_directory = stat.S_ISDIR(os.stat(source).st_mode)
    place = _open_destination(root, destination, "bind", directory=is_directory)
    try:
        if not is_directory and stat.S_ISDIR(os.stat(place).st_mode):
            raise NotADirectoryError(errno.ENOTDIR, "not a directory")
        kernel.move_mount(source, place)
    finally:
        os.close(place)


def _filesystem(
    root: int,
    destination: str,
    kind: str,
    source: str,
    options: MountOptions,
    label: str,
    is_own: bool,
    made_ahead: int,
) -> None:
    if not kind:
        raise InvalidParameter(f"the mount at {destination} has no type")
    if kind != "proc" and paths.clean(destination) == "/proc":
        raise InvalidParameter("only a procfs can be mounted at /proc")
    try:
        descriptor = made_ahead if made_ahead >= 0 else _new_filesystem(kind, source, options, label)
    except PermissionError:
        # a container with the host's namespace and a user namespace may not make a view of it, but may use the host's
        if is_own or kind not in _SHOWS:
            raise
        if not os.path.isdir(_OF_THE_HOST[kind]):
            return
        descriptor = kernel.clone_tree(_OF_THE_HOST[kind], recursive=True)
        kernel.mount_setattr(descriptor, set_=options.set_, propagation=kernel.MS_PRIVATE, recursive=True)
    try:
        made = kind == "tmpfs" and not _exists(root, destination)
        place = _open_destination(root, destination, kind, directory=True)
        try:
            if kind == "tmpfs" and options.copy_up:
                _copy_up(place, descriptor, options)
            elif kind == "tmpfs" and not made and not any(item.startswith("mode=") for item in options.data):
                _take_over_mode(place, descriptor)
            kernel.move_mount(descriptor, place)
        finally:
            os.close(place)
        if options.set_ & kernel.MOUNT_ATTR_RDONLY:
            kernel.mount_setattr(descriptor, set_=kernel.MOUNT_ATTR_RDONLY)
        if options.set_recursive or options.clear_recursive:
            kernel.mount_setattr(descriptor, set_=options.set_recursive, clear=options.clear_recursive, recursive=True)
        apply_propagation(descriptor, options)
    finally:
        os.close(descriptor)


def _new_filesystem(kind: str, source: str, options: MountOptions, label: str) -> int:
    data = options.data
    if label and kind not in ("proc", "sysfs", "mqueue"):
        data = [*data, f"context={label}"]
    if kind == "overlay" and any(len(item) > _LONGEST_OPTION for item in data):
        return _overlay(data, options)
    # writable at first: it may have to be filled
    descriptor = kernel.new_filesystem(kind, source, data, options.set_ & ~kernel.MOUNT_ATTR_RDONLY)
    if label and kind == "mqueue":
        # the kernel takes no context for it, but a label
        os.setxattr(f"/proc/self/fd/{descriptor}", "security.selinux", label.encode() + b"\0")
    return descriptor


def _overlay(data: list[str], options: MountOptions) -> int:
    """An overlay whose list of layers is longer than one option may be."""
    values = dict(item.partition("=")[::2] for item in data)
    rest = [item for item in data if item.partition("=")[0] not in ("lowerdir", "upperdir", "workdir")]
    lower = values.get("lowerdir", "").split(":")
    descriptor = overlay.overlay_fd(lower, values.get("upperdir"), values.get("workdir"), rest)
    attributes = options.set_ & ~kernel.MOUNT_ATTR_RDONLY
    if attributes:
        kernel.mount_setattr(descriptor, set_=attributes)
    return descriptor


def _exists(root: int, path: str) -> bool:
    try:
        os.close(paths.open_in_root(root, path, os.O_PATH))
    except OSError:
        return False
    return True


def _take_over_mode(place: int, filesystem: int) -> None:
    """A tmpfs without a mode of its own takes the one of the directory it covers, as runc's does."""
    status = os.stat(place)
    os.chmod(f"/proc/self/fd/{filesystem}", stat.S_IMODE(status.st_mode))


def _copy_up(source: int, target: int, options: MountOptions) -> None:
    """Fill a tmpfs with what it is going to cover (option tmpcopyup)."""
    opened = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=source)
    try:
        filled = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=target)
        try:
            given = os.fstat(filled)
            _copy_directory(opened, filled)
            if any(item.startswith("mode=") for item in options.data):
                os.fchmod(filled, stat.S_IMODE(given.st_mode))
        finally:
            os.close(filled)
    finally:
        os.close(opened)


def _copy_directory(source: int, target: int) -> None:
    for name in os.listdir(source):
        _copy_entry(source, target, name)
    _copy_attributes(source, target)


def _copy_attributes(source: int, target: int) -> None:
    """Owner, mode, extended attributes and times, of open files."""
    status = os.fstat(source)
    os.fchown(target, status.st_uid, status.st_gid)
    os.fchmod(target, stat.S_IMODE(status.st_mode))
    for name in os.listxattr(source):
        # tmpfs does not take every kind
        with contextlib.suppress(OSError):
            os.setxattr(target, name, os.getxattr(source, name))
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))


def _copy_entry(source: int, target: int, name: str) -> None:
    status = os.stat(name, dir_fd=source, follow_symlinks=False)
    if stat.S_ISLNK(status.st_mode):
        os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
        os.chown(name, status.st_uid, status.st_gid, dir_fd=target, follow_symlinks=False)
    elif stat.S_ISDIR(status.st_mode) or stat.S_ISREG(status.st_mode):
        _copy_content(source, target, name, directory=stat.S_ISDIR(status.st_mode))
    else:
        os.mknod(name, status.st_mode, status.st_rdev, dir_fd=target)
        os.chown(name, status.st_uid, status.st_gid, dir_fd=target, follow_symlinks=False)
        os.chmod(name, stat.S_IMODE(status.st_mode), dir_fd=target)


def _copy_content(source: int, target: int, name: str, *, directory: bool) -> None:
    kind = os.O_DIRECTORY if directory else os.O_NONBLOCK
    reading = os.open(name, os.O_RDONLY | kind | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=source)
    try:
        if directory:
            os.mkdir(name, 0o700, dir_fd=target)
            writing = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=target)
        else:
            writing = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=target)
        try:
            if directory:
                _copy_directory(reading, writing)
            else:
                while os.sendfile(writing, reading, None, 1 << 20):
                    pass
                _copy_attributes(reading, writing)
        finally:
            os.close(writing)
    finally:
        os.close(reading)


def _cgroup(
    root: int, destination: str, options: MountOptions, cgroup: Cgroup, label: str, cgroup_namespace: bool
) -> None:
    hierarchies = cgroup.hierarchies
    if hierarchies.is_v2:
        if cgroup_namespace:
            descriptor = kernel.new_filesystem("cgroup2", "cgroup", [], options.set_)
        else:
            descriptor = kernel.clone_tree(hierarchies.unified)
            kernel.mount_setattr(descriptor, set_=options.set_)
        _attach(root, destination, descriptor)
        return
    _cgroup_v1(root, destination, options, hierarchies, cgroup.path, label)


def _attach(root: int, destination: str, descriptor: int) -> None:
    try:
        place = _open_destination(root, destination, "cgroup", directory=True)
        try:
            kernel.move_mount(descriptor, place)
        finally:
            os.close(place)
    finally:
        os.close(descriptor)


def _cgroup_v1(
    root: int, destination: str, options: MountOptions, hierarchies: Hierarchies, cgroup_path: str, label: str
) -> None:
    """A small tmpfs with the container's own group of every hierarchy bound below it."""
    base_attributes = options.set_ & ~kernel.MOUNT_ATTR_RDONLY
    data = ["mode=755", *([f"context={label}"] if label else [])]
    base = kernel.new_filesystem("tmpfs", "tmpfs", data, base_attributes)
    try:
        place = _open_destination(root, destination, "cgroup", directory=True)
        try:
            kernel.move_mount(base, place)
        finally:
            os.close(place)
        for target in dict.fromkeys(hierarchies.v1.values()):
            name = os.path.basename(target)
            os.mkdir(name, 0o755, dir_fd=base)
            source = kernel.clone_tree(target + cgroup_path)
            try:
                point = os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=base)
                try:
                    kernel.move_mount(source, point)
                finally:
                    os.close(point)
            finally:
                os.close(source)
        for controller, target in hierarchies.v1.items():
            name = os.path.basename(target)
            if controller != name and "=" not in controller:
                os.symlink(name, controller, dir_fd=base)
        # all of them in one call
        kernel.mount_setattr(base, set_=options.set_, propagation=kernel.MS_PRIVATE, recursive=True)
    finally:
        os.close(base)
