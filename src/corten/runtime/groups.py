"""A container's control group as the runtime needs it: a fresh one, with the devices that every container may use."""

from __future__ import annotations

from typing import Any

from corten.cgroup.manager import Cgroup
from corten.errors import Conflict
from corten.runtime.hostproc import HostProc

# what every container may do whatever its rules say, as with runc: make nodes, and use the default devices
_ALWAYS_ALLOWED: list[dict[str, Any]] = [
    {"allow": True, "type": kind, "major": major, "minor": minor, "access": access}
    for kind, major, minor, access in (
        ("c", -1, -1, "m"),
        ("b", -1, -1, "m"),
        ("c", 1, 3, "rwm"),  # null
        ("c", 1, 5, "rwm"),  # zero
        ("c", 1, 7, "rwm"),  # full
        ("c", 1, 8, "rwm"),  # random
        ("c", 1, 9, "rwm"),  # urandom
        ("c", 5, 0, "rwm"),  # tty
        ("c", 5, 2, "rwm"),  # ptmx
        ("c", 136, -1, "rwm"),  # pts
        ("c", 10, 200, "rwm"),  # net/tun
    )
]

# fields whose zero or empty text dockerd and containerd write for "not given", and runc passes over
_ZERO_IS_UNSET = {
    "cpu": ("shares", "quota", "period", "realtimeRuntime", "realtimePeriod", "cpus", "mems"),
    "memory": ("limit", "reservation", "swap", "kernel", "kernelTCP"),
    "blockIO": ("weight", "leafWeight"),
    "pids": ("limit",),
    "network": ("classID",),
}


def make(path: str, resources: dict[str, Any]) -> Cgroup:
    """The group of a new container.

    Errors: Conflict when the group is there and in use, or frozen; InvalidParameter, SystemFailure.
    """
    present = Cgroup(path)
    if present.exists():
        pids = present.pids()
        if pids:
            raise Conflict(f"container's cgroup is not empty: {len(pids)} process(es) found in {present.path}")
        if is_frozen(present):
            raise Conflict(f"container's cgroup unexpectedly frozen: {present.path}")
    return Cgroup.create(path, normalised(resources), present.hierarchies)


def update(cgroup: Cgroup, resources: dict[str, Any]) -> None:
    """Change the limits of a container.  Errors: SystemFailure, InvalidParameter."""
    cgroup.update(normalised(resources))


def normalised(resources: dict[str, Any]) -> dict[str, Any]:
    """Without what stands for "not given", and with the devices that are always allowed."""
    result = dict(resources)
    for part, names in _ZERO_IS_UNSET.items():
        fields = result.get(part)
        if fields:
            result[part] = {key: value for key, value in fields.items() if value or key not in names}
    rules = resources.get("devices")
    if rules is not None:
        result["devices"] = [*rules, *_ALWAYS_ALLOWED]
    return result


def is_frozen(cgroup: Cgroup) -> bool:
    directory = cgroup.directory("freezer")
    if directory is None:
        return False
    try:
        if cgroup.hierarchies.is_v2:
            return (directory / "cgroup.freeze").read_text().strip() == "1"
        return (directory / "freezer.state").read_text().strip() != "THAWED"
    except OSError:
        return False


def set_oom_score(proc: HostProc, pid: str, process: dict[str, Any]) -> str:
    """``process.oomScoreAdj`` of a process ("self" for our own); a warning when the host does not allow it, or ""."""
    score = process.get("oomScoreAdj")
    if score is None:
        return ""
    try:
        proc.write(f"{pid}/oom_score_adj", str(score))
    except PermissionError:
        return f"oomScoreAdj {score} is below what this host allows: left as it is"
    return ""
