"""Cloning a process into namespaces that exist already, and exec into a running container.

A new process can enter most namespaces by itself.  Two kinds want more: into a pid namespace a process can only be
born, so the caller directs its next child there for a moment; and a user namespace has to be entered before the new
ones are made that it is to own, so a short-lived helper enters it and clones the real child with CLONE_PARENT: it is
the caller's own child, with no link to the helper.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any

from corten.cgroup.manager import Cgroup
from corten.errors import SystemFailure
from corten.linux import process as kernel
from corten.linux import user_namespace
from corten.runtime import (
    groups,
    namespaces,
    program,
    scheduling,
    seccomp,
    seccomp_listener,
    spec_check,
    terminal,
    users,
)
from corten.runtime.handshake import Channel, Message, shortened
from corten.runtime.hostproc import HostProc
from corten.runtime.init import check_preserved, close_others, freeze_imports, reset_signals
from corten.runtime.privileges import Confinement
from corten.runtime.seccomp_listener import SeccompListener


def needs_helper(joined: Collection[str], new: Collection[str]) -> bool:
    """Whether the child has to be cloned by a helper: then it cannot be a sibling of the caller."""
    return ("pid" in joined and not may_return()) or (bool(joined) and ("user" in joined or "user" in new))


def may_return() -> bool:
    """Whether who has directed its children to another pid namespace may direct them home again (setns(2)).

    Home belongs to the machine's root: in a user namespace the way leads on, never back.
    """
    return user_namespace.is_initial()


# what a cloned child runs; it is given a function that enters the namespaces which it has to enter by itself
Child = Callable[[Callable[[], None]], None]


def clone(
    flags: int, joined: dict[str, str], cgroup_fd: int, child: Child, *, sibling: bool = False
) -> tuple[int, int]:
    """Start ``child`` in new namespaces (flags) and existing ones (type -> path): (pid, pidfd) of our own child.

    sibling: a child of our parent instead, unless a helper is needed
    Errors: InvalidParameter for a namespace file that is none, OSError.
    """
    descriptors = namespaces.open_joined(joined)
    try:
        if needs_helper(joined, ("user",) if flags & kernel.CLONE_NEWUSER else ()):
            return _clone_by_helper(flags, cgroup_fd, child, descriptors, lambda: None)
        pid_namespace = next((descriptor for descriptor, kind in descriptors if kind == kernel.CLONE_NEWPID), -1)
        others = [(descriptor, kind) for descriptor, kind in descriptors if kind != kernel.CLONE_NEWPID]
        return _clone_directly(flags, cgroup_fd, child, pid_namespace, others, sibling=sibling)
    finally:
        for descriptor, _ in descriptors:
            os.close(descriptor)


def _clone_directly(
    flags: int,
    cgroup_fd: int,
    child: Child,
    pid_namespace: int,
    others: list[tuple[int, int]],
    *,
    sibling: bool = False,
) -> tuple[int, int]:
    """
    pid_namespace: descriptor of a pid namespace, or of a process in it; -1 for the caller's or a new one
    others:        (descriptor, kinds) that the child enters by itself
    """

    def enter() -> None:
        for descriptor, kinds in others:
            kernel.setns(descriptor, kinds)

    exit_signal = 0 if sibling else signal.SIGCHLD
    if sibling:
        flags |= kernel.CLONE_PARENT
    with _born_in(pid_namespace):
        pid, pidfd = kernel.clone3(flags, cgroup_fd=cgroup_fd, exit_signal=exit_signal)
        if pid == 0:
            _run(child, enter)
    return pid, pidfd


@contextlib.contextmanager
def _born_in(pid_namespace: int) -> Iterator[None]:
    """Children are born in that namespace, and out of reach of what is there (CVE-2016-9962), while the block runs."""
    if pid_namespace < 0:
        yield
        return
    dumpable = kernel.prctl(kernel.PR_GET_DUMPABLE)
    home = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    try:
        kernel.prctl(kernel.PR_SET_DUMPABLE, 0)
        kernel.setns(pid_namespace, kernel.CLONE_NEWPID)
        try:
            yield
        finally:
            kernel.setns(home, kernel.CLONE_NEWPID)
    finally:
        os.close(home)
        if dumpable == 1:
            kernel.prctl(kernel.PR_SET_DUMPABLE, 1)


def _run(child: Child, enter: Callable[[], None]) -> None:
    try:
        child(enter)
    finally:
        os._exit(1)


def _clone_by_helper(
    flags: int, cgroup_fd: int, child: Child, descriptors: list[tuple[int, int]], enter: Callable[[], None]
) -> tuple[int, int]:
    """
    descriptors: (descriptor, kinds) that the helper enters
    enter:       for the child
    """
    ours, theirs = Channel.pair()
    helper = os.fork()
    if helper == 0:
        step = "join namespaces"
        try:
            ours.close()
            kernel.prctl(kernel.PR_SET_DUMPABLE, 0)
            for descriptor, kind in descriptors:
                kernel.setns(descriptor, kind)
            step = "clone"
            pid, pidfd = kernel.clone3(flags | kernel.CLONE_PARENT, cgroup_fd=cgroup_fd, exit_signal=0)
            if pid == 0:
                theirs.close()
                _run(child, enter)
            theirs.send(Message.PID, (pidfd,), pid=pid)
        except BaseException as error:
            with contextlib.suppress(OSError):
                theirs.send_error(error, step)
        finally:
            os._exit(0)
    theirs.close()
    try:
        document, received = ours.expect(Message.PID)
    finally:
        ours.close()
        os.waitpid(helper, 0)
    return document["pid"], received[0]


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
    state: dict[str, Any] | None = None,
) -> ExecProcess:
    """Run ``process`` in the namespaces and the cgroup of a running container; returns when it has been executed.

    init_pid: the container's first process, as the caller sees it
    state:    of the container (runtime-spec runtime.md, "State"), for the listener of its seccomp filter
    Errors: CommandNotFound, CommandNotExecutable, InvalidParameter, SystemFailure.
    """
    process = with_inherited(process, spec.get("process") or {})
    spec_check.check_process(process)
    check_preserved(keep_fds)
    linux = spec.get("linux") or {}
    profile = linux.get("seccomp")
    program = seccomp.compiled(profile, seccomp_cache) if profile else b""
    try:
        target = kernel.pidfd_open(init_pid)
    except ProcessLookupError:
        raise SystemFailure("the container is not running", step="exec") from None
    try:
        proc = HostProc()
        listener = None
        try:
            if profile and seccomp_listener.is_wanted(profile):
                listener = SeccompListener(profile, state or {"ociVersion": spec["ociVersion"]})
            request = _ExecRequest(
                process, linux, stdio, program, keep_fds, proc, target, namespaces.differing(init_pid), listener
            )
            try:
                return _exec(request, cgroup)
            except ProcessLookupError:
                raise SystemFailure("the container is not running", step="exec") from None
            except OSError as error:
                # version 2: a group with groups below it takes no process; then where the container's init is
                if error.errno != errno.EBUSY or not cgroup.hierarchies.is_v2:
                    raise
                return _exec(request, _group_of(init_pid, cgroup))
        finally:
            proc.close()
            if listener is not None:
                listener.close()
    finally:
        os.close(target)


def with_inherited(process: dict[str, Any], first: dict[str, Any]) -> dict[str, Any]:
    """What an exec does not say for itself is as with the container's first process."""
    names = ("capabilities", "rlimits", "noNewPrivileges", "apparmorProfile", "selinuxLabel")
    return {**{name: first[name] for name in names if first.get(name) is not None}, **process}


@dataclass(slots=True)
class _ExecRequest:
    """
    target:    a pidfd of the container's first process
    differing: CLONE_NEW flags of the namespaces to enter
    listener:  who gets the seccomp filter
    """

    process: dict[str, Any]
    linux: dict[str, Any]
    stdio: tuple[int, int, int] | None
    bpf: bytes
    keep: int
    proc: HostProc
    target: int
    differing: int
    listener: SeccompListener | None


def _exec(request: _ExecRequest, cgroup: Cgroup) -> ExecProcess:
    ours, theirs = Channel.pair()
    into = cgroup.open_fd()

    def child(enter: Callable[[], None]) -> None:
        ours.close()
        _Exec(request, theirs, cgroup if into < 0 else None, enter).run()

    try:
        try:
            pid, pidfd = _clone_beside(request, into, child)
        finally:
            theirs.close()
            if into >= 0:
                os.close(into)
        try:
            console, warnings = _accompany(ours)
        except BaseException:
            with contextlib.suppress(OSError):
                kernel.pidfd_send_signal(pidfd, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)
            os.close(pidfd)
            raise
    finally:
        ours.close()
    return ExecProcess(pid, pidfd, console, warnings)


def _clone_beside(request: _ExecRequest, cgroup_fd: int, child: Child) -> tuple[int, int]:
    """A process that enters the namespaces of the container's first one: (pid, pidfd) of our own child."""
    in_pid_namespace = bool(request.differing & kernel.CLONE_NEWPID)
    others = request.differing & ~kernel.CLONE_NEWPID
    if in_pid_namespace and not may_return():
        target = [(request.target, kernel.CLONE_NEWPID)]
        return _clone_by_helper(0, cgroup_fd, child, target, lambda: kernel.setns(request.target, others))
    return _clone_directly(0, cgroup_fd, child, request.target if in_pid_namespace else -1, [(request.target, others)])


def _accompany(channel: Channel) -> tuple[int, list[str]]:
    """Wait until the program runs: (pty master or -1, warnings)."""
    document, descriptors = channel.expect(Message.READY)
    console = descriptors[0] if descriptors else -1
    try:
        channel.receive()
    except BaseException:
        if console >= 0:
            os.close(console)
        raise
    return console, list(document.get("warnings") or ())


def _group_of(pid: int, like: Cgroup) -> Cgroup:
    """The version 2 group of a process."""
    with open(f"/proc/{pid}/cgroup") as file:
        path = next((line[3:].rstrip("\n") for line in file if line.startswith("0::")), "")
    return Cgroup(path, like.hierarchies)


class _Exec:
    """The child's side of an exec; born in the container's pid namespace, and else still outside."""

    def __init__(self, request: _ExecRequest, channel: Channel, join: Cgroup | None, enter: Callable[[], None]) -> None:
        self._enter_namespaces = enter
        self._request = request
        self._process = request.process
        self._channel = channel
        self._join = join
        self._warnings: list[str] = []

    def run(self) -> None:
        """Never returns."""
        step = "exec"
        try:
            kernel.prctl(kernel.PR_SET_DUMPABLE, 0)
            freeze_imports()
            reset_signals()
            os.setsid()
            step = "join container"
            self._enter()
            root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            step = "user"
            identity = users.of_process(root, self._process)
            step = "standard streams"
            console = self._streams(root, identity)
            step = "privileges"
            cwd = self._process.get("cwd") or "/"
            confinement = Confinement(
                self._process,
                self._request.linux,
                self._request.bpf,
                identity,
                lambda: program.enter_directory(cwd),
                in_user_namespace=bool(self._request.differing & kernel.CLONE_NEWUSER),
                listener=self._request.listener,
            )
            self._warnings += confinement.prepare(self._request.proc)
            self._channel.send(Message.READY, (console,) if console >= 0 else (), warnings=shortened(self._warnings))
            # nothing of the host's may be within reach from here on (CVE-2024-21626)
            listener = self._request.listener
            needed = (self._channel.fileno(), listener.fileno() if listener is not None else -1)
            close_others(3 + self._request.keep, needed)
            confinement.apply()
            step = "exec"
            environment = program.environment_of(self._process, identity.home)
            path = program.find(self._process["args"][0], environment)
            confinement.seal()
            program.execute(path, self._process["args"], environment)
        except BaseException as error:
            with contextlib.suppress(OSError):
                self._channel.send_error(error, step)
        os._exit(1)

    def _enter(self) -> None:
        request = self._request
        warning = groups.set_oom_score(request.proc, "self", self._process)
        if warning:
            self._warnings.append(warning)
        scheduling.set_affinity(self._process, "initial")
        if self._join is not None:
            self._join.join_self()
        scheduling.set_affinity(self._process, "final")
        self._enter_namespaces()
        namespaces.leave_keys("")
        if request.differing & kernel.CLONE_NEWUSER:
            namespaces.become_root()

    def _streams(self, root: int, identity: users.Identity) -> int:
        if self._process.get("terminal"):
            master, slave = terminal.open_pty(root)
            terminal.set_size_of(self._process, master)
            os.fchown(slave, identity.uid, -1)
            terminal.take_over(slave)
            return master
        if self._request.stdio is not None:
            for number, descriptor in enumerate(self._request.stdio):
                os.dup2(descriptor, number, inheritable=True)
            terminal.hand_over(identity.uid)
        return -1
