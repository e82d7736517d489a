"""Sessions of BuildKit's clients on a running daemon: they come, are used, and leave nothing, however they end."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from daemons import Daemon

sys.path.insert(0, str(Path(__file__).parent.parent / "unit"))
from buildkit_client import CallTransport, control, session, session_headers

from corten.buildkit.proto.health_pb2 import HealthCheckRequest, HealthCheckResponse
from corten.grpc.server import ServerCall, serve, unary
from corten.grpc.status import Code, GrpcError

pytestmark = [pytest.mark.root, pytest.mark.needs("root")]
HEALTH = "/grpc.health.v1.Health/Check"


def place(daemon: Daemon) -> Path:
    return Path(daemon.host.removeprefix("unix://"))


def run(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(30):
            await work()

    asyncio.run(bounded())


async def healthy(request: bytes, call: ServerCall) -> bytes:
    return HealthCheckResponse(status=HealthCheckResponse.SERVING).SerializeToString()


HANDLERS = {HEALTH: unary(healthy)}


def test_sessions_and_calls_side_by_side(daemon: Daemon) -> None:
    async def work() -> None:
        async with control(place(daemon)) as channel, session(place(daemon), "one", HANDLERS) as link:
            answer = await channel.unary(HEALTH, HealthCheckRequest().SerializeToString())
            assert HealthCheckResponse.FromString(answer).status == HealthCheckResponse.SERVING
            with pytest.raises(ConnectionError, match="session one already exists"):
                async with session(place(daemon), "one", HANDLERS):
                    pass
            metadata = {name.lower(): [value] for name, value in session_headers("two", HANDLERS)}
            async with await channel.stream("/moby.buildkit.v1.Control/Session", metadata) as call:
                transport = CallTransport(call)
                tunnelled = serve(transport, HANDLERS)
                running = asyncio.ensure_future(transport.run())
                again = {name.lower(): [value] for name, value in session_headers("one", HANDLERS)}
                async with await channel.stream("/moby.buildkit.v1.Control/Session", again) as refused:
                    with pytest.raises(GrpcError) as caught:
                        await refused.receive()
                    assert caught.value.code == Code.FAILED_PRECONDITION
                assert not link.closed.done()
                assert not tunnelled.closed.done()
                await call.half_close()
                await running
        async with session(place(daemon), "one", HANDLERS):
            pass  # its id is free again

    run(work)
    assert daemon.answers()


@pytest.mark.parametrize("path", ["/session", "/grpc"])
def test_clients_that_speak_something_else(daemon: Daemon, path: str) -> None:
    head = (
        f"POST {path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n"
        f"X-Docker-Expose-Session-Uuid: odd\r\n\r\n"
    ).encode()
    for rest in (
        b"\xff" * 5000,
        b"GET / HTTP/1.1\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\4\4\0\0\0\0\0oops" * 100,
        b"",
    ):
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(10)
            client.connect(str(place(daemon)))
            client.sendall(head)
            try:
                client.sendall(rest)
                if rest:
                    while client.recv(65536):
                        pass  # it ends: a time-out would fail
            except ConnectionError:
                pass
    assert daemon.answers()
    assert "Traceback" not in daemon.log.read_text()
