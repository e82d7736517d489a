"""Docker's multiplexed stream."""

from __future__ import annotations

import pytest

from corten.dockerapi.frames import STDERR, STDOUT, FrameDecoder, encode
from corten.errors import DataLoss


def test_a_frame_is_eight_bytes_and_the_payload():
    assert encode(STDOUT, b"hello") == b"\x01\0\0\0\0\0\0\x05hello"
    assert encode(STDERR, b"") == b"\x02\0\0\0\0\0\0\0"


@pytest.mark.parametrize("step", [1, 3, 7, 8, 9, 1000])
def test_frames_come_back_whatever_the_pieces(step):
    frames = [(1, b"a"), (2, b""), (1, b"x" * 300), (0, b"in"), (3, b"system")]
    data = b"".join(encode(stream, payload) for stream, payload in frames)
    decoder = FrameDecoder()
    found = []
    for start in range(0, len(data), step):
        found += decoder.feed(data[start : start + step])
    assert found == frames
    assert decoder.is_complete


def test_a_frame_that_was_cut_off_is_noticed():
    decoder = FrameDecoder()
    assert decoder.feed(encode(1, b"abc")[:-1]) == []
    assert not decoder.is_complete


@pytest.mark.parametrize("data", [b"\x04\0\0\0\0\0\0\0", b"\x01\0\x01\0\0\0\0\0", b"hello wo"])
def test_what_is_no_header_is_an_error(data):
    with pytest.raises(DataLoss, match="not a stream header"):
        FrameDecoder().feed(data)
