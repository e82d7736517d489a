"""Processes that unpack layers side by side, started when they are needed and ended when nobody needs them."""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from corten import errors
from corten.errors import CortenError, SystemFailure
from corten.image.compression import Limits
from corten.image.layer_apply import LayerStats
from corten.image.pipes import Chunks
from corten.linux.user_namespace import Rights

logger = logging.getLogger(__name__)
_PIPE_BYTES = 1 << 20
_MAX_ANSWER = 64 << 20  # directories that a layer implies are listed in it
_START = "import sys; sys.path[:] = sys.argv[1:]; from corten.image.unpack_worker import main; main()"


class Worker:
    """One process.  Used by one thread at a time."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        self._socket = ours
        with theirs:
            # isolated and without site: what is importable is what this process imports from
            command = [sys.executable, "-I", "-S", "-c", _START, *filter(None, sys.path)]
            try:
                self._process = subprocess.Popen(
                    command,
                    stdin=theirs.fileno(),
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,
                )
            except BaseException:
                ours.close()
                raise

    def unpack(self, request: dict[str, Any], source: Chunks) -> dict[str, Any]:
        """Errors: those of ``source``; what the worker says; SystemFailure when it dies."""
        reading, writing = os.pipe2(os.O_CLOEXEC)
        try:
            with contextlib.suppress(OSError):  # more than this user may have
                fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
            try:
                socket.send_fds(self._socket, [json.dumps(request).encode()], [reading])
            finally:
                os.close(reading)
            self._feed(writing, source)
        except ConnectionError:  # a broken pipe is one
            pass  # it wants no more, or is gone: its answer tells
        finally:
            os.close(writing)
        return self._answer()

    def _feed(self, writing: int, source: Chunks) -> None:
        try:
            while chunk := source():
                view = memoryview(chunk)
                while view:
                    view = view[os.write(writing, view) :]
        except BrokenPipeError:
            raise
        except BaseException:
            # what has arrived must not pass for the whole: the worker ends, and what it made is discarded
            self.end(kill=True)
            raise

    def _answer(self) -> dict[str, Any]:
        parts: list[bytes] = []
        size = 0
        while not parts or not parts[-1].endswith(b"\n"):
            try:
                part = self._socket.recv(1 << 20)
            except ConnectionError:
                part = b""
            size += len(part)
            if not part or size > _MAX_ANSWER:
                self.end(kill=True)
                raise SystemFailure("the process that unpacks layers has ended", step="unpack")
            parts.append(part)
        answer: dict[str, Any] = json.loads(b"".join(parts))
        if "error" in answer:
            raise _error(answer)
        return answer

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def end(self, *, kill: bool = False) -> None:
        self._socket.close()
        if kill:
            self._process.kill()
        self._process.wait()


def _error(answer: dict[str, Any]) -> Exception:
    kind = answer["error"]
    if kind == "OSError":
        return OSError(answer["errno"], answer["message"])
    if kind == "SystemFailure":
        return SystemFailure(answer["message"], step=answer.get("step", ""), errno=answer["errno"])
    found = getattr(errors, kind, None)
    if isinstance(found, type) and issubclass(found, CortenError):
        return found(answer["message"])
    return SystemFailure(answer["message"], step="unpack")


class Unpackers:
    """Thread-safe.  As many processes as layers are unpacked at the same time; ``using`` keeps them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: list[Worker] = []
        self._users = 0

    @contextlib.contextmanager
    def using(self) -> Iterator[None]:
        """Processes stay until the last such block ends."""
        with self._lock:
            self._users += 1
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                ending = [] if self._users else self._idle
                if not self._users:
                    self._idle = []
            for worker in ending:
                worker.end()

    def take(self) -> Worker | None:
        """A process, to be handed to ``unpack``; None when none can be started.  Within ``using`` only."""
        with self._lock:
            if self._idle:
                return self._idle.pop()
        try:
            return Worker()
        except OSError as error:
            logger.warning("cannot start a process that unpacks layers: %s", error)
            return None

    def unpack(
        self,
        worker: Worker,
        source: Chunks,
        target: Path,
        directory: Path,
        *,
        overlay: bool,
        rights: Rights,
        limits: Limits,
    ) -> tuple[dict[str, Any], LayerStats]:
        """Unpack a layer's blob; (digests and sizes, what was unpacked).  The process is given back.

        Errors: as ``apply_layer``, those of ``source``, SystemFailure when the process dies.
        """
        request = {
            "target": str(target), "directory": str(directory), "overlay": overlay,
            "rights": [rights.owners, rights.devices], "limits": [limits.ratio, limits.grace, limits.absolute],
        }  # fmt: skip
        try:
            answer = worker.unpack(request, source)
        finally:
            with self._lock:
                keep = worker.is_alive and self._users > 0
                if keep:
                    self._idle.append(worker)
            if not keep:
                worker.end(kill=True)
        return answer, LayerStats(
            size=answer["size"],
            tar_size=answer["tar_size"],
            entries=answer["entries"],
            implied=tuple(os.fsencode(path) for path in answer["implied"]),
            opaque_root=answer["opaque_root"],
        )
