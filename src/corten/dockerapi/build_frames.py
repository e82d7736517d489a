"""The body that ``corten build`` sends: a row of frames, each with its length in eight bytes before it.

The first is the document (``corten.dockerapi.build_request``); then come the contexts that the daemon cannot open
itself, each a tar in as many frames as it needs and an empty frame at its end.
"""

from __future__ import annotations

MEDIA_TYPE = "application/vnd.corten.build"
LENGTH_BYTES = 8
MAX_DOCUMENT_BYTES = 4 << 20


def frame(content: bytes) -> bytes:
    return len(content).to_bytes(LENGTH_BYTES, "big") + content
