"""Classes of cache and memory bandwidth: ``linux.intelRdt``, by the kernel's resctrl file system.

A class is a directory with ``tasks`` and ``schemata``.  A group that only measures is a directory in a class's
``mon_groups``.  A process has the class of its parent until it is moved.

::

    /sys/fs/resctrl/<class>/schemata                   L3:0=7f0;1=1f
    /sys/fs/resctrl/<class>/tasks                      pids; 0 is who writes it
    /sys/fs/resctrl/<class>/mon_groups/<id>/tasks      of processes that are in the class already
    /sys/fs/resctrl/info/last_cmd_status               why the kernel refused the last thing

Source: runtime-spec config-linux.md, "IntelRdt"; Documentation/filesystems/resctrl.rst.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any, NamedTuple

from corten.errors import InvalidParameter, SystemFailure
from corten.linux import mounts

# directories of the file system that are no classes
_RESERVED = ("info", "mon_data", "mon_groups")
# enableMonitoring is specification 1.3's, and stands for the two that 1.1 and 1.2 have: no processor measures only one
_MONITORING = ("enableMonitoring", "enableCMT", "enableMBM")
_BANDWIDTH = "MB:"


def check(rdt: dict[str, Any]) -> None:
    """``linux.intelRdt`` by itself.  Errors: InvalidParameter naming the field."""
    name = rdt.get("closID") or ""
    if name and name != "/":
        _check_name(name, "linux.intelRdt.closID")
    bandwidth = rdt.get("memBwSchema") or ""
    if bandwidth and (not bandwidth.startswith(_BANDWIDTH) or "\n" in bandwidth):
        raise InvalidParameter(
            f"config.json: linux.intelRdt.memBwSchema: {bandwidth!r} is no line that begins with MB:"
        )
    for index, line in enumerate(rdt.get("schemata") or ()):
        if "\n" in line:
            raise InvalidParameter(f"config.json: linux.intelRdt.schemata[{index}]: {line!r} is more than one line")


def _check_name(name: str, field: str) -> None:
    if "/" in name or "\0" in name or "\n" in name or name in (".", "..", *_RESERVED):
        raise InvalidParameter(f"config.json: {field}: {name!r} cannot be the name of a class")


def mount_point() -> str:
    """Where resctrl is mounted, "" where it is not."""
    return next((entry.target for entry in mounts.read() if entry.kind == "resctrl"), "")


class Group(NamedTuple):
    """The class of a container.

    root:      where resctrl is mounted
    directory: of the class
    monitor:   of the group that measures the container, "" without
    is_ours:   the class goes with the container
    """

    root: str
    directory: str
    monitor: str
    is_ours: bool

    def join(self, pid: int = 0) -> None:
        """Move a process, and what it will start; 0 is the caller.  Errors: SystemFailure, ProcessLookupError."""
        for directory in filter(None, (self.directory, self.monitor)):
            _write(self.root, f"{directory}/tasks", str(pid))

    def change(self, *lines: str) -> None:
        """Set the class's shares.  Errors: SystemFailure with the kernel's reason."""
        for line in lines:
            _write(self.root, f"{self.directory}/schemata", line)

    def remove(self) -> None:
        """Take away what belongs to the container; its processes have gone.  Errors: SystemFailure."""
        for directory in (self.monitor, self.directory if self.is_ours else ""):
            if directory:
                with _explained(self.root, f"remove {directory}"), contextlib.suppress(FileNotFoundError):
                    os.rmdir(directory)


def make(rdt: dict[str, Any] | None, container_id: str) -> Group | None:
    """The class that ``linux.intelRdt`` asks for, made unless it is there; None without one.

    A class that ``closID`` names stays when the container is deleted, whoever made it: others may be in it.

    Errors: InvalidParameter when the machine has no resctrl, or no such class, or one with other shares;
    SystemFailure with the kernel's reason.  Nothing is left then.
    """
    if rdt is None:
        return None
    root = mount_point()
    if not root:
        raise InvalidParameter("config.json: linux.intelRdt: this machine has no resctrl file system mounted")
    named = rdt.get("closID") or ""
    if not named:
        _check_name(container_id, "linux.intelRdt.closID")  # the container's id stands for it
    directory = root if named == "/" else f"{root}/{named or container_id}"
    is_new = _make_class(root, directory, rdt)
    monitor = f"{directory}/mon_groups/{container_id}" if any(rdt.get(name) for name in _MONITORING) else ""
    try:
        Group(root, directory, "", is_ours=is_new).change(*_lines(rdt))
        if monitor:
            with _explained(root, f"make {monitor}"), contextlib.suppress(FileExistsError):
                os.mkdir(monitor, 0o755)
    except BaseException:
        Group(root, directory, "", is_ours=is_new).remove()
        raise
    return Group(root, directory, monitor, is_ours=is_new and not named)


def _make_class(root: str, directory: str, rdt: dict[str, Any]) -> bool:
    """Whether it is new."""
    named, lines = rdt.get("closID") or "", _lines(rdt)
    if os.path.isdir(directory):
        if named:
            _compare(directory, rdt)
        return False
    if named and not lines:
        raise InvalidParameter(f"config.json: linux.intelRdt.closID: there is no class {named} in {root}")
    with _explained(root, f"make {directory}"):
        os.mkdir(directory, 0o755)
    return True


def _lines(rdt: dict[str, Any]) -> list[str]:
    """What is written to ``schemata``, in the specification's order."""
    cache = (rdt.get("l3CacheSchema") or "").splitlines()
    return [line for line in (*cache, rdt.get("memBwSchema") or "", *(rdt.get("schemata") or ())) if line]


def _compare(directory: str, rdt: dict[str, Any]) -> None:
    """A class that is there must have the shares that are asked for."""
    with open(f"{directory}/schemata") as file:
        present = parsed(file.read())
    for field in ("l3CacheSchema", "memBwSchema"):
        for resource, shares in parsed(rdt.get(field) or "").items():
            for cache, value in shares.items():
                if present.get(resource, {}).get(cache) != value:
                    name = os.path.basename(directory)
                    raise InvalidParameter(
                        f"config.json: linux.intelRdt.{field}: {rdt[field]} is not what class {name} has"
                    )


def parsed(text: str) -> dict[str, dict[str, str]]:
    """Lines of ``schemata``: resource -> cache's number -> share, without the zeros before it."""
    found = {}
    for line in text.splitlines():
        resource, _, shares = line.strip().partition(":")
        pairs = (share.partition("=") for share in shares.split(";") if share.strip())
        found[resource] = {cache.strip(): value.strip().lstrip("0").lower() for cache, _, value in pairs}
    return found


def _write(root: str, path: str, line: str) -> None:
    with _explained(root, f"write {line!r} to {path}"):
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(descriptor, f"{line}\n".encode())
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def _explained(root: str, what: str) -> Iterator[None]:
    """Errors of the block in the kernel's words, but for a process that has gone."""
    try:
        yield
    except ProcessLookupError:
        raise
    except OSError as error:
        reason = _last_status(root) or (error.strerror or str(error)).lower()
        raise SystemFailure(f"resctrl: cannot {what}: {reason}", step="resctrl", errno=error.errno or 0) from error


def _last_status(root: str) -> str:
    try:
        with open(f"{root}/info/last_cmd_status") as file:
            status = file.read().strip()
    except OSError:
        return ""
    return "" if status == "ok" else status
