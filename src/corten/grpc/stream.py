"""One call's HTTP/2 stream as both roles see it: messages that have come, messages to send, how it ended."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

from corten.grpc.framing import MessageReader
from corten.grpc.status import Code, GrpcError

if TYPE_CHECKING:
    from corten.grpc.link import Link

_AHEAD = 1 << 20  # bytes of messages that nobody has taken, beyond which the sender has to wait
_MESSAGE_COST = 64  # bytes that a message takes beside its content: small ones must not come for nothing
_PATIENCE = 1 << 20  # bytes that one call sends or takes before the others get their turn


class Stream:
    """Fed by a ``Link``.  One task receives, any number send.

    headers, trailers: of the other side, None before they have come
    """

    def __init__(self, link: Link, stream_id: int) -> None:
        self.id = stream_id
        self.headers: dict[str, list[str]] | None = None
        self.trailers: dict[str, list[str]] | None = None
        self.error: GrpcError | None = None  # nothing can be sent or received any more
        self.refused: GrpcError | None = None  # why nothing more is taken in
        self._torn: GrpcError | None = None  # the end came too early
        self.ended_here = False
        self.ended_there = False
        self._link = link
        self._reader = MessageReader(link.limits.message_bytes)
        self._messages: deque[bytes] = deque()
        self._held = 0
        self._owed = 0  # bytes that the other side's window has not got back
        self._window = link.limits.stream_window  # bytes that it may send
        self._arrival: asyncio.Future[None] | None = None
        self._room: asyncio.Future[None] | None = None
        self._sending = asyncio.Lock()
        self._turn = 0

    # -- the link's side ----------------------------------------------------------------------------------------------

    @property
    def buffered(self) -> int:
        """Bytes that this stream holds."""
        return self._held + len(self._reader)

    @property
    def takes_data(self) -> bool:
        """Whether data are in their place now (RFC 9113, section 5.1)."""
        return not self.ended_there and (self.headers is not None or not self._link.is_client)

    def feed(self, data: bytes | memoryview) -> None:
        """Take in data.  Errors: GrpcError as ``MessageReader.feed``."""
        if self.error is not None or self.refused is not None:
            return
        found = self._reader.feed(data)
        if found:
            self.feed_messages(found)

    def takes_messages(self, messages: Sequence[bytes]) -> bool:
        """Whether these can be taken as they are, past the reader."""
        return (
            self.takes_data
            and self.error is None
            and self.refused is None
            and self._reader.is_between
            and max(map(len, messages)) <= self._reader.limit
        )

    def feed_messages(self, messages: Sequence[bytes]) -> None:
        self._messages.extend(messages)
        self._held += sum(map(len, messages)) + _MESSAGE_COST * len(messages)
        self._tell()

    def count(self, size: int) -> bool:
        """Data of this size have come; whether the other side was allowed to send them."""
        self._window -= size
        self._owed += size
        return self._window >= 0

    def give_back(self) -> None:
        """Let the other side send on, unless it is far ahead.

        A message that is not complete counts nothing: it may be larger than the window.
        """
        if self._held < _AHEAD and self._owed >= self._link.limits.stream_window // 4 and not self.ended_there:
            self._link.give_back(self.id, self._owed)
            self._window += self._owed
            self._owed = 0

    def tell_trailers(self, trailers: dict[str, list[str]]) -> None:
        self.trailers = trailers

    def end_there(self) -> None:
        """The other side sends no more."""
        self.ended_there = True
        if not self._reader.is_between:
            self._torn = GrpcError(Code.INTERNAL, "the stream ended within a message")
        self._tell()

    def fail(self, error: GrpcError) -> None:
        """The first error stays."""
        if self.error is None:
            self.error = error
        self._reader.drop()
        self._tell()
        self.make_room()

    def tell_headers(self, headers: dict[str, list[str]]) -> None:
        self.headers = headers
        self._tell()

    def _tell(self) -> None:
        if self._arrival is not None and not self._arrival.done():
            self._arrival.set_result(None)

    def make_room(self) -> None:
        """The window has grown, or there is nothing to wait for any more."""
        if self._room is not None and not self._room.done():
            self._room.set_result(None)

    # -- the call's side ----------------------------------------------------------------------------------------------

    async def changed(self) -> None:
        """Wait until something has come."""
        self._arrival = asyncio.get_running_loop().create_future()
        try:
            await self._arrival
        finally:
            self._arrival = None

    @property
    def has_message(self) -> bool:
        return bool(self._messages)

    async def receive(self) -> bytes | None:
        """The next message; None when the other side has said that there are no more.

        Errors: GrpcError when the stream broke.
        """
        while not self._messages:
            # what came before the end counts, whatever happened to the stream afterwards
            failure = self.refused or self._torn or (None if self.ended_there else self.error)
            if failure is not None:
                raise failure
            if self.ended_there:
                return None
            await self.changed()
        message = self._messages.popleft()
        self._held -= len(message) + _MESSAGE_COST
        self.give_back()
        await self._pass_turn(len(message))
        return message

    def receive_rest(self) -> list[bytes]:
        """What has come and nobody has taken."""
        found = list(self._messages)
        self._messages.clear()
        self._held = 0
        self.give_back()
        return found

    async def send(self, data: bytes, *, last: bool = False) -> None:
        """Send bytes as the windows and the connection allow.  Errors: GrpcError when the stream broke."""
        async with self._sending:
            with memoryview(data) as view:
                position = 0
                while position < len(view) or (last and not self.ended_here):
                    if self.error is not None:
                        raise self.error
                    if self.ended_here:
                        raise GrpcError(Code.CANCELLED, "nothing can be sent any more: this side has ended the call")
                    room = self._link.room(self.id)
                    if not room and position < len(view):
                        await self._wait_for_room()
                        continue
                    piece = view[position : position + room]
                    position += len(piece)
                    ends = last and position == len(view)
                    self._link.send_data(self.id, bytes(piece), last=ends)
                    self.ended_here = self.ended_here or ends
            await self._pass_turn(len(data))

    async def _wait_for_room(self) -> None:
        self._room = asyncio.get_running_loop().create_future()
        try:
            await self._room
        finally:
            self._room = None

    async def _pass_turn(self, size: int) -> None:
        """A peer that is never slow must not keep the loop to itself."""
        self._turn += size + 1024
        if self._turn >= _PATIENCE:
            self._turn = 0
            await asyncio.sleep(0)
