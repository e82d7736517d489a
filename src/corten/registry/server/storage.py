"""What a registry needs of the place where its content is: small, one suite of tests is for all of them.

Keys are paths with slashes (``layout``).  Whatever is written is there completely or not at all, also for readers in
other processes, and lasts when the call returns.  Errors of all: Missing, OSError, StorageFailure.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from corten.errors import Unavailable

Stamp = tuple[int, int, int]


class Missing(Exception):
    """There is nothing under this key."""


class StorageFailure(Unavailable):
    """The store does not answer, or not as it should."""


@dataclass(frozen=True, slots=True)
class Stat:
    """modified_s: when it was written (seconds since the epoch), for some storages also when it was touched"""

    size: int
    modified_s: float


class Storage(Protocol):
    """A store of bytes under keys."""

    def stamp(self, key: str) -> Stamp | None:
        """Tells one content of a key from another, without waiting; None where that is not possible.

        Errors: Missing.
        """

    async def stat(self, key: str) -> Stat:
        """Errors: Missing."""

    async def read(self, key: str) -> bytes:
        """Something small.  Errors: Missing."""

    async def write(self, key: str, content: bytes) -> None: ...

    async def adopt(self, path: Path, key: str) -> None:
        """Put a complete file of the spool under ``key``; it is not in the spool afterwards."""

    async def touch(self, key: str) -> None:
        """Somebody relies on it from now on.  Errors: Missing."""

    async def touched(self, key: str) -> float:
        """When it was written or touched last.  Errors: Missing."""

    async def open(self, key: str) -> BinaryIO | None:
        """A file to send from; None where there are only chunks.  Errors: Missing."""

    def chunks(self, key: str, start: int, length: int) -> AsyncGenerator[bytes, None]:
        """``length`` bytes from ``start`` on.  Errors: Missing, at the first one."""

    async def delete(self, key: str) -> None:
        """Take it away; nothing happens when it is not there."""

    async def names(self, prefix: str, after: str = "", limit: int = 0) -> list[str]:
        """What is directly below, sorted, beginning after a name; at most ``limit`` (0: all)."""

    async def tidy(self) -> None:
        """Take away what interrupted writes have left; it was never visible."""

    async def close(self) -> None: ...
