"""Contexts that come with a request of their own, beside the one that builds (``remote=upload-request``)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from corten.errors import Conflict, NotFound

PATIENCE_S = 5.0  # which of the two requests comes first is not said


class _Upload:
    """body: None before it has come; over: the build reads no more of it"""

    def __init__(self) -> None:
        self.body: AsyncIterator[bytes] | None = None
        self.given = asyncio.Event()
        self.taken = asyncio.Event()
        self.over = asyncio.Event()


class Uploads:
    """By the ids of their builds."""

    def __init__(self) -> None:
        self._coming: dict[str, _Upload] = {}

    async def give(self, build_id: str, body: AsyncIterator[bytes]) -> None:
        """Let the build read; returns when it wants no more.

        Errors: NotFound when no build comes, Conflict for a second context of one.
        """
        upload = self._coming.setdefault(build_id, _Upload())
        if upload.body is not None:
            raise Conflict(f"the build {build_id} has its context already")
        upload.body = body
        upload.given.set()
        try:
            await _within(upload.taken, f"the build {build_id} of this context did not come")
            await upload.over.wait()
        finally:
            self._forget(build_id, upload)

    async def take(self, build_id: str) -> AsyncIterator[bytes]:
        """The context; ``end`` is to follow.  Errors: NotFound when nothing comes, Conflict for a second build."""
        upload = self._coming.setdefault(build_id, _Upload())
        if upload.taken.is_set():
            raise Conflict(f"the context of the build {build_id} is another build's")
        upload.taken.set()
        try:
            await _within(upload.given, f"the context of the build {build_id} did not come")
        except BaseException:
            self._forget(build_id, upload)
            upload.over.set()  # it may have come in the same moment
            raise
        assert upload.body is not None
        return upload.body

    def end(self, build_id: str) -> None:
        """The build has ended, whether it has read its context or not."""
        upload = self._coming.get(build_id)
        if upload is not None:
            upload.over.set()

    def _forget(self, build_id: str, upload: _Upload) -> None:
        if self._coming.get(build_id) is upload:
            del self._coming[build_id]


async def _within(event: asyncio.Event, otherwise: str) -> None:
    try:
        async with asyncio.timeout(PATIENCE_S):
            await event.wait()
    except TimeoutError:
        raise NotFound(otherwise) from None
