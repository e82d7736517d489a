"""Where this host has its control groups: version 1 controllers, version 2, or both (hybrid).

Source: cgroups(7); Documentation/admin-guide/cgroup-v2.rst.
"""

from __future__ import annotations

import functools
import os

from corten.linux import user_namespace

V1_CONTROLLERS = (
    "memory",
    "cpu",
    "cpuacct",
    "cpuset",
    "pids",
    "devices",
    "freezer",
    "blkio",
    "hugetlb",
    "net_cls",
    "net_prio",
    "perf_event",
    "rdma",
)


class Hierarchies:
    """Mount points by controller."""

    __slots__ = ("dynamic", "unified", "v1")

    def __init__(self, v1: dict[str, str] | None = None, unified: str = "", *, dynamic: bool = False) -> None:
        """
        v1:      controller -> mount point; co-mounted controllers share one
        unified: mount point of cgroup2, "" when it is not mounted
        dynamic: it is mounted with ``favordynmods``: a process is moved without waiting for the whole machine
        """
        self.v1 = v1 or {}
        self.unified = unified
        self.dynamic = dynamic

    @property
    def is_v2(self) -> bool:
        """All controllers are version 2's: version 1 has none of those that limit."""
        return bool(self.unified) and "memory" not in self.v1 and "cpu" not in self.v1

    @classmethod
    def here(cls) -> Hierarchies:
        """This host's, read once: a process sees the mounts of its start, and so do those that it forks."""
        return _here()

    @classmethod
    def read(cls, mountinfo: str = "/proc/self/mountinfo") -> Hierarchies:
        v1: dict[str, str] = {}
        unified, dynamic = "", False
        with open(mountinfo) as table:
            for line in table:
                left, _, right = line.rstrip("\n").partition(" - ")
                kind, _, super_options = right.split(" ", 2)
                target = left.split(" ")[4]
                if not _is_usable(target):
                    continue
                if kind == "cgroup2" and not unified:
                    unified, dynamic = target, "favordynmods" in super_options.split(",")
                elif kind == "cgroup":
                    for option in super_options.split(","):
                        if option in V1_CONTROLLERS or option == "name=systemd":
                            v1.setdefault(option, target)
        return cls(v1, unified, dynamic=dynamic)

    def directories(self, path: str) -> list[str]:
        """The directories that a cgroup ``path`` has here, each once."""
        roots = [self.unified] if self.is_v2 else dict.fromkeys(self.v1.values())
        return [root + path for root in roots]


def is_scope(path: str) -> bool:
    """Whether a group is one that systemd makes (``systemd.py``)."""
    return path.endswith(".scope")


def _is_usable(target: str) -> bool:
    """Without the machine's root only what was delegated to the user: groups of others cannot be used for anything."""
    return (os.geteuid() == 0 and user_namespace.is_initial()) or os.access(target, os.W_OK)


@functools.cache
def _here() -> Hierarchies:
    return Hierarchies.read()
