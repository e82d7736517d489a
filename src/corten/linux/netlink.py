"""Netlink sockets and attributes: requests in batches, answers and errors matched by sequence number.

Sources: netlink(7), include/uapi/linux/netlink.h.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

NETLINK_ROUTE = 0
NETLINK_NETFILTER = 12

NLM_F_REQUEST = 0x1
NLM_F_ACK = 0x4
NLM_F_REPLACE = 0x100
NLM_F_EXCL = 0x200
NLM_F_CREATE = 0x400
NLM_F_APPEND = 0x800
NLM_F_DUMP = 0x300

_NLMSG_NOOP = 1
_NLMSG_ERROR = 2
_NLMSG_DONE = 3
_NLM_F_DUMP_INTR = 0x10

_SOL_NETLINK = 270
_SO_RCVBUFFORCE = 33
_LISTENER_BYTES = 8 << 20
_NETLINK_EXT_ACK = 11
_NETLINK_CAP_ACK = 10
_NLM_F_CAPPED = 0x100
_NLM_F_ACK_TLVS = 0x200
_NLMSGERR_ATTR_MSG = 1

_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_NESTED = 0x8000
_TYPE_MASK = 0x3FFF

_RECEIVE_BYTES = 1 << 18
# the answers to so many requests fit into the buffer of a socket
_AT_ONCE = 64
_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Message:
    """One request.

    what:    for errors: what could not be done, "add route to 0.0.0.0/0"
    ignored: errno values that are no failure here
    """

    kind: int
    body: bytes
    flags: int = 0
    what: str = "netlink"
    ignored: frozenset[int] = frozenset()


def attribute(kind: int, value: bytes | str | int) -> bytes:
    """One attribute; a string gets its NUL, a number is 32 bits in the machine's order."""
    if isinstance(value, str):
        value = value.encode() + b"\0"
    elif isinstance(value, int):
        value = struct.pack("=I", value)
    length = _ATTRIBUTE.size + len(value)
    return _ATTRIBUTE.pack(length, kind) + value + bytes(-length % 4)


def nested(kind: int, *parts: bytes) -> bytes:
    """An attribute made of attributes."""
    return attribute(kind | _NESTED, b"".join(parts))


def attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(type, value) of each attribute in ``data``."""
    position = 0
    while position + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, position)
        if length < _ATTRIBUTE.size:
            return
        yield kind & _TYPE_MASK, data[position + _ATTRIBUTE.size : position + length]
        position += length + (-length % 4)


def pack(message: Message, sequence: int) -> bytes:
    """A request as it goes to the kernel."""
    length = _HEADER.size + len(message.body)
    return _HEADER.pack(length, message.kind, message.flags | NLM_F_REQUEST, sequence, 0) + message.body


class Received(NamedTuple):
    """A message of the kernel; ``port``: of the socket whose request it is about."""

    kind: int
    flags: int
    sequence: int
    port: int
    body: bytes


def unpack(data: bytes) -> Iterator[Received]:
    """Each message in ``data``."""
    position = 0
    while position + _HEADER.size <= len(data):
        length, kind, flags, sequence, port = _HEADER.unpack_from(data, position)
        if length < _HEADER.size:
            return
        yield Received(kind, flags, sequence, port, data[position + _HEADER.size : position + length])
        position += length + (-length % 4)


class Connection:
    """A netlink socket of the network namespace in which it was made, also when it is used from another.

    One request at a time: whoever shares a connection between threads sees to it.
    """

    def __init__(self, family: int) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, family)
        self._sequence = 0
        try:
            self._socket.bind((0, 0))
            self._socket.settimeout(_TIMEOUT_S)
            self._socket.setsockopt(_SOL_NETLINK, _NETLINK_EXT_ACK, 1)
            self._socket.setsockopt(_SOL_NETLINK, _NETLINK_CAP_ACK, 1)
            # a transaction of many rules is one datagram
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 21)
        except BaseException:
            self._socket.close()
            raise

    def fileno(self) -> int:
        return self._socket.fileno()

    @property
    def port(self) -> int:
        """The kernel's number of this socket: notifications about its requests carry it."""
        return int(self._socket.getsockname()[0])

    def close(self) -> None:
        self._socket.close()

    def _next(self) -> int:
        self._sequence = (self._sequence + 1) & 0x7FFFFFFF or 1
        return self._sequence

    def transact(self, messages: Sequence[Message]) -> None:
        """Send all at once and wait until the kernel has answered each; the messages after one that fails are done too.

        Errors: OSError of the first message that failed, naming what it was for.
        """
        failures: list[OSError] = []
        for start in range(0, len(messages), _AT_ONCE):
            failures += self._transact(messages[start : start + _AT_ONCE])
        if failures:
            raise failures[0]

    def _transact(self, messages: Sequence[Message]) -> list[OSError]:
        waiting: dict[int, Message] = {}
        packed = []
        for message in messages:
            sequence = self._next()
            waiting[sequence] = message
            packed.append(pack(replace(message, flags=message.flags | NLM_F_ACK), sequence))
        self._socket.send(b"".join(packed))
        failures: list[OSError] = []
        while waiting:
            for kind, flags, sequence, _, body in unpack(self._receive()):
                if kind != _NLMSG_ERROR or sequence not in waiting:
                    continue
                done = waiting.pop(sequence)
                code = -struct.unpack_from("=i", body)[0]
                if code and code not in done.ignored:
                    failures.append(_failure(code, flags, body, done.what))
        return failures

    def batch(self, begin: Message, messages: Sequence[Message], end: Message) -> None:
        """A transaction of nfnetlink: all messages between begin and end happen, or none.

        Errors: OSError of the first that failed.
        """
        first = sequence = self._next()
        sent = {first: begin}
        packed = [pack(begin, first)]
        last = len(messages) - 1
        for position, message in enumerate(messages):
            sequence = self._next()
            sent[sequence] = message
            # failures are told in any case; an answer to each of thousands would be more than the socket can hold
            flags = message.flags | NLM_F_ACK if position == last else message.flags
            packed.append(pack(replace(message, flags=flags), sequence))
        packed.append(pack(end, self._next()))
        self._socket.send(b"".join(packed))
        failure: OSError | None = None
        is_over = not messages
        while not is_over:
            for kind, flags, answered, _, body in unpack(self._receive()):
                if kind != _NLMSG_ERROR or answered not in sent:
                    continue
                code = -struct.unpack_from("=i", body)[0]
                if code and failure is None:
                    failure = _failure(code, flags, body, sent[answered].what)
                # the last has been answered, or the transaction itself was refused: nothing more is said
                is_over = is_over or answered in (first, sequence)
        if failure is not None:
            raise failure

    def dump(self, message: Message) -> list[tuple[int, bytes]]:
        """(type, body) of everything that the kernel lists.  Errors: OSError."""
        for _ in range(8):
            found, complete = self._dump(message)
            if complete:
                break
        return found

    def get(self, message: Message) -> tuple[int, bytes]:
        """(type, body) of the one answer to a question.  Errors: OSError."""
        asked = self._next()
        self._socket.send(pack(message, asked))
        while True:
            for kind, flags, sequence, _, body in unpack(self._receive()):
                if sequence != asked:
                    continue
                if kind == _NLMSG_ERROR:
                    raise _failure(-struct.unpack_from("=i", body)[0], flags, body, message.what)
                return kind, body

    def _dump(self, message: Message) -> tuple[list[tuple[int, bytes]], bool]:
        found: list[tuple[int, bytes]] = []
        complete = True
        asked = self._next()
        self._socket.send(pack(Message(message.kind, message.body, message.flags | NLM_F_DUMP), asked))
        while True:
            for kind, flags, sequence, _, body in unpack(self._receive()):
                if sequence != asked:
                    continue
                complete = complete and not flags & _NLM_F_DUMP_INTR
                if kind == _NLMSG_DONE:
                    return found, complete
                if kind == _NLMSG_ERROR:
                    code = -struct.unpack_from("=i", body)[0]
                    if code:
                        raise _failure(code, flags, body, message.what)
                elif kind != _NLMSG_NOOP:
                    found.append((kind, body))

    def _receive(self) -> bytes:
        try:
            return self._socket.recv(_RECEIVE_BYTES)
        except TimeoutError as error:
            raise OSError(errno.ETIMEDOUT, "the kernel does not answer on netlink") from error


def _failure(code: int, flags: int, body: bytes, what: str) -> OSError:
    """The error with the kernel's own words, where it has some (extended acknowledgement)."""
    text = os.strerror(code).lower()
    if flags & _NLM_F_ACK_TLVS:
        skipped = 4 + 16 if flags & _NLM_F_CAPPED else 4 + struct.unpack_from("=I", body, 4)[0]
        for kind, value in attributes(body[skipped + (-skipped % 4) :]):
            if kind == _NLMSGERR_ATTR_MSG:
                text = f"{text}: {value.rstrip(bytes(1)).decode(errors='replace')}"
    return OSError(code, f"cannot {what}: {text}")


def listener(family: int, *groups: int) -> socket.socket:
    """A non-blocking socket that hears the multicast groups of a family; many messages may wait in it."""
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, family)
    try:
        with contextlib.suppress(PermissionError):
            sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _LISTENER_BYTES)
        sock.bind((0, 0))
        for group in groups:
            sock.setsockopt(_SOL_NETLINK, 1, group)  # NETLINK_ADD_MEMBERSHIP
    except BaseException:
        sock.close()
        raise
    return sock
