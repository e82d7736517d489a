"""Tar headers, one block at a time: numbers, names, extended records.  No I/O.

Formats: V7, ustar and PAX (POSIX.1-2001, pax(1)), GNU (base-256 numbers, long names, sparse maps), star's prefix.
Where archives are ambiguous the reading is Go's ``archive/tar``, since that is what wrote and checked nearly every
image: an engine that reads the same bytes differently can be made to store something else than what was inspected.
"""

from __future__ import annotations

import struct
import zlib
from typing import Final

from corten.errors import InvalidParameter

BLOCK: Final = 512
ZERO_BLOCK: Final = bytes(BLOCK)
# a long name or a set of PAX records; Go's archive/tar has the same limit
MAX_METADATA_BYTES: Final = 1 << 20
MAX_SIZE: Final = (1 << 63) - 1
MAX_ID: Final = (1 << 32) - 2  # 2^32-1 means "leave as it is" to chown(2)

REGULAR: Final = 0x30
HARDLINK: Final = 0x31
SYMLINK: Final = 0x32
CHARACTER: Final = 0x33
BLOCK_DEVICE: Final = 0x34
DIRECTORY: Final = 0x35
FIFO: Final = 0x36
CONTIGUOUS: Final = 0x37
PAX: Final = 0x78
PAX_GLOBAL: Final = 0x67
GNU_LONGNAME: Final = 0x4C
GNU_LONGLINK: Final = 0x4B
GNU_SPARSE: Final = 0x53
_V7_REGULAR: Final = 0x00

WITHOUT_DATA: Final = frozenset({HARDLINK, SYMLINK, CHARACTER, BLOCK_DEVICE, DIRECTORY, FIFO})

_FIELDS = struct.Struct("100s8s8s8s12s12s8sB100s8s32s32s8s8s155s12s")
_UID, _GID, _SIZE = b"uid", b"gid", b"size"


class TarEntry:
    """One member.  ``size`` is the bytes of data in the archive, ``real_size`` the length of the file they make.

    Times are nanoseconds since the epoch; ``atime_ns`` is None when the archive does not say.  ``sparse`` lists the
    (offset, length) of the data; None for an ordinary file.
    """

    __slots__ = (
        "atime_ns",
        "devmajor",
        "devminor",
        "gid",
        "gname",
        "kind",
        "linkname",
        "mode",
        "mtime_ns",
        "name",
        "real_size",
        "size",
        "sparse",
        "uid",
        "uname",
        "xattrs",
    )

    def __init__(self) -> None:
        self.name = b""
        self.kind = REGULAR
        self.mode = 0o644
        self.uid = 0
        self.gid = 0
        self.size = 0
        self.real_size = 0
        self.mtime_ns = 0
        self.atime_ns: int | None = None
        self.linkname = b""
        self.uname = b""
        self.gname = b""
        self.devmajor = 0
        self.devminor = 0
        self.xattrs: dict[bytes, bytes] | None = None
        self.sparse: list[tuple[int, int]] | None = None


def invalid(what: str) -> InvalidParameter:
    return InvalidParameter(f"invalid tar archive: {what}")


def shown(name: bytes) -> str:
    """A name from an archive for one line of an error: quoted, bounded."""
    text = name[:200].decode("utf-8", "backslashreplace")
    return (
        '"'
        + "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)
        + ('"' if len(name) <= 200 else '…"')
    )


_numbers: dict[bytes, int] = {}


def _small_number(field: bytes) -> int:
    """``number`` for fields that hold the same few values in a whole archive: mode and owner."""
    known = _numbers.get(field)
    if known is None:
        if len(_numbers) > 4096:
            _numbers.clear()
        known = _numbers[field] = number(field)
    return known


def number(field: bytes) -> int:
    """An octal or base-256 number; empty is 0.  Errors: InvalidParameter."""
    if field[0] & 0x80:
        return _base256(field)
    text = field.strip(b" \0").partition(b"\0")[0]
    if text and not text.isdigit():
        raise invalid("malformed number in a header")
    try:
        return int(text, 8) if text else 0
    except ValueError:
        raise invalid("malformed number in a header") from None


def _base256(field: bytes) -> int:
    value = int.from_bytes(field, "big") & ((1 << (len(field) * 8 - 1)) - 1)
    if field[0] & 0x40:
        value -= 1 << (len(field) * 8 - 1)
    if not -MAX_SIZE <= value <= MAX_SIZE:
        raise invalid("number too large in a header")
    return value


def _checksum_matches(block: bytes, field: bytes) -> bool:
    try:
        stated = number(field)
    except InvalidParameter:
        return False
    # Adler-32's low half is 1 + the sum of all bytes modulo 65521: the sum of a block in one C call
    total = (zlib.adler32(block) & 0xFFFF) - 1 - (zlib.adler32(field) & 0xFFFF) + 1 + 8 * 0x20
    if (stated - total) % 65521 == 0 and 0 <= stated <= 512 * 255:
        return True
    signed = sum(byte - 256 if byte > 127 else byte for byte in block[:148] + b" " * 8 + block[156:])
    return stated == signed


def is_header(block: bytes) -> bool:
    """Whether a block has a tar header's checksum."""
    return _checksum_matches(block, block[148:156])


def parse_block(block: bytes) -> TarEntry:
    """The member that one header block describes, without what extended headers add.

    Errors: InvalidParameter for a bad checksum, malformed or negative numbers.
    """
    (name, mode, uid, gid, size, mtime, checksum, kind, link, magic, uname, gname, major, minor, prefix, tail) = (
        _FIELDS.unpack(block)
    )
    if not _checksum_matches(block, checksum):
        raise invalid("a header's checksum is wrong")
    entry = TarEntry()
    entry.name = name.partition(b"\0")[0]
    entry.kind = kind
    entry.mode = _small_number(mode) & 0o7777
    entry.uid = _small_number(uid)
    entry.gid = _small_number(gid)
    entry.size = number(size)
    if entry.size < 0:
        raise invalid(f"negative size of {shown(entry.name)}")
    entry.mtime_ns = number(mtime) * 1_000_000_000
    if link[0]:
        entry.linkname = link.partition(b"\0")[0]
    if magic[:5] == b"ustar":
        entry.uname = uname.partition(b"\0")[0]
        entry.gname = gname.partition(b"\0")[0]
        if kind in (CHARACTER, BLOCK_DEVICE):
            entry.devmajor, entry.devminor = number(major), number(minor)
        if prefix[0] and magic[:6] == b"ustar\0":
            if tail[8:] == b"tar\0":
                prefix = prefix[:131]
            start = prefix.partition(b"\0")[0]
            entry.name = start + b"/" + entry.name if start else entry.name
    if kind == CONTIGUOUS:
        entry.kind = REGULAR
    return entry


def finish(entry: TarEntry) -> None:
    """Settle what depends on extended headers too: the type of V7 entries, whether data follows, the ids' range."""
    if entry.kind == _V7_REGULAR:
        entry.kind = DIRECTORY if entry.name.endswith(b"/") else REGULAR
    if entry.kind in WITHOUT_DATA:
        entry.size = 0
    entry.real_size = entry.size
    if not (0 <= entry.uid <= MAX_ID and 0 <= entry.gid <= MAX_ID):
        raise invalid(f"owner of {shown(entry.name)} out of range")


def parse_pax(records: bytes) -> dict[bytes, bytes]:
    """The records of an extended header; a later one wins.  Errors: InvalidParameter.

    The sparse format 0.0 repeats two keys; they come out joined as ``GNU.sparse.map``, as in 0.1.
    """
    found: dict[bytes, bytes] = {}
    pieces: list[bytes] = []
    position, end = 0, len(records)
    while position < end:
        space = records.find(b" ", position, position + 12)
        if space < 0 or not records[position:space].isdigit():
            raise invalid("malformed PAX record")
        stop = position + int(records[position:space])
        if stop > end or stop <= space + 1 or records[stop - 1] != 0x0A:
            raise invalid("malformed PAX record")
        key, equals, value = records[space + 1 : stop - 1].partition(b"=")
        if not equals or not key or b"\0" in key or (key in _TEXT_KEYS and b"\0" in value):
            raise invalid("malformed PAX record")
        if key in (b"GNU.sparse.offset", b"GNU.sparse.numbytes"):
            if (len(pieces) % 2 == 0) != (key == b"GNU.sparse.offset") or b"," in value:
                raise invalid("malformed sparse map")
            pieces.append(value)
        else:
            found[key] = value
        position = stop
    if pieces:
        found[b"GNU.sparse.map"] = b",".join(pieces)
    return found


_TEXT_KEYS = frozenset({b"path", b"linkpath", b"uname", b"gname"})
_XATTR_PREFIX = b"SCHILY.xattr."


def apply_pax(entry: TarEntry, records: dict[bytes, bytes]) -> None:
    """Overlay a header's values with its PAX records; an empty value leaves the header's.  Errors: InvalidParameter."""
    for key, value in records.items():
        if key.startswith(_XATTR_PREFIX):
            if entry.xattrs is None:
                entry.xattrs = {}
            entry.xattrs[key[len(_XATTR_PREFIX) :]] = value
        elif not value:
            continue
        elif key == b"path":
            entry.name = value
        elif key == b"linkpath":
            entry.linkname = value
        elif key == b"mtime":
            entry.mtime_ns = _pax_time(value)
        elif key == b"atime":
            entry.atime_ns = _pax_time(value)
        elif key == _SIZE:
            entry.size = pax_number(value)
        elif key == _UID:
            entry.uid = pax_number(value)
        elif key == _GID:
            entry.gid = pax_number(value)
        elif key == b"uname":
            entry.uname = value
        elif key == b"gname":
            entry.gname = value


def pax_number(value: bytes) -> int:
    """A decimal number that is not negative.  Errors: InvalidParameter."""
    if not value.isdigit() or len(value) > 19 or int(value) > MAX_SIZE:
        raise invalid(f"malformed number {shown(value[:32])} in a PAX record")
    return int(value)


def _pax_time(value: bytes) -> int:
    """Seconds with any number of decimals, as nanoseconds."""
    whole, _, fraction = value.partition(b".")
    sign = -1 if whole.startswith(b"-") else 1
    digits = whole[1:] if whole[:1] == b"-" else whole
    if not digits.isdigit() or len(digits) > 19 or (fraction and not fraction.isdigit()):
        raise invalid(f"malformed time {shown(value[:32])} in a PAX record")
    return sign * (int(digits) * 1_000_000_000 + int(fraction[:9].ljust(9, b"0") or b"0"))


# -- sparse maps ------------------------------------------------------------------------------------------------------


def old_gnu_map(block: bytes, count: int, start: int) -> tuple[list[tuple[int, int]], bool]:
    """The (offset, length) pairs in a header or continuation block, and whether another block follows."""
    pairs = []
    for index in range(count):
        place = start + 24 * index
        if not block[place]:
            break
        pairs.append((number(block[place : place + 12]), number(block[place + 12 : place + 24])))
    return pairs, block[start + 24 * count] != 0


def pax_map(text: bytes) -> list[tuple[int, int]]:
    """``GNU.sparse.map``: offset,length,offset,length…"""
    values = [pax_number(item) for item in text.split(b",")] if text else []
    if len(values) % 2:
        raise invalid("malformed sparse map")
    return list(zip(values[::2], values[1::2], strict=True))


def check_map(entry: TarEntry, pairs: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The map without empty pieces, which must be in order, inside the file, and make up the member's data."""
    position = total = 0
    kept = []
    for offset, length in pairs:
        if offset < position or length < 0 or offset + length > entry.real_size:
            raise invalid(f"malformed sparse map of {shown(entry.name)}")
        position = offset + length
        total += length
        if length:
            kept.append((offset, length))
    if total != entry.size:
        raise invalid(f"the sparse map of {shown(entry.name)} does not match its data")
    return kept
