"""Taking apart what a container without a terminal says: output and error arrive in frames on one stream."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator

from corten.dockerapi.frames import HEADER_SIZE, STDERR, STDIN, STDOUT, SYSTEM_ERROR
from corten.errors import DataLoss, SystemFailure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from corten.client.response import Hijacked

_unpack = struct.Struct(">BBHI").unpack_from


class Demultiplexer:
    """Output and error out of frames that arrive in pieces of any size.

    Unlike ``dockerapi.frames.FrameDecoder`` it joins neighbouring frames of one stream, so that a log with a frame for
    each line is not written line by line, and it passes on what there is of a frame that is not complete.
    """

    __slots__ = ("_in_frame", "_rest", "_stream")

    def __init__(self) -> None:
        self._rest = b""
        self._in_frame = 0
        self._stream = STDOUT

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """(STDOUT or STDERR, bytes) in order.

        Errors: SystemFailure with the daemon's words when it reports an error in the stream; DataLoss when what should
        be a header is none.
        """
        if self._rest:
            data = self._rest + data
            self._rest = b""
        runs: list[tuple[int, bytes]] = []
        pieces: list[bytes] = []
        stream, in_frame = self._stream, self._in_frame
        position, end = 0, len(data)
        while position < end:
            if not in_frame:
                if end - position < HEADER_SIZE:
                    self._rest = data[position:]
                    break
                kind, zero, zeros, in_frame = _unpack(data, position)
                if kind > SYSTEM_ERROR or zero or zeros:
                    raise DataLoss(f"not a stream header: {data[position : position + HEADER_SIZE].hex()}")
                position += HEADER_SIZE
                if kind != stream and pieces:
                    runs.append((stream, b"".join(pieces)))
                    pieces = []
                stream = kind
            piece = data[position : position + in_frame]
            pieces.append(piece)
            position += len(piece)
            in_frame -= len(piece)
        if pieces:
            runs.append((stream, b"".join(pieces)))
        self._stream, self._in_frame = stream, in_frame
        return [(STDOUT if kind == STDIN else kind, self._checked(kind, payload)) for kind, payload in runs if payload]

    @staticmethod
    def _checked(kind: int, payload: bytes) -> bytes:
        if kind == SYSTEM_ERROR:
            raise SystemFailure(f"error from daemon in stream: {payload.decode('utf-8', 'replace').strip()}")
        return payload


def demultiplex(pieces: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    """(STDOUT or STDERR, bytes) out of a framed stream.

    >>> list(demultiplex([b"\\1\\0\\0\\0\\0\\0\\0\\2hi\\2\\0\\0\\0\\0\\0\\0\\1!"]))
    [(1, b'hi'), (2, b'!')]
    """
    demultiplexer = Demultiplexer()
    for piece in pieces:
        yield from demultiplexer.feed(piece)


def undivided(pieces: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    """The stream of a terminal, which has no frames, in the form that ``demultiplex`` gives."""
    for piece in pieces:
        yield STDOUT, piece


def communicate(connection: Hijacked, stdin: bytes | None, *, tty: bool = False) -> tuple[bytes, bytes]:
    """(output, error) of an attached program, which gets ``stdin`` and then the end of its input meanwhile.

    stdin: None leaves the input as it is

    Errors: as ``Demultiplexer.feed``.
    """
    import select

    unsent = memoryview(stdin or b"")
    if stdin == b"":
        connection.end_input()
    demultiplexer = None if tty else Demultiplexer()
    pieces: dict[int, list[bytes]] = {STDOUT: [], STDERR: []}
    poller = select.poll()
    while True:
        poller.register(connection, select.POLLIN | (select.POLLOUT if unsent else 0))
        events = select.POLLIN if connection.early else poller.poll()[0][1]
        if events & select.POLLOUT and unsent:
            sent = connection.send_some(unsent)
            unsent = memoryview(b"") if sent < 0 else unsent[sent:]
            if not unsent and sent >= 0:
                connection.end_input()
        if events & ~select.POLLOUT:
            data = connection.receive()
            if not data:
                return b"".join(pieces[STDOUT]), b"".join(pieces[STDERR])
            for stream, payload in demultiplexer.feed(data) if demultiplexer else [(STDOUT, data)]:
                pieces[stream].append(payload)


__all__ = ["STDERR", "STDOUT", "Demultiplexer", "communicate", "demultiplex", "undivided"]
