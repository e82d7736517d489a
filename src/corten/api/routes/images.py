"""Images: list, describe, name, remove, in and out as archives, made of containers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from corten.api import versions
from corten.api.documents import json_response, progress_stream, read_optional_document
from corten.api.http.messages import TAR, Reply, Request, Response, StreamResponse
from corten.api.routes.distribution import pull
from corten.api.routing import Route, change, get
from corten.dockerapi.container import ContainerConfig
from corten.dockerapi.filters import parse_filters
from corten.dockerapi.platforms import read_platform
from corten.dockerapi.queries import CommitQuery, ImportQuery
from corten.dockerapi.version import ApiVersion
from corten.errors import InvalidParameter, NotImplementedYet

if TYPE_CHECKING:
    from corten.engine.engine import Engine


def _platforms(request: Request, name: str, since: ApiVersion) -> list[str]:
    """What the parameters of this name ask for, as "os/architecture".  Errors: InvalidParameter."""
    if request.version < since:
        return []
    return [platform for text in request.query.texts(name) if text and (platform := read_platform(text))]


def _one_platform(request: Request, since: ApiVersion) -> str:
    platforms = _platforms(request, "platform", since)
    if len(platforms) > 1:
        raise InvalidParameter("multiple platform parameters are not supported: images here have one platform each")
    return platforms[0] if platforms else ""


async def list_images(engine: Engine, request: Request) -> Response:
    query = request.query
    filters = parse_filters(query.text("filters"))
    if request.version < (1, 41) and query.text("filter"):
        filters.setdefault("reference", []).append(query.text("filter"))
    if request.version >= (1, 54) and query.flag("identity") and not query.flag("manifests"):
        raise InvalidParameter("conflicting options: identity requires manifests=1")
    rows = await engine.images.list(
        all=query.flag("all"),
        digests=query.flag("digests"),
        filters=filters,
        shared_size=query.flag("shared-size") and request.version >= (1, 42),
    )
    return json_response([versions.image_row(row, request.version) for row in rows])


async def inspect(engine: Engine, request: Request) -> Response:
    name = request.params["name"]
    platform = _one_platform(request, (1, 49))
    if platform:
        if request.query.flag("manifests"):
            raise InvalidParameter("conflicting options: manifests and platform options cannot both be set")
        engine.images.check_platform(name, platform)
    return json_response(versions.image(await engine.images.inspect(name), request.version))


async def history(engine: Engine, request: Request) -> Response:
    platform = _one_platform(request, (1, 48))
    if platform:
        engine.images.check_platform(request.params["name"], platform)
    return json_response(await engine.images.history(request.params["name"]))


async def tag(engine: Engine, request: Request) -> Response:
    await engine.images.tag(request.params["name"], request.query.text("repo"), request.query.text("tag"))
    return Response(201)


async def remove(engine: Engine, request: Request) -> Response:
    query = request.query
    for platform in _platforms(request, "platforms", (1, 50)):
        engine.images.check_platform(request.params["name"], platform)  # each image has one: it goes as a whole
    return json_response(
        await engine.images.remove(request.params["name"], force=query.flag("force"), no_prune=query.flag("noprune"))
    )


async def prune(engine: Engine, request: Request) -> Response:
    return json_response(await engine.images.prune(parse_filters(request.query.text("filters"))))


async def load(engine: Engine, request: Request) -> StreamResponse:
    platform = _one_platform(request, (1, 48))
    return progress_stream(engine.images.load(request.body, quiet=request.query.flag("quiet", True), platform=platform))


async def attestations(engine: Engine, request: Request) -> Response:
    """The statements of one image: this store keeps images without their attestations, as dockerd's own layer store."""
    platform = _one_platform(request, (1, 55))
    name = request.params["name"]
    if platform:
        engine.images.check_platform(name, platform)
    await engine.images.inspect(name)
    return json_response([])


def _archive(engine: Engine, request: Request, names: list[str]) -> StreamResponse:
    """``format`` is Corten's own: "docker" holds both layouts in one archive, "oci" the image layout alone."""
    form = request.query.text("format") or "docker"
    if form not in ("docker", "oci"):
        raise InvalidParameter(f"invalid format '{form}': docker and oci are supported")
    platform = _one_platform(request, (1, 48))
    if platform:
        for name in names:
            engine.images.check_platform(name, platform)
    return StreamResponse(engine.images.save(names, form), TAR)


async def save_one(engine: Engine, request: Request) -> StreamResponse:
    return _archive(engine, request, [request.params["name"]])


async def save(engine: Engine, request: Request) -> StreamResponse:
    names = request.query.texts("names")
    if not any(names):
        raise InvalidParameter("invalid parameter: names of images are needed")
    return _archive(engine, request, names)


async def create(engine: Engine, request: Request) -> Reply:
    query = request.query
    if query.text("fromImage"):
        return pull(engine, request)
    source = query.text("fromSrc")
    if not source:
        raise InvalidParameter("Bad parameters: fromSrc or fromImage is needed")
    if source != "-":
        raise NotImplementedYet(
            "import from a URL is not supported: send the archive as the request's body (fromSrc=-)"
        )
    wanted = ImportQuery(
        repo=query.text("repo"),
        tag=query.text("tag"),
        message=query.text("message"),
        platform=query.text("platform"),
        changes=query.texts("changes"),
    )
    return progress_stream(engine.images.import_(request.body, wanted))


async def commit(engine: Engine, request: Request) -> Response:
    query = request.query
    config = await read_optional_document(request, ContainerConfig)
    wanted = CommitQuery(
        container=query.text("container"),
        repo=query.text("repo"),
        tag=query.text("tag"),
        comment=query.text("comment"),
        author=query.text("author"),
        pause=query.flag("pause", True),
        changes=query.texts("changes"),
    )
    return json_response(await engine.images.commit(wanted, config), 201)


ROUTES = (
    get("/images/json", list_images),
    get("/images/get", save),
    Route(method="POST", template="/images/load", handler=load),
    Route(method="POST", template="/images/create", handler=create),
    change("POST", "/images/prune", prune, since=(1, 25)),
    get("/images/{name*}/json", inspect),
    get("/images/{name*}/history", history),
    get("/images/{name*}/get", save_one),
    get("/images/{name*}/attestations", attestations, since=(1, 55)),
    change("POST", "/images/{name*}/tag", tag),
    change("DELETE", "/images/{name*}", remove),
    change("POST", "/commit", commit),
)
