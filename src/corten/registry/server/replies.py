"""What handlers give back: bytes, a part of a file, or chunks of a known length."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from typing import BinaryIO

from corten.registry.server.failures import Headers, Refusal

JSON = "application/json"


@dataclass(slots=True)
class Reply:
    """A complete answer.

    stays: what tells that the same request gets the same answer: called before it is given again, raises or gives False
           when that is so no longer; None for an answer that is made every time anew
    """

    status: int = 200
    body: bytes = b""
    content_type: str = ""
    headers: Headers = ()
    closes: bool = False
    stays: Callable[[], bool] | None = field(default=None, repr=False)

    @property
    def length(self) -> int:
        return len(self.body)


@dataclass(slots=True)
class FileReply:
    """``length`` bytes of a file from ``start`` on; the file is closed afterwards."""

    file: BinaryIO
    start: int
    length: int
    status: int = 200
    content_type: str = ""
    headers: Headers = ()
    closes: bool = False


@dataclass(slots=True)
class ChunkReply:
    """As many bytes as ``length`` says, in chunks."""

    chunks: AsyncGenerator[bytes, None]
    length: int
    status: int = 200
    content_type: str = ""
    headers: Headers = ()
    closes: bool = False


AnyReply = Reply | FileReply | ChunkReply


def refused(refusal: Refusal) -> Reply:
    """The answer to a request that cannot be fulfilled."""
    return Reply(refusal.status, refusal.document(), "application/json; charset=utf-8", refusal.headers, refusal.closes)
