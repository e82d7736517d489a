"""The key sequence that lets go of a terminal, found in what is typed."""

from __future__ import annotations


class DetachKeys:
    """One for each client, since a sequence may arrive in several reads."""

    __slots__ = ("_keys", "_matched")

    def __init__(self, keys: bytes) -> None:
        self._keys = keys
        self._matched = 0

    def scan(self, data: bytes) -> tuple[bytes, bool]:
        """(what the program gets, whether the sequence is complete).

        A part of the sequence is held back until the next key tells whether it goes on; what comes behind a complete
        one is dropped.
        """
        keys = self._keys
        if not keys or (not self._matched and keys[0] not in data):
            return data, False
        passed = bytearray()
        for byte in data:
            while self._matched and byte != keys[self._matched]:
                # give out what cannot belong to the sequence any more; its end may be the beginning of another try
                shorter = _longest_border(keys[: self._matched])
                passed += keys[: self._matched - shorter]
                self._matched = shorter
            if byte != keys[self._matched]:
                passed.append(byte)
                continue
            self._matched += 1
            if self._matched == len(keys):
                self._matched = 0
                return bytes(passed), True
        return bytes(passed), False


def _longest_border(text: bytes) -> int:
    """Length of the longest proper prefix of ``text`` that is its end too."""
    return next((size for size in range(len(text) - 1, 0, -1) if text.endswith(text[:size])), 0)
