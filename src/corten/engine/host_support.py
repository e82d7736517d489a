"""What this host can do for containers: limits that its kernel takes, and facts for ``info``.

Source: cgroups(7); Documentation/admin-guide/cgroup-v1 and cgroup-v2.rst; os-release(5).
"""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from pathlib import Path

from corten.cgroup.hierarchy import Hierarchies
from corten.linux import mounts, user_namespace

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "ppc64le": "ppc64le", "s390x": "s390x"}
_EXT = ("ext2", "ext3", "ext4")


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitSupport:
    """Which limits work here.  missing: messages as Docker's clients print them"""

    memory: bool
    swap: bool
    swappiness: bool
    oom_kill_disable: bool
    cpu_quota: bool
    cpu_shares: bool
    cpuset: bool
    pids: bool
    block_io: bool
    missing: tuple[str, ...]

    @classmethod
    def read(cls, hierarchies: Hierarchies) -> LimitSupport:
        return _v2(Path(hierarchies.unified)) if hierarchies.is_v2 else _v1(hierarchies)


def _missing(checks: dict[str, bool]) -> tuple[str, ...]:
    return tuple(f"WARNING: No {name} support" for name, works in checks.items() if not works)


def _v1(hierarchies: Hierarchies) -> LimitSupport:
    def has(controller: str, file: str) -> bool:
        root = hierarchies.v1.get(controller)
        return root is not None and os.path.exists(f"{root}/{file}")

    memory, swap = has("memory", "memory.limit_in_bytes"), has("memory", "memory.memsw.limit_in_bytes")
    oom = has("memory", "memory.oom_control")
    quota, shares = has("cpu", "cpu.cfs_quota_us"), has("cpu", "cpu.shares")
    cpuset, pids = has("cpuset", "cpuset.cpus"), "pids" in hierarchies.v1
    checks = {
        "memory limit": memory,
        "swap limit": swap,
        "oom kill disable": oom,
        "cpu cfs quota": quota,
        "cpu shares": shares,
        "cpuset": cpuset,
        "pids limit": pids,
    }
    for name in ("read_bps", "write_bps", "read_iops", "write_iops"):
        checks[f"blkio throttle.{name}_device"] = has("blkio", f"blkio.throttle.{name}_device")
    return LimitSupport(
        memory=memory,
        swap=swap,
        swappiness=has("memory", "memory.swappiness"),
        oom_kill_disable=oom,
        cpu_quota=quota,
        cpu_shares=shares,
        cpuset=cpuset,
        pids=pids,
        block_io=has("blkio", "blkio.throttle.read_bps_device"),
        missing=_missing(checks),
    )


def _v2(root: Path) -> LimitSupport:
    try:
        controllers = set((root / "cgroup.controllers").read_text().split())
    except OSError:
        controllers = set()

    def has(controller: str, file: str) -> bool:
        """The root group has no knobs: any group below it shows them."""
        return controller in controllers and next(root.glob(f"*/{file}"), None) is not None

    memory, cpu, io = "memory" in controllers, "cpu" in controllers, "io" in controllers
    checks = {
        "memory limit": memory,
        "swap limit": has("memory", "memory.swap.max") or (memory and _counts_swap(root)),
        "cpu cfs quota": cpu,
        "cpu shares": cpu,
        "cpuset": "cpuset" in controllers,
        "pids limit": "pids" in controllers,
        "io.weight": has("io", "io.weight") or has("io", "io.bfq.weight"),
        "io.max": io,
    }
    return LimitSupport(
        memory=memory,
        swap=checks["swap limit"],
        swappiness=False,
        oom_kill_disable=False,
        cpu_quota=cpu,
        cpu_shares=cpu,
        cpuset=checks["cpuset"],
        pids=checks["pids limit"],
        block_io=io,
        missing=_missing(checks),
    )


def _counts_swap(root: Path) -> bool:
    """Where no group below the root has the memory controller yet: what the kernel was built and started with."""
    if next(root.glob("*/memory.max"), None) is not None:
        return False
    return os.path.exists("/proc/swaps") and "swapaccount=0" not in read_text("/proc/cmdline").split()


def os_release() -> dict[str, str]:
    for path in ("/etc/os-release", "/usr/lib/os-release"):
        text = read_text(path)
        if text:
            return dict(_assigned(text))
    return {}


def _assigned(text: str) -> list[tuple[str, str]]:
    pairs = []
    for line in text.splitlines():
        name, equals, value = line.partition("=")
        if not equals or name.startswith("#"):
            continue
        try:
            pairs.append((name.strip(), "".join(shlex.split(value))))
        except ValueError:
            pairs.append((name.strip(), value.strip("\"'")))
    return pairs


def read_text(path: str) -> str:
    """ "" when it cannot be read."""
    try:
        with open(path, errors="replace") as file:
            return file.read().strip()
    except OSError:
        return ""


def filesystem_of(path: Path) -> str:
    """The kind of file system below a path, as Docker names it."""
    text = f"{path}/"
    found = ("", "unknown")
    for entry in mounts.read():
        # the last of several on one place is the one that is seen
        if text.startswith(f"{entry.target.rstrip('/')}/") and len(entry.target) >= len(found[0]):
            found = (entry.target, entry.kind)
    return "extfs" if found[1] in _EXT else found[1]


def overlay_status(path: Path) -> list[list[str]]:
    """``DriverStatus`` of overlay2."""
    options = Path("/sys/module/overlay/parameters")
    # a user namespace has attributes of its own (``linux.overlay``), and with those nothing is moved by reference
    own = not user_namespace.is_initial()
    metacopy = not own and read_text(f"{options}/metacopy") == "Y"
    redirects = not own and read_text(f"{options}/redirect_dir") == "Y"
    return [
        ["Backing Filesystem", filesystem_of(path)],
        ["Supports d_type", "true"],
        ["Using metacopy", str(metacopy).lower()],
        # what lies in the upper directory is the whole difference, unless directories are moved by reference
        ["Native Overlay Diff", str(not metacopy and not redirects).lower()],
        ["userxattr", str(own).lower()],
    ]
