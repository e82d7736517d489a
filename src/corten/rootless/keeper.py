"""The namespaces of a user's daemon, and the process that keeps them.

::

    cortend (outside)      keeper                              the daemon
      │ fork ────────────────▶ new user namespace                   │
      │ id maps ─────────────▶ root there: mounts, network          │
      │                         │ asleep, as long as anyone needs it│
      │ fork ───────────────────────────────────────────────────────▶ enters all of them by the keeper's pidfd

Containers run on without a daemon, and the next daemon enters the same namespaces: those of the keeper, or when
someone has killed it those of any shim, which are the same.  Which they are is noted by their numbers in
``namespaces.json``, so that a process id that was used again is never taken for ours.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
from dataclasses import dataclass
from pathlib import Path

from corten.errors import CortenError, SystemFailure
from corten.linux import mount as mounting
from corten.linux import process as kernel
from corten.linux import user_namespace
from corten.linux.subids import IdMaps
from corten.rootless import delegation
from corten.runtime import idmap, namespaces

NOTE = "namespaces.json"
# kind -> its file in /proc/<pid>/ns
_KINDS = {"user": "user", "mount": "mnt", "network": "net", "cgroup": "cgroup"}
_FLAGS = sum(namespaces.FLAGS[kind] for kind in _KINDS)


@dataclass(frozen=True, slots=True)
class Keeper:
    """A process in the namespaces; it is the one that keeps them when ``is_original``.

    pidfd: of this process; closed by ``close``
    maps:  the ids there, as they were when the namespaces were made
    group: the control group that is their root, "" when none is delegated
    """

    pid: int
    pidfd: int
    maps: IdMaps
    group: str
    is_original: bool

    def enter(self) -> None:
        """Move the calling, single-threaded process into the namespaces, where it is root.  Errors: SystemFailure."""
        try:
            kernel.setns(self.pidfd, _FLAGS)
        except OSError as error:
            raise SystemFailure(
                f"cannot enter the user namespace of process {self.pid}: {error}",
                step="rootless",
                errno=error.errno or 0,
            ) from error
        os.chdir("/")
        user_namespace.forget()
        # entering one makes a process private even from itself; whose it is has not changed
        kernel.prctl(kernel.PR_SET_DUMPABLE, 1)

    def end(self) -> None:
        """Nobody needs the namespaces any more."""
        with contextlib.suppress(ProcessLookupError):
            kernel.pidfd_send_signal(self.pidfd, signal.SIGKILL)
        if self.is_original:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(self.pid, 0)

    def close(self) -> None:
        os.close(self.pidfd)


@dataclass(frozen=True, slots=True)
class _Noted:
    """What is known of the namespaces: who made them, and their numbers by kind."""

    keeper: int
    numbers: dict[str, int]
    maps: IdMaps
    group: str

    @classmethod
    def read(cls, directory: Path) -> _Noted | None:
        try:
            note = json.loads((directory / NOTE).read_text())
            numbers = {kind: int(note["namespaces"][kind]) for kind in _KINDS}
            maps = IdMaps(note["uids"], note["gids"], note["lacking"])
            return cls(int(note["pid"]), numbers, maps, str(note["group"]))
        except (OSError, ValueError, TypeError, KeyError):
            return None


def find(directory: Path) -> Keeper | None:
    """The namespaces of the daemon before, when anything still runs there.

    directory: the exec root
    """
    noted = _Noted.read(directory)
    if noted is None:
        return None
    for pid in (noted.keeper, *_shims(directory)):
        pidfd = _member(pid, noted.numbers)
        if pidfd >= 0:
            return Keeper(pid, pidfd, noted.maps, noted.group, pid == noted.keeper)
    return None


def is_needed(directory: Path) -> bool:
    """Whether a container runs in the namespaces."""
    noted = _Noted.read(directory)
    if noted is None:
        return False
    for pid in _shims(directory):
        pidfd = _member(pid, noted.numbers)
        if pidfd >= 0:
            os.close(pidfd)
            return True
    return False


def _shims(directory: Path) -> list[int]:
    found = []
    for file in directory.glob("*/shim.pid"):
        with contextlib.suppress(OSError, ValueError):
            found.append(int(file.read_text()))
    return found


def _member(pid: int, numbers: dict[str, int]) -> int:
    """A pidfd of a process that is in these namespaces; -1 when it is not, or not any more."""
    try:
        pidfd = kernel.pidfd_open(pid)
    except OSError:
        return -1
    with contextlib.suppress(OSError):
        same = all(os.stat(f"/proc/{pid}/ns/{name}").st_ino == numbers[kind] for kind, name in _KINDS.items())
        # it was alive until now: what has been read was its own
        if same and not select.select([pidfd], [], [], 0)[0]:
            return pidfd
    os.close(pidfd)
    return -1


def create(directory: Path, maps: IdMaps, group: str) -> Keeper:
    """Make the namespaces.

    group: a control group that is delegated to the user and in which this process is, "" without
    Errors: SystemFailure when this machine does not let the user have any.
    """
    ours, theirs = os.pipe2(os.O_CLOEXEC), os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        os.close(ours[0])
        os.close(theirs[1])
        _keep(ours[1], theirs[0], group)
    os.close(ours[1])
    os.close(theirs[0])
    try:
        pidfd = kernel.pidfd_open(pid)
        _expect(ours[0])
        idmap.write_maps(pid, maps.uids, maps.gids)
        os.write(theirs[1], b"1")
        _expect(ours[0])
        _note(directory, pid, maps, group)
    except BaseException:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise
    finally:
        os.close(ours[0])
        os.close(theirs[1])
    return Keeper(pid, pidfd, maps, group, is_original=True)


def _note(directory: Path, pid: int, maps: IdMaps, group: str) -> None:
    numbers = {kind: os.stat(f"/proc/{pid}/ns/{name}").st_ino for kind, name in _KINDS.items()}
    note = {
        "pid": pid,
        "namespaces": numbers,
        "uids": maps.uids,
        "gids": maps.gids,
        "lacking": maps.lacking,
        "group": group,
    }
    temporary = directory / f".{NOTE}"
    temporary.write_text(json.dumps(note))
    temporary.replace(directory / NOTE)


def _expect(descriptor: int) -> None:
    """Wait for "1"; anything else is what went wrong."""
    answer = os.read(descriptor, 4096)
    if answer != b"1":
        text = answer.decode(errors="replace") or "the process that makes them has ended"
        raise SystemFailure(f"cannot make the namespaces of a daemon without root: {text}", step="rootless")


# -- the process itself -----------------------------------------------------------------------------------------------


def _keep(telling: int, told: int, group: str) -> None:
    """The child's whole life."""
    try:
        os.setsid()
        kernel.set_name("corten-keeper")
        try:
            _make(telling, told, group)
        except (OSError, CortenError) as error:
            os.write(telling, str(error).encode()[:4000])
            return
        _let_go()
        signal.pthread_sigmask(signal.SIG_SETMASK, set(signal.Signals) - {signal.SIGTERM, signal.SIGKILL})
        while True:
            signal.pause()
    finally:
        os._exit(1)


def _make(telling: int, told: int, group: str) -> None:
    try:
        kernel.unshare(kernel.CLONE_NEWUSER)
    except OSError as error:
        raise SystemFailure(f"{_why_no_user_namespace(error)}", step="rootless", errno=error.errno or 0) from error
    os.write(telling, b"1")
    os.read(told, 1)
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    kernel.unshare(_FLAGS & ~kernel.CLONE_NEWUSER)
    # what the host mounts later is seen here too, and nothing of ours there
    mounting.mount("", "/", "", mounting.MS_REC | mounting.MS_SLAVE)
    namespaces.loopback_up()
    if group:
        delegation.settle(group)
    os.write(telling, b"1")


def _let_go() -> None:
    """Hold nothing of the daemon's: neither its log nor a socket nor its directory."""
    os.chdir("/")
    null = os.open("/dev/null", os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    kernel.close_range(3)


def _why_no_user_namespace(error: OSError) -> str:
    text = f"user namespaces are not available to this user ({(error.strerror or '').lower()})"
    for path, value, what in (
        ("/proc/sys/user/max_user_namespaces", "0", "user.max_user_namespaces is 0"),
        ("/proc/sys/kernel/unprivileged_userns_clone", "0", "kernel.unprivileged_userns_clone is 0"),
        (
            "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
            "1",
            "kernel.apparmor_restrict_unprivileged_userns is 1",
        ),
    ):
        with contextlib.suppress(OSError):
            if Path(path).read_text().strip() == value:
                text += f": {what}"
    return text
