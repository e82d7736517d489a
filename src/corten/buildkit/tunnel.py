"""A connection within a call: a stream of BytesMessage, used as a transport (``Control/Session`` of BuildKit)."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from typing import TYPE_CHECKING, Any

from corten.buildkit.proto.session_pb2 import BytesMessage
from corten.buildkit.wire import parsed
from corten.errors import CortenError

if TYPE_CHECKING:
    from corten.grpc.server import ServerCall

_PIECE = 1 << 20
_HIGH = 1 << 20


class Tunnel(asyncio.Transport):
    """Bytes come and go over ``call``; ``run`` moves them until one side ends."""

    def __init__(self, call: ServerCall) -> None:
        super().__init__()
        self._call = call
        self._protocol: asyncio.Protocol
        self._outgoing: deque[bytes] = deque()
        self._held = 0
        self._high = _HIGH
        self._is_paused = False
        self._is_closing = False
        self._wanted = asyncio.Event()  # there is something to send, or nothing will come
        self._may_read = asyncio.Event()
        self._may_read.set()
        self._aborted: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def run(self) -> None:
        """Both directions, to the end; the protocol has its ``connection_lost`` then."""
        self._call.begin()
        working = [asyncio.ensure_future(self._read()), asyncio.ensure_future(self._write())]
        try:
            await asyncio.wait([*working, self._aborted], return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._is_closing = True
            for task in working:
                task.cancel()
            await asyncio.gather(*working, return_exceptions=True)
            self._protocol.connection_lost(None)

    async def _read(self) -> None:
        with contextlib.suppress(CortenError):
            while (message := await self._call.receive()) is not None:
                await self._may_read.wait()
                data = parsed(BytesMessage, message).data
                if data:
                    self._protocol.data_received(data)

    async def _write(self) -> None:
        with contextlib.suppress(CortenError):
            while True:
                await self._wanted.wait()
                self._wanted.clear()
                while self._outgoing:
                    await self._call.send(BytesMessage(data=self._taken()).SerializeToString())
                    if self._is_paused and self._held <= self._high // 2:
                        self._is_paused = False
                        self._protocol.resume_writing()
                if self._is_closing:
                    return

    def _taken(self) -> bytes:
        parts: list[bytes] = []
        size = 0
        while self._outgoing and size + len(self._outgoing[0]) <= _PIECE:
            parts.append(self._outgoing.popleft())
            size += len(parts[-1])
        if not parts:
            first = self._outgoing.popleft()
            self._outgoing.appendleft(first[_PIECE:])
            parts, size = [first[:_PIECE]], _PIECE
        self._held -= size
        return b"".join(parts)

    # -- transport ----------------------------------------------------------------------------------------------------

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        assert isinstance(protocol, asyncio.Protocol)
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._protocol

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def is_closing(self) -> bool:
        return self._is_closing

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._is_closing or not data:
            return
        self._outgoing.append(bytes(data))
        self._held += len(data)
        self._wanted.set()
        if self._held > self._high and not self._is_paused:
            self._is_paused = True
            self._protocol.pause_writing()

    def get_write_buffer_size(self) -> int:
        return self._held

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._high = _HIGH if high is None else high

    def pause_reading(self) -> None:
        self._may_read.clear()

    def resume_reading(self) -> None:
        self._may_read.set()

    def close(self) -> None:
        """What has been written still goes out."""
        self._is_closing = True
        self._wanted.set()

    def abort(self) -> None:
        self._is_closing = True
        if not self._aborted.done():
            self._aborted.set_result(None)
