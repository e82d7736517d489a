"""HTTP over a unix socket, byte by byte against a scripted server."""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path

import pytest
from scripted_server import answering, ok, read_request, serving

from corten import errors
from corten.client.api import Api, path_of, query_string, quote
from corten.client.failures import KINDS, failure
from corten.client.transport import Transport, is_listening


def fetch(tmp_path: Path, answer: bytes) -> tuple[int, bytes]:
    with serving(tmp_path, answering(answer)) as server:
        response = Transport(str(server.path)).request("GET", "/x")
        with response:
            return response.status, response.read()


@pytest.mark.parametrize(
    ("answer", "body"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", b"hello"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello and more", b"hello"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b""),
        (b"HTTP/1.1 200 OK\r\n\r\nuntil it closes", b"until it closes"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n1;x=y\r\n!\r\n0\r\n\r\n", b"hello!"),
        (
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: Chunked\r\n\r\nA\r\n0123456789\r\n0\r\nTrailer: x\r\n\r\n",
            b"0123456789",
        ),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", b"ok"),
        (b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok", b"ok"),
    ],
)
def test_bodies(tmp_path: Path, answer: bytes, body: bytes) -> None:
    assert fetch(tmp_path, answer) == (200, body)


@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified"])
def test_answers_without_a_body_do_not_wait_for_one(tmp_path: Path, status: str) -> None:
    released = threading.Event()

    def hold_open(connection: socket.socket, data: bytes) -> None:
        connection.sendall(f"HTTP/1.1 {status}\r\n\r\n".encode())
        assert released.wait(10)

    with serving(tmp_path, hold_open) as server:
        response = Transport(str(server.path)).request("POST", "/x")
        assert response.read() == b""
        response.close()
        released.set()


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nhello",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        b"HTTP/1.1 200",
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"",
    ],
)
def test_broken_answers_are_errors(tmp_path: Path, answer: bytes) -> None:
    with pytest.raises(errors.DataLoss):
        fetch(tmp_path, answer)


def test_pieces_arrive_as_they_are_sent(tmp_path: Path) -> None:
    step = threading.Event()

    def handle(connection: socket.socket, data: bytes) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\none\n\r\n")
        assert step.wait(10)
        connection.sendall(b"3\r\ntwo\r\n6\r\n\nthree\r\n0\r\n\r\n")

    with serving(tmp_path, handle) as server, Transport(str(server.path)).request("GET", "/x") as response:
        lines = response.lines()
        assert next(lines) == b"one"
        step.set()
        assert list(lines) == [b"two", b"three"]


def test_many_small_chunks_are_joined(tmp_path: Path) -> None:
    body = b"".join(b"3\r\nab\n\r\n" for _ in range(50_000)) + b"0\r\n\r\n"
    status, data = fetch(tmp_path, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + body)
    assert (status, len(data)) == (200, 150_000)


def test_bytes_are_sent_with_their_length(tmp_path: Path) -> None:
    seen: list[tuple[str, bytes]] = []

    def handle(connection: socket.socket, data: bytes) -> None:
        seen.append(read_request(connection, data))
        connection.sendall(ok(b"{}"))

    with serving(tmp_path, handle) as server:
        Transport(str(server.path)).request("POST", "/a?b=c", body=b"x" * 3_000_000).close()
        Transport(str(server.path)).request("POST", "/empty").close()
    assert [(line, len(body)) for line, body in seen] == [
        ("POST /a?b=c HTTP/1.1", 3_000_000),
        ("POST /empty HTTP/1.1", 0),
    ]
    assert b"Content-Length: 0\r\n" in server.heads[1]


def test_pieces_are_sent_as_chunks(tmp_path: Path) -> None:
    seen: list[bytes] = []

    def handle(connection: socket.socket, data: bytes) -> None:
        seen.append(read_request(connection, data)[1])
        connection.sendall(ok(b"{}"))

    with serving(tmp_path, handle) as server:
        Transport(str(server.path)).request("PUT", "/a", body=iter([b"one", b"", b"two"])).close()
    assert seen == [b"onetwo"]


def test_answers_during_an_upload_do_not_block_it(tmp_path: Path) -> None:
    """A daemon that reports progress while it reads must not be waited for with a full buffer on both sides."""
    count = 300

    def handle(connection: socket.socket, data: bytes) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        received = len(data.partition(b"\r\n\r\n")[2])
        for _ in range(count):
            connection.sendall(b"10000\r\n" + b"p" * 65536 + b"\r\n")
            received += len(connection.recv(65536))
        while not data.endswith(b"0\r\n\r\n"):
            data = connection.recv(65536)
        connection.sendall(b"0\r\n\r\n")

    with serving(tmp_path, handle) as server:
        response = Transport(str(server.path)).request("POST", "/load", body=(b"x" * 65536 for _ in range(count)))
        assert len(response.read()) == count * 65536


def test_a_refusal_ends_an_upload(tmp_path: Path) -> None:
    sent = 0

    def endless() -> object:
        nonlocal sent
        while True:
            sent += 1
            yield b"x" * 65536

    def refuse(connection: socket.socket, data: bytes) -> None:
        connection.sendall(ok(b'{"message": "no space left on device"}', status="500 Internal Server Error"))
        while connection.recv(1 << 20):
            pass

    with serving(tmp_path, refuse) as server:
        with pytest.raises(errors.SystemFailure, match="no space left on device"):
            Api(server.host).stream("POST", "/images/load", body=endless())
    assert sent < 100_000


def test_a_connection_that_breaks_during_an_upload_gives_the_answer_it_had(tmp_path: Path) -> None:
    def refuse(connection: socket.socket, data: bytes) -> None:
        connection.sendall(ok(b'{"message": "too large"}', status="413 Too Large"))
        connection.shutdown(socket.SHUT_WR)
        connection.recv(65536)

    with serving(tmp_path, refuse) as server, pytest.raises(errors.InvalidParameter, match="too large"):
        Api(server.host).stream("POST", "/x", body=(b"x" * 65536 for _ in range(1000)))


def test_hijacked_connections_carry_bytes_both_ways(tmp_path: Path) -> None:
    def handle(connection: socket.socket, data: bytes) -> None:
        connection.sendall(b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\nearly")
        received = b""
        while piece := connection.recv(4096):
            received += piece
        connection.sendall(b"<" + received + b">")

    with serving(tmp_path, handle) as server, Api(server.host).hijack("/attach", {"stream": True}) as connection:
        assert connection.receive() == b"early"
        assert connection.send_all(b"typed")
        connection.end_input()
        assert b"".join(connection) == b"<typed>"
        assert b"Upgrade: tcp\r\n" in server.heads[0]


def test_a_refused_hijack_is_an_error(tmp_path: Path) -> None:
    answer = ok(b'{"message": "No such container: x"}', status="404 Not Found")
    with serving(tmp_path, answering(answer)) as server, pytest.raises(errors.NotFound) as caught:
        Api(server.host).hijack("/containers/x/attach")
    assert caught.value.context["status"] == 404


def test_nobody_listens(tmp_path: Path) -> None:
    path = tmp_path / "nobody.sock"
    with pytest.raises(errors.Unavailable, match="Cannot connect to the Corten daemon at unix://"):
        Transport(str(path)).request("GET", "/_ping")
    assert not is_listening(str(path))
    left_behind = socket.socket(socket.AF_UNIX)
    left_behind.bind(str(path))
    left_behind.close()
    assert not is_listening(str(path))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may open every socket")
def test_a_forbidden_socket(tmp_path: Path) -> None:
    with serving(tmp_path, answering(ok(b"{}"))) as server:
        server.path.chmod(0)
        with pytest.raises(errors.Forbidden, match="permission denied"):
            Transport(str(server.path)).request("GET", "/_ping")


def test_every_status_has_one_kind() -> None:
    for status, kind in KINDS.items():
        error = failure(status, "", b'{"message": "m"}')
        assert type(error) is kind
        assert str(error) == "m"
    assert type(failure(500, "", b"{}")) is errors.SystemFailure
    assert type(failure(418, "", b"{}")) is errors.InvalidParameter


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b'{"message":"No such image: x"}\n', "No such image: x"),
        (b"404 page not found\n", "404 page not found"),
        (b"", "request returned 500 Internal Server Error"),
        (b"[1]", "request returned 500 Internal Server Error"),
        (b'{"message": 5}', "request returned 500 Internal Server Error"),
        (b"x" * 5000, "request returned 500 Internal Server Error"),
    ],
)
def test_messages(body: bytes, text: str) -> None:
    assert str(failure(500, "Internal Server Error", body)) == text


def test_not_modified_is_no_error(tmp_path: Path) -> None:
    with serving(tmp_path, answering(b"HTTP/1.1 304 Not Modified\r\n\r\n")) as server:
        assert Api(server.host).post("/containers/x/start") is None


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ({}, ""),
        ({"a": None}, ""),
        ({"all": True, "size": False}, "?all=1&size=0"),
        ({"filters": {"label": ["a=b"]}}, "?filters=%7B%22label%22%3A%20%5B%22a%3Db%22%5D%7D"),
        ({"filters": {}}, ""),
        ({"names": ["a:1", "b/c"]}, "?names=a%3A1&names=b%2Fc"),
        ({"t": 0}, "?t=0"),
        ({"name": "ä&b"}, "?name=%C3%A4%26b"),
    ],
)
def test_query_strings(query: dict, text: str) -> None:
    assert query_string(query) == text


def test_names_cannot_leave_their_place_in_a_path() -> None:
    assert path_of("/containers/", "a?b#c d", "/json") == "/containers/a%3Fb%23c%20d/json"
    assert path_of("/images/", "host:5000/a/b@sha256:0", "/json") == "/images/host:5000/a/b@sha256:0/json"
    assert quote("\udcff") == "%FF"


@pytest.mark.parametrize(
    "host", ["tcp://localhost:port", "tcp://a/b", "tcp://::1:1", "unix://relative", "relative", "npipe:////./pipe/x"]
)
def test_bad_hosts(host: str) -> None:
    with pytest.raises(errors.InvalidParameter, match="invalid host"):
        Api(host)


def test_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///docker")
    monkeypatch.delenv("CORTEN_HOST", raising=False)
    assert Api().host != "unix:///docker"
    monkeypatch.setenv("CORTEN_HOST", "unix:///corten")
    assert Api().transport.path == "/corten"
    assert Api("/path").transport.path == "/path"
