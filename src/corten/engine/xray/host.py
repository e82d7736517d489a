"""What this machine's kernel offers to containers, what each thing is for, and what is missing.

Everything is found by looking or by a call that changes nothing.
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from corten.cgroup.hierarchy import Hierarchies
from corten.engine.host_support import LimitSupport, filesystem_of, os_release, read_text
from corten.engine.xray.processes import NAMESPACES
from corten.linux import fuse_overlay, nftables, nftlist, projects
from corten.linux.process import known_capabilities

Document = dict[str, Any]

_PLACES = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# the same numbers on every architecture since 5.x
_CALLS = (
    ("openat2", 437, "5.6", "paths are resolved inside a container's root, and nowhere else"),
    ("clone3", 435, "5.3", "a container is born inside its control group"),
    ("pidfd_open", 434, "5.3", "signals cannot hit a process that has taken over a number"),
    ("mount_setattr", 442, "5.12", "read-only to the bottom, and volumes with other owners"),
    ("fsopen", 430, "5.2", "file systems are mounted without being seen by anybody"),
    ("landlock_create_ruleset", 444, "5.13", "programs can lock themselves in"),
    ("quotactl_fd", 443, "5.14", "disk limits by project quota"),
)
_PROGRAMS = (
    ("criu", "checkpoint and restore"),
    ("runsc", "gVisor: a kernel of its own for each container (--runtime runsc)"),
    ("crun", "another OCI runtime (--runtime crun)"),
    ("runc", "another OCI runtime (--runtime runc)"),
    ("mkfs.ext4", "disk limits by a file of one's own (--storage-opt size=)"),
    ("newuidmap", "more than one user id in containers of ordinary users"),
    ("pasta", "networks of ordinary users"),
    ("fuse-overlayfs", "layers for ordinary users where the kernel refuses overlayfs"),
)


@dataclass(frozen=True, slots=True)
class _Feature:
    """One row.  found: what there is, "" when it is missing;  lacking: what does not work without it"""

    group: str
    name: str
    found: str
    purpose: str
    lacking: str = ""

    def document(self) -> Document:
        return {
            "Group": self.group,
            "Feature": self.name,
            "Present": bool(self.found),
            "Found": self.found,
            "Purpose": self.purpose,
            "Missing": "" if self.found else self.lacking,
        }


def xray_host(data_root: Path, table: str) -> Document:
    """All rows, in groups."""
    parts: tuple[Callable[[], list[_Feature]], ...] = (
        _namespaces,
        _groups,
        lambda: _files(data_root),
        lambda: _network(table),
        _walls,
        _calls,
        _programs,
    )
    rows = [feature.document() for part in parts for feature in part()]
    release = os.uname()
    return {
        "Kernel": release.release,
        "Machine": release.machine,
        "System": os_release().get("PRETTY_NAME", "Linux"),
        "Features": rows,
        "Missing": sum(not row["Present"] for row in rows),
    }


def _namespaces() -> list[_Feature]:
    rows = [
        _Feature("Namespaces", kind, "yes" if os.path.exists(f"/proc/self/ns/{kind}") else "", meaning,
                 "containers share it with the machine")
        for kind, meaning in NAMESPACES.items()
    ]  # fmt: skip
    rows.append(
        _Feature("Namespaces", "user namespaces of ordinary users", _ordinary_users(), "containers without root",
                 "ordinary users cannot run containers: see user.max_user_namespaces and the distribution's switches")
    )  # fmt: skip
    return rows


def _ordinary_users() -> str:
    if read_text("/proc/sys/user/max_user_namespaces") == "0":
        return ""
    if read_text("/proc/sys/kernel/unprivileged_userns_clone") == "0":
        return ""
    if read_text("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == "1":
        return ""
    return "yes" if os.path.exists("/proc/self/ns/user") else ""


def _groups() -> list[_Feature]:
    hierarchies = Hierarchies.read()
    support = LimitSupport.read(hierarchies)
    version = "version 2" if hierarchies.is_v2 else "version 1" if hierarchies.v1 else ""
    if version == "version 1" and hierarchies.unified:
        version += ", version 2 beside it"
    rows = [_Feature("Control groups", "hierarchy", version, "limits and statistics", "no limit works")]
    limits = (
        ("memory limit", support.memory, "--memory"),
        ("swap limit", support.swap, "--memory-swap"),
        ("processor quota", support.cpu_quota, "--cpus"),
        ("processor shares", support.cpu_shares, "--cpu-shares"),
        ("processor sets", support.cpuset, "--cpuset-cpus"),
        ("number of processes", support.pids, "--pids-limit"),
    )
    for name, works, option in limits:
        rows.append(_Feature("Control groups", name, "yes" if works else "", option, f"{option} is dropped"))
    pressure = "yes" if os.path.exists("/proc/pressure/memory") else ""
    rows.append(
        _Feature("Control groups", "pressure (PSI)", pressure, "time lost by waiting is counted", "not counted")
    )
    return rows


def _files(data_root: Path) -> list[_Feature]:
    known = {line.split()[-1] for line in read_text("/proc/filesystems").splitlines()}
    counted = ""
    try:
        counted = "yes" if projects.is_xfs(str(data_root)) and projects.is_counted(str(data_root)) else ""
    except OSError:
        counted = ""
    return [
        _Feature("Files", "overlayfs", "yes" if "overlay" in known else "", "layers without copies",
                 "fuse-overlayfs shows them, or vfs copies every layer"),
        _Feature("Files", "file system of the data root", filesystem_of(data_root), f"{data_root}"),
        _Feature("Files", "project quotas of xfs", counted, "disk limits without a file system of their own",
                 "--storage-opt size= uses a sparse file for each container"),
        _Feature("Files", "loop devices", "yes" if os.path.exists("/dev/loop-control") else "",
                 "disk limits where there are no project quotas", "--storage-opt size= needs project quotas"),
        _Feature("Files", "fuse-overlayfs", "yes" if fuse_overlay.program() and os.path.exists("/dev/fuse") else "",
                 "layers without copies where overlayfs cannot", "the storage driver is vfs there"),
    ]  # fmt: skip


def _network(table: str) -> list[_Feature]:
    found = ""
    try:
        connection = nftables.connect()
        try:
            names = nftlist.tables(connection)
            found = f"{len(names)} tables, ours among them" if table in names else f"{len(names)} tables"
        finally:
            connection.close()
    except OSError:
        found = ""
    forwarding = "on" if read_text("/proc/sys/net/ipv4/ip_forward") == "1" else ""
    return [
        _Feature("Network", "nf_tables", found, "published ports, and networks kept apart", "--bridge none only"),
        _Feature("Network", "forwarding", forwarding, "containers reach other machines",
                 "turned on with the first network"),
        _Feature("Network", "IPv6", "yes" if os.path.exists("/proc/net/if_inet6") else "", "--ipv6", "IPv4 only"),
    ]  # fmt: skip


def _walls() -> list[_Feature]:
    actions = read_text("/proc/sys/kernel/seccomp/actions_avail")
    apparmor = "yes" if read_text("/sys/module/apparmor/parameters/enabled") == "Y" else ""
    selinux = {"1": "enforcing", "0": "permissive"}.get(read_text("/sys/fs/selinux/enforce"), "")
    return [
        _Feature("Walls", "seccomp", "filters" if actions else "", "most system calls are out of reach", "none is"),
        _Feature("Walls", "seccomp, answers by a program", "yes" if "user_notif" in actions else "",
                 "listenerPath of corten-oci", "refused"),
        _Feature("Walls", "AppArmor", apparmor, "--security-opt apparmor=", "is refused"),
        _Feature("Walls", "SELinux", selinux, "--security-opt label=", "is refused"),
        _Feature("Walls", "Landlock", _landlock(), "programs can lock themselves in", "not used"),
        _Feature("Walls", "capabilities of the daemon", f"{len(known_capabilities())}", "what it can give away"),
        _Feature("Walls", "KVM", _kvm(), "virtual machines as containers",
                 "runsc --platform=systrap works without"),
    ]  # fmt: skip


def _kvm() -> str:
    """A node alone does not mean that there is something behind it: the processor has to have it too."""
    if not {"vmx", "svm"} & set(read_text("/proc/cpuinfo").split()) and os.uname().machine == "x86_64":
        return ""
    try:
        os.close(os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC))
    except OSError:
        return ""
    return "yes"


def _landlock() -> str:
    libc = ctypes.CDLL(None, use_errno=True)
    version = libc.syscall(444, None, ctypes.c_size_t(0), 1)
    return f"ABI {version}" if version > 0 else ""


def _calls() -> list[_Feature]:
    libc = ctypes.CDLL(None, use_errno=True)
    rows = []
    for name, number, since, purpose in _CALLS:
        # with arguments that can mean nothing: the call is there when anything but "no such call" comes back
        missing = libc.syscall(number, -1, None, None, 0, 0) < 0 and ctypes.get_errno() == errno.ENOSYS
        rows.append(_Feature("System calls", name, "" if missing else "yes", purpose, f"needs Linux {since}"))
    return rows


def _programs() -> list[_Feature]:
    return [
        _Feature("Programs", name, shutil.which(name, path=_PLACES) or "", purpose, "not installed")
        for name, purpose in _PROGRAMS
    ]
