"""What has to be done in new namespaces before anything else: names, clocks, keys, the loopback device.

Sources: runtime-spec config-linux.md "Namespaces", network_namespaces(7), time_namespaces(7), keyrings(7).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import struct
from typing import Any

from corten.errors import InvalidParameter
from corten.linux import process as kernel

FLAGS = {
    "mount": kernel.CLONE_NEWNS,
    "pid": kernel.CLONE_NEWPID,
    "uts": kernel.CLONE_NEWUTS,
    "ipc": kernel.CLONE_NEWIPC,
    "network": kernel.CLONE_NEWNET,
    "user": kernel.CLONE_NEWUSER,
    "cgroup": kernel.CLONE_NEWCGROUP,
    "time": kernel.CLONE_NEWTIME,
}
# namespace type -> its file in /proc/<pid>/ns
FILES = {
    "user": "user", "ipc": "ipc", "uts": "uts", "network": "net", "pid": "pid", "cgroup": "cgroup", "time": "time",
    "mount": "mnt",
}  # fmt: skip
# to enter a user namespace gives up what entering the others needs, so it comes last
JOIN_ORDER = ("ipc", "uts", "network", "pid", "cgroup", "time", "mount", "user")

_SIOCGIFFLAGS = 0x8913
_SIOCSIFFLAGS = 0x8914
_IFF_UP = 1


def open_joined(joined: dict[str, str]) -> list[tuple[int, int]]:
    """Namespace files by type -> (descriptor, CLONE_NEW flag) in the order in which they are to be entered.

    Errors: InvalidParameter.
    """
    opened: list[tuple[int, int]] = []
    for kind in JOIN_ORDER:
        if kind in joined:
            try:
                opened.append((os.open(joined[kind], os.O_RDONLY | os.O_CLOEXEC), FLAGS[kind]))
            except OSError as error:
                for descriptor, _ in opened:
                    os.close(descriptor)
                reason = (error.strerror or "").lower()
                raise InvalidParameter(f"cannot join {kind} namespace {joined[kind]}: {reason}") from error
    return opened


def differing(pid: int) -> int:
    """The kinds in which a process is elsewhere: to enter the user namespace that one is in is an error (setns(2))."""
    kinds = 0
    for kind, name in FILES.items():
        with contextlib.suppress(OSError):
            if os.stat(f"/proc/{pid}/ns/{name}").st_ino != os.stat(f"/proc/self/ns/{name}").st_ino:
                kinds |= FLAGS[kind]
    return kinds


def is_ours(path: str, kind: str) -> bool:
    """Whether a namespace file is that of the calling process."""
    try:
        return os.path.samestat(os.stat(path), os.stat(f"/proc/self/ns/{FILES[kind]}"))
    except OSError:
        return False


def loopback_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as control:
        request = struct.pack("16sH22x", b"lo", 0)
        flags = struct.unpack("16sH22x", fcntl.ioctl(control, _SIOCGIFFLAGS, request))[1]
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sH22x", b"lo", flags | _IFF_UP))


def clock_offsets(offsets: dict[str, dict[str, int]]) -> str:
    """``linux.timeOffsets`` as /proc/<pid>/timens_offsets takes it."""
    return "".join(
        f"{clock} {value.get('secs') or 0} {value.get('nanosecs') or 0}\n" for clock, value in offsets.items()
    )


def enter_time_namespace() -> None:
    """The one that was unshared for our children, now that its clocks are set."""
    namespace = os.open("/proc/self/ns/time_for_children", os.O_RDONLY | os.O_CLOEXEC)
    try:
        kernel.setns(namespace, kernel.CLONE_NEWTIME)
    finally:
        os.close(namespace)


def leave_keys(name: str) -> None:
    """The caller's session keyring stays behind."""
    with contextlib.suppress(OSError):
        # a kernel without keys has nothing to separate
        kernel.join_session_keyring(name)


def set_names(spec: dict[str, Any]) -> None:
    if spec.get("hostname"):
        kernel.sethostname(spec["hostname"])
    if spec.get("domainname"):
        kernel.setdomainname(spec["domainname"])


def become_root() -> None:
    """In a user namespace: what is done there is done by its id 0."""
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    kernel.prctl(kernel.PR_SET_DUMPABLE, 0)
