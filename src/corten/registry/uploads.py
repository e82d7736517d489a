"""One blob on its way up: begun, sent, resumed after a cut, finished."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from corten.errors import DataLoss
from corten.oci.digest import Digest, hasher
from corten.registry.failures import Refused, RegistryFailure, Unreachable
from corten.registry.remote import Remote


@dataclass(frozen=True, slots=True)
class Sent:
    """A blob that the registry has now; size: bytes"""

    digest: Digest
    size: int


class Upload:
    """A blob whose bytes are made while they are sent, the same ones every time ``make`` is called.

    expected: the digest that they must have; else it is found out

    After a cut the registry is asked how far it got and the rest is sent; when it does not know, all of it again.
    """

    def __init__(self, remote: Remote, make: Callable[[], Iterator[bytes]], *, expected: str = "") -> None:
        self._remote = remote
        self._make = make
        self._expected = expected
        self._hash = self._new_hash()
        self._size = 0

    def run(self) -> Sent:
        """Errors: RegistryFailure, Cancelled, what ``make`` raises."""
        settings = self._remote.transport.settings
        pause, failures = settings.backoff_s, 0
        url, offset = "", 0
        while True:
            try:
                if not url:
                    url, offset = self._remote.start_upload(), 0
                url = self._remote.send_part(url, offset, partial(self._body, offset))
                digest = Digest(f"{self._hash.name}:{self._hash.hexdigest()}")
                if self._expected and digest != self._expected:
                    raise DataLoss(f"invalid content: expected digest {self._expected}, got {digest}")
                self._remote.finish_upload(url, digest)
                return Sent(digest, self._size)
            except Refused as error:
                # an upload that the registry forgot is begun anew
                if error.status not in (404, 416) or failures >= settings.attempts:
                    raise
                failures += 1
                url = ""
            except Unreachable as error:
                failures += 1
                if not error.passing or failures >= settings.attempts:
                    raise
                self._remote.transport.wait(max(pause, error.pause_s))
                pause = min(pause * 2, settings.longest_pause_s)
                url, offset = self._resumed(url)

    def _new_hash(self) -> Any:
        return hasher(Digest(self._expected) if self._expected else None)

    def _resumed(self, url: str) -> tuple[str, int]:
        if not url:
            return "", 0
        try:
            return self._remote.upload_offset(url) or ("", 0)
        except RegistryFailure:
            return "", 0

    def _body(self, offset: int) -> Iterator[bytes]:
        """The bytes from ``offset`` on; hash and size are those of the whole."""
        self._hash, self._size = self._new_hash(), 0
        skip = offset
        for chunk in self._make():
            self._hash.update(chunk)
            self._size += len(chunk)
            if skip >= len(chunk):
                skip -= len(chunk)
                continue
            yield chunk[skip:] if skip else chunk
            skip = 0
