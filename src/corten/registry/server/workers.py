"""The server as processes: one that watches, and workers that serve.

```
 corten registry serve ── checks everything, takes the lock and the addresses, starts and restarts workers
    └── worker 0 … n-1 ── each an event loop, with a listening socket of its own on the same port (SO_REUSEPORT)
                          the kernel shares connections out
    └── one more that collects garbage and removes old uploads
```
The sockets stay with the parent: what has connected to a worker that dies waits for the one that replaces it.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import logging
import os
import resource
import signal
import socket
import ssl
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from corten.errors import Conflict, CortenError, InvalidParameter, SystemFailure
from corten.linux import process
from corten.registry.server import composition
from corten.registry.server.connection import Connection
from corten.registry.server.locking import try_lock
from corten.registry.server.metrics import Metrics
from corten.registry.server.service import MetricsService, Service
from corten.registry.server.settings import Settings
from corten.tls import server_context

logger = logging.getLogger(__name__)

_BACKLOG = 1024
_GRACE_S = 10.0
_DYING_S = 2.0
_RESTARTS = 5  # of one worker within a minute: then something is wrong for good


def serve(settings: Settings, ready: Callable[[list[str]], None]) -> int:
    """Serve until SIGTERM or SIGINT; the exit code.

    ready: called with the addresses as soon as connections are taken
    Errors: InvalidParameter, Conflict (the address or the directory is in use), SystemFailure.
    """
    count = settings.workers or os.cpu_count() or 1
    _raise_descriptors()
    settings.root.mkdir(parents=True, exist_ok=True)
    with _only_server(settings.root):
        context = server_context(*settings.tls) if settings.tls else None
        composition.check(settings)
        if settings.store:
            _probe(settings)
        listeners = [_listen(address, count) for address in settings.listen]
        metrics_listener = _listen(settings.metrics_listen, count) if settings.metrics_listen else []
        metrics = Metrics(count)
        workers = _Workers(settings, listeners, metrics_listener, context, metrics, count)
        workers.start()
        ready([_shown(sockets[0], context) for sockets in listeners])
        return workers.watch()


def _raise_descriptors() -> None:
    """As many connections and files as the system allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _probe(settings: Settings) -> None:
    """Ask the object store something, in a process that ends: its library has threads, which no fork survives.

    Errors: SystemFailure saying what the store said.
    """
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            asyncio.run(composition.content(settings).repositories.exists("probe"))
        except CortenError as error:
            os.write(writer, str(error).encode()[:4096])
        except BaseException as error:
            os.write(writer, repr(error).encode()[:4096])
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader, "rb") as file:
        said = file.read().decode("utf-8", "replace")
    os.waitpid(pid, 0)
    if said:
        raise SystemFailure(f"cannot use {settings.store}: {said}")


@contextlib.contextmanager
def _only_server(root: Path) -> Iterator[None]:
    """Errors: Conflict when another server uses the directory."""
    descriptor = os.open(root / "server.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        # workers hold it too: those of a server that was killed are on their way out
        until = time.monotonic() + _DYING_S
        while not try_lock(descriptor, fcntl.LOCK_EX):
            if time.monotonic() > until:
                raise Conflict(f"another server uses {root}")
            time.sleep(0.02)
        yield
    finally:
        os.close(descriptor)


def _listen(address: str, count: int) -> list[socket.socket]:
    """A listening socket for each worker, on one address.  Errors: InvalidParameter, Conflict, SystemFailure."""
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdigit() or int(port) > 65535:
        raise InvalidParameter(f"invalid address {address!r}: HOST:PORT is needed, or :PORT for all addresses")
    try:
        found = socket.getaddrinfo(host.strip("[]") or "::", int(port), type=socket.SOCK_STREAM)[0]
        family, where = found[0], found[4]
        with _socket(family, where) as alone:  # somebody else's sockets of this kind would share the port
            where = alone.getsockname()
        sockets = [_socket(family, where, shares=True) for _ in range(count)]
    except socket.gaierror as error:
        raise InvalidParameter(f"invalid address {address!r}: {error.strerror}") from None
    except OSError as error:
        text = f"cannot listen on {address}: {error.strerror}"
        raise (Conflict if error.errno == errno.EADDRINUSE else SystemFailure)(text) from None
    for sock in sockets:
        sock.listen(_BACKLOG)
    return sockets


def _socket(family: int, where: tuple[object, ...], *, shares: bool = False) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shares:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.bind(where)
    except OSError:
        sock.close()
        raise
    return sock


def _shown(sock: socket.socket, context: ssl.SSLContext | None) -> str:
    host, port = sock.getsockname()[:2]
    return f"{'https' if context else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"


class _Workers:
    def __init__(
        self,
        settings: Settings,
        listeners: list[list[socket.socket]],
        metrics_listener: list[socket.socket],
        context: ssl.SSLContext | None,
        metrics: Metrics,
        count: int,
    ) -> None:
        self._settings = settings
        self._listeners = listeners
        self._metrics_listener = metrics_listener
        self._context = context
        self._metrics = metrics
        self._count = count
        self._pids: dict[int, int] = {}
        self._started: dict[int, list[float]] = {}
        self._ending = False

    def start(self) -> None:
        for number in range(self._count + 1):
            self._start(number)

    def _start(self, number: int) -> None:
        self._started.setdefault(number, []).append(time.monotonic())
        sys.stdout.flush()
        sys.stderr.flush()
        parent = os.getpid()
        pid = os.fork()
        if pid:
            self._pids[pid] = number
            return
        code = 1
        try:
            _end_with(parent)
            code = self._work(number)
        except BaseException:
            logger.exception("worker %d", number)
        finally:
            logging.shutdown()
            os._exit(code)

    def _work(self, number: int) -> int:
        signal.set_wakeup_fd(-1)
        for name in (signal.SIGTERM, signal.SIGINT):
            signal.signal(name, signal.SIG_DFL)
        serves = number < self._count
        mine = [sockets[number] for sockets in self._listeners] if serves else []
        metrics = self._metrics_listener[number] if self._metrics_listener and serves else None
        for sockets in (*self._listeners, self._metrics_listener):
            for sock in sockets:
                if sock not in mine and sock is not metrics:
                    sock.close()
        with asyncio.Runner() as runner:
            if number == self._count:
                return runner.run(_keep_house(self._settings))
            self._metrics.choose(number)
            return runner.run(_serve(self._settings, mine, metrics, self._context, self._metrics))

    def watch(self) -> int:
        """Replace workers that die; end them all when it is time."""

        for name in (signal.SIGTERM, signal.SIGINT):
            signal.signal(name, lambda *_: self._end())
        code = 0
        while self._pids:
            pid, status = os.wait()
            number = self._pids.pop(pid, None)
            if number is None or self._ending:
                continue
            logger.error("worker %d ended (%s): it is started anew", number, _ended(status))
            recent = [moment for moment in self._started[number] if time.monotonic() - moment < 60]
            self._started[number] = recent
            if len(recent) >= _RESTARTS:
                logger.error("worker %d ends again and again: the server stops", number)
                code = 1
                self._end()
                continue
            self._start(number)
            if self._ending:  # told so while the new one was made
                self._end()
        return code

    def _end(self) -> None:
        self._ending = True
        for pid in list(self._pids):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)


def _end_with(parent: int) -> None:
    """Nobody would replace a worker whose parent was killed, and the next server needs its port."""
    process.prctl(process.PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        os._exit(1)


def _ended(status: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    return f"signal {-code}" if code < 0 else f"exit code {code}"


async def _serve(
    settings: Settings,
    sockets: list[socket.socket],
    metrics_socket: socket.socket | None,
    context: ssl.SSLContext | None,
    metrics: Metrics,
) -> int:
    loop = asyncio.get_running_loop()
    stop = _stop_event()
    content = composition.content(settings, metrics)
    services: list[tuple[Service, list[socket.socket], ssl.SSLContext | None]] = [
        (composition.service(settings, content, metrics), sockets, context)
    ]
    if metrics_socket is not None:
        services.append((MetricsService(content.repositories, metrics=metrics), [metrics_socket], None))
    async with asyncio.TaskGroup() as tasks:
        background = [tasks.create_task(service.watch()) for service, _, _ in services]
        servers = [await _server(loop, service, sock, tls) for service, listened, tls in services for sock in listened]
        await stop.wait()
        for server in servers:
            server.close()
        for service, _, _ in services:
            await service.close(_GRACE_S)
        for task in background:
            task.cancel()
    await content.close()
    return 0


async def _keep_house(settings: Settings) -> int:
    """The process that serves nobody: it collects garbage."""
    stop = _stop_event()
    content = composition.content(settings)
    async with asyncio.TaskGroup() as tasks:
        housekeeping = tasks.create_task(content.housekeeping())
        await stop.wait()
        housekeeping.cancel()
    await content.close()
    return 0


def _stop_event() -> asyncio.Event:
    """Set by SIGTERM and SIGINT."""
    stop = asyncio.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(name, stop.set)
    return stop


async def _server(
    loop: asyncio.AbstractEventLoop, service: Service, sock: socket.socket, tls: ssl.SSLContext | None
) -> asyncio.Server:
    return await loop.create_server(
        lambda: Connection(service),
        sock=sock,
        ssl=tls,
        backlog=_BACKLOG,
        ssl_handshake_timeout=service.limits.handshake_timeout_s if tls else None,
    )
