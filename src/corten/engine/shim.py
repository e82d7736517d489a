"""A running container's shim, as the daemon speaks with it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from corten.engine.shim_connection import Connection
from corten.engine.shim_leftovers import clean_up, read_exit
from corten.engine.streams import run_blocking
from corten.errors import Conflict, CortenError, InvalidParameter, NotModified, Unavailable
from corten.runtime import users

logger = logging.getLogger(__name__)

_EXEC_FAILED = "OCI runtime exec failed: unable to start container process: "
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


class ShimExec:
    """A further program of a container.  ``exited`` gives its exit code."""

    def __init__(self, shim: Shim, exec_id: str, pid: int) -> None:
        self._shim = shim
        self.id = exec_id
        self.pid = pid
        self.exited: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def kill(self, signal: int) -> None:
        """Nothing to kill any more is no error."""
        with contextlib.suppress(NotModified, Conflict):
            await self._shim.ask({"op": "exec-kill", "id": self.id, "signal": signal})


class Shim:
    """A running container's shim.

    pid:         of the program, on the host
    exited:      how the program ended, also when the shim was killed
    on_detached: called with the id of an exec, or "", when a client has let go by its detach keys
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
        self.on_detached: Callable[[str], None] = lambda exec_id: None
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
        """Errors: the one that the shim describes; when it has gone Conflict, or Unavailable before it has begun."""
        try:
            return await self._connection.request(message, descriptors, payload)
        except Unavailable:
            if not self.pid:
                raise
            # its program has just ended, and the exit is on its way
            raise Conflict(f"container {self.container_id} is not running") from None

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
        elif message["event"] == "detach":
            self.on_detached(message["id"])
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
        except Conflict:
            raise
        except CortenError as error:
            raise prefixed(error, _EXEC_FAILED) from error
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
        try:
            await self.ask({"op": "kill", "signal": signal, "all": everything})
        except Conflict as error:
            raise NotModified(error.message) from None

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


def prefixed(error: CortenError, prefix: str) -> CortenError:
    """The error with Docker's words before its own; dockerd looks for users itself and says so without them."""
    if isinstance(error, InvalidParameter) and error.message.startswith(users.FAILURES):
        return error
    error.message = prefix + error.message
    error.args = (error.message,)
    return error
