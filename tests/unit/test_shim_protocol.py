"""Packets between daemon, spawner and shim."""

from __future__ import annotations

import os
import select
import socket

import pytest

from corten.errors import CommandNotFound, Conflict, InvalidParameter, NotFound, SystemFailure, Unavailable
from corten.shim import handover, protocol
from corten.shim.loop import EpollLoop


@pytest.fixture
def pair():
    before = set(os.listdir("/proc/self/fd"))
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    yield ours, theirs
    ours.close()
    theirs.close()
    assert set(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("size", [0, 1, 32 * 1024, 32 * 1024 + 1, 5_000_000])
def test_a_payload_of_any_size_comes_along_unread(pair, size):
    ours, theirs = pair
    payload = os.urandom(size)
    header = {"op": "exec", "text": "\u00e4\n\u2028", "number": 2**60}
    protocol.send(ours, header, [], payload)
    packet = protocol.receive(theirs)
    assert {key: packet.header[key] for key in header} == header
    assert packet.payload() == payload
    packet.close()


def test_a_payload_can_be_kept_as_a_descriptor(pair):
    ours, theirs = pair
    for payload in (b"small", b"x" * 100_000):
        protocol.send(ours, {"op": "start"}, [], payload)
        packet = protocol.receive(theirs)
        descriptor = packet.take_payload()
        packet.close()
        assert protocol.read_all(descriptor) == payload
        with pytest.raises(OSError, match="not permitted"):
            os.write(descriptor, b"x")
        os.close(descriptor)


def test_descriptors_travel_beside(pair):
    ours, theirs = pair
    reading, writing = os.pipe()
    protocol.send(ours, {"op": "x"}, [writing, reading], b"y" * 100_000)
    packet = protocol.receive(theirs)
    first, second = packet.descriptors
    os.write(first, b"through")
    assert os.read(second, 10) == b"through"
    assert not os.get_inheritable(first)
    packet.close()
    os.close(reading)
    os.close(writing)


def test_the_end(pair):
    ours, theirs = pair
    ours.close()
    assert protocol.receive(theirs) is None


@pytest.mark.parametrize("data", [b"x", b"\n", b"[1]\n", b'"text"\n', b"{", b"\xff\n", b'{"large":true}\n'])
def test_what_is_no_message_is_an_error(pair, data):
    ours, theirs = pair
    ours.send(data)
    with pytest.raises(ValueError, match=r".*"):
        protocol.receive(theirs)


def test_descriptors_of_rubbish_are_closed(pair):
    ours, theirs = pair
    socket.send_fds(ours, [b"rubbish"], [ours.fileno(), theirs.fileno()])
    with pytest.raises(ValueError, match=r".*"):
        protocol.receive(theirs)


@pytest.mark.parametrize(
    "error",
    [
        CommandNotFound('exec: "x": not found'),
        InvalidParameter("bad"),
        Conflict("no"),
        NotFound("where"),
        SystemFailure("mount", step="mount /proc", errno=13),
    ],
)
def test_errors_cross_with_their_kind(error):
    rebuilt = protocol.rebuild_error(protocol.describe_error(error), "before: ")
    assert type(rebuilt) is type(error)
    assert str(rebuilt) == f"before: {error}"
    if isinstance(error, SystemFailure):
        assert (rebuilt.step, rebuilt.errno) == (error.step, error.errno)


@pytest.mark.parametrize(
    ("error", "text", "number"),
    [
        (OSError(2, "No such file or directory", "/x"), "No such file or directory: /x", 2),
        (KeyError("missing"), "KeyError: 'missing'", 0),
        (Unavailable("away"), "away", 0),
    ],
)
def test_other_errors_become_failures_of_the_system(error, text, number):
    rebuilt = protocol.rebuild_error(protocol.describe_error(error))
    assert isinstance(rebuilt, SystemFailure)
    assert (str(rebuilt), rebuilt.errno) == (text, number)


def test_a_handover_comes_back():
    given = (
        7,
        123,
        handover.TTY | handover.LOGGED,
        [(handover.WITH_STDIN, b"\x10\x11")],
        ("local", "/p", (1,), {}),
        b"{}",
    )
    assert handover.unpack(handover.pack(given)) == given
    assert (
        handover.wants({"stdin": True, "stdout": False, "stderr": True}) == handover.WITH_STDIN | handover.WITH_STDERR
    )


# -- the loop ---------------------------------------------------------------------------------------------------------


def test_the_loop_calls_what_is_ready_and_sleeps_otherwise():
    loop = EpollLoop()
    reading, writing = os.pipe()
    calls = []
    loop.watch(reading, select.EPOLLIN, lambda events: calls.append(os.read(reading, 10)))
    os.write(writing, b"x")
    loop.turn()
    assert calls == [b"x"]
    loop.call_later(0.05, lambda: calls.append("later"))
    loop.turn()
    assert calls == [b"x", "later"]
    loop.watch(reading, 0, lambda events: calls.append(events))
    os.write(writing, b"y")
    loop.call_later(0.01, lambda: None)
    loop.turn()
    assert calls == [b"x", "later"]
    os.close(writing)
    loop.turn()
    assert calls[2] & select.EPOLLHUP
    loop.forget(reading)
    loop.forget(reading)
    os.close(reading)
    loop.close()


def test_quiet_comes_once_after_work(monkeypatch):
    monkeypatch.setattr("corten.shim.loop._QUIET_S", 0.02)
    loop = EpollLoop()
    quiet = []
    loop.on_quiet(lambda: quiet.append(True))
    loop.busy()
    loop.turn()
    assert quiet == [True]
    loop.call_later(0.1, lambda: None)
    loop.turn()
    assert quiet == [True]
    loop.close()


def test_a_callback_may_forget_another_one():
    loop = EpollLoop()
    pipes = [os.pipe() for _ in range(2)]
    calls = []

    def ready(index):
        calls.append(index)
        for reading, _ in pipes:
            loop.forget(reading)

    for index, (reading, writing) in enumerate(pipes):
        os.write(writing, b"x")
        loop.watch(reading, select.EPOLLIN, lambda events, index=index: ready(index))
    loop.turn()
    assert len(calls) == 1
    for descriptor in (end for pipe in pipes for end in pipe):
        os.close(descriptor)
    loop.close()
