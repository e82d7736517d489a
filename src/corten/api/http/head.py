"""Request heads: parsed by ``httptools``, checked for what two readers could understand in two ways.

Source: RFC 9112 sections 2, 3 and 6.3 (request smuggling).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import httptools

from corten.api.http.body import ChunkedFraming, Framing, LengthFraming
from corten.api.http.messages import HttpError

_SINGLE = frozenset(("host", "content-length", "transfer-encoding"))


@dataclass(frozen=True, slots=True)
class Head:
    """A parsed head.  ``framing`` is None without a body; ``keeps``: the client wants to keep the connection."""

    method: str
    target: str
    minor: int
    headers: dict[str, str]
    framing: Framing | None
    keeps: bool


class HeadParser:
    """Parses one head after the other."""

    def __init__(self) -> None:
        self._parser: httptools.HttpRequestParser | None = None
        self._target = ""
        self._headers: dict[str, str] = {}
        self._is_complete = False

    # -- callbacks of httptools -------------------------------------------------------------------------------------

    def on_url(self, url: bytes) -> None:
        self._target += url.decode("ascii")

    def on_header(self, name: bytes, value: bytes) -> None:
        key = name.decode("ascii").lower()
        text = value.decode("latin-1").strip()
        if key in self._headers:
            if key in _SINGLE:
                raise HttpError(400, f"duplicate {key} header", closes=True)
            text = f"{self._headers[key]}, {text}"
        self._headers[key] = text

    def on_headers_complete(self) -> None:
        self._is_complete = True

    # ---------------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Let go of the parser, which holds on to its callbacks."""
        self._parser = None

    def parse(self, head: bytes) -> Head:
        """``head``: everything up to and with the empty line.  Errors: HttpError; the connection is lost then."""
        parser = self._parser
        if parser is None:
            parser = self._parser = httptools.HttpRequestParser(self)
        self._target, self._headers, self._is_complete = "", {}, False
        try:
            parser.feed_data(head)
        except httptools.HttpParserUpgrade:
            self._parser = None
        except httptools.HttpParserCallbackError as error:
            if isinstance(error.__context__, HttpError):
                raise error.__context__ from None
            raise HttpError(400, "malformed request", closes=True) from None
        except httptools.HttpParserError as error:
            raise HttpError(400, f"malformed request: {error}", closes=True) from None
        if not self._is_complete:
            raise HttpError(400, "malformed request", closes=True)
        version = parser.get_http_version()
        if version not in ("1.1", "1.0"):
            raise HttpError(505, f"HTTP version {version[:8]} is not supported", closes=True)
        minor = int(version[2])
        headers = self._headers
        framing = _framing(headers, minor)
        if framing is not None:
            self._parser = None  # it waits for a body that it will not see
        method = parser.get_method().decode("ascii")
        return Head(method, _origin_form(self._target), minor, headers, framing, _keeps(minor, headers))


def _framing(headers: dict[str, str], minor: int) -> Framing | None:
    encoding = headers.get("transfer-encoding")
    length = headers.get("content-length")
    if encoding is not None:
        if length is not None:
            raise HttpError(400, "both Content-Length and Transfer-Encoding are given", closes=True)
        if not minor or encoding.lower() != "chunked":
            raise HttpError(501, f"unsupported transfer encoding: {encoding[:40]}", closes=True)
        return ChunkedFraming()
    if length is None:
        return None
    if not (length.isascii() and length.isdigit() and len(length) < 19):
        raise HttpError(400, f"invalid Content-Length: {length[:40]}", closes=True)
    return LengthFraming(int(length)) if int(length) else None


def _keeps(minor: int, headers: dict[str, str]) -> bool:
    connection = headers.get("connection")
    if connection is None:
        return minor > 0
    tokens = re.split(r"[\s,]+", connection.lower())
    return "close" not in tokens if minor else "keep-alive" in tokens


def _origin_form(target: str) -> str:
    """The path and query of a request target, which proxies send with scheme and host in front."""
    if target.startswith("/"):
        return target
    if target.startswith(("http://", "https://")):
        slash = target.find("/", target.index("//") + 2)
        return target[slash:] if slash >= 0 else "/"
    raise HttpError(400, "malformed request target", closes=True)
