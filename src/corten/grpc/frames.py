"""What comes is cut into HTTP/2 frames, so that plain DATA, nearly all of what a busy connection carries, is not taken
apart by h2, for which a frame is an object with a printable form.

Source: RFC 9113, sections 4.1 and 6.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

HEAD = 9
PREFACE = 24  # what a client sends before its first frame
DATA, HEADERS, PUSH_PROMISE, WINDOW_UPDATE, CONTINUATION = 0x0, 0x1, 0x5, 0x8, 0x9
END_HEADERS = 0x4


class Frame(NamedTuple):
    """whole: with its head; both views are valid until the next piece is fed"""

    kind: int
    flags: int
    stream: int
    payload: memoryview
    whole: memoryview


class FrameCutter:
    """skip: bytes before the first frame, which come as a frame of no kind (-1)

    largest: bytes of a payload
    """

    def __init__(self, skip: int, largest: int) -> None:
        self._skip = skip
        self._largest = largest
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Errors: ValueError for a frame that is too large."""
        if self._rest:
            data = self._rest + data
            self._rest = b""
        view = memoryview(data)
        if self._skip:
            size = min(self._skip, len(view))
            self._skip -= size
            yield Frame(-1, 0, 0, view[:0], view[:size])
            view = view[size:]
        position = 0
        while len(view) - position >= HEAD:
            size = int.from_bytes(view[position : position + 3], "big")
            end = position + HEAD + size
            if size > self._largest:
                raise ValueError(f"a frame of {size} bytes")
            if end > len(view):
                break
            stream = int.from_bytes(view[position + 5 : position + HEAD], "big") & 0x7FFFFFFF
            whole = view[position:end]
            yield Frame(view[position + 3], view[position + 4], stream, whole[HEAD:], whole)
            position = end
        self._rest = bytes(view[position:])


def window_update(stream: int, size: int) -> bytes:
    return b"\0\0\4\x08\0" + stream.to_bytes(4, "big") + size.to_bytes(4, "big")
