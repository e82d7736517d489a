"""How the kernel schedules the program: policy, processors, disk priority, memory nodes, personality.

Sources: runtime-spec config.md "process", config-linux.md "memoryPolicy" and "personality"; sched(7), ioprio_set(2),
set_mempolicy(2), personality(2).
"""

from __future__ import annotations

import os
from typing import Any

from corten.errors import InvalidParameter
from corten.linux import process as kernel

_POLICIES = {
    "SCHED_OTHER": 0, "SCHED_FIFO": 1, "SCHED_RR": 2, "SCHED_BATCH": 3, "SCHED_ISO": 4, "SCHED_IDLE": 5,
    "SCHED_DEADLINE": 6,
}  # fmt: skip
_FLAGS = {
    "SCHED_FLAG_RESET_ON_FORK": 0x01,
    "SCHED_FLAG_RECLAIM": 0x02,
    "SCHED_FLAG_DL_OVERRUN": 0x04,
    "SCHED_FLAG_KEEP_POLICY": 0x08,
    "SCHED_FLAG_KEEP_PARAMS": 0x10,
    "SCHED_FLAG_UTIL_CLAMP_MIN": 0x20,
    "SCHED_FLAG_UTIL_CLAMP_MAX": 0x40,
}
_CLASSES = {"IOPRIO_CLASS_RT": 1, "IOPRIO_CLASS_BE": 2, "IOPRIO_CLASS_IDLE": 3}
_DOMAINS = {"LINUX": 0, "LINUX32": 8}
_MEMORY_MODES = {
    "MPOL_DEFAULT": 0, "MPOL_PREFERRED": 1, "MPOL_BIND": 2, "MPOL_INTERLEAVE": 3, "MPOL_LOCAL": 4,
    "MPOL_PREFERRED_MANY": 5, "MPOL_WEIGHTED_INTERLEAVE": 6,
}  # fmt: skip
_MEMORY_FLAGS = {"MPOL_F_STATIC_NODES": 1 << 15, "MPOL_F_RELATIVE_NODES": 1 << 14, "MPOL_F_NUMA_BALANCING": 1 << 13}


def parse_list(text: str, what: str) -> list[int]:
    """0-3,7 -> numbers.  Errors: InvalidParameter."""
    numbers: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdigit() or (dash and not last.isdigit()) or len(part) > 16:
            raise InvalidParameter(f"{what}: invalid list '{text}'")
        begin, end = int(first), int(last or first)
        if end < begin or end > 8191:
            raise InvalidParameter(f"{what}: invalid list '{text}'")
        numbers += range(begin, end + 1)
    return numbers


def _choice(table: dict[str, int], name: object, what: str) -> int:
    if not isinstance(name, str) or name not in table:
        raise InvalidParameter(f"{what}: unknown value {name!r}")
    return table[name]


def check(process: dict[str, Any], linux: dict[str, Any]) -> None:
    """Errors: InvalidParameter naming the field."""
    scheduler = process.get("scheduler")
    if scheduler:
        _choice(_POLICIES, scheduler.get("policy"), "process.scheduler.policy")
        for flag in scheduler.get("flags") or ():
            _choice(_FLAGS, flag, "process.scheduler.flags")
    priority = process.get("ioPriority")
    if priority:
        _choice(_CLASSES, priority.get("class"), "process.ioPriority.class")
        if not 0 <= (priority.get("priority") or 0) <= 7:
            raise InvalidParameter("process.ioPriority.priority: 0 to 7 are possible")
    for name in ("initial", "final"):
        text = (process.get("execCPUAffinity") or {}).get(name)
        if text:
            parse_list(text, f"process.execCPUAffinity.{name}")
    persona = linux.get("personality")
    if persona:
        _choice(_DOMAINS, persona.get("domain"), "linux.personality.domain")
        if persona.get("flags"):
            raise InvalidParameter("linux.personality.flags: the specification defines none")
    policy = linux.get("memoryPolicy")
    if policy:
        _choice(_MEMORY_MODES, policy.get("mode"), "linux.memoryPolicy.mode")
        for flag in policy.get("flags") or ():
            _choice(_MEMORY_FLAGS, flag, "linux.memoryPolicy.flags")
        if policy.get("nodes"):
            nodes = parse_list(policy["nodes"], "linux.memoryPolicy.nodes")
            if max(nodes) > 4095:
                raise InvalidParameter("linux.memoryPolicy.nodes: nodes up to 4095 are possible")


def set_affinity(process: dict[str, Any], name: str) -> None:
    """``process.execCPUAffinity`` of an exec: "initial" before it joins the cgroup, "final" after."""
    text = (process.get("execCPUAffinity") or {}).get(name)
    if text:
        try:
            os.sched_setaffinity(0, parse_list(text, f"process.execCPUAffinity.{name}"))
        except OSError as error:
            reason = (error.strerror or "").lower()
            raise InvalidParameter(f"process.execCPUAffinity.{name} '{text}': {reason}") from error


def apply(process: dict[str, Any], linux: dict[str, Any]) -> None:
    """Errors: OSError naming the call."""
    scheduler = process.get("scheduler")
    if scheduler:
        flags = 0
        for flag in scheduler.get("flags") or ():
            flags |= _FLAGS[flag]
        kernel.sched_setattr(
            _POLICIES[scheduler["policy"]],
            flags,
            scheduler.get("nice") or 0,
            scheduler.get("priority") or 0,
            scheduler.get("runtime") or 0,
            scheduler.get("deadline") or 0,
            scheduler.get("period") or 0,
        )
    priority = process.get("ioPriority")
    if priority:
        kernel.ioprio_set(_CLASSES[priority["class"]] << 13 | (priority.get("priority") or 0))
    policy = linux.get("memoryPolicy")
    if policy:
        mode = _MEMORY_MODES[policy["mode"]]
        for flag in policy.get("flags") or ():
            mode |= _MEMORY_FLAGS[flag]
        kernel.set_mempolicy(
            mode, parse_list(policy["nodes"], "linux.memoryPolicy.nodes") if policy.get("nodes") else []
        )
    persona = linux.get("personality")
    if persona:
        kernel.personality(_DOMAINS[persona["domain"]])
