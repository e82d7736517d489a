"""The machine's root as a layer where the kernel does not take "/" as one.

In a user namespace everything that is mounted below "/" is locked to it, since what lies under those mounts may be
meant to be hidden; so "/" without its mounts cannot be had, and be no layer of an overlay (mount_namespaces(7)).  What
has no mount below it can: ``/usr``, ``/etc``, …  Those are the *pieces*, each of which becomes an overlay of its own,
attached where it belongs in a *skeleton* of the rest: directories, links, and small files beside them.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable

from corten.linux import mount as kernel
from corten.linux import mounts, user_namespace

_SMALL_FILE = 1 << 16


class Plan:
    """Paths without the leading slash, parents first.

    pieces:    directories without a mount below them
    skeleton:  directories with one, mount points, links and small files
    """

    def __init__(self) -> None:
        self.pieces: list[str] = []
        self.skeleton: list[str] = []


def needed(directory: str) -> bool:
    # a descriptor of a detached mount has no path: it calls itself "/" too
    is_descriptor = directory.startswith("/proc/")
    return not user_namespace.is_initial() and not is_descriptor and os.path.realpath(directory) == "/"


def can_be_layer(directory: str) -> bool:
    """Whether the kernel lets us have a directory without what is mounted below it."""
    try:
        os.close(kernel.clone_tree(directory))
    except OSError:
        return False
    return True


def plan(root: str = "/", mount_points: set[str] | None = None, is_whole: Callable[[str], bool] = can_be_layer) -> Plan:
    """How the tree at ``root`` falls apart.

    all arguments: only for tests
    """
    points = {entry.target for entry in mounts.read()} if mount_points is None else mount_points
    result = Plan()
    pending = [root]
    while pending:
        directory = pending.pop(0)
        try:
            with os.scandir(directory) as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
        except PermissionError:
            continue  # closed to this user: it shows as empty
        for entry in entries:
            inside = os.path.relpath(entry.path, root)
            if entry.is_dir(follow_symlinks=False) and entry.path not in points:
                if is_whole(entry.path):
                    result.pieces.append(inside)
                    continue
                pending.append(entry.path)
            result.skeleton.append(inside)
    return result


def make_skeleton(parts: Plan, root: str = "/") -> int:
    """A descriptor of a small file system with the skeleton, and empty directories for the pieces."""
    filesystem = kernel.new_filesystem("tmpfs", "corten", ["mode=755"])
    try:
        for path in sorted(parts.skeleton + parts.pieces):
            with contextlib.suppress(OSError):
                # what cannot be read or has just gone is not there
                _copy(filesystem, path, f"{root.rstrip('/')}/{path}")
    except BaseException:
        os.close(filesystem)
        raise
    return filesystem


def _copy(filesystem: int, path: str, source: str) -> None:
    status = os.lstat(source)
    if stat.S_ISDIR(status.st_mode):
        os.mkdir(path, dir_fd=filesystem)
        os.chmod(path, stat.S_IMODE(status.st_mode), dir_fd=filesystem)
    elif stat.S_ISLNK(status.st_mode):
        os.symlink(os.readlink(source), path, dir_fd=filesystem)
    elif stat.S_ISREG(status.st_mode) and status.st_size <= _SMALL_FILE:
        with open(source, "rb") as file:
            content = file.read(_SMALL_FILE)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        copy = os.open(path, flags, stat.S_IMODE(status.st_mode), dir_fd=filesystem)
        try:
            os.write(copy, content)
            os.fchmod(copy, stat.S_IMODE(status.st_mode))
        finally:
            os.close(copy)


def visible(layers: list[str], path: str) -> list[str] | None:
    """The directories that layers above the machine's root show at ``path``, topmost first.

    None when they hide what the machine has there.
    """
    found = []
    for layer in layers:
        place = layer
        for part in path.split("/"):
            place = f"{place}/{part}"
            try:
                status = os.lstat(place)
            except FileNotFoundError:
                break
            if not stat.S_ISDIR(status.st_mode) or _is_opaque(place):
                return None
        else:
            found.append(place)
    return found


def _is_opaque(directory: str) -> bool:
    try:
        return os.getxattr(directory, "user.overlay.opaque", follow_symlinks=False) == b"y"
    except OSError:
        return False


def make_upper(upper: str, path: str, layers: list[str], root: str = "/") -> str:
    """The part of the upper directory that belongs to a piece, made with owner, mode and time of what it covers."""
    place = upper
    inside = ""
    for part in path.split("/"):
        inside = f"{inside}/{part}"
        place = f"{place}/{part}"
        if os.path.lexists(place):
            continue
        covered = next((layer + inside for layer in layers if os.path.isdir(layer + inside)), root.rstrip("/") + inside)
        status = os.stat(covered)
        os.mkdir(place, 0o700)
        if user_namespace.Rights.here().owners:
            os.chown(place, *user_namespace.owner(status))
        os.chmod(place, stat.S_IMODE(status.st_mode))
        os.utime(place, ns=(status.st_atime_ns, status.st_mtime_ns))
    return place
