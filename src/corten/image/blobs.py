"""The content store: image configs and manifests by digest, ``blobs/<algorithm>/<hex>``.

What is visible is complete and was checked against its digest.  Layers are not here: their files and splits are.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from pathlib import Path

from corten.errors import DataLoss, NotFound
from corten.oci.digest import Digest, digest_of, is_digest, parse_digest, split_digest
from corten.oci.documents import MAX_CONFIG_BYTES

_TEMPORARY = ".new-"


class Blobs:
    """Thread-safe: every write goes through a name of its own."""

    def __init__(self, data_root: Path) -> None:
        self._root = data_root / "blobs"
        self._root.mkdir(mode=0o710, exist_ok=True)
        for algorithm in ("sha256", "sha512"):
            (self._root / algorithm).mkdir(mode=0o710, exist_ok=True)

    def _path(self, digest: str) -> Path:
        # a digest that is none must never become a path
        return self._root.joinpath(*split_digest(parse_digest(digest)))

    def put(self, content: bytes, digest: Digest | None = None, *, durable: bool = True) -> Digest:
        """Store ``content``; the digest, computed when none is promised.

        durable: it outlives a power cut; without that it may be lost then, which is found out when it is read
        Errors: DataLoss when it is not what ``digest`` says; OSError as is.
        """
        actual = digest_of(content, split_digest(digest)[0] if digest else "sha256")
        if digest and actual != digest:
            raise DataLoss(f"invalid content: expected digest {digest}, got {actual}")
        path = self._path(actual)
        if path.exists():
            return actual
        temporary = path.with_name(f"{_TEMPORARY}{secrets.token_hex(8)}")
        try:
            with open(temporary, "xb", opener=_private) as file:
                file.write(content)
                file.flush()
                if durable:
                    os.fsync(file.fileno())
            temporary.rename(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        return actual

    def make_durable(self, digest: str) -> None:
        """What was put without waiting for the disk is there for good now.  Errors: OSError."""
        descriptor = os.open(self._path(digest), os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def restore(self, content: bytes, digest: str) -> None:
        """Put content in the place of what was damaged.  Errors: DataLoss when it is not what ``digest`` says."""
        self.delete(digest)
        self.put(content, parse_digest(digest))

    def get(self, digest: str) -> bytes:
        """The content, checked.  Errors: NotFound, DataLoss (changed on disk)."""
        try:
            with open(self._path(digest), "rb") as file:
                content = file.read(MAX_CONFIG_BYTES + 1)
        except FileNotFoundError:
            raise NotFound(f"content {digest} not found") from None
        if digest_of(content, split_digest(Digest(digest))[0]) != digest:
            raise DataLoss(f"content {digest} was changed on disk")
        return content

    def has(self, digest: str) -> bool:
        return self._path(digest).exists()

    def size(self, digest: str) -> int:
        try:
            return self._path(digest).stat().st_size
        except FileNotFoundError:
            raise NotFound(f"content {digest} not found") from None

    def delete(self, digest: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._path(digest).unlink()

    def unused(self, used: set[str], *, older_than_s: float = 0.0) -> list[str]:
        """What is not in ``used``, and what an interrupted write left ("sha256:.new-…")."""
        found = []
        limit = time.time() - older_than_s
        for algorithm in self._root.iterdir():
            for path in algorithm.iterdir():
                name = f"{algorithm.name}:{path.name}"
                if name in used and is_digest(name):
                    continue
                with contextlib.suppress(FileNotFoundError):
                    if path.stat().st_mtime <= limit:
                        found.append(name)
        return sorted(found)

    def remove(self, name: str) -> int:
        """Remove what ``unused`` named; bytes freed."""
        path = self._root.joinpath(*name.split(":", 1))
        with contextlib.suppress(FileNotFoundError):
            size = path.stat().st_size
            path.unlink()
            return size
        return 0

    def sweep(self, used: set[str], *, older_than_s: float = 0.0) -> int:
        """Remove what is ``unused``; bytes freed."""
        return sum(self.remove(name) for name in self.unused(used, older_than_s=older_than_s))


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)
