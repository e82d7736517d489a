"""What a new daemon makes of records and shims that do not agree."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import AsyncMock, MagicMock

import pytest

from corten.config import Config
from corten.dockerapi.container import HostConfig
from corten.engine.container import Container, IdMaps, Status
from corten.engine.live import Index, Live
from corten.engine.recover import Recovery
from corten.engine.shims import ExitStatus, Shim
from corten.engine.user_namespaces import UserNamespaces
from corten.errors import Unavailable
from records import record

MAPS = IdMaps(
    uids=[{"containerID": 0, "hostID": 1000, "size": 10}],
    gids=[{"containerID": 0, "hostID": 1000, "size": 10}],
)
LEFT = "1" * 64


class World:
    """A daemon that starts, with one container of the daemon before, whose record has ids of its own.

    found: what is left of its program
    """

    def __init__(self, place: Path, status: Status, found: Any) -> None:
        self.live = Live(record(id=LEFT, name="left", created_ns=1, image_id="", id_maps=MAPS))
        self.container.state.status = status
        if found is not None:
            (place / "exec" / LEFT).mkdir(parents=True)
        self.spaces = UserNamespaces(IdMaps(), "1000:30", automatic=False, rootless=False, driver="overlay2")
        self.saved: list[Status] = []
        self.lifecycle = self._lifecycle()
        index = Index()
        index.add(self.live)
        answer = AsyncMock(side_effect=found) if isinstance(found, Exception) else AsyncMock(return_value=found)
        self.shims = SimpleNamespace(reconnect=answer, forget=AsyncMock())
        self.recovery = Recovery(
            config=Config(hosts=(), data_root=place / "data", exec_root=place / "exec"),
            store=MagicMock(save=lambda container: self.saved.append(container.status)),
            index=index,
            shims=self.shims,  # type: ignore[arg-type]
            snapshotter=MagicMock(ids=list),
            lifecycle=self.lifecycle,
            endpoints=MagicMock(adopt=AsyncMock()),
            tasks=MagicMock(spawn=lambda work, name: work.close()),
        )

    def _lifecycle(self) -> MagicMock:
        def release(container: Container) -> None:
            self.spaces.release(container)
            container.id_maps = IdMaps()

        return MagicMock(hold_ids=self.spaces.hold, release_ids=release, record_exit=AsyncMock(), auto_remove=None)

    @property
    def container(self) -> Container:
        return self.live.container

    def recover(self) -> None:
        asyncio.run(self.recovery.run())

    async def ask_again(self) -> None:
        await self.recovery._settle(self.live, await self.shims.reconnect(LEFT))

    def next_ids(self) -> int:
        """The first id that another container gets."""
        other = SimpleNamespace(id="other", host_config=HostConfig(userns_mode="auto:size=10"))
        return int(self.spaces.take(other, None).uids[0]["hostID"])  # type: ignore[arg-type]


def running() -> MagicMock:
    return MagicMock(spec=Shim, pid=77, started_ns=5)


@pytest.mark.parametrize("status", [Status.CREATED, Status.EXITED, Status.RESTARTING])
def test_a_program_that_was_started_and_not_recorded_is_found(tmp_path: Path, status: Status) -> None:
    shim = running()
    world = World(tmp_path, status, shim)
    world.recover()
    assert (world.container.status, world.container.state.pid, world.live.shim) == (Status.RUNNING, 77, shim)
    assert world.saved == [Status.RUNNING]
    assert world.next_ids() == 1010


def test_a_restart_that_nobody_waits_for_any_more(tmp_path: Path) -> None:
    world = World(tmp_path, Status.RESTARTING, None)
    world.recover()
    assert (world.container.status, world.saved) == (Status.EXITED, [Status.EXITED])


@pytest.mark.parametrize("status", [Status.RUNNING, Status.EXITED])
def test_nobody_gets_the_ids_of_a_program_that_may_run(tmp_path: Path, status: Status) -> None:
    world = World(tmp_path, status, Unavailable("the shim does not answer"))
    world.recover()
    assert world.container.id_maps == MAPS
    assert world.next_ids() == 1010
    # and nobody starts it again, or takes its files away, until its shim has answered
    assert world.container.status is Status.RUNNING
    assert not world.live.stopped.done()


@pytest.mark.parametrize("written", [True, False])
def test_a_start_that_was_not_recorded_and_whose_shim_is_slow(tmp_path: Path, written: bool) -> None:
    """It counts as running; what it says in the end is recorded."""
    world = World(tmp_path, Status.EXITED, Unavailable("the shim does not answer"))
    if written:
        (tmp_path / "exec" / LEFT / "state.json").write_text('{"pid": 77, "started_ns": 5}')
    world.recover()
    assert world.saved == [Status.RUNNING]
    assert world.container.state.pid == (77 if written else 0)
    world.shims.reconnect = AsyncMock(return_value=running())
    asyncio.run(world.ask_again())
    assert (world.container.status, world.container.state.pid, world.live.shim.pid) == (Status.RUNNING, 77, 77)
    assert world.container.state.started_ns == 5
    world.shims.reconnect = AsyncMock(return_value=ExitStatus(code=3, at_ns=1, oom_killed=False))
    asyncio.run(world.ask_again())
    assert world.lifecycle.record_exit.await_args.args[1].code == 3


@pytest.mark.parametrize("found", [running(), ExitStatus(code=3, at_ns=1, oom_killed=False)])
def test_who_asks_it_to_stop_before_its_shim_answers_hears_of_its_end(tmp_path: Path, found: Any) -> None:
    world = World(tmp_path, Status.RUNNING, Unavailable("the shim does not answer"))
    world.recover()
    awaited = world.live.stopped
    world.shims.reconnect = AsyncMock(return_value=found)
    asyncio.run(world.ask_again())
    assert world.live.stopped is awaited


@pytest.mark.parametrize("found", [None, ExitStatus(code=1, at_ns=1, oom_killed=False)])
def test_who_does_not_run_has_no_ids(tmp_path: Path, found: ExitStatus | None) -> None:
    world = World(tmp_path, Status.EXITED, found)
    world.recover()
    assert world.container.id_maps == IdMaps()
    assert world.shims.forget.await_count == (found is not None)
    assert world.next_ids() == 1000
