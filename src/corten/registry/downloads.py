"""A blob's bytes as they arrive, never more than were promised, and gone on with after a cut.

A cut transfer continues with ``Range`` where it stopped; the digest is over all of it, so bytes that differ the second
time are found at the end: by whoever unpacks, who hashes them anyway.
"""

from __future__ import annotations

from collections.abc import Callable

from corten.errors import DataLoss
from corten.oci.descriptor import Descriptor
from corten.registry.failures import Unreachable
from corten.registry.remote import Remote
from corten.registry.transport import Answer

_PROGRESS = 1 << 20  # bytes that make a further attempt worth while after many


class Download:
    """A chunk source of one blob: exactly its size in bytes, then b"".  The digest is the reader's to check.

    arrived: called with the bytes so far, after each block
    Errors: RegistryFailure, DataLoss (wrong size), Cancelled.
    """

    def __init__(self, remote: Remote, blob: Descriptor, arrived: Callable[[int], None]) -> None:
        self._remote = remote
        self._blob = blob
        self._arrived = arrived
        self._answer: Answer | None = None
        self._offset = 0
        self._skip = 0
        self._failures = 0
        self._paid = 0  # bytes that were here when an attempt failed last

    def close(self) -> None:
        if self._answer is not None:
            self._answer.close()
            self._answer = None

    def __call__(self) -> bytes:
        while True:
            try:
                if self._answer is None:
                    self._answer = self._open()
                    if self._answer is None:
                        return b""
                chunk = self._answer.read()
                if not chunk and self._offset < self._blob.size:
                    raise Unreachable(f"{self._answer.what}: unexpected EOF after {self._offset} bytes")
            except Unreachable as error:
                self._failed(error)
                continue
            if not chunk:
                self.close()
                return b""
            if self._skip:
                skipped = min(self._skip, len(chunk))
                self._skip -= skipped
                chunk = chunk[skipped:]
                if not chunk:
                    continue
            self._offset += len(chunk)
            if self._offset > self._blob.size:
                self.close()
                raise DataLoss(f"invalid content {self._blob.digest}: more than the promised {self._blob.size} bytes")
            self._arrived(self._offset)
            return chunk

    def _open(self) -> Answer | None:
        """The answer to go on with; None when everything is here already."""
        if self._offset >= self._blob.size and self._offset:
            return None
        answer = self._remote.open_blob(self._blob.digest, self._offset)
        rest = self._blob.size
        if answer.status == 206:
            stated = answer.header("content-range")
            if not stated.startswith(f"bytes {self._offset}-"):
                answer.close()
                raise DataLoss(
                    f"invalid content {self._blob.digest}: asked for byte {self._offset}, got {stated[:60]!r}"
                )
            rest -= self._offset
        else:
            self._skip = self._offset
        if answer.length not in (-1, rest):
            answer.close()
            raise DataLoss(
                f"invalid content {self._blob.digest}: the registry offers {answer.length} bytes instead of {rest}"
            )
        return answer

    def _failed(self, error: Unreachable) -> None:
        """Wait for the next attempt.  Errors: ``error``, when there were too many."""
        self.close()
        settings = self._remote.transport.settings
        if self._offset - self._paid >= _PROGRESS:
            self._failures = 0
        self._paid = self._offset
        self._failures += 1
        if not error.passing or self._failures >= self._remote.attempts:
            raise error
        pause = settings.backoff_s * 2 ** (self._failures - 1)
        self._remote.transport.wait(min(max(pause, error.pause_s), settings.longest_pause_s))
