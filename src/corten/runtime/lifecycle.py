"""Create and start: the parent's side of the handshake.

``create`` leaves an init that waits; ``InitProcess.start`` lets it become the program.  A further program in a running
container is ``execution.exec_process``.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

from corten.cgroup.manager import Cgroup
from corten.errors import Conflict, InvalidParameter
from corten.linux import process as kernel
from corten.runtime import groups, hooks, joining, resctrl, seccomp_listener, sources, spec_check
from corten.runtime.birth import Birth, Born
from corten.runtime.child import check_preserved
from corten.runtime.handshake import Channel, run_to_exec
from corten.runtime.hostproc import HostProc
from corten.runtime.init_request import InitRequest
from corten.runtime.newborn import Newborn
from corten.runtime.seccomp_listener import SeccompListener


class InitProcess:
    """A container's first process.

    console_fd: the pty's master, -1 without a terminal; the caller owns it
    warnings:   what the host could not give
    times:      (step, ns) of init's steps, when they were asked for
    share:      its class of cache and memory bandwidth, None without
    """

    def __init__(self, born: Born, request: InitRequest, share: resctrl.Group | None) -> None:
        self.pid = born.pid
        self.pidfd = born.pidfd
        self.console_fd = born.console_fd
        self.warnings = born.warnings
        self.times = born.times
        self.cgroup = request.cgroup
        self.spec = request.spec
        self.share = share
        self._state = {**request.state, "pid": born.pid}
        self._channel: Channel | None = born.channel
        self._is_told = born.is_told

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
    share = None
    try:
        share = resctrl.make(linux.get("intelRdt"), container_id)
        with _requested(spec, container_id, bundle, cgroup) as (request, channel):
            request = request._replace(
                stdio=stdio,
                seccomp_cache=seccomp_cache,
                keep=keep_fds,
                gate=gate,
                die_with_parent=die_with_parent and not (sibling and joining.needs_helper(request.joined, request.new)),
                new_keyring=new_keyring,
                timed=timed,
            )
            birth = Birth(
                request, channel, sibling=sibling, newborn=newborn, at_once=at_once, meanwhile=meanwhile, share=share
            )
            born = birth.run()
    except BaseException:
        groups.discard(cgroup)
        if share is not None:
            share.remove()
        raise
    groups.settle(cgroup)
    return InitProcess(born, request, share)


@contextlib.contextmanager
def _requested(
    spec: dict[str, Any], container_id: str, bundle: str, cgroup: Cgroup
) -> Iterator[tuple[InitRequest, Channel]]:
    """What init is told and our end of the channel to it, which stays open unless the block raises."""
    linux = spec.get("linux") or {}
    state = {
        "ociVersion": spec["ociVersion"],
        "id": container_id,
        "status": "creating",
        "bundle": bundle,
        "annotations": spec.get("annotations") or {},
    }
    entries = linux.get("namespaces") or ()
    profile = linux.get("seccomp") or {}
    proc = HostProc()
    listener = None
    try:
        listener = SeccompListener(profile, state) if seccomp_listener.is_wanted(profile) else None
        ours, theirs = Channel.pair()
        try:
            request = InitRequest(
                spec=spec,
                container_id=container_id,
                bundle=bundle,
                cgroup=cgroup,
                new=frozenset(entry["type"] for entry in entries if not entry.get("path")),
                joined=frozenset(entry["type"] for entry in entries if entry.get("path")),
                proc=proc,
                taken=sources.Sources(),
                stdio=None,
                channel=theirs,
                state=state,
                listener=listener,
            )
            yield request, ours
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
    finally:
        proc.close()
        if listener is not None:
            listener.close()
