"""Create, start and exec: the parent's side of the handshake.

``create`` leaves an init that waits; ``InitProcess.start`` lets it become the program.  ``exec_process`` runs a further
program in a running container.
"""

from __future__ import annotations

import contextlib
import os
import signal
from dataclasses import dataclass, field
from typing import Any

from corten.cgroup.manager import Cgroup
from corten.errors import InvalidParameter, SystemFailure
from corten.linux import process as kernel
from corten.runtime import hooks, idmap, joining, spec_check
from corten.runtime.handshake import Channel, Message
from corten.runtime.init import Init, InitRequest

_FLAGS = {
    "mount": kernel.CLONE_NEWNS,
    "pid": kernel.CLONE_NEWPID,
    "uts": kernel.CLONE_NEWUTS,
    "ipc": kernel.CLONE_NEWIPC,
    "network": kernel.CLONE_NEWNET,
    "user": kernel.CLONE_NEWUSER,
    "time": kernel.CLONE_NEWTIME,
}


@dataclass(slots=True)
class InitProcess:
    """A container's first process.

    console_fd: the pty's master, -1 without a terminal; the caller owns it
    warnings:   what the host could not give
    """

    pid: int
    pidfd: int
    console_fd: int
    cgroup: Cgroup
    spec: dict[str, Any]
    state: dict[str, Any]
    channel: Channel | None
    warnings: list[str] = field(default_factory=list)

    def start(self) -> None:
        """Let init execute the program.

        Errors: CommandNotFound, CommandNotExecutable, InvalidParameter, SystemFailure; init has ended then.
        """
        if self.channel is None:
            raise SystemFailure("this container has been started before", step="start")
        channel, self.channel = self.channel, None
        try:
            channel.send(Message.START)
            document, _ = channel.receive()
            if document is not None:
                raise SystemFailure(f"container init said {document['message']} instead of running the program", step="start")
        except BrokenPipeError:
            raise SystemFailure("container init ended before it was started", step="start") from None
        finally:
            channel.close()
        hooks.run(self.spec.get("hooks") or {}, "poststart", {**self.state, "status": "running", "pid": self.pid})

    def abandon(self) -> None:
        """Kill an init that is not wanted and take its cgroup away."""
        with contextlib.suppress(OSError):
            kernel.pidfd_send_signal(self.pidfd, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, 0)
        if self.channel is not None:
            self.channel.close()
            self.channel = None
        for descriptor in (self.pidfd, self.console_fd):
            if descriptor >= 0:
                os.close(descriptor)
        self.cgroup.delete()


# what every container may do whatever its rules say, as with runc: make nodes, and use the default devices
_ALWAYS_ALLOWED: list[dict[str, Any]] = [
    {"allow": True, "type": kind, "major": major, "minor": minor, "access": access}
    for kind, major, minor, access in (
        ("c", -1, -1, "m"),
        ("b", -1, -1, "m"),
        ("c", 1, 3, "rwm"),  # null
        ("c", 1, 5, "rwm"),  # zero
        ("c", 1, 7, "rwm"),  # full
        ("c", 1, 8, "rwm"),  # random
        ("c", 1, 9, "rwm"),  # urandom
        ("c", 5, 0, "rwm"),  # tty
        ("c", 5, 2, "rwm"),  # ptmx
        ("c", 136, -1, "rwm"),  # pts
        ("c", 10, 200, "rwm"),  # net/tun
    )
]


def _with_default_devices(resources: dict[str, Any]) -> dict[str, Any]:
    rules = resources.get("devices")
    return resources if rules is None else {**resources, "devices": [*rules, *_ALWAYS_ALLOWED]}


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
) -> InitProcess:
    """Make the container; its init waits for ``start``.  Nothing is left of it when this raises.

    gate: an open FIFO that starts the program instead of ``InitProcess.start`` (``corten-oci``)
    die_with_parent: kill the program when its parent ends
    sibling: its parent is the caller's own parent, so that the caller may end; where a namespace is joined it is the caller's
             child all the same, and ``die_with_parent`` has no effect
    Errors: InvalidParameter (config.json cannot be honoured), SystemFailure(step, errno).
    """
    spec_check.check(spec)
    if not spec.get("process"):
        raise InvalidParameter("config.json: process is missing")
    linux = spec.get("linux") or {}
    path = linux.get("cgroupsPath") or default_cgroup_path(container_id)
    cgroup = Cgroup.create(path, _with_default_devices(linux.get("resources") or {}))
    state = {
        "ociVersion": spec["ociVersion"],
        "id": container_id,
        "status": "creating",
        "bundle": bundle,
        "annotations": spec.get("annotations") or {},
    }
    try:
        return _create(spec, cgroup, state, stdio=stdio, seccomp_cache=seccomp_cache, keep_fds=keep_fds, gate=gate, die_with_parent=die_with_parent, sibling=sibling)
    except BaseException:
        cgroup.kill()
        cgroup.delete()
        raise


def _create(
    spec: dict[str, Any],
    cgroup: Cgroup,
    state: dict[str, Any],
    *,
    stdio: tuple[int, int, int] | None,
    seccomp_cache: str,
    keep_fds: int,
    gate: int,
    die_with_parent: bool,
    sibling: bool,
) -> InitProcess:
    linux = spec.get("linux") or {}
    entries = linux.get("namespaces") or []
    joined = {entry["type"]: entry["path"] for entry in entries if entry.get("path")}
    new = frozenset(entry["type"] for entry in entries if not entry.get("path"))
    ours, theirs = Channel.pair()
    into = cgroup.open_fd() if "user" not in new else -1
    request = InitRequest(
        spec=spec,
        container_id=state["id"],
        bundle=state["bundle"],
        cgroup=cgroup,
        new=new,
        stdio=stdio,
        channel=theirs,
        seccomp_cache=seccomp_cache,
        keep=keep_fds,
        gate=gate,
        die_with_parent=die_with_parent and not (sibling and joined),
        join_cgroup=into < 0 and "user" not in new,
        state={**state, "status": "created"},
    )
    flags = sum(_FLAGS[kind] for kind in new if kind in _FLAGS and not (kind == "time" and linux.get("timeOffsets")))
    try:
        pid, pidfd = joining.clone(flags, joined, into, lambda: _become_init(request, ours), sibling=sibling)
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
        if into >= 0:
            os.close(into)
    try:
        console, warnings = _accompany(spec, cgroup, state, ours, pid, maps="user" in new)
    except BaseException:
        with contextlib.suppress(OSError):
            kernel.pidfd_send_signal(pidfd, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0)
        os.close(pidfd)
        ours.close()
        raise
    return InitProcess(pid, pidfd, console, cgroup, spec, {**state, "pid": pid}, ours, cgroup.warnings + warnings)


def _become_init(request: InitRequest, parents_end: Channel) -> None:
    parents_end.close()
    Init(request).run()


def _accompany(
    spec: dict[str, Any], cgroup: Cgroup, state: dict[str, Any], channel: Channel, pid: int, *, maps: bool
) -> tuple[int, list[str]]:
    """Answer init until it is ready: (pty master or -1, warnings)."""
    if maps:
        channel.expect(Message.NEED_MAPS)
        idmap.write_maps(pid, *idmap.from_spec(spec.get("linux") or {}))
        cgroup.apply(pid)
        channel.send(Message.MAPPED)
    document, descriptors = channel.expect(Message.READY)
    entries = spec.get("hooks") or {}
    for name in ("prestart", "createRuntime"):
        hooks.run(entries, name, {**state, "status": "created", "pid": pid})
    return (descriptors[0] if descriptors else -1), list(document.get("warnings") or ())
