"""``--chown`` and ``--chmod``: names looked up in the image, modes in octal or symbols."""

from __future__ import annotations

import re
import stat
from collections.abc import Callable

from corten.build.tree import Node, Tree, resolve
from corten.errors import InvalidParameter

_MAX_ID = (1 << 32) - 2
_MAX_FILE = 16 << 20
_CLAUSE = re.compile(r"([ugoa]*)((?:[-+=][rwxXst]*)+)\Z")
_ACTION = re.compile(r"([-+=])([rwxXst]*)")
_SHIFTS = {"u": 6, "g": 3, "o": 0}
Mode = Callable[[Node], int]


def find_owner(text: str, root: Tree | None) -> tuple[int, int]:
    """(uid, gid) of "user[:group]".

    A user alone names the group of the same name or number, as in Docker; without such a group it is the user's own.
    root: of the image, for names
    Errors: InvalidParameter, Docker's wording.
    """
    user, colon, group = text.partition(":")
    if not user or (colon and not group):
        raise InvalidParameter(f"invalid chown string provided: {text}")
    uid = _find(user, root, "etc/passwd", "user", "uid")
    try:
        return uid, _find(group or user, root, "etc/group", "group", "gid")
    except InvalidParameter:
        own = [] if group or root is None else _fields(user, root, "etc/passwd")[3:4]
        if not own or not _is_number(own[0]):
            raise
        return uid, min(int(own[0]), _MAX_ID)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _fields(name: str, root: Tree, path: str) -> list[str]:
    """The line of a user or group with a number; [] when there is none."""
    for line in _lines(root, path):
        fields = line.split(":")
        if len(fields) > 2 and fields[0] == name and _is_number(fields[2]):
            return fields
    return []


def _find(name: str, root: Tree | None, path: str, what: str, number: str) -> int:
    problem = f"unable to convert uid/gid chown string to host mapping: can't find {number} for {what} {name}"
    if _is_number(name):
        if int(name) > _MAX_ID:
            raise InvalidParameter(f"{problem}: the number is too large")
        return int(name)
    if root is not None and (fields := _fields(name, root, path)):
        return min(int(fields[2]), _MAX_ID)
    raise InvalidParameter(f"{problem}: no such {what}: {name}")


def _lines(root: Tree, path: str) -> list[str]:
    found = resolve(root, path)
    if found is None or not found[1].is_regular or found[1].size > _MAX_FILE:
        return []
    return b"".join(root.chunks(*found)).decode("utf-8", "surrogateescape").splitlines()


def read_mode(text: str) -> Mode:
    """What gives a file its new mode.  Errors: InvalidParameter."""
    if re.fullmatch(r"[0-7]{1,5}", text) and int(text, 8) <= 0o7777:
        bits = int(text, 8)
        return lambda node: bits
    clauses = [_CLAUSE.match(part) for part in text.split(",")]
    if not text or any(clause is None for clause in clauses):
        raise InvalidParameter(
            f"invalid chmod parameter: '{text}'. it should be octal string and between 0 and 07777, or symbolic"
        )
    actions = [(clause[1], _ACTION.findall(clause[2])) for clause in clauses if clause is not None]

    def changed(node: Node) -> int:
        mode = node.mode
        for who, steps in actions:
            for sign, letters in steps:
                mode = _apply(mode, who, sign, letters, node.is_directory)
        return mode

    return changed


def _apply(mode: int, who: str, sign: str, letters: str, is_directory: bool) -> int:
    targets = "ugo" if not who or "a" in who else who
    bits = mask = 0
    for target in targets:
        shift = _SHIFTS[target]
        mask |= 0o7 << shift
        for letter, bit in (("r", 4), ("w", 2), ("x", 1)):
            if letter in letters:
                bits |= bit << shift
        if "X" in letters and (is_directory or mode & 0o111):
            bits |= 1 << shift
        if "s" in letters and target in "ug":
            bits |= stat.S_ISUID if target == "u" else stat.S_ISGID
    if "t" in letters:
        bits |= stat.S_ISVTX
    if sign == "+":
        return mode | bits
    if sign == "-":
        return mode & ~bits
    return (mode & ~mask) | bits
