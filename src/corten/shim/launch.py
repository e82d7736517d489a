"""What a shim's helpers do: make the container, run a further program in it, change its cgroup.

Every function runs in a forked helper and gives back a document and descriptors for the shim.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable
from typing import Any

from corten.cgroup.manager import Cgroup
from corten.errors import SystemFailure
from corten.linux import mount as mounting
from corten.linux import overlay
from corten.runtime import joining, lifecycle
from corten.shim import self_care
from corten.shim.helper import Result
from corten.shim.protocol import read_all

Streams = tuple[int, int, int] | None


class Place:
    """Where one container's things are.

    directory: <exec-root>/<id>
    target:    where its root is mounted
    cgroup:    its path in the hierarchies
    spec_fd:   a memfd with ``{"spec": …, "rootfs": …}``
    """

    __slots__ = ("bundle", "cgroup", "container_id", "directory", "last_hooks", "seccomp_cache", "spec_fd", "target")

    def __init__(self, header: dict[str, Any], spec_fd: int) -> None:
        self.container_id: str = header["id"]
        self.directory: str = header["directory"]
        self.target: str = header["target"]
        self.cgroup: str = header["cgroup"]
        self.bundle: str = header["bundle"]
        self.seccomp_cache: str = header["seccomp_cache"]
        self.last_hooks: bool = header["poststop"]
        self.spec_fd = spec_fd


def read_spec(place: Place) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(read_all(place.spec_fd))["spec"]
    return document


def write_file(directory: str, name: str, text: str) -> None:
    """Whole or not at all: written aside and renamed."""
    temporary = f"{directory}/.{name}"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)
    os.rename(temporary, f"{directory}/{name}")


# -- start ------------------------------------------------------------------------------------------------------------


def start(place: Place, streams: Streams, hand_over: Callable[[int, int, int], None]) -> dict[str, Any]:
    """Mount the root, make the container, run its program: the answer to the daemon.  When this raises nothing is left.

    hand_over: called with pid, start time and pty before the program runs
    Errors: CommandNotFound, CommandNotExecutable, InvalidParameter, SystemFailure.
    """
    document = json.loads(read_all(place.spec_fd))
    mount_root(document["rootfs"])
    try:
        return _run(place, document["spec"], streams, hand_over)
    except BaseException:
        unmount_root(place.target)
        raise


def mount_root(rootfs: dict[str, Any]) -> None:
    """Attach the root at its target; a plain directory ("bind") is where it should be.

    Errors: SystemFailure.
    """
    if rootfs["type"] == "bind":
        return
    target = rootfs["target"]
    try:
        os.makedirs(target, 0o700, exist_ok=True)
        overlay.overlay_mount(
            target, rootfs["lower"], rootfs["upper"] or None, rootfs["work"] or None, rootfs["options"]
        )
    except OSError as error:
        text = f"cannot mount the container's root at {target}: {error}"
        raise SystemFailure(text, step="mount root", errno=error.errno or 0) from error


def unmount_root(target: str) -> None:
    """What is not mounted, a plain directory, is no error."""
    with contextlib.suppress(OSError):
        mounting.umount2(target, mounting.MNT_DETACH | mounting.UMOUNT_NOFOLLOW)


def _run(
    place: Place, spec: dict[str, Any], streams: Streams, hand_over: Callable[[int, int, int], None]
) -> dict[str, Any]:
    init = lifecycle.create(
        spec,
        container_id=place.container_id,
        bundle=place.bundle,
        stdio=streams,
        seccomp_cache=place.seccomp_cache,
        die_with_parent=True,
        sibling=True,
    )
    try:
        started_ns = time.time_ns()
        # before the program runs: whoever finds the shim gone must be able to find the program
        write_state(place, init.pid, started_ns)
        hand_over(init.pid, started_ns, init.console_fd)
        init.start()
    except BaseException:
        init.abandon()
        raise
    return {"pid": init.pid, "started_ns": started_ns, "warnings": init.warnings}


def write_state(place: Place, pid: int, started_ns: int) -> None:
    document = {
        "pid": pid,
        "started_ns": started_ns,
        "cgroup": place.cgroup,
        "target": place.target,
        "shim": os.getppid(),
    }
    write_file(place.directory, "state.json", json.dumps(document))


# -- while it runs ----------------------------------------------------------------------------------------------------


def execute(place: Place, init_pid: int, process: bytes, streams: Streams) -> Result:
    """Run a further program.

    process: ``process`` of the runtime specification as JSON
    Errors:  CommandNotFound, CommandNotExecutable, InvalidParameter, SystemFailure
    """
    self_care.allow_oom_kill()
    made = joining.exec_process(
        init_pid,
        read_spec(place),
        json.loads(process),
        cgroup=Cgroup(place.cgroup),
        stdio=streams,
        seccomp_cache=place.seccomp_cache,
    )
    document = {"pid": made.pid, "warnings": made.warnings}
    return document, [made.console_fd] if made.console_fd >= 0 else []


def freeze(place: Place) -> Result:
    Cgroup(place.cgroup).freeze()
    return {}, []


def thaw(place: Place) -> Result:
    Cgroup(place.cgroup).thaw()
    return {}, []


def update(place: Place, resources: bytes) -> Result:
    """resources: ``linux.resources`` of the runtime specification as JSON."""
    cgroup = Cgroup(place.cgroup)
    cgroup.update(json.loads(resources))
    return {"warnings": cgroup.warnings}, []


def kill_all(place: Place, number: int) -> Result:
    Cgroup(place.cgroup).kill(number)
    return {}, []
