"""The pages that a fork has made its own, and having them copied before they are written to."""

from __future__ import annotations

import ctypes
import json
import mmap
import os

from corten.linux import pages

PAGES = 64


def in_a_fork(work):
    """What ``work`` returns in a child of this process."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writing, json.dumps(work()).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as file:
        content = file.read()
    os.waitpid(child, 0)
    return json.loads(content)


def memory():
    """Private memory with every page written to, and its address."""
    area = mmap.mmap(-1, PAGES * mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    area.write(b"x" * len(area))
    return area, ctypes.addressof(ctypes.c_char.from_buffer(area))


def own_pages(address):
    """Numbers of the pages there that this process shares with nobody."""
    found = set()
    for begin, length in pages.own():
        found |= set(range((begin - address) // mmap.PAGESIZE, (begin + length - address) // mmap.PAGESIZE))
    return sorted(found & set(range(PAGES)))


def test_a_fork_owns_what_it_has_written_to():
    area, address = memory()

    def write():
        for number in (3, 4, 5, 40, 63):
            area[number * mmap.PAGESIZE] = 0
        return own_pages(address)

    assert in_a_fork(write) == [3, 4, 5, 40, 63]
    assert in_a_fork(lambda: own_pages(address)) == []


def test_pages_are_made_own_and_stay_as_they_are():
    area, address = memory()

    def make():
        pages.make_own(
            [(address + 7 * mmap.PAGESIZE, 2 * mmap.PAGESIZE), (address + 20 * mmap.PAGESIZE, mmap.PAGESIZE)]
        )
        return [own_pages(address), area[:] == b"x" * len(area)]

    assert in_a_fork(make) == [[7, 8, 20], True]


def test_memory_that_is_gone_is_left_out():
    with mmap.mmap(-1, mmap.PAGESIZE) as area:
        address = ctypes.addressof(ctypes.c_char.from_buffer(area))
    pages.make_own([(address, mmap.PAGESIZE)])
