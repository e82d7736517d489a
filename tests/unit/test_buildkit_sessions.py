"""Sessions over the real API server: how they begin and end, and the small services of a client."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from api_fakes import ApiServer
from buildkit_client import CallTransport, Sender, control, session, session_headers, stat

from corten.build.workshop import Cancellation, Cancelled
from corten.buildkit.context import SessionContext
from corten.buildkit.filesync import Wanted
from corten.buildkit.proto.health_pb2 import HealthCheckRequest, HealthCheckResponse
from corten.buildkit.proto.secrets_pb2 import GetSecretRequest, GetSecretResponse
from corten.buildkit.secrets import SessionSecrets, secret
from corten.buildkit.sessions import Session, Sessions
from corten.errors import NotFound, NotImplementedYet, Unavailable
from corten.grpc.server import ServerCall, serve, unary
from corten.grpc.status import Code, GrpcError
from waiting import until

SECRET = "/moby.buildkit.secrets.v1.Secrets/GetSecret"


@pytest.fixture
def server() -> Iterator[ApiServer]:
    with ApiServer() as made:
        yield made


async def get_secret(request: bytes, call: ServerCall) -> bytes:
    name = GetSecretRequest.FromString(request).ID
    if name != "token":
        raise GrpcError(Code.NOT_FOUND, "no such secret")
    return GetSecretResponse(data=b"hush").SerializeToString()


SECRETS = {SECRET: unary(get_secret)}


def scene(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(30):
            await work()

    asyncio.run(bounded())


async def there(server: ApiServer, work: Coroutine[Any, Any, Any]) -> Any:
    """Do something on the server's loop."""
    return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, server.loop))


def found(server: ApiServer, session_id: str, timeout_s: float = 5) -> Coroutine[Any, Any, Session]:
    sessions: Sessions = server.engine.sessions
    return sessions.get(session_id, timeout_s)


def test_a_session_is_known_while_its_connection_lasts(server: ApiServer) -> None:
    async def work() -> None:
        async with session(server.path, "abc", SECRETS):
            made = await there(server, found(server, "abc"))
            assert (made.name, made.shared_key, made.methods) == ("test", "key", {SECRET.lower()})
            assert made.supports(SECRET)
            assert await there(server, found(server, "context:abc")) is made
            with pytest.raises(NotImplementedYet):
                made.require("/x.Y/Z", "sends no files")
        until(lambda: len(server.engine.sessions) == 0)
        with pytest.raises(NotFound, match="no active session for abc"):
            await there(server, found(server, "abc", 0.05))

    scene(work)


def test_a_session_that_is_about_to_come_is_waited_for(server: ApiServer) -> None:
    async def work() -> None:
        waiting = asyncio.ensure_future(there(server, found(server, "late")))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        async with session(server.path, "late", SECRETS):
            assert (await waiting).id == "late"

    scene(work)


def test_one_session_of_an_id(server: ApiServer) -> None:
    async def work() -> None:
        async with session(server.path, "abc", SECRETS):
            await there(server, found(server, "abc"))
            with pytest.raises(ConnectionError, match=r"409.*session abc already exists"):
                async with session(server.path, "abc", SECRETS):
                    pass

    scene(work)


def test_two_of_an_id_at_the_same_time(server: ApiServer, caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> None:
        done = asyncio.Event()

        async def one() -> None:
            async with session(server.path, "abc", SECRETS):
                await done.wait()

        pending = {asyncio.ensure_future(one()) for _ in range(4)}
        while len(pending) > 1:
            ended, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for task in ended:
                assert "409" in str(task.exception())
        done.set()
        await asyncio.gather(*pending)

    scene(work)
    assert "failed" not in caplog.text


def test_a_session_without_an_id(server: ApiServer) -> None:
    async def work() -> None:
        with pytest.raises(ConnectionError, match="400"):
            async with session(server.path, "", SECRETS):
                pass

    scene(work)


def test_secrets(server: ApiServer) -> None:
    async def work() -> None:
        async with session(server.path, "abc", SECRETS):
            made = await there(server, found(server, "abc"))
            assert await there(server, secret(made, "token")) == b"hush"
            with pytest.raises(NotFound, match="secret other: not found"):
                await there(server, secret(made, "other"))
            lazily = SessionSecrets(made, Cancellation())
            assert await asyncio.to_thread(lazily.get, "token") == b"hush"
            assert await asyncio.to_thread(lazily.get, "other") is None
            assert dict(lazily) == {"token": b"hush"}

    scene(work)


def test_a_cancelled_build_does_not_wait_for_a_silent_secret(server: ApiServer) -> None:
    asked = asyncio.Event()

    async def silent(call: ServerCall) -> None:
        asked.set()
        await asyncio.Event().wait()

    async def work() -> None:
        async with session(server.path, "abc", {SECRET: silent}):
            made = await there(server, found(server, "abc"))
            cancellation = Cancellation()
            waiting = asyncio.ensure_future(asyncio.to_thread(SessionSecrets(made, cancellation).get, "token"))
            await asked.wait()
            cancellation.cancel()
            with pytest.raises(Cancelled, match="the build was cancelled"):
                await asyncio.wait_for(waiting, 5)

    scene(work)


def test_a_session_that_ends_fails_what_uses_it(server: ApiServer) -> None:
    async def forever(call: ServerCall) -> None:
        await asyncio.Event().wait()

    async def work() -> None:
        async with session(server.path, "abc", {SECRET: forever}) as link:
            made = await there(server, found(server, "abc"))
            waiting = asyncio.ensure_future(there(server, secret(made, "token")))
            await asyncio.sleep(0.1)
            link.abort()
            with pytest.raises(Unavailable, match="secret token: the connection has ended"):
                await waiting

    scene(work)


def test_a_session_within_a_call_of_the_control_service(server: ApiServer) -> None:
    async def work() -> None:
        async with control(server.path) as channel:
            metadata = {name.lower(): [value] for name, value in session_headers("abc", SECRETS)}
            async with await channel.stream("/moby.buildkit.v1.Control/Session", metadata) as call:
                transport = CallTransport(call)
                link = serve(transport, SECRETS)
                running = asyncio.ensure_future(transport.run())
                made = await there(server, found(server, "abc"))
                assert await there(server, secret(made, "token")) == b"hush"
                assert link.closed.done() is False
                await call.half_close()
                await running
            until(lambda: len(server.engine.sessions) == 0)

    scene(work)


def test_files_through_a_tunnel(server: ApiServer, tmp_path: Path) -> None:
    """More than all windows and buffers on the way hold."""
    files = {f"f{number}": bytes([number]) * 12_000_000 for number in range(3)}
    sender = Sender([stat(path, 0o644, content) for path, content in files.items()], files)

    async def work() -> None:
        async with control(server.path) as channel:
            metadata = {name.lower(): [value] for name, value in session_headers("abc", sender.handlers)}
            async with await channel.stream("/moby.buildkit.v1.Control/Session", metadata) as call:
                transport = CallTransport(call)
                serve(transport, sender.handlers)
                running = asyncio.ensure_future(transport.run())
                made = await there(server, found(server, "abc"))
                context = await there(server, SessionContext.open(made, Wanted(name="context"), tmp_path))
                for path, content in files.items():
                    node = context.node(path)
                    assert node is not None
                    assert await asyncio.to_thread(lambda: b"".join(context.chunks(path, node))) == content  # noqa: B023
                context.close()
                await call.half_close()
                await running

    scene(work)


def test_health_and_unknown_methods(server: ApiServer) -> None:
    async def work() -> None:
        async with control(server.path) as channel:
            answer = await channel.unary("/grpc.health.v1.Health/Check", HealthCheckRequest().SerializeToString())
            assert HealthCheckResponse.FromString(answer).status == HealthCheckResponse.SERVING
            with pytest.raises(GrpcError) as caught:
                await channel.unary("/grpc.health.v1.Health/Check", HealthCheckRequest(service="x").SerializeToString())
            assert caught.value.code == Code.NOT_FOUND
            with pytest.raises(GrpcError) as caught:
                await channel.unary("/moby.buildkit.v1.Control/Nothing", b"")
            assert caught.value.code == Code.UNIMPLEMENTED

    scene(work)


def test_upgraded_connections_count_and_end_with_the_server(server: ApiServer) -> None:
    async def work() -> None:
        async with session(server.path, "abc", SECRETS) as link:
            await there(server, found(server, "abc"))
            assert server.server.connections == 1
            await there(server, server.server.close(1))
            await link.closed

    scene(work)
