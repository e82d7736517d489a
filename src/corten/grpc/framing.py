"""Messages in a stream of bytes: one byte that tells of compression, four of length, the message.

Source: doc/PROTOCOL-HTTP2.md of the gRPC project, "Length-Prefixed-Message".
"""

from __future__ import annotations

from corten.grpc.status import Code, GrpcError

PREFIX = 5
MAX_MESSAGE = 16 << 20  # as BuildKit and containerd


def prefix(length: int) -> bytes:
    return b"\0" + length.to_bytes(4, "big")


def check_size(message: bytes, limit: int) -> None:
    """Errors: GrpcError (RESOURCE_EXHAUSTED) for a message that the other side would refuse."""
    if len(message) > limit:
        raise GrpcError(Code.RESOURCE_EXHAUSTED, f"message larger than max ({len(message)} vs. {limit} bytes)")


class MessageReader:
    """Cuts what arrives into messages.

    limit: bytes of one message
    """

    def __init__(self, limit: int = MAX_MESSAGE) -> None:
        self.limit = limit
        self._buffer = bytearray()
        self._wanted = -1  # bytes of the message whose prefix has come

    def __len__(self) -> int:
        """Bytes of a message that is not complete."""
        return len(self._buffer)

    @property
    def is_between(self) -> bool:
        """No message has begun."""
        return not self._buffer and self._wanted < 0

    def drop(self) -> None:
        """Nothing more is wanted: what has come of a message is not kept."""
        self._buffer = bytearray()

    def feed(self, data: bytes | memoryview) -> list[bytes]:
        """The messages that are complete now.

        Errors: GrpcError for a compressed one (INTERNAL: nobody has announced a compression), for one that is too
        large (RESOURCE_EXHAUSTED).
        """
        buffer = self._buffer
        if not buffer and self._wanted < 0 and len(data) >= PREFIX and len(data) == PREFIX + self._length(data, 0):
            return [bytes(data[PREFIX:])]  # what most senders do: a message a frame
        buffer += data
        found = []
        position = 0
        while True:
            if self._wanted < 0:
                if len(buffer) - position < PREFIX:
                    break
                self._wanted = self._length(buffer, position)
                position += PREFIX
            if len(buffer) - position < self._wanted:
                break
            with memoryview(buffer) as view:
                found.append(bytes(view[position : position + self._wanted]))
            position += self._wanted
            self._wanted = -1
        if position:
            del buffer[:position]
        return found

    def _length(self, buffer: bytearray | bytes | memoryview, position: int) -> int:
        if buffer[position]:
            raise GrpcError(Code.INTERNAL, "a compressed message without an encoding")
        length = int.from_bytes(buffer[position + 1 : position + PREFIX], "big")
        if length > self.limit:
            raise GrpcError(
                Code.RESOURCE_EXHAUSTED, f"received message larger than max ({length} vs. {self.limit} bytes)"
            )
        return length
