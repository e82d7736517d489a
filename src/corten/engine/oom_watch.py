"""Memory that runs out in a container is told when it happens: the rest of its processes may live on for long.

Source: Documentation/admin-guide/cgroup-v1/memory.rst, "OOM Control", and cgroups.rst, "Notification API";
cgroup-v2.rst, "memory.events" (a change of it is a change of the file).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass

from corten.cgroup.manager import Cgroup
from corten.engine.container import Container
from corten.engine.live import Live
from corten.errors import CortenError
from corten.linux import inotify

logger = logging.getLogger(__name__)

# programs that end sooner are not worth the system calls: their end tells it
_AFTER_S = 0.1


@dataclass(slots=True)
class _Watched:
    """later: the call that begins to watch;  event, watch: of version 1 (eventfd), of version 2 (inotify)"""

    live: Live
    cgroup: Cgroup | None = None
    later: asyncio.TimerHandle | None = None
    event: int = -1
    watch: int = -1
    kills: int = 0


class OomWatch:
    """The running containers of a daemon.

    cgroup_path: of a container
    tell:        called on the event loop, once for what happened since the last call
    """

    def __init__(self, cgroup_path: Callable[[Container], str], tell: Callable[[Live], None]) -> None:
        self._cgroup_path = cgroup_path
        self._tell = tell
        self._watched: dict[str, _Watched] = {}
        self._inotify: inotify.Inotify | None = None
        self._by_watch: dict[int, _Watched] = {}

    def started(self, live: Live) -> None:
        watched = self._watched[live.container.id] = _Watched(live)
        watched.later = asyncio.get_running_loop().call_later(_AFTER_S, self._begin, watched)

    def stopped(self, container_id: str) -> None:
        watched = self._watched.pop(container_id, None)
        if watched is None:
            return
        if watched.later is not None:
            watched.later.cancel()
        if watched.event >= 0:
            asyncio.get_running_loop().remove_reader(watched.event)
            os.close(watched.event)
        if self._by_watch.pop(watched.watch, None) is not None and self._inotify is not None:
            self._inotify.remove(watched.watch)
            self._let_go()

    def close(self) -> None:
        for container_id in list(self._watched):
            self.stopped(container_id)

    def _begin(self, watched: _Watched) -> None:
        watched.later = None
        container = watched.live.container
        try:
            watched.cgroup = cgroup = Cgroup(self._cgroup_path(container))
            if cgroup.hierarchies.is_v2:
                self._begin_v2(watched, cgroup)
            else:
                self._begin_v1(watched, cgroup)
        except (CortenError, OSError) as error:
            logger.debug("container %s: no word of memory that runs out: %s", container.id[:12], error)

    # -- version 1 --------------------------------------------------------------------------------------------------

    def _begin_v1(self, watched: _Watched, cgroup: Cgroup) -> None:
        directory = cgroup.directory("memory")
        if not directory:
            return
        event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        try:
            control = os.open(f"{directory}/memory.oom_control", os.O_RDONLY | os.O_CLOEXEC)
            try:
                register = os.open(f"{directory}/cgroup.event_control", os.O_WRONLY | os.O_CLOEXEC)
                try:
                    os.write(register, f"{event} {control}".encode())
                finally:
                    os.close(register)
            finally:
                os.close(control)
        except OSError:
            os.close(event)
            raise
        watched.event = event
        asyncio.get_running_loop().add_reader(event, self._ready_v1, watched, f"{directory}/cgroup.event_control")

    def _ready_v1(self, watched: _Watched, file: str) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(watched.event)
        # the end of the group is told in the same way
        if os.path.exists(file):
            self._tell(watched.live)

    # -- version 2 --------------------------------------------------------------------------------------------------

    def _begin_v2(self, watched: _Watched, cgroup: Cgroup) -> None:
        if self._inotify is None:
            self._inotify = inotify.Inotify()
            asyncio.get_running_loop().add_reader(self._inotify.fileno(), self._ready_v2)
        file = f"{cgroup.hierarchies.unified}{cgroup.path}/memory.events"
        try:
            watched.watch = self._inotify.add(file, inotify.IN_MODIFY)
            self._by_watch[watched.watch] = watched
        finally:
            self._let_go()
        watched.kills = cgroup.oom_kills()

    def _let_go(self) -> None:
        """Of the instance, when nothing is watched."""
        if self._inotify is not None and not self._by_watch:
            asyncio.get_running_loop().remove_reader(self._inotify.fileno())
            self._inotify.close()
            self._inotify = None

    def _ready_v2(self) -> None:
        assert self._inotify is not None
        for watch, mask in self._inotify.read():
            lost = mask & inotify.IN_Q_OVERFLOW
            for watched in list(self._by_watch.values()) if lost else [self._by_watch.get(watch)]:
                if watched is not None:
                    self._look(watched)

    def _look(self, watched: _Watched) -> None:
        """The file counts other things, too: limits that were reached, and nobody died."""
        assert watched.cgroup is not None
        with contextlib.suppress(CortenError, OSError):
            kills = watched.cgroup.oom_kills()
            if kills > watched.kills:
                watched.kills = kills
                self._tell(watched.live)
