"""``/v2/<name>/tags/list`` and ``/v2/_catalog``: page by page."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import urlencode

from corten.api.http.messages import Request
from corten.errors import InvalidParameter
from corten.oci import documents
from corten.registry.server import layout
from corten.registry.server.failures import Refusal
from corten.registry.server.replies import JSON, Reply
from corten.registry.server.repositories import Repositories

MAX_TAGS = 10_000
MAX_REPOSITORIES = 1000
_CATALOG = 100  # names of a page when the client does not say


def _number(request: Request, default: int, most: int) -> int:
    """How many a client wants, never more than ``most``.  Errors: Refusal(PAGINATION_NUMBER_INVALID)."""
    try:
        number = request.query.optional_integer("n")
    except InvalidParameter:
        number = -1
    if number is None:
        return default
    if number < 0:
        raise Refusal("PAGINATION_NUMBER_INVALID", detail={"n": request.query.text("n")[:40]})
    return min(number, most)


def _link(path: str, number: int, last: str) -> tuple[str, str]:
    return "Link", f'<{path}?{urlencode({"last": last, "n": number})}>; rel="next"'


async def tags(repositories: Repositories, request: Request, name: str) -> Reply:
    number = _number(request, MAX_TAGS, MAX_TAGS)
    last = request.query.text("last")
    found = await repositories.tags(name, last, number + 1)
    page = found[:number]
    headers = (_link(f"/v2/{name}/tags/list", number, page[-1]),) if page and len(found) > number else ()
    return Reply(200, documents.encode({"name": name, "tags": page}), JSON, headers)


async def catalog(repositories: Repositories, request: Request, may_see: Callable[[str], bool]) -> Reply:
    """The repositories that the client may see."""
    number = _number(request, _CATALOG, MAX_REPOSITORIES)
    last = request.query.text("last")
    if last:
        layout.check_name(last)
    page: list[str] = []
    more = False
    async for name in repositories.walk(last):
        if not may_see(name):
            continue
        if len(page) == number:
            more = True
            break
        page.append(name)
    headers = (_link("/v2/_catalog", number, page[-1]),) if page and more else ()
    return Reply(200, documents.encode({"repositories": page}), JSON, headers)
