"""What ``corten-oci`` prints of containers.  Source: runc(8) for the forms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from corten.cgroup import stats
from corten.cgroup.manager import Cgroup
from corten.errors import InvalidParameter, SystemFailure


def table(rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their widest entry, three spaces apart."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["   ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join(lines) + "\n"


def processes(cgroup: Cgroup) -> list[tuple[int, str]]:
    """(pid on the host, command line) of a container's processes."""
    found = []
    for pid in cgroup.pids():
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                words = file.read().rstrip(b"\0").split(b"\0")
        except OSError:
            continue  # has ended meanwhile
        found.append((pid, b" ".join(words).decode(errors="replace")))
    return found


def as_ps_prints(cgroup: Cgroup, options: Sequence[str]) -> str:
    """The lines of ps(1), called with these options, that are a container's.

    Errors: InvalidParameter when ps refuses the options or tells no PID, SystemFailure when there is no ps.
    """
    import subprocess

    try:
        done = subprocess.run(["ps", *options], capture_output=True, text=True, errors="replace", check=False)
    except OSError as error:
        raise SystemFailure(f"ps: {(error.strerror or '').lower()}", step="ps", errno=error.errno or 0) from error
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[0]
        raise InvalidParameter(f"ps {' '.join(options)}: {reason}")
    title, *lines = done.stdout.splitlines() or [""]
    if "PID" not in title.split():
        raise InvalidParameter(f"ps {' '.join(options)}: it does not tell the PID")
    column, ours = title.split().index("PID"), {str(pid) for pid in cgroup.pids()}
    return "\n".join([title, *(line for line in lines if ours & set(line.split()[column : column + 1]))])


def statistics(cgroup: Cgroup) -> dict[str, Any]:
    """In the form of ``runc events``."""
    found = stats.read(cgroup)
    cpu, memory = found["cpu"], found["memory"]
    return {
        "cpu": {
            "usage": {
                "total": cpu["total"],
                "percpu": cpu["percpu"],
                "kernel": cpu["kernel"],
                "user": cpu["user"],
            },
            "throttling": {
                "periods": cpu["periods"],
                "throttledPeriods": cpu["throttled_periods"],
                "throttledTime": cpu["throttled_time"],
            },
        },
        "memory": {
            "cache": memory["stats"].get("cache", memory["stats"].get("file", 0)),
            "usage": {
                "limit": memory["limit"],
                "usage": memory["usage"],
                "max": memory["max_usage"],
                "failcnt": memory["failcnt"],
            },
            "swap": stats.memory_and_swap(cgroup),
            "raw": memory["stats"],
        },
        "pids": {
            "current": found["pids"]["current"],
            "limit": 0 if found["pids"]["limit"] == (1 << 64) - 1 else found["pids"]["limit"],
        },
        "blkio": {
            "ioServiceBytesRecursive": found["blkio"]["bytes"],
            "ioServicedRecursive": found["blkio"]["operations"],
        },
    }
