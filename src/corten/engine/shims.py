"""The daemon's side of the spawner and the shims: starts them, finds them again, speaks with them without blocking."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from corten.engine.container import IdMaps
from corten.engine.shim import KILLED_WITH_SHIM, ExitStatus, Shim, ShimExec, StreamRequest, prefixed
from corten.engine.shim_connection import Connection
from corten.engine.shim_leftovers import clean_up, read_exit, remove_directory
from corten.engine.spawner import Spawner
from corten.engine.streams import run_blocking
from corten.errors import Conflict, CortenError, NotModified, SystemFailure, Unavailable
from corten.logdriver import options
from corten.runtime.lifecycle import default_cgroup_path
from corten.snapshot.api import RootfsMount

logger = logging.getLogger(__name__)

_CREATE_FAILED = "failed to create task for container: OCI runtime create failed: unable to start container process: "
_ANSWER_S = 10.0
_USUAL_NAMESPACES = ["mount", "uts", "pid", "ipc", "time"]  # a network's is the daemon's work
RUNTIME_STATE = "runtimes"  # of other OCI runtimes, below the exec root

__all__ = ["ExitStatus", "Shim", "ShimExec", "ShimStart", "Shims", "StreamRequest"]

_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True, kw_only=True)
class ShimStart:
    """All that a shim needs.

    log:    "type", "config", "path" and "attributes" (``engine.logs.log_attributes``)
    runtime: command line of another OCI runtime; nothing for Corten's own
    attach: streams attached before the program's first byte; ``Shims.start`` closes our copies of the sockets
    """

    container_id: str
    spec: dict[str, Any]
    rootfs: RootfsMount
    log: dict[str, Any]
    open_stdin: bool
    stdin_once: bool
    bundle: str
    runtime: tuple[str, ...] = ()
    attach: list[StreamRequest] = field(default_factory=list)

    @property
    def cgroup(self) -> str:
        return (self.spec.get("linux") or {}).get("cgroupsPath") or default_cgroup_path(self.container_id)


def _log_of(log: dict[str, Any]) -> dict[str, Any]:
    """Errors: NotFound, InvalidParameter for options that were valid when the container was made and are not now."""
    return {
        "type": log["type"],
        "path": log["path"],
        "options": options.parse(log["type"], log["config"]),
        "attributes": log.get("attributes") or {},
    }


def _kinds_ahead(spec: dict[str, Any]) -> list[str]:
    """The new namespaces, and "user" if there is one, new or not: nothing can be made before that is entered."""
    entries = (spec.get("linux") or {}).get("namespaces") or ()
    return [entry["type"] for entry in entries if not entry.get("path") or entry["type"] == "user"]


def _leaves_orphans(spec: dict[str, Any]) -> bool:
    """Without a pid namespace of its own a container's orphans come to the host; a joined namespace takes a helper."""
    namespaces = (spec.get("linux") or {}).get("namespaces") or ()
    new = {entry["type"] for entry in namespaces if not entry.get("path")}
    return "pid" not in new or len(new) < len(namespaces)


class Shims:
    """The spawner and the exec root."""

    def __init__(self, exec_root: Path) -> None:
        self._exec_root = exec_root
        self._cache = exec_root / "seccomp"
        self._spawner = Spawner(exec_root / f".spawner-{os.getpid()}")
        self._ending: set[asyncio.Future[None]] = set()

    @classmethod
    async def open(cls, exec_root: Path) -> Shims:
        """Start the spawner.  Errors: SystemFailure when it does not come up."""
        shims = cls(exec_root)
        shims._cache.mkdir(mode=0o700, parents=True, exist_ok=True)
        (exec_root / RUNTIME_STATE).mkdir(mode=0o700, exist_ok=True)
        await shims._spawner.start()
        shims._spawner.replenish(_USUAL_NAMESPACES)
        return shims

    @property
    def spawner_pid(self) -> int:
        return self._spawner.pid

    async def lend(self, maps: IdMaps, path: str) -> tuple[int, int]:
        """Descriptors of a user namespace with these ids, and of a new network namespace that belongs to it.

        path: of the user namespace, "" for a new one
        Errors: SystemFailure.
        """
        return await self._spawner.lend({"uids": maps.uids, "gids": maps.gids, "path": path})

    def _directory(self, container_id: str) -> Path:
        return self._exec_root / container_id

    async def start(self, request: ShimStart) -> Shim:
        """Run a container.  Returns when its program has been executed.

        Errors: CommandNotFound, CommandNotExecutable, InvalidParameter, SystemFailure, Conflict (it runs under another
        daemon); nothing is left of it then.
        """
        directory = self._directory(request.container_id)
        starting = asyncio.ensure_future(self._start(request, directory))
        try:
            return await asyncio.shield(starting)
        except asyncio.CancelledError:
            # it cannot be stopped half-way: what has been started for nobody is ended
            task = asyncio.ensure_future(self._give_up(starting))
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)
            raise

    async def _give_up(self, starting: asyncio.Future[Shim]) -> None:
        try:
            shim = await starting
            with contextlib.suppress(NotModified):
                await shim.kill(9)
            await shim.exited
            await shim.close()
            await self.forget(shim.container_id)
        except CortenError as error:
            logger.info("a start that was given up: %s", error)

    async def _start(self, request: ShimStart, directory: Path) -> Shim:
        try:
            if _is_there(directory):
                await self._clear_leftover(directory)
            for _ in range(2):
                shim = Shim(request.container_id, directory, Connection(await self._spawner.spawn()))
                try:
                    return await self._launch(shim, request, directory)
                except Unavailable:
                    if _is_there(directory) or await self._spawner.is_alive():
                        break
            await run_blocking(clean_up, directory, request.cgroup, request.rootfs["target"])
            raise SystemFailure(f"{_CREATE_FAILED}the container's shim has been killed", step="shim")
        finally:
            # the next container is most likely one of the same kind
            self._spawner.replenish([] if request.runtime else _kinds_ahead(request.spec))
            for item in request.attach:
                item.sock.close()

    async def _launch(self, shim: Shim, request: ShimStart, directory: Path) -> Shim:
        spec = request.spec
        message = {
            "op": "start",
            "id": request.container_id,
            "directory": str(directory),
            "target": request.rootfs["target"],
            "cgroup": request.cgroup,
            "seccomp_cache": str(self._cache),
            "log": _log_of(request.log),
            "tty": bool(spec["process"].get("terminal")),
            "open_stdin": request.open_stdin,
            "stdin_once": request.stdin_once,
            "bundle": request.bundle,
            "orphans": bool(request.runtime) or _leaves_orphans(spec),
            "runtime": list(request.runtime),
            "runtime_root": str(self._exec_root / RUNTIME_STATE),
            "poststop": bool((spec.get("hooks") or {}).get("poststop")),
            "attach": [item.describe() for item in request.attach],
        }
        payload = _encode({"spec": spec, "rootfs": request.rootfs})
        try:
            answer = await shim.ask(message, [item.sock.fileno() for item in request.attach], payload)
        except BaseException as error:
            await shim.close()
            if isinstance(error, CortenError) and not isinstance(error, Unavailable):
                raise prefixed(error, _CREATE_FAILED) from error
            raise
        shim.adopt(answer)
        return shim

    async def _clear_leftover(self, directory: Path) -> None:
        """A directory of an earlier run: recorded by now, or of a killed shim.

        Errors: Conflict when the container runs, Unavailable when its shim does not answer.
        """
        running = await self._find(directory.name, directory)
        if running is not None:
            await running.close()
            raise Conflict(f"container {directory.name} is running already, started by another daemon")
        await run_blocking(remove_directory if _has_ended(directory) else clean_up, directory)

    async def reconnect(self, container_id: str) -> Shim | ExitStatus | None:
        """Find a container again: its shim, how it ended meanwhile, or None when nothing is known (a reboot).

        An exit stays known until ``forget``.
        """
        directory = self._directory(container_id)
        shim = await self._find(container_id, directory)
        if shim is not None:
            return shim
        found = await run_blocking(read_exit, directory)
        if found is not None:
            return ExitStatus(**found)
        if not _is_there(directory):
            return None
        logger.error("the shim of container %s has been killed", container_id[:12])
        await run_blocking(clean_up, directory)
        return ExitStatus(KILLED_WITH_SHIM, time.time_ns(), oom_killed=False)

    async def _find(self, container_id: str, directory: Path) -> Shim | None:
        """Errors: Unavailable when a shim is there and does not answer."""
        if _has_ended(directory):
            return None
        try:
            connection = Connection(_connect(directory))
        except OSError:
            return None
        shim = Shim(container_id, directory, connection)
        try:
            async with asyncio.timeout(_ANSWER_S):
                # one that is still being started answers when it runs
                answer = await shim.ask({"op": "state"})
        except Unavailable:
            return None  # it has just ended: its exit is written down
        except (TimeoutError, CortenError) as error:
            await shim.close()
            raise Unavailable(f"the shim of container {container_id[:12]} does not answer: {error}") from error
        shim.adopt(answer)
        return shim

    async def forget(self, container_id: str) -> None:
        """The exit has been recorded: nothing need be known of this run any more.  A running container stays known."""
        directory = self._directory(container_id)
        if _has_ended(directory) or not _is_there(directory / "shim.sock"):
            await run_blocking(remove_directory, directory)

    async def close(self) -> None:
        """End the spawner; shims live on."""
        if self._ending:
            await asyncio.wait(self._ending, timeout=_ANSWER_S)
        await self._spawner.close()


def _is_there(path: Path) -> bool:
    return path.exists()


def _has_ended(directory: Path) -> bool:
    return _is_there(directory / "exit.json")


def _connect(directory: Path) -> socket.socket:
    """By the directory's descriptor: the path may be longer than a socket address holds (unix(7))."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.setblocking(False)
    try:
        descriptor = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            sock.connect(f"/proc/self/fd/{descriptor}/shim.sock")
        finally:
            os.close(descriptor)
    except BaseException:
        sock.close()
        raise
    return sock
