"""Id maps: of the container's user namespace, and of single mounts (mount_setattr(2), MOUNT_ATTR_IDMAP)."""

from __future__ import annotations

import os
import signal
import subprocess
from typing import Any

from corten.errors import InvalidParameter, SystemFailure
from corten.linux import mount as kernel
from corten.linux import process

Mappings = list[dict[str, int]]


def text(mappings: Mappings) -> str:
    return "".join(f"{item['containerID']} {item['hostID']} {item['size']}\n" for item in mappings)


def check(mappings: Mappings, what: str) -> None:
    """Errors: InvalidParameter for numbers out of range."""
    for item in mappings:
        numbers = (item.get("containerID"), item.get("hostID"), item.get("size"))
        if not all(isinstance(number, int) and 0 <= number < 2**32 for number in numbers) or not item["size"]:
            raise InvalidParameter(f"invalid {what}: {item}")


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
    numbers = [str(number) for item in mappings for number in (item["containerID"], item["hostID"], item["size"])]
    try:
        done = subprocess.run([program, str(pid), *numbers], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise SystemFailure(f"cannot map ids: {program} is missing (Debian package uidmap)", step="map ids") from None
    if done.returncode:
        raise SystemFailure(f"cannot map ids: {program}: {done.stderr.strip()}", step="map ids")


def apply(descriptor: int, uid_mappings: Mappings, gid_mappings: Mappings, *, recursive: bool) -> None:
    """Make a detached mount show its files with mapped owners."""
    if not uid_mappings or not gid_mappings:
        raise InvalidParameter("an id-mapped mount needs uidMappings and gidMappings")
    check(uid_mappings, "uidMappings")
    check(gid_mappings, "gidMappings")
    reading, writing = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        try:
            process.unshare(process.CLONE_NEWUSER)
            os.write(writing, b"1")
            signal.pause()
        finally:
            os._exit(0)
    try:
        os.read(reading, 1)
        write_maps(pid, uid_mappings, gid_mappings)
        namespace = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
        try:
            kernel.mount_setattr(descriptor, set_=kernel.MOUNT_ATTR_IDMAP, userns_fd=namespace, recursive=recursive)
        finally:
            os.close(namespace)
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
        os.close(reading)
        os.close(writing)


def from_spec(linux: dict[str, Any]) -> tuple[Mappings, Mappings]:
    uid_mappings, gid_mappings = linux.get("uidMappings") or [], linux.get("gidMappings") or []
    check(uid_mappings, "linux.uidMappings")
    check(gid_mappings, "linux.gidMappings")
    return uid_mappings, gid_mappings
