"""Agents, credentials and layouts of a session's client."""

from __future__ import annotations

import asyncio
import hashlib
import io
import socket
import tarfile
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any

import pytest
from test_buildkit_files import client, run

from corten.api.buildkit.layouts import write_layout
from corten.build.ssh_agent import connected
from corten.build.workshop import Cancellation, Cancelled
from corten.buildkit.agents import SessionAgents
from corten.buildkit.auth import credentials, registry_token
from corten.buildkit.content import ContentStore
from corten.buildkit.proto.auth_pb2 import (
    CredentialsRequest,
    CredentialsResponse,
    FetchTokenRequest,
    FetchTokenResponse,
)
from corten.buildkit.proto.content_pb2 import (
    COMMIT,
    STAT,
    Info,
    InfoRequest,
    InfoResponse,
    ReadContentRequest,
    ReadContentResponse,
    WriteContentRequest,
    WriteContentResponse,
)
from corten.buildkit.proto.sshforward_pb2 import BytesMessage, CheckAgentRequest, CheckAgentResponse
from corten.errors import DataLoss, Forbidden, InvalidParameter, NotFound, NotImplementedYet, Unavailable
from corten.grpc.server import Handler, ServerCall, unary
from corten.grpc.status import Code, GrpcError
from corten.oci.digest import Digest, digest_of

# -- agents ----------------------------------------------------------------------------------------------------------


async def check(request: bytes, call: ServerCall) -> bytes:
    if CheckAgentRequest.FromString(request).ID != "default":
        raise GrpcError(Code.UNKNOWN, "unset ssh forward key")
    return CheckAgentResponse().SerializeToString()


async def forward(call: ServerCall) -> None:
    """An agent that says who was meant, repeats what it is told, and ends when its client does."""
    await call.send(BytesMessage(data=call.metadata["buildkit.ssh.id"][0].encode()).SerializeToString())
    while (message := await call.receive()) is not None:
        await call.send(BytesMessage(data=BytesMessage.FromString(message).data.upper()).SerializeToString())


AGENTS: Mapping[str, Handler] = {
    "/moby.sshforward.v1.SSH/CheckAgent": unary(check),
    "/moby.sshforward.v1.SSH/ForwardAgent": forward,
}


def exactly(sock: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        data += sock.recv(count - len(data))
    return data


def in_thread(agents: SessionAgents, talk: Callable[[str], None]) -> Coroutine[Any, Any, None]:
    def work() -> None:
        path = agents.get("default")
        assert path is not None
        talk(path)

    return asyncio.to_thread(work)


def test_an_agent_is_a_socket_here(tmp_path: Path) -> None:
    def talk(path: str) -> None:
        with connected(path) as one, connected(path) as other:
            for sock in (one, other):
                sock.settimeout(5)
                assert exactly(sock, 7) == b"default"
                sock.sendall(b"sign")
                assert exactly(sock, 4) == b"SIGN"
            one.shutdown(socket.SHUT_WR)
            assert one.recv(1) == b""
            other.sendall(b"x" * 500_000)
            assert exactly(other, 500_000) == b"X" * 500_000

    async def work() -> None:
        async with client(AGENTS) as (session, _):
            agents = SessionAgents(session, tmp_path, Cancellation())
            await in_thread(agents, talk)
            assert await asyncio.to_thread(agents.get, "other") is None
            assert list(agents) == ["default"]
            await agents.close()

    run(work)
    assert not list(tmp_path.iterdir())


def test_agents_end_with_the_build_and_with_the_session(tmp_path: Path) -> None:
    async def work() -> None:
        async with client(AGENTS) as (session, link):
            agents = SessionAgents(session, tmp_path, Cancellation())
            first = await asyncio.to_thread(lambda: connected(agents["default"]))
            link.abort()
            await asyncio.to_thread(lambda: [None for _ in iter(lambda: first.recv(100), b"")])
            first.close()
            await agents.close()

    run(work)
    assert not list(tmp_path.iterdir())


def test_a_client_without_agents(tmp_path: Path) -> None:
    async def work() -> None:
        async with client({}) as (session, _):
            assert await asyncio.to_thread(SessionAgents(session, tmp_path, Cancellation()).get, "default") is None

    run(work)


def test_steps_side_by_side_have_one_socket(tmp_path: Path) -> None:
    async def slow_check(request: bytes, call: ServerCall) -> bytes:
        await asyncio.sleep(0.1)
        return await check(request, call)

    async def work() -> None:
        async with client({**AGENTS, "/moby.sshforward.v1.SSH/CheckAgent": unary(slow_check)}) as (session, _):
            agents = SessionAgents(session, tmp_path, Cancellation())
            paths = await asyncio.gather(*(asyncio.to_thread(agents.get, "default") for _ in range(3)))
            assert len(set(paths)) == 1
            await agents.close()

    run(work)
    assert not list(tmp_path.iterdir())


def test_a_cancelled_build_does_not_wait_for_a_silent_agent(tmp_path: Path) -> None:
    asked = asyncio.Event()

    async def silent(call: ServerCall) -> None:
        asked.set()
        await asyncio.Event().wait()

    async def work() -> None:
        async with client({**AGENTS, "/moby.sshforward.v1.SSH/CheckAgent": silent}) as (session, _):
            cancellation = Cancellation()
            agents = SessionAgents(session, tmp_path, cancellation)
            waiting = asyncio.ensure_future(asyncio.to_thread(agents.get, "default"))
            await asked.wait()
            cancellation.cancel()
            with pytest.raises(Cancelled, match="the build was cancelled"):
                await asyncio.wait_for(waiting, 5)
            await agents.close()

    run(work)
    assert not list(tmp_path.iterdir())


# -- credentials -----------------------------------------------------------------------------------------------------


def test_credentials() -> None:
    known = {"registry-1.docker.io": ("hub", "secret"), "r.example": ("", "identity")}

    async def answer(request: bytes, call: ServerCall) -> bytes:
        host = CredentialsRequest.FromString(request).Host
        if host == "locked.example":
            raise GrpcError(Code.PERMISSION_DENIED, "the keychain is locked")
        user, password = known.get(host, ("", ""))
        return CredentialsResponse(Username=user, Secret=password).SerializeToString()

    async def work() -> None:
        async with client({"/moby.filesync.v1.Auth/Credentials": unary(answer)}) as (session, _):
            assert await credentials(session, "docker.io") == ("hub", "secret")
            assert await credentials(session, "r.example") == ("", "identity")
            assert await credentials(session, "other.example") == ("", "")
            with pytest.raises(Forbidden, match="the keychain is locked"):
                await credentials(session, "locked.example")
        async with client({}) as (session, _):
            assert await credentials(session, "docker.io") == ("", "")

    run(work)


def test_a_token_instead_of_credentials() -> None:
    async def answer(request: bytes, call: ServerCall) -> bytes:
        asked = FetchTokenRequest.FromString(request)
        assert not asked.Realm
        if asked.Host != "r.example":
            raise GrpcError(Code.UNKNOWN, "no service to ask")
        return FetchTokenResponse(Token="granted").SerializeToString()

    async def gone(call: ServerCall) -> None:
        raise GrpcError(Code.UNAVAILABLE, "the keychain has gone")

    async def work() -> None:
        async with client({"/moby.filesync.v1.Auth/FetchToken": unary(answer)}) as (session, _):
            assert await registry_token(session, "r.example") == "granted"
            assert await registry_token(session, "docker.io") == ""
        async with client({"/moby.filesync.v1.Auth/FetchToken": gone}) as (session, _):
            with pytest.raises(Unavailable, match=r"token for r\.example: the keychain has gone"):
                await registry_token(session, "r.example")
        async with client({}) as (session, _):
            assert await registry_token(session, "r.example") == ""

    run(work)


# -- layouts ---------------------------------------------------------------------------------------------------------

BLOB = b"blob" * 100_000


def layout(send: Callable[[bytes], list[tuple[int, bytes]]]) -> Mapping[str, Handler]:
    """send: the answers (offset, data) to a read of ``BLOB``"""

    def known(call: ServerCall, digest: str) -> None:
        if call.metadata["buildkit-attachable-store-id"] != ["here"] or digest != digest_of(BLOB):
            raise GrpcError(Code.NOT_FOUND, "content not found")

    async def info(request: bytes, call: ServerCall) -> bytes:
        digest = InfoRequest.FromString(request).digest
        known(call, digest)
        return InfoResponse(info=Info(digest=digest, size=len(BLOB))).SerializeToString()

    async def read(call: ServerCall) -> None:
        request = ReadContentRequest.FromString(await call.receive() or b"")
        known(call, request.digest)
        for offset, data in send(BLOB):
            await call.send(ReadContentResponse(offset=offset, data=data).SerializeToString())

    service = "/containerd.services.content.v1.Content"
    return {f"{service}/Info": unary(info), f"{service}/Read": read}


def test_blobs_of_a_layout() -> None:
    async def work() -> None:
        handlers = layout(lambda blob: [(0, blob[:1000]), (1000, blob[1000:])])
        async with client(handlers) as (session, _):
            store = ContentStore(session, "here")
            digest = digest_of(BLOB)
            assert await store.size(digest) == len(BLOB)
            assert await store.read(digest, len(BLOB)) == BLOB
            with pytest.raises(InvalidParameter, match="the limit is 10"):
                await store.read(digest, len(BLOB), limit=10)
            with pytest.raises(NotFound):
                await store.size(Digest("sha256:" + hashlib.sha256(b"other").hexdigest()))
            with pytest.raises(NotFound):
                await ContentStore(session, "elsewhere").read(digest, len(BLOB))
        async with client({}) as (session, _):
            with pytest.raises(NotImplementedYet, match="serves no OCI layouts"):
                ContentStore(session, "here")

    run(work)


class Directory:
    """Takes blobs as containerd's content server does."""

    def __init__(self, *known: Digest) -> None:
        self.blobs = {str(digest): b"" for digest in known}

    @property
    def handlers(self) -> Mapping[str, Handler]:
        service = "/containerd.services.content.v1.Content"
        return {f"{service}/Read": self.write, f"{service}/Write": self.write}

    async def write(self, call: ServerCall) -> None:
        content = b""
        while (message := await call.receive()) is not None:
            request = WriteContentRequest.FromString(message)
            if request.action == STAT and request.expected in self.blobs:
                raise GrpcError(Code.ALREADY_EXISTS, f"{request.expected}: already exists")
            if request.offset != len(content) or len(request.data) > 1 << 20:
                raise GrpcError(Code.OUT_OF_RANGE, f"{request.offset} of {len(content)}")
            content += request.data
            await call.send(WriteContentResponse(action=request.action, offset=len(content)).SerializeToString())
            if request.action == COMMIT:
                assert (request.total, request.expected) == (len(content), digest_of(content))
                self.blobs[request.expected] = content
                return


def test_blobs_for_a_layout() -> None:
    content = BLOB * 8
    left = 0

    async def chunks() -> AsyncIterator[bytes]:
        nonlocal left
        left = 2
        for start in (0, 2_000_000):
            yield content[start : start + 2_000_000 if not start else None]
            left -= 1

    async def work() -> None:
        digest = digest_of(content)
        for directory in (Directory(), Directory(digest)):
            async with client(directory.handlers) as (session, _):
                await ContentStore(session, "local:/cache").write(digest, len(content), chunks())
            assert left == 0  # whoever has it is not sent it, and the archive goes on
            assert directory.blobs == {digest: content if directory.blobs[digest] else b""}
        reading = Directory().handlers["/containerd.services.content.v1.Content/Read"]
        async with client({"/containerd.services.content.v1.Content/Read": reading}) as (session, _):
            with pytest.raises(NotImplementedYet, match="takes no blobs"):
                await ContentStore(session, "local:/cache").write(digest, len(content), chunks())

    run(work)


def test_a_directory_that_does_not_answer_holds_no_thread_of_a_cancelled_build() -> None:
    asked = asyncio.Event()

    async def silent(call: ServerCall) -> None:
        asked.set()
        await asyncio.Event().wait()

    async def chunks() -> AsyncIterator[bytes]:
        content = io.BytesIO()
        with tarfile.open(fileobj=content, mode="w") as archive:
            member = tarfile.TarInfo(f"blobs/sha256/{digest_of(BLOB).partition(':')[2]}")
            member.size = len(BLOB)
            archive.addfile(member, io.BytesIO(BLOB))
        yield content.getvalue()

    async def work() -> None:
        service = "/containerd.services.content.v1.Content"
        async with client({f"{service}/Read": silent, f"{service}/Write": silent}) as (session, _):
            cancellation = Cancellation()
            writing = asyncio.ensure_future(write_layout(session, "/cache", chunks(), cancellation))
            await asked.wait()
            cancellation.cancel()
            with pytest.raises(Cancelled):
                await asyncio.wait_for(writing, 10)

    run(work)


@pytest.mark.parametrize(
    "send",
    [
        lambda blob: [(0, blob + b"x")],
        lambda blob: [(0, blob[:-1])],
        lambda blob: [(0, blob[:-1] + b"x")],
        lambda blob: [(5, blob)],
        lambda blob: [],
    ],
    ids=["longer", "shorter", "other", "elsewhere", "nothing"],
)
def test_blobs_that_are_not_what_they_should_be(send: Callable[[bytes], list[tuple[int, bytes]]]) -> None:
    async def work() -> None:
        async with client(layout(send)) as (session, _):
            with pytest.raises(DataLoss):
                await ContentStore(session, "here").read(digest_of(BLOB), len(BLOB))

    run(work)
