"""Non-blocking logs: the files are written by a process of their own, so that a slow disk never holds up the program.

A regular file is always "ready" to the kernel and yet its write may take seconds: only another process can wait for it.
Entries go there through a socket; what it does not take is held, up to ``max-buffer-size`` bytes; what comes then is
dropped and counted, as Docker's ring does.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import struct
import time
from collections import deque
from collections.abc import Callable

from corten.logdriver.api import STREAMS, Loop
from corten.logdriver.cutting import CuttingWriter
from corten.logdriver.lines import MAXIMUM_LINE, Piece

# kind, stream, last, ordinal, line id, time, length of the text
_RECORD = struct.Struct(">BBBIQqI")
_PIECE, _ROTATE = 1, 2
_CLOSE_S = 5.0
_READ = 1 << 20
_BATCH = 256 * 1024


def _encode(stream: str, piece: Piece) -> bytes:
    # the id only has to be the same for the parts of a line: half of one crosses the socket
    line_id = int(piece.line_id[:16], 16) if piece.line_id else 0
    header = _RECORD.pack(
        _PIECE, STREAMS.index(stream), piece.last, piece.ordinal, line_id, piece.moment_ns, len(piece.text)
    )
    return header + piece.text


class DetachedWriter(CuttingWriter):
    """Hands everything to a child that runs the real writer.

    loop: tells when the socket takes more
    """

    def __init__(self, open_writer: Callable[[], CuttingWriter], buffer_size: int, loop: Loop) -> None:
        """Errors: those of ``open_writer``, which is tried here so that a bad path is known at once."""
        CuttingWriter.__init__(self)
        open_writer().close()
        self._open_writer = open_writer
        self._buffer_size = buffer_size
        self._loop = loop
        self._held: deque[bytes | memoryview] = deque()
        self._held_bytes = 0
        self._watching = False
        self._start()

    def _start(self) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        pid = os.fork()
        if pid == 0:
            _become_writer(theirs, self._open_writer)
        theirs.close()
        self._child = os.pidfd_open(pid)
        self._socket.setblocking(False)

    # -- taking -------------------------------------------------------------------------------------------------------

    def put(self, stream: str, pieces: list[Piece]) -> None:
        for piece in pieces:
            room = self._buffer_size - self._held_bytes
            if not self._held or len(piece.text) <= room:
                self._hold(_encode(stream, piece))
                continue
            # as many whole lines as there is room for
            fitting = 0 if piece.ordinal else piece.text.rfind(b"\n", 0, max(0, room)) + 1
            if fitting:
                self._hold(_encode(stream, piece._replace(text=piece.text[:fitting])))
            self._dropped += len(piece.text) - fitting
        self._flush()

    def rotate(self) -> None:
        self._hold(_RECORD.pack(_ROTATE, 0, 0, 0, 0, 0, 0))
        self._flush()

    def _hold(self, record: bytes) -> None:
        self._held.append(record)
        self._held_bytes += len(record)

    # -- giving -------------------------------------------------------------------------------------------------------

    def _flush(self) -> None:
        try:
            while self._held:
                record = self._held[0]
                sent = self._socket.send(record)
                self._held_bytes -= sent
                if sent == len(record):
                    self._held.popleft()
                else:
                    self._held[0] = memoryview(record)[sent:]
        except BlockingIOError:
            pass
        except OSError:
            self._restart()
            return
        self._watch(bool(self._held))

    def _watch(self, wanted: bool) -> None:
        if wanted and not self._watching:
            self._loop.watch(self._socket.fileno(), select.EPOLLOUT, lambda events: self._flush())
        elif self._watching and not wanted:
            self._loop.forget(self._socket.fileno())
        self._watching = wanted

    def _restart(self) -> None:
        """The child has been killed: another one goes on; what it had not written is lost."""
        self._watch(False)
        self._socket.close()
        os.close(self._child)
        self._dropped += self._held_bytes
        self._held.clear()
        self._held_bytes = 0
        self._start()

    def close(self) -> None:
        """Wait, for a bounded time, until everything is in the file."""
        if self._socket.fileno() < 0:
            return
        self._watch(False)
        deadline = time.monotonic() + _CLOSE_S
        with contextlib.suppress(OSError):
            while self._held and (left := deadline - time.monotonic()) > 0:
                self._socket.settimeout(left)
                self._socket.sendall(self._held.popleft())
            self._socket.shutdown(socket.SHUT_WR)
        self._dropped += sum(map(len, self._held))
        self._held.clear()
        ended = select.select([self._child], [], [], max(0.0, deadline - time.monotonic()))[0]
        if not ended:
            with contextlib.suppress(OSError):
                signal.pidfd_send_signal(self._child, signal.SIGKILL)
        with contextlib.suppress(OSError):
            os.waitid(os.P_PIDFD, self._child, os.WEXITED)
        os.close(self._child)
        self._socket.close()


# -- the child --------------------------------------------------------------------------------------------------------


def _become_writer(connection: socket.socket, open_writer: Callable[[], CuttingWriter]) -> None:
    """The child's whole life."""
    try:
        for number in os.listdir("/proc/self/fd"):
            if int(number) > 2 and int(number) != connection.fileno():
                with contextlib.suppress(OSError):
                    os.close(int(number))
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        connection.setblocking(True)
        writer = open_writer()
        rest = b""
        while data := connection.recv(_READ):
            rest = _write_records(writer, rest + data)
        writer.close()
    finally:
        os._exit(0)


def _write_records(writer: CuttingWriter, data: bytes) -> bytes:
    """Write what is whole; the rest."""
    position = 0
    batch: list[Piece] = []
    present = ""

    def write() -> None:
        if batch:
            # a full disk costs entries, it does not end the log
            with contextlib.suppress(OSError):
                writer.put(present, batch)
            batch.clear()

    while position + _RECORD.size <= len(data):
        kind, stream, last, ordinal, line_id, moment, length = _RECORD.unpack_from(data, position)
        end = position + _RECORD.size + length
        if end > len(data):
            break
        if kind == _ROTATE:
            write()
            with contextlib.suppress(OSError):
                writer.rotate()
        else:
            if STREAMS[stream] != present or len(batch) * MAXIMUM_LINE > _BATCH:
                write()
                present = STREAMS[stream]
            text = data[position + _RECORD.size : end]
            batch.append(Piece(text, moment, ordinal, bool(last), f"{line_id:016x}" * 4 if ordinal else ""))
        position = end
    write()
    return data[position:]
