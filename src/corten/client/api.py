"""The Engine API as plain calls: paths and documents as the API description has them, errors as ``corten.errors``.

Requests carry no version: the daemon answers in its own newest one, which this client was written for, and one round
trip for agreeing on a version is saved.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

from corten.client import address
from corten.client.failures import failure
from corten.client.response import PendingResponse, Response
from corten.client.transport import Transport

TYPE_CHECKING = False
if TYPE_CHECKING:  # typing itself costs 3 ms at start-up
    from typing import Any

    from corten.client.response import Hijacked
    from corten.client.transport import Body

    Query = Mapping[str, Any]

_UNRESERVED = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~")
_IN_PATH = _UNRESERVED | frozenset(b"/:@")
_LARGEST_ERROR = 64 * 1024

TAR = (("Content-Type", "application/x-tar"),)


def quote(text: str, *, keep: frozenset[int] = _UNRESERVED) -> str:
    """Percent-encoding (RFC 3986) of what is not in ``keep``."""
    data = text.encode("utf-8", "surrogateescape")
    if keep.issuperset(data):
        return text
    return "".join(chr(byte) if byte in keep else f"%{byte:02X}" for byte in data)


def path_of(*parts: str) -> str:
    """A path from literal parts and names: "/containers/" + an encoded name + "/json".

    Every second part is a name; its slashes stay, because names of images have some.
    """
    return "".join(quote(part, keep=_IN_PATH) if index % 2 else part for index, part in enumerate(parts))


def query_string(query: Query) -> str:
    """ "?a=1&b=x": None is left out, truth is 1 or 0, a mapping is JSON, a list repeats its key."""
    pairs: list[str] = []
    for key, value in query.items():
        if value is None:
            continue
        if value is True or value is False:
            pairs.append(f"{key}={int(value)}")
        elif isinstance(value, dict):
            if value:
                pairs.append(f"{key}={quote(json.dumps(value))}")
        elif isinstance(value, list | tuple):
            pairs += [f"{key}={quote(str(item))}" for item in value]
        else:
            pairs.append(f"{key}={quote(str(value))}")
    return "?" + "&".join(pairs) if pairs else ""


class Api:
    """One daemon.

    host: ``unix:///path`` or ``tcp://host:port``; without it ``CORTEN_HOST``, else this user's default socket
    tls:  of TCP; without it ``CORTEN_TLS_VERIFY``, ``CORTEN_TLS`` and ``CORTEN_CERT_PATH`` decide

    >>> api = Api("unix:///run/corten/corten.sock")
    >>> api.get("/containers/json", {"all": True})        # doctest: +SKIP
    [...]
    """

    def __init__(self, host: str = "", tls: address.Tls | None = None) -> None:
        self.host = address.chosen_host(host) or address.default_host()
        self.transport = Transport(address.parse(self.host, tls))

    def send(
        self,
        method: str,
        path: str,
        query: Query | None = None,
        *,
        document: Any = None,
        body: Body = None,
        headers: Iterable[tuple[str, str]] = (),
        upgrade: bool = False,
    ) -> PendingResponse:
        """Send a request without waiting for the answer.  ``document`` is sent as JSON, ``body`` as it is."""
        target = path + query_string(query) if query else path
        if document is not None:
            body = json.dumps(document).encode()
            headers = (*headers, ("Content-Type", "application/json"))
        return self.transport.send(method, target, headers=headers, body=body, upgrade=upgrade)

    def stream(
        self,
        method: str,
        path: str,
        query: Query | None = None,
        *,
        document: Any = None,
        body: Body = None,
        headers: Iterable[tuple[str, str]] = (),
    ) -> Response:
        """A successful answer whose body is to be read by the caller, who closes it.

        Errors: the kind of the daemon's error.
        """
        pending = self.send(method, path, query, document=document, body=body, headers=headers)
        return checked(pending.wait())

    def call(self, method: str, path: str, query: Query | None = None, document: Any = None) -> Any:
        """The document that the daemon answers with, None for none.

        Errors: the kind of the daemon's error, Unavailable when there is no daemon.
        """
        with self.stream(method, path, query, document=document) as response:
            if response.status == 304:
                return None
            body = response.read()
            return json.loads(body) if body.strip() else None

    def get(self, path: str, query: Query | None = None) -> Any:
        """``call("GET", …)``."""
        return self.call("GET", path, query)

    def post(self, path: str, query: Query | None = None, document: Any = None) -> Any:
        """``call("POST", …)``."""
        return self.call("POST", path, query, document)

    def delete(self, path: str, query: Query | None = None) -> Any:
        """``call("DELETE", …)``."""
        return self.call("DELETE", path, query)

    def hijack(self, path: str, query: Query | None = None, document: Any = None) -> Hijacked:
        """A connection to a program's streams.

        Errors: the kind of the daemon's error.
        """
        response = checked(self.send("POST", path, query, document=document, upgrade=True).wait())
        return response.hijack()


def checked(response: Response) -> Response:
    """The response, if it is a success (304 counts as one).

    Errors: the kind of the daemon's error; the response is closed then.
    """
    if response.status < 400:
        return response
    with response:
        body = b""
        while len(body) < _LARGEST_ERROR and (piece := response.read_some()):
            body += piece
    raise failure(response.status, response.reason, body)
