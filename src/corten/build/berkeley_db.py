"""The pairs of a hash table of Berkeley DB, read and never written; of either byte order.

Source: Oracle's Berkeley DB, ``dbinc/db_page.h``: page 0 says what the file is, each page begins with 26 bytes that say
what is on it, offsets of its items follow; what is too large for a page lies in a chain of overflow pages.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import BinaryIO

_MAGIC = 0x061561
_HEADER = 26
_HASH_PAGES, _OVERFLOW_PAGE = (2, 13), 7
_KEYDATA, _OFFPAGE = 1, 3


class HashTable:
    """file: positioned anywhere, read at its places.  Errors: ValueError for what is none, or broken."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        head = self._at(0, 512)
        self._order = next((order for order in "<>" if struct.unpack_from(f"{order}I", head, 12)[0] == _MAGIC), "")
        if not self._order:
            raise ValueError("no hash table of Berkeley DB")
        self._size, self._last = struct.unpack_from(f"{self._order}I8xI", head, 20)[0], self._number(head, 32)
        if self._size not in (512 << shift for shift in range(8)) or head[24]:
            raise ValueError("a hash table of Berkeley DB with pages of an impossible size, or encrypted")
        self._left = self._last + 1  # overflow pages that may still be read: each belongs to one item

    def _at(self, position: int, size: int) -> bytes:
        self._file.seek(position)
        data = self._file.read(size)
        if len(data) < size:
            raise ValueError("a hash table of Berkeley DB is cut off")
        return data

    def _number(self, data: bytes, position: int) -> int:
        return int(struct.unpack_from(f"{self._order}I", data, position)[0])

    def _page(self, number: int) -> bytes:
        return self._at(number * self._size, self._size)

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """Keys and values, in the order of the file."""
        for number in range(1, self._last + 1):
            page = self._page(number)
            if page[25] in _HASH_PAGES:
                found = [self._item(page, place, end) for place, end in self._places(page)]
                yield from zip(found[::2], found[1::2], strict=False)

    def _places(self, page: bytes) -> Iterator[tuple[int, int]]:
        """(begin, end) of each item: they are laid out from the end of the page on."""
        (count,) = struct.unpack_from(f"{self._order}H", page, 20)
        first = _HEADER + 2 * count
        if first > self._size:
            raise ValueError("a page of Berkeley DB has more items than it has room for")
        end = self._size
        for place in struct.unpack_from(f"{self._order}{count}H", page, _HEADER):
            if not first <= place < end:
                raise ValueError("a page of Berkeley DB has an item outside of it")
            yield place, end
            end = place

    def _item(self, page: bytes, place: int, end: int) -> bytes:
        if page[place] == _KEYDATA:
            return page[place + 1 : end]
        if page[place] != _OFFPAGE or end - place < 12:
            raise ValueError("a page of Berkeley DB has an item of an unknown kind")
        return self._chain(self._number(page, place + 4), self._number(page, place + 8))

    def _chain(self, number: int, size: int) -> bytes:
        """size: of the whole"""
        pieces: list[bytes] = []
        missing = size
        while missing > 0:
            self._left -= 1
            page = self._page(number)
            (length,) = struct.unpack_from(f"{self._order}H", page, 22)
            if self._left < 0 or page[25] != _OVERFLOW_PAGE or not 0 < length <= min(missing, self._size - _HEADER):
                raise ValueError("a chain of Berkeley DB's pages is broken")
            pieces.append(page[_HEADER : _HEADER + length])
            missing -= length
            number = self._number(page, 16)
        return b"".join(pieces)
