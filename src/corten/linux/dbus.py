"""A client of D-Bus, as far as systemd is spoken to: calls and signals over a unix socket.

Bytes go by the machine's own order, which a peer on the same machine shares.  Nothing is imported but standard
modules: processes that this is for are forked from one that is kept small.
Source: D-Bus Specification, "Type System", "Message Protocol", "Authentication Protocol".
"""

from __future__ import annotations

import os
import select
import socket
import struct
import time
from collections.abc import Callable, Iterator
from typing import Any

_METHOD_CALL, _METHOD_RETURN, _ERROR, _SIGNAL = 1, 2, 3, 4
_PATH, _INTERFACE, _MEMBER, _ERROR_NAME, _REPLY_SERIAL, _DESTINATION, _SIGNATURE = 1, 2, 3, 4, 5, 6, 8
_FIELDS = {_PATH: "o", _INTERFACE: "s", _MEMBER: "s", _DESTINATION: "s", _SIGNATURE: "g"}
_FIXED = {"y": "B", "n": "h", "q": "H", "b": "I", "i": "i", "u": "I", "x": "q", "t": "Q", "d": "d"}
_ALIGNMENTS = {"y": 1, "n": 2, "q": 2, "b": 4, "i": 4, "u": 4, "s": 4, "o": 4, "a": 4, "g": 1, "v": 1}
_MAX_MESSAGE = 1 << 27  # bytes, by the specification
_HEADER = struct.Struct("=cBBBIII")
_ORDER = b"l" if struct.pack("=H", 1) == b"\1\0" else b"B"


class CallFailed(Exception):
    """The peer answered a call with an error.

    name: "org.freedesktop.systemd1.UnitExists"
    """

    def __init__(self, name: str, text: str) -> None:
        super().__init__(text or name)
        self.name = name


# -- values -----------------------------------------------------------------------------------------------------------


def complete_types(signature: str) -> Iterator[str]:
    """ "ssa(sv)" -> "s", "s", "a(sv)".  Errors: ValueError."""
    start = 0
    while start < len(signature):
        end = start
        while signature[end : end + 1] == "a":
            end += 1
        opened = 0
        while True:
            letter = signature[end : end + 1]
            if not letter:
                raise ValueError(f"signature {signature!r} is cut short")
            opened += (letter in "({") - (letter in ")}")
            end += 1
            if not opened:
                break
        yield signature[start:end]
        start = end


def _align(out: bytearray, kind: str) -> None:
    out += bytes(-len(out) % _ALIGNMENTS.get(kind[0], 8))


def marshal(out: bytearray, kind: str, value: Any) -> None:
    """Append a value of one complete type; a variant is (signature, value).  Errors: ValueError, struct.error."""
    _align(out, kind)
    first = kind[0]
    if first in _FIXED:
        out += struct.pack(f"={_FIXED[first]}", value)
    elif first in "so":
        data = value.encode()
        out += struct.pack("=I", len(data)) + data + b"\0"
    elif first == "g":
        out += bytes([len(value)]) + value.encode() + b"\0"
    elif first == "v":
        marshal(out, "g", value[0])
        marshal(out, value[0], value[1])
    elif first == "a":
        place = len(out)
        out += bytes(4)
        _align(out, kind[1:])
        begin = len(out)
        for item in value:
            marshal(out, kind[1:], item)
        struct.pack_into("=I", out, place, len(out) - begin)
    elif first in "({":
        for part, item in zip(complete_types(kind[1:-1]), value, strict=True):
            marshal(out, part, item)
    else:
        raise ValueError(f"signature {kind!r} is not known")


class Reader:
    """Values out of a message's bytes."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.place = 0

    def take(self, kind: str) -> Any:
        """A value of one complete type; a variant gives the value alone.  Errors: ValueError, struct.error."""
        first = kind[0]
        self.place += -self.place % _ALIGNMENTS.get(first, 8)
        if first in _FIXED:
            (value,) = struct.unpack_from(f"={_FIXED[first]}", self._data, self.place)
            self.place += struct.calcsize(f"={_FIXED[first]}")
            return bool(value) if first == "b" else value
        if first in "so":
            return self._text(self.take("u"))
        if first == "g":
            return self._text(self.take("y"))
        if first == "v":
            return self.take(self.take("g"))
        if first == "a":
            length = self.take("u")
            self.place += -self.place % _ALIGNMENTS.get(kind[1], 8)
            end = self.place + length
            items = []
            while self.place < end:
                items.append(self.take(kind[1:]))
            return items
        if first in "({":
            return tuple(self.take(part) for part in complete_types(kind[1:-1]))
        raise ValueError(f"signature {kind!r} is not known")

    def _text(self, length: int) -> str:
        data = self._data[self.place : self.place + length]
        if len(data) < length:
            raise ValueError("a text is cut short")
        self.place += length + 1
        return data.decode()


# -- a connection -----------------------------------------------------------------------------------------------------


class Connection:
    """One connection, used by one thread.

    Errors of all methods: OSError when the peer cannot be reached, leaves, or speaks no D-Bus; TimeoutError.
    """

    def __init__(self, path: str, *, timeout_s: float = 30.0) -> None:
        self._path = path
        self._deadline = time.monotonic() + timeout_s
        self._pending = bytearray()
        self._serial = 0
        self._signals: list[tuple[str, str, list[Any]]] = []
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            self._sock.connect(path)
            self._authenticate()
        except BaseException:
            self._sock.close()
            raise

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *failure: object) -> None:
        self._sock.close()

    def _authenticate(self) -> None:
        """As the user that the kernel says we are (EXTERNAL)."""
        self._sock.sendall(b"\0AUTH EXTERNAL " + str(os.geteuid()).encode().hex().encode() + b"\r\n")
        while b"\r\n" not in self._pending:
            self._receive()
        line, _, rest = bytes(self._pending).partition(b"\r\n")
        if not line.startswith(b"OK "):
            raise ConnectionRefusedError(f"{self._path}: {line.decode(errors='replace')}")
        self._pending = bytearray(rest)
        self._sock.sendall(b"BEGIN\r\n")

    def _receive(self) -> None:
        left = self._deadline - time.monotonic()
        if left <= 0 or not select.select([self._sock], [], [], left)[0]:
            raise TimeoutError(f"{self._path}: no answer")
        data = self._sock.recv(1 << 16)
        if not data:
            raise ConnectionResetError(f"{self._path}: the peer has closed the connection")
        self._pending += data

    def call(
        self, destination: str, path: str, interface: str, member: str, signature: str = "", *arguments: Any
    ) -> list[Any]:
        """Call a method and wait for what it returns.  Errors: CallFailed."""
        fields = {_PATH: path, _INTERFACE: interface, _MEMBER: member, _DESTINATION: destination}
        body = bytearray()
        for kind, value in zip(complete_types(signature), arguments, strict=True):
            marshal(body, kind, value)
        if signature:
            fields[_SIGNATURE] = signature
        self._serial += 1
        serial = self._serial
        message = bytearray(_HEADER.pack(_ORDER, _METHOD_CALL, 0, 1, len(body), serial, 0)[:12])
        marshal(message, "a(yv)", [(code, (_FIELDS[code], value)) for code, value in fields.items()])
        message += bytes(-len(message) % 8)
        self._sock.sendall(message + body)
        while True:
            message_type, header, values = self._next()
            if message_type == _SIGNAL:
                self._signals.append((header.get(_INTERFACE, ""), header.get(_MEMBER, ""), values))
            elif header.get(_REPLY_SERIAL) == serial:
                if message_type == _ERROR:
                    raise CallFailed(header.get(_ERROR_NAME, ""), str(values[0]) if values else "")
                return values

    def wait_for_signal(self, interface: str, member: str, wanted: Callable[[list[Any]], bool]) -> list[Any]:
        """The first signal, also one that has come already, that is wanted."""
        while True:
            for name, what, values in self._signals:
                if (name, what) == (interface, member) and wanted(values):
                    return values
            self._signals.clear()
            kind, header, values = self._next()
            if kind == _SIGNAL:
                self._signals.append((header.get(_INTERFACE, ""), header.get(_MEMBER, ""), values))

    def _next(self) -> tuple[int, dict[int, Any], list[Any]]:
        """(kind, header fields, values) of the next message."""
        self._fill(_HEADER.size)
        order, kind, _, _, body_length, _, fields_length = _HEADER.unpack_from(self._pending)
        begin = _HEADER.size + fields_length + -(_HEADER.size + fields_length) % 8
        if order != _ORDER or begin + body_length > _MAX_MESSAGE:
            raise ConnectionAbortedError(f"{self._path}: what came is no message of D-Bus")
        self._fill(begin + body_length)
        message = bytes(self._pending[: begin + body_length])
        del self._pending[: begin + body_length]
        try:
            reader = Reader(message[:begin])
            reader.place = _HEADER.size - 4
            fields = dict(reader.take("a(yv)"))
            body = Reader(message[begin:])
            values = [body.take(part) for part in complete_types(fields.get(_SIGNATURE, ""))]
        except (ValueError, struct.error, IndexError) as error:
            raise ConnectionAbortedError(f"{self._path}: what came is no message of D-Bus: {error}") from error
        return kind, fields, values

    def _fill(self, length: int) -> None:
        while len(self._pending) < length:
            self._receive()
