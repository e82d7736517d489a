"""Checks of a container's limits, with Docker's wording (Engine API, ``Resources``).

What can never work is refused; what this machine merely lacks becomes a warning and is dropped, as by dockerd.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from corten.cgroup import systemd
from corten.cgroup.hierarchy import Hierarchies
from corten.dockerapi.container import HostConfig, Resources
from corten.engine.host_support import LimitSupport
from corten.engine.lacking_limits import drop_what_is_lacking
from corten.errors import InvalidParameter

MINIMUM_MEMORY = 6 * 1024 * 1024
_ULIMITS = frozenset(
    "as core cpu data fsize locks memlock msgqueue nice nofile nproc rss rtprio rttime sigpending stack".split()
)


@dataclass(frozen=True, slots=True)
class Machine:
    """What limits are checked against."""

    cpus: int
    cpuset_cpus: frozenset[int]
    cpuset_mems: frozenset[int]
    support: LimitSupport
    cgroup_driver: str = "cgroupfs"

    @classmethod
    def read(cls, cgroup_driver: str = "cgroupfs") -> Machine:
        online = parse_set(_read("/sys/devices/system/cpu/online", "0"), "cpus")
        nodes = parse_set(_read("/sys/devices/system/node/online", "0"), "mems")
        return cls(
            cpus=len(os.sched_getaffinity(0)) or 1,
            cpuset_cpus=online,
            cpuset_mems=nodes,
            support=LimitSupport.read(Hierarchies.here()),
            cgroup_driver=cgroup_driver,
        )


def _read(path: str, default: str) -> str:
    try:
        with open(path) as file:
            return file.read().strip() or default
    except OSError:
        return default


def parse_set(text: str, what: str) -> frozenset[int]:
    """A cpuset list ("0-2,7") as numbers.  Source: cpuset(7), "List format"."""
    numbers: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdigit() or (dash and not last.isdigit()) or len(first) > 6 or len(last) > 6:
            raise InvalidParameter(f"invalid value {text} for cpuset {what}")
        low, high = int(first), int(last or first)
        if high < low or high > 65536:
            raise InvalidParameter(f"invalid value {text} for cpuset {what}")
        numbers.update(range(low, high + 1))
    return frozenset(numbers)


def check_memory(limits: Resources) -> None:
    memory, swap, reservation = limits.memory, limits.memory_swap, limits.memory_reservation
    if memory < 0 or swap < -1 or reservation < 0:
        raise InvalidParameter("memory limits cannot be negative")
    if 0 < memory < MINIMUM_MEMORY:
        raise InvalidParameter("Minimum memory limit allowed is 6MB")
    if memory and swap > 0 and swap < memory:
        raise InvalidParameter("Minimum memoryswap limit should be larger than memory limit, see usage")
    if not memory and swap > 0:
        raise InvalidParameter("You should always set the Memory limit when using Memoryswap limit, see usage")
    if limits.memory_swappiness is not None and not -1 <= limits.memory_swappiness <= 100:
        raise InvalidParameter(f"Invalid value: {limits.memory_swappiness}, valid memory swappiness range is 0-100")
    if 0 < reservation < MINIMUM_MEMORY:
        raise InvalidParameter("Minimum memory reservation allowed is 6MB")
    if memory and reservation and memory < reservation:
        raise InvalidParameter("Minimum memory limit can not be less than memory reservation limit, see usage")
    if limits.kernel_memory or limits.kernel_memory_tcp:
        raise InvalidParameter("kernel memory limits are not supported: the kernel has dropped them")


def check_cpu(limits: Resources, machine: Machine) -> None:
    if limits.nano_cpus and limits.cpu_period:
        raise InvalidParameter("Conflicting options: Nano CPUs and CPU Period cannot both be set")
    if limits.nano_cpus and limits.cpu_quota:
        raise InvalidParameter("Conflicting options: Nano CPUs and CPU Quota cannot both be set")
    if limits.nano_cpus and not 10**7 <= limits.nano_cpus <= machine.cpus * 10**9:
        raise InvalidParameter(
            f"Range of CPUs is from 0.01 to {machine.cpus}.00, as there are only {machine.cpus} CPUs available"
        )
    if limits.cpu_shares < 0:
        raise InvalidParameter(f"invalid CPU shares ({limits.cpu_shares}): value must be a positive integer")
    if limits.cpu_period and not 1000 <= limits.cpu_period <= 1_000_000:
        raise InvalidParameter("CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)")
    if limits.cpu_quota and 0 < limits.cpu_quota < 1000:
        raise InvalidParameter("CPU cfs quota can not be less than 1ms (i.e. 1000)")
    if limits.cpu_realtime_period or limits.cpu_realtime_runtime:
        if limits.cpu_realtime_period and limits.cpu_realtime_runtime > limits.cpu_realtime_period:
            raise InvalidParameter("cpu real-time runtime cannot be higher than cpu real-time period")
        if not os.path.exists("/sys/fs/cgroup/cpu/cpu.rt_runtime_us"):
            raise InvalidParameter("kernel does not support CPU real-time scheduler")
    for wanted, available, what, name in (
        (limits.cpuset_cpus, machine.cpuset_cpus, "cpus", "CPUs"),
        (limits.cpuset_mems, machine.cpuset_mems, "mems", "memory nodes"),
    ):
        if wanted and not parse_set(wanted, what) <= available:
            shown = ",".join(map(str, sorted(available)))
            raise InvalidParameter(f"Requested {name} are not available - requested {wanted}, available: {shown}")
    if limits.cpu_count or limits.cpu_percent or limits.io_maximum_bandwidth or limits.io_maximum_iops:
        raise InvalidParameter("CpuCount, CpuPercent, IOMaximumBandwidth and IOMaximumIOps are for Windows only")


def check_block_io(limits: Resources) -> None:
    if limits.blkio_weight and not 10 <= limits.blkio_weight <= 1000:
        raise InvalidParameter("Range of blkio weight is from 10 to 1000")
    for device in limits.blkio_weight_device:
        if not 10 <= device.weight <= 1000:
            raise InvalidParameter("Range of blkio weight is from 10 to 1000")
        block_device(device.path)
    throttles = limits.blkio_device_read_bps + limits.blkio_device_write_bps
    for throttle in throttles + limits.blkio_device_read_iops + limits.blkio_device_write_iops:
        if throttle.rate < 0:
            raise InvalidParameter(f"invalid rate {throttle.rate} for device {throttle.path}")
        block_device(throttle.path)


def block_device(path: str) -> tuple[int, int]:
    """Major and minor number.  Errors: InvalidParameter when it is not a device of this host."""
    try:
        status = os.stat(path)
    except OSError as error:
        raise InvalidParameter(f"invalid device {path}: {(error.strerror or '').lower()}") from error
    if not (status.st_mode & 0o170000) == 0o060000:
        raise InvalidParameter(f"invalid device {path}: not a block device")
    return os.major(status.st_rdev), os.minor(status.st_rdev)


def check_resources(limits: Resources, machine: Machine) -> list[str]:
    """Check every limit and take out what this machine does not have; returns warnings.

    Errors: InvalidParameter with Docker's wording.
    """
    check_memory(limits)
    check_cpu(limits, machine)
    check_block_io(limits)
    if limits.pids_limit is not None and limits.pids_limit < -1:
        raise InvalidParameter(f"invalid pids limit {limits.pids_limit}: -1 stands for unlimited")
    for limit in limits.ulimits:
        if limit.name not in _ULIMITS:
            raise InvalidParameter(f"invalid ulimit type: {limit.name}")
        if limit.hard != -1 and (limit.soft == -1 or limit.soft > limit.hard):
            raise InvalidParameter(
                f"ulimit soft limit must be less than or equal to hard limit: {limit.soft} > {limit.hard}"
            )
    warnings = drop_what_is_lacking(limits, machine.support)
    if limits.oom_kill_disable and not limits.memory:
        warnings.append(
            "OOM killer is disabled for the container, but no memory limit is set, "
            "this can result in the system running out of resources."
        )
    if ".." in limits.cgroup_parent.split("/"):
        raise InvalidParameter(f"invalid cgroup-parent '{limits.cgroup_parent}': it must not contain '..'")
    if limits.cgroup_parent and machine.cgroup_driver == "systemd":
        systemd.slice_path(limits.cgroup_parent)
    return warnings


def memory_and_swap(limits: Resources) -> int:
    """Bytes of memory and swap together, -1: no limit; not given: as much swap as memory (Docker)."""
    return limits.memory_swap or limits.memory * 2


def oci_resources(limits: Resources, *, default_pids_limit: int = 0) -> dict[str, Any]:
    """The limits as ``linux.resources`` of the runtime specification (config-linux.md, "Control groups").

    default_pids_limit: of containers that ask for none, 0 for no limit
    """
    memory: dict[str, object] = {}
    if limits.memory:
        memory["limit"] = limits.memory
        memory["swap"] = memory_and_swap(limits)
    if limits.memory_reservation:
        memory["reservation"] = limits.memory_reservation
    if limits.memory_swappiness is not None and limits.memory_swappiness >= 0:
        memory["swappiness"] = limits.memory_swappiness
    if limits.oom_kill_disable:
        memory["disableOOMKiller"] = True
    cpu: dict[str, object] = {}
    if limits.cpu_shares:
        cpu["shares"] = limits.cpu_shares
    if limits.nano_cpus:
        cpu["period"] = 100_000
        cpu["quota"] = limits.nano_cpus * 100_000 // 10**9
    for value, name in (
        (limits.cpu_period, "period"),
        (limits.cpu_quota, "quota"),
        (limits.cpu_realtime_period, "realtimePeriod"),
        (limits.cpu_realtime_runtime, "realtimeRuntime"),
        (limits.cpuset_cpus, "cpus"),
        (limits.cpuset_mems, "mems"),
    ):
        if value:
            cpu[name] = value
    resources: dict[str, object] = {}
    if memory:
        resources["memory"] = memory
    if cpu:
        resources["cpu"] = cpu
    pids_limit = limits.pids_limit or default_pids_limit
    if pids_limit:
        resources["pids"] = {"limit": pids_limit}
    block = _oci_block_io(limits)
    if block:
        resources["blockIO"] = block
    return resources


def _oci_block_io(limits: Resources) -> dict[str, object]:
    block: dict[str, object] = {}
    if limits.blkio_weight:
        block["weight"] = limits.blkio_weight
    if limits.blkio_weight_device:
        block["weightDevice"] = [
            dict(zip(("major", "minor"), block_device(device.path), strict=True), weight=device.weight)
            for device in limits.blkio_weight_device
        ]
    for throttles, name in (
        (limits.blkio_device_read_bps, "throttleReadBpsDevice"),
        (limits.blkio_device_write_bps, "throttleWriteBpsDevice"),
        (limits.blkio_device_read_iops, "throttleReadIOPSDevice"),
        (limits.blkio_device_write_iops, "throttleWriteIOPSDevice"),
    ):
        if throttles:
            block[name] = [
                dict(zip(("major", "minor"), block_device(device.path), strict=True), rate=device.rate)
                for device in throttles
            ]
    return block


# fields of Resources that are rules for single block devices -> field of the runtime spec, its value
_DEVICE_RULES = {
    "blkio_weight_device": ("weightDevice", "weight"),
    "blkio_device_read_bps": ("throttleReadBpsDevice", "rate"),
    "blkio_device_write_bps": ("throttleWriteBpsDevice", "rate"),
    "blkio_device_read_iops": ("throttleReadIOPSDevice", "rate"),
    "blkio_device_write_iops": ("throttleWriteIOPSDevice", "rate"),
}


# HostConfig carries Resources: an update merges the fields that the client gave
def merge_update(host_config: HostConfig, update: Resources) -> Resources:
    """The limits after ``POST /containers/{id}/update``: a zero or empty field keeps what was.

    Errors: InvalidParameter as Docker's for combinations that contradict what is set.
    """
    if update.device_requests:
        raise InvalidParameter("the devices of a container cannot be updated")
    merged = Resources(**{name: getattr(host_config, name) for name in Resources.__struct_fields__})
    if update.nano_cpus and (host_config.cpu_period or host_config.cpu_quota):
        raise InvalidParameter(
            "Conflicting options: Nano CPUs cannot be updated as CPU Period or Quota has already been set"
        )
    if (update.cpu_period or update.cpu_quota) and host_config.nano_cpus:
        raise InvalidParameter(
            "Conflicting options: CPU Period or Quota cannot be updated as NanoCPUs has already been set"
        )
    if (
        update.memory
        and not update.memory_swap
        and host_config.memory_swap > 0
        and update.memory > host_config.memory_swap
    ):
        raise InvalidParameter(
            "Memory limit should be smaller than already set memoryswap limit, update the memoryswap at the same time"
        )
    for name in Resources.__struct_fields__:
        value = getattr(update, name)
        if value not in (0, "", None, []) or (value == [] and name in _DEVICE_RULES):
            setattr(merged, name, value)
    return merged


def oci_update(before: Resources, after: Resources) -> dict[str, object]:
    """``oci_resources`` of ``after`` for a running container: rules of block devices that went away are lifted."""
    resources = oci_resources(after)
    block = dict(resources.get("blockIO") or {})
    for name, (field, value) in _DEVICE_RULES.items():
        kept = {device.path for device in getattr(after, name)}
        lifted = [device for device in getattr(before, name) if device.path not in kept]
        if lifted:
            block[field] = [
                *block.get(field, ()),
                *(
                    {**dict(zip(("major", "minor"), block_device(device.path), strict=True)), value: 0}
                    for device in lifted
                ),
            ]
    if block:
        resources["blockIO"] = block
    return resources
