"""Pages of memory that a fork has made its own by writing to them.

Sources: Documentation/admin-guide/mm/pagemap.rst, madvise(2), proc_pid_maps(5).
"""

from __future__ import annotations

import array
import ctypes
import os
from collections.abc import Callable, Iterable

# (address, length) in bytes
Range = tuple[int, int]

_MADV_POPULATE_WRITE = 23
_PAGE = os.sysconf("SC_PAGE_SIZE")
_PRESENT, _OF_A_FILE, _EXCLUSIVE = 1 << 63, 1 << 61, 1 << 56
_ENTRY = 8

_madvise = ctypes.CDLL(None).madvise
_madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


def own(open_file: Callable[[str, int], int] = os.open, directory: str = "/proc/self") -> list[Range]:
    """What the calling process shares with nobody, without its stack.

    open_file: as ``os.open``
    Errors: OSError.
    """
    maps = open_file(f"{directory}/maps", os.O_RDONLY)
    try:
        text = b""
        while part := os.read(maps, 65536):
            text += part
    finally:
        os.close(maps)
    table = open_file(f"{directory}/pagemap", os.O_RDONLY)
    try:
        found: list[Range] = []
        for line in text.splitlines():
            fields = line.split()
            if fields[1] == b"rw-p" and fields[-1] != b"[stack]":
                begin, end = (int(part, 16) for part in fields[0].split(b"-"))
                found += _own_within(table, begin, end)
        return found
    finally:
        os.close(table)


def _own_within(table: int, begin: int, end: int) -> list[Range]:
    entries = array.array("Q", os.pread(table, (end - begin) // _PAGE * _ENTRY, begin // _PAGE * _ENTRY))
    found: list[Range] = []
    first = -1
    for index, entry in enumerate([*entries, 0]):
        is_own = entry & _PRESENT and entry & _EXCLUSIVE and not entry & _OF_A_FILE
        if is_own and first < 0:
            first = index
        elif not is_own and first >= 0:
            found.append((begin + first * _PAGE, (index - first) * _PAGE))
            first = -1
    return found


def make_own(ranges: Iterable[Range]) -> None:
    """Have them copied now, as if they were written to; their content stays.

    What is not there any more is left out; a kernel before 5.14 does nothing.
    """
    for address, length in ranges:
        _madvise(address, length, _MADV_POPULATE_WRITE)
