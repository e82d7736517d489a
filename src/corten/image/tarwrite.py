"""Tar headers, written: ustar where it suffices, PAX records where it does not (POSIX.1-2001, pax(1)).

The same member always gives the same bytes: records are sorted, owners are numbers, nothing comes from the clock.
"""

from __future__ import annotations

from corten.image import tarheader as header
from corten.image.tarheader import BLOCK, ZERO_BLOCK, TarEntry

END = ZERO_BLOCK * 2
_OCTAL_8 = 0o7777777
_OCTAL_12 = 0o77777777777


def padding(size: int) -> bytes:
    """What fills ``size`` bytes of data up to a block."""
    return bytes(-size % BLOCK)


def encode(entry: TarEntry) -> bytes:
    """The member's header blocks.  ``size`` is the bytes of data that follow (after a sparse map, if there is one)."""
    records: dict[bytes, bytes] = {}
    name, prefix = _name(entry.name, records, b"path")
    link = entry.linkname
    if len(link) > 100 or not link.isascii():
        records[b"linkpath"] = link
        link = link[:100] if link.isascii() else b""
    seconds, fraction = divmod(entry.mtime_ns, 1_000_000_000)
    if fraction or not 0 <= seconds <= _OCTAL_12:
        records[b"mtime"] = _time(entry.mtime_ns)
        seconds = min(max(seconds, 0), _OCTAL_12)
    size = entry.size
    sparse_map = b""
    if entry.sparse is not None:
        records |= {
            b"GNU.sparse.major": b"1",
            b"GNU.sparse.minor": b"0",
            b"GNU.sparse.name": entry.name,
            b"GNU.sparse.realsize": b"%d" % entry.real_size,
        }
        sparse_map = _sparse_map(entry.sparse)
        size += len(sparse_map)
    fields = [
        (b"size", size, _OCTAL_12),
        (b"uid", entry.uid, _OCTAL_8),
        (b"gid", entry.gid, _OCTAL_8),
    ]
    values = []
    for key, value, limit in fields:
        if value > limit:
            records[key] = b"%d" % value
            value = 0
        values.append(value)
    for attribute, content in (entry.xattrs or {}).items():
        records[b"SCHILY.xattr." + attribute] = content
    block = _block(name, prefix, entry.kind, entry.mode, values, seconds, link, entry.devmajor, entry.devminor)
    extended = _extended(records, entry.name) if records else b""
    return extended + block + sparse_map


def _name(name: bytes, records: dict[bytes, bytes], key: bytes) -> tuple[bytes, bytes]:
    """(name, prefix) as ustar splits a long name; else a record and a shortened name for readers that know none."""
    if not name.isascii():
        records[key] = name
        return name.decode("utf-8", "replace").encode("ascii", "replace")[:100], b""
    if len(name) <= 100:
        return name, b""
    cut = name.rfind(b"/", 0, 156)
    if 0 < cut <= 155 and 0 < len(name) - cut - 1 <= 100:
        return name[cut + 1 :], name[:cut]
    records[key] = name
    return name[:100], b""


def _time(ns: int) -> bytes:
    sign = b"-" if ns < 0 else b""
    seconds, fraction = divmod(abs(ns), 1_000_000_000)
    return sign + b"%d" % seconds + ((b".%09d" % fraction).rstrip(b"0") if fraction else b"")


def _block(
    name: bytes,
    prefix: bytes,
    kind: int,
    mode: int,
    values: list[int],
    seconds: int,
    link: bytes,
    major: int,
    minor: int,
) -> bytes:
    size, uid, gid = values
    device = kind in (header.CHARACTER, header.BLOCK_DEVICE)
    head = b"%s%07o\0%07o\0%07o\0%011o\0%011o\0" % (name.ljust(100, b"\0"), mode & 0o7777, uid, gid, size, seconds)
    tail = b"%c%sustar\x0000%s%s%s%s%s" % (
        kind,
        link.ljust(100, b"\0"),
        bytes(64),  # names of owners: numbers are what counts
        b"%07o\0" % major if device else bytes(8),
        b"%07o\0" % minor if device else bytes(8),
        prefix.ljust(155, b"\0"),
        bytes(12),
    )
    total = sum(head) + sum(tail) + 8 * 0x20
    return head + b"%06o\0 " % total + tail


def _extended(records: dict[bytes, bytes], name: bytes) -> bytes:
    body = b"".join(_record(key, records[key]) for key in sorted(records))
    base = name.rstrip(b"/").rpartition(b"/")[2]
    place = b"PaxHeaders.0/" + base.decode("utf-8", "replace").encode("ascii", "replace")[:80]
    return _block(place, b"", header.PAX, 0o644, [len(body), 0, 0], 0, b"", 0, 0) + body + padding(len(body))


def _record(key: bytes, value: bytes) -> bytes:
    """``length key=value\\n``, where the length counts itself."""
    rest = b" %s=%s\n" % (key, value)
    length = len(rest) + len(b"%d" % len(rest))
    if len(rest) + len(b"%d" % length) != length:
        length += 1
    return b"%d" % length + rest


def _sparse_map(pairs: list[tuple[int, int]]) -> bytes:
    lines = [b"%d\n" % len(pairs)] + [b"%d\n%d\n" % pair for pair in pairs]
    text = b"".join(lines)
    return text + padding(len(text))
