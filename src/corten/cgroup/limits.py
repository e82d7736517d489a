"""Turning the knobs of one group: ``linux.resources`` of the runtime specification into files of version 1 or 2.

What is a plain conversion is a row of ``knobs.KNOBS``; here is what depends on the state of the group: memory and
swap, quota, period and burst, whose order matters, and devices.
Sources: runtime-spec config-linux.md, "Control groups"; Documentation/admin-guide/cgroup-v1, cgroup-v2.rst.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
from typing import Any, Protocol

from corten.cgroup import devices
from corten.cgroup.hierarchy import Hierarchies
from corten.cgroup.knobs import KNOBS, Knob, blkio_to_io_weight, value_at, writes
from corten.errors import InvalidParameter
from corten.linux import user_namespace
from corten.linux.files import read_text, write_knob

_NO_SWAP_LIMIT = "swap limits are not supported by this kernel: memory is limited without swap"


class Group(Protocol):
    """What is needed of a cgroup."""

    path: str
    hierarchies: Hierarchies
    warnings: list[str]

    def directory(self, controller: str) -> str | None: ...


def set_limits(group: Group, resources: dict[str, Any]) -> None:
    """Turn every knob that is given.

    Errors: InvalidParameter for what the host's cgroups cannot do, OSError naming the file that refused.
    """
    memory, cpu = resources.get("memory") or {}, resources.get("cpu") or {}
    if group.hierarchies.is_v2:
        directory = group.hierarchies.unified + group.path
        _memory_v2(group, directory, memory)
        _quota_v2(directory, cpu)
    else:
        _memory_v1(group, memory)
        _quota_v1(group, cpu)
    for knob in KNOBS:
        value = value_at(resources, knob.field)
        if value is None or value == []:
            continue
        if knob.field == "cpu.shares" and cpu.get("idle"):
            continue  # a group that is idle has no weight: the kernel refuses one
        _turn(group, knob, value)
    rules = resources.get("devices")
    if rules is not None:
        _devices(group, rules)


def _turn(group: Group, knob: Knob, value: Any) -> None:
    if group.hierarchies.is_v2:
        directory, target = group.directory(""), knob.v2
    else:
        controller, target = knob.v1 if knob.v1 is not None else ("", None)
        directory = group.directory(controller) if controller else None
    if target is None or directory is None:
        if knob.optional:
            group.warnings.append(f"{knob.field} is not supported by this host's cgroups: discarded")
            return
        raise InvalidParameter(f"{knob.field} is not supported by this host's cgroups")
    for name, text in writes(target, value):
        if "/" in name or name.startswith("."):
            raise InvalidParameter(f"invalid cgroup file name '{name}'")
        try:
            _write_first(directory, name, text)
        except OSError as error:
            if not knob.optional or error.errno not in (errno.ENOENT, errno.EOPNOTSUPP, errno.EINVAL):
                raise
            group.warnings.append(f"{knob.field} is not supported by this kernel: discarded")


def _write_first(directory: str, name: str, text: str) -> None:
    """io.weight belongs to the io.cost model: where the BFQ scheduler does the work, its own file is what counts."""
    if name == "io.weight":
        with contextlib.suppress(FileNotFoundError):
            write_knob(f"{directory}/io.bfq.weight", _as_bfq(text))
            return
    write_knob(f"{directory}/{name}", text)


def _as_bfq(text: str) -> str:
    """A line of io.weight [1, 10000] as one of io.bfq.weight [1, 1000], whose scale is that of blkio.weight."""
    key, _, weight = text.partition(" ")
    if not weight.isdigit():
        return text
    exact = next(plain for plain in range(10, 1001) if blkio_to_io_weight(plain) >= int(weight))
    return f"{key} {exact}"


# -- memory -----------------------------------------------------------------------------------------------------------


def _memory_v1(group: Group, memory: dict[str, Any]) -> None:
    limit, swap = memory.get("limit"), memory.get("swap")
    if limit is None and swap is None:
        return
    directory = group.directory("memory")
    if directory is None:
        raise InvalidParameter("memory limits are not supported by this host: the memory controller is missing")
    limit_file, swap_file = f"{directory}/memory.limit_in_bytes", f"{directory}/memory.memsw.limit_in_bytes"
    if swap is not None and not os.path.exists(swap_file):
        if swap > 0 and limit is not None and swap != limit * 2:
            group.warnings.append(_NO_SWAP_LIMIT)
        swap = None
    # the kernel keeps limit <= limit with swap: raise the outer one first, lower it last
    present = int(read_text(limit_file))
    order = [(swap_file, swap), (limit_file, limit)]
    if limit is None or (limit != -1 and limit <= present):
        order.reverse()
    for file, value in order:
        if value is None:
            continue
        try:
            write_knob(file, str(value))
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            used = read_text(f"{directory}/memory.usage_in_bytes").strip()
            raise InvalidParameter(f"cannot set memory limit to {value} bytes: {used} bytes are in use") from error


def _memory_v2(group: Group, directory: str, memory: dict[str, Any]) -> None:
    """The specification's swap is memory and swap together, version 2's is swap alone."""
    limit, swap = memory.get("limit"), memory.get("swap")
    if swap:
        if swap > 0:
            total = _present_limit(directory) if limit is None else limit
            if total <= 0:
                raise InvalidParameter("a swap limit needs a memory limit")
            if swap < total:
                raise InvalidParameter(f"memory and swap together ({swap}) cannot be less than memory alone ({total})")
            text = str(swap - total)
        else:
            total, text = 0, "max"
        try:
            write_knob(f"{directory}/memory.swap.max", text)
        except FileNotFoundError:
            if swap > 0 and swap != total * 2:
                group.warnings.append(_NO_SWAP_LIMIT)
    if limit is not None:
        write_knob(f"{directory}/memory.max", "max" if limit < 0 else str(limit))


def _present_limit(directory: str) -> int:
    """Bytes; 0 without a limit."""
    try:
        text = read_text(f"{directory}/memory.max").strip()
    except FileNotFoundError:
        return 0
    return int(text) if text.isdigit() else 0


# -- processor time ---------------------------------------------------------------------------------------------------


def _quota_v1(group: Group, cpu: dict[str, Any]) -> None:
    directory = group.directory("cpu")
    quota, period, burst = cpu.get("quota"), cpu.get("period"), cpu.get("burst")
    if directory is None or (quota is None and period is None):
        return
    if burst is not None:
        _early_burst(f"{directory}/cpu.cfs_burst_us", burst)
    if period:
        try:
            write_knob(f"{directory}/cpu.cfs_period_us", str(period))
        except OSError as error:
            # a longer period with the old quota can break the parent's bound: quota first then
            if error.errno != errno.EINVAL or not quota:
                raise
            write_knob(f"{directory}/cpu.cfs_quota_us", str(quota))
            write_knob(f"{directory}/cpu.cfs_period_us", str(period))
    if quota:
        write_knob(f"{directory}/cpu.cfs_quota_us", str(quota))


def _quota_v2(directory: str, cpu: dict[str, Any]) -> None:
    quota, period, burst = cpu.get("quota"), cpu.get("period"), cpu.get("burst")
    if quota is None and period is None:
        return
    file = f"{directory}/cpu.max"
    present_quota, _, present_period = read_text(file).strip().partition(" ")
    quota_text = present_quota if quota is None else ("max" if quota <= 0 else str(quota))
    if burst is not None:
        _early_burst(f"{directory}/cpu.max.burst", burst)
    write_knob(file, f"{quota_text} {period or present_period}")


def _early_burst(file: str, burst: int) -> None:
    """A burst is at most the quota: a smaller one goes before a smaller quota, a larger one is written again after."""
    with contextlib.suppress(OSError):
        write_knob(file, str(burst))


# -- devices ----------------------------------------------------------------------------------------------------------


def _devices(group: Group, rules: list[dict[str, Any]]) -> None:
    if not user_namespace.is_initial():
        return  # rules need the machine's root; without them a container has the nodes that it is given, and makes none
    if group.hierarchies.is_v2:
        devices.attach_program(group.hierarchies.unified + group.path, rules)
        return
    directory = group.directory("devices")
    if directory is None:
        group.warnings.append("the devices controller is missing: device rules are not enforced")
        return
    for name, pairs in itertools.groupby(devices.v1_writes(rules), key=lambda pair: pair[0]):
        write_knob(f"{directory}/{name}", *(text for _, text in pairs))
