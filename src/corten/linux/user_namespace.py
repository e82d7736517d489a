"""The user namespace that this process is in.  Source: user_namespaces(7)."""

from __future__ import annotations

import functools
import os

_INITIAL = 0xEFFFFFFD  # PROC_USER_INIT_INO, include/linux/proc_ns.h
_WHOLE = 2**32 - 1


@functools.cache
def is_initial() -> bool:
    """Whether this is the machine's own: only its root may make devices, and use ``trusted`` attributes.

    A process that moves calls ``forget``.
    """
    try:
        return os.stat("/proc/self/ns/user").st_ino == _INITIAL
    except FileNotFoundError:
        return True  # a kernel without user namespaces


@functools.cache
def mapped(kind: str) -> int:
    """How many ids there are here.

    kind: "uid" or "gid"
    """
    try:
        with open(f"/proc/self/{kind}_map") as table:
            return sum(int(line.split()[2]) for line in table)
    except OSError:
        return _WHOLE


class Rights:
    """What this process may do to files of its own."""

    __slots__ = ("devices", "owners")

    def __init__(self, owners: bool, devices: bool) -> None:
        """
        owners:  give them to others
        devices: make device nodes, and use ``trusted`` attributes
        """
        self.owners = owners
        self.devices = devices

    @classmethod
    def here(cls) -> Rights:
        is_root = os.geteuid() == 0
        has_others = is_initial() or (mapped("uid") > 1 and mapped("gid") > 1)
        return cls(owners=is_root and has_others, devices=is_root and is_initial())


@functools.cache
def unmapped_id(kind: str) -> int:
    """The id by which files of someone show who has no id here: -1 where everyone has one."""
    if is_initial():
        return -1
    try:
        with open(f"/proc/sys/kernel/overflow{kind}") as file:
            return int(file.read())
    except OSError:
        return 65534


def owner(status: os.stat_result) -> tuple[int, int]:
    """The owner of a copy of a file of the machine; files of owners without an id here become root's."""
    uid, gid = status.st_uid, status.st_gid
    return 0 if uid == unmapped_id("uid") else uid, 0 if gid == unmapped_id("gid") else gid


def forget() -> None:
    """What was learnt does not hold any more: this process has entered another one."""
    for known in (is_initial, mapped, unmapped_id):
        known.cache_clear()
