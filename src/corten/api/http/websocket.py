"""WebSocket (RFC 6455) as ``/attach/ws`` needs it: binary messages to and from a program, server side.

Messages of the client are input whatever their type; fragments are passed on as they come.  No extensions.
"""

from __future__ import annotations

import base64
import hashlib

from corten.api.http.hijack import RawClient
from corten.api.http.messages import HttpError, Request
from corten.dockerapi.frames import FrameDecoder

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_CONTINUATION, _TEXT, _BINARY, _CLOSE, _PING, _PONG = 0, 1, 2, 8, 9, 10
_NORMAL, _PROTOCOL_ERROR = 1000, 1002
_CONTROL_LIMIT = 125
_PONG_BACKLOG = 256 * 1024


def handshake(request: Request) -> str:
    """The header line that accepts the upgrade.  Errors: HttpError (RFC 6455 section 4.2.1)."""
    key = request.headers.get("sec-websocket-key", "")
    if request.upgrade != "websocket":
        raise HttpError(400, "not a websocket handshake: Connection: Upgrade and Upgrade: websocket are needed")
    if request.headers.get("sec-websocket-version") != "13":
        raise HttpError(400, "unsupported websocket version", headers=(("Sec-WebSocket-Version", "13"),))
    try:
        nonce = base64.b64decode(key, validate=True)
    except ValueError:
        nonce = b""
    if len(nonce) != 16:
        raise HttpError(400, "invalid Sec-WebSocket-Key")
    digest = hashlib.sha1(key.encode("ascii") + _GUID, usedforsecurity=False).digest()
    return f"Sec-WebSocket-Accept: {base64.b64encode(digest).decode()}\r\n"


def encode_frame(opcode: int, payload: bytes) -> bytes:
    """One unmasked, final frame."""
    length = len(payload)
    if length < 126:
        head = bytes((0x80 | opcode, length))
    elif length < 1 << 16:
        head = bytes((0x80 | opcode, 126)) + length.to_bytes(2, "big")
    else:
        head = bytes((0x80 | opcode, 127)) + length.to_bytes(8, "big")
    return head + payload


def _masked(data: bytes, mask: bytes, offset: int) -> bytes:
    """``data`` with the mask applied; ``offset``: position of its first byte in the frame."""
    shift = offset % 4
    pattern = (mask[shift:] + mask[:shift]) * (len(data) // 4 + 1)
    number = int.from_bytes(data, "little") ^ int.from_bytes(pattern[: len(data)], "little")
    return number.to_bytes(len(data), "little")


class ProtocolError(Exception):
    """The client breaks RFC 6455."""


class FrameReader:
    """Cuts received bytes into (opcode, payload): data frames in pieces as they come, control frames whole."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._opcode = -1  # of the frame whose payload is being read
        self._left = 0
        self._offset = 0
        self._mask = b""
        self._in_message = False

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """Errors: ProtocolError."""
        self._buffer += data
        found: list[tuple[int, bytes]] = []
        while True:
            if self._opcode < 0 and not self._read_head():
                return found
            control = self._opcode >= _CLOSE
            if control and len(self._buffer) < self._left:
                return found
            raw = bytes(self._buffer[: self._left])
            del self._buffer[: len(raw)]
            payload = _masked(raw, self._mask, self._offset)
            self._left -= len(raw)
            self._offset += len(raw)
            if payload or control:
                found.append((self._opcode, payload))
            if self._left:
                return found
            self._opcode = -1

    def _read_head(self) -> bool:
        buffer = self._buffer
        if len(buffer) < 2:
            return False
        first, second = buffer[0], buffer[1]
        extra = {126: 2, 127: 8}.get(second & 0x7F, 0)
        self._check(first, second)
        if len(buffer) < 2 + extra + 4:
            return False
        length = int.from_bytes(buffer[2 : 2 + extra], "big") if extra else second & 0x7F
        if length >> 63:
            raise ProtocolError
        opcode, final = first & 0x0F, bool(first & 0x80)
        self._mask = bytes(buffer[2 + extra : 6 + extra])
        del buffer[: 6 + extra]
        self._opcode, self._left, self._offset = opcode, length, 0
        if opcode < _CLOSE:
            self._in_message = not final
        return True

    def _check(self, first: int, second: int) -> None:
        opcode, final = first & 0x0F, bool(first & 0x80)
        wrong = (
            first & 0x70  # extension bits: none was negotiated
            or not second & 0x80  # clients must mask
            or opcode not in (_CONTINUATION, _TEXT, _BINARY, _CLOSE, _PING, _PONG)
            or (opcode >= _CLOSE and (not final or second & 0x7F > _CONTROL_LIMIT))
            or (opcode == _CONTINUATION and not self._in_message)
            or (opcode in (_TEXT, _BINARY) and self._in_message)
        )
        if wrong:
            raise ProtocolError


class WebSocketClient(RawClient):
    """The client's side of an attach over WebSocket."""

    def __init__(self, *, framed: bool, linger_s: float = 2.0) -> None:
        super().__init__(linger_s=linger_s)
        self._reader = FrameReader()
        self._frames = FrameDecoder() if framed else None
        self._close_sent = False

    def data_received(self, data: bytes) -> None:
        self.receive_frames(data)

    def receive_early(self, data: bytes) -> None:
        self.receive_frames(data)

    def receive_frames(self, data: bytes) -> None:
        try:
            frames = self._reader.feed(data)
        except ProtocolError:
            self._say_close(_PROTOCOL_ERROR)
            self.finish()
            self.stream.close()
            return
        for opcode, payload in frames:
            if opcode < _CLOSE:
                self.receive(payload)
            elif opcode == _PING:
                if self.transport.get_write_buffer_size() < _PONG_BACKLOG:  # else it sends pings and reads nothing
                    self._write_control(_PONG, payload)
            elif opcode == _CLOSE:
                # the client is done with both directions: the program's input ends, its output has no reader
                self._say_close(int.from_bytes(payload[:2], "big") if len(payload) >= 2 else _NORMAL)
                self.end_input()
                self.finish()
                self.stream.close()
                return

    def send(self, data: bytes) -> None:
        if self._frames is not None:
            data = b"".join(payload for _, payload in self._frames.feed(data))
        if data and not (self._close_sent or self._finished):
            self.transport.write(encode_frame(_BINARY, data))

    def finish(self) -> None:
        self._say_close(_NORMAL)
        super().finish()

    def _say_close(self, code: int) -> None:
        if not self._close_sent:
            self._write_control(_CLOSE, code.to_bytes(2, "big"))
            self._close_sent = True

    def _write_control(self, opcode: int, payload: bytes) -> None:
        if not (self._close_sent or self.transport.is_closing()):
            self.transport.write(encode_frame(opcode, payload))
