"""``cortend``: the composition root.  Reads the configuration, builds the engine, serves the API, handles signals."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from corten import __version__, config
from corten.config import Config
from corten.errors import CortenError

if TYPE_CHECKING:
    from corten.engine.engine import Engine
    from corten.network.outside import Outside

logger = logging.getLogger("corten.daemon")


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        document = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname.lower(),
            "msg": record.getMessage(),
            "logger": record.name,
        }
        if record.exc_info:
            document["error"] = self.formatException(record.exc_info)
        return json.dumps(document)


def _set_up_logging(settings: Config) -> None:
    handler = logging.StreamHandler(sys.stderr)
    if settings.log_format == "json":
        handler.setFormatter(_JsonFormatter())
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s"))
    logging.basicConfig(level=config.LOG_LEVELS[settings.log_level], handlers=[handler])


def _adjust_oom_score(value: int) -> None:
    if not value:
        return
    try:
        Path("/proc/self/oom_score_adj").write_text(str(value))
    except OSError as error:
        logger.warning("cannot set oom_score_adj to %d: %s", value, error.strerror)


async def _leave_when_idle(engine: object, server: object, seconds: int, stop: asyncio.Event) -> None:
    """End an automatically started daemon that nobody has needed for a while."""
    last_busy = time.monotonic()
    while not stop.is_set():
        await asyncio.sleep(min(seconds, 5))
        if not engine.is_idle or server.connections:  # type: ignore[attr-defined]  # set by _serve, which knows the types
            last_busy = time.monotonic()
        elif time.monotonic() - last_busy >= seconds:
            logger.info("idle for %d s: leaving", seconds)
            stop.set()


def _reload(engine: Engine, arguments: list[str]) -> None:
    """Take from the configuration file what can change at run time (SIGHUP)."""
    try:
        wanted, changed, needs_restart = config.reload(arguments, engine.config)
    except CortenError as error:
        logger.error("SIGHUP: the configuration stays as it is: %s", error)
        return
    for name in needs_restart:
        logger.warning("SIGHUP: %s changes only when the daemon is started again", name.replace("_", "-"))
    logging.getLogger().setLevel(config.LOG_LEVELS[wanted.log_level])
    engine.reload(wanted)
    shown = ", ".join(f"{name.replace('_', '-')}={getattr(wanted, name)!r}" for name in changed)
    logger.info("SIGHUP: configuration reloaded: %s", shown or "nothing has changed")


async def _serve(settings: Config, arguments: list[str], pid: int, outside: Outside | None) -> None:
    # heavy imports happen here, after bad arguments have been refused
    from corten.api.server import Server
    from corten.api.tcp import TcpOptions
    from corten.engine import open_files
    from corten.engine.engine import Engine

    open_files.raise_limit()
    engine = await Engine.open(settings, outside)
    tcp = TcpOptions(
        tls=settings.tls,
        verify=settings.tlsverify,
        ca=settings.tlscacert,
        cert=settings.tlscert,
        key=settings.tlskey,
        allow_unauthenticated=settings.allow_unauthenticated_tcp,
        names=settings.tcp_names,
    )
    server = Server(engine, settings.hosts, group=settings.group, tcp=tcp, metrics_address=settings.metrics_addr)
    server.describe(engine.metrics)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, _reload, engine, arguments)
    try:
        _write_pidfile(settings.pidfile, pid)
        await server.start()
        gc.collect()
        gc.freeze()
        logger.info("corten %s listens on %s", __version__, ", ".join(settings.hosts))
        async with asyncio.TaskGroup() as group:
            watcher = None
            if settings.idle_exit:
                watcher = group.create_task(_leave_when_idle(engine, server, settings.idle_exit, stop))
            await stop.wait()
            if watcher is not None:
                watcher.cancel()
        logger.info("shutting down")
    finally:
        await server.close(5)
        await engine.close()


def _write_pidfile(path: Path | None, pid: int) -> None:
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{pid}\n")


def _remove_pidfile(path: Path) -> None:
    """Unless it names another daemon, which is why this one did not start."""
    with contextlib.suppress(OSError):
        if path.read_text() == f"{os.getpid()}\n":
            path.unlink()


def _run(settings: Config, arguments: list[str], pid: int, outside: Outside | None = None) -> int:
    """The daemon itself.

    pid:     of the process that is to be told to end
    outside: the host's network, for a daemon that lives in one of its user
    Errors: CortenError, OSError.
    """
    asyncio.run(_serve(settings, arguments, pid, outside))
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Run the daemon until SIGTERM or SIGINT; 1 when it cannot start."""
    settings = None
    try:
        given = sys.argv[1:] if arguments is None else arguments
        settings = config.load(given)
        _set_up_logging(settings)
        _adjust_oom_score(settings.oom_score_adjust)
        config.export_proxies(settings)
        os.umask(0o022)
        pid = os.getpid()
        if not settings.rootless:
            return _run(settings, given, pid)
        from corten.rootless import supervisor

        return supervisor.run(settings.exec_root, lambda outside: _run(settings, given, pid, outside))
    except CortenError as error:
        print(f"cortend: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"cortend: {error}", file=sys.stderr)
        return 1
    finally:
        if settings is not None and settings.pidfile is not None:
            _remove_pidfile(settings.pidfile)


if __name__ == "__main__":
    sys.exit(main())
