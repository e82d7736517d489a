"""Both roles of our gRPC against the grpcio package, and against peers that misbehave."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from typing import Any

import grpc
import grpc.aio
import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    PingAckReceived,
    ResponseReceived,
    StreamReset,
    TrailersReceived,
)

from corten.errors import NotFound
from corten.grpc import metadata, status
from corten.grpc.client import Channel
from corten.grpc.frames import PREFACE, Frame, FrameCutter, Run, window_update
from corten.grpc.framing import MessageReader, prefix
from corten.grpc.link import DEFAULT_LIMITS, Limits
from corten.grpc.server import Handler, ServerCall, ServerLink, serve, unary
from corten.grpc.status import Code, GrpcError

MEGABYTE = 1 << 20
PREFACE_AND_SETTINGS = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"
# POST http /t.T/Wait as gRPC, not indexed (RFC 7541, section 6.2.2), on stream 1
WAIT_HEADERS = b"\x83\x86\x01\x01x\x04\x09/t.T/Wait" + b"\x0f\x10\x10application/grpc"
WAIT = len(WAIT_HEADERS).to_bytes(3, "big") + b"\1\4\0\0\0\1" + WAIT_HEADERS
OPTIONS = [("grpc.max_receive_message_length", 64 << 20), ("grpc.max_send_message_length", 64 << 20)]


def run(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(60):
            await work()

    asyncio.run(bounded())


async def eventually(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0.01)


# -- handlers that the tests call ------------------------------------------------------------------------------------


async def echo(call: ServerCall) -> None:
    while (message := await call.receive()) is not None:
        await call.send(message)


async def count(call: ServerCall) -> None:
    total = 0
    while (message := await call.receive()) is not None:
        total += len(message)
    await call.send(str(total).encode())


async def pour(call: ServerCall) -> None:
    number = int(await call.receive() or b"0")
    for _ in range(number):
        await call.send(b"x" * MEGABYTE)


async def reverse(request: bytes, call: ServerCall) -> bytes:
    if request == b"missing":
        raise NotFound("no such thing: ü%\n")
    if request == b"bug":
        raise ZeroDivisionError("a secret of the house")
    call.trailers["seen"] = [metadata.first(call.metadata, "colour")]
    return request[::-1]


async def wait_for_ever(call: ServerCall) -> None:
    await asyncio.Event().wait()


HANDLERS: Mapping[str, Handler] = {
    "/t.T/Echo": echo,
    "/t.T/Count": count,
    "/t.T/Pour": pour,
    "/t.T/Reverse": unary(reverse),
    "/t.T/Wait": wait_for_ever,
}


@contextlib.asynccontextmanager
async def serving(
    handlers: Mapping[str, Handler] = HANDLERS,
    limits: Limits = DEFAULT_LIMITS,
    links: list[ServerLink] | None = None,
) -> AsyncIterator[str]:
    """The address of a server of ours.  links: what it has of its connections"""
    links = [] if links is None else links

    class Taken(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            assert isinstance(transport, asyncio.Transport)
            links.append(serve(transport, handlers, limits=limits))

    server = await asyncio.get_running_loop().create_server(Taken, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()[:2]
    yield f"{host}:{port}"
    for link in links:
        link.close()
    for link in links:
        await link.closed
    server.close()


@contextlib.asynccontextmanager
async def theirs(
    handlers: Mapping[str, Handler] = HANDLERS,
    limits: Limits = DEFAULT_LIMITS,
) -> AsyncIterator[grpc.aio.Channel]:
    """A channel of grpcio to a server of ours."""
    async with serving(handlers, limits) as address, grpc.aio.insecure_channel(address, OPTIONS) as channel:
        yield channel


@contextlib.asynccontextmanager
async def connected(address: str) -> AsyncIterator[Channel]:
    host, _, port = address.rpartition(":")
    transport, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, host, int(port))
    channel = Channel(transport)
    yield channel
    channel.close()
    await channel.closed


class Grpcio(grpc.GenericRpcHandler):
    """The same service, by grpcio."""

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        name = details.method.rpartition("/")[2]
        return {
            "Echo": grpc.stream_stream_rpc_method_handler(self.echo),
            "Reverse": grpc.unary_unary_rpc_method_handler(self.reverse),
            "Pour": grpc.unary_stream_rpc_method_handler(self.pour),
            "Count": grpc.stream_unary_rpc_method_handler(self.count),
            "Wait": grpc.unary_unary_rpc_method_handler(self.wait),
        }.get(name)

    async def echo(self, messages: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        async for message in messages:
            yield message

    async def reverse(self, request: bytes, context: Any) -> bytes:
        if request == b"missing":
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such thing: ü%\n")
        given = dict(context.invocation_metadata())
        context.set_trailing_metadata((("seen", given.get("colour", "")),))
        return request[::-1]

    async def pour(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        for _ in range(int(request)):
            yield b"x" * MEGABYTE

    async def count(self, messages: AsyncIterator[bytes], context: Any) -> bytes:
        return str(sum([len(message) async for message in messages])).encode()

    async def wait(self, request: bytes, context: Any) -> bytes:
        self.was_cancelled = asyncio.get_running_loop().create_future()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.was_cancelled.set_result(True)
            raise
        return b""


@contextlib.asynccontextmanager
async def ours() -> AsyncIterator[tuple[Channel, Grpcio]]:
    """A channel of ours to a server of grpcio."""
    service = Grpcio()
    server = grpc.aio.server(options=OPTIONS)
    server.add_generic_rpc_handlers((service,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with connected(f"127.0.0.1:{port}") as channel:
        yield channel, service
    await server.stop(None)


# -- our server ------------------------------------------------------------------------------------------------------


def test_unary_with_metadata_and_trailers() -> None:
    async def work() -> None:
        async with theirs() as channel:
            call = channel.unary_unary("/t.T/Reverse")(b"abc", metadata=(("colour", "red"),))
            assert await call == b"cba"
            assert dict(await call.trailing_metadata())["seen"] == "red"

    run(work)


def test_errors_of_handlers() -> None:
    async def work() -> None:
        async with theirs() as channel:
            method = channel.unary_unary("/t.T/Reverse")
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await method(b"missing")
            assert (caught.value.code(), caught.value.details()) == (
                grpc.StatusCode.NOT_FOUND, "no such thing: ü%\n",
            )  # fmt: skip
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await method(b"bug")
            assert caught.value.code() == grpc.StatusCode.INTERNAL
            assert "secret" not in (caught.value.details() or "")
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await channel.unary_unary("/t.T/Nothing")(b"")
            assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED

    run(work)


def test_streams_both_ways_larger_than_any_window() -> None:
    async def work() -> None:
        async with theirs() as channel:

            async def messages() -> AsyncIterator[bytes]:
                for _ in range(24):
                    yield b"y" * MEGABYTE

            assert await channel.stream_unary("/t.T/Count")(messages()) == str(24 * MEGABYTE).encode()
            got = [len(message) async for message in channel.unary_stream("/t.T/Pour")(b"24")]
            assert got == [MEGABYTE] * 24
            echoed = [len(message) async for message in channel.stream_stream("/t.T/Echo")(messages())]
            assert echoed == [MEGABYTE] * 24

    run(work)


def test_a_message_as_large_as_is_allowed_and_one_larger() -> None:
    async def work() -> None:
        async with theirs() as channel:
            method = channel.unary_unary("/t.T/Reverse")
            assert len(await method(b"z" * (16 << 20))) == 16 << 20
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await method(b"z" * ((16 << 20) + 1))
            assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
            assert await method(b"still here") == b"ereh llits"

    run(work)


def test_deadlines_and_cancelling_end_the_handler() -> None:
    ended: list[str] = []

    async def wait(call: ServerCall) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(call.path)

    async def work() -> None:
        async with theirs({"/t.T/Wait": wait}) as channel:
            method = channel.unary_unary("/t.T/Wait")
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await method(b"", timeout=0.2)
            assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
            call = method(b"")
            await eventually(lambda: len(ended) == 1)
            await asyncio.sleep(0.05)
            call.cancel()
            await eventually(lambda: len(ended) == 2)

    run(work)


def test_compressed_messages_are_refused() -> None:
    async def work() -> None:
        async with theirs() as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await channel.unary_unary("/t.T/Reverse")(b"a" * 2000, compression=grpc.Compression.Gzip)
            assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED

    run(work)


def test_a_slow_reader_holds_up_the_sender_and_nobody_else() -> None:
    sent: list[int] = []

    async def endless(call: ServerCall) -> None:
        while True:
            await call.send(b"x" * MEGABYTE)
            sent.append(1)

    async def work() -> None:
        async with serving({**HANDLERS, "/t.T/Endless": endless}) as address, connected(address) as channel:
            async with await channel.stream("/t.T/Endless") as call:
                await call.half_close()
                await call.receive()
                held = -1
                while held != len(sent):
                    held = len(sent)
                    await asyncio.sleep(0.2)
                assert held < 24  # a window, what the sockets hold, what is ahead
                assert await channel.unary("/t.T/Reverse", b"ab") == b"ba"
                for _ in range(held + 5):
                    assert await call.receive()

    run(work)


def test_a_lost_connection_ends_handlers() -> None:
    ended = []

    async def wait(call: ServerCall) -> None:
        try:
            await call.receive()
            await call.receive()
        except GrpcError as error:
            ended.append(error.code)
            raise
        except asyncio.CancelledError:
            ended.append(Code.CANCELLED)
            raise

    async def work() -> None:
        async with serving({"/t.T/Wait": wait}) as address:
            async with connected(address) as channel:
                call = await channel.stream("/t.T/Wait")
                await call.send(b"")
                await asyncio.sleep(0.1)
                channel.link.abort()
                await channel.closed
            await eventually(lambda: bool(ended))

    run(work)


# -- our client ------------------------------------------------------------------------------------------------------


def test_calls_of_every_kind() -> None:
    async def work() -> None:
        async with ours() as (channel, _):
            async with await channel.stream("/t.T/Reverse", {"colour": ["blue"]}) as call:
                await call.send(b"abc")
                await call.half_close()
                assert await call.receive() == b"cba"
                assert await call.receive() is None
                assert call.trailers["seen"] == ["blue"]
            async with await channel.stream("/t.T/Pour") as call:
                await call.send(b"24")
                await call.half_close()
                assert [len(message) async for message in call] == [MEGABYTE] * 24
            async with await channel.stream("/t.T/Count") as call:
                for _ in range(24):
                    await call.send(b"y" * MEGABYTE)
                await call.half_close()
                assert await call.receive() == str(24 * MEGABYTE).encode()
            async with await channel.stream("/t.T/Echo") as call:
                for text in (b"", b"one", b"two"):
                    await call.send(text)
                    assert await call.receive() == text
                await call.half_close()
                assert await call.receive() is None

    run(work)


def test_errors_of_the_other_side() -> None:
    async def work() -> None:
        async with ours() as (channel, _):
            with pytest.raises(GrpcError) as caught:
                await channel.unary("/t.T/Reverse", b"missing")
            assert (caught.value.code, caught.value.message) == (Code.NOT_FOUND, "no such thing: ü%\n")
            assert isinstance(caught.value.as_kind(), NotFound)
            with pytest.raises(GrpcError) as caught:
                await channel.unary("/t.T/Nothing", b"")
            assert caught.value.code == Code.UNIMPLEMENTED
            with pytest.raises(GrpcError) as caught:
                await channel.unary("/t.T/Reverse", b"z" * ((16 << 20) + 1))
            assert caught.value.code == Code.RESOURCE_EXHAUSTED

    run(work)


def test_own_deadlines_cancel_the_call_there() -> None:
    async def work() -> None:
        async with ours() as (channel, service):
            with pytest.raises(GrpcError) as caught:
                await channel.unary("/t.T/Wait", b"", timeout_s=0.3)
            assert caught.value.code == Code.DEADLINE_EXCEEDED
            assert await service.was_cancelled

    run(work)


def test_a_call_that_is_left_is_cancelled_there() -> None:
    async def work() -> None:
        async with ours() as (channel, service):
            async with await channel.stream("/t.T/Wait") as call:
                await call.send(b"")
                await call.half_close()
                await eventually(lambda: hasattr(service, "was_cancelled"))
            assert await service.was_cancelled

    run(work)


def test_nothing_can_be_sent_after_the_end_and_the_connection_lives_on() -> None:
    async def work() -> None:
        async with ours() as (channel, _):
            async with await channel.stream("/t.T/Count") as call:
                await call.send(b"abc")
                await call.half_close()
                with pytest.raises(GrpcError, match="this side has ended the call"):
                    await call.send(b"d")
                assert await call.receive() == b"3"
            assert await channel.unary("/t.T/Reverse", b"ab") == b"ba"

    run(work)


def test_a_lost_connection_ends_calls() -> None:
    async def work() -> None:
        async with ours() as (channel, _):
            call = await channel.stream("/t.T/Echo")
            waiting = asyncio.ensure_future(call.receive())
            await asyncio.sleep(0.05)
            channel.link.abort()
            with pytest.raises(GrpcError) as caught:
                await waiting
            assert caught.value.code == Code.UNAVAILABLE
            with pytest.raises(GrpcError) as caught:
                await channel.unary("/t.T/Reverse", b"")
            assert caught.value.code == Code.UNAVAILABLE

    run(work)


# -- peers that misbehave --------------------------------------------------------------------------------------------


class Peer:
    """A client that does what it is told, over a socket."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self.sock = socket.create_connection((host, int(port)), timeout=10)
        self.h2 = H2Connection(H2Configuration(header_encoding="utf-8"))
        self.h2.initiate_connection()
        self.flush()

    def flush(self) -> None:
        self.sock.sendall(self.h2.data_to_send())

    def request(self, path: str, *, ended: bool = False, **extra: str) -> int:
        stream = self.h2.get_next_available_stream_id()
        headers = {":method": "POST", ":scheme": "http", ":path": path, ":authority": "x", "te": "trailers"}
        headers |= {
            "content-type": "application/grpc",
            **{name.replace("_", "-"): value for name, value in extra.items()},
        }
        self.h2.send_headers(stream, list(headers.items()), end_stream=ended)
        self.flush()
        return stream

    def until(self, *kinds: type[Event]) -> Event:
        """The next event of these kinds; the end of the connection counts as ConnectionTerminated."""
        while True:
            data = self.sock.recv(65536)
            if not data:
                return ConnectionTerminated()
            for event in self.h2.receive_data(data):
                if isinstance(event, kinds):
                    return event
            self.flush()


def misbehaving(
    work: Callable[[Peer], None], limits: Limits = DEFAULT_LIMITS, handlers: Mapping[str, Handler] = HANDLERS
) -> None:
    async def scene() -> None:
        async with serving(handlers, limits) as address:

            def talk() -> None:
                peer = Peer(address)
                with contextlib.closing(peer.sock):
                    work(peer)

            await asyncio.to_thread(talk)

    run(scene)


def _headers(event: Event) -> dict[str, str]:
    assert isinstance(event, ResponseReceived | TrailersReceived)
    return {str(name): str(value) for name, value in event.headers or []}


def test_pings_are_answered() -> None:
    def work(peer: Peer) -> None:
        peer.h2.ping(b"12345678")
        peer.flush()
        event = peer.until(PingAckReceived)
        assert isinstance(event, PingAckReceived)
        assert event.ping_data == b"12345678"

    misbehaving(work)


def test_what_is_no_grpc_is_refused() -> None:
    def work(peer: Peer) -> None:
        peer.request("/t.T/Reverse", content_type="text/html", ended=True)
        assert _headers(peer.until(ResponseReceived))[":status"] == "415"

    misbehaving(work)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"\0\xff\xff\xff\xff", Code.RESOURCE_EXHAUSTED),
        (b"\1\0\0\0\1x", Code.INTERNAL),
    ],
    ids=["too long", "compressed"],
)
def test_messages_that_cannot_be_taken(data: bytes, code: Code) -> None:
    def work(peer: Peer) -> None:
        stream = peer.request("/t.T/Count")
        peer.h2.send_data(stream, data)
        peer.flush()
        assert _headers(peer.until(ResponseReceived))["grpc-status"] == str(code.value)

    misbehaving(work)


def test_an_end_within_a_message() -> None:
    def work(peer: Peer) -> None:
        stream = peer.request("/t.T/Count")
        peer.h2.send_data(stream, b"\0\0\0\0\5ab", end_stream=True)
        peer.flush()
        assert _headers(peer.until(ResponseReceived))["grpc-status"] == str(Code.INTERNAL.value)

    misbehaving(work)


def test_a_malformed_timeout() -> None:
    def work(peer: Peer) -> None:
        peer.request("/t.T/Count", grpc_timeout="soon")
        assert _headers(peer.until(ResponseReceived))["grpc-status"] == str(Code.INTERNAL.value)

    misbehaving(work)


def test_too_many_streams_are_refused() -> None:
    def work(peer: Peer) -> None:
        for _ in range(3):  # before it has seen what the server allows
            peer.request("/t.T/Wait")
        event = peer.until(StreamReset, ConnectionTerminated)
        if isinstance(event, StreamReset):
            assert event.error_code == ErrorCodes.REFUSED_STREAM

    misbehaving(work, Limits(streams=2))


def test_garbage_ends_the_connection() -> None:
    def work(peer: Peer) -> None:
        peer.sock.sendall(b"\0\0\4\0\0\0\0\0\0oops" * 3)
        assert isinstance(peer.until(ConnectionTerminated), ConnectionTerminated)

    misbehaving(work)


def test_what_all_calls_hold_together_is_bounded() -> None:
    async def never(call: ServerCall) -> None:
        await asyncio.Event().wait()

    def work(peer: Peer) -> None:
        data = prefix(MEGABYTE) + bytes(MEGABYTE)
        streams = [peer.request("/t.T/Never") for _ in range(8)]
        try:
            for stream in streams:
                rest = data
                while rest:
                    room = min(peer.h2.local_flow_control_window(stream), 16384)
                    if not room:
                        if isinstance(peer.until(ConnectionTerminated, Event), ConnectionTerminated):
                            return
                        continue
                    peer.h2.send_data(stream, rest[:room])
                    rest = rest[room:]
                    peer.flush()
            assert isinstance(peer.until(ConnectionTerminated), ConnectionTerminated)
        except ConnectionError:
            pass  # it was cut off while it sent

    misbehaving(work, Limits(held_bytes=4 << 20, message_bytes=MEGABYTE), {"/t.T/Never": never})


def test_a_peer_that_does_not_keep_to_its_window() -> None:
    async def never(call: ServerCall) -> None:
        await asyncio.Event().wait()

    def work(peer: Peer) -> None:
        stream = peer.request("/t.T/Never")
        frame = (16384).to_bytes(3, "big") + b"\0\0" + stream.to_bytes(4, "big") + prefix(16379) + bytes(16379)
        with contextlib.suppress(ConnectionError):
            for _ in range(100):  # the first megabyte is given back
                peer.sock.sendall(frame)
            assert isinstance(peer.until(ConnectionTerminated), ConnectionTerminated)

    misbehaving(work, Limits(stream_window=65536), {"/t.T/Never": never})


def test_messages_without_content_count_too() -> None:
    async def never(call: ServerCall) -> None:
        await asyncio.Event().wait()

    def work(peer: Peer) -> None:
        stream = peer.request("/t.T/Never")
        content = prefix(0) * 3276
        frame = len(content).to_bytes(3, "big") + b"\0\0" + stream.to_bytes(4, "big") + content
        with contextlib.suppress(ConnectionError):
            for _ in range(80):  # more than the stream's window, less than the connection's
                peer.sock.sendall(frame)
            assert isinstance(peer.until(ConnectionTerminated), ConnectionTerminated)

    misbehaving(work, Limits(stream_window=MEGABYTE), {"/t.T/Never": never})


def test_data_within_headers() -> None:
    """RFC 9113, section 6.10: nothing may come between the pieces of one list of headers."""

    def work(peer: Peer) -> None:
        stream = peer.request("/t.T/Count")
        peer.sock.sendall(b"\0\0\1\1\0\0\0\0\3\x82")  # HEADERS that are not complete
        peer.sock.sendall(b"\0\0\5\0\0" + stream.to_bytes(4, "big") + prefix(0))
        assert isinstance(peer.until(ConnectionTerminated), ConnectionTerminated)

    misbehaving(work)


@pytest.mark.parametrize("step", [1, 7, 24, 10_000])
def test_frames_cut_anywhere(step: int) -> None:
    stream = bytes(PREFACE) + window_update(5, 1000) + b"\0\0\3\0\1\x80\0\0\7abc" + b"\0\0\0\4\1\0\0\0\0"
    cutter = FrameCutter(PREFACE, 100)
    found = [
        (frame.kind, frame.flags, frame.stream, bytes(frame.payload))
        for at in range(0, len(stream), step)
        for frame in cutter.feed(stream[at : at + step])
        if isinstance(frame, Frame) and frame.kind >= 0
    ]
    assert found == [(8, 0, 5, b"\0\0\3\xe8"), (0, 1, 7, b"abc"), (4, 1, 0, b"")]


def in_frames(stream: int, *contents: bytes) -> bytes:
    """DATA, one frame each."""
    return b"".join(len(data).to_bytes(3, "big") + b"\0\0" + stream.to_bytes(4, "big") + data for data in contents)


@pytest.mark.parametrize("step", [1, 20, 10_000])
def test_small_messages_are_cut_out_together(step: int) -> None:
    def framed(message: bytes) -> bytes:
        return prefix(len(message)) + message

    stream = in_frames(5, framed(b"a"), framed(b""), framed(b"bc" * 10))
    stream += in_frames(7, framed(b"d"), framed(b"e")) + in_frames(7, b"\1\0\0\0\1z", framed(bytes(101)))
    cutter = FrameCutter(0, 200)
    found: list[tuple[int, bytes]] = []
    runs = []
    for at in range(0, len(stream), step):
        for piece in cutter.feed(stream[at : at + step]):
            if isinstance(piece, Run):
                runs.append((piece.stream, piece.messages))
                assert piece.size == sum(len(frame.payload) for frame in piece.frames())
            frames = piece.frames() if isinstance(piece, Run) else [piece]
            found += [(frame.stream, bytes(frame.payload)) for frame in frames]
    payloads = [*map(framed, (b"a", b"", b"bc" * 10, b"d", b"e")), b"\1\0\0\0\1z", framed(bytes(101))]
    assert found == list(zip([5] * 3 + [7] * 4, payloads, strict=True))
    if step == 10_000:
        assert runs == [(5, [b"a", b"", b"bc" * 10]), (7, [b"d", b"e"])]
    with pytest.raises(ValueError, match="201"):
        list(cutter.feed(in_frames(5, framed(bytes(196)), framed(bytes(196)))))


def test_data_that_look_like_messages_within_one() -> None:
    inner = [prefix(3) + b"abc"] * 100

    def work(peer: Peer) -> None:
        stream = peer.request("/t.T/Count")
        peer.sock.sendall(in_frames(stream, prefix(800), *inner, *inner))
        peer.h2.end_stream(stream)
        peer.flush()
        answer = peer.until(DataReceived)
        assert isinstance(answer, DataReceived)
        assert answer.data == prefix(4) + b"1100"  # one message of 800 bytes, 100 of 3

    misbehaving(work)


def test_small_messages_that_cannot_be_taken() -> None:
    async def never(call: ServerCall) -> None:
        await asyncio.Event().wait()

    def too_large(peer: Peer) -> None:
        stream = peer.request("/t.T/Count")
        peer.sock.sendall(in_frames(stream, prefix(1) + b"a", prefix(101) + bytes(101)))
        assert _headers(peer.until(ResponseReceived))["grpc-status"] == str(Code.RESOURCE_EXHAUSTED.value)

    def too_many(peer: Peer) -> None:
        stream = peer.request("/t.T/Never")
        with contextlib.suppress(ConnectionError):
            for _ in range(200):
                peer.sock.sendall(in_frames(stream, *[prefix(1000) + bytes(1000)] * 10))
            assert isinstance(peer.until(ConnectionTerminated), ConnectionTerminated)

    misbehaving(too_large, Limits(message_bytes=100))
    misbehaving(too_many, Limits(stream_window=65536), {"/t.T/Never": never})


def test_a_large_frame_in_tiny_pieces() -> None:
    """What has come is not copied with each piece."""
    cutter = FrameCutter(0, 1 << 18)
    frame = (1 << 18).to_bytes(3, "big") + b"\0\0\0\0\0\1" + bytes(1 << 18)
    began = time.process_time()
    found = [len(item.payload) for byte in frame for item in cutter.feed(bytes([byte]))]
    assert found == [1 << 18]
    assert time.process_time() - began < 1.5  # copies of all of it: 34 GB


def test_a_flood_of_small_frames_leaves_others_their_turn() -> None:
    """RFC 9113, section 10.5: frames of no use; here more PINGs than a connection takes at once."""
    waits: list[float] = []

    async def look() -> None:
        while True:
            began = time.monotonic()
            await asyncio.sleep(0)
            waits.append(time.monotonic() - began)

    async def work() -> None:
        ping = b"\0\0\x08\6\0\0\0\0\0" + bytes(8)
        looking = asyncio.ensure_future(look())
        async with serving() as address:
            host, _, port = address.rpartition(":")
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(PREFACE_AND_SETTINGS + ping * 20_000)
            answered = 0
            while answered < 20_000 * len(ping):
                answered += len(await reader.read(1 << 16))
            writer.close()
        looking.cancel()
        assert max(waits) < 0.3  # all of them at once: seconds
        assert len(waits) > 20_000 // 128

    run(work)


def test_who_makes_no_call_is_let_go_and_who_does_not_answer_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("corten.grpc.server._IDLE_S", 0.1)
    monkeypatch.setattr("corten.grpc.server._ASKED_AFTER_S", 0.1)
    monkeypatch.setattr("corten.grpc.server._GONE_S", 0.5)

    async def work() -> None:
        links: list[ServerLink] = []
        async with serving(links=links) as address, connected(address) as idle, connected(address) as busy:
            async with await busy.stream("/t.T/Wait") as call:
                await call.send(b"")
                began = time.monotonic()
                while time.monotonic() < began + 1:
                    for link in links:
                        link.check()
                    await asyncio.sleep(0.05)
                assert idle.closed.done()
                assert not busy.closed.done()  # it answers what it is asked
                with socket.socket() as deaf:
                    host, _, port = address.rpartition(":")
                    deaf.connect((host, int(port)))
                    deaf.sendall(PREFACE_AND_SETTINGS + WAIT)
                    await eventually(lambda: len(links) == 3 and bool(links[2]._tasks))
                    began = time.monotonic()
                    while not links[2].closed.done():
                        links[2].check()
                        await asyncio.sleep(0.05)
                    assert 0.4 < time.monotonic() - began < 5
                    assert not links[2]._tasks

    run(work)


def test_a_peer_that_says_goodbye_ends_our_calls() -> None:
    def work(peer: Peer) -> None:
        peer.request("/t.T/Wait")
        peer.h2.close_connection()
        peer.flush()
        while peer.sock.recv(65536):
            pass  # a time-out would tell that it is still open

    misbehaving(work)


# -- pieces ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [1, 3, 1000])
def test_messages_cut_anywhere(step: int) -> None:
    messages = [b"", b"a", b"bc" * 100, b""]
    stream = b"".join(prefix(len(message)) + message for message in messages)
    reader = MessageReader()
    found = [message for at in range(0, len(stream), step) for message in reader.feed(stream[at : at + step])]
    assert found == messages
    assert reader.is_between


@pytest.mark.parametrize("text", ["", "plain", "100 % sure", "line\nbreak", "Grüße", "\x7f\0"])
def test_error_texts_survive_headers(text: str) -> None:
    encoded = status.encode_message(text)
    assert encoded.isascii()
    assert encoded.isprintable() or not encoded
    assert status.decode_message(encoded) == text


@pytest.mark.parametrize("seconds", [1e-6, 0.25, 1.0, 90.0, 86400.0, 10.0**9])
def test_timeouts(seconds: float) -> None:
    text = metadata.encode_timeout(seconds)
    assert len(text) <= 9
    assert metadata.decode_timeout(text) == pytest.approx(seconds, rel=0.01)


@pytest.mark.parametrize("name", ["Upper", "with space", "grpc-status", "content-type", ""])
def test_names_that_metadata_cannot_have(name: str) -> None:
    with pytest.raises(GrpcError):
        metadata.encode({name: ["x"]})


def test_values_that_metadata_cannot_have() -> None:
    with pytest.raises(GrpcError):
        metadata.encode({"name": ["a\nb"]})
