"""Requests, answers and errors of netlink, against a kernel that is played."""

from __future__ import annotations

import errno
import os
import socket
import struct

import pytest

from corten.linux import netlink
from corten.linux.netlink import Connection, Message, attribute, attributes, nested, pack, unpack

HEADER = struct.Struct("=IHHII")


def kernel_message(kind: int, sequence: int, body: bytes, flags: int = 0, port: int = 7) -> bytes:
    data = HEADER.pack(HEADER.size + len(body), kind, flags, sequence, port) + body
    return data + bytes(-len(data) % 4)


def answer(sequence: int, code: int, text: str = "", request: bytes = b"") -> bytes:
    """An error message (code 0: done), with the kernel's words as an extended acknowledgement."""
    flags = 0x100  # capped: the request's header alone
    body = struct.pack("=i", -code) + (request or bytes(16))
    if text:
        flags |= 0x200
        body += attribute(1, text)
    return kernel_message(2, sequence, body, flags)


class Kernel:
    """A socket that answers as it is told: ``reply`` maps the requests of one datagram to datagrams."""

    def __init__(self, reply) -> None:
        self.reply = reply
        self.sent: list[list[netlink.Received]] = []
        self.waiting: list[bytes] = []

    def send(self, data: bytes) -> int:
        requests = list(unpack(data))
        self.sent.append(requests)
        self.waiting += self.reply(requests)
        return len(data)

    def recv(self, size: int) -> bytes:
        if not self.waiting:
            raise TimeoutError
        return self.waiting.pop(0)

    def close(self) -> None:
        pass


def connected(reply) -> tuple[Connection, Kernel]:
    connection = Connection.__new__(Connection)
    kernel = Kernel(reply)
    connection._socket = kernel
    connection._sequence = 0
    return connection, kernel


def test_attributes_are_padded_and_read_back() -> None:
    data = attribute(1, "eth0") + attribute(2, 7) + nested(3, attribute(4, b"abc"), attribute(5, b""))
    assert data[:12] == b"\x09\x00\x01\x00eth0\x00\x00\x00\x00"
    assert len(data) % 4 == 0
    found = dict(attributes(data))
    assert found[1] == b"eth0\0"
    assert found[2] == struct.pack("=I", 7)
    assert dict(attributes(found[3])) == {4: b"abc", 5: b""}


@pytest.mark.parametrize("data", [b"", b"\x01", b"\x03\x00\x01\x00", b"\x00\x00\x00\x00\x00\x00"])
def test_broken_attributes_end_the_reading(data: bytes) -> None:
    assert list(attributes(data)) == []


def test_an_attribute_that_claims_more_than_there_is_gives_what_there_is() -> None:
    assert list(attributes(struct.pack("=HH", 40, 3) + b"ab")) == [(3, b"ab")]


def test_messages_of_one_datagram_are_told_apart() -> None:
    data = kernel_message(16, 1, b"abcd") + kernel_message(20, 2, b"", flags=2, port=9)
    assert list(unpack(data)) == [(16, 0, 1, 7, b"abcd"), (20, 2, 2, 9, b"")]
    assert pack(Message(16, b"abcd", 0x400), 5)[:16] == HEADER.pack(20, 16, 0x401, 5, 0)


def test_every_request_is_answered_before_a_transaction_ends() -> None:
    connection, kernel = connected(lambda requests: [answer(item.sequence, 0) for item in requests])
    connection.transact([Message(16, b"", what="one"), Message(17, b"", what="two")])
    assert [(item.kind, item.flags) for item in kernel.sent[0]] == [(16, 5), (17, 5)]
    assert not kernel.waiting
    connection.transact([])
    assert len(kernel.sent) == 1


def test_the_first_failure_is_named_and_the_rest_is_done() -> None:
    def reply(requests):
        return [answer(item.sequence, errno.EEXIST if item.kind == 17 else 0, "it is there") for item in requests]

    connection, kernel = connected(reply)
    with pytest.raises(FileExistsError) as caught:
        connection.transact([Message(17, b"", what="make it"), Message(18, b"", what="use it")])
    assert str(caught.value).endswith("cannot make it: file exists: it is there")
    assert len(kernel.sent[0]) == 2
    connection.transact([Message(17, b"", what="make it", ignored=frozenset({errno.EEXIST}))])


def test_many_requests_go_in_portions_that_the_socket_can_hold() -> None:
    connection, kernel = connected(lambda requests: [answer(item.sequence, 0) for item in requests])
    connection.transact([Message(16, b"")] * 200)
    assert [len(requests) for requests in kernel.sent] == [64, 64, 64, 8]


def test_a_kernel_that_says_nothing_is_an_error() -> None:
    connection, _ = connected(lambda requests: [])
    with pytest.raises(OSError, match="does not answer") as caught:
        connection.transact([Message(16, b"")])
    assert caught.value.errno == errno.ETIMEDOUT


BEGIN, END = Message(0x10, b"", what="begin"), Message(0x11, b"")


def test_only_the_end_of_a_batch_asks_for_an_answer() -> None:
    connection, kernel = connected(lambda requests: [answer(requests[-2].sequence, 0)])
    connection.batch(BEGIN, [Message(1, b"")] * 1000, END)
    flags = [item.flags & 4 for item in kernel.sent[0]]
    assert sum(map(bool, flags)) == 1
    assert flags[-2]
    assert [kernel.sent[0][0].kind, kernel.sent[0][-1].kind] == [0x10, 0x11]


def test_a_batch_that_fails_names_what_failed_first() -> None:
    def reply(requests):
        codes = [0, errno.ENOENT, errno.EINVAL, 0, 0]
        return [
            answer(item.sequence, code)
            for item, code in zip(requests, codes, strict=True)
            if code or item is requests[-2]
        ]

    connection, _ = connected(reply)
    with pytest.raises(FileNotFoundError, match="cannot second"):
        connection.batch(BEGIN, [Message(1, b"", what=what) for what in ("second", "third", "fourth")], END)


def test_a_batch_that_is_refused_as_a_whole() -> None:
    connection, _ = connected(lambda requests: [answer(requests[0].sequence, errno.EPERM)])
    with pytest.raises(PermissionError, match="cannot begin"):
        connection.batch(BEGIN, [Message(1, b"")], END)


def test_answers_to_something_else_are_passed_over() -> None:
    connection, _ = connected(
        lambda requests: [answer(99, errno.EPERM), answer(requests[-2].sequence, 0)],
    )
    connection.batch(BEGIN, [Message(1, b"")], END)


def test_a_listing_that_was_interrupted_is_read_again() -> None:
    rounds = iter([(0x10, b"old"), (0, b"new")])

    def reply(requests):
        flag, body = next(rounds)
        sequence = requests[0].sequence
        return [kernel_message(16, sequence, body, 2 | flag), kernel_message(3, sequence, bytes(4), 2)]

    connection, kernel = connected(reply)
    assert connection.dump(Message(18, b"")) == [(16, b"new")]
    assert [item.flags for item in kernel.sent[0]] == [0x301]


def test_a_listing_that_is_refused() -> None:
    connection, _ = connected(lambda requests: [answer(requests[0].sequence, errno.EOPNOTSUPP)])
    with pytest.raises(OSError, match=f"cannot list: {os.strerror(errno.EOPNOTSUPP).lower()}"):
        connection.dump(Message(18, b"", what="list"))


def test_one_answer_or_why_not() -> None:
    connection, _ = connected(lambda requests: [kernel_message(16, requests[0].sequence, b"found")])
    assert connection.get(Message(18, b"")) == (16, b"found")
    connection, _ = connected(lambda requests: [answer(requests[0].sequence, errno.ENODEV)])
    with pytest.raises(OSError, match="cannot find it"):
        connection.get(Message(18, b"", what="find it"))


def test_a_socket_of_the_kernel_has_a_number_and_answers() -> None:
    """Listing interfaces needs no right."""
    connection = Connection(netlink.NETLINK_ROUTE)
    try:
        assert connection.port > 0
        kinds = {kind for kind, _ in connection.dump(Message(18, struct.pack("=BxHiII", socket.AF_UNSPEC, 0, 0, 0, 0)))}
        assert kinds == {16}
    finally:
        connection.close()
