"""Registries: pull, push, log in, ask what a reference names, search."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from corten.api import credentials
from corten.api.documents import json_response, progress_stream, read_body
from corten.api.http.messages import Request, Response, StreamResponse
from corten.api.routing import Route, get
from corten.dockerapi.codec import decode
from corten.dockerapi.filters import parse_filters
from corten.dockerapi.registry_auth import auth_of
from corten.errors import InvalidParameter

if TYPE_CHECKING:
    from corten.engine.engine import Engine

logger = logging.getLogger(__name__)


def pull(engine: Engine, request: Request) -> StreamResponse:
    """``/images/create`` with ``fromImage``."""
    query = request.query
    documents = engine.registries.pull(
        query.text("fromImage"), query.text("tag"), query.text("platform"), credentials.one_of(request)
    )
    return progress_stream(documents)


async def push(engine: Engine, request: Request) -> StreamResponse:
    return progress_stream(
        engine.registries.push(request.params["name"], request.query.text("tag"), credentials.one_of(request))
    )


async def auth(engine: Engine, request: Request) -> Response:
    body = await read_body(request)
    if not body.strip():
        raise InvalidParameter("invalid JSON: got EOF while reading request body")
    return json_response(await engine.registries.login(auth_of(decode(body, dict))))


async def distribution(engine: Engine, request: Request) -> Response:
    return json_response(await engine.registries.distribution(request.params["name"], credentials.one_of(request)))


async def search(engine: Engine, request: Request) -> Response:
    query = request.query
    limit = query.text("limit")
    if limit and not limit.lstrip("-").isdigit():
        raise InvalidParameter(f'strconv.Atoi: parsing "{limit[:40]}": invalid syntax')
    filters = parse_filters(query.text("filters"))
    return json_response(
        await engine.registries.search(query.text("term"), int(limit or 0), filters, credentials.one_of(request))
    )


ROUTES = (
    get("/images/search", search),
    Route(method="POST", template="/images/{name*}/push", handler=push),
    Route(method="POST", template="/auth", handler=auth),
    get("/distribution/{name*}/json", distribution, since=(1, 30)),
)
