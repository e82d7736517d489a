"""A further program in a running container.

Its process is cloned beside the container's first one, or the caller's own fork becomes it: ``fork_inside`` and then
``become`` save the second of two forks and all that it would have to copy.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, NoReturn

from corten.cgroup.hierarchy import Hierarchies
from corten.cgroup.manager import Cgroup
from corten.errors import SystemFailure
from corten.linux import process as kernel
from corten.runtime import (
    groups,
    joining,
    namespaces,
    program,
    resctrl,
    scheduling,
    seccomp,
    seccomp_listener,
    spec_check,
    terminal,
    users,
)
from corten.runtime.child import check_preserved, close_others, freeze_imports, reset_signals
from corten.runtime.handshake import Channel, Message, shortened
from corten.runtime.hostproc import HostProc
from corten.runtime.privileges import Confinement
from corten.runtime.seccomp_listener import SeccompListener


class ExecProcess(NamedTuple):
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
    share: resctrl.Group | None = None,
) -> ExecProcess:
    """Run ``process`` in the namespaces and the cgroup of a running container; returns when it has been executed.

    init_pid: the container's first process, as the caller sees it
    state:    of the container (runtime-spec runtime.md, "State"), for the listener of its seccomp filter
    share:    the container's class of cache and memory bandwidth
    Errors: CommandNotFound, CommandNotExecutable, InvalidParameter, SystemFailure.
    """
    try:
        target = kernel.pidfd_open(init_pid)
    except ProcessLookupError:
        raise SystemFailure("the container is not running", step="exec") from None
    differing = namespaces.differing(init_pid)
    try:
        with _requested(
            spec,
            process,
            target,
            differing,
            stdio=stdio,
            seccomp_cache=seccomp_cache,
            keep=keep_fds,
            state=state,
            share=share,
        ) as request:
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
        os.close(target)


def can_be_born_inside(init_pid: int) -> bool:
    """Whether ``fork_inside`` is a way into the container: not on version 2, where one is born into a group as well."""
    if Hierarchies.here().is_v2 or not joining.may_return():
        return False
    return not namespaces.is_ours(f"/proc/{init_pid}/ns/pid", "pid")


def fork_inside(init_pid: int, child: Callable[[int], NoReturn]) -> int:
    """Fork into the pid namespace of a container's first process, and nothing else of the container: the child's pid.

    child: is given a pidfd of that first process, whose number means somebody else where it is
    Errors: SystemFailure when the container has gone.
    """
    try:
        target = kernel.pidfd_open(init_pid)
        try:
            with joining.born_in(target):
                pid = os.fork()
                if pid == 0:
                    child(target)
        finally:
            os.close(target)
    except OSError as error:
        raise SystemFailure("the container is not running", step="exec", errno=error.errno or 0) from error
    return pid


def become(
    target: int,
    differing: int,
    spec: dict[str, Any],
    process: dict[str, Any],
    *,
    channel: Channel,
    cgroup: Cgroup,
    stdio: tuple[int, int, int] | None,
    seccomp_cache: str,
    state: dict[str, Any],
) -> NoReturn:
    """``exec_process`` in the caller itself, which ``fork_inside`` has made: says READY on the channel, or an error.

    target:    a pidfd of the container's first process
    differing: CLONE_NEW flags of the namespaces to enter
    """
    with _requested(
        spec, process, target, differing, stdio=stdio, seccomp_cache=seccomp_cache, keep=0, state=state
    ) as request:
        _Exec(request, channel, cgroup, lambda: kernel.setns(target, differing)).run()


@contextlib.contextmanager
def _requested(
    spec: dict[str, Any],
    process: dict[str, Any],
    target: int,
    differing: int,
    *,
    stdio: tuple[int, int, int] | None,
    seccomp_cache: str,
    keep: int,
    state: dict[str, Any] | None,
    share: resctrl.Group | None = None,
) -> Iterator[_ExecRequest]:
    process = with_inherited(process, spec.get("process") or {})
    spec_check.check_process(process)
    check_preserved(keep)
    linux = spec.get("linux") or {}
    profile = linux.get("seccomp")
    program = seccomp.compiled(profile, seccomp_cache) if profile else b""
    proc = HostProc()
    listener = None
    try:
        if profile and seccomp_listener.is_wanted(profile):
            listener = SeccompListener(profile, state or {"ociVersion": spec["ociVersion"]})
        yield _ExecRequest(process, linux, stdio, program, keep, proc, target, differing, listener, share)
    finally:
        proc.close()
        if listener is not None:
            listener.close()


def with_inherited(process: dict[str, Any], first: dict[str, Any]) -> dict[str, Any]:
    """What an exec does not say for itself is as with the container's first process."""
    names = ("capabilities", "rlimits", "noNewPrivileges", "apparmorProfile", "selinuxLabel")
    return {**{name: first[name] for name in names if first.get(name) is not None}, **process}


class _ExecRequest(NamedTuple):
    """
    target:    a pidfd of the container's first process
    differing: CLONE_NEW flags of the namespaces to enter
    listener:  who gets the seccomp filter
    share:     the class of cache and memory bandwidth to join
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
    share: resctrl.Group | None


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


def _clone_beside(request: _ExecRequest, cgroup_fd: int, child: joining.Child) -> tuple[int, int]:
    """A process that enters the namespaces of the container's first one: (pid, pidfd) of our own child."""
    in_pid_namespace = bool(request.differing & kernel.CLONE_NEWPID)
    others = request.differing & ~kernel.CLONE_NEWPID
    if in_pid_namespace and not joining.may_return():
        target = [(request.target, kernel.CLONE_NEWPID)]
        return joining.clone_by_helper(0, cgroup_fd, child, target, lambda: kernel.setns(request.target, others))
    return joining.clone_directly(
        0, cgroup_fd, child, request.target if in_pid_namespace else -1, [(request.target, others)]
    )


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

    def run(self) -> NoReturn:
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
        if request.share is not None:
            request.share.join()
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
