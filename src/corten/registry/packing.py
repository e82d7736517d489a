"""A stored layer as the gzip blob that registries keep: the same bytes every time.

The tar comes back exactly from the layer's split; it is cut into blocks of one size before it is compressed, because
what the compressor makes depends on how its input is cut.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from corten.image.pipes import blocks

_LEVEL = 2
_GZIP = 31  # zlib's window bits for a gzip header without name and time


def compressed(tar: Iterable[bytes], read: Callable[[int], None] = lambda size: None) -> Iterator[bytes]:
    """The gzip stream of a tar.  ``read``: called with the bytes of the tar so far.

    Errors: what ``tar`` raises.
    """
    from isal import isal_zlib

    packer = isal_zlib.compressobj(_LEVEL, isal_zlib.DEFLATED, _GZIP)
    total = 0
    for block in blocks(tar):
        total += len(block)
        packed = packer.compress(block)
        read(total)
        if packed:
            yield packed
    yield packer.flush()
