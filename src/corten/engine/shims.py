"""The daemon's side of the spawner and the shims: starts them, finds them again, speaks with them without blocking."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
import sys
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import corten
from corten.cgroup.manager import Cgroup
from corten.errors import Conflict, CortenError, SystemFailure, Unavailable
from corten.linux import mount as mounting
from corten.linux import paths
from corten.shim import protocol
from corten.snapshot.api import RootfsMount

logger = logging.getLogger(__name__)

_SPAWNER_READY_S = 10.0
_CREATE_FAILED = "failed to create task for container: OCI runtime create failed: unable to start container process: "
_EXEC_FAILED = "OCI runtime exec failed: unable to start container process: "
KILLED_WITH_SHIM = 137


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
        return {"stdin": self.stdin, "stdout": self.stdout, "stderr": self.stderr, "detach_keys": self.detach_keys.hex()}


@dataclass(frozen=True, slots=True, kw_only=True)
class ShimStart:
    """All that a shim needs.  ``log``: type, config, path."""

    container_id: str
    spec: dict[str, Any]
    rootfs: RootfsMount
    log: dict[str, Any]
    open_stdin: bool
    stdin_once: bool
    bundle: str
    attach: list[StreamRequest] = field(default_factory=list)


class _Connection:
    """One control connection: requests with answers by number, events as they come."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._sequence = 0
        self._outgoing: deque[tuple[dict[str, Any], list[int]]] = deque()
        self.on_event = lambda message: None
        self.on_closed = lambda: None
        self._open = True
        self._loop.add_reader(sock, self._readable)

    async def request(self, message: dict[str, Any], descriptors: list[int] | None = None) -> dict[str, Any]:
        """Send and wait for the answer.  Errors: the one the shim describes; Unavailable when it has gone."""
        if not self._open:
            raise Unavailable("the container's shim has ended")
        self._sequence += 1
        message["seq"] = self._sequence
        future: asyncio.Future[dict[str, Any]] = self._loop.create_future()
        self._waiting[self._sequence] = future
        # the caller may close its descriptors as soon as it likes
        self._send(message, [os.dup(descriptor) for descriptor in descriptors or ()])
        try:
            return await future
        finally:
            self._waiting.pop(message["seq"], None)

    def _send(self, message: dict[str, Any], descriptors: list[int]) -> None:
        self._outgoing.append((message, descriptors))
        self._flush()

    def _flush(self) -> None:
        while self._outgoing:
            message, descriptors = self._outgoing[0]
            try:
                protocol.send(self._sock, message, descriptors)
            except BlockingIOError:
                self._loop.add_writer(self._sock, self._flush)
                return
            except OSError:
                self._closed()
                return
            self._outgoing.popleft()
            for descriptor in descriptors:
                os.close(descriptor)
        self._loop.remove_writer(self._sock)

    def _readable(self) -> None:
        while self._open:
            try:
                message, descriptors = protocol.receive(self._sock)
            except BlockingIOError:
                return
            except OSError:
                message, descriptors = None, []
            for descriptor in descriptors:
                os.close(descriptor)
            if message is None:
                self._closed()
                return
            self._dispatch(message)

    def _dispatch(self, message: dict[str, Any]) -> None:
        if "event" in message:
            self.on_event(message)
            return
        future = self._waiting.get(message.get("seq", 0))
        if future is None or future.done():
            return
        if "error" in message:
            future.set_exception(protocol.rebuild_error(message["error"]))
        else:
            future.set_result(message)

    def _closed(self) -> None:
        if not self._open:
            return
        self.close()
        self.on_closed()

    def close(self) -> None:
        if not self._open:
            return
        self._open = False
        self._loop.remove_reader(self._sock)
        self._loop.remove_writer(self._sock)
        self._sock.close()
        for _, descriptors in self._outgoing:
            for descriptor in descriptors:
                os.close(descriptor)
        self._outgoing.clear()
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(Unavailable("the container's shim has ended"))


class ShimExec:
    """A further program of a container."""

    def __init__(self, shim: Shim, exec_id: str, pid: int) -> None:
        self._shim = shim
        self.id = exec_id
        self.pid = pid
        self.exited: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def kill(self, signal: int) -> None:
        await self._shim.ask({"op": "exec-kill", "id": self.id, "signal": signal})


class Shim:
    """A running container's shim."""

    def __init__(self, container_id: str, directory: Path, connection: _Connection, pid: int, started_ns: int) -> None:
        self.container_id = container_id
        self.pid = pid
        self.started_ns = started_ns
        self.exited: asyncio.Future[ExitStatus] = asyncio.get_running_loop().create_future()
        self._directory = directory
        self._connection = connection
        self._execs: dict[str, ShimExec] = {}
        self._early_exits: dict[str, int] = {}
        connection.on_event = self._event
        connection.on_closed = self._lost

    async def ask(self, message: dict[str, Any], descriptors: list[int] | None = None) -> dict[str, Any]:
        return await self._connection.request(message, descriptors)

    def _event(self, message: dict[str, Any]) -> None:
        if message["event"] == "exit":
            self._exited(_exit_status(message))
            for problem in message.get("problems") or ():
                logger.warning("container %s: %s", self.container_id[:12], problem)
        elif message["event"] == "exec-exit":
            entry = self._execs.pop(message["id"], None)
            if entry is None:
                self._early_exits[message["id"]] = message["code"]
            elif not entry.exited.done():
                entry.exited.set_result(message["code"])
        elif message["event"] == "log-error":
            logger.error("container %s: its log cannot be written", self.container_id[:12])

    def _exited(self, status: ExitStatus) -> None:
        if not self.exited.done():
            self.exited.set_result(status)
        for entry in self._execs.values():
            if not entry.exited.done():
                entry.exited.set_result(KILLED_WITH_SHIM)
        self._execs.clear()

    def _lost(self) -> None:
        """The shim has gone without a word: it was killed, and its program with it."""
        if self.exited.done():
            return
        status = _read_exit(self._directory)
        if status is None:
            logger.error("the shim of container %s was killed", self.container_id[:12])
            clean_up(self._directory)
            status = ExitStatus(KILLED_WITH_SHIM, time.time_ns(), oom_killed=False)
        self._exited(status)

    async def attach(
        self, *, stream: socket.socket, stdin: bool, stdout: bool, stderr: bool, detach_keys: bytes = b""
    ) -> None:
        """Serve a stream socket: raw for a terminal, else Docker's frames.  The shim keeps its own copy of it."""
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
        """Run a further program.  Errors: CommandNotFound, CommandNotExecutable, InvalidParameter, SystemFailure, Conflict."""
        message = {
            "op": "exec",
            "id": exec_id,
            "process": process,
            "stdin": attach_stdin,
            "stdout": attach_stdout,
            "stderr": attach_stderr,
            "detach_keys": detach_keys.hex(),
        }
        try:
            answer = await self.ask(message, [stream.fileno()] if stream is not None else [])
        except CortenError as error:
            raise _prefixed(error, _EXEC_FAILED) from error
        entry = ShimExec(self, exec_id, answer["pid"])
        if exec_id in self._early_exits:
            entry.exited.set_result(self._early_exits.pop(exec_id))
        else:
            self._execs[exec_id] = entry
        return entry

    async def resize(self, height: int, width: int, exec_id: str = "") -> None:
        await self.ask({"op": "resize", "id": exec_id, "height": height, "width": width})

    async def kill(self, signal: int) -> None:
        await self.ask({"op": "kill", "signal": signal})

    async def pause(self) -> None:
        await self.ask({"op": "pause"})

    async def resume(self) -> None:
        await self.ask({"op": "resume"})

    async def update(self, resources: dict[str, object]) -> None:
        await self.ask({"op": "update", "resources": resources})

    async def close(self) -> None:
        """Let go of the shim: after an exit it ends and its directory goes, otherwise it lives on."""
        self._connection.on_closed = lambda: None
        self._connection.close()
        if self.exited.done():
            remove_directory(self._directory)


def _prefixed(error: CortenError, prefix: str) -> CortenError:
    error.message = prefix + error.message
    error.args = (error.message,)
    return error


def _exit_status(document: dict[str, Any]) -> ExitStatus:
    return ExitStatus(document["code"], document["at_ns"], document["oom_killed"])


def _read_exit(directory: Path) -> ExitStatus | None:
    try:
        return _exit_status(json.loads((directory / "exit.json").read_text()))
    except (OSError, ValueError, KeyError):
        return None


def remove_directory(directory: Path) -> None:
    """Take a shim's runtime directory away; nothing there is no error."""
    with contextlib.suppress(FileNotFoundError):
        parent = os.open(directory.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            paths.remove_tree(parent, directory.name)
        finally:
            os.close(parent)


def clean_up(directory: Path) -> None:
    """Take away what a killed shim left: processes, cgroup, mount, directory."""
    try:
        state = json.loads((directory / "state.json").read_text())
    except (OSError, ValueError):
        remove_directory(directory)
        return
    try:
        cgroup = Cgroup(state["cgroup"])
        with contextlib.suppress(CortenError, OSError):
            cgroup.thaw()
        cgroup.kill()
        cgroup.delete()
    except (CortenError, OSError) as error:
        logger.warning("cgroup %s of a killed shim stays: %s", state.get("cgroup"), error)
    with contextlib.suppress(OSError):
        mounting.umount2(state["target"], mounting.MNT_DETACH | mounting.UMOUNT_NOFOLLOW)
    remove_directory(directory)


class Shims:
    """The spawner and the exec root."""

    def __init__(self, exec_root: Path) -> None:
        self._exec_root = exec_root
        self._cache = exec_root / "seccomp"
        self._spawner: socket.socket | None = None
        self._process: asyncio.subprocess.Process | None = None

    @classmethod
    async def open(cls, exec_root: Path) -> Shims:
        """Start the spawner.  Errors: SystemFailure when it does not come up."""
        shims = cls(exec_root)
        shims._cache.mkdir(mode=0o700, parents=True, exist_ok=True)
        await shims._start_spawner()
        return shims

    @property
    def spawner_pid(self) -> int:
        return self._process.pid if self._process is not None else 0

    async def _start_spawner(self) -> None:
        try:
            await self._execute_spawner(protected=True)
        except (OSError, SystemFailure, TimeoutError) as error:
            logger.warning("the interpreter cannot be shielded from containers (%s): it runs unprotected", error)
            await self._execute_spawner(protected=False)

    async def _execute_spawner(self, *, protected: bool) -> None:
        python = os.path.realpath(sys.executable)
        program, shield = python, -1
        if protected:
            shield = mounting.clone_tree(os.path.dirname(python))
            mounting.mount_setattr(shield, set_=mounting.MOUNT_ATTR_RDONLY)
            program = f"/proc/self/fd/{shield}/{os.path.basename(python)}"
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        package = os.path.dirname(os.path.dirname(os.path.abspath(corten.__file__)))
        code = (
            f"import sys; sys.path.insert(0, {package!r}); "
            f"from corten.shim.spawner import main; main({theirs.fileno()})"
        )
        passed = [theirs.fileno()] + ([shield] if shield >= 0 else [])
        try:
            self._process = await asyncio.create_subprocess_exec(
                python, "-I", "-S", "-B", "-c", code,
                executable=program, pass_fds=passed, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL,
                env={"PATH": os.environ.get("PATH", ""), "LANG": "C.UTF-8", "MALLOC_ARENA_MAX": "1", "MALLOC_TRIM_THRESHOLD_": "65536"},
            )  # fmt: skip
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
            if shield >= 0:
                os.close(shield)
        ours.setblocking(False)
        try:
            async with asyncio.timeout(_SPAWNER_READY_S):
                packet = await asyncio.get_running_loop().sock_recv(ours, 4096)
        except BaseException:
            ours.close()
            raise
        if not packet:
            ours.close()
            raise SystemFailure("the spawner ended at once", step="spawner")
        self._spawner = ours

    def _directory(self, container_id: str) -> Path:
        return self._exec_root / container_id

    async def start(self, request: ShimStart) -> Shim:
        """Run a container.  Returns when its program has been executed.

        Errors: CommandNotFound, CommandNotExecutable, InvalidParameter, SystemFailure; nothing is left then.
        """
        directory = self._directory(request.container_id)
        if directory.exists():
            await self._clear_leftover(directory)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            await self._spawn(theirs)
        finally:
            theirs.close()
        connection = _Connection(ours)
        message = {
            "op": "start",
            "id": request.container_id,
            "directory": str(directory),
            "seccomp_cache": str(self._cache),
            "spec": request.spec,
            "rootfs": request.rootfs,
            "log": request.log,
            "open_stdin": request.open_stdin,
            "stdin_once": request.stdin_once,
            "bundle": request.bundle,
            "attach": [item.describe() for item in request.attach],
        }
        shim = Shim(request.container_id, directory, connection, 0, 0)
        connection.on_closed = lambda: None
        try:
            answer = await connection.request(message, [item.sock.fileno() for item in request.attach])
        except CortenError as error:
            connection.close()
            raise _prefixed(error, _CREATE_FAILED) from error
        except BaseException:
            connection.close()
            raise
        finally:
            for item in request.attach:
                item.sock.close()
        shim.pid, shim.started_ns = answer["pid"], answer["started_ns"]
        connection.on_closed = shim._lost
        for warning in answer.get("warnings") or ():
            logger.warning("container %s: %s", request.container_id[:12], warning)
        return shim

    async def _spawn(self, control: socket.socket) -> None:
        for attempt in range(2):
            if self._spawner is None:
                await self._start_spawner()
            assert self._spawner is not None
            try:
                protocol.send(self._spawner, {"op": "spawn"}, [control.fileno()])
                return
            except OSError as error:
                self._spawner.close()
                self._spawner = None
                if attempt:
                    raise SystemFailure(f"the spawner does not answer: {error}", step="spawn") from error
                logger.warning("the spawner has ended: starting another")

    async def _clear_leftover(self, directory: Path) -> None:
        """A directory of a shim that this daemon does not know: gone by now, or still ending."""
        for _ in range(100):
            if not directory.exists():
                return
            if (directory / "exit.json").exists():
                remove_directory(directory)
                return
            if not await self._answers(directory):
                clean_up(directory)
                return
            await asyncio.sleep(0.02)
        raise Conflict(f"container {directory.name} is still running under another daemon")

    @staticmethod
    async def _answers(directory: Path) -> bool:
        try:
            _connect(directory).close()
        except OSError:
            return False
        return True

    async def reconnect(self, container_id: str) -> Shim | ExitStatus | None:
        """Find a container again: its shim, how it ended meanwhile, or None when nothing is known (a reboot)."""
        directory = self._directory(container_id)
        status = _read_exit(directory)
        if status is not None:
            remove_directory(directory)
            return status
        if not directory.exists():
            return None
        try:
            sock = _connect(directory)
        except OSError:
            status = _read_exit(directory)
            clean_up(directory)
            return status
        connection = _Connection(sock)
        shim = Shim(container_id, directory, connection, 0, 0)
        try:
            async with asyncio.timeout(5):
                answer = await connection.request({"op": "state"})
        except (TimeoutError, CortenError):
            connection.close()
            return _read_exit(directory)
        shim.pid, shim.started_ns = answer["pid"], answer["started_ns"]
        if "exit" in answer:
            await shim.close()
            remove_directory(directory)
            return _exit_status(answer["exit"])
        return shim

    async def close(self) -> None:
        """End the spawner; shims live on."""
        if self._spawner is not None:
            self._spawner.close()
            self._spawner = None
        if self._process is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(5):
                    await self._process.wait()


def _connect(directory: Path) -> socket.socket:
    """By the directory's descriptor: the path may be longer than a socket address holds (unix(7))."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
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
