"""Create and start: the parent's side of the handshake.

``create`` leaves an init that waits; ``InitProcess.start`` lets it become the program.  A further program in a running
container is ``execution.exec_process``.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable
from typing import Any

from corten.errors import Conflict, InvalidParameter, SystemFailure
from corten.linux import process as kernel
from corten.runtime import (
    groups,
    hooks,
    idmap,
    joining,
    namespaces,
    resctrl,
    seccomp_listener,
    sources,
    spec_check,
    terminal,
)
from corten.runtime.handshake import Channel, Message, run_to_exec
from corten.runtime.hostproc import HostProc
from corten.runtime.init import Init, InitRequest, check_preserved
from corten.runtime.newborn import Newborn
from corten.runtime.seccomp_listener import SeccompListener


class InitProcess:
    """A container's first process."""

    def __init__(
        self,
        pid: int,
        pidfd: int,
        console_fd: int,
        request: InitRequest,
        channel: Channel,
        *,
        warnings: list[str],
        times: list[tuple[str, int]],
        is_told: bool,
        share: resctrl.Group | None,
    ) -> None:
        """
        console_fd: the pty's master, -1 without a terminal; the caller owns it
        warnings:   what the host could not give
        times:      (step, ns) of init's steps, when they were asked for
        is_told:    whether it has been told to start
        share:      its class of cache and memory bandwidth, None without
        """
        self.pid = pid
        self.pidfd = pidfd
        self.console_fd = console_fd
        self.cgroup = request.cgroup
        self.spec = request.spec
        self.warnings = warnings
        self.times = times
        self.share = share
        self._state = {**request.state, "pid": pid}
        self._channel: Channel | None = channel
        self._is_told = is_told

    def start(self) -> None:
        """Let init execute the program.

        Errors: CommandNotFound, CommandNotExecutable, InvalidParameter, SystemFailure; init has ended then.
        """
        if self._channel is None:
            raise Conflict("cannot start a container that has been started before")
        channel, self._channel = self._channel, None
        try:
            run_to_exec(channel, is_told=self._is_told)
        finally:
            channel.close()
        try:
            hooks.run(self.spec.get("hooks") or {}, "poststart", {**self._state, "status": "running"})
        except BaseException:
            # runtime.md, "Lifecycle": the container is stopped when one of them fails
            with contextlib.suppress(OSError):
                kernel.pidfd_send_signal(self.pidfd, signal.SIGKILL)
            raise

    def abandon(self) -> None:
        """Kill an init that is not wanted and take its cgroup away."""
        with contextlib.suppress(OSError):
            kernel.pidfd_send_signal(self.pidfd, signal.SIGKILL)
        self.cgroup.kill()
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, 0)
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        for descriptor in (self.pidfd, self.console_fd):
            if descriptor >= 0:
                os.close(descriptor)
        self.cgroup.delete()
        if self.share is not None:
            self.share.remove()


def default_cgroup_path(container_id: str) -> str:
    return f"/corten/{container_id}"


def create(
    spec: dict[str, Any],
    *,
    container_id: str,
    bundle: str,
    stdio: tuple[int, int, int] | None = None,
    seccomp_cache: str = "",
    keep_fds: int = 0,
    gate: int = -1,
    die_with_parent: bool = False,
    sibling: bool = False,
    new_keyring: bool = True,
    timed: bool = False,
    newborn: Newborn | None = None,
    at_once: bool = False,
    meanwhile: Callable[[int], None] = lambda pid: None,
) -> InitProcess:
    """Make the container; its init waits for ``start``.  Nothing is left of it when this raises.

    spec:     the runtime specification's config.json, with Corten's extensions (docs/architecture.md)
    bundle:   directory that relative paths of the specification are relative to
    stdio:    descriptors for 0, 1, 2; None for a terminal or to keep the caller's
    keep_fds: how many descriptors from 3 on the program inherits
    gate:     a listening SOCK_SEQPACKET socket whose first client starts the program (``run_to_exec``) instead of
              ``InitProcess.start``
    die_with_parent: kill the program when its parent ends
    sibling:  its parent is the caller's own parent, so that the caller may end; where namespaces are joined and there
              is a user namespace it is the caller's child all the same, and ``die_with_parent`` has no effect
    new_keyring: leave the caller's session keyring behind
    timed:    measure init's steps
    newborn:  becomes init when it suits; ``sibling`` only
    at_once:  ``start`` follows in any case: the program need not wait for it once ``meanwhile`` has returned
    meanwhile: called with init's pid, beside its work; what it raises ends the attempt
    Errors:   CommandNotFound, CommandNotExecutable, InvalidParameter (config.json cannot be honoured), Conflict (the
              cgroup is in use), SystemFailure(step, errno).
    """
    spec_check.check(spec)
    if not spec.get("process"):
        raise InvalidParameter("config.json: process is missing")
    check_preserved(keep_fds)
    if spec.get("hooks"):
        hooks.load()
    linux = spec.get("linux") or {}
    cgroup = groups.make(linux.get("cgroupsPath") or default_cgroup_path(container_id), linux.get("resources") or {})
    state = {
        "ociVersion": spec["ociVersion"],
        "id": container_id,
        "status": "creating",
        "bundle": bundle,
        "annotations": spec.get("annotations") or {},
    }
    entries = linux.get("namespaces") or []
    joined = {entry["type"]: entry["path"] for entry in entries if entry.get("path")}
    share = None
    try:
        share = resctrl.make(linux.get("intelRdt"), container_id)
        proc = HostProc()
        profile = linux.get("seccomp") or {}
        listener = SeccompListener(profile, state) if seccomp_listener.is_wanted(profile) else None
        ours, theirs = Channel.pair()
        request = InitRequest(
            spec=spec,
            container_id=container_id,
            bundle=bundle,
            cgroup=cgroup,
            new=frozenset(entry["type"] for entry in entries if not entry.get("path")),
            joined=frozenset(joined),
            proc=proc,
            taken=sources.Sources(),
            stdio=stdio,
            channel=theirs,
            seccomp_cache=seccomp_cache,
            keep=keep_fds,
            gate=gate,
            die_with_parent=die_with_parent,
            new_keyring=new_keyring,
            listener=listener,
            timed=timed,
            state=state,
        )
        if sibling and joining.needs_helper(joined, request.new):
            request = request._replace(die_with_parent=False)
        try:
            birth = _Birth(
                request,
                joined,
                ours,
                sibling=sibling,
                newborn=newborn,
                at_once=at_once,
                meanwhile=meanwhile,
                share=share,
            )
            born = birth.run()
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
            proc.close()
            if listener is not None:
                listener.close()
    except BaseException:
        groups.discard(cgroup)
        if share is not None:
            share.remove()
        raise
    groups.settle(cgroup)
    return born


class _Birth:
    """The parent's side until init is ready."""

    def __init__(
        self,
        request: InitRequest,
        joined: dict[str, str],
        channel: Channel,
        *,
        sibling: bool,
        newborn: Newborn | None,
        at_once: bool,
        meanwhile: Callable[[int], None],
        share: resctrl.Group | None,
    ) -> None:
        self._share = share
        self._newborn = newborn
        self._at_once = at_once
        self._is_told = False
        self._meanwhile = meanwhile
        self._request = request
        self._joined = joined
        self._channel = channel
        self._sibling = sibling
        self._linux: dict[str, Any] = request.spec.get("linux") or {}
        self._warnings: list[str] = []

    def run(self) -> InitProcess:
        request = self._request
        # with a user namespace the child may neither open the host's paths nor enter the group by itself
        into = -1 if request.in_user_namespace else request.cgroup.open_fd()
        self._request = request = request._replace(join_cgroup=into < 0 and not request.in_user_namespace)
        flags = 0
        for kind in request.new:
            # of the cgroup namespace the child must be in its group first; the time namespace may need its clocks set
            if kind != "cgroup" and not (kind == "time" and request.clock_offsets):
                flags |= namespaces.FLAGS[kind]
        if request.in_user_namespace and request.stdio is not None:
            terminal.give_to_namespace(request.stdio, idmap.host_root(self._linux))
        try:
            if "mount" in request.new:
                self._request = request = request._replace(taken=self._take_sources())
            pid, pidfd = self._call_newborn() if into < 0 else (0, -1)
            if not pid:
                pid, pidfd = joining.clone(flags, self._joined, into, self._become_init, sibling=self._sibling)
        finally:
            if into >= 0:
                os.close(into)
            request.taken.close()
        try:
            document, descriptors = self._accompany(pid)
        except BaseException:
            with contextlib.suppress(OSError):
                kernel.pidfd_send_signal(pidfd, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)
            os.close(pidfd)
            raise
        if self._newborn is not None:
            self._newborn.touched = [(address, length) for address, length in document["touched"]]
        return InitProcess(
            pid,
            pidfd,
            descriptors[0] if descriptors else -1,
            request,
            self._channel,
            warnings=[*request.cgroup.warnings, *self._warnings, *document["warnings"]],
            times=[(name, duration) for name, duration in document["times"]],
            is_told=self._is_told,
            share=self._share,
        )

    def _call_newborn(self) -> tuple[int, int]:
        """Its (pid, pidfd); (0, -1) when there is none that suits."""
        newborn = self._newborn
        if newborn is None:
            return 0, -1
        if not newborn.suits(self._request):
            newborn.dismiss()
            return 0, -1
        joined = namespaces.open_joined(self._joined)
        try:
            newborn.become(self._request, joined)
        finally:
            for descriptor, _ in joined:
                os.close(descriptor)
        self._channel.close()
        self._channel = newborn.channel
        return newborn.pid, newborn.pidfd

    def _become_init(self, enter: Callable[[], None]) -> None:
        self._channel.close()
        Init(self._request, enter).run()

    def _take_sources(self) -> sources.Sources:
        with idmap.namespace_of(self._linux, self._joined.get("user", "")) as open_namespace:
            return sources.take(self._request.spec, self._request.bundle, open_namespace)

    def _accompany(self, pid: int) -> tuple[dict[str, Any], list[int]]:
        """Do the host's part until init is ready; its message and descriptors."""
        self._set_oom_score(pid)
        if self._share is not None:
            with contextlib.suppress(ProcessLookupError):  # init that has ended already says why
                self._share.join(pid)
        if not self._request.needs_parent:
            self._meanwhile(pid)
            self._tell_at_once()
        answers: dict[str, Callable[[], Message]] = {
            Message.ARRIVED: lambda: self._prepare(pid),
            Message.MOUNTED: lambda: self._run_hooks(pid),
        }
        while True:
            document, descriptors = self._channel.receive()
            if document is None:
                raise SystemFailure("container init ended before it was ready", step="handshake")
            message = document["message"]
            if message == Message.READY:
                if self._request.needs_parent:
                    self._meanwhile(pid)
                return document, descriptors
            if message not in answers:
                raise SystemFailure(f"container init said {message} instead of {Message.READY}", step="handshake")
            self._channel.send(answers.pop(message)())

    def _tell_at_once(self) -> None:
        """START lies ready when init gets there, unless hooks have to be waited for."""
        entries = self._request.spec.get("hooks") or {}
        if self._at_once and not any(entries.get(name) for name in hooks.OF_THE_RUNTIME):
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                # one that has ended says why
                self._channel.send(Message.START)
                self._is_told = True

    def _set_oom_score(self, pid: int) -> None:
        try:
            warning = groups.set_oom_score(self._request.proc, str(pid), self._request.spec["process"])
        except (FileNotFoundError, ProcessLookupError):
            return  # init has ended already, and says why on the channel
        if warning:
            self._warnings.append(warning)

    def _prepare(self, pid: int) -> Message:
        request = self._request
        if "user" in request.new:
            idmap.write_maps(pid, *idmap.from_spec(self._linux))
        if request.clock_offsets:
            try:
                request.proc.write(f"{pid}/timens_offsets", namespaces.clock_offsets(request.clock_offsets))
            except OSError as error:
                text = f"cannot set linux.timeOffsets: {(error.strerror or '').lower()}"
                raise SystemFailure(text, step="time namespace", errno=error.errno or 0) from error
        if request.in_user_namespace:
            request.cgroup.apply(pid)
        return Message.PREPARED

    def _run_hooks(self, pid: int) -> Message:
        for name in hooks.OF_THE_RUNTIME:
            hooks.run(self._request.spec.get("hooks") or {}, name, {**self._request.state, "pid": pid})
        return Message.HOOKED
