"""Files of the client's directory, received: the listing first, then contents that are asked for by number.

```
 client ── STAT…, empty STAT ──▶ engine      all that the patterns leave, sorted
 client ◀── REQ id ── engine                    as many as are wanted, any time
 client ── DATA id…, empty DATA ──▶ engine   several files at once
 client ◀── FIN ── engine, FIN ──▶              or ERR with a text, either way
```
Source: tonistiigi/fsutil, ``receive.go``; moby/buildkit, ``session/filesync`` (metadata of the call).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote_plus

from corten.buildkit.proto.fsutil_pb2 import Packet, Stat
from corten.buildkit.wire import parsed
from corten.errors import InvalidParameter, NotFound
from corten.grpc.status import Code, GrpcError

if TYPE_CHECKING:
    from corten.buildkit.sessions import Session
    from corten.grpc.client import Call

_DIFF_COPY = "/moby.filesync.v1.FileSync/DiffCopy"
_ENCODED = "-encoded"
_MAX_ERROR = 2048
_FAREWELL_S = 1.0
_BATCH = 4 << 20
_TURN = 500  # entries of a listing before others get their turn
_GATHER_S = 0.001
_FIN = Packet(type=Packet.PACKET_FIN).SerializeToString()


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is wanted of a directory that the client knows by ``name``.

    include, exclude: patterns as in ``.dockerignore``; nothing to include means everything
    follow: paths that are included with whatever their links lead to
    """

    name: str
    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    follow: Sequence[str] = ()

    def metadata(self) -> dict[str, list[str]]:
        given = {
            "include-patterns": self.include,
            "exclude-patterns": self.exclude,
            "followpaths": self.follow,
            "dir-name": [self.name],
        }
        found: dict[str, list[str]] = {}
        for key, values in given.items():
            if not values:
                continue
            if all(_is_plain(value) for value in values):
                found[key] = list(values)
            else:
                found[key] = [quote_plus(value, errors="surrogateescape") for value in values]
                found[key + _ENCODED] = ["1"]
        return found


def _is_plain(text: str) -> bool:
    """Whether a header can hold it as it is."""
    return text.isascii() and text.isprintable() and text == text.strip()


def _opened(message: bytes) -> Packet:
    """Errors: InvalidParameter: what the client says instead, bytes that are no packet."""
    try:
        packet = parsed(Packet, message)
    except GrpcError as error:
        raise error.as_kind("files of the client") from None
    if packet.type == Packet.PACKET_ERR:
        raise InvalidParameter(f"files of the client: {packet.data[:_MAX_ERROR].decode(errors='replace')}")
    return packet


def stat_of(message: bytes) -> Stat | None:
    """What a packet of a listing tells of; None for the last one.  Errors: InvalidParameter."""
    packet = _opened(message)
    if packet.type != Packet.PACKET_STAT:
        raise InvalidParameter("the client sends contents that nobody has asked for")
    return packet.stat if packet.HasField("stat") else None


class FileSync:
    """One call.  Used on the loop; first ``listing``, then ``receive`` in a task and ``ask`` beside it."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._ahead: deque[bytes] = deque()  # packets that have come

    @classmethod
    async def open(cls, session: Session, wanted: Wanted) -> FileSync:
        """Errors: NotImplementedYet (the client sends no files), Unavailable."""
        session.require(_DIFF_COPY, "sends no files")
        try:
            return cls(await session.stream(_DIFF_COPY, wanted.metadata()))
        except GrpcError as error:
            raise error.as_kind(f"files of the client ({wanted.name})") from None

    async def listing(self, take: Callable[[bytes], bool]) -> None:
        """Give every packet to ``take``, which reads it by ``stat_of``, until it says that there are no more.

        Errors: those of ``take``; NotFound (no such directory), Unavailable.
        """
        seen = 0
        while True:
            await self._come()
            count = min(len(self._ahead), _TURN)
            for _ in range(count):
                if not take(self._ahead.popleft()):
                    return
            seen += count
            # of a long one the client sends a few at a time: to wake up for each would take it the processor
            await asyncio.sleep(_GATHER_S if count < _TURN < seen else 0)

    async def receive(self, take: Callable[[list[tuple[int, bytes]]], Awaitable[None]]) -> None:
        """Give (number, data) to ``take`` in batches, data being empty at a file's end, until the call is over.

        Errors: as ``listing``; those of ``take``; InvalidParameter.
        """
        while True:
            await self._come()
            batch = []
            size = 0
            while self._ahead and size < _BATCH:
                packet = _opened(self._ahead.popleft())
                if packet.type == Packet.PACKET_FIN:
                    return
                if packet.type != Packet.PACKET_DATA:
                    raise InvalidParameter("the client sends something else than contents after its listing")
                batch.append((packet.ID, packet.data))
                size += len(packet.data)
            await take(batch)

    async def _come(self) -> None:
        """Wait until a packet is there."""
        if self._ahead:
            return
        try:
            first = await self._call.receive()
        except GrpcError as error:
            if error.code == Code.NOT_FOUND:
                raise NotFound(f"files of the client: {error.message}") from None
            raise error.as_kind("files of the client") from None
        self._ahead.append(_FIN if first is None else first)
        self._ahead.extend(self._call.receive_rest())

    async def ask(self, numbers: Iterable[int]) -> None:
        """Ask for contents, of each number once.  Errors: Unavailable."""
        packets = [Packet(type=Packet.PACKET_REQ, ID=number).SerializeToString() for number in numbers]
        try:
            await self._call.send_all(packets)
        except GrpcError as error:
            raise error.as_kind("files of the client") from None

    async def finish(self) -> None:
        """Nothing more is wanted; ``receive`` ends soon.  Nothing is raised: what was wanted is here."""
        with contextlib.suppress(GrpcError):
            await self._call.send(_FIN)
            await self._call.half_close()

    async def give_up(self, reason: str) -> None:
        """Tell the client that its files cannot be taken, and end the call."""
        with contextlib.suppress(GrpcError, TimeoutError):
            async with asyncio.timeout(_FAREWELL_S):
                await self._call.send(Packet(type=Packet.PACKET_ERR, data=reason.encode()).SerializeToString())
                await self._call.half_close()
                while await self._call.receive() is not None:
                    pass  # to cancel at once would be faster than the text
        self._call.cancel()

    def cancel(self) -> None:
        """End the call if it has not ended."""
        self._call.cancel()
