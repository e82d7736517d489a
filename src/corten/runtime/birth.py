"""Bringing a container's first process into the world: the parent's side of the handshake until init is ready.

What the two say to each other is drawn in ``handshake.py``.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable
from typing import Any, NamedTuple

from corten.errors import SystemFailure
from corten.linux import process as kernel
from corten.runtime import groups, hooks, idmap, joining, namespaces, resctrl, seccomp, sources, terminal
from corten.runtime.handshake import Channel, Message
from corten.runtime.init import Init
from corten.runtime.init_request import InitRequest
from corten.runtime.newborn import Newborn


class Born(NamedTuple):
    """An init that is ready.

    console_fd: the pty's master, -1 without a terminal
    channel:    to it
    is_told:    whether it has been told to start
    warnings:   what the host could not give
    times:      (step, ns) of its steps, when they were asked for
    """

    pid: int
    pidfd: int
    console_fd: int
    channel: Channel
    is_told: bool
    warnings: list[str]
    times: list[tuple[str, int]]


class Birth:
    def __init__(
        self,
        request: InitRequest,
        channel: Channel,
        *,
        sibling: bool,
        newborn: Newborn | None,
        at_once: bool,
        meanwhile: Callable[[int], None],
        share: resctrl.Group | None,
    ) -> None:
        """Parameters as those of ``lifecycle.create``.

        channel: the other end of the request's
        share:   the class of cache and memory bandwidth
        """
        self._request = request
        self._channel = channel
        self._sibling = sibling
        self._newborn = newborn
        self._at_once = at_once
        self._meanwhile = meanwhile
        self._share = share
        self._joined = request.joined_paths
        self._linux: dict[str, Any] = request.spec.get("linux") or {}
        self._is_told = False
        self._warnings: list[str] = []

    def run(self) -> Born:
        """Errors: those that init reports, InvalidParameter, SystemFailure; init has ended then."""
        pid, pidfd = self._bear()
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
        return Born(
            pid,
            pidfd,
            descriptors[0] if descriptors else -1,
            self._channel,
            self._is_told,
            [*self._request.cgroup.warnings, *self._warnings, *document["warnings"]],
            [(name, duration) for name, duration in document["times"]],
        )

    def _bear(self) -> tuple[int, int]:
        """The newborn where it suits, or else a clone: (pid, pidfd)."""
        request = self._request
        # with a user namespace the child may neither open the host's paths nor enter the group by itself
        self._request = request = request._replace(join_cgroup=not request.in_user_namespace)
        if request.in_user_namespace and (profile := self._linux.get("seccomp")):
            seccomp.compiled(profile, request.seccomp_cache)  # the child finds it in the memory that it inherits
        if request.in_user_namespace and request.stdio is not None:
            terminal.give_to_namespace(request.stdio, idmap.host_root(self._linux))
        try:
            if "mount" in request.new:
                self._request = request = request._replace(taken=self._take_sources())
            pid, pidfd = self._call_newborn()
            return (pid, pidfd) if pid else self._clone()
        finally:
            request.taken.close()

    def _clone(self) -> tuple[int, int]:
        request = self._request
        into = request.cgroup.open_fd() if request.join_cgroup else -1
        self._request = request._replace(join_cgroup=request.join_cgroup and into < 0)
        try:
            flags = self._clone_flags()
            return joining.clone(flags, self._joined, into, self._become_init, sibling=self._sibling)
        finally:
            if into >= 0:
                os.close(into)

    def _clone_flags(self) -> int:
        flags = 0
        for kind in self._request.new:
            # of the cgroup namespace the child must be in its group first; the time namespace may need its clocks set
            if kind != "cgroup" and not (kind == "time" and self._request.clock_offsets):
                flags |= namespaces.FLAGS[kind]
        return flags

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
