"""Messages between parent and init: they arrive as they were, and so do errors and descriptors."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from corten.errors import CommandNotExecutable, CommandNotFound, Conflict, CortenError, InvalidParameter, SystemFailure
from corten.runtime.handshake import Channel, Message, described, rebuilt, shortened


@pytest.fixture
def channels() -> Iterator[tuple[Channel, Channel]]:
    ends = Channel.pair()
    yield ends
    for end in ends:
        end.close()


def test_fields_and_descriptors_arrive(channels: tuple[Channel, Channel]) -> None:
    parent, child = channels
    reading, writing = os.pipe()
    child.send(Message.READY, (writing,), warnings=["a", "é"])
    os.close(writing)
    document, (received,) = parent.expect(Message.READY)
    assert document["warnings"] == ["a", "é"]
    assert not os.get_inheritable(received)
    os.write(received, b"x")
    os.close(received)
    assert os.read(reading, 2) == b"x"
    os.close(reading)


@pytest.mark.parametrize(
    "error",
    [
        CommandNotFound('exec: "x": executable file not found in $PATH'),
        CommandNotExecutable('exec: "x": permission denied'),
        InvalidParameter("unable to find user x"),
        SystemFailure("mount /proc: operation not permitted", step="mounts", errno=1),
    ],
)
def test_errors_keep_their_kind(channels: tuple[Channel, Channel], error: CortenError) -> None:
    parent, child = channels
    child.send_error(error, "some step")
    with pytest.raises(type(error)) as caught:
        parent.expect(Message.READY)
    assert caught.value.message == error.message
    if isinstance(error, SystemFailure):
        assert isinstance(caught.value, SystemFailure)
        assert (caught.value.errno, caught.value.step) == (1, "some step")


def test_an_error_is_heard_although_its_sender_did_not_read_everything(channels: tuple[Channel, Channel]) -> None:
    parent, child = channels
    parent.send(Message.START)
    child.send_error(CommandNotExecutable('exec: "x": permission denied'), "program")
    child.close()
    with pytest.raises(CommandNotExecutable, match="permission denied"):
        parent.expect(Message.READY)
    assert parent.receive() == (None, [])


def test_errors_of_the_system_name_step_and_path(channels: tuple[Channel, Channel]) -> None:
    parent, child = channels
    child.send_error(OSError(13, "open_tree: permission denied", "/secret"), "mounts")
    with pytest.raises(SystemFailure, match="mounts: open_tree: permission denied: /secret") as caught:
        parent.receive()
    assert (caught.value.errno, caught.value.step) == (13, "mounts")


def test_other_errors_become_system_failures() -> None:
    for error in (ZeroDivisionError("by zero"), Conflict("in use"), KeyboardInterrupt()):
        rebuilt_error = rebuilt(described(error, "there"))
        assert isinstance(rebuilt_error, SystemFailure)
        assert rebuilt_error.message.startswith(f"there: {type(error).__name__}")


def test_descriptors_that_come_with_an_error_are_closed(channels: tuple[Channel, Channel]) -> None:
    parent, child = channels
    reading, writing = os.pipe()
    child.send(Message.ERROR, (writing,), **described(InvalidParameter("no"), "x"))
    os.close(writing)
    with pytest.raises(InvalidParameter):
        parent.receive()
    assert os.read(reading, 1) == b""  # nobody has the other end any more
    os.close(reading)


def test_end_of_file_and_wrong_messages(channels: tuple[Channel, Channel]) -> None:
    parent, child = channels
    child.send(Message.MOUNTED)
    with pytest.raises(SystemFailure, match="said mounted instead of ready"):
        parent.expect(Message.READY)
    child.close()
    assert parent.receive() == (None, [])
    with pytest.raises(SystemFailure, match="ended before it said ready"):
        parent.expect(Message.READY)


def test_long_texts_fit_into_a_message(channels: tuple[Channel, Channel]) -> None:
    parent, child = channels
    child.send_error(InvalidParameter("\u2028" * 100_000), "x")
    with pytest.raises(InvalidParameter) as caught:
        parent.receive()
    assert len(caught.value.message) == 4096
    child.send(Message.READY, warnings=shortened(["w" * 10_000] * 10_000))
    assert len(parent.expect(Message.READY)[0]["warnings"]) == 64
    with pytest.raises(SystemFailure, match="too long"):
        child.send(Message.READY, warnings=["w" * 70_000])
