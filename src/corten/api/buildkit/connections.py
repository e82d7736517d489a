"""``/session`` and ``/grpc``: connections of HTTP/1.1 that go on as HTTP/2 (RFC 7540's ``h2c``, as dockerd takes it).

On ``/session`` the client serves and the engine calls; on ``/grpc`` it is the other way round.
"""

from __future__ import annotations

import asyncio
import importlib
import threading
from typing import TYPE_CHECKING

from corten.api.http.messages import Client, Request, Upgrade
from corten.engine.streams import run_blocking
from corten.errors import InvalidParameter

if TYPE_CHECKING:
    from corten.engine.engine import Engine

_PROTOCOL = "h2c"
_SERVICES = "corten.api.buildkit.services"
_loaded = threading.Event()


def _check(request: Request) -> None:
    """Errors: InvalidParameter in dockerd's words."""
    if not request.upgrade:
        raise InvalidParameter("no upgrade proto in request")
    if request.upgrade != _PROTOCOL:
        raise InvalidParameter(f"protocol {request.upgrade[:40]} not supported")


def is_loaded() -> bool:
    """Whether what speaks gRPC is there: a module of ``sys.modules`` may be half imported, in another thread."""
    return _loaded.is_set()


async def load() -> None:
    """Bring in what speaks gRPC: a quarter of a second when the first client comes, in which others are served."""
    if not is_loaded():
        await run_blocking(importlib.import_module, _SERVICES)
        _loaded.set()


async def session(engine: Engine, request: Request) -> Upgrade:
    _check(request)
    await load()
    from corten.buildkit.sessions import HEADER, SessionInfo
    from corten.grpc.client import Channel

    given = {name: value.split(", ") for name, value in request.headers.items() if name.startswith(HEADER)}
    info = SessionInfo.read(given)

    def take(transport: asyncio.Transport, early: bytes) -> Client:
        channel = Channel(transport, early)
        engine.sessions.open(info, channel)
        return channel.link

    return Upgrade(_PROTOCOL, take, lambda: engine.sessions.check(info))


async def grpc(engine: Engine, request: Request) -> Upgrade:
    _check(request)
    await load()
    from corten.api.buildkit.services import handlers
    from corten.grpc.server import serve

    services = handlers(engine)
    return Upgrade(_PROTOCOL, lambda transport, early: serve(transport, services, early))
