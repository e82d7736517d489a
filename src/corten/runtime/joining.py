"""Cloning a process into namespaces that exist already.

A new process can enter most namespaces by itself.  Two kinds want more: into a pid namespace a process can only be
born, so the caller directs its next child there for a moment; and a user namespace has to be entered before the new
ones are made that it is to own, so a short-lived helper enters it and clones the real child with CLONE_PARENT: it is
the caller's own child, with no link to the helper.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Collection, Iterator

from corten.linux import process as kernel
from corten.linux import user_namespace
from corten.runtime import namespaces
from corten.runtime.handshake import Channel, Message


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
            return clone_by_helper(flags, cgroup_fd, child, descriptors, lambda: None)
        pid_namespace = next((descriptor for descriptor, kind in descriptors if kind == kernel.CLONE_NEWPID), -1)
        others = [(descriptor, kind) for descriptor, kind in descriptors if kind != kernel.CLONE_NEWPID]
        return clone_directly(flags, cgroup_fd, child, pid_namespace, others, sibling=sibling)
    finally:
        for descriptor, _ in descriptors:
            os.close(descriptor)


def clone_directly(
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
    with born_in(pid_namespace):
        pid, pidfd = kernel.clone3(flags, cgroup_fd=cgroup_fd, exit_signal=exit_signal)
        if pid == 0:
            _run(child, enter)
    return pid, pidfd


@contextlib.contextmanager
def born_in(pid_namespace: int) -> Iterator[None]:
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


def clone_by_helper(
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
