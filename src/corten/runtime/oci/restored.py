"""What came out of a checkpoint must be no less confined than config.json asks for.

criu gives each process the capabilities, filter, namespaces and mounts that its images name.  Images may come from
another machine, or from a container that was allowed more: before the processes run on they are looked at.

Sources: criu(8), "--leave-stopped"; proc_pid_status(5).
"""

from __future__ import annotations

import contextlib
import os
import signal
import stat
from collections.abc import Iterable, Iterator
from typing import Any

from corten.errors import InvalidParameter
from corten.linux import mounts, paths
from corten.linux import process as kernel
from corten.runtime import namespaces

_OWN = ("tmpfs", "devpts", "mqueue")  # hold nothing but what was put there
_GROUPS = ("cgroup", "cgroup2")
_SETS = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")


def check(pids: Iterable[int], spec: dict[str, Any], root: str, sources: Iterable[str]) -> None:
    """Of stopped processes.

    root:    the container's root file system on the host
    sources: what config.json binds into it
    Errors:  InvalidParameter for what config.json would not have given.
    """
    process, linux = spec.get("process") or {}, spec.get("linux") or {}
    given = set().union(*(process.get("capabilities") or {}).values())
    allowed = sum(1 << number for number, name in enumerate(kernel.CAPABILITIES) if name in given)
    identities = {_identity(path) for path in (root, *sources)}
    # a process' threads may have been allowed different things: each is looked at, under /proc/<its number>
    threads = _threads(pids)
    for pid in threads:
        status = _status(pid)
        for name in _SETS:
            if int(status[name], 16) & ~allowed:
                raise _refused(pid, f"has capabilities ({name} {status[name]})")
        if linux.get("seccomp") and status["Seccomp"].strip() != "2":
            raise _refused(pid, "runs without the system call filter")
        if process.get("noNewPrivileges") and status["NoNewPrivs"].strip() != "1":
            raise _refused(pid, "may gain new privileges")
        _check_label(pid, process)
        _check_namespaces(pid, linux)
    for pid in _viewers(threads, root):
        _check_mounts(pid, root, identities)
        _check_walls(pid, linux)
        if "CAP_SYS_ADMIN" not in given:  # with it a container mounts what it likes
            _check_views(pid, spec, root)


def _threads(pids: Iterable[int]) -> list[int]:
    return [int(name) for pid in pids for name in os.listdir(f"/proc/{pid}/task")]


def go_on(pids: Iterable[int]) -> None:
    """Let them run."""
    for pid in pids:
        os.kill(pid, signal.SIGCONT)


def _refused(pid: int, what: str) -> InvalidParameter:
    return InvalidParameter(f"the checkpoint is not restored: {_named(pid)} {what} that config.json does not give")


def _named(thread: int) -> str:
    process = int(_status(thread)["Tgid"])
    return f"process {thread}" if thread == process else f"thread {thread} of process {process}"


def _status(pid: int) -> dict[str, str]:
    with open(f"/proc/{pid}/status", errors="replace") as file:
        return dict(line.split(":", 1) for line in file.read().splitlines() if ":" in line)


def _check_label(pid: int, process: dict[str, Any]) -> None:
    wanted = process.get("selinuxLabel") or process.get("apparmorProfile") or ""
    if not wanted or wanted == "unconfined":
        return
    with open(f"/proc/{pid}/attr/current", errors="replace") as file:
        label = file.read().strip("\0\n")
    if label.partition(" ")[0] != wanted:
        raise _refused(pid, f"has the label '{label}'")


def _check_namespaces(pid: int, linux: dict[str, Any]) -> None:
    for entry in linux.get("namespaces") or ():
        kind, path = entry["type"], entry.get("path") or ""
        file = f"/proc/{pid}/ns/{namespaces.FILES[kind]}"
        if path and not os.path.samestat(os.stat(path), os.stat(file)):
            raise _refused(pid, f"is in a {kind} namespace")
        if not path and namespaces.is_ours(file, kind):
            raise _refused(pid, f"is in the host's {kind} namespace")


def _check_mounts(pid: int, root: str, identities: set[tuple[int, int]]) -> None:
    """Every file system with a device of its own is the root's, or of a bind that config.json has."""
    top = os.stat(root).st_dev
    entries = mounts.read(str(pid))
    own = next(entry for entry in entries if entry.target == "/")
    for entry in entries:
        device = os.makedev(*map(int, entry.device.split(":")))
        if os.major(device) == 0 and device != top:
            continue
        below = entry.device == own.device and f"{entry.root.rstrip('/')}/".startswith(f"{own.root.rstrip('/')}/")
        if not below and _identity(f"/proc/{pid}/root{entry.target}") not in identities:
            raise _refused(pid, f"has a mount at {entry.target}")


def _viewers(threads: list[int], root: str) -> list[int]:
    """One of each mount namespace that has the container's root: who has another sees not all that is mounted.

    Errors: InvalidParameter for a mount namespace in which nobody has it.
    """
    top = _identity(root)
    views = {pid: _identity(f"/proc/{pid}/ns/mnt") for pid in threads}
    found = {views[pid]: pid for pid in threads if _identity(f"/proc/{pid}/root") == top}
    for pid, view in views.items():
        if view not in found:
            raise _refused(pid, "has a root")
    return list(found.values())


def _check_walls(pid: int, linux: dict[str, Any]) -> None:
    """What is masked or read-only by config.json is so."""
    for path in linux.get("readonlyPaths") or ():
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            if not os.statvfs(f"/proc/{pid}/root{path}").f_flag & os.ST_RDONLY:
                raise _refused(pid, f"may write to {path}")
    for path in linux.get("maskedPaths") or ():
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            if not _is_masked(f"/proc/{pid}/root{path}"):
                raise _refused(pid, f"sees {path}")


def _check_views(pid: int, spec: dict[str, Any], root: str) -> None:
    """File systems that show the machine are where config.json has them, and what it has read-only is so."""
    linux, listed = spec.get("linux") or {}, spec.get("mounts") or ()
    walls = {*(linux.get("readonlyPaths") or ()), *(linux.get("maskedPaths") or ())}
    top = os.stat(root).st_dev
    for entry in mounts.read(str(pid)):
        is_own = entry.kind in _OWN or os.makedev(*map(int, entry.device.split(":"))) == top
        if not is_own and entry.target not in walls and not any(_brings(mount, entry, pid) for mount in listed):
            raise _refused(pid, f"has a mount of type {entry.kind} at {entry.target}")
    for mount in listed:
        if {"ro", "rro"} & set(mount.get("options") or ()):
            with contextlib.suppress(FileNotFoundError), _seen(pid, mount["destination"]) as opened:
                if not os.fstatvfs(opened).f_flag & os.ST_RDONLY:
                    raise _refused(pid, f"may write to {mount['destination']}")


def _brings(mount: dict[str, Any], entry: mounts.MountEntry, pid: int) -> bool:
    """Whether an entry of config.json's ``mounts`` explains one of the table."""
    place, kind = paths.clean(mount["destination"]), mount.get("type") or ""
    below = entry.target == place or entry.target.startswith(f"{place.rstrip('/')}/")
    if kind in _GROUPS:
        return below and entry.kind in _GROUPS
    if kind == entry.kind:
        return entry.target == place
    try:
        source = f"{mount['source']}{entry.target[len(place) :]}"
        return below and _identity(source) == _identity(f"/proc/{pid}/root{entry.target}")
    except (KeyError, OSError):
        return False


@contextlib.contextmanager
def _seen(pid: int, path: str) -> Iterator[int]:
    """What a path leads to in the container."""
    root = os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        opened = paths.open_in_root(root, path, os.O_PATH)
    finally:
        os.close(root)
    try:
        yield opened
    finally:
        os.close(opened)


def _is_masked(path: str) -> bool:
    """By the null device, or an empty directory that nobody can fill."""
    found = os.stat(path)
    if stat.S_ISDIR(found.st_mode):
        return bool(os.statvfs(path).f_flag & os.ST_RDONLY) and not os.listdir(path)
    return stat.S_ISCHR(found.st_mode) and found.st_rdev == os.makedev(1, 3)


def _identity(path: str) -> tuple[int, int]:
    found = os.stat(path)
    return found.st_dev, found.st_ino
