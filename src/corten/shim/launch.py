"""What a shim's helpers do: make the container, run a further program in it, change its cgroup.

Every function runs in a forked helper and gives back a document and descriptors for the shim.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from corten.cgroup.manager import Cgroup
from corten.errors import CortenError, SystemFailure
from corten.linux import fuse_overlay, overlay
from corten.linux import mount as mounting
from corten.linux import process as kernel
from corten.runtime import execution, groups, idmap, lifecycle, namespaces
from corten.runtime.handshake import Channel
from corten.runtime.newborn import Newborn
from corten.shim import self_care
from corten.shim.foreign import Runtime
from corten.shim.helper import Result
from corten.shim.protocol import read_all

Streams = tuple[int, int, int] | None


class Place:
    """Where one container's things are.

    directory: <exec-root>/<id>
    target:    where its root is mounted
    cgroup:    its path in the hierarchies
    spec_fd:   a memfd with ``{"spec": …, "rootfs": …}``
    runtime:   another OCI runtime's command line; empty for Corten's own
    """

    __slots__ = (
        "bundle",
        "cgroup",
        "container_id",
        "directory",
        "last_hooks",
        "runtime",
        "runtime_root",
        "seccomp_cache",
        "spec_fd",
        "target",
    )

    def __init__(self, header: dict[str, Any], spec_fd: int) -> None:
        self.container_id: str = header["id"]
        self.directory: str = header["directory"]
        self.target: str = header["target"]
        self.cgroup: str = header["cgroup"]
        self.bundle: str = header["bundle"]
        self.seccomp_cache: str = header["seccomp_cache"]
        self.last_hooks: bool = header["poststop"]
        self.runtime: list[str] = header["runtime"]
        self.runtime_root: str = header["runtime_root"]
        self.spec_fd = spec_fd

    @property
    def foreign(self) -> Runtime:
        """The container under its other runtime."""
        return Runtime(self.runtime, self.runtime_root, self.directory, self.container_id)

    def state(self, spec: dict[str, Any], status: str, pid: int) -> dict[str, Any]:
        """The container's state as hooks and listeners get it: runtime-spec runtime.md, "State"."""
        return {
            "ociVersion": spec["ociVersion"],
            "id": self.container_id,
            "status": status,
            "pid": pid,
            "bundle": self.bundle,
            "annotations": spec.get("annotations") or {},
        }


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


def start(
    place: Place, streams: Streams, hand_over: Callable[[int, int, int], None], newborn: Newborn | None
) -> dict[str, Any]:
    """Mount the root, make the container, run its program: the answer to the daemon.  When this raises nothing is left.

    hand_over: called with pid, start time and pty before the program runs
    newborn:   an init that may be used
    Errors: CommandNotFound, CommandNotExecutable, InvalidParameter, SystemFailure.
    """
    document = json.loads(read_all(place.spec_fd))
    mount_root(document["rootfs"], document["spec"].get("linux") or {})
    try:
        if place.runtime:
            return _run_foreign(place, document["spec"], streams, hand_over)
        return _run(place, document["spec"], streams, hand_over, newborn)
    except BaseException:
        unmount_root(place.target)
        raise


def mount_root(rootfs: dict[str, Any], linux: dict[str, Any]) -> None:
    """Attach the root at its target; a plain directory ("bind") is where it should be, but for its ids.

    Errors: SystemFailure.
    """
    target = rootfs["target"]
    joined = next((item.get("path") or "" for item in linux.get("namespaces") or () if item["type"] == "user"), "")
    upper, work = rootfs["upper"] or None, rootfs["work"] or None
    try:
        if rootfs["type"] != "bind":
            os.makedirs(target, 0o700, exist_ok=True)
        if rootfs["type"] == fuse_overlay.PROGRAM:
            fuse_overlay.mount_at(target, rootfs["lower"], upper, work, idmap.triples(linux))
            return
        with idmap.namespace_of(linux, joined) as namespace:
            ids = namespace()
            if rootfs["type"] != "bind":
                with _mounting_as(linux, ids):
                    overlay.overlay_mount(target, rootfs["lower"], upper, work, rootfs["options"], ids=ids)
            elif ids >= 0:
                mounting.bind_mapped(target, ids)
    except OSError as error:
        text = f"cannot mount the container's root at {target}: {error}"
        raise SystemFailure(text, step="mount root", errno=error.errno or 0) from error


@contextlib.contextmanager
def _mounting_as(linux: dict[str, Any], ids: int) -> Iterator[None]:
    """An overlay makes its files as who has mounted it: that must be someone who has an id in its layers."""
    uid, gid = idmap.host_ids(linux)
    if ids < 0 or uid < 0 or gid < 0:
        yield
        return
    with kernel.making_files_as(uid, gid):
        yield


def unmount_root(target: str) -> None:
    """What is not mounted, a plain directory, is no error."""
    with contextlib.suppress(OSError):
        mounting.umount2(target, mounting.MNT_DETACH | mounting.UMOUNT_NOFOLLOW)


def _run(
    place: Place,
    spec: dict[str, Any],
    streams: Streams,
    hand_over: Callable[[int, int, int], None],
    newborn: Newborn | None,
) -> dict[str, Any]:
    started_ns = 0

    def meanwhile(pid: int) -> None:
        nonlocal started_ns
        started_ns = time.time_ns()
        # before the program runs: whoever finds the shim gone must be able to find the program
        write_state(place, pid, started_ns)
        if streams is not None:
            hand_over(pid, started_ns, -1)

    init = lifecycle.create(
        spec,
        container_id=place.container_id,
        bundle=place.bundle,
        stdio=streams,
        seccomp_cache=place.seccomp_cache,
        die_with_parent=True,
        sibling=True,
        newborn=newborn,
        at_once=streams is not None,
        meanwhile=meanwhile,
    )
    try:
        if streams is None:
            # the terminal is made inside
            hand_over(init.pid, started_ns, init.console_fd)
        init.start()
    except BaseException:
        init.abandon()
        raise
    return {"pid": init.pid, "started_ns": started_ns, "warnings": init.warnings}


def _run_foreign(
    place: Place, spec: dict[str, Any], streams: Streams, hand_over: Callable[[int, int, int], None]
) -> dict[str, Any]:
    self_care.adopt_orphans()  # the program's parent ends before it runs: it is ours, and later the shim's
    foreign = place.foreign
    pid, console = foreign.create(spec, streams)
    try:
        started_ns = time.time_ns()
        write_state(place, pid, started_ns)
        hand_over(pid, started_ns, console)
        foreign.start()
    except BaseException:
        foreign.delete()
        raise
    return {"pid": pid, "started_ns": started_ns, "warnings": []}


def write_state(place: Place, pid: int, started_ns: int) -> None:
    document = {
        "pid": pid,
        "started_ns": started_ns,
        "cgroup": place.cgroup,
        "target": place.target,
        "shim": os.getppid(),
    }
    if place.runtime:
        document["runtime"] = [*place.runtime, "--root", place.runtime_root]
    write_file(place.directory, "state.json", json.dumps(document))


# -- while it runs ----------------------------------------------------------------------------------------------------


def execute(place: Place, init_pid: int, process: bytes, streams: Streams) -> Result:
    """Run a further program.

    process: ``process`` of the runtime specification as JSON
    Errors:  CommandNotFound, CommandNotExecutable, InvalidParameter, SystemFailure
    """
    self_care.allow_oom_kill()
    if place.runtime:
        pid, console = place.foreign.execute(json.loads(process), init_pid, streams)
        return {"pid": pid, "warnings": []}, [console] if console >= 0 else []
    spec = read_spec(place)
    made = execution.exec_process(
        init_pid,
        spec,
        json.loads(process),
        cgroup=Cgroup(place.cgroup),
        stdio=streams,
        seccomp_cache=place.seccomp_cache,
        state=place.state(spec, "running", init_pid),
    )
    document = {"pid": made.pid, "warnings": made.warnings}
    return document, [made.console_fd] if made.console_fd >= 0 else []


def become(place: Place, init_pid: int, target: int, process: bytes, streams: Streams, channel: Channel) -> NoReturn:
    """``execute`` in the caller itself, which has been born inside.

    target: a pidfd of the container's first process
    Errors: as with ``execute``, before the program is looked for; later they are told on the channel.
    """
    self_care.allow_oom_kill()
    spec = read_spec(place)
    execution.become(
        target,
        namespaces.differing(init_pid),
        spec,
        json.loads(process),
        channel=channel,
        cgroup=Cgroup(place.cgroup),
        stdio=streams,
        seccomp_cache=place.seccomp_cache,
        state=place.state(spec, "running", init_pid),
    )


def freeze(place: Place) -> Result:
    if place.runtime:
        place.foreign.pause()
        return {}, []
    Cgroup(place.cgroup).freeze()
    return {}, []


def thaw(place: Place) -> Result:
    if place.runtime:
        place.foreign.resume()
        return {}, []
    Cgroup(place.cgroup).thaw()
    return {}, []


def update(place: Place, resources: bytes) -> Result:
    """resources: ``linux.resources`` of the runtime specification as JSON."""
    cgroup = Cgroup(place.cgroup)
    groups.update(cgroup, json.loads(resources))
    return {"warnings": cgroup.warnings}, []


def kill(place: Place, pid: int, number: int) -> Result:
    """A signal for a program under another runtime, which may have to pass it on."""
    try:
        place.foreign.kill(number)
    except (CortenError, OSError):
        # it has ended, or the runtime is gone: the program's end is seen by its parent
        with contextlib.suppress(OSError):
            os.kill(pid, number)
    return {}, []


def kill_all(place: Place, number: int) -> Result:
    Cgroup(place.cgroup).kill(number)
    return {}, []
