"""One header of rpm: what is known of a package, as its databases hold it.

Source: rpm's manual, "RPM v4 header format" and "Tags".  In a database a header has no magic: two counts in front,
then entries of sixteen bytes (tag, type, offset, count), then the data that they point into; all big-endian.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

_MAX_ENTRIES, _MAX_DATA = 1 << 16, 256 << 20  # rpm's own limits
_INT32, _STRING, _STRING_ARRAY, _I18NSTRING = 4, 6, 8, 9
_TAGS = {
    1000: "name",
    1001: "version",
    1002: "release",
    1003: "epoch",
    1011: "vendor",
    1014: "license",
    1015: "packager",
    1020: "url",
    1022: "arch",
    1044: "source",
}


@dataclass(frozen=True, slots=True)
class RpmHeader:
    """source: the file name of the source package; epoch: "" for none; all of it "" when the header does not tell"""

    name: str = ""
    version: str = ""
    release: str = ""
    epoch: str = ""
    vendor: str = ""
    license: str = ""
    packager: str = ""
    url: str = ""
    arch: str = ""
    source: str = ""


def read_header(blob: bytes) -> RpmHeader:
    """Errors: ValueError when it is none."""
    if len(blob) < 8:
        raise ValueError("an rpm header is cut off")
    entries, size = struct.unpack_from(">II", blob)
    start = 8 + 16 * entries
    if entries > _MAX_ENTRIES or size > _MAX_DATA or start + size > len(blob):
        raise ValueError("an rpm header does not fit into its place")
    data = blob[start : start + size]
    found: dict[str, str] = {}
    for number in range(entries):
        tag, kind, offset, count = struct.unpack_from(">IIII", blob, 8 + 16 * number)
        name = _TAGS.get(tag)
        if name is not None and count and name not in found:
            found[name] = _value(data, kind, offset)
    if not found.get("name"):
        raise ValueError("an rpm header names no package")
    return RpmHeader(**found)


def _value(data: bytes, kind: int, offset: int) -> str:
    """The first one of an entry."""
    if kind == _INT32 and offset + 4 <= len(data):
        return str(int.from_bytes(data[offset : offset + 4], "big"))
    end = data.find(b"\0", offset)
    if kind in (_STRING, _STRING_ARRAY, _I18NSTRING) and offset < len(data) and end >= 0:
        return data[offset:end].decode("utf-8", "replace")
    raise ValueError("an rpm header has a value that is not there")
