"""Compressed streams: told apart by their first bytes, inflated block by block, stopped when they blow up.

All inflating happens in this process: no program of an image or of the host runs.

Limits (``Limits``): a stream may grow to ``grace`` bytes whatever it is made of; beyond that it may not be larger than
``ratio`` times its compressed size, and never larger than ``absolute``.  gzip reaches 1032 to 1 on zeros; real layers
stay below 20 to 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from corten.errors import InvalidParameter
from corten.image.pipes import CHUNK, Chunks, peek

_XZ_MEMORY = 256 << 20
_ZSTD_WINDOW = 1 << 27


@dataclass(frozen=True, slots=True)
class Limits:
    """Bytes, and decompressed bytes per compressed byte."""

    ratio: int = 200
    grace: int = 1 << 30
    absolute: int = 256 << 30


DEFAULT_LIMITS = Limits()

_MAGICS = (
    (b"\x1f\x8b\x08", "gzip"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"\xfd7zXZ\x00", "xz"),
    (b"BZh", "bzip2"),
)


def detect(start: bytes) -> str:
    """How a stream that begins with ``start`` (6 bytes) is compressed: gzip, zstd, xz, bzip2, or "" for not at all."""
    for magic, name in _MAGICS:
        if start.startswith(magic):
            return name
    # a skippable zstd frame: 0x184D2A5?
    if len(start) >= 4 and start[1:4] == b"\x2a\x4d\x18" and start[0] & 0xF0 == 0x50:
        return "zstd"
    return ""


def decompressed(source: Chunks, limits: Limits = DEFAULT_LIMITS) -> tuple[str, Chunks]:
    """(name of the compression, source of the plain bytes).  The errors of the plain source:

    InvalidParameter for damaged or truncated streams, and for those that grow beyond the limits.
    """
    start, source = peek(source)
    name = detect(start)
    if not name:
        return name, _bounded(source, limits)
    return name, {"gzip": _gzip, "zstd": _zstd, "xz": _xz, "bzip2": _bzip2}[name](_Meter(source, limits))


class _Meter:
    """Counts what goes in and what comes out."""

    def __init__(self, source: Chunks, limits: Limits) -> None:
        self._source = source
        self._limits = limits
        self._in = self._out = 0

    def take(self) -> bytes:
        chunk = self._source()
        self._in += len(chunk)
        return chunk

    def give(self, chunk: bytes) -> bytes:
        self._out += len(chunk)
        limits = self._limits
        if self._out > limits.absolute:
            raise InvalidParameter(f"the archive is larger than {limits.absolute} bytes when decompressed")
        if self._out > limits.grace and self._out > self._in * limits.ratio:
            raise InvalidParameter(
                f"the archive grows more than {limits.ratio} times when decompressed: refused as a decompression bomb"
            )
        return chunk


def _bounded(source: Chunks, limits: Limits) -> Chunks:
    total = 0

    def next_chunk() -> bytes:
        nonlocal total
        chunk = source()
        total += len(chunk)
        if total > limits.absolute:
            raise InvalidParameter(f"the archive is larger than {limits.absolute} bytes")
        return chunk

    return next_chunk


def _damaged(name: str, why: object) -> InvalidParameter:
    return InvalidParameter(f"invalid {name} data: {' '.join(str(why).split())[:160]}")


def _gzip(meter: _Meter) -> Chunks:
    from isal import igzip_lib

    def new() -> Any:
        return igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP)

    broken: Any = igzip_lib.IsalError  # a class, which its stubs declare as an instance
    return _streams(meter, "gzip", new, (broken, EOFError, ValueError), padding=1)


def _xz(meter: _Meter) -> Chunks:
    import lzma

    return _streams(
        meter,
        "xz",
        lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY),
        (lzma.LZMAError, EOFError),
        padding=4,
    )


def _bzip2(meter: _Meter) -> Chunks:
    import bz2

    return _streams(meter, "bzip2", bz2.BZ2Decompressor, (OSError, ValueError, EOFError), padding=0)


def _streams(
    meter: _Meter, name: str, new: Callable[[], Any], errors: tuple[type[Exception], ...], padding: int
) -> Chunks:
    """One stream after the other (members of gzip, streams of xz and bzip2) until the input ends.

    padding: zeros after a stream are allowed in multiples of this; 0: not at all
    """
    state: Any = new()
    waiting = b""
    fresh = False  # a stream is over and nothing of a next one has been seen
    ended = False

    def next_chunk() -> bytes:
        nonlocal state, waiting, fresh, ended
        while not ended:
            if not waiting and (fresh or state.needs_input):
                waiting = meter.take()
                if not waiting:
                    if not fresh:
                        raise _damaged(name, "unexpected EOF")
                    ended = True
                    return b""
            if fresh:
                if padding:
                    waiting = waiting.lstrip(b"\0")
                    if not waiting:
                        continue
                state, fresh = new(), False
            try:
                data = state.decompress(waiting, CHUNK)
            except errors as error:
                raise _damaged(name, error) from error
            waiting = b""
            if state.eof:
                waiting, fresh = state.unused_data, True
            if data:
                return meter.give(data)
        return b""

    return next_chunk


class _ZstdFrames:
    """Follows the frames of a zstd stream, which the library does not report: a stream cut inside one is truncated.

    Source: RFC 8878, section 3.1.
    """

    def __init__(self) -> None:
        self._skip = 0
        self._held = b""
        self._state: Callable[[bytes], None] = self._magic
        self._wanted = 4
        self._checksum = False

    @property
    def at_end(self) -> bool:
        return self._state == self._magic and not self._held and not self._skip

    def feed(self, data: bytes) -> None:
        position, size = 0, len(data)
        while position < size:
            if self._skip:
                step = min(self._skip, size - position)
                self._skip -= step
                position += step
                continue
            need = self._wanted - len(self._held)
            self._held += data[position : position + need]
            position += need
            if len(self._held) >= self._wanted:
                held, self._held = self._held, b""
                self._state(held)

    def _next(self, state: Callable[[bytes], None], wanted: int, skip: int = 0) -> None:
        self._state, self._wanted, self._skip = state, wanted, skip

    def _magic(self, held: bytes) -> None:
        number = int.from_bytes(held, "little")
        if number & 0xFFFFFFF0 == 0x184D2A50:
            self._next(self._skippable, 4)
        else:
            self._next(self._descriptor, 1)

    def _skippable(self, held: bytes) -> None:
        self._next(self._magic, 4, int.from_bytes(held, "little"))

    def _descriptor(self, held: bytes) -> None:
        flags = held[0]
        self._checksum = bool(flags & 4)
        single = bool(flags & 0x20)
        content = (1 if single else 0, 2, 4, 8)[flags >> 6]
        self._next(self._block, 3, (0 if single else 1) + (0, 1, 2, 4)[flags & 3] + content)

    def _block(self, held: bytes) -> None:
        number = int.from_bytes(held, "little")
        size = 1 if (number >> 1) & 3 == 1 else number >> 3
        if number & 1:
            self._next(self._magic, 4, size + (4 if self._checksum else 0))
        else:
            self._next(self._block, 3, size)


def _zstd(meter: _Meter) -> Chunks:
    import zstandard

    frames = _ZstdFrames()

    class Source:
        @staticmethod
        def read(size: int = -1) -> bytes:
            # the library reads what it is given whole: a short read is no end
            chunk = meter.take()
            frames.feed(chunk)
            return chunk

    source: Any = Source()
    reader = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW).stream_reader(source, read_across_frames=True)

    def next_chunk() -> bytes:
        try:
            data: bytes = reader.read(CHUNK)
        except zstandard.ZstdError as error:
            raise _damaged("zstd", error) from error
        if not data and not frames.at_end:
            raise _damaged("zstd", "unexpected EOF")
        return meter.give(data)

    return next_chunk
