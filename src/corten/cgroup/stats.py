"""Statistics of a cgroup in one form for both versions.  Sizes are bytes, times nanoseconds."""

from __future__ import annotations

import os
from typing import Any

from corten.cgroup.manager import Cgroup

_CLOCK_NS = 10**9 // os.sysconf("SC_CLK_TCK")

_UNLIMITED = (1 << 64) - 1


def _text(file: str) -> str:
    """ "" when it cannot be read."""
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        pieces = []
        while piece := os.read(descriptor, 1 << 16):
            pieces.append(piece)
        return b"".join(pieces).decode()
    except OSError:
        return ""
    finally:
        os.close(descriptor)


def _number(file: str, default: int = 0) -> int:
    text = _text(file).strip()
    if text == "max":
        return _UNLIMITED
    return int(text) if text.isdigit() else default


def _pairs(file: str) -> dict[str, int]:
    found = {}
    for line in _text(file).splitlines():
        key, _, value = line.partition(" ")
        if value.strip().isdigit():
            found[key] = int(value)
    return found


def read(cgroup: Cgroup) -> dict[str, Any]:
    """memory, cpu, pids, blkio; absent controllers give zeros."""
    return _read_v2(cgroup) if cgroup.hierarchies.is_v2 else _read_v1(cgroup)


def _read_v1(cgroup: Cgroup) -> dict[str, Any]:
    def directory(controller: str) -> str:
        return cgroup.directory(controller) or "/nonexistent"

    memory, cpuacct, cpu, pids, blkio = (directory(name) for name in ("memory", "cpuacct", "cpu", "pids", "blkio"))
    usage = _pairs(f"{cpuacct}/cpuacct.stat")
    throttling = _pairs(f"{cpu}/cpu.stat")
    return {
        "memory": {
            "usage": _number(f"{memory}/memory.usage_in_bytes"),
            "max_usage": _number(f"{memory}/memory.max_usage_in_bytes"),
            "limit": _number(f"{memory}/memory.limit_in_bytes"),
            "failcnt": _number(f"{memory}/memory.failcnt"),
            "stats": _pairs(f"{memory}/memory.stat"),
        },
        "cpu": {
            "total": _number(f"{cpuacct}/cpuacct.usage"),
            "percpu": [int(part) for part in _text(f"{cpuacct}/cpuacct.usage_percpu").split()],
            "user": usage.get("user", 0) * _CLOCK_NS,
            "kernel": usage.get("system", 0) * _CLOCK_NS,
            "periods": throttling.get("nr_periods", 0),
            "throttled_periods": throttling.get("nr_throttled", 0),
            "throttled_time": throttling.get("throttled_time", 0),
        },
        "pids": {"current": _number(f"{pids}/pids.current"), "limit": _number(f"{pids}/pids.max")},
        "blkio": {
            "bytes": _blkio_v1(
                f"{blkio}/blkio.throttle.io_service_bytes_recursive", f"{blkio}/blkio.throttle.io_service_bytes"
            ),
            "operations": _blkio_v1(
                f"{blkio}/blkio.throttle.io_serviced_recursive", f"{blkio}/blkio.throttle.io_serviced"
            ),
        },
    }


def memory_and_swap(cgroup: Cgroup) -> dict[str, int]:
    """Both together, as version 1 counts them: usage, limit, max, failcnt; zeros where swap is not counted."""
    directory = cgroup.directory("memory") or "/nonexistent"
    if not cgroup.hierarchies.is_v2:
        swap = f"{directory}/memory.memsw"
        return {
            "usage": _number(f"{swap}.usage_in_bytes"),
            "limit": _number(f"{swap}.limit_in_bytes"),
            "max": _number(f"{swap}.max_usage_in_bytes"),
            "failcnt": _number(f"{swap}.failcnt"),
        }

    def both(memory: str, swap: str) -> int:
        return min(_number(f"{directory}/{memory}") + _number(f"{directory}/{swap}"), _UNLIMITED)

    return {
        "usage": both("memory.current", "memory.swap.current"),
        "limit": both("memory.max", "memory.swap.max"),
        "max": both("memory.peak", "memory.swap.peak"),
        "failcnt": _pairs(f"{directory}/memory.swap.events").get("max", 0),
    }


def _blkio_v1(recursive: str, plain: str) -> list[dict[str, Any]]:
    entries = []
    for line in (_text(recursive) or _text(plain)).splitlines():
        parts = line.replace(":", " ").split()
        if len(parts) == 4 and parts[3].isdigit():
            entries.append(
                {"major": int(parts[0]), "minor": int(parts[1]), "op": parts[2].lower(), "value": int(parts[3])}
            )
    return entries


def _read_v2(cgroup: Cgroup) -> dict[str, Any]:
    directory = cgroup.hierarchies.unified + cgroup.path
    cpu = _pairs(f"{directory}/cpu.stat")
    return {
        "memory": {
            "usage": _number(f"{directory}/memory.current"),
            "max_usage": _number(f"{directory}/memory.peak"),
            "limit": _number(f"{directory}/memory.max"),
            "failcnt": _pairs(f"{directory}/memory.events").get("max", 0),
            "stats": _pairs(f"{directory}/memory.stat"),
        },
        "cpu": {
            "total": cpu.get("usage_usec", 0) * 1000,
            "percpu": [],
            "user": cpu.get("user_usec", 0) * 1000,
            "kernel": cpu.get("system_usec", 0) * 1000,
            "periods": cpu.get("nr_periods", 0),
            "throttled_periods": cpu.get("nr_throttled", 0),
            "throttled_time": cpu.get("throttled_usec", 0) * 1000,
        },
        "pids": {"current": _number(f"{directory}/pids.current"), "limit": _number(f"{directory}/pids.max")},
        "blkio": _blkio_v2(f"{directory}/io.stat"),
    }


def _blkio_v2(file: str) -> dict[str, list[dict[str, Any]]]:
    names = {
        "rbytes": ("bytes", "read"),
        "wbytes": ("bytes", "write"),
        "rios": ("operations", "read"),
        "wios": ("operations", "write"),
    }
    found: dict[str, list[dict[str, Any]]] = {"bytes": [], "operations": []}
    for line in _text(file).splitlines():
        device, _, rest = line.partition(" ")
        major, colon, minor = device.partition(":")
        if not colon:
            continue
        for item in rest.split():
            key, _, value = item.partition("=")
            if key in names:
                kind, operation = names[key]
                found[kind].append({"major": int(major), "minor": int(minor), "op": operation, "value": int(value)})
    return found


def system_cpu_ns() -> int:
    """Time that all CPUs together have spent, idle or not (proc_stat(5))."""
    fields = _text("/proc/stat").partition("\n")[0].split()[1:8]
    return sum(int(field) for field in fields) * _CLOCK_NS
