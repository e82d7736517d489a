"""What waits for a container whose start ends in an error that nobody foresaw."""

from __future__ import annotations

import asyncio
from typing import Any
from unittest.mock import AsyncMock, MagicMock

import pytest

from corten.dockerapi.container import HostConfig
from corten.engine.container import Status
from corten.engine.lifecycle import Lifecycle
from corten.engine.live import Live
from records import record


def lifecycle() -> tuple[Lifecycle, MagicMock]:
    parts: dict[str, Any] = {
        name: MagicMock()
        for name in (
            "config", "store", "events", "shims", "volumes", "image_mounts", "endpoints", "preparation", "runtimes",
            "user_namespaces",
        )
    }  # fmt: skip
    parts["endpoints"].detach = AsyncMock()
    tasks = MagicMock(spawn=lambda work, name: asyncio.get_running_loop().create_task(work))
    made = Lifecycle(**parts, tasks=tasks, snapshotter=MagicMock(rootfs=MagicMock(side_effect=AttributeError("oops"))))
    made._mounts = MagicMock(release=AsyncMock())
    made.auto_remove = AsyncMock()
    return made, parts["store"]


@pytest.mark.parametrize("condition", ["next-exit", "removed"])
def test_nobody_waits_for_ever_and_the_record_tells_it(condition: str) -> None:
    async def scenario() -> None:
        made, store = lifecycle()
        live = Live(record(id="1" * 64, host_config=HostConfig(auto_remove=True)))
        waiter: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        live.waiters.append((condition, waiter))
        with pytest.raises(AttributeError):
            await made.start(live)
        assert (await asyncio.wait_for(waiter, 1))["StatusCode"] == 128
        assert live.container.state.error == "internal error: AttributeError"
        assert live.container.status is Status.CREATED
        store.record.assert_called_with(live.container)
        await asyncio.sleep(0)
        made.auto_remove.assert_awaited_once_with(live)  # type: ignore[union-attr]

    asyncio.run(scenario())
