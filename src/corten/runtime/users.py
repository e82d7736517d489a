"""Names of users and groups, resolved in the container's own passwd and group files.

The files belong to the container: they are opened inside its root, must be regular files, and are read up to a limit.
Nothing of the C library's name service is used: it would load the container's code (CVE-2019-14271).
"""

from __future__ import annotations

import os
import stat
from typing import NamedTuple

from corten.errors import InvalidParameter
from corten.linux import paths

MAXIMUM_ID = 2**31 - 1
RANGE_TEXT = f"uids and gids must be in range 0-{MAXIMUM_ID}"
# what the messages about users and groups that cannot be found begin with
FAILURES = ("unable to find user ", "unable to find group ", "Unable to find group ", RANGE_TEXT)
_MAXIMUM_FILE = 8 * 1024 * 1024


class Identity(NamedTuple):
    """Whom the program runs as.

    groups: all supplementary groups, the primary one first
    home:   the user's directory, "" when nothing is known of it
    """

    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str


def _lines(root: int, path: str) -> list[list[str]]:
    """The fields of each line; an absent, unreadable or irregular file has none."""
    try:
        # a FIFO or a terminal must not make us wait
        descriptor = paths.open_in_root(root, path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError:
        return []
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            return []
        content = b""
        while chunk := os.read(descriptor, 1 << 20):
            content += chunk
            if len(content) > _MAXIMUM_FILE:
                raise InvalidParameter(f"{path} in the container is larger than {_MAXIMUM_FILE} bytes")
    finally:
        os.close(descriptor)
    rows = content.decode("utf-8", "surrogateescape").split("\n")
    return [row.strip().split(":") for row in rows if row.strip() and not row.lstrip().startswith("#")]


def _number(text: str) -> int | None:
    """An id, or None for a name.  Errors: InvalidParameter for a number out of range, which the kernel would wrap."""
    digits = text[1:] if text[:1] in ("-", "+") else text
    if not digits.isascii() or not digits.isdigit():
        return None
    value = int(text) if len(text) < 20 else MAXIMUM_ID + 1
    if not 0 <= value <= MAXIMUM_ID:
        raise InvalidParameter(RANGE_TEXT)
    return value


def _field(text: str, path: str) -> int:
    """A number from the container's files: anything else must not end as 0."""
    number = _number(text.strip())
    if number is None:
        raise InvalidParameter(f"{path} in the container has an id that is no number: {text[:32]!r}")
    return number


def _find_user(rows: list[list[str]], name: str, number: int | None) -> list[str] | None:
    """The first entry that fits; a number is always an id, as with dockerd."""
    for row in rows:
        if len(row) < 4:
            continue
        if number is None:
            if row[0] == name:
                return row
        elif row[2].strip().isdigit() and len(row[2]) < 20 and int(row[2]) == number:
            return row
    return None


def _find_group(rows: list[list[str]], text: str, message: str) -> int:
    number = _number(text)
    if number is not None:
        return number
    for row in rows:
        if len(row) >= 3 and row[0] == text:
            return _field(row[2], "/etc/group")
    raise InvalidParameter(f"{message} {text}: no matching entries in group file")


def resolve(root: int, name: str, additional: list[str]) -> Identity:
    """user[:group] and extra groups -> numbers.

    The primary group is among the supplementary ones (CVE-2022-36109).
    Errors: InvalidParameter in Docker's words for an unknown name or an id out of range.
    """
    user_text, _, group_text = name.partition(":")
    number = _number(user_text) if user_text else 0
    entry = _find_user(_lines(root, "/etc/passwd"), user_text, number)
    if entry is None and number is None:
        raise InvalidParameter(f"unable to find user {user_text}: no matching entries in passwd file")
    uid = _field(entry[2], "/etc/passwd") if entry is not None else number or 0
    gid = _field(entry[3], "/etc/passwd") if entry is not None else 0
    supplementary: list[int] = []
    groups = _lines(root, "/etc/group") if entry is not None or group_text or additional else []
    if group_text:
        gid = _find_group(groups, group_text, "unable to find group")
    elif entry is not None:
        member_of = [row for row in groups if len(row) >= 4 and entry[0] and entry[0] in row[3].split(",")]
        supplementary = [_field(row[2], "/etc/group") for row in member_of]
    supplementary += [_find_group(groups, text, "Unable to find group") for text in additional]
    home = entry[5] if entry is not None and len(entry) > 5 and entry[5] else "/"
    return Identity(uid, gid, tuple(dict.fromkeys([gid, *supplementary])), home)


def home_of(root: int, uid: int) -> str:
    """The directory of a user that was given by number; "/" when the container does not tell."""
    try:
        entry = _find_user(_lines(root, "/etc/passwd"), "", uid)
    except InvalidParameter:
        return "/"
    return entry[5] if entry is not None and len(entry) > 5 and entry[5] else "/"


def of_process(root: int, process: dict[str, object]) -> Identity:
    """Whom ``process.user`` names: by numbers, or by Corten's ``username`` and ``additionalGroups``.

    Errors: InvalidParameter.
    """
    user = process.get("user") or {}
    assert isinstance(user, dict)
    name, groups = user.get("username"), user.get("additionalGroups") or []
    if name is not None or groups:
        return resolve(root, name or str(user.get("uid") or 0), groups)
    uid, gid = user.get("uid") or 0, user.get("gid") or 0
    environment = process.get("env") or []
    assert isinstance(environment, list)
    # only who has to know is told to read the container's files
    known = any(item.startswith("HOME=") for item in environment)
    groups = dict.fromkeys([gid, *(user.get("additionalGids") or [])])
    return Identity(uid, gid, tuple(groups), "" if known else home_of(root, uid))


def check_ids(user: dict[str, object]) -> None:
    """Errors: InvalidParameter for ids that the kernel would wrap (CVE-2024-40635)."""
    more = user.get("additionalGids") or []
    assert isinstance(more, list)
    for number in (user.get("uid"), user.get("gid"), *more):
        if number is not None and (not isinstance(number, int) or not 0 <= number <= MAXIMUM_ID):
            raise InvalidParameter(f"process.user: {RANGE_TEXT}")
