"""Layers as blobs in the compression that is asked for: the same bytes for the same layer each time."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from corten.errors import InvalidParameter
from corten.image.pipes import blocks
from corten.oci import descriptor as media

_GZIP = 31  # zlib's window bits for a gzip header without name and time
_LEVELS = {"gzip": range(10), "zstd": range(23), "uncompressed": range(0)}
MEDIA_TYPES = {"gzip": f"{media.OCI_LAYER}+gzip", "zstd": f"{media.OCI_LAYER}+zstd", "uncompressed": media.OCI_LAYER}


class _Squeezer(Protocol):
    def compress(self, data: bytes, /) -> bytes: ...
    def flush(self) -> bytes: ...


Packer = Callable[[Iterable[bytes]], Iterator[bytes]]


def packer(compression: str, level: int | None) -> Packer:
    """Errors: InvalidParameter for an unknown compression or level."""
    levels = _LEVELS.get(compression)
    if levels is None:
        raise InvalidParameter(f"unsupported layer compression type: {compression} (gzip, zstd or uncompressed)")
    if level is not None and level not in levels:
        raise InvalidParameter(f"compression level {level} is not one of {compression}")
    if compression == "gzip":
        return lambda tar: _gzip(tar, 6 if level is None else level)
    if compression == "zstd":
        return lambda tar: _zstd(tar, 3 if level is None else level)
    return iter


def _gzip(tar: Iterable[bytes], level: int) -> Iterator[bytes]:
    return _squeezed(tar, zlib.compressobj(level, zlib.DEFLATED, _GZIP))


def _zstd(tar: Iterable[bytes], level: int) -> Iterator[bytes]:
    import zstandard

    return _squeezed(tar, zstandard.ZstdCompressor(level=level).compressobj())


def _squeezed(tar: Iterable[bytes], squeezer: _Squeezer) -> Iterator[bytes]:
    for block in blocks(tar):
        if data := squeezer.compress(block):
            yield data
    yield squeezer.flush()
