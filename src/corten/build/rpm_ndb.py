"""The packages in a file of rpm's own database format, ``Packages.db`` (ndb, as SUSE has it).

Source: rpm, ``lib/backend/ndb/rpmpkg.c``: little-endian; pages of slots in front, each says where a package lies in
blocks of sixteen bytes; what lies there begins with its own number and length.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import BinaryIO

_HEADER, _SLOT, _BLOB = struct.Struct("<4sIII16x"), struct.Struct("<4sIII"), struct.Struct("<4sIII")
_PAGE, _BLOCK = 4096, 16
_MAX_PAGES = 2048  # of slots: half a million packages


def blobs(file: BinaryIO) -> Iterator[bytes]:
    """Headers, in the order of the file.  Errors: ValueError for no such file, or a broken one."""
    magic, version, _, pages = _HEADER.unpack(_at(file, 0, _HEADER.size))
    if magic != b"RpmP" or version != 0 or not 0 < pages <= _MAX_PAGES:
        raise ValueError("no database of rpm's own format that is known")
    slots = _at(file, _HEADER.size, pages * _PAGE - _HEADER.size)
    end = pages * _PAGE  # each blob lies behind the one before: none is read twice
    found = [_SLOT.unpack_from(slots, position) for position in range(0, len(slots), _SLOT.size)]
    for magic, number, first, count in sorted(found, key=lambda slot: slot[2]):
        if magic != b"Slot":
            raise ValueError("a slot of rpm's own format is broken")
        if not number:
            continue
        place = first * _BLOCK
        magic, own, _, length = _BLOB.unpack(_at(file, place, _BLOB.size))
        if magic != b"BlbS" or own != number or place < end or _BLOB.size + length > count * _BLOCK:
            raise ValueError("a package of rpm's own format is broken")
        end = place + count * _BLOCK
        yield _at(file, place + _BLOB.size, length)


def _at(file: BinaryIO, position: int, size: int) -> bytes:
    file.seek(position)
    data = file.read(size)
    if len(data) < size:
        raise ValueError("a database of rpm's own format is cut off")
    return data
