"""Limits that the kernel does not have are dropped, and it is said."""

from __future__ import annotations

import pytest

from corten.dockerapi.container import Resources, ThrottleDevice, WeightDevice
from corten.engine.host_support import LimitSupport
from corten.engine.lacking_limits import drop_what_is_lacking
from corten.errors import InvalidParameter

NAMES = ("memory", "swap", "swappiness", "oom_kill_disable", "cpu_quota", "cpu_shares", "cpuset", "pids", "block_io")


def support(**lacking: bool) -> LimitSupport:
    return LimitSupport(**{**dict.fromkeys(NAMES, True), **lacking}, missing=())


def everything() -> Resources:
    return Resources(
        memory=1 << 26, memory_swap=1 << 27, memory_reservation=1 << 25, memory_swappiness=10, oom_kill_disable=True,
        pids_limit=10, nano_cpus=10**9, cpu_shares=2, cpuset_cpus="0",
    )  # fmt: skip


def test_nothing_is_dropped_where_all_works():
    limits = everything()
    assert drop_what_is_lacking(limits, support()) == []
    assert limits == everything()


@pytest.mark.parametrize(
    ("lacking", "field", "left", "said"),
    [
        ("swap", "memory_swap", -1, "swap limit capabilities or the cgroup is not mounted. Memory"),
        ("swappiness", "memory_swappiness", None, "memory swappiness capabilities"),
        ("oom_kill_disable", "oom_kill_disable", None, "OomKillDisable. OomKillDisable discarded."),
        ("pids", "pids_limit", None, "PIDs limit capabilities"),
        ("cpu_shares", "cpu_shares", 0, "CPU shares"),
        ("cpuset", "cpuset_cpus", "", "cpuset or the cgroup is not mounted. Cpuset discarded."),
    ],
)  # fmt: skip
def test_one_that_is_lacking(lacking, field, left, said):
    limits = everything()
    warnings = drop_what_is_lacking(limits, support(**{lacking: False}))
    assert getattr(limits, field) == left
    assert len(warnings) == 1
    assert warnings[0].startswith(f"Your kernel does not support {said}")
    assert limits.memory == 1 << 26


def test_cpus_are_refused():
    with pytest.raises(InvalidParameter, match=r"^NanoCPUs can not be set, as your kernel does not support CPU"):
        drop_what_is_lacking(everything(), support(cpu_quota=False))
    limits = Resources(cpu_quota=50_000)
    (said,) = drop_what_is_lacking(limits, support(cpu_quota=False))
    assert (limits.cpu_quota, "CPU CFS period/quota" in said) == (0, True)


def test_without_the_io_controller_each_of_its_limits_is_named():
    rates = [ThrottleDevice(path="/dev/x", rate=1)]
    limits = Resources(
        blkio_weight=100, blkio_weight_device=[WeightDevice(path="/dev/x", weight=10)], blkio_device_read_bps=rates,
        blkio_device_write_bps=rates, blkio_device_read_iops=rates, blkio_device_write_iops=rates,
    )  # fmt: skip
    warnings = drop_what_is_lacking(limits, support(block_io=False))
    assert limits == Resources()
    assert [text.removeprefix("Your kernel does not support ").partition(" or ")[0] for text in warnings] == [
        "Block I/O weight", "Block I/O weight_device", "BPS Block I/O read limit", "BPS Block I/O write limit",
        "IOPS Block read limit", "IOPS Block write limit",
    ]  # fmt: skip


def test_without_memory_limits_there_is_no_swap_to_speak_of():
    limits = everything()
    warnings = drop_what_is_lacking(limits, support(memory=False, swap=False))
    assert (limits.memory, limits.memory_swap, limits.memory_reservation) == (0, 0, 0)
    assert len(warnings) == 2


def test_what_is_not_asked_for_is_not_missed():
    assert drop_what_is_lacking(Resources(), support(**dict.fromkeys(NAMES, False))) == []
