"""A stored layer as the gzip blob that registries keep: the same bytes every time.

The tar comes back exactly from the layer's split; it is cut into blocks of one size before it is compressed, because
what the compressor makes depends on how its input is cut.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

_BLOCK = 1 << 20
_LEVEL = 2
_GZIP = 31  # zlib's window bits for a gzip header without name and time


def _blocks(chunks: Iterable[bytes]) -> Iterator[bytes]:
    held = bytearray()
    for chunk in chunks:
        held += chunk
        while len(held) >= _BLOCK:
            yield bytes(held[:_BLOCK])
            del held[:_BLOCK]
    if held:
        yield bytes(held)


def compressed(tar: Iterable[bytes], read: Callable[[int], None] = lambda size: None) -> Iterator[bytes]:
    """The gzip stream of a tar.  ``read``: called with the bytes of the tar so far.

    Errors: what ``tar`` raises.
    """
    from isal import isal_zlib

    packer = isal_zlib.compressobj(_LEVEL, isal_zlib.DEFLATED, _GZIP)
    total = 0
    for block in _blocks(tar):
        total += len(block)
        packed = packer.compress(block)
        read(total)
        if packed:
            yield packed
    yield packer.flush()
