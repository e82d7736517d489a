"""Names of users and groups, resolved in the container's own passwd and group files.

The files belong to the container: they are opened inside its root, must be regular files, and are read up to a limit.
Nothing of the C library's name service is used: it would load the container's code (CVE-2019-14271).
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass

from corten.errors import InvalidParameter
from corten.linux import paths

MAXIMUM_ID = 2**31 - 1
_MAXIMUM_FILE = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Identity:
    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str


def _lines(root: int, path: str) -> list[list[str]]:
    try:
        descriptor = paths.open_in_root(root, path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError:
        return []
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            return []
        if status.st_size > _MAXIMUM_FILE:
            raise InvalidParameter(f"{path} in the container is larger than {_MAXIMUM_FILE} bytes")
        content = os.read(descriptor, _MAXIMUM_FILE)
    finally:
        os.close(descriptor)
    return [line.split(":") for line in content.decode("utf-8", "surrogateescape").splitlines() if line and line[0] != "#"]


def _number(text: str, what: str) -> int | None:
    if not text.isascii() or not text.lstrip("-").isdigit():
        return None
    value = int(text) if len(text) < 20 else MAXIMUM_ID + 1
    if not 0 <= value <= MAXIMUM_ID:
        raise InvalidParameter(f"{what} should be in range 0-{MAXIMUM_ID}")
    return value


def resolve(root: int, name: str, additional: list[str]) -> Identity:
    """"user[:group]" and extra groups -> numbers.

    The primary group is among the supplementary ones (CVE-2022-36109).
    Errors: InvalidParameter in Docker's words for an unknown name.
    """
    user_text, colon, group_text = name.partition(":")
    users = _lines(root, "/etc/passwd")
    groups = _lines(root, "/etc/group")
    number = _number(user_text, "uids and gids") if user_text else 0
    entry = next(
        (row for row in users if len(row) >= 4 and (row[0] == user_text or (number is not None and row[2] == str(number)))), None
    )
    if entry is None and number is None:
        raise InvalidParameter(f"unable to find user {user_text}: no matching entries in passwd file")
    if entry is not None and entry[0] == user_text and number is None:
        number = _number(entry[2], "uids and gids")
    uid = number or 0
    gid = (_number(entry[3], "uids and gids") or 0) if entry is not None else 0
    supplementary: list[int] = []
    if colon and group_text:
        gid = _group(groups, group_text)
    elif entry is not None:
        member_of = [row for row in groups if len(row) >= 4 and entry[0] in row[3].split(",")]
        supplementary = [value for row in member_of if (value := _number(row[2], "uids and gids")) is not None]
    supplementary += [_group(groups, text) for text in additional]
    home = entry[5] if entry is not None and len(entry) > 5 and entry[5] else "/"
    return Identity(uid, gid, tuple(dict.fromkeys([gid, *supplementary])), home)


def _group(groups: list[list[str]], text: str) -> int:
    row = next((row for row in groups if len(row) >= 3 and row[0] == text), None)
    if row is not None:
        return _number(row[2], "uids and gids") or 0
    number = _number(text, "uids and gids")
    if number is None:
        raise InvalidParameter(f"unable to find group {text}: no matching entries in group file")
    return number
