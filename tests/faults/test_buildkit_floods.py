"""Floods of HTTP/2 on /grpc and /session: others have their answers, and what is taken is bounded and given back.

Source: RFC 9113, section 10.5 (denial of service); CVE-2019-9511 to 9518 (windows, PING, reset, SETTINGS, empty
frames), CVE-2023-44487 (rapid reset), CVE-2024-24549 and others (CONTINUATION), RFC 7541, section 7.3 (headers).
"""

from __future__ import annotations

import contextlib
import socket
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from corten.grpc.framing import prefix
from daemons import Daemon
from waiting import until

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
MEGABYTE = 1 << 20
FLOOD_S = 2.0
GROWTH = 350 * MEGABYTE  # of the daemon's memory in the worst moment of any flood: all that may be held is 192 MB
DATA, HEADERS, RESET, SETTINGS, PING, WINDOW, CONTINUATION = 0, 1, 3, 4, 6, 8, 9
END_STREAM, END_HEADERS = 1, 4


def frame(kind: int, stream: int = 0, payload: bytes = b"", flags: int = 0) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def literal(text: str) -> bytes:
    return bytes([len(text)]) + text.encode()  # shorter than 127


def request_head(path: str) -> bytes:
    """POST http, as gRPC, nothing indexed (RFC 7541, section 6.2.2): the same bytes on every stream."""
    fields = b"\x83\x86\x01" + literal("x") + b"\x04" + literal(path)
    return fields + b"\x0f\x10" + literal("application/grpc")


INFO, SOLVE = "/moby.buildkit.v1.Control/Info", "/moby.buildkit.v1.Control/Solve"


class Attacker:
    """One upgraded connection, and what it has sent."""

    def __init__(self, daemon: Daemon, target: str = "/grpc", *, settings: bytes = b"", reads: bool = True) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(5)
        self.sock.connect(str(daemon.socket))
        lines = [f"POST {target} HTTP/1.1", "Host: x", "Connection: Upgrade", "Upgrade: h2c"]
        lines.append("X-Docker-Expose-Session-Uuid: flood")
        self.sock.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
        assert self.sock.recv(1 << 16).startswith(b"HTTP/1.1 101")
        self.is_cut_off = False
        if reads:
            threading.Thread(target=self._read, daemon=True).start()
        self.send(PREFACE * (target == "/grpc") + frame(SETTINGS, payload=settings))

    def _read(self) -> None:
        with contextlib.suppress(OSError):
            while self.sock.recv(1 << 18):
                pass
        self.is_cut_off = True

    def send(self, data: bytes) -> None:
        try:
            self.sock.sendall(data)
        except TimeoutError:
            pass  # the daemon reads no more: as good an answer as any
        except OSError:
            self.is_cut_off = True

    def for_a_while(self, data: Callable[[], bytes]) -> None:
        deadline = time.monotonic() + FLOOD_S
        while time.monotonic() < deadline and not self.is_cut_off:
            self.send(data())

    def close(self) -> None:
        self.sock.close()


# -- floods -----------------------------------------------------------------------------------------------------------


class Numbers:
    """Streams of a client: odd numbers."""

    def __init__(self) -> None:
        self.last = -1

    def __call__(self) -> int:
        self.last += 2
        return self.last


def rapid_reset(daemon: Daemon) -> Attacker:
    made, numbers, head = Attacker(daemon), Numbers(), request_head(SOLVE)

    def some() -> bytes:
        return b"".join(
            frame(HEADERS, number, head, END_HEADERS) + frame(RESET, number, b"\0\0\0\x08")
            for number in (numbers() for _ in range(500))
        )

    made.for_a_while(some)
    return made


def many_streams(daemon: Daemon) -> Attacker:
    made, numbers, head = Attacker(daemon), Numbers(), request_head(SOLVE)
    made.for_a_while(lambda: b"".join(frame(HEADERS, numbers(), head, END_HEADERS) for _ in range(500)))
    return made


def headers_without_end(daemon: Daemon) -> Attacker:
    made = Attacker(daemon)
    made.send(frame(HEADERS, 1, request_head(INFO)))
    field = b"\x00" + literal("x" * 100) + literal("y" * 100)
    made.for_a_while(lambda: frame(CONTINUATION, 1, field * 80) * 10)
    assert made.is_cut_off
    return made


def empty_continuations(daemon: Daemon) -> Attacker:
    made = Attacker(daemon)
    made.send(frame(HEADERS, 1, request_head(INFO)))
    made.for_a_while(lambda: frame(CONTINUATION, 1) * 1000)
    assert made.is_cut_off
    return made


def huge_headers(daemon: Daemon) -> Attacker:
    """A small block that becomes a large list: one field of the dynamic table, many times (RFC 7541, section 7.3)."""
    made, numbers = Attacker(daemon), Numbers()
    entry = b"\x40" + literal("x") + b"\x7f\xa1\x1e" + b"y" * 4000  # literal with incremental indexing, 4,000 bytes
    bomb = request_head(INFO) + entry + b"\xbe" * 16_000
    made.for_a_while(lambda: frame(HEADERS, numbers(), bomb, END_HEADERS))
    assert made.is_cut_off
    return made


def settings_and_pings(daemon: Daemon) -> Attacker:
    made = Attacker(daemon, reads=False)
    made.for_a_while(lambda: (frame(SETTINGS, payload=b"\0\4\0\0\xff\xff") + frame(PING, payload=bytes(8))) * 500)
    return made


def tiny_windows(daemon: Daemon) -> Attacker:
    """Answers that nobody lets go, one byte at a time for those who ask."""
    made, numbers, head = Attacker(daemon, settings=b"\0\4\0\0\0\0"), Numbers(), request_head(INFO)
    for _ in range(256):
        number = numbers()
        made.send(frame(HEADERS, number, head, END_HEADERS) + frame(DATA, number, prefix(0), END_STREAM))
    made.for_a_while(lambda: b"".join(frame(WINDOW, number, b"\0\0\0\1") for number in range(1, 512, 2)))
    return made


def empty_frames(daemon: Daemon) -> Attacker:
    made = Attacker(daemon)
    made.send(frame(HEADERS, 1, request_head(SOLVE), END_HEADERS))
    made.for_a_while(lambda: frame(DATA, 1) * 2000)
    return made


def data_without_end(daemon: Daemon) -> Attacker:
    """As many connections as it takes, each within its own limits, with messages that never become complete."""
    others = [Attacker(daemon) for _ in range(7)]
    head, piece = request_head(SOLVE), bytes(16_384)
    last = Attacker(daemon)
    deadline = time.monotonic() + FLOOD_S
    for made in (*others, last):
        made.sock.settimeout(1)
        for number in range(1, 63, 2):
            made.send(frame(HEADERS, number, head, END_HEADERS) + frame(DATA, number, prefix(15 << 20)))
    for _ in range(250):  # 4 MB of each call
        for made in (*others, last):
            if not made.is_cut_off and time.monotonic() < deadline + 10:
                made.send(b"".join(frame(DATA, number, piece) for number in range(1, 63, 2)))
    for made in others:
        made.close()
    return last


def silent_calls_of_a_session(daemon: Daemon) -> Attacker:
    """The client serves here: what it sends without being asked is against the protocol."""
    made = Attacker(daemon, "/session")
    made.for_a_while(lambda: frame(DATA, 1, bytes(16_384)) * 10)
    assert made.is_cut_off
    return made


FLOODS = (
    rapid_reset, many_streams, headers_without_end, empty_continuations, huge_headers, settings_and_pings,
    tiny_windows, empty_frames, data_without_end, silent_calls_of_a_session,
)  # fmt: skip


# -- what others see --------------------------------------------------------------------------------------------------


class Watch:
    """Asks the daemon from the beginning of the block to its end, and looks at its memory."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self.latencies: list[float] = []
        self.most = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._ask)

    def __enter__(self) -> Watch:
        self.before = resident(self._daemon)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _ask(self) -> None:
        while not self._over.is_set():
            began = time.monotonic()
            assert self._daemon.request("GET", "/_ping")[0] == 200
            self.latencies.append(time.monotonic() - began)
            self.most = max(self.most, resident(self._daemon))
            time.sleep(0.02)


def resident(daemon: Daemon) -> int:
    """Bytes of memory that the daemon has."""
    assert daemon.process is not None
    for line in Path(f"/proc/{daemon.process.pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) << 10
    raise AssertionError("the daemon has gone")


@pytest.fixture
def known(daemon: Daemon) -> Iterator[set[str]]:
    """What the daemon holds when it has spoken gRPC before."""
    Attacker(daemon).close()
    time.sleep(0.2)
    held = daemon.state()["descriptors"]
    yield held
    until(lambda: not daemon.state()["descriptors"] - held)


@pytest.mark.parametrize("flood", FLOODS, ids=lambda flood: flood.__name__)
def test_a_flood_is_withstood(daemon: Daemon, known: set[str], flood: Callable[[Daemon], Attacker]) -> None:
    with Watch(daemon) as watch:
        for _ in range(2):  # what the first one took is there again for the second
            flood(daemon).close()
    slowest, usual = max(watch.latencies), statistics.median(watch.latencies)
    assert watch.most - watch.before < GROWTH
    assert usual < 0.25
    assert slowest < 2
    # and who speaks properly is served at once
    made = Attacker(daemon, reads=False)
    made.send(frame(HEADERS, 1, request_head(INFO), END_HEADERS) + frame(DATA, 1, prefix(0), END_STREAM))
    answer = b""
    while b"grpc-status" not in answer and b"corten" not in answer:
        answer += made.sock.recv(1 << 16)
    made.close()
    assert "Traceback" not in daemon.log.read_text()
