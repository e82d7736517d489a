"""What comes is cut into HTTP/2 frames, so that plain DATA, nearly all of what a busy connection carries, is not taken
apart by h2, for which a frame is an object with a printable form.

Small messages, such as the entries of a listing, come in thousands, each in a frame of its own: they are cut out
together.  Source: RFC 9113, sections 4.1 and 6; for messages ``framing``.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

HEAD = 9
PREFACE = 24  # what a client sends before its first frame
DATA, HEADERS, PUSH_PROMISE, WINDOW_UPDATE, CONTINUATION = 0x0, 0x1, 0x5, 0x8, 0x9
END_HEADERS = 0x4
_FRAME = struct.Struct(">IBI")  # length and kind, flags, stream
_FRAMED = struct.Struct(">IBIBI")  # the same of a frame that begins with a message: its compression, its length


class Frame(NamedTuple):
    """whole: with its head; both views are valid until the next piece is fed"""

    kind: int
    flags: int
    stream: int
    payload: memoryview
    whole: memoryview


class Run(NamedTuple):
    """Messages that came in plain DATA frames of one stream, each in one of its own.

    size: bytes of all payloads; whole: the frames, valid until the next piece is fed
    """

    stream: int
    size: int
    messages: list[bytes]
    whole: memoryview

    def frames(self) -> Iterator[Frame]:
        """One by one, for a stream that is in the middle of something else."""
        position = 0
        for message in self.messages:
            whole = self.whole[position : position + _FRAMED.size + len(message)]
            yield Frame(DATA, 0, self.stream, whole[HEAD:], whole)
            position += len(whole)


class FrameCutter:
    """skip: bytes before the first frame, which come as a frame of no kind (-1)

    largest: bytes of a payload
    """

    def __init__(self, skip: int, largest: int) -> None:
        self._skip = skip
        self._largest = largest
        self._rest = bytearray()
        self._wanted = 0  # bytes with which what has been kept is worth a look

    def feed(self, data: bytes) -> Iterator[Frame | Run]:
        """Errors: ValueError for a frame that is too large."""
        if self._rest:
            self._rest += data
            if len(self._rest) < self._wanted:
                return
            data = bytes(self._rest)
            self._rest.clear()
        view = memoryview(data)
        position = 0
        if self._skip:
            position = min(self._skip, len(view))
            self._skip -= position
            yield Frame(-1, 0, 0, view[:0], view[:position])
        self._wanted = HEAD
        while len(view) - position >= HEAD:
            run = self._run(data, view, position)
            if run is not None:
                yield run
                position += len(run.whole)
                continue
            mixed, flags, stream = _FRAME.unpack_from(view, position)
            size = mixed >> 8
            end = position + HEAD + size
            if size > self._largest:
                raise ValueError(f"a frame of {size} bytes")
            if end > len(view):
                self._wanted = end - position
                break
            whole = view[position:end]
            yield Frame(mixed & 0xFF, flags, stream & 0x7FFFFFFF, whole[HEAD:], whole)
            position = end
        self._rest += view[position:]

    def _run(self, data: bytes, view: memoryview, begin: int) -> Run | None:
        """Several messages that begin at a position; None when there are none or one."""
        unpack, head, most = _FRAMED.unpack_from, _FRAMED.size, self._largest - _FRAMED.size + HEAD
        position = begin
        of = -1
        messages: list[bytes] = []
        while len(data) - position >= head:
            mixed, flags, stream, compressed, length = unpack(data, position)
            end = position + head + length
            if mixed != (length + head - HEAD) << 8 | DATA or flags or compressed or length > most or end > len(data):
                break
            if stream != of:
                if messages:
                    break
                of = stream
            messages.append(data[position + head : end])
            position = end
        if len(messages) < 2:
            return None
        return Run(of, position - begin - HEAD * len(messages), messages, view[begin:position])


def window_update(stream: int, size: int) -> bytes:
    return b"\0\0\4\x08\0" + stream.to_bytes(4, "big") + size.to_bytes(4, "big")
