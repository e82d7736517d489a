"""Sending a streamed response: chunked for HTTP/1.1, up to the end of the connection for HTTP/1.0."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from corten.api.http.messages import StreamResponse

LAST_CHUNK = b"0\r\n\r\n"


class StreamFailure(Exception):
    """The source of a stream failed with ``cause``.  ``started``: the head was sent before."""

    def __init__(self, cause: Exception, *, started: bool) -> None:
        super().__init__(str(cause))
        self.cause = cause
        self.started = started


def framed(data: bytes, *, chunked: bool) -> bytes:
    """``data`` as it goes over the wire."""
    return b"%x\r\n%b\r\n" % (len(data), data) if chunked else data


async def send_stream(
    reply: StreamResponse,
    head: bytes,
    *,
    chunked: bool,
    write: Callable[[bytes], None],
    drained: Callable[[], Awaitable[None]],
) -> None:
    """Send ``head`` and everything that ``reply`` gives, no faster than ``drained`` allows; its source is closed then.

    Errors: StreamFailure.
    """
    chunks = reply.chunks
    started = False
    try:
        if reply.at_once:
            write(head)
            started = True
        async for chunk in chunks:
            if chunk:
                data = framed(chunk, chunked=chunked)
                write(data if started else head + data)
                started = True
                await drained()
        if not started:
            write(head)
        if chunked:
            write(LAST_CHUNK)
    except Exception as error:
        raise StreamFailure(error, started=started) from error
    finally:
        await close_iterator(chunks)


async def close_iterator(iterator: AsyncIterator[Any]) -> None:
    """End a generator that may not have been read to its end now, not when it is collected."""
    close = getattr(iterator, "aclose", None)
    if close is not None:
        await close()
