"""Cloning a process into namespaces that exist already, and exec into a running container.

A process cannot enter some namespaces and stay what it is, so a short-lived helper enters them and clones the real child
with CLONE_PARENT: it is the caller's own child, with no link to the helper.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from corten.cgroup.manager import Cgroup
from corten.errors import InvalidParameter, SystemFailure
from corten.linux import process as kernel
from corten.runtime import privileges, seccomp, spec_check, terminal, users
from corten.runtime.handshake import Channel, Message
from corten.runtime.init import enter_directory, execute, freeze_imports, reset_signals

_KINDS = {
    "user": ("user", kernel.CLONE_NEWUSER),
    "ipc": ("ipc", kernel.CLONE_NEWIPC),
    "uts": ("uts", kernel.CLONE_NEWUTS),
    "network": ("net", kernel.CLONE_NEWNET),
    "pid": ("pid", kernel.CLONE_NEWPID),
    "cgroup": ("cgroup", kernel.CLONE_NEWCGROUP),
    "time": ("time", kernel.CLONE_NEWTIME),
    "mount": ("mnt", kernel.CLONE_NEWNS),
}


def clone(
    flags: int, joined: dict[str, str], cgroup_fd: int, child: Callable[[], None], *, sibling: bool = False
) -> tuple[int, int]:
    """Start ``child`` in new namespaces (flags) and existing ones (type -> path): (pid, pidfd) of our own child.

    sibling: a child of our parent instead, unless a namespace is joined
    Errors: InvalidParameter for a namespace file that is none, OSError.
    """
    if not joined:
        if sibling:
            pid, pidfd = kernel.clone3(flags | kernel.CLONE_PARENT, cgroup_fd=cgroup_fd, exit_signal=0)
        else:
            pid, pidfd = kernel.clone3(flags, cgroup_fd=cgroup_fd)
        if pid == 0:
            _run(child)
        return pid, pidfd
    descriptors = _open_namespaces(joined)
    try:
        return _clone_by_helper(flags, cgroup_fd, child, lambda: _enter(descriptors))
    finally:
        for descriptor, _ in descriptors:
            os.close(descriptor)


def _run(child: Callable[[], None]) -> None:
    try:
        child()
    finally:
        os._exit(1)


def _open_namespaces(joined: dict[str, str]) -> list[tuple[int, int]]:
    """(descriptor, kind), the user namespace last: entering it gives up what the others need."""
    opened = []
    for kind in ("ipc", "uts", "network", "pid", "cgroup", "time", "mount", "user"):
        if kind in joined:
            try:
                opened.append((os.open(joined[kind], os.O_RDONLY | os.O_CLOEXEC), _KINDS[kind][1]))
            except OSError as error:
                for descriptor, _ in opened:
                    os.close(descriptor)
                raise InvalidParameter(f"cannot join {kind} namespace {joined[kind]}: {(error.strerror or '').lower()}") from error
    return opened


def _enter(descriptors: list[tuple[int, int]]) -> None:
    for descriptor, kind in descriptors:
        kernel.setns(descriptor, kind)


def _clone_by_helper(flags: int, cgroup_fd: int, child: Callable[[], None], enter: Callable[[], None]) -> tuple[int, int]:
    ours, theirs = Channel.pair()
    helper = os.fork()
    if helper == 0:
        step = "join namespaces"
        try:
            ours.close()
            kernel.prctl(kernel.PR_SET_DUMPABLE, 0)
            enter()
            step = "clone"
            pid, pidfd = kernel.clone3(flags | kernel.CLONE_PARENT, cgroup_fd=cgroup_fd, exit_signal=0)
            if pid == 0:
                theirs.close()
                _run(child)
            theirs.send(Message.PID, (pidfd,), pid=pid)
        except BaseException as error:
            with contextlib.suppress(OSError):
                theirs.send_error(error, step)
        finally:
            os._exit(0)
    theirs.close()
    try:
        document, descriptors = ours.expect(Message.PID)
    finally:
        ours.close()
        os.waitpid(helper, 0)
    return document["pid"], descriptors[0]


@dataclass(slots=True)
class ExecProcess:
    """A further program in a container; the caller owns the descriptors."""

    pid: int
    pidfd: int
    console_fd: int
    warnings: list[str]


def exec_process(
    init_pid: int,
    spec: dict[str, Any],
    process: dict[str, Any],
    *,
    cgroup: Cgroup,
    stdio: tuple[int, int, int] | None,
    seccomp_cache: str = "",
    keep_fds: int = 0,
) -> ExecProcess:
    """Run ``process`` in the namespaces and the cgroup of a running container.

    Errors: CommandNotFound, CommandNotExecutable, InvalidParameter, SystemFailure.
    """
    spec_check.check_process(process)
    profile = (spec.get("linux") or {}).get("seccomp")
    program = seccomp.compiled(profile, seccomp_cache) if profile else b""
    try:
        target = kernel.pidfd_open(init_pid)
    except ProcessLookupError:
        raise SystemFailure("the container is not running", step="exec") from None
    ours, theirs = Channel.pair()
    into = cgroup.open_fd()

    def enter() -> None:
        if into < 0:
            cgroup.join_self()
        kernel.setns(target, _differing_namespaces(init_pid))

    def child() -> None:
        ours.close()
        _Exec(spec, process, theirs, stdio, program, keep_fds).run()

    try:
        try:
            pid, pidfd = _clone_by_helper(0, into, child, enter)
        finally:
            theirs.close()
            os.close(target)
            if into >= 0:
                os.close(into)
        try:
            document, descriptors = ours.expect(Message.READY)
            console = descriptors[0] if descriptors else -1
            try:
                ours.receive()
            except BaseException:
                if console >= 0:
                    os.close(console)
                raise
        except BaseException:
            with contextlib.suppress(OSError):
                kernel.pidfd_send_signal(pidfd, 9)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)
            os.close(pidfd)
            raise
    finally:
        ours.close()
    return ExecProcess(pid, pidfd, console, list(document.get("warnings") or ()))


def _differing_namespaces(pid: int) -> int:
    """The kinds in which the process is elsewhere: entering the user namespace one is in already is an error (setns(2))."""
    kinds = 0
    for name, flag in _KINDS.values():
        with contextlib.suppress(OSError):
            if os.stat(f"/proc/{pid}/ns/{name}").st_ino != os.stat(f"/proc/self/ns/{name}").st_ino:
                kinds |= flag
    return kinds


class _Exec:
    """The child's side of an exec; already inside the container's namespaces."""

    def __init__(
        self,
        spec: dict[str, Any],
        process: dict[str, Any],
        channel: Channel,
        stdio: tuple[int, int, int] | None,
        program: bytes,
        keep: int,
    ) -> None:
        self._spec = spec
        self._process = process
        self._channel = channel
        self._stdio = stdio
        self._program = program
        self._keep = keep

    def run(self) -> None:
        step = "exec"
        try:
            freeze_imports()
            reset_signals()
            os.setsid()
            root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            step = "limits"
            warnings = self._limits()
            step = "user"
            identity = self._identity(root)
            step = "standard streams"
            console = self._streams(root, identity)
            self._channel.send(Message.READY, (console,) if console >= 0 else (), warnings=warnings)
            step = "privileges"
            kernel.close_range(3 + self._keep, cloexec=True)
            privileges.confine(
                self._process,
                (self._spec.get("linux") or {}).get("seccomp"),
                self._program,
                identity,
                may_set_groups=self._may_set_groups(),
                enter=self._enter,
            )
            step = "exec"
            execute(self._process, identity)
        except BaseException as error:
            with contextlib.suppress(OSError):
                self._channel.send_error(error, step)
        os._exit(1)

    def _limits(self) -> list[str]:
        score = self._process.get("oomScoreAdj")
        warnings = []
        if score is not None:
            try:
                with open("/proc/self/oom_score_adj", "w") as file:
                    file.write(str(score))
            except OSError:
                warnings.append(f"oomScoreAdj {score} cannot be set")
        limits = self._process.get("rlimits")
        if limits is None:
            limits = (self._spec.get("process") or {}).get("rlimits")
        return warnings + privileges.set_rlimits(limits or [])

    def _identity(self, root: int) -> users.Identity:
        user = self._process.get("user") or {}
        name, groups = user.get("username"), user.get("additionalGroups") or []
        if name is not None or groups:
            return users.resolve(root, name or str(user.get("uid", 0)), groups)
        uid, gid = user.get("uid", 0), user.get("gid", 0)
        return users.Identity(uid, gid, tuple(dict.fromkeys([gid, *(user.get("additionalGids") or [])])), "")

    def _streams(self, root: int, identity: users.Identity) -> int:
        if self._process.get("terminal"):
            master, slave = terminal.open_pty(root)
            size = self._process.get("consoleSize")
            if size:
                terminal.set_size(master, size["height"], size["width"])
            os.fchown(slave, identity.uid, -1)
            terminal.take_over(slave)
            os.close(slave)
            return master
        if self._stdio is not None:
            for number, descriptor in enumerate(self._stdio):
                os.dup2(descriptor, number, inheritable=True)
        return -1

    @staticmethod
    def _may_set_groups() -> bool:
        try:
            with open("/proc/self/setgroups") as file:
                return file.read().strip() == "allow"
        except OSError:
            return True

    def _enter(self) -> None:
        enter_directory(self._process.get("cwd") or "/")
        umask = (self._process.get("user") or {}).get("umask")
        os.umask(0o022 if umask is None else umask)
