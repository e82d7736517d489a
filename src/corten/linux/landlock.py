"""Landlock: a process locks itself in.  Source: Documentation/userspace-api/landlock.rst.

What is locked in stays so in every thread and process that it makes, and nobody can take it back.  It cannot be used
for what makes containers: a process that is locked in may not mount, and neither may the programs that come of it.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable

from corten.linux.process import PR_SET_NO_NEW_PRIVS, prctl
from corten.linux.syscall import call

_VERSION = 1
_RULE_PATH_BENEATH = 1

_EXECUTE, _WRITE_FILE = 1 << 0, 1 << 1
_REMOVE_DIR, _REMOVE_FILE = 1 << 4, 1 << 5
# character device, directory, file, socket, pipe, block device, link
_MAKE = sum(1 << bit for bit in range(6, 13))
_REFER, _TRUNCATE = 1 << 13, 1 << 14
# without it names can never be moved or linked from one directory to another
_OLDEST_USEFUL = 2
_TRUNCATE_SINCE = 3


class _RulesetAttributes(ctypes.Structure):
    _fields_ = (("handled_access_fs", ctypes.c_uint64),)


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (("allowed_access", ctypes.c_uint64), ("parent_fd", ctypes.c_int32))


def version() -> int:
    """Of the kernel's interface; 0 when there is none, or it is switched off."""
    try:
        return call("landlock_create_ruleset", None, 0, _VERSION)
    except OSError:
        return 0


def confine_writes(directories: Iterable[str]) -> bool:
    """From now on this thread, and all that comes of it, makes, changes and removes files only below the directories.

    It also executes nothing any more, and gains no privileges.  Reading, owners and modes are not confined.
    Whether the kernel can do it; nothing has changed when it cannot.
    Errors: OSError for a directory that is not there.
    """
    known = version()
    if known < _OLDEST_USEFUL:
        return False
    writing = _WRITE_FILE | _REMOVE_DIR | _REMOVE_FILE | _MAKE | _REFER
    if known >= _TRUNCATE_SINCE:
        writing |= _TRUNCATE
    attributes = _RulesetAttributes(writing | _EXECUTE)
    ruleset = call("landlock_create_ruleset", attributes, ctypes.sizeof(attributes), 0)
    try:
        for directory in directories:
            place = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                call("landlock_add_rule", ruleset, _RULE_PATH_BENEATH, _PathBeneath(writing, place), 0)
            finally:
                os.close(place)
        prctl(PR_SET_NO_NEW_PRIVS, 1)
        call("landlock_restrict_self", ruleset, 0)
    finally:
        os.close(ruleset)
    return True
