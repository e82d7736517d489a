"""An init that is cloned before anybody knows for which container: what a clone costs is then no part of a start.

It waits in new namespaces of the kinds that hold nothing of the host's.  A mount namespace is none of them: a copy of
the host's mounts would keep file systems busy that somebody wants to unmount; init makes it when it is called.

It moves to its control group itself.  On version 1 that takes 0.1 ms: "tasks" takes a single thread without a lock.  On
version 2 it waits until no fork or exit of the whole machine is under way, 15 ms as measured, which is more than is
saved: there init is born into its group, by ``joining.clone``, unless cgroup2 is mounted with ``favordynmods``.  Nor
can a newborn's group be there before its container: version 2 renames none.  Source: cgroup-v2.rst.

What it is told first is where the spec is; it does what the spec alone is needed for while its parent mounts the root
and makes the control group.  Then it is told to become the container's init.
"""

from __future__ import annotations

import _signal
import contextlib
import json
import os
import select
from collections.abc import Collection
from typing import Any

from corten.cgroup.hierarchy import Hierarchies
from corten.cgroup.manager import Cgroup
from corten.linux import pages
from corten.linux import process as kernel
from corten.linux.mount import MOUNT_ATTR_RDONLY
from corten.runtime import mounts, namespaces, seccomp, sources
from corten.runtime.child import begin_session, close_others
from corten.runtime.handshake import MOST_DESCRIPTORS, Channel, Message
from corten.runtime.hostproc import HostProc
from corten.runtime.init import Init
from corten.runtime.init_request import Ahead, InitRequest
from corten.runtime.mount_options import parse

KINDS = frozenset({"pid", "uts", "ipc", "network", "time"})


def is_worthwhile() -> bool:
    """Whether a process of this host is moved to a control group in less time than is saved."""
    hierarchies = Hierarchies.here()
    return hierarchies.dynamic or not hierarchies.is_v2


class Newborn:
    """The parent's side.

    pid, pidfd: of a child of the caller's own parent
    channel:    to it; the handshake of a start goes on there
    touched:    the memory that it has written to, when it was observed and has become init
    """

    def __init__(self, kinds: frozenset[str], pid: int, pidfd: int, channel: Channel) -> None:
        self.kinds = kinds
        self.pid = pid
        self.pidfd = pidfd
        self.channel = channel
        self.touched: list[pages.Range] = []
        self._is_told = False

    @classmethod
    def bear(cls, kinds: Collection[str], memory: list[pages.Range], *, observed: bool) -> Newborn | None:
        """None where no init can or should be made ahead.

        kinds:    the namespaces of the container; those of ``KINDS`` are made, none if there is a user namespace
        memory:   that it will write to
        observed: have it tell what it has written to
        """
        wanted = KINDS & set(kinds)
        if "pid" not in wanted or "user" in kinds or not is_worthwhile():
            return None
        flags = kernel.CLONE_PARENT
        for kind in wanted:
            flags |= namespaces.FLAGS[kind]
        ours, theirs = Channel.pair()
        try:
            pid, pidfd = kernel.clone3(flags, exit_signal=0)
        except OSError:
            ours.close()
            theirs.close()
            return None
        if pid == 0:
            _live(theirs, wanted, memory, observed=observed)
        theirs.close()
        return cls(wanted, pid, pidfd, ours)

    def tell(self, spec_fd: int, seccomp_cache: str) -> None:
        """Where the spec is, a file with ``{"spec": …}``, and compiled profiles."""
        self._is_told = self._send(Message.SPEC, (spec_fd,), seccomp_cache=seccomp_cache)

    def suits(self, request: InitRequest) -> bool:
        """Whether it can become this container's init."""
        return (
            self._is_told
            and request.new & KINDS == self.kinds
            and "mount" in request.new
            and not request.joined & {"pid", "user", "mount"}
            and not request.needs_parent
            and not request.keep
            and not request.timed
            and request.gate < 0
            and request.listener is None
            and 4 + len(request.taken.binds) + len(request.joined) <= MOST_DESCRIPTORS
            and not select.select([self.pidfd], [], [], 0)[0]
        )

    def become(self, request: InitRequest, joined: list[tuple[int, int]]) -> None:
        """Have it go on; from here on it says what any init says.

        joined: (descriptor, CLONE_NEW flag) of the namespaces to enter
        """
        binds = sorted(request.taken.binds)
        descriptors = [request.taken.root, *(request.taken.binds[index] for index in binds)]
        self._send(
            Message.BECOME,
            (*descriptors, *(descriptor for descriptor, _ in joined), *(request.stdio or ())),
            binds=binds,
            enter=[flag for _, flag in joined],
            stdio=request.stdio is not None,
            container_id=request.container_id,
            bundle=request.bundle,
            cgroup=request.cgroup.path,
            new=sorted(request.new),
            joined=sorted(request.joined),
            join_cgroup=request.join_cgroup,
            die_with_parent=request.die_with_parent,
            new_keyring=request.new_keyring,
            # without what may be long and is in the spec
            state={name: value for name, value in request.state.items() if name != "annotations"},
        )

    def _send(self, message: Message, descriptors: tuple[int, ...], **fields: Any) -> bool:
        try:
            self.channel.send(message, descriptors, **fields)
        except (BrokenPipeError, ConnectionResetError):
            return False  # it has ended; what it had to say can still be received
        return True

    def dismiss(self) -> None:
        """It is not needed; its parent reaps it."""
        with contextlib.suppress(ProcessLookupError):
            kernel.pidfd_send_signal(self.pidfd, _signal.SIGKILL)
        self.channel.close()
        os.close(self.pidfd)


def _live(channel: Channel, kinds: frozenset[str], memory: list[pages.Range], *, observed: bool) -> None:
    """The child's whole life."""
    step = "start"
    try:
        kernel.prctl(kernel.PR_SET_PDEATHSIG, _signal.SIGKILL)
        begin_session()
        close_others(3, (channel.fileno(),))
        proc = HostProc()
        if "network" in kinds:
            namespaces.loopback_up()
        pages.make_own(memory)
        document, descriptors = channel.receive(1)
        if document is None:
            return
        spec: dict[str, Any] = json.loads(os.pread(descriptors[0], os.fstat(descriptors[0]).st_size, 0))["spec"]
        os.close(descriptors[0])
        step = "seccomp"
        profile = (spec.get("linux") or {}).get("seccomp")
        program = seccomp.compiled(profile, document["seccomp_cache"]) if profile else b""
        step = "mounts"
        filesystems = mounts.make_ahead(spec, kinds)
        ahead = Ahead(program, filesystems, _procfs_among(spec, filesystems), observed)
        document, descriptors = channel.receive(MOST_DESCRIPTORS)
        if document is not None:
            _become(channel, proc, spec, document, descriptors, ahead)
    except BaseException as error:
        with contextlib.suppress(OSError):
            channel.send_error(error, step)
    finally:
        os._exit(1)


def _procfs_among(spec: dict[str, Any], filesystems: dict[int, int]) -> int:
    """Another descriptor of the procfs, if there is a whole one that can be written to; -1 otherwise."""
    for index, descriptor in filesystems.items():
        mount = spec["mounts"][index]
        options = parse(mount.get("options") or [])
        read_only = (options.set_ | options.set_recursive) & MOUNT_ATTR_RDONLY
        if mount["type"] == "proc" and not options.data and not read_only:
            return os.dup(descriptor)
    return -1


def _become(
    channel: Channel, proc: HostProc, spec: dict[str, Any], told: dict[str, Any], descriptors: list[int], ahead: Ahead
) -> None:
    """
    told: the fields of ``Newborn.become``
    """
    binds, kinds = told["binds"], told["enter"]
    root, rest = descriptors[0], descriptors[1:]
    taken = sources.Sources(root, dict(zip(binds, rest, strict=False)))
    rest = rest[len(binds) :]
    entered, stdio = rest[: len(kinds)], rest[len(kinds) :]

    def enter() -> None:
        for descriptor, kind in zip(entered, kinds, strict=True):
            kernel.setns(descriptor, kind)
        kernel.unshare(kernel.CLONE_NEWNS)

    if not told["die_with_parent"]:
        kernel.prctl(kernel.PR_SET_PDEATHSIG, 0)
    request = InitRequest(
        spec=spec,
        container_id=told["container_id"],
        bundle=told["bundle"],
        cgroup=Cgroup(told["cgroup"]),
        new=frozenset(told["new"]),
        joined=frozenset(told["joined"]),
        proc=proc,
        taken=taken,
        stdio=(stdio[0], stdio[1], stdio[2]) if told["stdio"] else None,
        channel=channel,
        join_cgroup=told["join_cgroup"],
        die_with_parent=told["die_with_parent"],
        new_keyring=told["new_keyring"],
        state={**told["state"], "annotations": spec.get("annotations") or {}},
        ahead=ahead,
    )
    Init(request, enter).run()
