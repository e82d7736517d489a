"""JSON bodies: documents in, documents and streams of documents out."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any, TypeVar

from corten.api.errors import message_of
from corten.api.http.messages import JSON, HttpError, Request, Response, StreamResponse
from corten.api.http.streaming import close_iterator
from corten.dockerapi.codec import decode, encode
from corten.errors import InvalidParameter

T = TypeVar("T")


def json_response(document: Any, status: int = 200, headers: tuple[tuple[str, str], ...] = ()) -> Response:
    """A document with the newline that Go's encoder puts after it."""
    return Response(status, encode(document) + b"\n", JSON, headers)


async def read_body(request: Request) -> bytes:
    """The whole body, whatever it is.  Errors: BodyTooLarge, HttpError 408."""
    try:
        return await request.body.read(request.limits.json_bytes, request.limits.body_timeout_s)
    except TimeoutError:
        raise HttpError(408, "the request body took too long", closes=True) from None


async def read_json_bytes(request: Request) -> bytes:
    """The body of a request that must be JSON; empty when there is none.

    Errors: InvalidParameter for another content type, BodyTooLarge, HttpError 408.
    """
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if request.body.is_empty:
        return b""
    if not content_type:
        raise InvalidParameter("malformed Content-Type header (): a request body must be 'application/json'")
    if content_type != JSON:
        raise InvalidParameter(f"unsupported Content-Type header ({content_type[:100]}): must be '{JSON}'")
    return await read_body(request)


async def read_document(request: Request, kind: type[T]) -> T:
    """The body as ``kind``.  Errors: as ``read_json_bytes``; InvalidParameter for no body or a bad one."""
    document = await read_optional_document(request, kind)
    if document is None:
        raise InvalidParameter("invalid JSON: got EOF while reading request body")
    return document


async def read_optional_document(request: Request, kind: type[T]) -> T | None:
    """As ``read_document``; None without a body, and for ``null``."""
    body = await read_json_bytes(request)
    text = body.strip()
    if not text or text == b"null":
        return None
    return decode(body, kind)


async def _lines(documents: AsyncIterator[Any], end: bytes, start: bytes = b"") -> AsyncIterator[bytes]:
    try:
        async for document in documents:
            yield start + encode(document) + end
    finally:
        await close_iterator(documents)


def json_stream(
    documents: AsyncIterator[Any], *, at_once: bool, endless: bool = False, content_type: str = JSON
) -> StreamResponse:
    """One document a line (events, statistics); of application/json-seq as RFC 7464 has them."""
    start = b"\x1e" if content_type == "application/json-seq" else b""
    return StreamResponse(_lines(documents, b"\n", start), content_type, at_once=at_once, endless=endless)


def accepted(header: str, offered: Sequence[str]) -> str:
    """What of the offered media types an ``Accept`` header names with the highest quality; nothing when it names none.

    Wildcards do not count: a client that takes anything gets the default.  Source: RFC 9110 section 12.5.1.
    """
    best, best_quality = "", 0.0
    for item in header.split(","):
        name, *parameters = (part.strip().lower() for part in item.split(";"))
        if name not in offered:
            continue
        quality = 1.0
        for parameter in parameters:
            if parameter.startswith("q="):
                try:
                    quality = float(parameter[2:])
                except ValueError:
                    quality = 0.0
        if quality > best_quality:
            best, best_quality = name, quality
    return best


def progress_stream(documents: AsyncIterator[Any]) -> StreamResponse:
    """Progress messages; a late failure is told in the stream as Docker's clients expect it."""
    return StreamResponse(_lines(documents, b"\r\n"), on_error=_progress_error)


def _progress_error(error: Exception) -> bytes:
    message = message_of(error)
    return encode({"errorDetail": {"message": message}, "error": message}) + b"\r\n"
