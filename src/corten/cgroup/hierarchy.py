"""Where this host has its control groups: version 1 controllers, version 2, or both (hybrid).

Source: cgroups(7); Documentation/admin-guide/cgroup-v2.rst.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

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


@dataclass(frozen=True, slots=True)
class Hierarchies:
    """Mount points by controller.

    v1:        controller -> mount point; co-mounted controllers share one
    unified:   mount point of cgroup2, "" when it is not mounted
    """

    v1: dict[str, str] = field(default_factory=dict)
    unified: str = ""

    @property
    def is_v2(self) -> bool:
        """All controllers are version 2's: version 1 has none of those that limit."""
        return bool(self.unified) and "memory" not in self.v1 and "cpu" not in self.v1

    @classmethod
    def read(cls, mountinfo: str = "/proc/self/mountinfo") -> Hierarchies:
        v1: dict[str, str] = {}
        unified = ""
        with open(mountinfo) as table:
            for line in table:
                left, _, right = line.rstrip("\n").partition(" - ")
                kind, _, super_options = right.split(" ", 2)
                target = left.split(" ")[4]
                if kind == "cgroup2" and not unified:
                    unified = target
                elif kind == "cgroup":
                    for option in super_options.split(","):
                        if option in V1_CONTROLLERS or option == "name=systemd":
                            v1.setdefault(option, target)
        return cls(v1, unified)

    def directories(self, path: str) -> list[Path]:
        """The directories that a cgroup ``path`` has here, each once."""
        roots = [self.unified] if self.is_v2 else list(dict.fromkeys(self.v1.values()))
        return [Path(root + path) for root in roots]
