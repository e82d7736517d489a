"""A client of BuildKit's protocol that serves what a test tells it to serve."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

from corten.buildkit.proto.session_pb2 import BytesMessage
from corten.grpc.client import Call, Channel
from corten.grpc.server import Handler, ServerLink, serve

EXPOSE = "X-Docker-Expose-Session-"


def session_headers(session_id: str, methods: Mapping[str, Handler], key: str = "key") -> list[tuple[str, str]]:
    named = {"Uuid": session_id, "Name": "test", "Sharedkey": key}
    return [(EXPOSE + name, value) for name, value in named.items()] + [
        (EXPOSE + "Grpc-Method", path) for path in methods
    ]


class _Head(asyncio.Protocol):
    """Reads up to the end of a response's head."""

    def __init__(self) -> None:
        self.data = b""
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def data_received(self, data: bytes) -> None:
        self.data += data
        if b"\r\n\r\n" in self.data and not self.done.done():
            self.done.set_result(None)


async def upgraded(path: Path, target: str, headers: list[tuple[str, str]]) -> tuple[asyncio.Transport, bytes]:
    """A connection after the 101, and what came with it."""
    transport, protocol = await asyncio.get_running_loop().create_unix_connection(_Head, str(path))
    lines = [f"POST {target} HTTP/1.1", "Host: x", "Connection: Upgrade", "Upgrade: h2c"]
    lines += [f"{name}: {value}" for name, value in headers]
    transport.write(("\r\n".join(lines) + "\r\n\r\n").encode())
    await protocol.done
    head, _, early = protocol.data.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 101"):
        transport.close()
        raise ConnectionError(f"{head.splitlines()[0]!r} {early!r}")
    return transport, early


@contextlib.asynccontextmanager
async def session(
    path: Path, session_id: str, handlers: Mapping[str, Handler], key: str = "key"
) -> AsyncIterator[ServerLink]:
    transport, early = await upgraded(path, "/session", session_headers(session_id, handlers, key))
    link = serve(transport, handlers, early)
    try:
        yield link
    finally:
        link.close()
        await link.closed


@contextlib.asynccontextmanager
async def control(path: Path) -> AsyncIterator[Channel]:
    transport, early = await upgraded(path, "/grpc", [])
    channel = Channel(transport, early)
    try:
        yield channel
    finally:
        channel.close()
        await channel.closed


class CallTransport(asyncio.Transport):
    """The client's end of a session that is tunnelled through a call."""

    def __init__(self, call: Call) -> None:
        super().__init__()
        self._call = call
        self._protocol: asyncio.Protocol
        self._queue: asyncio.Queue[bytes] = asyncio.Queue()
        self._closing = False

    async def run(self) -> None:
        async def sending() -> None:
            while True:
                await self._call.send(BytesMessage(data=await self._queue.get()).SerializeToString())

        task = asyncio.ensure_future(sending())
        try:
            async for message in self._call:
                self._protocol.data_received(BytesMessage.FromString(message).data)
        finally:
            task.cancel()
            self._protocol.connection_lost(None)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        assert isinstance(protocol, asyncio.Protocol)
        self._protocol = protocol

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self._queue.put_nowait(bytes(data))

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        self._closing = True

    abort = close

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...
