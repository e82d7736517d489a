"""The one table of knobs: a field of the OCI specification's ``linux.resources`` -> files of version 1 and version 2.

Each row converts a value into (file, text) pairs.  Sources: runtime-spec config-linux.md "Control groups";
Documentation/admin-guide/cgroup-v1/, cgroup-v2.rst.  Sizes are bytes, times microseconds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

Writes = list[tuple[str, str]]
_UNLIMITED_SHARES = 262144


class Knob(NamedTuple):
    """One field.

    field:     dotted name in ``linux.resources``
    v1:        (controller, file or converter)
    v2:        file or converter
    optional:  a kernel without the file gives a warning instead of an error
    """

    field: str
    v1: tuple[str, str | Callable[[Any], Writes]] | None
    v2: str | Callable[[Any], Writes] | None
    optional: bool = False


def shares_to_weight(shares: int) -> int:
    """CPU shares [2, 262144] -> weight [1, 10000], as systemd and the OCI runtimes convert."""
    shares = min(max(shares, 2), _UNLIMITED_SHARES)
    return 1 + (shares - 2) * 9999 // 262142


def blkio_to_io_weight(weight: int) -> int:
    """blkio.weight [10, 1000] -> io.weight [1, 10000]."""
    return 1 + (weight - 10) * 9999 // 990


def _limit(value: int) -> str:
    return "max" if value < 0 else str(value)


def _v1_throttle(name: str) -> Callable[[Any], Writes]:
    def convert(devices: list[dict[str, int]]) -> Writes:
        return [
            (f"blkio.throttle.{name}_device", f"{item['major']}:{item['minor']} {item['rate']}") for item in devices
        ]

    return convert


def _v2_throttle(name: str) -> Callable[[Any], Writes]:
    def convert(devices: list[dict[str, int]]) -> Writes:
        return [("io.max", f"{item['major']}:{item['minor']} {name}={item['rate'] or 'max'}") for item in devices]

    return convert


def _v1_weight_devices(devices: list[dict[str, int]]) -> Writes:
    return [("blkio.weight_device", f"{item['major']}:{item['minor']} {item['weight']}") for item in devices]


def _v2_weight_devices(devices: list[dict[str, int]]) -> Writes:
    """A weight of 0 lifts the rule."""

    def shown(weight: int) -> str:
        return str(blkio_to_io_weight(weight)) if weight else "default"

    return [("io.weight", f"{item['major']}:{item['minor']} {shown(item['weight'])}") for item in devices]


def _v1_hugepages(limits: list[dict[str, Any]]) -> Writes:
    return [(f"hugetlb.{item['pageSize']}.limit_in_bytes", str(item["limit"])) for item in limits]


def _v2_hugepages(limits: list[dict[str, Any]]) -> Writes:
    return [(f"hugetlb.{item['pageSize']}.max", _limit(item["limit"])) for item in limits]


def _rdma(limits: dict[str, dict[str, int]]) -> Writes:
    names = (("hcaHandles", "hca_handle"), ("hcaObjects", "hca_object"))
    return [
        ("rdma.max", " ".join([device, *(f"{key}={values[name]}" for name, key in names if name in values)]))
        for device, values in limits.items()
    ]


def _priorities(entries: list[dict[str, Any]]) -> Writes:
    return [("net_prio.ifpriomap", f"{entry['name']} {entry['priority']}") for entry in entries]


def _unified(values: dict[str, str]) -> Writes:
    return list(values.items())


# Fields that depend on each other (memory and swap, quota and period) are ordered by the manager.
KNOBS: tuple[Knob, ...] = (
    Knob("cpu.cpus", ("cpuset", "cpuset.cpus"), "cpuset.cpus"),
    Knob("cpu.mems", ("cpuset", "cpuset.mems"), "cpuset.mems"),
    Knob("cpu.shares", ("cpu", "cpu.shares"), lambda value: [("cpu.weight", str(shares_to_weight(value)))]),
    Knob("cpu.idle", ("cpu", "cpu.idle"), "cpu.idle", optional=True),
    Knob("cpu.burst", ("cpu", "cpu.cfs_burst_us"), "cpu.max.burst", optional=True),
    Knob("cpu.realtimePeriod", ("cpu", "cpu.rt_period_us"), None),
    Knob("cpu.realtimeRuntime", ("cpu", "cpu.rt_runtime_us"), None),
    Knob(
        "memory.reservation",
        ("memory", "memory.soft_limit_in_bytes"),
        lambda value: [("memory.low", "0" if value < 0 else str(value))],
    ),
    Knob("memory.swappiness", ("memory", "memory.swappiness"), None, optional=True),
    Knob(
        "memory.disableOOMKiller",
        ("memory", lambda value: [("memory.oom_control", str(int(value)))]),
        None,
        optional=True,
    ),
    Knob(
        "pids.limit", ("pids", lambda value: [("pids.max", _limit(value))]), lambda value: [("pids.max", _limit(value))]
    ),
    Knob(
        "blockIO.weight",
        ("blkio", "blkio.weight"),
        lambda value: [("io.weight", f"default {blkio_to_io_weight(value)}")],
        optional=True,
    ),
    Knob("blockIO.leafWeight", ("blkio", "blkio.leaf_weight"), None, optional=True),
    Knob("blockIO.weightDevice", ("blkio", _v1_weight_devices), _v2_weight_devices, optional=True),
    Knob("blockIO.throttleReadBpsDevice", ("blkio", _v1_throttle("read_bps")), _v2_throttle("rbps")),
    Knob("blockIO.throttleWriteBpsDevice", ("blkio", _v1_throttle("write_bps")), _v2_throttle("wbps")),
    Knob("blockIO.throttleReadIOPSDevice", ("blkio", _v1_throttle("read_iops")), _v2_throttle("riops")),
    Knob("blockIO.throttleWriteIOPSDevice", ("blkio", _v1_throttle("write_iops")), _v2_throttle("wiops")),
    Knob("hugepageLimits", ("hugetlb", _v1_hugepages), _v2_hugepages),
    Knob("network.classID", ("net_cls", "net_cls.classid"), None),
    Knob("network.priorities", ("net_prio", _priorities), None),
    Knob("rdma", ("rdma", _rdma), _rdma),
    Knob("unified", None, _unified),
)


def value_at(resources: dict[str, Any], field: str) -> Any:
    """The value of a dotted field, None when it is absent."""
    value: Any = resources
    for part in field.split("."):
        if not isinstance(value, dict):
            return None
        value = value.get(part)
    return value


def writes(target: str | Callable[[Any], Writes], value: Any) -> Writes:
    """(file, text) pairs for a value."""
    return [(target, str(value))] if isinstance(target, str) else target(value)
