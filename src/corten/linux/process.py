"""Processes and their privileges: namespaces, clone3, pidfds, capabilities, prctl, seccomp.

Sources: clone(2), unshare(2), setns(2), pidfd_open(2), close_range(2), prctl(2), capabilities(7), capset(2),
seccomp(2).
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import signal
from collections.abc import Iterator

from corten.linux.syscall import call, encode

CLONE_NEWTIME = 0x00000080
CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
CLONE_PIDFD = 0x00001000
CLONE_PARENT = 0x00008000
CLONE_INTO_CGROUP = 0x200000000

CLOSE_RANGE_CLOEXEC = 4

PR_SET_PDEATHSIG = 1
PR_GET_PDEATHSIG = 2
PR_GET_DUMPABLE = 3
PR_SET_DUMPABLE = 4
PR_SET_KEEPCAPS = 8
PR_SET_NAME = 15
PR_CAPBSET_READ = 23
PR_CAPBSET_DROP = 24
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38
PR_SET_THP_DISABLE = 41
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_RAISE = 2
PR_CAP_AMBIENT_CLEAR_ALL = 4

SECCOMP_SET_MODE_FILTER = 1
SECCOMP_FILTER_FLAG_NEW_LISTENER = 8
KEYCTL_JOIN_SESSION_KEYRING = 1

# capability.h, by number
CAPABILITIES = tuple(
    "CAP_" + name
    for name in (
        "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE "
        "NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT "
        "SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL "
        "SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE"
    ).split()
)


class CloneArgs(ctypes.Structure):
    """``struct clone_args`` of clone3(2)."""

    _fields_ = tuple(
        (name, ctypes.c_uint64)
        for name in (
            "flags", "pidfd", "child_tid", "parent_tid", "exit_signal", "stack", "stack_size", "tls", "set_tid",
            "set_tid_size", "cgroup",
        )
    )  # fmt: skip


class _CapHeader(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _CapData(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


_CAP_VERSION_3 = 0x20080522


class _SockFprog(ctypes.Structure):
    _fields_ = (("len", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def default_library_signals() -> None:
    """Default dispositions of signals 32 and 33, which the C library keeps to itself and lets nobody else touch.

    A parent may have left them ignored (``make`` does), and what is ignored survives execve (rt_sigaction(2)).
    """
    nothing = bytes(32)  # struct sigaction of the kernel: SIG_DFL, no flags, no restorer, empty mask
    for number in (32, 33):
        call("rt_sigaction", number, ctypes.create_string_buffer(nothing, 32), None, 8)


def unshare(flags: int) -> None:
    call("unshare", flags)


def setns(descriptor: int, kinds: int = 0) -> None:
    """Enter the namespace, or with a pidfd all namespaces of the given kinds at once."""
    call("setns", descriptor, kinds)


def clone3(flags: int, *, cgroup_fd: int = -1, exit_signal: int = signal.SIGCHLD) -> tuple[int, int]:
    """Fork with namespaces.  (0, -1) in the child, (pid, pidfd) in the parent.

    Only for processes with one thread.  The interpreter's fork hooks run, so the child's state is right.
    """
    pidfd = ctypes.c_int(-1)
    arguments = CloneArgs()
    arguments.flags = flags | CLONE_PIDFD
    arguments.pidfd = ctypes.addressof(pidfd)
    arguments.exit_signal = exit_signal
    if cgroup_fd >= 0:
        arguments.flags |= CLONE_INTO_CGROUP
        arguments.cgroup = cgroup_fd
    python = ctypes.pythonapi
    python.PyOS_BeforeFork()
    try:
        pid = call("clone3", arguments, ctypes.sizeof(arguments))
    except OSError:
        python.PyOS_AfterFork_Parent()
        raise
    if pid == 0:
        python.PyOS_AfterFork_Child()
        return 0, -1
    python.PyOS_AfterFork_Parent()
    return pid, pidfd.value


def pidfd_open(pid: int) -> int:
    return call("pidfd_open", pid, 0, path=f"process {pid}")


def pidfd_send_signal(pidfd: int, number: int) -> None:
    call("pidfd_send_signal", pidfd, number, None, 0)


def close_range(first: int, last: int = 0xFFFFFFFF, *, cloexec: bool = False) -> None:
    call("close_range", first, last, CLOSE_RANGE_CLOEXEC if cloexec else 0)


def prctl(option: int, second: int = 0, third: int = 0, fourth: int = 0, fifth: int = 0) -> int:
    return call("prctl", option, second, third, fourth, fifth)


def set_name(name: str) -> None:
    """The process's short name, as ``ps -o comm`` shows it (15 bytes)."""
    call("prctl", PR_SET_NAME, name.encode()[:15], 0, 0, 0)


def sethostname(name: str) -> None:
    raw = name.encode()
    call("sethostname", raw, len(raw), path=name)


def setdomainname(name: str) -> None:
    raw = name.encode()
    call("setdomainname", raw, len(raw), path=name)


def join_session_keyring(name: str) -> None:
    """Leave the caller's keys behind: a session keyring of this name, or with "" a new one without a name."""
    call("keyctl", KEYCTL_JOIN_SESSION_KEYRING, encode(name) if name else None, 0, 0, 0)


def seccomp_filter(program: bytes, flags: int = 0) -> int:
    """Install a classic BPF program (8 bytes an instruction) on this thread; with NEW_LISTENER, its descriptor."""
    fprog = _SockFprog(len(program) // 8, program)
    return call("seccomp", SECCOMP_SET_MODE_FILTER, flags, fprog)


def capset(effective: int, permitted: int, inheritable: int) -> None:
    """The three sets of this thread, as bit masks."""
    header = _CapHeader(_CAP_VERSION_3, 0)
    data = (_CapData * 2)()
    for index in range(2):
        shift = 32 * index
        data[index].effective = (effective >> shift) & 0xFFFFFFFF
        data[index].permitted = (permitted >> shift) & 0xFFFFFFFF
        data[index].inheritable = (inheritable >> shift) & 0xFFFFFFFF
    call("capset", header, ctypes.byref(data))


def capget() -> tuple[int, int, int]:
    """(effective, permitted, inheritable) of this thread, as bit masks."""
    header = _CapHeader(_CAP_VERSION_3, 0)
    data = (_CapData * 2)()
    call("capget", header, ctypes.byref(data))
    return (
        data[0].effective | data[1].effective << 32,
        data[0].permitted | data[1].permitted << 32,
        data[0].inheritable | data[1].inheritable << 32,
    )


@contextlib.contextmanager
def making_files_as(uid: int, gid: int) -> Iterator[None]:
    """What the calling thread makes meanwhile belongs to these ids; it keeps its rights.

    Errors: OSError.
    """
    effective, permitted, inheritable = capget()
    dumpable, on_death = prctl(PR_GET_DUMPABLE), ctypes.c_int()
    call("prctl", PR_GET_PDEATHSIG, ctypes.byref(on_death), 0, 0, 0)
    try:
        call("setfsgid", gid)
        call("setfsuid", uid)
        # some go when it is not root who makes files
        capset(effective, permitted, inheritable)
        yield
    finally:
        call("setfsuid", os.geteuid())
        call("setfsgid", os.getegid())
        capset(effective, permitted, inheritable)
        # lost with every change of ids (prctl(2))
        prctl(PR_SET_DUMPABLE, 1 if dumpable == 1 else 0)
        prctl(PR_SET_PDEATHSIG, on_death.value)


def last_capability() -> int:
    """Number of the newest capability that the kernel knows."""
    try:
        with open("/proc/sys/kernel/cap_last_cap") as file:
            return int(file.read())
    except OSError:
        return len(CAPABILITIES) - 1


def known_capabilities() -> tuple[str, ...]:
    """Names of the capabilities that this kernel has and this process may give away (its bounding set)."""
    last = min(last_capability(), len(CAPABILITIES) - 1)
    return tuple(CAPABILITIES[number] for number in range(last + 1) if prctl(PR_CAPBSET_READ, number) == 1)


def personality(persona: int) -> int:
    return call("personality", persona)


def ioprio_set(value: int) -> None:
    call("ioprio_set", 1, 0, value)


class _SchedAttr(ctypes.Structure):
    """``struct sched_attr`` of sched_setattr(2), its first version."""

    _fields_ = (
        ("size", ctypes.c_uint32),
        ("policy", ctypes.c_uint32),
        ("flags", ctypes.c_uint64),
        ("nice", ctypes.c_int32),
        ("priority", ctypes.c_uint32),
        ("runtime", ctypes.c_uint64),
        ("deadline", ctypes.c_uint64),
        ("period", ctypes.c_uint64),
    )


def sched_setattr(policy: int, flags: int, nice: int, priority: int, runtime: int, deadline: int, period: int) -> None:
    """The calling thread's scheduling; times in nanoseconds."""
    attributes = _SchedAttr(ctypes.sizeof(_SchedAttr), policy, flags, nice, priority, runtime, deadline, period)
    call("sched_setattr", 0, attributes, 0)


def set_mempolicy(mode: int, nodes: list[int]) -> None:
    """The calling thread's NUMA policy for new memory."""
    words = (ctypes.c_ulong * 64)()
    for node in nodes:
        words[node // 64] |= 1 << node % 64
    # the kernel reads one bit less than it is told (set_mempolicy(2), "Bugs")
    call("set_mempolicy", mode, ctypes.byref(words) if nodes else None, 4097 if nodes else 0)


def sealed_memfd(name: str, content: bytes) -> int:
    """A descriptor of an anonymous file that nobody can change any more (memfd_create(2))."""
    descriptor = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.write(descriptor, content)
    os.lseek(descriptor, 0, os.SEEK_SET)
    seals = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
    return descriptor
