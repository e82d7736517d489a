"""Search for repositories: Docker Hub's search, or the same interface of another host.

Source: the search part of Docker's registry API version 1 (``GET /v1/search?q=…&n=…``), which is all that Docker's own
``search`` speaks.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from corten.errors import InvalidParameter
from corten.oci import documents
from corten.registry.auth import Credentials
from corten.registry.failures import Unreachable, refused
from corten.registry.transport import Transport
from corten.registry.trust import Trust, netloc_of
from corten.registry.urls import origin_of

_HUB = "index.docker.io"
_MAX_ANSWER = 2 << 20


def search(transport: Transport, term: str, limit: int, credentials: Credentials) -> list[dict[str, Any]]:
    """Rows as the API answers them.

    Errors: InvalidParameter, Unavailable.
    """
    if not term or "://" in term or term.startswith("-"):
        raise InvalidParameter(f"invalid repository name ({term[:200]}): it must not begin with a scheme or a dash")
    host, query = _split(term)
    trust: Trust = transport.hosts.trust(netloc_of(f"https://{host}"))
    last: Unreachable | None = None
    for scheme in ("https", "http") if trust.plain else ("https",):
        url = f"{scheme}://{host}/v1/search?{urlencode({'q': query, 'n': str(limit)})}"
        # a password goes over TLS, or to a host that was listed; never further than this host
        own = {"Authorization": credentials.basic} if credentials.basic else {}
        try:
            answer = transport.get(url, {"Accept": "application/json", "X-Docker-Token": "true"}, own)
            body = answer.small(_MAX_ANSWER)
            if answer.status != 200 or origin_of(answer.url)[0] != scheme:
                raise refused(answer.status, answer.header("content-type"), body, answer.what)
            document = documents.load_object(body, "search result", limit=_MAX_ANSWER)
            return [_row(item) for item in documents.field(document, "results", list, "search result", [])][:limit]
        except Unreachable as error:
            last = error
        except InvalidParameter:
            raise Unreachable(f"{answer.what}: the answer is no search result: {host} cannot be searched") from None
    assert last is not None
    raise last


def _split(term: str) -> tuple[str, str]:
    """(host, what to look for): "registry.example/word" asks that host."""
    first, slash, rest = term.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost"):
        return (_HUB if first in ("docker.io", _HUB) else first), rest
    return _HUB, term.removeprefix("library/")


def _row(item: Any) -> dict[str, Any]:
    if not isinstance(item, dict):
        raise InvalidParameter("invalid search result: a list of objects is needed")
    text = "search result"
    return {
        "name": documents.field(item, "name", str, text, ""),
        "description": documents.field(item, "description", str, text, ""),
        "star_count": documents.field(item, "star_count", int, text, 0),
        "is_official": documents.field(item, "is_official", bool, text, False),
        "is_automated": documents.field(item, "is_automated", bool, text, False),
    }
