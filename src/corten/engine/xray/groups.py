"""A container's control groups: every limit beside what is used of it, and all files as they are.

Source: Documentation/admin-guide/cgroup-v1, cgroup-v2.rst.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from corten.cgroup.manager import Cgroup

Document = dict[str, Any]

_LARGEST_FILE = 64 * 1024
# version 1 writes "no limit" as the largest multiple of a page
_V1_UNLIMITED = 1 << 62


@dataclass(frozen=True, slots=True)
class _Pair:
    """A limit and its use.  unit: "bytes", "count", "microseconds", "text"; part: the word after this one in the use"""

    controller: str
    limit: str
    use: str
    unit: str
    meaning: str
    part: str = ""


_V2 = (
    _Pair("memory", "memory.max", "memory.current", "bytes", "memory: beyond it the kernel kills"),
    _Pair("memory", "memory.high", "memory.current", "bytes", "memory: beyond it programs are slowed down"),
    _Pair("memory", "memory.low", "memory.current", "bytes", "memory that is taken from others first"),
    _Pair("memory", "memory.swap.max", "memory.swap.current", "bytes", "swap"),
    _Pair("cpu", "cpu.max", "cpu.stat", "text", "microseconds of processor in each period", "usage_usec"),
    _Pair("cpu", "cpu.weight", "", "text", "share when processors are short"),
    _Pair("cpuset", "cpuset.cpus", "cpuset.cpus.effective", "text", "processors it may run on"),
    _Pair("cpuset", "cpuset.mems", "cpuset.mems.effective", "text", "memory nodes it may use"),
    _Pair("pids", "pids.max", "pids.current", "count", "processes and threads"),
    _Pair("io", "io.max", "io.stat", "text", "bandwidth and operations of disks"),
    _Pair("io", "io.weight", "io.stat", "text", "share when disks are short"),
)
_V1 = (
    _Pair("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "bytes", "memory: beyond it the kernel kills"),
    _Pair("memory", "memory.memsw.limit_in_bytes", "memory.memsw.usage_in_bytes", "bytes", "memory and swap together"),
    _Pair("memory", "memory.soft_limit_in_bytes", "memory.usage_in_bytes", "bytes", "memory that is taken last"),
    _Pair("cpu", "cpu.cfs_quota_us", "cpu.stat", "text", "microseconds of processor in each period", "throttled_time"),
    _Pair("cpu", "cpu.cfs_period_us", "cpu.stat", "text", "the period", "nr_periods"),
    _Pair("cpu", "cpu.shares", "", "text", "share when processors are short"),
    _Pair("cpuacct", "", "cpuacct.usage", "text", "nanoseconds of processor used"),
    _Pair("cpuset", "cpuset.cpus", "cpuset.effective_cpus", "text", "processors it may run on"),
    _Pair("cpuset", "cpuset.mems", "cpuset.effective_mems", "text", "memory nodes it may use"),
    _Pair("pids", "pids.max", "pids.current", "count", "processes and threads"),
    _Pair("devices", "devices.list", "", "text", "devices it may open"),
    _Pair("blkio", "blkio.throttle.read_bps_device", "blkio.throttle.io_service_bytes", "text", "bytes read a second"),
    _Pair("blkio", "blkio.throttle.write_bps_device", "blkio.throttle.io_service_bytes", "text", "… written"),
    _Pair("freezer", "", "freezer.state", "text", "whether it is frozen"),
)


def groups(path: str) -> Document:
    """The document of a group; directories that are not there any more are left out."""
    cgroup = Cgroup(path)
    version = 2 if cgroup.hierarchies.is_v2 else 1
    directories = [directory for directory in cgroup.hierarchies.directories(cgroup.path) if os.path.isdir(directory)]
    files = {directory: _files(directory) for directory in directories}
    rows = []
    for pair in _V2 if version == 2 else _V1:
        directory = cgroup.directory(pair.controller)
        row = _row(pair, files.get(directory or "", {}))
        if row:
            rows.append(row)
    return {
        "Version": version,
        "Path": cgroup.path,
        "Directories": directories,
        "Limits": rows,
        "Pressure": _pressure(files),
        "Files": files,
    }


def _files(directory: str) -> dict[str, str]:
    """Every file that tells something without being asked for an event."""
    found = {}
    for entry in sorted(os.listdir(directory)):
        path = f"{directory}/{entry}"
        if not os.path.isfile(path) or entry.endswith(("event_control", "procs", "threads", "tasks", "cgroup.kill")):
            continue
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:
            continue
        try:
            found[entry] = os.read(descriptor, _LARGEST_FILE).decode(errors="replace").strip()
        except OSError:
            continue
        finally:
            os.close(descriptor)
    return found


def _row(pair: _Pair, files: dict[str, str]) -> Document | None:
    limit, use = files.get(pair.limit, ""), files.get(pair.use, "")
    if (pair.limit or pair.use) not in files:
        return None
    if pair.part:
        use = dict(line.split(" ", 1) for line in use.splitlines() if " " in line).get(pair.part, "")
    elif pair.controller in ("blkio", "io"):
        use = "; ".join(use.splitlines())
    return {
        "Controller": pair.controller,
        "File": pair.limit,
        "Limit": _limit(pair, limit),
        "UseFile": f"{pair.use} {pair.part}".strip(),
        "Use": int(use) if pair.unit in ("bytes", "count") and use.isdigit() else use,
        "Unit": pair.unit,
        "Meaning": pair.meaning,
    }


def _limit(pair: _Pair, text: str) -> int | str:
    """A number, or "max" for no limit."""
    if pair.unit not in ("bytes", "count"):
        return "max" if (pair.limit, text) == ("cpu.cfs_quota_us", "-1") else "; ".join(text.splitlines())
    if not text.isdigit():
        return text
    return "max" if pair.unit == "bytes" and int(text) >= _V1_UNLIMITED else int(text)


def _pressure(files: dict[str, dict[str, str]]) -> dict[str, str]:
    """Time lost by waiting (PSI), version 2 only."""
    found = {}
    for names in files.values():
        for name, text in names.items():
            if name.endswith(".pressure") and name != "cgroup.pressure":
                found[name.removesuffix(".pressure")] = text.splitlines()[0] if text else ""
    return found
