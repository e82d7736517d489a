"""From a build's worker threads to the event loop and back."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
from collections.abc import Awaitable
from typing import TypeVar

from corten.build.workshop import Cancellation, Cancelled

T = TypeVar("T")


def on_loop(loop: asyncio.AbstractEventLoop, work: Awaitable[T], cancellation: Cancellation | None = None) -> T:
    """Do something on the loop and wait for it, from another thread.

    cancellation: ends the work, too
    Errors: those of the work; Cancelled, also when the engine shuts down.
    """

    async def awaited() -> T:
        return await work

    doing = awaited()
    try:
        future = asyncio.run_coroutine_threadsafe(doing, loop)
    except RuntimeError:  # the loop has ended
        doing.close()
        if asyncio.iscoroutine(work):
            work.close()
        raise Cancelled("the engine is shutting down") from None
    stopping = contextlib.nullcontext() if cancellation is None else cancellation.calling(lambda: _cancel(future))
    try:
        with stopping:
            return future.result()
    except (concurrent.futures.CancelledError, asyncio.CancelledError):
        is_ours = cancellation is not None and cancellation.is_cancelled
        raise Cancelled("the build was cancelled" if is_ours else "the engine is shutting down") from None


def _cancel(future: concurrent.futures.Future[T]) -> None:
    future.cancel()
