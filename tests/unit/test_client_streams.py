"""Frames of a container without a terminal."""

from __future__ import annotations

import random
import socket
import threading

import pytest

from corten.client.response import Hijacked
from corten.client.streams import STDERR, STDOUT, Demultiplexer, communicate, demultiplex, undivided
from corten.dockerapi.frames import SYSTEM_ERROR, encode
from corten.errors import DataLoss, SystemFailure


def gathered(runs: list[tuple[int, bytes]]) -> tuple[bytes, bytes]:
    return tuple(b"".join(data for kind, data in runs if kind == stream) for stream in (STDOUT, STDERR))  # type: ignore[return-value]


def test_neighbours_are_joined() -> None:
    data = encode(1, b"a") + encode(1, b"b") + encode(2, b"x") + encode(1, b"c")
    assert Demultiplexer().feed(data) == [(1, b"ab"), (2, b"x"), (1, b"c")]


@pytest.mark.parametrize("seed", range(5))
def test_any_cut_gives_the_same(seed: int) -> None:
    rng = random.Random(seed)
    payloads = [(rng.choice((1, 2)), rng.randbytes(rng.randrange(0, 3000))) for _ in range(50)]
    data = b"".join(encode(kind, payload) for kind, payload in payloads)
    pieces = []
    while data:
        size = rng.choice((1, 3, 8, 500, 4000))
        pieces.append(data[:size])
        data = data[size:]
    assert gathered(list(demultiplex(pieces))) == gathered(payloads)


def test_part_of_a_frame_is_passed_on_at_once() -> None:
    demultiplexer = Demultiplexer()
    frame = encode(1, b"prompt> ")
    assert demultiplexer.feed(frame[:12]) == [(1, b"prom")]
    assert demultiplexer.feed(frame[12:]) == [(1, b"pt> ")]


@pytest.mark.parametrize("data", [b"hello world", b"\x01\x00\x01\x00\x00\x00\x00\x01x", b"\x07" + bytes(7)])
def test_what_is_no_frame(data: bytes) -> None:
    with pytest.raises(DataLoss, match="not a stream header"):
        Demultiplexer().feed(data)


def test_errors_of_the_daemon_are_errors() -> None:
    with pytest.raises(SystemFailure, match="the log cannot be read"):
        Demultiplexer().feed(encode(1, b"a") + encode(SYSTEM_ERROR, b"the log cannot be read\n"))


def test_a_terminal_has_no_frames() -> None:
    assert list(undivided([b"a", b"b"])) == [(1, b"a"), (1, b"b")]


def test_input_and_output_flow_at_the_same_time() -> None:
    """More than the buffers between both ends hold, in both directions."""
    ours, theirs = socket.socketpair()
    size = 4_000_000

    def echo() -> None:
        with theirs:
            while data := theirs.recv(65536):
                theirs.sendall(encode(1, data))
            theirs.sendall(encode(2, b"done"))

    thread = threading.Thread(target=echo)
    thread.start()
    with Hijacked(ours, b"", "") as connection:
        output, error = communicate(connection, b"z" * size)
    thread.join()
    assert (len(output), error) == (size, b"done")


def test_a_program_that_does_not_read_its_input() -> None:
    ours, theirs = socket.socketpair()
    theirs.sendall(encode(1, b"bye"))
    theirs.close()
    with Hijacked(ours, b"", "") as connection:
        assert communicate(connection, b"z" * 1_000_000) == (b"bye", b"")


def test_early_bytes_come_first() -> None:
    ours, theirs = socket.socketpair()
    theirs.sendall(b"later")
    theirs.close()
    with Hijacked(ours, b"early ", "") as connection:
        assert communicate(connection, None, tty=True) == (b"early later", b"")
