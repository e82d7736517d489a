"""Contexts that come with a request of their own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest

from corten.api.buildkit.uploads import Uploads
from corten.errors import Conflict, NotFound


def run(work: Callable[[Uploads], Coroutine[Any, Any, None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(20):
            await work(Uploads())

    asyncio.run(bounded())


async def body() -> AsyncIterator[bytes]:
    yield b"content"


def test_either_request_comes_first() -> None:
    async def work(uploads: Uploads) -> None:
        for build_first in (True, False):
            given = taken = None
            if build_first:
                taken = asyncio.ensure_future(uploads.take("b"))
                await asyncio.sleep(0)
            given = asyncio.ensure_future(uploads.give("b", body()))
            await asyncio.sleep(0)
            found = await (taken or asyncio.ensure_future(uploads.take("b")))
            assert [chunk async for chunk in found] == [b"content"]
            assert not given.done()
            uploads.end("b")
            await given

    run(work)


def test_a_build_that_fails_before_it_reads_lets_the_upload_go() -> None:
    async def work(uploads: Uploads) -> None:
        given = asyncio.ensure_future(uploads.give("b", body()))
        await uploads.take("b")
        uploads.end("b")
        await given

    run(work)


def test_one_that_comes_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("corten.api.buildkit.uploads.PATIENCE_S", 0.01)

    async def work(uploads: Uploads) -> None:
        with pytest.raises(NotFound, match="the build b of this context did not come"):
            await uploads.give("b", body())
        with pytest.raises(NotFound, match="the context of the build b did not come"):
            await uploads.take("b")

    run(work)


def test_a_second_one_of_either() -> None:
    async def work(uploads: Uploads) -> None:
        given = asyncio.ensure_future(uploads.give("b", body()))
        await uploads.take("b")
        with pytest.raises(Conflict):
            await uploads.take("b")
        with pytest.raises(Conflict):
            await uploads.give("b", body())
        uploads.end("b")
        await given

    run(work)
