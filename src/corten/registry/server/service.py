"""What one worker does with requests: rights, routes, counting, and the end of connections."""

from __future__ import annotations

import asyncio
import errno
import logging
import time
from collections.abc import Callable

from corten.api.http.messages import Limits, Request
from corten.api.http.query import percent_decode
from corten.registry.server import blobs, layout, lists, manifests, uploads
from corten.registry.server.access import DELETE, PULL, PUSH, Guard, Principal
from corten.registry.server.accesslog import AccessLog
from corten.registry.server.connection import Connection
from corten.registry.server.failures import Refusal, unsupported
from corten.registry.server.heads import Heads
from corten.registry.server.known import Known
from corten.registry.server.metrics import CONTENT_TYPE, Metrics
from corten.registry.server.replies import JSON, AnyReply, Reply
from corten.registry.server.repositories import Repositories
from corten.registry.server.storage import StorageFailure

logger = logging.getLogger(__name__)

LIMITS = Limits(
    head_bytes=32 << 10, ahead_bytes=2 << 20, header_timeout_s=30.0, body_timeout_s=120.0, idle_timeout_s=120.0
)
_LOOK_EVERY_S = 1.0
_FULL = (errno.ENOSPC, errno.EDQUOT)


class Service:
    """Thread-unsafe: everything happens in one event loop."""

    def __init__(
        self,
        repositories: Repositories,
        guard: Guard | None = None,
        *,
        metrics: Metrics | None = None,
        log: AccessLog | None = None,
        read_only: bool = False,
        no_delete: bool = False,
        limits: Limits = LIMITS,
    ) -> None:
        self.repositories = repositories
        self.guard = guard or Guard()
        self.metrics = metrics or Metrics(1)
        self.limits = limits
        self.slow_bytes = 4 << 10
        self.heads = Heads()
        self.known = Known(self.heads, self._counted)
        self._log = log
        self._read_only = read_only
        self._no_delete = no_delete
        self._connections: set[Connection] = set()
        self._users: dict[int, str] = {}

    # -- connections --------------------------------------------------------------------------------------------------

    def connected(self, connection: Connection) -> None:
        self._connections.add(connection)
        self.metrics.add("connections")

    def disconnected(self, connection: Connection) -> None:
        self._connections.discard(connection)
        self.metrics.add("connections", -1)

    @property
    def is_full(self) -> bool:
        return len(self._connections) > self.limits.connections

    async def watch(self) -> None:
        """Look after connections, until cancelled."""
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            now = time.monotonic()
            for connection in list(self._connections):
                connection.look(now)
            if self._log is not None:
                self._log.flush()

    async def close(self, grace_s: float) -> None:
        """No further requests; those under way get some time."""
        for connection in list(self._connections):
            connection.close_when_idle()
        tasks = [connection.task for connection in self._connections if connection.task is not None]
        if tasks:
            await asyncio.wait(tasks, timeout=grace_s)
        for connection in list(self._connections):
            connection.abort()
        if self._log is not None:
            self._log.flush()

    # -- counting -----------------------------------------------------------------------------------------------------

    def _counted(self, head: bytes, peer: str, status: int, sent: int) -> None:
        self.metrics.known(sent)
        if self._log is not None:
            lines = head.decode("latin-1").split("\r\n")
            agent = next((line[11:].strip() for line in lines if line[:11].lower() == "user-agent:"), "")
            self._log.write(peer, "", lines[0], status, sent, agent, 0.0)

    def received(self, count: int) -> None:
        self.metrics.add("received_bytes_total", count)

    def served(self, request: Request, reply: AnyReply, sent: int) -> None:
        seconds = time.perf_counter() - request.begun
        self.metrics.request(_kind(request.path), request.method, reply.status, seconds)
        self.metrics.add("sent_bytes_total", sent)
        user = self._users.pop(id(request), "")
        if self._log is not None:
            query = f"?{request.raw_query}" if request.raw_query else ""
            line = f"{request.method} {request.path}{query} HTTP/1.{request.http_minor}"
            self._log.write(
                request.peer, user, line, reply.status, sent, request.headers.get("user-agent", ""), seconds
            )

    def failed(self, request: Request, error: Exception) -> Refusal:
        """What a client is told of a failure that is not its own."""
        if isinstance(error, OSError) and error.errno in _FULL:
            logger.error("%s %s: no space left", request.method, request.path)
            return Refusal("UNKNOWN", "no space left in the registry", status=507)
        logger.error("%s %s: %s", request.method, request.path, error)
        if isinstance(error, StorageFailure):
            return Refusal("UNAVAILABLE", "the storage does not answer")
        return Refusal("UNKNOWN", "internal error" if isinstance(error, OSError) else str(error))

    # -- requests -----------------------------------------------------------------------------------------------------

    async def handle(self, request: Request) -> AnyReply:
        """Errors: Refusal, and whatever goes wrong."""
        path = percent_decode(request.path)
        if path == "/":
            return Reply()
        if not path.startswith("/v2/") and path != "/v2":
            raise Refusal("UNSUPPORTED", "there is nothing here", status=404)
        generation = self.guard.generation()
        principal = await self.guard.principal(request.headers.get("authorization", ""))
        if self._log is not None:
            self._users[id(request)] = principal.name
        reply = await self._route(request, principal, path[4:])
        if isinstance(reply, Reply) and reply.stays is not None:
            reply.stays = _both(self.guard.still(principal, generation), reply.stays)
        return reply

    async def _route(self, request: Request, principal: Principal, rest: str) -> AnyReply:
        if rest == "":
            _allow(request, "GET", "HEAD")
            self.guard.check_known(principal)
            return Reply(200, b"{}", JSON)
        if rest == "_catalog":
            _allow(request, "GET", "HEAD")
            return await lists.catalog(self.repositories, request, self.guard.check_catalog(principal))
        if rest.endswith("/tags/list"):
            name = layout.check_name(rest[: -len("/tags/list")])
            _allow(request, "GET", "HEAD")
            self.guard.check(principal, name, PULL)
            return await lists.tags(self.repositories, request, name)
        if rest.endswith("/blobs/uploads"):
            rest += "/"
        head, _, last = rest.rpartition("/")
        for kind, route in _ROUTES:
            if head.endswith(kind):
                return await route(self, request, principal, layout.check_name(head[: -len(kind)]), last)
        raise Refusal("UNSUPPORTED", "there is nothing here", status=404)

    def _check_write(self, *, deletes: bool = False) -> None:
        if self._read_only:
            raise Refusal("UNSUPPORTED", "the registry is read-only")
        if deletes and self._no_delete:
            raise Refusal("UNSUPPORTED", "deleting is not allowed here")

    async def _manifests(self, request: Request, principal: Principal, name: str, reference: str) -> AnyReply:
        method = request.method
        if method in ("GET", "HEAD"):
            self.guard.check(principal, name, PULL)
            return await manifests.get(self.repositories, request, name, reference)
        if method == "PUT":
            self.guard.check(principal, name, PULL, PUSH)
            self._check_write()
            return await manifests.put(self.repositories, request, name, reference)
        if method == "DELETE":
            self.guard.check(principal, name, DELETE)
            self._check_write(deletes=True)
            return await manifests.delete(self.repositories, request, name, reference)
        raise unsupported("the operation is unsupported", "GET, HEAD, PUT, DELETE")

    async def _blobs(self, request: Request, principal: Principal, name: str, reference: str) -> AnyReply:
        method = request.method
        if method in ("GET", "HEAD"):
            self.guard.check(principal, name, PULL)
            return await blobs.get(self.repositories, request, name, reference)
        if method == "DELETE":
            self.guard.check(principal, name, DELETE)
            self._check_write(deletes=True)
            return await blobs.delete(self.repositories, request, name, reference)
        raise unsupported("the operation is unsupported", "GET, HEAD, DELETE")

    async def _uploads(self, request: Request, principal: Principal, name: str, identity: str) -> AnyReply:
        self.guard.check(principal, name, PULL, PUSH)
        self._check_write()
        if not identity:
            if request.method != "POST":
                raise unsupported("the operation is unsupported", "POST")
            return await uploads.begin(self.repositories, request, name, lambda source: principal.may(PULL, source))
        handler = _UPLOADS.get(request.method)
        if handler is None:
            raise unsupported("the operation is unsupported", ", ".join(_UPLOADS))
        return await handler(self.repositories, request, name, identity)

    async def _referrers(self, request: Request, principal: Principal, name: str, reference: str) -> AnyReply:
        _allow(request, "GET", "HEAD")
        self.guard.check(principal, name, PULL)
        return await manifests.referrers(self.repositories, request, name, reference)


_ROUTES = (
    ("/manifests", Service._manifests),
    ("/blobs/uploads", Service._uploads),
    ("/blobs", Service._blobs),
    ("/referrers", Service._referrers),
)
_UPLOADS = {
    "GET": uploads.status,
    "HEAD": uploads.status,
    "PATCH": uploads.append,
    "PUT": uploads.finish,
    "DELETE": uploads.cancel,
}


class MetricsService(Service):
    """Answers ``/metrics`` alone, on an address of its own."""

    async def handle(self, request: Request) -> AnyReply:
        if request.path != "/metrics":
            raise Refusal("UNSUPPORTED", "there is nothing here but /metrics", status=404)
        _allow(request, "GET", "HEAD")
        return Reply(200, self.metrics.text(), CONTENT_TYPE)

    def served(self, request: Request, reply: AnyReply, sent: int) -> None:
        """Not counted: the numbers are of the registry."""

    def received(self, count: int) -> None:
        """Not counted."""

    def connected(self, connection: Connection) -> None:
        self._connections.add(connection)

    def disconnected(self, connection: Connection) -> None:
        self._connections.discard(connection)


def _allow(request: Request, *methods: str) -> None:
    if request.method not in methods:
        raise unsupported("the operation is unsupported", ", ".join(methods))


def _both(one: Callable[[], bool], other: Callable[[], bool]) -> Callable[[], bool]:
    return lambda: one() and other()


def _kind(path: str) -> str:
    """What a request is about, for the metrics."""
    if path in ("/v2/", "/v2", "/"):
        return "base"
    if path == "/v2/_catalog":
        return "catalog"
    if "/blobs/uploads" in path:
        return "uploads"
    parts = path.rsplit("/", 2)
    middle = parts[1] if len(parts) == 3 else ""
    return middle if middle in ("manifests", "blobs", "tags", "referrers") else "other"
