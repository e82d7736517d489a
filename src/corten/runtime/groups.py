"""A container's control group as the runtime needs it: a fresh one, with the devices that every container may use."""

from __future__ import annotations

from typing import Any

from corten.cgroup.hierarchy import is_scope
from corten.cgroup.manager import Cgroup
from corten.errors import Conflict
from corten.linux import user_namespace
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

    Where it is one of systemd's scopes a placeholder is in it until ``settle`` or ``discard``.

    Errors: Conflict when the group is there and in use, or frozen; InvalidParameter, SystemFailure.
    """
    present = Cgroup(path)
    if present.exists():
        pids = present.pids()
        if pids:
            raise Conflict(f"container's cgroup is not empty: {len(pids)} process(es) found in {present.path}")
        if present.is_frozen():
            raise Conflict(f"container's cgroup unexpectedly frozen: {present.path}")
    if is_scope(present.path):
        return _make_scope(present, normalised(resources))
    return Cgroup.create(path, normalised(resources), present.hierarchies)


def _make_scope(wanted: Cgroup, resources: dict[str, Any]) -> Cgroup:
    from corten.cgroup import systemd

    systemd.require(is_v2=wanted.hierarchies.is_v2)
    placeholder = systemd.Placeholder()
    try:
        systemd.start_scope(wanted.path, resources, placeholder.pid)
        cgroup = Cgroup.create(wanted.path, resources, wanted.hierarchies)
    except BaseException:
        placeholder.end()
        raise
    cgroup.placeholder = placeholder
    return cgroup


def settle(cgroup: Cgroup) -> None:
    """The container's first process is in its group."""
    if cgroup.placeholder is not None:
        cgroup.placeholder.end()
        cgroup.placeholder = None


def discard(cgroup: Cgroup) -> None:
    """Take the group away with all that is in it."""
    cgroup.kill()
    settle(cgroup)
    cgroup.delete()


def update(cgroup: Cgroup, resources: dict[str, Any]) -> None:
    """Change the limits of a container.  Errors: SystemFailure, InvalidParameter."""
    wanted = normalised(resources)
    if is_scope(cgroup.path):
        from corten.cgroup import systemd

        systemd.set_properties(cgroup.path, wanted)
    cgroup.update(wanted)


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


def set_oom_score(proc: HostProc, pid: str, process: dict[str, Any]) -> str:
    """``process.oomScoreAdj`` of a process ("self" for our own); a warning when the host does not allow it, or "".

    A process that has ended meanwhile needs none: why it ended is told elsewhere.
    """
    score = process.get("oomScoreAdj")
    if score is None:
        return ""
    try:
        proc.write(f"{pid}/oom_score_adj", str(score))
    except (FileNotFoundError, ProcessLookupError):
        return ""
    except PermissionError:
        if not user_namespace.is_initial():
            return ""  # nobody expects it to work: the program keeps the daemon's own
        return f"oomScoreAdj {score} is below what this host allows: left as it is"
    return ""
