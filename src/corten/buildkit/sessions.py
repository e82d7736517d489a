"""The sessions of clients: each is a connection on which the client serves and we call.

A session is known by the id that its client gave it, and gone with its connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from corten.build.loops import on_loop
from corten.buildkit.remembered import Remembered
from corten.errors import Conflict, InvalidParameter, NotFound, NotImplementedYet

if TYPE_CHECKING:
    from corten.build.workshop import Cancellation
    from corten.grpc.client import Call, Channel
    from corten.grpc.metadata import Metadata

logger = logging.getLogger(__name__)
T = TypeVar("T")

HEADER = "x-docker-expose-session-"
_ID, _NAME, _SHARED_KEY, _METHOD = (HEADER + name for name in ("uuid", "name", "sharedkey", "grpc-method"))
_COMING_S = 5.0  # for a session that its client is about to open
_MAX_TEXT = 1024
_MAX_METHODS = 256
_NOTHING: Mapping[str, Sequence[str]] = {}
# a client whose machine has gone without a word
_HEALTH_EVERY_S = 10.0
_HEALTH_WITHIN_S = 30.0
_HEALTH = "/grpc.health.v1.Health/Check"


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """What a client says of its session.

    shared_key: the same for all sessions that send the same files; methods: that it serves, in lower case
    """

    id: str
    name: str = ""
    shared_key: str = ""
    methods: frozenset[str] = frozenset()

    @classmethod
    def read(cls, headers: Mapping[str, Sequence[str]]) -> SessionInfo:
        """headers: values by lower-case name.  Errors: InvalidParameter."""
        session_id, name, key = (next(iter(headers.get(header, ())), "") for header in (_ID, _NAME, _SHARED_KEY))
        methods = headers.get(_METHOD, ())
        if not session_id:
            raise InvalidParameter("a session without an id")
        if max(map(len, (session_id, name, key))) > _MAX_TEXT or len(methods) > _MAX_METHODS:
            raise InvalidParameter("what the session says of itself is too long")
        return cls(session_id, name, key, frozenset(method.strip().lower() for method in methods))


class Session:
    """One client.  Used on the event loop; ``wait_for`` serves worker threads.

    What it serves is in modules of their own: secrets, agents, auth, context, filesend, content.

    remembered: of what clients have listed, over all sessions
    """

    def __init__(self, info: SessionInfo, channel: Channel, remembered: Remembered | None = None) -> None:
        self.id = info.id
        self.name = info.name
        self.shared_key = info.shared_key
        self.methods = info.methods
        self.loop = asyncio.get_running_loop()
        self.remembered = remembered or Remembered()
        self._channel = channel

    @property
    def closed(self) -> asyncio.Future[None]:
        """Done when the connection has ended."""
        return self._channel.closed

    def supports(self, path: str) -> bool:
        return path.lower() in self.methods

    def require(self, path: str, what: str) -> None:
        """Errors: NotImplementedYet when the client does not serve a method."""
        if not self.supports(path):
            raise NotImplementedYet(f"the client of this build {what} (it does not serve {path})")

    async def unary(
        self, path: str, request: bytes, metadata: Metadata = _NOTHING, *, timeout_s: float | None = None
    ) -> bytes:
        """Errors: GrpcError."""
        return await self._channel.unary(path, request, metadata, timeout_s=timeout_s)

    async def stream(self, path: str, metadata: Metadata = _NOTHING) -> Call:
        """Errors: GrpcError."""
        return await self._channel.stream(path, metadata)

    def close(self) -> None:
        self._channel.close()

    def wait_for(self, work: Awaitable[T], cancellation: Cancellation | None = None) -> T:
        """Do something on the loop and wait for it, from a worker thread.  Errors: as ``on_loop``."""
        return on_loop(self.loop, work, cancellation)

    async def watch(self) -> None:
        """Close the session when the client does not answer any more."""
        from corten.grpc.status import Code, GrpcError

        while not self.closed.done():
            await asyncio.wait([self.closed], timeout=_HEALTH_EVERY_S)
            try:
                await self.unary(_HEALTH, b"", timeout_s=_HEALTH_WITHIN_S)
            except GrpcError as error:
                if error.code == Code.DEADLINE_EXCEEDED:
                    logger.info("session %s does not answer and is closed", self.id)
                    self.close()
                elif error.code == Code.UNIMPLEMENTED:
                    return


class Sessions:
    """The sessions of a daemon."""

    def __init__(self) -> None:
        self._remembered = Remembered()
        self._live: dict[str, Session] = {}
        self._waiting: dict[str, list[asyncio.Future[Session]]] = {}
        self._watches: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._live)

    def check(self, info: SessionInfo) -> None:
        """Errors: Conflict when there is one of that id."""
        if info.id in self._live:
            raise Conflict(f"session {info.id} already exists")

    def open(self, info: SessionInfo, channel: Channel) -> Session:
        """A session has begun.  Errors: Conflict."""
        self.check(info)
        session = Session(info, channel, self._remembered)
        self._live[session.id] = session
        watch = session.loop.create_task(session.watch(), name=f"session {session.id}")
        self._watches.add(watch)
        watch.add_done_callback(self._watches.discard)

        def end(_: object) -> None:
            self._live.pop(session.id, None)
            watch.cancel()

        channel.closed.add_done_callback(end)
        for waiting in self._waiting.pop(session.id, ()):
            if not waiting.done():
                waiting.set_result(session)
        return session

    async def get(self, session_id: str, timeout_s: float = _COMING_S) -> Session:
        """A live session; one that is about to come is waited for.

        session_id: a prefix with a colon, by which clients tell contexts of one session apart, does not count
        Errors: NotFound.
        """
        prefix, _, rest = session_id.partition(":")
        session_id = rest or prefix
        found = self._live.get(session_id)
        if found is not None:
            return found
        future: asyncio.Future[Session] = asyncio.get_running_loop().create_future()
        queue = self._waiting.setdefault(session_id, [])
        queue.append(future)
        try:
            async with asyncio.timeout(timeout_s):
                return await future
        except TimeoutError:
            raise NotFound(f"no active session for {session_id}") from None
        finally:
            with contextlib.suppress(ValueError):
                queue.remove(future)
            if not queue and self._waiting.get(session_id) is queue:
                del self._waiting[session_id]

    def close(self) -> None:
        """End all of them."""
        for session in list(self._live.values()):
            session.close()
