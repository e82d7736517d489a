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

from corten import __version__, config
from corten.config import Config
from corten.errors import CortenError

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


async def _serve(settings: Config) -> None:
    # heavy imports happen here, after bad arguments have been refused
    from corten.api.server import Server
    from corten.engine.engine import Engine

    engine = await Engine.open(settings)
    server = Server(engine, settings.hosts, group=settings.group)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(
        signal.SIGHUP, lambda: logger.info("SIGHUP: nothing of this configuration can change at run time")
    )
    try:
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


def _write_pidfile(path: Path | None) -> None:
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{os.getpid()}\n")


def main(arguments: list[str] | None = None) -> int:
    """Run the daemon until SIGTERM or SIGINT; 1 when it cannot start."""
    settings = None
    try:
        settings = config.load(sys.argv[1:] if arguments is None else arguments)
        _set_up_logging(settings)
        _write_pidfile(settings.pidfile)
        _adjust_oom_score(settings.oom_score_adjust)
        os.umask(0o022)
        asyncio.run(_serve(settings))
    except CortenError as error:
        print(f"cortend: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"cortend: {error}", file=sys.stderr)
        return 1
    finally:
        if settings is not None and settings.pidfile is not None:
            with contextlib.suppress(OSError):
                settings.pidfile.unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main())
