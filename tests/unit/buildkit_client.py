"""A client of BuildKit's protocol that serves what a test tells it to serve."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from corten.buildkit.proto.fsutil_pb2 import Packet, Stat
from corten.buildkit.proto.session_pb2 import BytesMessage
from corten.grpc.client import Call, Channel
from corten.grpc.server import Handler, ServerCall, ServerLink, serve
from corten.grpc.status import Code, GrpcError

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


DIRECTORY, SYMLINK = 1 << 31, 1 << 27  # os.FileMode


def stat(path: str, mode: int = 0o644, content: bytes = b"", link: str = "", mtime: int = 10**18, **more: Any) -> Stat:
    return Stat(
        path=path.encode("utf-8", "surrogateescape"), mode=mode, size=len(content), linkname=link.encode(),
        modTime=mtime, uid=1000, gid=1000, **more,
    )  # fmt: skip


class Sender:
    """A client's directory: what it lists and what it sends when it is asked.

    entries: in the order in which they are listed; contents: by path; asked: paths that were asked for
    """

    def __init__(self, entries: Iterable[Stat], contents: Mapping[str, bytes] | None = None) -> None:
        self.entries = list(entries)
        self.contents = contents or {}
        self.asked: list[str] = []
        self.metadata: Mapping[str, Sequence[str]] = {}
        self.error = ""
        self.finished = False
        self.piece = 32 * 1024

    @property
    def handlers(self) -> Mapping[str, Handler]:
        return {"/moby.filesync.v1.FileSync/DiffCopy": self.send}

    async def send(self, call: ServerCall) -> None:
        self.metadata = dict(call.metadata)
        for entry in self.entries:
            await call.send(Packet(type=Packet.PACKET_STAT, stat=entry).SerializeToString())
        await call.send(Packet(type=Packet.PACKET_STAT).SerializeToString())
        while (message := await call.receive()) is not None:
            packet = Packet.FromString(message)
            if packet.type == Packet.PACKET_ERR:
                self.error = packet.data.decode()
                raise GrpcError(Code.UNKNOWN, f"error from receiver: {self.error}")
            if packet.type == Packet.PACKET_FIN:
                self.finished = True
                await call.send(Packet(type=Packet.PACKET_FIN).SerializeToString())
                return
            path = self.entries[packet.ID].path.decode()
            self.asked.append(path)
            await self.answer(call, packet.ID, self.contents[path])

    async def answer(self, call: ServerCall, number: int, content: bytes) -> None:
        for start in range(0, len(content), self.piece):
            data = content[start : start + self.piece]
            await call.send(Packet(type=Packet.PACKET_DATA, ID=number, data=data).SerializeToString())
        await call.send(Packet(type=Packet.PACKET_DATA, ID=number).SerializeToString())


class Target:
    """Where a client takes results: files by exporter's number."""

    def __init__(self) -> None:
        self.metadata: Mapping[str, Sequence[str]] = {}
        self.data = b""
        self.stats: list[Stat] = []
        self.contents: dict[str, bytes] = {}

    async def take_bytes(self, call: ServerCall) -> None:
        self.metadata = dict(call.metadata)
        while (message := await call.receive()) is not None:
            self.data += BytesMessage.FromString(message).data

    async def take_tree(self, call: ServerCall) -> None:
        """Asks for a file as soon as it is listed."""
        self.metadata = dict(call.metadata)
        listed = False
        wanted: set[int] = set()
        while (message := await call.receive()) is not None:
            packet = Packet.FromString(message)
            if packet.type == Packet.PACKET_STAT and packet.HasField("stat"):
                if not packet.stat.mode & ~0o777:
                    wanted.add(len(self.stats))
                    self.contents[packet.stat.path.decode()] = b""
                    request = Packet(type=Packet.PACKET_REQ, ID=len(self.stats))
                    await call.send(request.SerializeToString())
                self.stats.append(packet.stat)
            elif packet.type == Packet.PACKET_STAT:
                listed = True
            elif packet.type == Packet.PACKET_DATA:
                if packet.data:
                    self.contents[self.stats[packet.ID].path.decode()] += packet.data
                else:
                    wanted.remove(packet.ID)
            elif packet.type == Packet.PACKET_FIN:
                return
            if listed and not wanted:
                await call.send(Packet(type=Packet.PACKET_FIN).SerializeToString())
                listed = False
