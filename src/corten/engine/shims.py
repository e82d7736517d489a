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
_EXEC_FAILED = "OCI runtime exec failed: unable to start container process: "
_ANSWER_S = 10.0
KILLED_WITH_SHIM = 137

_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class ExitStatus:
    """How a program ended.  ``code`` is 128 + n after signal n."""

    code: int
    at_ns: int
    oom_killed: bool


@dataclass(frozen=True, slots=True)
class StreamRequest:
    """A stream socket to serve from the program's first byte on."""

    sock: socket.socket
    stdin: bool
    stdout: bool
    stderr: bool
    detach_keys: bytes

    def describe(self) -> dict[str, Any]:
        return {
            "stdin": self.stdin,
            "stdout": self.stdout,
            "stderr": self.stderr,
            "detach_keys": self.detach_keys.hex(),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class ShimStart:
    """All that a shim needs.

    log:    "type", "config", "path" and "attributes" (``engine.logs.log_attributes``)
    attach: streams attached before the program's first byte; ``Shims.start`` closes our copies of the sockets
    """

    container_id: str
    spec: dict[str, Any]
    rootfs: RootfsMount
    log: dict[str, Any]
    open_stdin: bool
    stdin_once: bool
    bundle: str
    attach: list[StreamRequest] = field(default_factory=list)

    @property
    def cgroup(self) -> str:
        return (self.spec.get("linux") or {}).get("cgroupsPath") or default_cgroup_path(self.container_id)


class ShimExec:
    """A further program of a container.  ``exited`` gives its exit code."""

    def __init__(self, shim: Shim, exec_id: str, pid: int) -> None:
        self._shim = shim
        self.id = exec_id
        self.pid = pid
        self.exited: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def kill(self, signal: int) -> None:
        """Nothing to kill any more is no error."""
        with contextlib.suppress(NotModified):
            await self._shim.ask({"op": "exec-kill", "id": self.id, "signal": signal})


class Shim:
    """A running container's shim.

    pid:    of the program, on the host
    exited: how the program ended, also when the shim was killed
    """

    def __init__(self, container_id: str, directory: Path, connection: Connection) -> None:
        self.container_id = container_id
        self.pid = 0
        self.started_ns = 0
        self.exited: asyncio.Future[ExitStatus] = asyncio.get_running_loop().create_future()
        self._directory = directory
        self._connection = connection
        self._execs: dict[str, ShimExec] = {}
        self._early_exits: dict[str, int] = {}
        self._starting_execs = 0
        self._losing: asyncio.Task[None] | None = None
        connection.on_event = self._event

    def adopt(self, answer: dict[str, Any]) -> None:
        """The shim has told who its program is: from here on its loss is the program's end."""
        self.pid, self.started_ns = answer["pid"], answer["started_ns"]
        self._log_warnings(answer)
        self._connection.on_closed = self._lost
        if not self._connection.is_open:
            self._lost()

    async def ask(
        self, message: dict[str, Any], descriptors: list[int] | None = None, payload: bytes = b""
    ) -> dict[str, Any]:
        """Errors: the one that the shim describes; Unavailable when it has gone."""
        return await self._connection.request(message, descriptors, payload)

    # -- events -------------------------------------------------------------------------------------------------------

    def _event(self, message: dict[str, Any]) -> None:
        name = self.container_id[:12]
        if message["event"] == "exit":
            for problem in message["problems"]:
                logger.warning("container %s: %s", name, problem)
            self._ended(ExitStatus(message["code"], message["at_ns"], message["oom_killed"]))
        elif message["event"] == "exec-exit":
            entry = self._execs.pop(message["id"], None)
            if entry is not None:
                entry.exited.set_result(message["code"])
            elif self._starting_execs:
                self._early_exits[message["id"]] = message["code"]
        elif message["event"] == "log-error":
            logger.error("container %s: its log cannot be written: %d bytes are lost", name, message["dropped"])

    def _ended(self, status: ExitStatus) -> None:
        if not self.exited.done():
            self.exited.set_result(status)
        for entry in self._execs.values():
            entry.exited.set_result(KILLED_WITH_SHIM)
        self._execs.clear()

    def _lost(self) -> None:
        if not self.exited.done() and self._losing is None:
            self._losing = asyncio.ensure_future(self._clean_up())

    async def _clean_up(self) -> None:
        """The shim has gone without a word: its exit is written down, or it was killed and its program with it."""
        found = await run_blocking(read_exit, self._directory)
        if found is None:
            logger.error("the shim of container %s has been killed", self.container_id[:12])
            await run_blocking(clean_up, self._directory)
            found = {"code": KILLED_WITH_SHIM, "at_ns": time.time_ns(), "oom_killed": False}
        self._ended(ExitStatus(**found))

    # -- operations ---------------------------------------------------------------------------------------------------

    async def attach(
        self, *, stream: socket.socket, stdin: bool, stdout: bool, stderr: bool, detach_keys: bytes = b""
    ) -> None:
        """Serve a stream socket: raw for a terminal, else Docker's frames.  The shim has its own copy afterwards."""
        request = StreamRequest(stream, stdin, stdout, stderr, detach_keys)
        await self.ask({"op": "attach", **request.describe()}, [stream.fileno()])

    async def exec(
        self,
        exec_id: str,
        process: dict[str, Any],
        *,
        attach_stdin: bool,
        attach_stdout: bool,
        attach_stderr: bool,
        detach_keys: bytes,
        stream: socket.socket | None,
    ) -> ShimExec:
        """Run a further program.

        process: ``process`` of the runtime specification
        stream:  served as in ``attach``; None for a program whose output nobody wants
        Errors:  CommandNotFound, CommandNotExecutable, InvalidParameter, SystemFailure, Conflict
        """
        message = {
            "op": "exec",
            "id": exec_id,
            "tty": bool(process.get("terminal")),
            "stdin": attach_stdin,
            "stdout": attach_stdout,
            "stderr": attach_stderr,
            "detach_keys": detach_keys.hex(),
        }
        descriptors = [stream.fileno()] if stream is not None else []
        self._starting_execs += 1
        try:
            answer = await self.ask(message, descriptors, _encode(process))
            entry = ShimExec(self, exec_id, answer["pid"])
            self._log_warnings(answer)
            if exec_id in self._early_exits:
                entry.exited.set_result(self._early_exits.pop(exec_id))
            elif self.exited.done():
                entry.exited.set_result(KILLED_WITH_SHIM)
            else:
                self._execs[exec_id] = entry
        except CortenError as error:
            raise _prefixed(error, _EXEC_FAILED) from error
        finally:
            self._starting_execs -= 1
            if not self._starting_execs:
                self._early_exits.clear()
        return entry

    def _log_warnings(self, answer: dict[str, Any]) -> None:
        for warning in answer.get("warnings") or ():
            logger.warning("container %s: %s", self.container_id[:12], warning)

    async def resize(self, height: int, width: int, exec_id: str = "") -> None:
        """Errors: NotFound for an exec that has ended."""
        await self.ask({"op": "resize", "id": exec_id, "height": height, "width": width})

    async def kill(self, signal: int, *, everything: bool = False) -> None:
        """Signal the program, or every process of the container.  Errors: NotModified when it has just ended."""
        await self.ask({"op": "kill", "signal": signal, "all": everything})

    async def pause(self) -> None:
        await self.ask({"op": "pause"})

    async def resume(self) -> None:
        await self.ask({"op": "resume"})

    async def update(self, resources: dict[str, Any]) -> None:
        """resources: ``linux.resources`` of the runtime specification."""
        self._log_warnings(await self.ask({"op": "update"}, payload=_encode(resources)))

    async def log_flush(self) -> None:
        """Everything that the program has written by now is in its log when this returns."""
        await self.ask({"op": "log-flush"})

    async def log_rotate(self) -> None:
        """Begin a new log file."""
        await self.ask({"op": "log-rotate"})

    async def close(self) -> None:
        """Let go of the shim; it lives on, unless its program has ended."""
        self._connection.on_closed = lambda: None
        self._connection.close()
        if self._losing is not None:
            await self._losing


def _log_of(log: dict[str, Any]) -> dict[str, Any]:
    """Errors: NotFound, InvalidParameter for options that were valid when the container was made and are not now."""
    return {
        "type": log["type"],
        "path": log["path"],
        "options": options.parse(log["type"], log["config"]),
        "attributes": log.get("attributes") or {},
    }


def _leaves_orphans(spec: dict[str, Any]) -> bool:
    """Without a pid namespace of its own a container's orphans come to the host; a joined namespace takes a helper."""
    namespaces = (spec.get("linux") or {}).get("namespaces") or ()
    new = {entry["type"] for entry in namespaces if not entry.get("path")}
    return "pid" not in new or len(new) < len(namespaces)


def _prefixed(error: CortenError, prefix: str) -> CortenError:
    error.message = prefix + error.message
    error.args = (error.message,)
    return error


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
        await shims._spawner.start()
        return shims

    @property
    def spawner_pid(self) -> int:
        return self._spawner.pid

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
            "orphans": _leaves_orphans(spec),
            "poststop": bool((spec.get("hooks") or {}).get("poststop")),
            "attach": [item.describe() for item in request.attach],
        }
        payload = _encode({"spec": spec, "rootfs": request.rootfs})
        try:
            answer = await shim.ask(message, [item.sock.fileno() for item in request.attach], payload)
        except BaseException as error:
            await shim.close()
            if isinstance(error, CortenError) and not isinstance(error, Unavailable):
                raise _prefixed(error, _CREATE_FAILED) from error
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
