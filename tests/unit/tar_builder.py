"""Archives for tests, made by Python's own tarfile and not by what is tested."""

from __future__ import annotations

import io
import tarfile
from typing import Any

KINDS = {
    "file": tarfile.REGTYPE,
    "dir": tarfile.DIRTYPE,
    "symlink": tarfile.SYMTYPE,
    "hardlink": tarfile.LNKTYPE,
    "char": tarfile.CHRTYPE,
    "block": tarfile.BLKTYPE,
    "fifo": tarfile.FIFOTYPE,
}


def one_line(error: BaseException) -> None:
    """Errors are shown to people: one line each."""
    assert "\n" not in str(error)
    assert str(error)


class Tar:
    """``Tar().dir("a").file("a/b", b"x").bytes()``"""

    def __init__(self, format: int = tarfile.PAX_FORMAT) -> None:
        self._buffer = io.BytesIO()
        self._tar = tarfile.TarFile(fileobj=self._buffer, mode="w", format=format)

    def add(self, kind: str, name: str, content: bytes = b"", **fields: Any) -> Tar:
        entry = tarfile.TarInfo(name)
        entry.type = KINDS[kind]
        entry.mode = fields.pop("mode", 0o755 if kind == "dir" else 0o644)
        entry.mtime = fields.pop("mtime", 1_700_000_000)
        entry.size = len(content)
        xattrs = fields.pop("xattrs", {})
        for key, value in fields.items():
            setattr(entry, key, value)
        entry.pax_headers.update({f"SCHILY.xattr.{key}": value for key, value in xattrs.items()})
        self._tar.addfile(entry, io.BytesIO(content))
        return self

    def file(self, name: str, content: bytes = b"", **fields: Any) -> Tar:
        return self.add("file", name, content, **fields)

    def dir(self, name: str, **fields: Any) -> Tar:
        return self.add("dir", name, **fields)

    def symlink(self, name: str, target: str, **fields: Any) -> Tar:
        return self.add("symlink", name, linkname=target, **fields)

    def hardlink(self, name: str, target: str, **fields: Any) -> Tar:
        return self.add("hardlink", name, linkname=target, **fields)

    def bytes(self) -> bytes:
        self._tar.close()
        return self._buffer.getvalue()
