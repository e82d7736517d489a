"""Streams of a real container: attach, replay, web socket, the end of input, detach keys, resize, many clients."""

from __future__ import annotations

import base64
import json
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

import pytest

from daemons import ApiConnection, Daemon

pytestmark = [pytest.mark.needs("docker", "busybox")]

CAT = {"Image": "busybox", "Cmd": ["cat"], "OpenStdin": True, "HostConfig": {"NetworkMode": "none"}}
EVERYTHING = "stream=1&stdin=1&stdout=1&stderr=1"


def ask(daemon: Daemon, method: str, path: str, body: Any = None) -> Any:
    status, answer = daemon.request(method, path, body)
    assert status < 300, answer
    return json.loads(answer) if answer else None


def run(daemon: Daemon, *, start: bool = True, **more: Any) -> str:
    identifier = ask(daemon, "POST", "/containers/create", {**CAT, **more})["Id"]
    if start:
        ask(daemon, "POST", f"/containers/{identifier}/start")
    return identifier


class Stream:
    """A hijacked connection, read as frames or raw."""

    def __init__(self, daemon: Daemon, path: str, body: Any = None, headers: str = "Upgrade: tcp") -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(20)
        self.sock.connect(str(daemon.socket))
        data = json.dumps(body).encode() if body is not None else b""
        lines = [f"POST {path} HTTP/1.1", "Host: docker", "Content-Type: application/json"]
        lines += ["Connection: Upgrade", headers] if headers else []
        self.sock.sendall("\r\n".join([*lines, f"Content-Length: {len(data)}", "", ""]).encode() + data)
        self._data = b""
        while b"\r\n\r\n" not in self._data:
            self._data += self._receive()
        self.head, _, self._data = self._data.partition(b"\r\n\r\n")

    def _receive(self) -> bytes:
        piece = self.sock.recv(65536)
        assert piece, f"the stream ended after {self._data!r}"
        return piece

    def read(self, size: int) -> bytes:
        while len(self._data) < size:
            self._data += self._receive()
        found, self._data = self._data[:size], self._data[size:]
        return found

    def until(self, text: bytes) -> bytes:
        while text not in self._data:
            self._data += self._receive()
        found, _, self._data = self._data.partition(text)
        return found + text

    def frame(self) -> tuple[int, bytes]:
        kind, size = struct.unpack(">BxxxL", self.read(8))
        return kind, self.read(size)

    def frames(self, size: int) -> dict[int, bytes]:
        """Bytes of all streams together, by stream."""
        found = {1: b"", 2: b""}
        while len(found[1]) + len(found[2]) < size:
            kind, data = self.frame()
            found[kind] += data
        return found

    def rest(self) -> bytes:
        while piece := self.sock.recv(65536):
            self._data += piece
        return self._data


@contextmanager
def stream(daemon: Daemon, path: str, **options: Any) -> Iterator[Stream]:
    opened = Stream(daemon, path, **options)
    try:
        yield opened
    finally:
        opened.sock.close()


def exit_code(daemon: Daemon, identifier: str) -> int:
    return ask(daemon, "POST", f"/containers/{identifier}/wait")["StatusCode"]


@pytest.mark.parametrize(("headers", "status"), [("Upgrade: tcp", b"101"), ("", b"200")])
def test_the_end_of_input_is_passed_on_and_output_still_comes(daemon: Daemon, headers: str, status: bytes) -> None:
    box = run(daemon, start=False, Cmd=["sh", "-c", "cat; echo done; echo bad >&2; exit 3"], StdinOnce=True)
    with stream(daemon, f"/containers/{box}/attach?{EVERYTHING}", headers=headers) as attached:
        assert attached.head.split()[1] == status
        ask(daemon, "POST", f"/containers/{box}/start")
        attached.sock.sendall(b"in\n")
        attached.sock.shutdown(socket.SHUT_WR)
        assert attached.frames(11) == {1: b"in\ndone\n", 2: b"bad\n"}
        assert attached.rest() == b""
    assert exit_code(daemon, box) == 3


@pytest.mark.parametrize("once", [True, False])
def test_input_ends_with_its_first_client_or_stays(daemon: Daemon, once: bool) -> None:
    box = run(daemon, StdinOnce=once)
    with stream(daemon, f"/containers/{box}/attach?{EVERYTHING}") as first:
        first.sock.sendall(b"first\n")
        assert first.frame() == (1, b"first\n")
    if once:
        assert exit_code(daemon, box) == 0
        return
    with stream(daemon, f"/containers/{box}/attach?{EVERYTHING}&logs=1") as second:
        assert second.frame() == (1, b"first\n")  # what was said before
        second.sock.sendall(b"second\n")
        assert second.frame() == (1, b"second\n")


def test_all_clients_see_all_output_and_one_that_vanishes_harms_nobody(daemon: Daemon) -> None:
    box = run(daemon)
    path = f"/containers/{box}/attach?{EVERYTHING}"
    with stream(daemon, path) as one, stream(daemon, path) as other:
        gone = Stream(daemon, path)
        gone.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        gone.sock.close()
        for number in range(100):
            (one, other)[number % 2].sock.sendall(b"%d\n" % number)
            for each in (one, other):
                assert each.frame() == (1, b"%d\n" % number)


def test_a_client_that_does_not_read_holds_back_what_it_has_to_and_loses_nothing(daemon: Daemon) -> None:
    box = run(daemon, start=False, Cmd=["sh", "-c", "head -c 3000000 /dev/zero; echo end"], OpenStdin=False)
    with stream(daemon, f"/containers/{box}/attach?stream=1&stdout=1") as attached:
        ask(daemon, "POST", f"/containers/{box}/start")
        found = b""
        while not found.endswith(b"end\n"):
            found += attached.frame()[1]
    assert found == b"\0" * 3_000_000 + b"end\n"


def test_a_slow_client_of_a_log_without_blocking_holds_nobody(daemon: Daemon) -> None:
    log = {"Type": "json-file", "Config": {"mode": "non-blocking", "max-buffer-size": "100k"}}
    host = {"NetworkMode": "none", "LogConfig": log}
    box = run(daemon, start=False, Cmd=["sh", "-c", "yes | head -c 3000000"], OpenStdin=False, HostConfig=host)
    with stream(daemon, f"/containers/{box}/attach?stream=1&stdout=1"):
        ask(daemon, "POST", f"/containers/{box}/start")
        assert exit_code(daemon, box) == 0


def test_a_terminal_is_raw_sized_and_let_go_of_by_keys(daemon: Daemon) -> None:
    box = run(daemon, Cmd=["sh", "-c", "while read line; do stty size; done"], Tty=True)
    with stream(daemon, f"/containers/{box}/attach?{EVERYTHING}&detachKeys=ctrl-a,x") as attached:
        assert b"application/vnd.docker.raw-stream" in attached.head
        ask(daemon, "POST", f"/containers/{box}/resize?h=33&w=77")
        attached.sock.sendall(b"\n")
        assert attached.until(b"33 77\r\n").startswith(b"\r\n")
        attached.sock.sendall(b"\x01x")
        assert attached.rest() == b""
    assert ask(daemon, "GET", f"/containers/{box}/json")["State"]["Running"] is True
    wanted = quote(json.dumps({"container": [box], "event": ["detach"]}))
    connection = ApiConnection(daemon.socket)
    connection.request("GET", f"/events?since=0&filters={wanted}")  # it has come, or comes
    assert json.loads(connection.getresponse().readline())["Action"] == "detach"
    connection.close()


def test_an_exec_has_the_same_streams(daemon: Daemon) -> None:
    box = run(daemon)
    wanted = {"Cmd": ["sh", "-c", "cat; echo bad >&2; exit 4"], "AttachStdin": True, "AttachStdout": True}
    made = ask(daemon, "POST", f"/containers/{box}/exec", {**wanted, "AttachStderr": True})["Id"]
    with stream(daemon, f"/exec/{made}/start", body={"Detach": False, "Tty": False}) as started:
        started.sock.sendall(b"x" * 1_000_000)
        started.sock.shutdown(socket.SHUT_WR)
        assert started.frames(1_000_004) == {1: b"x" * 1_000_000, 2: b"bad\n"}
        assert started.rest() == b""
    assert ask(daemon, "GET", f"/exec/{made}/json")["ExitCode"] == 4


def test_a_web_socket_carries_the_stream(daemon: Daemon) -> None:
    box = run(daemon, Tty=True)
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(20)
    sock.connect(str(daemon.socket))
    with sock:
        key = base64.b64encode(os.urandom(16)).decode()
        sock.sendall(
            f"GET /containers/{box}/attach/ws?{EVERYTHING} HTTP/1.1\r\nHost: docker\r\nConnection: Upgrade\r\n"
            f"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode()
        )
        data = b""
        while b"\r\n\r\n" not in data:
            data += sock.recv(4096)
        head, _, data = data.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 ")
        mask, text = b"mask", b"over a socket\n"
        hidden = bytes(byte ^ mask[place % 4] for place, byte in enumerate(text))
        sock.sendall(bytes((0x82, 0x80 | len(text))) + mask + hidden)
        while data.count(b"over a socket") < 2:  # the terminal's echo, and the program's answer
            piece = sock.recv(4096)
            assert piece
            data += piece
        assert data[0] & 0x8F in (0x81, 0x82)


@pytest.mark.parametrize("follow", [0, 1])
def test_logs_of_both_streams_and_of_one(daemon: Daemon, follow: int) -> None:
    box = run(daemon, Cmd=["sh", "-c", "echo out; echo err >&2"], OpenStdin=False)
    exit_code(daemon, box)
    found = {}
    for query in ("stdout=1", "stderr=1"):
        answer = daemon.request("GET", f"/containers/{box}/logs?follow={follow}&{query}")[1]
        found[query] = (answer[0], answer[8:])
    assert found == {"stdout=1": (1, b"out\n"), "stderr=1": (2, b"err\n")}
    assert daemon.request("GET", f"/containers/{box}/logs")[0] == 400
