"""An attached program's streams, on a real pseudo-terminal with the command in a process of its own."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import select
import signal
import socket
import struct
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from scripted_server import ScriptedServer, ok, serving

from corten.cli import signals
from corten.cli.terminal import DetachFilter
from corten.dockerapi.detach_keys import DEFAULT_DETACH_KEYS
from corten.dockerapi.frames import encode


@pytest.mark.parametrize(
    ("pieces", "passed", "detached"),
    [
        ([b"hello"], b"hello", False),
        ([b"\x10\x11"], b"", True),
        ([b"ab\x10\x11cd"], b"ab", True),
        ([b"\x10", b"\x11"], b"", True),
        ([b"\x10", b"x"], b"\x10x", False),
        ([b"\x10\x10\x11"], b"\x10", True),
        ([b"\x10", b"\x10", b"\x11"], b"\x10", True),
        ([b"\x11\x10"], b"\x11", False),
        ([b"\x11\x10", b""], b"\x11", False),
    ],
)
def test_detach_keys(pieces: list[bytes], passed: bytes, detached: bool) -> None:
    keys = DetachFilter(DEFAULT_DETACH_KEYS)
    results = [keys.feed(piece) for piece in pieces]
    assert b"".join(data for data, _ in results) == passed
    assert any(found for _, found in results) == detached


def test_longer_sequences() -> None:
    keys = DetachFilter(b"aab")
    assert keys.feed(b"aaa") == (b"a", False)
    assert keys.feed(b"b") == (b"", True)
    single = DetachFilter(b"q")
    assert single.feed(b"x") == (b"x", False)
    assert single.feed(b"q") == (b"", True)


def test_forwarded_signals() -> None:
    numbers = signals.forwarded()
    assert {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGTSTP} <= set(
        numbers
    )
    assert not {signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD, signal.SIGPIPE, signal.SIGWINCH} & set(numbers)
    # they stop a job in the background that wants the terminal; caught, it would never get any further
    assert not {signal.SIGTTIN, signal.SIGTTOU} & set(numbers)
    assert signals.name_of(signal.SIGTERM) == "TERM"


def test_signals_are_read_like_input() -> None:
    before = signal.getsignal(signal.SIGUSR1)
    with signals.SignalWatch([signal.SIGUSR1, signal.SIGUSR2]) as watch:
        os.kill(os.getpid(), signal.SIGUSR2)
        os.kill(os.getpid(), signal.SIGUSR1)
        assert select.select([watch], [], [], 5)[0]
        assert sorted(watch.received()) == sorted([signal.SIGUSR1, signal.SIGUSR2])
        assert watch.received() == []
    assert signal.getsignal(signal.SIGUSR1) is before


# -- the command ----------------------------------------------------------------------------------------------------

CONTAINER = ok(
    b'{"Id": "abc", "Config": {"Tty": true, "OpenStdin": true}, "HostConfig": {}, '
    b'"State": {"Running": true, "Paused": false, "Restarting": false}}'
)


class Daemon:
    """As much of a daemon as one attached program needs; ``program`` gets the hijacked connection."""

    def __init__(self, program: Callable[[socket.socket], None], *, tty: bool, exit_code: int = 0) -> None:
        self.requests: list[str] = []
        self.started = threading.Event()
        self.ended = threading.Event()
        self._program = program
        self._container = CONTAINER if tty else CONTAINER.replace(b'"Tty": true', b'"Tty":false ')
        self._exit_code = exit_code

    def handle(self, connection: socket.socket, data: bytes) -> None:
        line = data.split(b"\r\n", 1)[0].decode().removesuffix(" HTTP/1.1")
        self.requests.append(line)
        path = line.partition(" ")[2].partition("?")[0]
        if path.endswith("/attach"):
            connection.sendall(b"HTTP/1.1 101 UPGRADED\r\nUpgrade: tcp\r\n\r\n")
            try:
                self._program(connection)
            finally:
                self.ended.set()
        elif path.endswith("/wait"):
            connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            assert self.ended.wait(20)
            body = b'{"StatusCode": %d}' % self._exit_code
            connection.sendall(b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body))
        elif path.endswith("/json"):
            connection.sendall(self._container)
        elif path.endswith("/create"):
            connection.sendall(ok(b'{"Id": "abc", "Warnings": ["mind the gap"]}', status="201 Created"))
        else:
            if path.endswith("/start"):
                self.started.set()
            connection.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")

    def resizes(self) -> list[str]:
        return [line.partition("?")[2] for line in self.requests if "/resize" in line]


class Typist:
    """The command on a pseudo-terminal, and the fingers of who uses it."""

    def __init__(self, server: ScriptedServer, arguments: list[str]) -> None:
        self.master, self.slave = pty.openpty()
        self.resize(24, 80, tell=False)
        self.before = termios.tcgetattr(self.slave)
        self.seen = b""
        self.pid = os.fork()
        if self.pid == 0:  # pragma: no cover  (another process)
            os.setsid()
            fcntl.ioctl(self.slave, termios.TIOCSCTTY, 0)
            for fd in range(3):
                os.dup2(self.slave, fd)
            os.execv(sys.executable, [sys.executable, "-m", "corten", "-H", server.host, *arguments])

    def resize(self, rows: int, columns: int, *, tell: bool = True) -> None:
        fcntl.ioctl(self.master if tell else self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, keys: bytes) -> None:
        os.write(self.master, keys)

    def expect(self, text: bytes) -> None:
        end = time.monotonic() + 15
        while text not in self.seen:
            assert select.select([self.master], [], [], max(0, end - time.monotonic()))[0], (
                f"{text!r} is not in {self.seen!r}"
            )
            self.seen += os.read(self.master, 4096)

    def is_raw(self) -> bool:
        return not termios.tcgetattr(self.slave)[3] & termios.ICANON

    def wait_until_raw(self) -> None:
        end = time.monotonic() + 15
        while not self.is_raw():
            assert time.monotonic() < end
            time.sleep(0.005)

    def exit_code(self) -> int:
        end = time.monotonic() + 15
        while True:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.pid = 0
                return os.waitstatus_to_exitcode(status)
            assert time.monotonic() < end, f"still running: {self.seen!r}"
            time.sleep(0.005)

    def close(self) -> None:
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self.master)
        os.close(self.slave)


@contextlib.contextmanager
def running(tmp_path: Path, daemon: Daemon, *arguments: str) -> Iterator[Typist]:
    with serving(tmp_path, daemon.handle) as server:
        typist = Typist(server, list(arguments))
        try:
            yield typist
        finally:
            typist.close()


def shell(connection: socket.socket) -> None:
    """Echoes; ends at "q"."""
    connection.sendall(b"$ ")
    while (data := connection.recv(4096)) and b"q" not in data:
        connection.sendall(b"<" + data + b">")


def test_a_terminal_is_raw_while_the_program_runs(tmp_path: Path) -> None:
    daemon = Daemon(shell, tty=True, exit_code=7)
    with running(tmp_path, daemon, "run", "-it", "image") as typist:
        typist.expect(b"$ ")
        typist.wait_until_raw()
        typist.type(b"\x03")  # ctrl-c is the program's
        typist.expect(b"<\x03>")
        typist.type(b"q")
        assert typist.exit_code() == 7
        assert termios.tcgetattr(typist.slave) == typist.before
        assert b"WARNING: mind the gap" in typist.seen
    order = [line.partition("?")[0].rpartition("/")[2] for line in daemon.requests]
    # attached and waited for before the start, so that nothing of a short program is missed
    assert (order[0], set(order[1:3]), order[3]) == ("create", {"attach", "wait"}, "start")


def test_the_terminal_s_size_is_the_program_s(tmp_path: Path) -> None:
    daemon = Daemon(shell, tty=True)
    with running(tmp_path, daemon, "run", "-it", "image") as typist:
        typist.expect(b"$ ")
        typist.wait_until_raw()
        typist.resize(44, 99)
        end = time.monotonic() + 15
        while "h=44&w=99" not in daemon.resizes():
            assert time.monotonic() < end, daemon.resizes()
            time.sleep(0.005)
        # the first size is sent only if it was read before the change
        assert set(daemon.resizes()) <= {"h=24&w=80", "h=44&w=99"}
        assert daemon.resizes()[-1] == "h=44&w=99"
        typist.type(b"q")
        assert typist.exit_code() == 0


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [(("run", "-it", "image"), 0, b""), (("attach", "x"), 1, b"read escape sequence"), (("start", "-ai", "x"), 0, b"")],
)
def test_detaching(tmp_path: Path, arguments: tuple[str, ...], code: int, text: bytes) -> None:
    daemon = Daemon(shell, tty=True)
    with running(tmp_path, daemon, *arguments) as typist:
        typist.expect(b"$ ")
        typist.wait_until_raw()
        typist.type(b"\x10")
        typist.type(b"\x11")
        assert typist.exit_code() == code
        assert termios.tcgetattr(typist.slave) == typist.before
        if text:
            typist.expect(text)
    assert daemon.ended.wait(15)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_gives_the_terminal_its_mode_back(tmp_path: Path, number: int, code: int) -> None:
    daemon = Daemon(shell, tty=True)
    with running(tmp_path, daemon, "attach", "--sig-proxy=false", "x") as typist:
        typist.expect(b"$ ")
        typist.wait_until_raw()
        os.kill(typist.pid, number)
        assert typist.exit_code() == code
        assert termios.tcgetattr(typist.slave) == typist.before


def test_signals_are_passed_on(tmp_path: Path) -> None:
    def program(connection: socket.socket) -> None:
        connection.sendall(encode(1, b"ready\n"))
        assert signalled.wait(15)
        connection.sendall(encode(1, b"bye\n"))

    class Watching(Daemon):
        def handle(self, connection: socket.socket, data: bytes) -> None:
            super().handle(connection, data)
            if "/kill" in self.requests[-1]:
                signalled.set()

    signalled = threading.Event()
    daemon = Watching(program, tty=False, exit_code=130)
    with running(tmp_path, daemon, "run", "image") as typist:
        typist.expect(b"ready")
        typist.type(b"\x03")
        typist.expect(b"bye")
        assert typist.exit_code() == 130
    assert [line for line in daemon.requests if "kill" in line] == ["POST /containers/abc/kill?signal=INT"]


def test_the_terminal_must_be_one(tmp_path: Path) -> None:
    import subprocess

    with serving(tmp_path, Daemon(shell, tty=True).handle) as server:
        done = subprocess.run(
            [sys.executable, "-m", "corten", "-H", server.host, "run", "-it", "image"],
            stdin=subprocess.DEVNULL, capture_output=True, check=False,
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (1, b"the input device is not a TTY\n")


# -- without a terminal ---------------------------------------------------------------------------------------------


def piped(tmp_path: Path, daemon: Daemon, *arguments: str, stdin: bytes = b"") -> tuple[int, bytes, bytes]:
    import subprocess

    with serving(tmp_path, daemon.handle) as server:
        done = subprocess.run(
            [sys.executable, "-m", "corten", "-H", server.host, *arguments],
            input=stdin,
            capture_output=True,
            check=False,
            timeout=60,
        )
    return done.returncode, done.stdout, done.stderr


def test_the_end_of_input_is_passed_on(tmp_path: Path) -> None:
    def count(connection: socket.socket) -> None:
        size = 0
        while data := connection.recv(1 << 20):
            size += len(data)
        connection.sendall(encode(1, b"%d\n" % size) + encode(2, b"done\n"))

    code, out, err = piped(
        tmp_path, Daemon(count, tty=False, exit_code=3), "run", "-i", "image", stdin=b"x" * 5_000_000
    )
    assert (code, out, err) == (3, b"5000000\n", b"WARNING: mind the gap\ndone\n")


def test_without_i_nothing_is_read(tmp_path: Path) -> None:
    def talk(connection: socket.socket) -> None:
        connection.sendall(encode(1, b"hello\n"))

    daemon = Daemon(talk, tty=False)
    code, out, _ = piped(tmp_path, daemon, "run", "image", stdin=b"ignored")
    assert (code, out) == (0, b"hello\n")
    assert "stdin" not in next(line for line in daemon.requests if "/attach" in line)


def test_input_alone_prints_the_id(tmp_path: Path) -> None:
    def swallow(connection: socket.socket) -> None:
        while connection.recv(4096):
            pass

    code, out, _ = piped(
        tmp_path, Daemon(swallow, tty=False, exit_code=4), "run", "-i", "-a", "stdin", "image", stdin=b"x"
    )
    assert (code, out) == (4, b"abc\n")


def test_in_the_background(tmp_path: Path) -> None:
    daemon = Daemon(shell, tty=False)
    code, out, err = piped(tmp_path, daemon, "run", "-d", "image")
    assert (code, out, err) == (0, b"abc\n", b"WARNING: mind the gap\n")
    assert [line.rpartition("/")[2] for line in daemon.requests] == ["create", "start"]


def test_a_reader_that_leaves_ends_the_command(tmp_path: Path) -> None:
    import subprocess

    def endless(connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection.sendall(encode(1, b"y\n" * 1000))

    daemon = Daemon(endless, tty=False)
    with serving(tmp_path, daemon.handle) as server:
        process = subprocess.Popen(
            [sys.executable, "-m", "corten", "-H", server.host, "run", "image"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read(2) == b"y\n"
        process.stdout.close()
        assert process.wait(15) == -signal.SIGPIPE
        assert process.stderr.read() == b"WARNING: mind the gap\n"
        process.stderr.close()
