"""The daemon's side of the spawner: executed once, asked for a shim at each start, replaced when it has gone.

The interpreter is executed from a read-only, detached clone of its directory's mount: the processes that enter
containers have it as /proc/<pid>/exe, and through such a mount nobody can write to it (CVE-2019-5736).

One shim with its maker is always there before it is asked for: what two forks cost is then no part of a start.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import select
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import corten
from corten.engine import open_files
from corten.engine.streams import run_blocking
from corten.errors import SystemFailure
from corten.linux import mount as mounting
from corten.shim import protocol

logger = logging.getLogger(__name__)

_READY_S = 60.0  # a machine under load takes its time: half a minute has been seen
_END_S = 5.0


def interpreter() -> str:
    """The real interpreter, also from a virtual environment: its own path is where Python finds its library."""
    return os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)


def _shielded_directory(path: str) -> int:
    """A descriptor of the directory on a read-only mount of its own.  Errors: OSError when the kernel refuses."""
    descriptor = mounting.clone_tree(path)
    try:
        mounting.mount_setattr(descriptor, set_=mounting.MOUNT_ATTR_RDONLY)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


async def _readable(sock: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready = loop.create_future()

    def tell() -> None:
        if not ready.done():
            ready.set_result(None)

    loop.add_reader(sock, tell)
    try:
        await ready
    finally:
        loop.remove_reader(sock)


class _Slow(SystemFailure):
    """It runs, and has not said in time that it is ready."""


class Spawner:
    """One spawner at a time."""

    def __init__(self, scratch: Path) -> None:
        """scratch: a directory that a starting spawner makes and removes."""
        self._scratch = str(scratch)
        self._connection: socket.socket | None = None
        self._spare: socket.socket | None = None  # to a shim that waits to be told what to start
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = asyncio.Lock()
        self._shield_fails = False

    @property
    def pid(self) -> int:
        return self._process.pid if self._process is not None else 0

    async def start(self) -> None:
        """Execute it and wait until it is ready.  Errors: SystemFailure with what it said."""
        async with self._lock:
            await self._start()

    async def _start(self) -> None:
        if not self._shield_fails:
            try:
                shield = _shielded_directory(os.path.dirname(interpreter()))
            except OSError as error:
                self._shield_fails = True
                logger.warning("the interpreter cannot be shielded from containers, it runs unprotected: %s", error)
            else:
                try:
                    await self._execute(f"/proc/self/fd/{shield}/{os.path.basename(interpreter())}", [shield])
                    return
                except _Slow:
                    raise  # no reason to do without the shield
                except SystemFailure as error:
                    self._shield_fails = True
                    logger.warning("a shielded interpreter does not run, containers get it unprotected: %s", error)
                finally:
                    os.close(shield)
        await self._execute(interpreter(), [])

    async def _execute(self, program: str, passed: list[int]) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        package = str(Path(corten.__file__).parents[1])
        # behind the standard library, so that nothing beside the package can stand for a module of it
        arguments = f"{theirs.fileno()}, {self._scratch!r}"
        code = f"import sys; sys.path.append({package!r}); from corten.shim.spawner import main; main({arguments})"
        environment = {
            "PATH": os.environ.get("PATH", ""),
            "LANG": "C.UTF-8",
            "MALLOC_ARENA_MAX": "1",
            "MALLOC_TRIM_THRESHOLD_": "131072",
        }
        try:
            process = self._process = subprocess.Popen(  # noqa: ASYNC220  # a vfork: a millisecond
                [interpreter(), "-I", "-S", "-X", "utf8", "-c", code],
                executable=program,
                pass_fds=[theirs.fileno(), *passed],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                env=environment,
                start_new_session=True,
            )
            open_files.give_back(process.pid)
        except OSError as error:
            ours.close()
            raise SystemFailure(
                f"cannot execute the spawner: {error}", step="spawner", errno=error.errno or 0
            ) from error
        finally:
            theirs.close()
        kind, text = SystemFailure, "it said nothing"
        try:
            async with asyncio.timeout(_READY_S):
                ready = await asyncio.get_running_loop().sock_recv(ours, 4096)
        except (TimeoutError, OSError) as error:
            ready = b""
            if isinstance(error, TimeoutError):
                kind, text = _Slow, f"it is not ready after {_READY_S:g} s"
        if not ready:
            ours.close()
            process.kill()
            said = await run_blocking(process.communicate)
            text = said[1].decode(errors="replace").strip().rpartition("\n")[2] or text
            raise kind(f"the spawner does not come up: {text}", step="spawner")
        assert process.stderr is not None
        process.stderr.close()
        self._connection = ours

    async def spawn(self) -> socket.socket:
        """The first control connection of a new shim.  Errors: SystemFailure when no spawner can be had."""
        async with self._lock:
            spare, self._spare = self._spare, None
            if spare is not None:
                if _is_silent(spare):
                    return spare
                spare.close()
            return await self._ask({"op": "spawn"})

    async def lend(self, maps: dict[str, Any]) -> tuple[int, int]:
        """Descriptors of a user namespace, and of a new network namespace that belongs to it.

        maps: "uids" and "gids" as in the runtime specification; "path" of the user namespace, "" for a new one
        Errors: SystemFailure.
        """
        async with self._lock:
            connection = await self._ask({"op": "lend"}, json.dumps(maps).encode())
        with connection:
            try:
                async with asyncio.timeout(_READY_S):
                    await _readable(connection)
                packet = protocol.receive(connection)
            except (TimeoutError, OSError, ValueError) as error:
                raise SystemFailure(f"no namespaces come from the spawner: {error}", step="namespaces") from error
        if packet is None:
            raise SystemFailure("no namespaces come from the spawner: it has been killed", step="namespaces")
        if "error" in packet.header:
            raise protocol.rebuild_error(packet.header["error"])
        user, network = packet.descriptors
        return user, network

    async def _ask(self, header: dict[str, Any], payload: bytes = b"") -> socket.socket:
        """Our end of a connection whose other end the spawner has got.  Errors: SystemFailure."""
        for _ in range(2):
            if self._connection is None:
                await self._start()
            try:
                return self._fork(header, payload)
            except BlockingIOError:
                raise SystemFailure("the spawner is too busy to start another container", step="spawn") from None
            except OSError:
                logger.warning("the spawner has been killed: starting another")
                await self._reap()
        raise SystemFailure("the spawner ends again and again", step="spawn")

    def _fork(self, header: dict[str, Any], payload: bytes = b"") -> socket.socket:
        """Errors: OSError when the spawner cannot be reached, BlockingIOError when it lags behind."""
        assert self._connection is not None
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            protocol.send(self._connection, header, [theirs.fileno()], payload)
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        return ours

    def replenish(self, namespaces: list[str]) -> None:
        """Have a spare shim again, now that nothing waits for the processor.

        namespaces: kinds that its container will probably need new; none to have nothing made ahead
        """
        if self._spare is None and self._connection is not None and not self._lock.locked():
            # a spawner that has gone is found out, and replaced, at the next start
            with contextlib.suppress(OSError):
                self._spare = self._fork({"op": "spawn", "ahead": namespaces})

    async def is_alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    async def _reap(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self._process is not None:
            process, self._process = self._process, None
            with contextlib.suppress(subprocess.TimeoutExpired):
                await run_blocking(process.wait, _END_S)

    async def close(self) -> None:
        """It ends when its connection closes, and so does the spare shim."""
        async with self._lock:
            if self._spare is not None:
                self._spare.close()
                self._spare = None
            await self._reap()


def _is_silent(connection: socket.socket) -> bool:
    """Whether nobody has said anything there or gone away."""
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    return not poll.poll(0)
