"""Contexts that come with a request of their own, beside the one that builds (``remote=upload-request``)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from corten.errors import InvalidParameter, NotFound

_PATIENCE_S = 5.0


class Uploads:
    """Contexts that come with a request of their own, by the id of the build."""

    def __init__(self) -> None:
        self._coming: dict[str, asyncio.Future[AsyncIterator[bytes]]] = {}

    def _future(self, build_id: str) -> asyncio.Future[AsyncIterator[bytes]]:
        return self._coming.setdefault(build_id, asyncio.get_running_loop().create_future())

    async def give(self, build_id: str, body: AsyncIterator[bytes]) -> None:
        """Let the build read; returns when it has.  Errors: NotFound when no build comes, Conflict for a second one."""
        future = self._future(build_id)
        over = asyncio.Event()

        async def watched() -> AsyncIterator[bytes]:
            try:
                async for chunk in body:
                    yield chunk
            finally:
                over.set()

        if future.done():
            raise InvalidParameter(f"the build {build_id} has its context already")
        future.set_result(watched())
        try:
            await over.wait()
        finally:
            self._coming.pop(build_id, None)

    async def take(self, build_id: str) -> AsyncIterator[bytes]:
        """Errors: NotFound when nothing comes."""
        try:
            async with asyncio.timeout(_PATIENCE_S):
                return await asyncio.shield(self._future(build_id))
        except TimeoutError:
            self._coming.pop(build_id, None)
            raise NotFound(f"the context of the build {build_id} did not come") from None
