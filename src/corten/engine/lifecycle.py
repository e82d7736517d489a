"""Start, stop, exit, restart: what changes a container's state.

One rule keeps it free of deadlocks: the lock of a container is held while its state changes and never while waiting for
its program to do something.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable

from corten.config import Config
from corten.engine.container import Container, IdMaps, Status
from corten.engine.container_volumes import ContainerVolumes
from corten.engine.create import parse_signal
from corten.engine.endpoints import Endpoints
from corten.engine.events import Events
from corten.engine.image_mounts import ImageMounts
from corten.engine.live import Live
from corten.engine.logs import log_attributes
from corten.engine.preparation import Preparation
from corten.engine.restart_policy import next_backoff_s, wants_restart
from corten.engine.run_mounts import RunMounts
from corten.engine.runtimes import Runtimes
from corten.engine.shims import ExitStatus, Shim, Shims, ShimStart, StreamRequest
from corten.engine.store import Store
from corten.engine.streams import run_blocking
from corten.engine.tasks import Tasks
from corten.engine.user_namespaces import UserNamespaces
from corten.errors import CommandNotExecutable, CommandNotFound, Conflict, CortenError, NotModified, Unavailable
from corten.snapshot.api import Snapshotter

logger = logging.getLogger(__name__)

DEFAULT_STOP_TIMEOUT_S = 10
_KILL_WAIT_S = 10
SIGKILL = 9

_START_EXIT_CODES: tuple[tuple[type[CortenError], int], ...] = ((CommandNotFound, 127), (CommandNotExecutable, 126))


def now_ns() -> int:
    return time.time_ns()


def _told(error: Exception) -> str:
    """Why a start failed, as inspect shows it."""
    if isinstance(error, CortenError):
        return error.message
    if isinstance(error, OSError):
        return (error.strerror or str(error)).lower()
    return f"internal error: {type(error).__name__}"


class Lifecycle:
    """Changes of state of this daemon's containers."""

    def __init__(
        self,
        *,
        config: Config,
        store: Store,
        events: Events,
        shims: Shims,
        snapshotter: Snapshotter,
        volumes: ContainerVolumes,
        image_mounts: ImageMounts,
        endpoints: Endpoints,
        preparation: Preparation,
        tasks: Tasks,
        runtimes: Runtimes,
        user_namespaces: UserNamespaces,
    ) -> None:
        self._config = config
        self._store = store
        self._events = events
        self._shims = shims
        self._snapshotter = snapshotter
        self._mounts = RunMounts(volumes, image_mounts, preparation.shm_directory)
        self._endpoints = endpoints
        self._preparation = preparation
        self._tasks = tasks
        self.runtimes = runtimes
        self._user_namespaces = user_namespaces
        self.on_started: Callable[[Live], None] = lambda live: None
        self.on_stopped: Callable[[Live], None] = lambda live: None
        self.auto_remove: Callable[[Live], Awaitable[None]] | None = None
        self.shutting_down = False

    # -- events ---------------------------------------------------------------------------------------------------

    def publish(self, live: Live, action: str, **attributes: str) -> None:
        """An event of this container with Docker's attributes: labels, image, name and what the action adds."""
        container = live.container
        described = {**container.config.labels, "image": container.config.image, "name": container.name, **attributes}
        self._events.publish("container", action, container.id, described)

    def tell_oom(self, live: Live) -> None:
        """Memory has run out: the kernel has killed one of its processes."""
        live.oom_told = True
        self.publish(live, "oom")

    async def forget_run(self, live: Live) -> None:
        """What is kept of the last run until its exit can be recorded: nobody will ask for it."""
        await self._shims.forget(live.container.id)

    # -- start ----------------------------------------------------------------------------------------------------

    async def start(self, live: Live) -> bool:
        """Run the program; False when it runs already.

        Errors: Conflict (paused, in removal), CommandNotFound, CommandNotExecutable, InvalidParameter, SystemFailure.
        """
        async with live.lock:
            status = live.container.status
            if live.removing or status in (Status.REMOVING, Status.DEAD):
                raise Conflict("container is marked for removal and cannot be started")
            if status is Status.PAUSED:
                raise Conflict("cannot start a paused container, try unpause instead")
            if status is Status.RUNNING:
                return False
            self._cancel_backoff(live)
            live.container.state.restart_count = 0
            live.backoff_s = 0.0
            await self._start(live)
            return True

    async def _start(self, live: Live) -> None:
        container = live.container
        state = container.state
        try:
            if not self._store.is_saved(container):
                # the last exit was kept until it would be recorded
                await self._shims.forget(container.id)
            shim = await self._launch(live)
        except Exception as error:  # a defect of ours must not leave anybody waiting either
            state.exit_code = next((code for kind, code in _START_EXIT_CODES if isinstance(error, kind)), 128)
            state.error = _told(error)
            if state.status is Status.RESTARTING:
                container.become(Status.EXITED)
            self._store.record(container)
            for attach in live.pending:
                attach.stream.close()
            live.pending.clear()
            # whoever waits for an exit must not wait for a program that never ran
            live.resolve_waiters(frozenset({"next-exit", "not-running"}), state.exit_code)
            if container.host_config.auto_remove and self.auto_remove is not None:
                live.resolve_waiters(frozenset({"removed"}), state.exit_code)
                self._tasks.spawn(self._auto_remove(live), f"remove {container.id[:12]}")
            raise
        live.shim = shim
        live.stopped = asyncio.get_running_loop().create_future()
        container.become(Status.RUNNING)
        state.pid, state.started_ns = shim.pid, shim.started_ns
        state.error, state.exit_code, state.oom_killed = "", 0, False
        state.stopped_by_user = live.oom_told = False
        self._store.record(container)
        self.watch(live, shim)
        self.publish(live, "start")
        self.on_started(live)

    async def _launch(self, live: Live) -> Shim:
        container = live.container
        try:
            rootfs = self._snapshotter.rootfs(container.id)
            if container.mount_label:
                rootfs["options"].append(f"context={container.mount_label}")
            await self._mounts.acquire(live)
            if container.mount_label:
                await run_blocking(self._preparation.selinux.relabel_mounts, container)
            container.id_maps = self._user_namespaces.take(container, self._preparation.shared_ids(container))
            await self._endpoints.attach(live)
            if self._endpoints.namespaces(container) or container.id_maps:
                # the next daemon has to know whose addresses these are, if this one dies before the program runs
                self._store.record(container)
            spec = self._preparation.prepare(container, rootfs["target"])
            pending, live.pending = live.pending, []
            log = container.host_config.log_config
            return await self._shims.start(
                ShimStart(
                    container_id=container.id,
                    spec=spec,
                    rootfs=rootfs,
                    log={
                        "type": log.type,
                        "config": log.config,
                        "path": container.log_path,
                        "attributes": log_attributes(container),
                    },
                    open_stdin=container.config.open_stdin,
                    stdin_once=container.config.stdin_once,
                    bundle=str(self._preparation.directory(container.id)),
                    runtime=self.runtimes.command(container.host_config.runtime),
                    attach=[
                        StreamRequest(
                            item.stream, item.query.stdin, item.query.stdout, item.query.stderr, item.query.detach_keys
                        )
                        for item in pending
                    ],
                )
            )
        except BaseException:
            await self._endpoints.detach(live)
            await self._mounts.release(live)
            self.release_ids(container)
            raise

    def hold_ids(self, container: Container) -> None:
        """Nobody else gets the ids of its record: it may run already."""
        self._user_namespaces.hold(container)

    def release_ids(self, container: Container) -> None:
        """It does not run."""
        self._user_namespaces.release(container)
        container.id_maps = IdMaps()

    # -- exit -----------------------------------------------------------------------------------------------------

    def watch(self, live: Live, shim: Shim) -> None:
        """Have the exit of this run recorded when it comes, and told which clients let go of it."""

        def detached(exec_id: str) -> None:
            if exec_id:
                self.publish(live, "exec_detach", execID=exec_id)
            else:
                self.publish(live, "detach")

        def exited(future: asyncio.Future[ExitStatus]) -> None:
            if not future.cancelled():
                self._tasks.spawn(self.record_exit(live, future.result()), f"exit {live.container.id[:12]}")

        shim.on_detached = detached
        shim.exited.add_done_callback(exited)

    async def record_exit(self, live: Live, status: ExitStatus) -> None:
        """The program has ended: record it, tell everyone, then remove or restart as the container's policy says."""
        async with live.lock:
            container, state = live.container, live.container.state
            shim, live.shim = live.shim, None
            ran_ns = status.at_ns - state.started_ns
            state.exit_code, state.finished_ns, state.oom_killed = status.code, status.at_ns, status.oom_killed
            state.pid = 0
            if shim is not None:
                await shim.close()
            await self._endpoints.detach(live)
            await self._mounts.release(live)
            self.release_ids(container)
            restart = self._wants_restart(live)
            container.become(Status.RESTARTING if restart else Status.EXITED)
            if self._store.record(container):
                # only now: a daemon that is killed before finds the exit again
                await self._shims.forget(container.id)
            self.on_stopped(live)
            if status.oom_killed and not live.oom_told:
                self.tell_oom(live)
            self.publish(live, "die", exitCode=str(status.code), execDuration=str(max(0, ran_ns) // 10**9))
            self._finish_run(live, restarting=restart)
            if restart:
                live.backoff_s = next_backoff_s(live.backoff_s, ran_ns)
                live.backoff = self._tasks.spawn(self._restart_later(live), f"restart {container.id[:12]}")
            elif container.host_config.auto_remove and not live.restarts:
                self._tasks.spawn(self._auto_remove(live), f"remove {container.id[:12]}")

    def _finish_run(self, live: Live, *, restarting: bool) -> None:
        conditions = frozenset({"next-exit"}) if restarting else frozenset({"next-exit", "not-running"})
        live.resolve_waiters(conditions, live.container.state.exit_code, live.container.state.error)
        if live.stopped is not None and not live.stopped.done():
            live.stopped.set_result(None)
        live.stopped = None

    async def _auto_remove(self, live: Live) -> None:
        if self.auto_remove is not None:
            await self.auto_remove(live)

    # -- restart policy -------------------------------------------------------------------------------------------

    def _wants_restart(self, live: Live) -> bool:
        if self.shutting_down or live.removing:
            return False
        return wants_restart(live.container)

    async def _restart_later(self, live: Live) -> None:
        await asyncio.sleep(live.backoff_s)
        async with live.lock:
            live.backoff = None
            if live.container.status is not Status.RESTARTING or live.removing or self.shutting_down:
                return
            live.container.state.restart_count += 1
            try:
                await self._start(live)
            except (CortenError, OSError) as error:
                logger.warning("restart of container %s failed: %s", live.container.id[:12], error)

    def _cancel_backoff(self, live: Live) -> None:
        if live.backoff is not None:
            live.backoff.cancel()
            live.backoff = None

    # -- stop, kill, pause ----------------------------------------------------------------------------------------

    async def kill(self, live: Live, signal_name: str) -> None:
        """Send a signal.  Errors: InvalidParameter "Invalid signal", Conflict when it does not run."""
        number = parse_signal(signal_name or "SIGKILL")
        container = live.container
        if not container.is_running or live.shim is None:
            raise Conflict(f"cannot kill container: {container.name}: container {container.id} is not running")
        stop_signal = parse_signal(container.config.stop_signal or "SIGTERM")
        if number in (SIGKILL, stop_signal):
            container.state.stopped_by_user = True
            self._store.record(container)
        stopped = live.stopped
        await self._signal(live, number)
        self.publish(live, "kill", signal=str(number))
        if number == SIGKILL and stopped is not None:
            await self._wait_stopped(live, stopped, _KILL_WAIT_S)

    async def _signal(self, live: Live, number: int) -> None:
        shim = live.shim
        if shim is None:
            return
        try:
            if live.container.status is Status.PAUSED and number == SIGKILL:
                # a frozen program cannot die on cgroup v1
                await shim.kill(number)
                await self.let_go(live)
                return
            await shim.kill(number)
        except (NotModified, ProcessLookupError, Unavailable):
            # it has just exited, with its shim or before it: the exit is on its way.  The kill command of another
            # runtime can be slower than the program's end and the shim's
            return

    async def _wait_stopped(self, live: Live, stopped: asyncio.Future[None], timeout_s: float | None) -> bool:
        done, _ = await asyncio.wait({stopped}, timeout=timeout_s)
        return bool(done)

    async def stop(self, live: Live, signal_name: str = "", timeout_s: int | None = None) -> bool:
        """Ask the program to end, kill it after the timeout; False when nothing ran.

        timeout_s: seconds; None for the container's own, -1 for no limit
        """
        container = live.container
        if container.status is Status.RESTARTING:
            async with live.lock:
                self._cancel_backoff(live)
                if container.status is Status.RESTARTING:
                    container.state.stopped_by_user = True
                    container.become(Status.EXITED)
                    self._store.record(container)
                    self._finish_run(live, restarting=False)
                    return True
        stopped = live.stopped
        if not container.is_running or stopped is None:
            return False
        number = parse_signal(signal_name or container.config.stop_signal or "SIGTERM")
        if timeout_s is None:
            timeout_s = (
                container.config.stop_timeout if container.config.stop_timeout is not None else DEFAULT_STOP_TIMEOUT_S
            )
        container.state.stopped_by_user = True
        self._store.record(container)
        if container.status is Status.PAUSED:
            await self.let_go(live)
        await self._signal(live, number)
        self.publish(live, "kill", signal=str(number))
        if not await self._wait_stopped(live, stopped, None if timeout_s < 0 else timeout_s):
            await self._signal(live, SIGKILL)
            self.publish(live, "kill", signal=str(SIGKILL))
            if not await self._wait_stopped(live, stopped, _KILL_WAIT_S):
                raise Unavailable(
                    f"cannot stop container: {container.name}: it did not end within {_KILL_WAIT_S} s of SIGKILL"
                )
        self.publish(live, "stop")
        return True

    async def restart(self, live: Live, signal_name: str = "", timeout_s: int | None = None) -> None:
        live.restarts += 1
        try:
            await self.stop(live, signal_name, timeout_s)
        finally:
            live.restarts -= 1
        await self.start(live)
        self.publish(live, "restart")

    async def pause(self, live: Live) -> None:
        async with live.lock:
            container = live.container
            if container.status is Status.PAUSED:
                raise Conflict(f"Container {container.id} is already paused")
            if container.status is not Status.RUNNING or live.shim is None:
                raise Conflict(f"Container {container.id} is not running")
            await live.shim.pause()
            container.become(Status.PAUSED)
            self._store.record(container)
            self.publish(live, "pause")

    async def resume(self, live: Live) -> None:
        async with live.lock:
            container = live.container
            if container.status is not Status.PAUSED or live.shim is None:
                raise Conflict(f"Container {container.id} is not paused")
            await live.shim.resume()
            container.become(Status.RUNNING)
            self._store.record(container)
            self.publish(live, "unpause")

    async def let_go(self, live: Live) -> None:
        """Resume one that is about to end; others may have done so, or ended it."""
        with contextlib.suppress(Conflict):
            await self.resume(live)

    async def shut_down(self, lives: list[Live], timeout_s: float) -> None:
        """Stop every running container, all at once, within the timeout: what dockerd does without live-restore."""
        self.shutting_down = True
        running = [live for live in lives if live.container.is_running]
        stops = [self.stop(live, "", max(1, int(timeout_s) - 2)) for live in running]
        await asyncio.gather(*stops, return_exceptions=True)
        for live in running:
            # a stop by the daemon is no stop by the user: the policy applies at the next start
            live.container.state.stopped_by_user = False
            self._store.record(live.container)
