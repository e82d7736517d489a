"""Compressed streams: every format, in pieces, damaged, truncated, and bombs."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import resource
import threading

import pytest
import zstandard
from tar_builder import one_line

from corten.errors import DataLoss, InvalidParameter
from corten.image.compression import Limits, decompressed, detect
from corten.image.pipes import Hashed, chunks_of, drain, gathered, peek, read_ahead, verified
from corten.oci.digest import digest_of

PLAIN = os.urandom(700_000) + bytes(900_000) + b"text " * 50_000


def zstd_stream(data: bytes) -> bytes:
    """Without the content's size in its header, as pipes make it."""
    compressor = zstandard.ZstdCompressor(write_checksum=True).compressobj()
    return compressor.compress(data) + compressor.flush()


FORMATS = {
    "plain": ("", PLAIN),
    "gzip": ("gzip", gzip.compress(PLAIN, 1)),
    "gzip members": ("gzip", gzip.compress(PLAIN[:1000], 1) + gzip.compress(PLAIN[1000:], 1)),
    "gzip padded": ("gzip", gzip.compress(PLAIN, 1) + bytes(1000)),
    "xz": ("xz", lzma.compress(PLAIN, preset=0)),
    "xz streams": ("xz", lzma.compress(PLAIN[:9], preset=0) + bytes(8) + lzma.compress(PLAIN[9:], preset=0)),
    "bzip2": ("bzip2", bz2.compress(PLAIN[:9]) + bz2.compress(PLAIN[9:])),
    "zstd": ("zstd", zstandard.compress(PLAIN)),
    "zstd stream": ("zstd", zstd_stream(PLAIN)),
    "zstd frames": (
        "zstd",
        b"\x51\x2a\x4d\x18\x03\0\0\0abc" + zstandard.compress(PLAIN[:99]) + zstd_stream(PLAIN[99:]),
    ),
}
COMPRESSED = sorted(set(FORMATS) - {"plain"})


def source(data: bytes, size: int = 70_000):
    return chunks_of(io.BytesIO(data), size)


def everything(chunks) -> bytes:
    parts = []
    while chunk := chunks():
        parts.append(chunk)
    assert chunks() == b""
    return b"".join(parts)


@pytest.mark.parametrize("size", [1 << 20, 70_000, 1000])
@pytest.mark.parametrize("name", FORMATS)
def test_every_format_in_pieces_of_any_size(name, size):
    kind, data = FORMATS[name]
    found, chunks = decompressed(source(data, size))
    assert found == kind
    assert everything(chunks) == PLAIN


@pytest.mark.parametrize("cut", [1, 4, 100, 50_000])
@pytest.mark.parametrize("name", sorted(set(COMPRESSED) - {"gzip padded"}))
def test_truncation_is_told(name, cut):
    with pytest.raises(InvalidParameter, match="unexpected EOF"):
        everything(decompressed(source(FORMATS[name][1][:-cut]))[1])


@pytest.mark.parametrize("name", COMPRESSED)
def test_garbage_behind_the_data_is_refused(name):
    with pytest.raises(InvalidParameter):
        everything(decompressed(source(FORMATS[name][1] + b"garbage!"))[1])


@pytest.mark.parametrize("name", COMPRESSED)
def test_damage_is_an_error_of_one_line_or_harmless_to_others(name):
    data = bytearray(FORMATS[name][1])
    data[len(data) // 2] ^= 0xFF
    try:
        result = everything(decompressed(source(bytes(data)))[1])
    except InvalidParameter as error:
        one_line(error)
    else:
        assert name.startswith("zstd")  # only its checksum, when written, tells
        assert result != PLAIN


def bomb(kind: str, size: int) -> bytes:
    piece = bytes(1 << 20)
    if kind == "gzip":
        return gzip.compress(piece, 9) * (size >> 20)
    if kind == "xz":
        return lzma.compress(bytes(size), preset=1)
    if kind == "bzip2":
        return bz2.compress(bytes(size))
    return zstandard.ZstdCompressor(level=3).compress(bytes(size))


@pytest.mark.parametrize("kind", ["gzip", "xz", "bzip2", "zstd"])
def test_bombs_are_stopped_in_constant_memory(kind):
    data = bomb(kind, 256 << 20)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    _, chunks = decompressed(source(data, 1 << 20), Limits(ratio=200, grace=32 << 20))
    with pytest.raises(InvalidParameter, match="decompression bomb"):
        drain(chunks)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10  # KiB


def test_zeros_within_the_grace_are_fine():
    _, chunks = decompressed(source(gzip.compress(bytes(4 << 20))), Limits(grace=8 << 20))
    assert len(everything(chunks)) == 4 << 20


def test_the_absolute_limit_holds_for_plain_streams_too():
    _, chunks = decompressed(source(bytes(2 << 20)), Limits(absolute=1 << 20))
    with pytest.raises(InvalidParameter, match="larger than"):
        drain(chunks)


def test_detect_knows_only_what_it_knows():
    assert detect(b"\x1f\x8b\x08\0\0\0") == "gzip"
    assert detect(b"\x1f\x9d\x90\0\0\0") == ""
    assert detect(b"") == ""


def test_peek_gives_everything_back():
    start, chunks = peek(source(b"abcdefgh", 3), 5)
    assert start == b"abcdef"
    assert everything(chunks) == b"abcdefgh"
    start, chunks = peek(source(b"ab"), 5)
    assert (start, everything(chunks)) == (b"ab", b"ab")


def test_gathered_joins_small_pieces():
    chunks = gathered(source(PLAIN, 100), 1 << 20)
    first = chunks()
    assert len(first) >= 1 << 20
    assert first + everything(chunks) == PLAIN


def test_hashed_counts_and_hashes():
    hashed = Hashed(source(PLAIN))
    everything(hashed)
    assert (hashed.digest, hashed.size) == (digest_of(PLAIN), len(PLAIN))


def test_verified_tells_wrong_content():
    assert everything(verified(source(b"content"), digest_of(b"content"), 7)) == b"content"
    for data, size in ((b"c0ntent", 7), (b"conten", 7), (b"content!", 7), (b"c0ntent", -1)):
        with pytest.raises(DataLoss):
            drain(verified(source(data), digest_of(b"content"), size))


def test_read_ahead_passes_bytes_and_errors():
    with read_ahead(source(PLAIN)) as chunks:
        assert everything(chunks) == PLAIN
    with read_ahead(decompressed(source(FORMATS["gzip"][1][:-9]))[1]) as chunks, pytest.raises(InvalidParameter):
        drain(chunks)


def test_read_ahead_ends_its_thread_when_the_reader_stops():
    before = threading.active_count()
    for _ in range(5):
        with read_ahead(lambda: bytes(1 << 20)) as chunks:
            chunks()
    assert threading.active_count() == before
