"""Content digests: ``algorithm:hex``.

Source: OCI image-spec v1.1, descriptor.md, "Digests".  A digest is checked before it becomes part of a path.
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Any, NewType

from corten.errors import InvalidParameter

if TYPE_CHECKING:
    pass

Digest = NewType("Digest", str)

SHA256 = "sha256"
_HEX_LENGTH = {"sha256": 64, "sha512": 128}
_SHAPE = re.compile(r"(sha256|sha512):([0-9a-f]+)")
_HEX64 = re.compile(r"[0-9a-f]{64}")


def is_digest(text: str) -> bool:
    match = _SHAPE.fullmatch(text)
    return match is not None and len(match[2]) == _HEX_LENGTH[match[1]]


def parse_digest(text: object) -> Digest:
    """``text`` as a digest of a registered algorithm.

    Errors: InvalidParameter for anything else, also for values that are no strings.
    """
    if not isinstance(text, str) or not is_digest(text):
        raise InvalidParameter(f"invalid digest format: {_shown(text)}")
    return Digest(text)


def split_digest(digest: Digest) -> tuple[str, str]:
    """(algorithm, hex)."""
    algorithm, _, encoded = digest.partition(":")
    return algorithm, encoded


def is_hex_id(text: str) -> bool:
    """64 lower-case hex digits: an identifier without its algorithm, never allowed as a repository name."""
    return _HEX64.fullmatch(text) is not None


def digest_of(content: bytes, algorithm: str = SHA256) -> Digest:
    return Digest(f"{algorithm}:{hashlib.new(algorithm, content).hexdigest()}")


def hasher(digest: Digest | None = None) -> Any:
    """A running hash of the digest's algorithm (sha256 without one)."""
    return hashlib.new(split_digest(digest)[0] if digest else SHA256)


def chain_id(parent: str, diff_id: str) -> Digest:
    """A layer's identity on top of ``parent``, "" for a base (image-spec config.md, "Layer ChainID")."""
    if not parent:
        return Digest(diff_id)
    return digest_of(f"{parent} {diff_id}".encode())


def _shown(value: object) -> str:
    text = value if isinstance(value, str) else type(value).__name__
    return repr(text if len(text) <= 80 else text[:80] + "…")
