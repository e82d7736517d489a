"""Further programs in a running container."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from corten.api import versions
from corten.api.documents import json_response, read_document, read_optional_document
from corten.api.http.messages import Hijack, Reply, Request, Response
from corten.api.routes.container_streams import stream_type
from corten.api.routes.containers import terminal_size
from corten.api.routing import change, get
from corten.dockerapi import frames
from corten.dockerapi.container import ExecCreate, ExecStart
from corten.errors import InvalidParameter, SystemFailure

if TYPE_CHECKING:
    from corten.engine.engine import Engine


_LONGEST_MESSAGE = 16 * 1024  # fits a socket's buffer whatever its characters


async def create(engine: Engine, request: Request) -> Response:
    document = await read_document(request, ExecCreate)
    versions.adapt_exec(document, request.version)
    return json_response({"Id": await engine.execs.create(request.params["id"], document)}, 201)


async def start(engine: Engine, request: Request) -> Reply:
    options = await read_optional_document(request, ExecStart) or ExecStart()
    versions.adapt_exec(options, request.version)
    exec_id = request.params["id"]
    try:
        session = await engine.execs.start(exec_id, options)
    except (InvalidParameter, SystemFailure) as error:
        if options.detach:
            raise
        # as with dockerd: clients have a stream by now, print what it says and ask for the exit code afterwards
        document = await engine.execs.inspect(exec_id)
        tty = bool(document["ProcessConfig"]["tty"])
        text = f"{error.message[:_LONGEST_MESSAGE]}\r\n".encode()
        return Hijack(_speaking(text, tty=tty), stream_type(request, tty=tty))
    if session is None:
        return Response()
    return Hijack(session.sock, stream_type(request, tty=session.tty))


def _speaking(text: bytes, *, tty: bool) -> socket.socket:
    """A stream that says ``text`` and ends."""
    ours, theirs = socket.socketpair()
    with theirs:
        theirs.sendall(text if tty else frames.encode(frames.STDOUT, text))
    ours.setblocking(False)
    return ours


async def inspect(engine: Engine, request: Request) -> Response:
    return json_response(await engine.execs.inspect(request.params["id"]))


async def resize(engine: Engine, request: Request) -> Response:
    height, width = terminal_size(request)
    await engine.execs.resize(request.params["id"], height, width)
    return Response()


ROUTES = (
    change("POST", "/containers/{id}/exec", create),
    change("POST", "/exec/{id}/start", start),
    change("POST", "/exec/{id}/resize", resize),
    get("/exec/{id}/json", inspect),
)
