"""Exec instances: further programs in a running container.

An instance lives in memory; it is forgotten five minutes after its end or with its container, as with dockerd.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
from dataclasses import dataclass, field
from typing import Any

from corten.dockerapi.container import ExecCreate, ExecStart
from corten.dockerapi.detach_keys import parse_detach_keys
from corten.engine.container import Status, as_list
from corten.engine.containers import AttachSession, Containers
from corten.engine.lifecycle import Lifecycle
from corten.engine.live import Live
from corten.engine.preparation import Preparation
from corten.engine.shims import ShimExec
from corten.engine.spec import exec_process
from corten.engine.tasks import Tasks
from corten.errors import CommandNotFound, Conflict, CortenError, InvalidParameter, NotFound

FORGET_AFTER_S = 300


@dataclass(slots=True, eq=False)
class Exec:
    """One exec instance.  ``exit_code`` is None until it has ended."""

    id: str
    live: Live
    request: ExecCreate
    process: dict[str, Any]
    running: bool = False
    started: bool = False
    pid: int = 0
    exit_code: int | None = None
    handle: ShimExec | None = None
    ended: asyncio.Future[int] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Execs:
    """The exec instances of this daemon."""

    def __init__(self, containers: Containers, lifecycle: Lifecycle, preparation: Preparation, tasks: Tasks) -> None:
        self._containers = containers
        self._lifecycle = lifecycle
        self._preparation = preparation
        self._tasks = tasks
        self._execs: dict[str, Exec] = {}

    def find(self, exec_id: str) -> Exec:
        """Errors: NotFound "No such exec instance: x"."""
        try:
            return self._execs[exec_id]
        except KeyError:
            raise NotFound(f"No such exec instance: {exec_id}") from None

    @staticmethod
    def _check_running(live: Live, reference: str) -> None:
        container = live.container
        if container.status is Status.PAUSED:
            raise Conflict(f"Container {reference} is paused, unpause the container before exec")
        if container.status is Status.RESTARTING:
            raise Conflict(f"Container {container.id} is restarting, wait until the container is running")
        if container.status is not Status.RUNNING or live.shim is None:
            raise Conflict(f"Container {container.id} is not running")

    async def create(self, reference: str, request: ExecCreate) -> str:
        """Errors: NotFound, Conflict (not running, paused), InvalidParameter (no command, bad detach keys)."""
        live = self._containers.find(reference)
        self._check_running(live, reference)
        command = as_list(request.cmd)
        if not command or not command[0]:
            raise InvalidParameter("No exec command specified")
        if request.working_dir and not request.working_dir.startswith("/"):
            raise InvalidParameter(
                f"the working directory '{request.working_dir}' is invalid, it needs to be an absolute path"
            )
        parse_detach_keys(request.detach_keys)
        container = live.container
        process = exec_process(
            container,
            request,
            self._preparation.capabilities(container, privileged=request.privileged),
            no_new_privileges=self._preparation.security(container).no_new_privileges,
            # as dockerd: of a privileged exec too
            apparmor_profile=self._preparation.apparmor_profile(container),
        )
        instance = Exec(id=secrets.token_hex(32), live=live, request=request, process=process)
        self._execs[instance.id] = instance
        live.exec_ids.append(instance.id)
        self._lifecycle.publish(live, f"exec_create: {' '.join(command)}", execID=instance.id)
        return instance.id

    async def start(self, exec_id: str, options: ExecStart) -> AttachSession | None:
        """Run it; a stream to it, or None when detached.

        Errors: Conflict (started before, container gone), CommandNotFound, CommandNotExecutable, InvalidParameter.
        """
        instance = self.find(exec_id)
        if instance.started:
            raise Conflict(
                f"exec command {exec_id} is already running"
                if instance.running
                else f"Error: Exec command {exec_id} has already run"
            )
        live, request = instance.live, instance.request
        self._check_running(live, live.container.id)
        assert live.shim is not None
        if options.console_size and any(options.console_size):
            instance.process["consoleSize"] = {"height": options.console_size[0], "width": options.console_size[1]}
        instance.started = True
        self._lifecycle.publish(live, f"exec_start: {' '.join(as_list(request.cmd))}", execID=exec_id)
        ours: socket.socket | None = None
        theirs: socket.socket | None = None
        if not options.detach:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
            ours.setblocking(False)
        try:
            handle = await live.shim.exec(
                exec_id,
                instance.process,
                attach_stdin=request.attach_stdin,
                attach_stdout=request.attach_stdout,
                attach_stderr=request.attach_stderr,
                detach_keys=parse_detach_keys(request.detach_keys),
                stream=theirs,
            )
        except CortenError as error:
            if ours is not None:
                ours.close()
            self._failed(instance, error)
            raise
        finally:
            if theirs is not None:
                theirs.close()
        instance.handle, instance.pid, instance.running = handle, handle.pid, True
        handle.exited.add_done_callback(lambda future: self._exited(instance, future))
        return None if ours is None else AttachSession(request.tty, ours)

    def _failed(self, instance: Exec, error: CortenError) -> None:
        """It has not run, so it has not died either: no event."""
        self._finish(instance, 127 if isinstance(error, CommandNotFound) else 126)

    def _exited(self, instance: Exec, future: asyncio.Future[int]) -> None:
        code = 137 if future.cancelled() or future.exception() is not None else future.result()
        self._finish(instance, code)
        self._lifecycle.publish(instance.live, "exec_die", execID=instance.id, exitCode=str(code))

    def _finish(self, instance: Exec, code: int) -> None:
        instance.running, instance.exit_code = False, code
        if not instance.ended.done():
            instance.ended.set_result(code)
        if instance.id in instance.live.exec_ids:
            instance.live.exec_ids.remove(instance.id)
        loop = asyncio.get_running_loop()
        loop.call_later(FORGET_AFTER_S, self._execs.pop, instance.id, None)

    async def inspect(self, exec_id: str) -> dict[str, Any]:
        instance = self.find(exec_id)
        request, command = instance.request, as_list(instance.request.cmd)
        return {
            "ID": instance.id,
            "Running": instance.running,
            "ExitCode": instance.exit_code,
            "ProcessConfig": {
                "tty": request.tty,
                "entrypoint": command[0],
                "arguments": command[1:],
                "privileged": request.privileged,
                **({"user": request.user} if request.user else {}),
            },
            "OpenStdin": request.attach_stdin,
            "OpenStderr": request.attach_stderr,
            "OpenStdout": request.attach_stdout,
            "CanRemove": instance.exit_code is not None,
            "ContainerID": instance.live.container.id,
            "DetachKeys": "",
            "Pid": instance.pid,
        }

    async def resize(self, exec_id: str, height: int, width: int) -> None:
        instance = self.find(exec_id)
        if not instance.running or instance.live.shim is None:
            raise Conflict(f"exec {exec_id} is not running")
        await instance.live.shim.resize(height, width, exec_id)

    def drop_container(self, live: Live) -> None:
        """The container has ended: its instances end with it."""
        for exec_id in [key for key, instance in self._execs.items() if instance.live is live]:
            instance = self._execs[exec_id]
            if not instance.running:
                self._execs.pop(exec_id)
        live.exec_ids.clear()

    async def probe(self, container_id: str, command: list[str], timeout_s: float) -> tuple[int, bytes]:
        """Run a health check: (exit code, output).  Errors: TimeoutError; the probe is killed then."""
        request = ExecCreate(cmd=command, attach_stdout=True, attach_stderr=True)
        exec_id = await self.create(container_id, request)
        session = await self.start(exec_id, ExecStart())
        assert session is not None
        instance = self.find(exec_id)
        output = bytearray()
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(timeout_s):
                while chunk := await loop.sock_recv(session.sock, 65536):
                    if len(output) < 65536:
                        output += chunk
                code = await instance.ended
        except TimeoutError:
            if instance.handle is not None and instance.running:
                await instance.handle.kill(9)
            raise
        finally:
            session.sock.close()
            self._execs.pop(exec_id, None)
        return code, _unframe(bytes(output))


def _unframe(framed: bytes) -> bytes:
    """The payloads of Docker's 8-byte frames, streams joined."""
    output, position = bytearray(), 0
    while position + 8 <= len(framed):
        length = int.from_bytes(framed[position + 4 : position + 8], "big")
        output += framed[position + 8 : position + 8 + length]
        position += 8 + length
    return bytes(output)
