"""The host's side of binds, at the start of a container: absent directories are made, propagation must be possible."""

from __future__ import annotations

import os
from collections.abc import Iterable

from corten.engine.mount_point import MountPoint
from corten.errors import InvalidParameter, SystemFailure

_SHARED = ("shared", "rshared")
_SLAVE = ("slave", "rslave")


def prepare_sources(points: Iterable[MountPoint]) -> None:
    """Errors: SystemFailure for a directory that cannot be made, InvalidParameter for an impossible propagation."""
    for point in points:
        if point.type != "bind":
            continue
        if point.create_source and not os.path.lexists(point.source):
            _make(point.source)
        if not point.implied_propagation and point.propagation in (*_SHARED, *_SLAVE):
            _check_propagation(point)


def _make(path: str) -> None:
    try:
        os.makedirs(path, 0o755, exist_ok=True)
    except OSError as error:
        raise SystemFailure(
            f"error while creating mount source path '{path}': mkdir {error.filename or path}: "
            f"{(error.strerror or '').lower()}",
            step="create mount source",
            errno=error.errno or 0,
        ) from error


def _check_propagation(point: MountPoint) -> None:
    """Mounts can only travel when the host's own mount lets them."""
    try:
        target, kinds = mount_of(point.source)
    except FileNotFoundError:
        return  # the runtime tells
    if point.propagation in _SHARED and "shared" not in kinds:
        raise InvalidParameter(f"path {point.source} is mounted on {target} but it is not a shared mount")
    if point.propagation in _SLAVE and not kinds & {"shared", "master"}:
        raise InvalidParameter(f"path {point.source} is mounted on {target} but it is not a shared or slave mount")


def mount_of(path: str) -> tuple[str, set[str]]:
    """(mount point, kinds of propagation) of the mount that a path lies on; proc_pid_mountinfo(5), optional fields."""
    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        with open(f"/proc/self/fdinfo/{descriptor}") as file:
            number = next(line.split()[1] for line in file if line.startswith("mnt_id:"))
    finally:
        os.close(descriptor)
    with open("/proc/self/mountinfo", errors="surrogateescape") as table:
        for line in table:
            fields = line.partition(" - ")[0].split(" ")
            if fields[0] == number:
                return fields[4], {item.partition(":")[0] for item in fields[6:]}
    return "", set()
