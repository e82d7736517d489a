"""Processes of a container, their namespaces and their rights, read from /proc.

Source: proc_pid_status(5), namespaces(7), capabilities(7), user_namespaces(7).
"""

from __future__ import annotations

import os
from typing import Any

from corten.engine.processes import Process
from corten.linux.process import CAPABILITIES

Document = dict[str, Any]

NAMESPACES = {
    "cgroup": "which control groups are seen",
    "ipc": "message queues, semaphores and shared memory",
    "mnt": "the tree of mounts: its own root",
    "net": "interfaces, addresses, ports, firewall",
    "pid": "process numbers: its program is number 1",
    "time": "the clock since boot",
    "user": "who root is, and over what",
    "uts": "the host name",
}
_SECCOMP_MODES = {"0": "off", "1": "strict", "2": "filter"}


def status_of(pid: int) -> dict[str, str]:
    """/proc/<pid>/status by field.  Errors: OSError when it has ended."""
    with open(f"/proc/{pid}/status", errors="replace") as file:
        return {name: value.strip() for name, _, value in (line.partition(":") for line in file)}


def processes(pids: list[int]) -> list[Document]:
    """One row for each that still lives: the numbers that host and container know it by."""
    found = []
    for pid in sorted(pids):
        try:
            status, process = status_of(pid), Process.read(pid)
        except OSError:
            continue
        if process is None:
            continue
        found.append(
            {
                "Pid": pid,
                "ContainerPid": int(status["NSpid"].split()[-1]) if "NSpid" in status else pid,
                "ParentPid": int(status["PPid"]),
                "User": int(status["Uid"].split()[1]),
                "State": status["State"],
                "Threads": int(status["Threads"]),
                "MemoryBytes": int(status.get("VmRSS", "0 kB").split()[0]) * 1024,
                "CpuSeconds": round(process.cpu_s, 2),
                "Command": process.arguments,
            }
        )
    return found


def _inode(pid: int | str, kind: str) -> int:
    return int(os.readlink(f"/proc/{pid}/ns/{kind}").partition("[")[2].rstrip("]"))


def namespaces(pid: int) -> list[Document]:
    """Each namespace of a process beside the daemon's own.  Errors: OSError when it has ended."""
    return [
        {"Kind": kind, "Inode": (own := _inode(pid, kind)), "HostInode": (host := _inode("self", kind)),
         "Shared": own == host, "Meaning": meaning}
        for kind, meaning in NAMESPACES.items()
        if os.path.exists(f"/proc/self/ns/{kind}")
    ]  # fmt: skip


def capability_names(mask: str) -> list[str]:
    bits = int(mask, 16)
    return [name for number, name in enumerate(CAPABILITIES) if bits >> number & 1]


def privileges(pid: int) -> Document:
    """What a process may do.  Errors: OSError when it has ended."""
    status = status_of(pid)
    return {
        "Uid": int(status["Uid"].split()[1]),
        "Gid": int(status["Gid"].split()[1]),
        "Groups": [int(word) for word in status.get("Groups", "").split()],
        "Capabilities": {
            kind: capability_names(status[field])
            for kind, field in (
                ("Effective", "CapEff"),
                ("Permitted", "CapPrm"),
                ("Bounding", "CapBnd"),
                ("Inheritable", "CapInh"),
                ("Ambient", "CapAmb"),
            )
        },
        "NoNewPrivileges": status.get("NoNewPrivs") == "1",
        "Seccomp": _SECCOMP_MODES.get(status.get("Seccomp", "0"), "unknown"),
        "SeccompFilters": int(status.get("Seccomp_filters", "0")),
        "Label": _read(f"/proc/{pid}/attr/current").strip("\0\n"),
        "OomScoreAdj": int(_read(f"/proc/{pid}/oom_score_adj") or 0),
        "UidMap": _map(pid, "uid_map"),
        "GidMap": _map(pid, "gid_map"),
    }


def _read(path: str) -> str:
    """ "" for what this kernel does not tell."""
    try:
        with open(path, errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def _map(pid: int, name: str) -> list[Document]:
    rows = [[int(word) for word in line.split()] for line in _read(f"/proc/{pid}/{name}").splitlines()]
    return [{"Inside": inside, "Outside": outside, "Count": count} for inside, outside, count in rows]
