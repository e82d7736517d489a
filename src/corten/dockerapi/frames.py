"""Docker's multiplexed stream: an 8-byte header before each piece of output.

``[stream, 0, 0, 0, length as big-endian 32 bits]``; stream 0 is standard input, 1 output, 2 error, 3 an error of the
daemon itself.  Source: Docker Engine API, "Attach to a container", stream format.
"""

from __future__ import annotations

import struct

from corten.errors import DataLoss

STDIN = 0
STDOUT = 1
STDERR = 2
SYSTEM_ERROR = 3
HEADER_SIZE = 8

_HEADER = struct.Struct(">B3xI")


def encode(stream: int, payload: bytes) -> bytes:
    """One frame.  ``payload``: less than 4 GiB."""
    return _HEADER.pack(stream, len(payload)) + payload


class FrameDecoder:
    """Frames out of bytes that arrive in pieces of any size."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """(stream, payload) of every frame that is complete now.

        Errors: DataLoss when what should be a header is none.
        """
        data = self._rest + data if self._rest else data
        frames = []
        position, end = 0, len(data)
        while position + HEADER_SIZE <= end:
            stream, length = _HEADER.unpack_from(data, position)
            if stream > SYSTEM_ERROR or data[position + 1 : position + 4] != b"\0\0\0":
                raise DataLoss(f"not a stream header: {data[position : position + HEADER_SIZE].hex()}")
            start = position + HEADER_SIZE
            if start + length > end:
                break
            frames.append((stream, data[start : start + length]))
            position = start + length
        self._rest = data[position:]
        return frames

    @property
    def is_complete(self) -> bool:
        """No part of a frame is waiting for the rest: the stream may end here."""
        return not self._rest
