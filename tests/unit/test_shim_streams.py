"""A program's streams between its pipes and attached clients, without a program."""

from __future__ import annotations

import os
import pty
import random
import socket
import termios
import tty

import pytest

from corten.dockerapi.frames import FrameDecoder
from corten.shim.client import CLIENT_BUFFER, INPUT_BUFFER
from corten.shim.detaching import DetachKeys
from corten.shim.handover import WITH_STDERR, WITH_STDIN, WITH_STDOUT
from corten.shim.loop import EpollLoop
from corten.shim.pipes import Pipes
from corten.shim.streams import Streams

OUTPUT = WITH_STDOUT | WITH_STDERR


class Rig:
    """Streams with pipes, their far ends, and what was logged."""

    def __init__(self, *, with_input=True, drop_slow=False, stdin_once=False):
        self.loop = EpollLoop()
        self.logged = []
        self.streams = Streams(
            self.loop,
            tty=False,
            sink=lambda stream, data: self.logged.append((stream, data)),
            drop_slow=drop_slow,
            stdin_once=stdin_once,
        )
        self.pipes = Pipes(tty=False, with_input=with_input)
        self.input, self.output, self.error = self.pipes.theirs
        self.streams.connect(self.pipes.ours)
        self.sockets = []

    def attach(self, wants=OUTPUT, keys=b""):
        ours, theirs = socket.socketpair()
        ours.settimeout(5)
        self.streams.attach(theirs.detach(), wants, keys)
        self.sockets.append(ours)
        return ours

    def turn(self, times=1):
        for _ in range(times):
            self.loop.call_later(0.2, lambda: None)
            self.loop.turn()

    def close(self):
        self.streams.close()
        for sock in self.sockets:
            sock.close()
        for descriptor in {self.input, self.output, self.error}:
            try:
                os.close(descriptor)
            except OSError:
                continue
        self.loop.close()


@pytest.fixture
def rig():
    made = []

    def make(**options):
        made.append(Rig(**options))
        return made[-1]

    before = len(os.listdir("/proc/self/fd"))
    yield make
    for entry in made:
        entry.close()
    assert len(os.listdir("/proc/self/fd")) == before


def frames(sock, size=1 << 20):
    return FrameDecoder().feed(sock.recv(size))


def test_output_goes_to_the_log_and_to_every_client(rig):
    it = rig()
    both, errors = it.attach(), it.attach(WITH_STDERR)
    os.write(it.output, b"out")
    it.turn()
    os.write(it.error, b"err")
    it.turn()
    assert it.logged == [("stdout", b"out"), ("stderr", b"err")]
    assert frames(both) == [(1, b"out"), (2, b"err")]
    assert frames(errors) == [(2, b"err")]


def test_input_of_all_clients_reaches_the_program(rig):
    it = rig()
    first, second = it.attach(WITH_STDIN), it.attach(WITH_STDIN | OUTPUT)
    listener = it.attach(OUTPUT)
    first.send(b"one ")
    it.turn()
    second.send(b"two ")
    it.turn()
    listener.send(b"not wanted")
    it.turn()
    assert os.read(it.input, 100) == b"one two "


def test_a_full_pipe_holds_the_client_not_the_shim(rig):
    it = rig()
    client = it.attach(WITH_STDIN)
    client.setblocking(False)
    sent = 0
    for _ in range(100):
        try:
            sent += client.send(b"x" * 65536)
        except BlockingIOError:
            break
        it.turn()
    # the pipe, what the shim holds, and the socket's own buffer
    assert sent < 65536 + 2 * INPUT_BUFFER + (1 << 20)
    received = 0
    while received < sent:
        received += len(os.read(it.input, 65536))
        it.turn(2)
    assert received == sent


def test_the_programs_input_ends_with_the_clients_when_it_is_for_one(rig):
    it = rig(stdin_once=True)
    client = it.attach(WITH_STDIN | OUTPUT)
    client.send(b"last")
    client.shutdown(socket.SHUT_WR)
    it.turn(2)
    assert os.read(it.input, 100) == b"last"
    assert os.read(it.input, 100) == b""
    os.write(it.output, b"answer")
    it.turn()
    assert frames(client) == [(1, b"answer")]


def test_otherwise_the_clients_session_ends(rig):
    it = rig()
    client = it.attach(WITH_STDIN | OUTPUT)
    client.shutdown(socket.SHUT_WR)
    it.turn()
    assert client.recv(10) == b""
    os.set_blocking(it.input, False)
    with pytest.raises(BlockingIOError):
        os.read(it.input, 1)


def test_a_client_that_vanishes_ends_the_input_too(rig):
    it = rig(stdin_once=True)
    it.attach(WITH_STDIN | OUTPUT).close()
    it.turn()
    assert os.read(it.input, 100) == b""
    assert not it.streams.has_clients


def test_a_program_that_closed_its_input(rig):
    it = rig()
    client = it.attach(WITH_STDIN | OUTPUT)
    os.close(it.input)
    client.send(b"nobody reads")
    it.turn()
    client.send(b"still nobody")
    it.turn()
    os.write(it.output, b"fine")
    it.turn()
    assert frames(client) == [(1, b"fine")]


def fill(it, limit=64 << 20):
    """Write until the pipe is full and stays full; how much it was."""
    os.set_blocking(it.output, False)
    written = idle = 0
    while idle < 3 and written < limit:
        try:
            written += os.write(it.output, b"x" * 65536)
            idle = 0
        except BlockingIOError:
            idle += 1
        it.turn()
    return written


def test_a_slow_client_holds_the_program_up_and_loses_nothing(rig):
    it = rig()
    client = it.attach()
    written = fill(it)
    assert CLIENT_BUFFER < written < CLIENT_BUFFER + (2 << 20)
    logged = sum(len(data) for _, data in it.logged)
    assert logged == written - 65536, "what is in the pipe waits"
    decoder, got = FrameDecoder(), 0
    while got < written:
        got += sum(len(payload) for _, payload in decoder.feed(client.recv(1 << 20)))
        it.turn(3)
    assert got == written
    os.write(it.output, b"more")
    it.turn()
    assert decoder.feed(client.recv(100)) == [(1, b"more")]


def test_a_slow_client_is_dropped_where_nothing_may_wait(rig):
    it = rig(drop_slow=True)
    slow, other = it.attach(), it.attach()
    other.setblocking(False)
    os.set_blocking(it.output, False)
    for _ in range(200):
        os.write(it.output, b"x" * 16384)
        it.turn()
        while True:
            try:
                other.recv(1 << 20)
            except BlockingIOError:
                break
    got = 0
    while data := slow.recv(1 << 20):
        got += len(data)
    assert got < 200 * 16384
    assert it.streams.has_clients


def test_a_slow_client_that_leaves_lets_the_program_go_on(rig):
    it = rig()
    client = it.attach()
    fill(it)
    client.close()
    it.turn(3)
    os.write(it.output, b"goes on")
    it.turn(3)
    assert it.logged[-1][1].endswith(b"goes on")


def test_at_the_end_clients_may_read_in_their_time(rig):
    it = rig()
    client = it.attach()
    gone = []
    it.streams.on_clients_gone = lambda: gone.append(True)
    written = fill(it)
    os.close(it.output)
    os.close(it.error)
    it.streams.take_all(1.0)
    assert not it.streams.has_outputs
    it.streams.end()
    assert it.streams.has_clients
    assert not gone
    decoder, got = FrameDecoder(), 0
    while data := client.recv(1 << 20):
        got += sum(len(payload) for _, payload in decoder.feed(data))
        it.turn()
    assert got == written
    assert gone == [True]


def test_the_end_of_output_is_waited_for_a_while_only(rig):
    it = rig()
    os.write(it.output, b"last")
    it.streams.take_all(0.05)
    assert it.logged == [("stdout", b"last")]
    assert it.streams.has_outputs, "somebody still holds the pipe"


def test_taking_what_is_present_does_not_wait(rig):
    it = rig()
    os.write(it.output, b"a" * 60_000)
    os.write(it.error, b"b")
    it.streams.take_present()
    assert [(stream, len(data)) for stream, data in it.logged] == [("stdout", 60_000), ("stderr", 1)]


@pytest.fixture
def terminal():
    master, slave = pty.openpty()
    tty.setraw(slave, termios.TCSANOW)
    loop = EpollLoop()
    logged = []
    streams = Streams(loop, tty=True, sink=lambda stream, data: logged.append(data), drop_slow=False, stdin_once=True)
    streams.connect([master])
    yield loop, streams, slave, logged
    streams.close()
    loop.close()


def turn(loop, times=1):
    for _ in range(times):
        loop.call_later(0.2, lambda: None)
        loop.turn()


def test_a_terminal_is_raw_both_ways(terminal):
    loop, streams, slave, logged = terminal
    ours, theirs = socket.socketpair()
    streams.attach(theirs.detach(), WITH_STDIN | OUTPUT, b"\x10\x11")
    os.write(slave, b"prompt> ")
    turn(loop)
    assert ours.recv(100) == b"prompt> "
    assert logged == [b"prompt> "]
    ours.send(b"typed")
    turn(loop)
    assert os.read(slave, 100) == b"typed"
    assert streams.console >= 0
    os.close(slave)
    turn(loop)
    assert not streams.has_outputs
    assert streams.console == -1
    ours.close()


def test_detach_keys_close_the_client_only(terminal):
    loop, streams, slave, _ = terminal
    ours, theirs = socket.socketpair()
    streams.attach(theirs.detach(), WITH_STDIN | OUTPUT, b"\x10\x11")
    told = []
    streams.on_detached = lambda: told.append(True)
    ours.send(b"abc\x10\x11def")
    turn(loop)
    assert ours.recv(100) == b""
    assert told == [True]
    assert os.read(slave, 100) == b"abc"
    os.write(slave, b"goes on")
    turn(loop)
    assert streams.has_outputs
    os.close(slave)
    ours.close()


# -- detach keys ------------------------------------------------------------------------------------------------------


def reference(keys, data):
    """The sequence found by looking at everything at once."""
    place = data.find(keys)
    return (data, False) if place < 0 else (data[:place], True)


@pytest.mark.parametrize("keys", [b"\x10\x11", b"a", b"aab", b"abab", b"abcabd"])
def test_detach_keys_are_found_whatever_the_reads(keys):
    chance = random.Random(len(keys))
    for _ in range(2000):
        data = bytes(chance.choice(keys + b"z") for _ in range(chance.randrange(1, 14)))
        scanner = DetachKeys(keys)
        passed, found, position = b"", False, 0
        while position < len(data) and not found:
            step = chance.randrange(1, 4)
            out, found = scanner.scan(data[position : position + step])
            passed += out
            position += step
        expected, wanted = reference(keys, data)
        assert found == wanted, (keys, data)
        # the beginning of a sequence is held back until the next key
        assert passed == expected or (
            not found and expected.startswith(passed) and keys.startswith(expected[len(passed) :])
        )


def test_without_detach_keys_everything_passes():
    assert DetachKeys(b"").scan(b"\x10\x11") == (b"\x10\x11", False)
