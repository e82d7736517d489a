"""The ssh agents of a session's client, as sockets of this machine: what comes to one goes through the session.

Source: moby/buildkit, ``session/sshforward``.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import tempfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from corten.buildkit.proto.sshforward_pb2 import BytesMessage, CheckAgentRequest
from corten.buildkit.wire import parsed
from corten.errors import CortenError
from corten.grpc.status import Code, GrpcError

if TYPE_CHECKING:
    from corten.build.workshop import Cancellation
    from corten.buildkit.sessions import Session
    from corten.grpc.client import Call

_CHECK = "/moby.sshforward.v1.SSH/CheckAgent"
_FORWARD = "/moby.sshforward.v1.SSH/ForwardAgent"
_AGENT_ID = "buildkit.ssh.id"
_WITHIN_S = 60.0
_PIECE = 32 << 10
_CONNECTIONS = 64


class SessionAgents(Mapping[str, str]):
    """Paths of sockets by the agents' ids, for the worker threads of one build; each is made when it is asked for.

    place: a private directory; ``close`` takes everything back
    Errors: as ``has_agent``; Cancelled.
    """

    def __init__(self, session: Session, place: Path, cancellation: Cancellation) -> None:
        self._session = session
        self._place = place
        self._cancellation = cancellation
        self._lock = threading.Lock()  # steps that run side by side have one socket
        self._known: dict[str, _Forwarding | None] = {}

    def __getitem__(self, agent: str) -> str:
        with self._lock:
            if agent not in self._known:
                self._known[agent] = self._session.wait_for(self._begin(agent), self._cancellation)
            found = self._known[agent]
        if found is None:
            raise KeyError(agent)
        return found.path

    def __iter__(self) -> Iterator[str]:
        """Those that have been asked for: nobody can list them."""
        return iter([agent for agent, found in self._known.items() if found is not None])

    def __len__(self) -> int:
        return sum(1 for _ in self)

    async def _begin(self, agent: str) -> _Forwarding | None:
        if not await has_agent(self._session, agent):
            return None
        forwarding = _Forwarding(self._session, agent, self._place)
        try:
            await forwarding.start()
        except BaseException:
            await forwarding.close()
            raise
        return forwarding

    async def close(self) -> None:
        """On the loop."""
        for forwarding in self._known.values():
            if forwarding is not None:
                await forwarding.close()
        self._known.clear()


async def has_agent(session: Session, agent: str) -> bool:
    """Whether the client forwards an agent of that id.  Errors: as ``GrpcError.as_kind`` when it does not answer."""
    if not session.supports(_CHECK):
        return False
    request = CheckAgentRequest(ID=agent).SerializeToString()
    try:
        await session.unary(_CHECK, request, timeout_s=_WITHIN_S)
    except GrpcError as error:
        if error.code in (Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED):
            raise error.as_kind(f"ssh agent {agent}") from None
        return False  # it says why, in no code of its own
    return True


class _Forwarding:
    """One socket of this machine; each connection is a call of its own."""

    def __init__(self, session: Session, agent: str, place: Path) -> None:
        self._session = session
        self._agent = agent
        self._directory = Path(tempfile.mkdtemp(prefix="agent-", dir=place))
        self.path = str(self._directory / "socket")
        self._connections: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        parent = os.open(self._directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            listener.bind(f"/proc/self/fd/{parent}/socket")  # by descriptor: the kernel takes 108 bytes of a path
            self._server = await asyncio.start_unix_server(self._accept, sock=listener, limit=_PIECE)
        except BaseException:
            listener.close()
            raise
        finally:
            os.close(parent)

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        with contextlib.suppress(OSError):
            os.unlink(self.path)
        with contextlib.suppress(OSError):
            self._directory.rmdir()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        if len(self._connections) >= _CONNECTIONS:
            writer.close()
            return
        self._connections.add(task)
        try:
            async with await self._session.stream(_FORWARD, {_AGENT_ID: [self._agent]}) as call:
                await _joined(call, reader, writer)
        except (CortenError, OSError):
            pass  # the program sees its connection end
        finally:
            self._connections.discard(task)
            writer.close()


async def _joined(call: Call, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Both directions, until the agent's end has said everything or one of both has gone."""

    async def ask() -> None:
        while data := await reader.read(_PIECE):
            await call.send(BytesMessage(data=data).SerializeToString())
        await call.half_close()

    asking = asyncio.ensure_future(ask())
    try:
        async for message in call:
            writer.write(parsed(BytesMessage, message).data)
            await writer.drain()
    finally:
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
