"""Limits that this machine's kernel does not have, or that are not delegated: dropped with a warning, or refused, in
dockerd's words.

Clients print these sentences and scripts look for them, so they are an interface.
"""

from __future__ import annotations

from corten.dockerapi.container import Resources
from corten.engine.host_support import LimitSupport
from corten.errors import InvalidParameter

_NOT_MOUNTED = "or the cgroup is not mounted."
# field -> what dockerd calls it, when it is missing and when it is dropped
_BLOCK_IO = {
    "blkio_weight": ("Block I/O weight", "Weight"),
    "blkio_weight_device": ("Block I/O weight_device", "Weight-device"),
    "blkio_device_read_bps": ("BPS Block I/O read limit", "Block I/O BPS read limit"),
    "blkio_device_write_bps": ("BPS Block I/O write limit", "Block I/O BPS write limit"),
    "blkio_device_read_iops": ("IOPS Block read limit", "Block I/O IOPS read limit"),
    "blkio_device_write_iops": ("IOPS Block write limit", "Block I/O IOPS write limit"),
}


def drop_what_is_lacking(limits: Resources, support: LimitSupport) -> list[str]:
    """Take limits out that would have no effect; returns the warnings.

    Errors: InvalidParameter for ``--cpus``, which dockerd does not let go of.
    """
    if limits.nano_cpus and not support.cpu_quota:
        raise InvalidParameter(
            "NanoCPUs can not be set, as your kernel does not support CPU CFS scheduler or the cgroup is not mounted"
        )
    warnings: list[str] = []

    def drop(text: str, *names: str) -> None:
        """Back to what a container has that was never limited."""
        unlimited = Resources()
        for name in names:
            setattr(limits, name, getattr(unlimited, name))
        warnings.append(f"Your kernel does not support {text}")

    if limits.memory > 0 and not support.memory:
        drop(f"memory limit capabilities {_NOT_MOUNTED} Limitation discarded.", "memory", "memory_swap")
    if limits.memory > 0 and limits.memory_swap != -1 and not support.swap:
        drop(f"swap limit capabilities {_NOT_MOUNTED} Memory limited without swap.")
        limits.memory_swap = -1
    if limits.memory_swappiness not in (None, -1) and not support.swappiness:
        drop(f"memory swappiness capabilities {_NOT_MOUNTED} Memory swappiness discarded.", "memory_swappiness")
    if limits.memory_reservation > 0 and not support.memory:
        drop(f"memory soft limit capabilities {_NOT_MOUNTED} Limitation discarded.", "memory_reservation")
    if limits.oom_kill_disable and not support.oom_kill_disable:
        drop("OomKillDisable. OomKillDisable discarded.", "oom_kill_disable")
    if limits.pids_limit not in (None, 0, -1) and not support.pids:
        drop(f"PIDs limit capabilities {_NOT_MOUNTED} PIDs limit discarded.", "pids_limit")
    if limits.cpu_shares and not support.cpu_shares:
        drop(f"CPU shares {_NOT_MOUNTED} Shares discarded.", "cpu_shares")
    if (limits.cpu_period or limits.cpu_quota) and not support.cpu_quota:
        drop(f"CPU CFS period/quota {_NOT_MOUNTED} Period and quota discarded.", "cpu_period", "cpu_quota")
    if (limits.cpuset_cpus or limits.cpuset_mems) and not support.cpuset:
        drop(f"cpuset {_NOT_MOUNTED} Cpuset discarded.", "cpuset_cpus", "cpuset_mems")
    for field, (missing, dropped) in _BLOCK_IO.items():
        if getattr(limits, field) and not support.block_io:
            drop(f"{missing} {_NOT_MOUNTED} {dropped} discarded.", field)
    return warnings
