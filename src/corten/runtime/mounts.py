"""The mounts of ``config.json``, made through descriptors below the container's root.

No mount is ever made by a path that the container's files could redirect: the destination is opened inside the root by
openat2 and the detached mount is moved onto that descriptor (CVE-2021-30465, CVE-2019-19921 and their like).
"""

from __future__ import annotations

import os
import stat
from typing import Any

from corten.cgroup.hierarchy import Hierarchies
from corten.errors import InvalidParameter
from corten.linux import mount as kernel
from corten.linux import paths
from corten.runtime import idmap
from corten.runtime.mount_options import MountOptions, parse

_PLAIN_ONLY = ("/proc", "/sys")
_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


def _open_destination(root: int, destination: str, *, directory: bool) -> int:
    """The mount point, made when it is missing.

    Errors: InvalidParameter when /proc or /sys is anything but a plain directory.
    """
    clean = paths.clean(destination)
    if clean in _PLAIN_ONLY:
        try:
            return paths.openat2(
                root, clean[1:], _DIRECTORY, resolve=paths.RESOLVE_IN_ROOT | paths.RESOLVE_NO_SYMLINKS | paths.RESOLVE_NO_MAGICLINKS
            )
        except FileNotFoundError:
            return paths.mkdirs_in_root(root, clean)
        except OSError as error:
            raise InvalidParameter(f"{clean} must be mounted on an ordinary directory of the image") from error
    if clean == "/":
        raise InvalidParameter("a mount cannot replace the container's root '/'")
    if directory:
        return paths.mkdirs_in_root(root, clean)
    return paths.create_file_in_root(root, clean)


def _apply_attributes(descriptor: int, options: MountOptions) -> None:
    if options.set_recursive or options.clear_recursive:
        kernel.mount_setattr(descriptor, set_=options.set_recursive, clear=options.clear_recursive, recursive=True)
    if options.set_ or options.clear:
        kernel.mount_setattr(descriptor, set_=options.set_, clear=options.clear)


def _apply_propagation(descriptor: int, options: MountOptions) -> None:
    for propagation, recursive in options.propagation:
        kernel.mount_setattr(descriptor, propagation=propagation, recursive=recursive)


def make(root: int, mount: dict[str, Any], *, cgroup_path: str, cgroup_namespace: bool) -> None:
    """One entry of ``mounts``.

    Errors: InvalidParameter (cannot be honoured), OSError naming call and path.
    """
    options = parse(mount.get("options") or [])
    kind = mount.get("type") or ""
    destination = mount["destination"]
    if not destination.startswith("/"):
        destination = f"/{destination}"
    try:
        if options.remount:
            _remount(root, destination, options)
        elif options.bind or kind == "bind":
            _bind(root, destination, mount, options)
        elif kind == "cgroup":
            _cgroup(root, destination, options, cgroup_path, cgroup_namespace)
        else:
            _filesystem(root, destination, kind, mount.get("source") or kind, options)
    except OSError as error:
        text = (error.strerror or str(error)).lower()
        raise OSError(error.errno, f"mount {mount.get('source') or kind} at {destination}: {text}") from error


def _remount(root: int, destination: str, options: MountOptions) -> None:
    place = paths.open_in_root(root, destination, os.O_PATH)
    try:
        _apply_attributes(place, options)
        _apply_propagation(place, options)
    finally:
        os.close(place)


def _bind(root: int, destination: str, mount: dict[str, Any], options: MountOptions) -> None:
    source = mount.get("source") or ""
    if not os.path.isabs(source):
        raise InvalidParameter(f"bind source '{source}' for {destination} must be an absolute path")
    try:
        descriptor = kernel.clone_tree(source, recursive=options.recursive)
    except FileNotFoundError as error:
        raise InvalidParameter(f"bind source path does not exist: {source}") from error
    try:
        if options.data:
            raise InvalidParameter(f"mount option '{options.data[0]}' cannot be used with a bind of {source}")
        if options.idmap:
            idmap.apply(descriptor, mount.get("uidMappings") or [], mount.get("gidMappings") or [], recursive=options.idmap_recursive)
        _apply_attributes(descriptor, options)
        # without a wish the copy must not stay in the host's peer group
        if not options.propagation:
            kernel.mount_setattr(descriptor, propagation=kernel.MS_PRIVATE, recursive=True)
        is_directory = stat.S_ISDIR(os.stat(descriptor).st_mode)
        place = _open_destination(root, destination, directory=is_directory)
        try:
            kernel.move_mount(descriptor, place)
        finally:
            os.close(place)
        _apply_propagation(descriptor, options)
    finally:
        os.close(descriptor)


def _filesystem(root: int, destination: str, kind: str, source: str, options: MountOptions) -> None:
    if not kind:
        raise InvalidParameter(f"mount at {destination} has no type")
    descriptor = kernel.new_filesystem(kind, source, options.data, options.set_ & ~kernel.MOUNT_ATTR_IDMAP)
    try:
        place = _open_destination(root, destination, directory=True)
        try:
            if kind == "tmpfs" and options.copy_up:
                _copy_up(place, descriptor)
            elif kind == "tmpfs" and not any(item.startswith("mode=") for item in options.data):
                _take_over_mode(place, descriptor)
            kernel.move_mount(descriptor, place)
        finally:
            os.close(place)
        if options.set_recursive or options.clear_recursive:
            kernel.mount_setattr(descriptor, set_=options.set_recursive, clear=options.clear_recursive, recursive=True)
        _apply_propagation(descriptor, options)
    finally:
        os.close(descriptor)


def _take_over_mode(place: int, filesystem: int) -> None:
    """A tmpfs without a mode of its own takes the one of the directory it covers, as runc's does."""
    status = os.stat(place)
    os.chmod(f"/proc/self/fd/{filesystem}", stat.S_IMODE(status.st_mode))


def _copy_up(source: int, target: int) -> None:
    """Fill a tmpfs with what it is going to cover (option tmpcopyup)."""
    _take_over_mode(source, target)
    opened = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=source)
    try:
        for name in os.listdir(opened):
            _copy_entry(opened, target, name)
    finally:
        os.close(opened)


def _copy_entry(source: int, target: int, name: str) -> None:
    status = os.stat(name, dir_fd=source, follow_symlinks=False)
    mode = stat.S_IMODE(status.st_mode)
    if stat.S_ISLNK(status.st_mode):
        os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
    elif stat.S_ISDIR(status.st_mode):
        os.mkdir(name, mode, dir_fd=target)
        below = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=source)
        made = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=target)
        try:
            for inner in os.listdir(below):
                _copy_entry(below, made, inner)
        finally:
            os.close(below)
            os.close(made)
    elif stat.S_ISREG(status.st_mode):
        reading = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=source)
        writing = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode, dir_fd=target)
        try:
            while os.sendfile(writing, reading, None, 1 << 20):
                pass
        finally:
            os.close(reading)
            os.close(writing)
    else:
        os.mknod(name, status.st_mode, status.st_rdev, dir_fd=target)
    os.chown(name, status.st_uid, status.st_gid, dir_fd=target, follow_symlinks=False)
    if not stat.S_ISLNK(status.st_mode):
        os.chmod(name, mode, dir_fd=target)


def _cgroup(root: int, destination: str, options: MountOptions, cgroup_path: str, cgroup_namespace: bool) -> None:
    hierarchies = Hierarchies.read()
    if hierarchies.is_v2:
        if cgroup_namespace:
            descriptor = kernel.new_filesystem("cgroup2", "cgroup", [], options.set_)
        else:
            descriptor = kernel.clone_tree(hierarchies.unified)
            kernel.mount_setattr(descriptor, set_=options.set_)
        _attach(root, destination, descriptor)
        return
    _cgroup_v1(root, destination, options, hierarchies, cgroup_path)


def _attach(root: int, destination: str, descriptor: int) -> None:
    try:
        place = _open_destination(root, destination, directory=True)
        try:
            kernel.move_mount(descriptor, place)
        finally:
            os.close(place)
    finally:
        os.close(descriptor)


def _cgroup_v1(root: int, destination: str, options: MountOptions, hierarchies: Hierarchies, cgroup_path: str) -> None:
    """A small tmpfs with the container's own group of every hierarchy bound below it."""
    base_attributes = options.set_ & ~kernel.MOUNT_ATTR_RDONLY
    base = kernel.new_filesystem("tmpfs", "tmpfs", ["mode=755"], base_attributes)
    try:
        place = _open_destination(root, destination, directory=True)
        try:
            kernel.move_mount(base, place)
        finally:
            os.close(place)
        for target in dict.fromkeys(hierarchies.v1.values()):
            name = os.path.basename(target)
            os.mkdir(name, 0o755, dir_fd=base)
            source = kernel.clone_tree(target + cgroup_path)
            try:
                kernel.mount_setattr(source, set_=options.set_, propagation=kernel.MS_PRIVATE)
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
        if options.set_ & kernel.MOUNT_ATTR_RDONLY:
            kernel.mount_setattr(base, set_=kernel.MOUNT_ATTR_RDONLY)
    finally:
        os.close(base)
