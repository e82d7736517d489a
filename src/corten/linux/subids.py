"""Subordinate ids: which ids a user may use beside its own.

Source: subuid(5), subgid(5): lines ``name-or-uid:first:count``; newuidmap(1) grants what stands there.
"""

from __future__ import annotations

import errno
import os
import pwd
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SUBUID = Path("/etc/subuid")
SUBGID = Path("/etc/subgid")
_END = 2**32 - 1  # the last id stands for "none"

_NOBODY = 65_534

Mappings = list[dict[str, int]]


@dataclass(frozen=True, slots=True, order=True)
class Range:
    """``count`` ids from ``first`` on."""

    first: int
    count: int

    @property
    def end(self) -> int:
        return self.first + self.count


def ranges(path: Path, names: set[str]) -> list[Range]:
    """What a file grants one user, in the file's order; lines that make no sense grant nothing.

    names: the user's name, and its number
    """
    return [found for name, found in _lines(path) if name in names]


def granted(path: Path) -> list[Range]:
    """What a file grants to anybody."""
    return [found for _, found in _lines(path)]


def _lines(path: Path) -> Iterator[tuple[str, Range]]:
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return
    for line in lines:
        fields = line.strip().split(":")
        if len(fields) == 3 and all(_is_number(field) for field in fields[1:]):
            found = Range(int(fields[1]), int(fields[2]))
            if found.count and found.end <= _END:
                yield fields[0], found


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 10


def names_of(uid: int) -> set[str]:
    """How a user is called in the files."""
    try:
        return {str(uid), pwd.getpwuid(uid).pw_name}
    except KeyError:
        return {str(uid)}


def names_of_user(name: str) -> set[str]:
    """The same by name; ids may be granted to a name that is no user's."""
    try:
        return {name, str(pwd.getpwnam(name).pw_uid)}
    except KeyError:
        return {name}


def with_own(own: int, granted: list[Range]) -> Mappings:
    """A map in which 0 is the user and the granted ids follow from 1 on.

    A range that contains the user's own id, or overlaps one before it, is left out: an id has one meaning.
    """
    mappings = [{"containerID": 0, "hostID": own, "size": 1}]
    taken = [Range(own, 1)]
    inside = 1
    for part in granted:
        if any(part.first < other.end and other.first < part.end for other in taken):
            continue
        taken.append(part)
        mappings.append({"containerID": inside, "hostID": part.first, "size": part.count})
        inside += part.count
    return mappings


@dataclass(frozen=True, slots=True)
class IdMaps:
    """Of a user namespace.  lacking: why there is only the user's own id, "" otherwise"""

    uids: Mappings
    gids: Mappings
    lacking: str = ""


def maps_of_user() -> IdMaps:
    """What this user may map: its subordinate ids when it has both kinds and the programs that grant them."""
    uid, gid = os.geteuid(), os.getegid()
    names = names_of(uid)
    uids, gids = ranges(SUBUID, names), ranges(SUBGID, names)
    single = IdMaps(with_own(uid, []), with_own(gid, []))
    for path, granted in ((SUBUID, uids), (SUBGID, gids)):
        if not granted:
            return IdMaps(single.uids, single.gids, f"{path} has no ids for user {sorted(names)[-1]}")
    for program in ("newuidmap", "newgidmap"):
        if not _is_installed(program):
            return IdMaps(single.uids, single.gids, f"{program} is not installed (Debian package uidmap)")
    return IdMaps(with_own(uid, uids), with_own(gid, gids))


def _is_installed(program: str) -> bool:
    return any(os.access(f"{place}/{program}", os.X_OK) for place in os.get_exec_path())


@dataclass(frozen=True, slots=True)
class Translation:
    """Between the ids of a user namespace and the machine's."""

    uids: Mappings
    gids: Mappings

    def outside(self, uid: int, gid: int) -> tuple[int, int]:
        """Errors: OSError for an id that is not mapped."""
        return _translated(self.uids, "containerID", "hostID", uid), _translated(
            self.gids, "containerID", "hostID", gid
        )

    def inside(self, uid: int, gid: int) -> tuple[int, int]:
        """What is not mapped shows as nobody."""

        def seen(mappings: Mappings, number: int) -> int:
            try:
                return _translated(mappings, "hostID", "containerID", number)
            except OSError:
                return _NOBODY

        return seen(self.uids, uid), seen(self.gids, gid)


def _translated(mappings: Mappings, source: str, target: str, number: int) -> int:
    for item in mappings:
        if item[source] <= number < item[source] + item["size"]:
            return item[target] + number - item[source]
    raise OSError(errno.EINVAL, f"id {number} is not mapped in the user namespace")
