"""Images: list, describe, name, remove, in and out as archives, made of containers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from corten.api.documents import json_response, progress_stream, read_optional_document
from corten.api.http.messages import TAR, Reply, Request, Response, StreamResponse
from corten.api.routing import Route, change, get
from corten.dockerapi.container import ContainerConfig
from corten.dockerapi.filters import parse_filters
from corten.dockerapi.queries import CommitQuery, ImportQuery
from corten.errors import InvalidParameter, NotImplementedYet

if TYPE_CHECKING:
    from corten.engine.engine import Engine

_VIRTUAL_SIZE_UNTIL = (1, 44)  # the field went away in this version
_NONE_UNTIL = (1, 43)  # before it, clients know an image without a name by these


def _for_version(request: Request, document: dict[str, Any]) -> dict[str, Any]:
    if request.version < _VIRTUAL_SIZE_UNTIL and "VirtualSize" not in document:
        return {**document, "VirtualSize": document["Size"]}
    return document


def _row_for_version(request: Request, row: dict[str, Any]) -> dict[str, Any]:
    if request.version < _NONE_UNTIL and not row["RepoTags"] and not row["RepoDigests"]:
        row = {**row, "RepoTags": ["<none>:<none>"], "RepoDigests": ["<none>@<none>"]}
    return _for_version(request, row)


async def list_images(engine: Engine, request: Request) -> Response:
    query = request.query
    filters = parse_filters(query.text("filters"))
    if request.version < (1, 28) and query.text("filter"):
        filters.setdefault("reference", []).append(query.text("filter"))
    rows = await engine.images.list(all=query.flag("all"), digests=query.flag("digests"), filters=filters)
    return json_response([_row_for_version(request, row) for row in rows])


async def inspect(engine: Engine, request: Request) -> Response:
    return json_response(_for_version(request, await engine.images.inspect(request.params["name"])))


async def history(engine: Engine, request: Request) -> Response:
    return json_response(await engine.images.history(request.params["name"]))


async def tag(engine: Engine, request: Request) -> Response:
    await engine.images.tag(request.params["name"], request.query.text("repo"), request.query.text("tag"))
    return Response(201)


async def remove(engine: Engine, request: Request) -> Response:
    query = request.query
    return json_response(
        await engine.images.remove(request.params["name"], force=query.flag("force"), no_prune=query.flag("noprune"))
    )


async def prune(engine: Engine, request: Request) -> Response:
    return json_response(await engine.images.prune(parse_filters(request.query.text("filters"))))


async def load(engine: Engine, request: Request) -> StreamResponse:
    return progress_stream(engine.images.load(request.body, quiet=request.query.flag("quiet", True)))


async def save_one(engine: Engine, request: Request) -> StreamResponse:
    return StreamResponse(engine.images.save([request.params["name"]]), TAR)


async def save(engine: Engine, request: Request) -> StreamResponse:
    names = request.query.texts("names")
    if not any(names):
        raise InvalidParameter("invalid parameter: names of images are needed")
    return StreamResponse(engine.images.save(names), TAR)


async def create(engine: Engine, request: Request) -> Reply:
    query = request.query
    if query.text("fromImage"):
        raise NotImplementedYet(
            f"cannot pull {query.text('fromImage')}: registries are not supported yet, load or import an archive"
        )
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


async def search(engine: Engine, request: Request) -> Response:
    raise NotImplementedYet("registries are not supported yet: there is nothing to search")


async def push(engine: Engine, request: Request) -> Response:
    raise NotImplementedYet(f"cannot push {request.params['name']}: registries are not supported yet")


async def distribution(engine: Engine, request: Request) -> Response:
    raise NotImplementedYet(f"cannot ask a registry for {request.params['name']}: registries are not supported yet")


async def build(engine: Engine, request: Request) -> Response:
    raise NotImplementedYet("building images is not supported yet")


async def prune_builds(engine: Engine, request: Request) -> Response:
    return json_response({"CachesDeleted": None, "SpaceReclaimed": 0})


ROUTES = (
    get("/images/json", list_images),
    get("/images/search", search),
    get("/images/get", save),
    Route(method="POST", template="/images/load", handler=load),
    Route(method="POST", template="/images/create", handler=create),
    change("POST", "/images/prune", prune, since=(1, 25)),
    get("/images/{name*}/json", inspect),
    get("/images/{name*}/history", history),
    get("/images/{name*}/get", save_one),
    change("POST", "/images/{name*}/tag", tag),
    Route(method="POST", template="/images/{name*}/push", handler=push),
    change("DELETE", "/images/{name*}", remove),
    change("POST", "/commit", commit),
    Route(method="POST", template="/build", handler=build),
    Route(method="POST", template="/build/cancel", handler=build, since=(1, 39)),
    change("POST", "/build/prune", prune_builds, since=(1, 31)),
    Route(method="POST", template="/session", handler=build, since=(1, 31)),
    Route(method="POST", template="/grpc", handler=build, since=(1, 39)),
    get("/distribution/{name*}/json", distribution, since=(1, 30)),
)
