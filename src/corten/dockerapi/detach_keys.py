"""Detach keys: "ctrl-p,ctrl-q" and the bytes that a terminal sends for them."""

from __future__ import annotations

from corten.errors import InvalidParameter

DEFAULT_DETACH_KEYS = b"\x10\x11"

_CONTROLS = frozenset("abcdefghijklmnopqrstuvwxyz@[\\]^_")


def parse_detach_keys(text: str) -> bytes:
    """The byte sequence of "a,ctrl-b,DEL"; the default for an empty text.

    Errors: InvalidParameter for a key that is neither one ASCII character nor ``DEL`` nor ``ctrl-`` with a lower-case
    letter or one of ``@[\\]^_``.
    """
    if not text:
        return DEFAULT_DETACH_KEYS
    keys = bytearray()
    for key in text.split(","):
        if len(key) == 1 and key.isascii():
            keys.append(ord(key))
        elif key == "DEL":
            keys.append(127)
        elif len(key) == 6 and key.startswith("ctrl-") and key[5] in _CONTROLS:
            keys.append(ord(key[5]) & 0x1F)
        else:
            raise InvalidParameter(f"Invalid detach keys ({text}) provided: unknown character: '{key}'")
    return bytes(keys)
