"""Id maps: of the container's user namespace, and of single mounts (mount_setattr(2), MOUNT_ATTR_IDMAP)."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

from corten.errors import InvalidParameter, SystemFailure
from corten.linux import mount as kernel
from corten.linux import process

Mappings = list[dict[str, int]]


def text(mappings: Mappings) -> str:
    return "".join(f"{item['containerID']} {item['hostID']} {item['size']}\n" for item in mappings)


def check(mappings: Mappings, what: str) -> None:
    """Errors: InvalidParameter for numbers out of range, and for ranges that overlap."""
    for field in ("containerID", "hostID"):
        end = -1
        for item in sorted(mappings, key=lambda item: item.get(field) or 0):
            first, size = item.get(field), item.get("size")
            if not isinstance(first, int) or not isinstance(size, int) or first < 0 or size < 1 or first + size > 2**32:
                raise InvalidParameter(f"{what}: invalid mapping {item}")
            if first < end:
                raise InvalidParameter(f"{what}: ranges of {field} overlap at {first}")
            end = first + size


def write_maps(pid: int, uid_mappings: Mappings, gid_mappings: Mappings) -> None:
    """Map the ids of a process in a new user namespace; with newuidmap when this user may not write them alone.

    Errors: SystemFailure.  Source: user_namespaces(7).
    """
    try:
        if os.geteuid() != 0 and len(gid_mappings) == 1 and gid_mappings[0]["size"] == 1:
            _write(f"/proc/{pid}/setgroups", "deny")
        _write(f"/proc/{pid}/uid_map", text(uid_mappings))
        _write(f"/proc/{pid}/gid_map", text(gid_mappings))
    except PermissionError:
        _by_helper("newuidmap", pid, uid_mappings)
        _by_helper("newgidmap", pid, gid_mappings)
    except OSError as error:
        raise SystemFailure(f"cannot map ids: {error}", step="map ids", errno=error.errno or 0) from error


def _write(path: str, content: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, content.encode())
    finally:
        os.close(descriptor)


def _by_helper(program: str, pid: int, mappings: Mappings) -> None:
    import subprocess  # an ordinary user's maps alone need it

    numbers = [str(number) for item in mappings for number in (item["containerID"], item["hostID"], item["size"])]
    try:
        done = subprocess.run([program, str(pid), *numbers], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise SystemFailure(f"cannot map ids: {program} is missing (Debian package uidmap)", step="map ids") from None
    if done.returncode:
        raise SystemFailure(f"cannot map ids: {program}: {done.stderr.strip()}", step="map ids")


@contextlib.contextmanager
def mapped_namespace(uid_mappings: Mappings, gid_mappings: Mappings) -> Iterator[int]:
    """A descriptor of a user namespace with these maps; kept alive by a child while the block runs."""
    reading, writing = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        try:
            process.prctl(process.PR_SET_PDEATHSIG, signal.SIGKILL)
            process.unshare(process.CLONE_NEWUSER)
            os.write(writing, b"1")
            signal.pause()
        finally:
            os._exit(0)
    try:
        os.close(writing)
        if not os.read(reading, 1):
            raise SystemFailure("cannot map ids: a user namespace cannot be made", step="map ids")
        write_maps(pid, uid_mappings, gid_mappings)
        namespace = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
        try:
            yield namespace
        finally:
            os.close(namespace)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(reading)


def apply(descriptor: int, uid_mappings: Mappings, gid_mappings: Mappings, *, recursive: bool) -> None:
    """Make a detached mount show its files with mapped owners."""
    if not uid_mappings or not gid_mappings:
        raise InvalidParameter("an id-mapped mount needs uidMappings and gidMappings")
    with mapped_namespace(uid_mappings, gid_mappings) as namespace:
        kernel.mount_setattr(descriptor, set_=kernel.MOUNT_ATTR_IDMAP, userns_fd=namespace, recursive=recursive)


@contextlib.contextmanager
def namespace_of(linux: dict[str, Any], joined: str) -> Iterator[Callable[[], int]]:
    """The container's user namespace for mounts that are mapped as it is: made or opened when it is first asked for.

    joined: path of the namespace, "" for one that is to have the maps of ``linux``
    """
    with contextlib.ExitStack() as stack:
        opened: list[int] = []

        def namespace() -> int:
            if not opened:
                if joined:
                    opened.append(os.open(joined, os.O_RDONLY | os.O_CLOEXEC))
                    stack.callback(os.close, opened[0])
                elif linux.get("uidMappings"):
                    opened.append(stack.enter_context(mapped_namespace(*from_spec(linux))))
                else:
                    opened.append(-1)
            return opened[0]

        yield namespace


def from_spec(linux: dict[str, Any]) -> tuple[Mappings, Mappings]:
    return linux.get("uidMappings") or [], linux.get("gidMappings") or []


def triples(linux: dict[str, Any]) -> tuple[list[tuple[int, int, int]], list[tuple[int, int, int]]]:
    """Of users and of groups: (inside, outside, count)."""
    uids, gids = (
        [(item["containerID"], item["hostID"], item["size"]) for item in mappings] for mappings in from_spec(linux)
    )
    return uids, gids


def maps_root(linux: dict[str, Any]) -> bool:
    """Whether there is an id 0 in a user namespace with the maps of ``linux``."""
    return all(any(item["containerID"] == 0 for item in mappings) for mappings in from_spec(linux))


def host_root(linux: dict[str, Any]) -> int:
    """The host's user id of a user namespace's 0; -1 when it has none."""
    return host_ids(linux)[0]


def host_ids(linux: dict[str, Any]) -> tuple[int, int]:
    """The host's (user, group) of a user namespace's 0; -1 when it has none."""
    uid, gid = (
        next((item["hostID"] for item in mappings if item["containerID"] == 0), -1) for mappings in from_spec(linux)
    )
    return uid, gid
