"""What a BuildKit client can call on ``/grpc``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from corten.api.buildkit.bridge import Bridge
from corten.api.buildkit.control import Control
from corten.api.buildkit.solving import solving_of
from corten.buildkit.proto.health_pb2 import HealthCheckRequest, HealthCheckResponse
from corten.buildkit.sessions import SessionInfo
from corten.buildkit.tunnel import Tunnel
from corten.buildkit.wire import parsed
from corten.grpc.client import Channel
from corten.grpc.server import Handler, ServerCall, unary
from corten.grpc.status import Code, GrpcError

if TYPE_CHECKING:
    from corten.engine.engine import Engine

_CONTROL = "moby.buildkit.v1.Control"
_HEALTH = "grpc.health.v1.Health"


def handlers(engine: Engine) -> Mapping[str, Handler]:
    """By path."""
    solving = solving_of(engine)

    async def session(call: ServerCall) -> None:
        """A session whose connection is tunnelled through this one."""
        info = SessionInfo.read(call.metadata)
        engine.sessions.check(info)
        tunnel = Tunnel(call)
        engine.sessions.open(info, Channel(tunnel))
        await tunnel.run()

    return {
        **Control(engine, solving).handlers(),
        **Bridge(engine, solving).handlers(),
        f"/{_CONTROL}/Session": session,
        f"/{_HEALTH}/Check": unary(_health),
    }


async def _health(request: bytes, call: ServerCall) -> bytes:
    service = parsed(HealthCheckRequest, request).service
    if service not in ("", _CONTROL):
        raise GrpcError(Code.NOT_FOUND, f"unknown service {service[:100]}")
    return HealthCheckResponse(status=HealthCheckResponse.SERVING).SerializeToString()
