"""Control groups that systemd makes: a transient scope for each container, on version 2.

systemd owns the tree of groups where it is PID 1.  A scope tells it that the processes in it are someone's, that what
is below is none of its business (Delegate), and which limits it has to set again whenever it reloads; everything else
is written to the group's files as ever.  A path whose last part ends in ".scope" is a scope.

Sources: org.freedesktop.systemd1(5), "StartTransientUnit"; systemd.resource-control(5); systemd's
CONTROL_GROUP_INTERFACE; runc's systemd-properties for the mapping of limits.
"""

from __future__ import annotations

import os
import signal
from typing import Any

from corten.cgroup.knobs import shares_to_weight
from corten.errors import Conflict, InvalidParameter, SystemFailure
from corten.linux import process
from corten.linux.dbus import CallFailed, Connection

DEFAULT_SLICE = "system.slice"
_SOCKETS = ("/run/dbus/system_bus_socket", "/run/systemd/private")
_NAME, _OBJECT, _MANAGER = "org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager"
_INFINITY = (1 << 64) - 1
_SECOND_US = 1_000_000
# systemd rounds quotas up to these steps itself, and tells the rounded value
_QUOTA_STEP_US = 10_000


def require(*, is_v2: bool) -> None:
    """Errors: InvalidParameter where systemd is not PID 1 (sd_booted(3)) or has version 1 groups."""
    if not is_v2 or not os.path.isdir("/run/systemd/system"):
        raise InvalidParameter("the systemd cgroup driver needs systemd as PID 1 and cgroup v2 on this host")


def path_of(cgroups_path: str) -> str:
    """ "slice:prefix:name" of the runtime specification's linux.cgroupsPath -> "/a.slice/a-b.slice/prefix-name.scope".

    Errors: InvalidParameter.
    """
    parts = cgroups_path.split(":")
    if len(parts) != 3 or not parts[2]:
        raise InvalidParameter(
            'expected cgroupsPath to be of format "slice:prefix:name" for systemd cgroups, '
            f'got "{cgroups_path}" instead'
        )
    slice_name, prefix, name = parts
    unit = f"{prefix}-{name}.scope" if prefix else f"{name}.scope"
    return scope_path(slice_name or DEFAULT_SLICE, unit)


def cgroups_path_of(path: str) -> str:
    """The other way round: "/a.slice/prefix-name.scope" -> "a.slice:prefix:name"."""
    parent, unit = os.path.split(path.removesuffix(".scope"))
    prefix, dash, name = unit.partition("-")
    return f"{os.path.basename(parent) or '-.slice'}:{prefix if dash else ''}:{name if dash else prefix}"


def scope_path(slice_name: str, unit: str) -> str:
    """Where the scope ``unit`` of a slice is.  Errors: InvalidParameter for what is no name of a slice."""
    if "/" in unit:
        raise InvalidParameter(f"invalid unit name {unit!r}")
    return f"{slice_path(slice_name)}/{unit}"


def slice_path(name: str) -> str:
    """ "a-b.slice" -> "/a.slice/a-b.slice"; systemd.slice(5).  Errors: InvalidParameter."""
    if name == "-.slice":
        return ""
    stem = name.removesuffix(".slice")
    words = stem.split("-")
    if stem == name or "/" in name or not all(words):
        raise InvalidParameter(
            f'cgroup-parent for systemd cgroup should be a valid slice named as "xxx.slice", not {name!r}'
        )
    return "".join(f"/{'-'.join(words[: count + 1])}.slice" for count in range(len(words)))


# -- properties -------------------------------------------------------------------------------------------------------


def properties(resources: dict[str, Any]) -> list[tuple[str, tuple[str, Any]]]:
    """``linux.resources`` -> properties of the unit: what systemd would otherwise set back."""
    memory, cpu = resources.get("memory") or {}, resources.get("cpu") or {}
    found: list[tuple[str, tuple[str, Any]]] = []

    def number(name: str, value: int | None) -> None:
        if value is not None:
            found.append((name, ("t", _INFINITY if value < 0 else value)))

    number("MemoryMax", memory.get("limit"))
    number("MemoryLow", memory.get("reservation"))
    number("MemorySwapMax", _swap_alone(memory))
    if cpu.get("shares"):
        number("CPUWeight", shares_to_weight(cpu["shares"]))
    number("CPUQuotaPerSecUSec", _quota(cpu))
    number("TasksMax", (resources.get("pids") or {}).get("limit"))
    for name, key in (("AllowedCPUs", "cpus"), ("AllowedMemoryNodes", "mems")):
        if cpu.get(key):
            found.append((name, ("ay", _mask(cpu[key]))))
    return found


def _swap_alone(memory: dict[str, Any]) -> int | None:
    """The specification's swap is memory and swap together."""
    swap: int | None = memory.get("swap")
    limit: int | None = memory.get("limit")
    if swap is None or swap < 0:
        return swap
    return swap - limit if limit is not None and limit > 0 else None


def _quota(cpu: dict[str, Any]) -> int | None:
    """Microseconds of processor time in a second."""
    quota: int = cpu.get("quota") or 0
    if not quota:
        return None
    if quota < 0:
        return -1
    period: int = cpu.get("period") or 100_000
    per_second = quota * _SECOND_US // period
    return -(-per_second // _QUOTA_STEP_US) * _QUOTA_STEP_US


def _mask(listed: str) -> bytes:
    """ "0-2,4" -> a bit for each, the lowest byte first.  Errors: InvalidParameter."""
    bits = 0
    for part in listed.split(","):
        first, _, last = part.strip().partition("-")
        if not first.isdigit() or (last and not last.isdigit()):
            raise InvalidParameter(f"invalid list of processors or memory nodes {listed!r}")
        for number in range(int(first), int(last or first) + 1):
            bits |= 1 << number
    return bits.to_bytes((bits.bit_length() + 7) // 8, "little")


# -- units ------------------------------------------------------------------------------------------------------------


class Placeholder:
    """A process that keeps a scope alive until the container's first process is in: systemd makes none without one."""

    def __init__(self) -> None:
        self.pid = os.fork()
        if self.pid == 0:
            # it dies with its maker; signals of the terminal are not for it
            process.prctl(process.PR_SET_PDEATHSIG, signal.SIGKILL)
            signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
            while True:
                signal.pause()

    def end(self) -> None:
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self.pid = 0


def start_scope(path: str, resources: dict[str, Any], pid: int) -> None:
    """Let systemd make the scope at ``path`` with a process in it; returns when it is there.

    Errors: Conflict when there is such a unit, SystemFailure.
    """
    parent, unit = os.path.split(path)
    settings: list[tuple[str, tuple[str, Any]]] = [
        ("Description", ("s", f"Container {unit.removesuffix('.scope')}")),
        ("Slice", ("s", os.path.basename(parent) or "-.slice")),
        ("Delegate", ("b", True)),
        ("PIDs", ("au", [pid])),
        ("DefaultDependencies", ("b", False)),  # containers are not stopped because the machine's units are
        ("CollectMode", ("s", "inactive-or-failed")),  # nothing stays of one whose memory ran out
        ("MemoryAccounting", ("b", True)),
        ("CPUAccounting", ("b", True)),
        ("IOAccounting", ("b", True)),
        ("TasksAccounting", ("b", True)),
        *properties(resources),
    ]
    try:
        with _connect() as connection:
            (job,) = connection.call(
                _NAME, _OBJECT, _MANAGER, "StartTransientUnit", "ssa(sv)a(sa(sv))", unit, "fail", settings, []
            )
            ended = connection.wait_for_signal(_MANAGER, "JobRemoved", lambda values: values[1] == job)
    except CallFailed as error:
        if error.name.endswith(".UnitExists"):
            raise Conflict(f"container's cgroup is not empty: the unit {unit} exists") from error
        raise SystemFailure(f"systemd cannot start {unit}: {error}", step="cgroup") from error
    except OSError as error:
        raise SystemFailure(f"cannot reach systemd: {error}", step="cgroup", errno=error.errno or 0) from error
    if ended[3] != "done":
        raise SystemFailure(f"systemd could not start {unit}: {ended[3]}", step="cgroup")


def set_properties(path: str, resources: dict[str, Any]) -> None:
    """Change what systemd knows of a scope's limits.  Errors: SystemFailure."""
    wanted = properties(resources)
    if not wanted:
        return
    unit = os.path.basename(path)
    try:
        with _connect() as connection:
            connection.call(_NAME, _OBJECT, _MANAGER, "SetUnitProperties", "sba(sv)", unit, True, wanted)
    except CallFailed as error:
        raise SystemFailure(f"systemd cannot change {unit}: {error}", step="cgroup") from error
    except OSError as error:
        raise SystemFailure(f"cannot reach systemd: {error}", step="cgroup", errno=error.errno or 0) from error


def _connect() -> Connection:
    """Over the bus, or to systemd itself where no bus runs; subscribed to the ends of jobs."""
    bus, own = _SOCKETS
    if os.path.exists(bus):
        connection = Connection(bus)
        rule = f"type='signal',sender='{_NAME}',interface='{_MANAGER}',member='JobRemoved'"
        daemon = "org.freedesktop.DBus"
        connection.call(daemon, "/org/freedesktop/DBus", daemon, "Hello")
        connection.call(daemon, "/org/freedesktop/DBus", daemon, "AddMatch", "s", rule)
    else:
        connection = Connection(own)
    connection.call(_NAME, _OBJECT, _MANAGER, "Subscribe")
    return connection
