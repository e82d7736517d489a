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

    def put(self, content: bytes, digest: Digest | None = None) -> Digest:
        """Store ``content``; the digest, computed when none is promised.

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
                os.fsync(file.fileno())
            temporary.rename(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        return actual

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

    def sweep(self, used: set[str], *, older_than_s: float = 0.0) -> int:
        """Remove what is not in ``used``, and what an interrupted write left; bytes freed."""
        freed = 0
        limit = time.time() - older_than_s
        for algorithm in self._root.iterdir():
            for path in algorithm.iterdir():
                digest = f"{algorithm.name}:{path.name}"
                if digest in used and is_digest(digest):
                    continue
                with contextlib.suppress(FileNotFoundError):
                    status = path.stat()
                    if status.st_mtime <= limit:
                        path.unlink()
                        freed += status.st_size
        return freed


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)
