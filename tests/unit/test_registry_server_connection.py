"""Connections of ``corten registry serve``: bounds, bad HTTP, TLS, counting."""

from __future__ import annotations

import contextlib
import http.client
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from registry_server_place import Client, Place, served, sha256

from certificates import HAS_OPENSSL, make_certificates
from corten.errors import InvalidParameter
from corten.registry.server.accesslog import AccessLog
from corten.tls import client_context, trust

LAYER = b"0123456789" * 100_000


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with served(tmp_path / "registry") as place:
        yield place


def said(place: Place, request: bytes, *, port: int = 0) -> bytes:
    """Everything that is answered to these bytes, until the server closes."""
    with socket.create_connection(("127.0.0.1", port or place.port), timeout=20) as sock:
        sock.sendall(request)
        return b"".join(iter(lambda: sock.recv(65536), b""))


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00", 400),  # the beginning of TLS
        (b"GET /v2/ HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n", 400),
        (b"GET /v2/ HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (b"PUT /v2/a/manifests/x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n", 400),
        (b"PUT /v2/a/manifests/x HTTP/1.1\r\nHost: x\r\nExpect: magic\r\nContent-Length: 1\r\n\r\n", 417),
        (b"GET /v2/ HTTP/3.0\r\nHost: x\r\n\r\n", 400),
        (b"GET /v2/%zz/tags/list HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 400),
        (b"GET /v2/?" + b"x" * 40_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 431),
        (b"GET /v2/ HTTP/1.1\r\n" + b"A: b\r\n" * 10_000, 431),
    ],
)
def test_requests_that_are_none(place: Place, request_: bytes, status: int) -> None:
    answer = said(place, request_)
    assert answer.startswith(b"HTTP/1.1 %d " % status), answer[:200]
    assert b'{"errors":[' in answer


def test_a_malformed_chunk_ends_the_connection(place: Place) -> None:
    client = place.client()
    location = client("POST", "/v2/a/blobs/uploads/", b"").headers["location"]
    request = f"PATCH {location} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    assert b" 400 " in said(place, request + b"zz\r\nxx\r\n")[:20]
    assert client("GET", location).status == 204
    client.close()


def test_many_requests_at_once(place: Place) -> None:
    client = place.client()
    client.push_manifest("a", "1")
    request = b"GET /v2/a/manifests/1 HTTP/1.1\r\nHost: x\r\n\r\n"
    answer = said(place, request * 200 + request.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
    assert answer.count(b"HTTP/1.1 200 OK") == 201
    client.close()


def test_who_does_not_read_gets_no_further_answers(place: Place) -> None:
    client = place.client()
    client.push_manifest("a", "1", annotations={"note": "x" * 100_000})
    request = b"GET /v2/a/manifests/1 HTTP/1.1\r\nHost: x\r\n\r\n"
    with socket.create_connection(("127.0.0.1", place.port), timeout=20) as sock:
        sock.sendall(request)
        sock.recv(10)  # from now on the answer is remembered
        sock.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            for _ in range(2000):
                sock.send(request * 10)
        name = "{}:{}".format(*sock.getsockname())
        (other,) = [item for item in place.service._connections if item.peer == name]
        for _ in range(20):  # the server has its turns
            client("GET", "/v2/")
            assert other._transport.get_write_buffer_size() < 1_000_000
        # and goes on with who reads again
        sock.settimeout(20)
        received = 0
        while received < 30_000_000:
            received += len(sock.recv(1 << 20))
    client.close()


def test_http_1_0(place: Place) -> None:
    assert said(place, b"GET /v2/ HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 200")
    kept = said(
        place, b"GET /v2/ HTTP/1.0\r\nConnection: keep-alive\r\n\r\nGET /v2/ HTTP/1.1\r\nConnection: close\r\n\r\n"
    )
    assert kept.count(b"HTTP/1.1 200") == 2
    assert b"Connection: keep-alive\r\n" in kept


def test_expect_continue(place: Place) -> None:
    digest = sha256(b"hello")
    head = f"POST /v2/a/blobs/uploads/?digest={digest} HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n"
    with socket.create_connection(("127.0.0.1", place.port), timeout=20) as sock:
        sock.sendall(f"{head}Expect: 100-continue\r\n\r\n".encode())
        assert sock.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        sock.sendall(b"hello")
        assert sock.recv(100).startswith(b"HTTP/1.1 201")


def test_a_body_that_nobody_wants_is_not_waited_for(tmp_path: Path) -> None:
    with served(tmp_path / "registry", read_only=True) as place:
        head = b"POST /v2/a/blobs/uploads/ HTTP/1.1\r\nHost: x\r\nContent-Length: 100000000\r\n\r\n"
        answer = said(place, head + b"x" * 1000)
        assert answer.startswith(b"HTTP/1.1 405")
        assert b"Connection: close" in answer
        # a small one is dropped, and the connection stays
        small = b"POST /v2/a/blobs/uploads/ HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n" + b"x" * 1000
        assert said(place, small + b"GET /v2/ HTTP/1.1\r\nConnection: close\r\n\r\n").count(b"HTTP/1.1 ") == 2


@pytest.mark.parametrize(
    "beginning",
    [b"", b"GET /v2/ HT", b"POST /v2/a/blobs/uploads/?digest=%s HTTP/1.1\r\nContent-Length: 9\r\n\r\nx"],
)
def test_clients_that_stop_talking_are_cut(tmp_path: Path, beginning: bytes) -> None:
    beginning = beginning.replace(b"%s", sha256(b"x").encode())
    limits = {"header_timeout_s": 0.01, "body_timeout_s": 0.01, "idle_timeout_s": 0.01}
    with (
        served(tmp_path / "registry", limits=limits) as place,
        socket.create_connection(("127.0.0.1", place.port), timeout=20) as sock,
    ):
        sock.sendall(beginning)
        with contextlib.suppress(ConnectionResetError):
            assert sock.recv(1000) == b""
    assert not any((tmp_path / "registry").rglob("blobs/*/*/*/data"))


def test_a_client_that_does_not_read_is_cut(tmp_path: Path) -> None:
    with served(tmp_path / "registry", limits={"body_timeout_s": 0.2}) as place:
        client = place.client()
        large = LAYER * 30
        digest = client.push_blob("a", large)
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.connect(("127.0.0.1", place.port))
            sock.sendall(f"GET /v2/a/blobs/{digest} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            number = 'corten_registry_requests_total{kind="blobs",method="GET",code="2xx"} '
            counter = Client(place.metrics_port)
            while number not in counter("GET", "/metrics").body.decode():
                pass
            counter.close()
        client.close()


def test_too_many_clients(tmp_path: Path) -> None:
    with served(tmp_path / "registry", limits={"connections": 2}) as place:
        first = [place.client() for _ in range(2)]
        assert [client("GET", "/v2/").status for client in first] == [200, 200]
        answer = said(place, b"")
        assert answer.startswith(b"HTTP/1.1 503")
        for client in first:
            client.close()


@pytest.mark.skipif(not HAS_OPENSSL, reason="openssl makes the certificates")
def test_tls(tmp_path: Path) -> None:
    made = make_certificates(tmp_path / "tls")
    with served(tmp_path / "registry", tls=(made / "server-cert.pem", made / "server-key.pem")) as place:
        context = client_context(system=False)
        trust(context, made / "ca.pem")
        client = place.client()
        client.connection = http.client.HTTPSConnection("localhost", place.port, context=context, timeout=30)
        digest = client.push_blob("a", LAYER * 5)
        assert client("GET", f"/v2/a/blobs/{digest}").body == LAYER * 5
        assert client("GET", f"/v2/a/blobs/{digest}", Range="bytes=1000000-").body == (LAYER * 5)[1_000_000:]
        client.close()


# -- counting ---------------------------------------------------------------------------------------------------------


def test_metrics(place: Place) -> None:
    client = place.client()
    digest = client.push_manifest("a", "1", layers=(LAYER,))
    for _ in range(4):
        client("GET", "/v2/a/manifests/1")
    client("GET", f"/v2/a/blobs/{sha256(LAYER)}")
    client("GET", f"/v2/a/manifests/{digest[:-1]}0")
    counter = Client(place.metrics_port)
    answer = counter("GET", "/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    lines = answer.body.decode().splitlines()
    values = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    assert values['corten_registry_requests_total{kind="manifests",method="PUT",code="2xx"}'] == "1"
    assert values['corten_registry_requests_total{kind="manifests",method="GET",code="2xx"}'] == "1"
    assert values['corten_registry_requests_total{kind="manifests",method="GET",code="4xx"}'] == "1"
    assert values["corten_registry_known_answers_total"] == "3"
    assert int(values["corten_registry_sent_bytes_total"]) > len(LAYER)
    assert int(values["corten_registry_received_bytes_total"]) > len(LAYER)
    assert values["corten_registry_connections"] == "1"
    assert values['corten_registry_request_seconds_count{kind="blobs"}'] == "1"
    kinds = [line.split(" ")[2] for line in lines if line.startswith("# TYPE")]
    assert len(kinds) == len(set(kinds))
    assert counter("GET", "/v2/").status == 404
    assert client("GET", "/metrics").status == 404
    counter.close()
    client.close()


def test_the_access_log(tmp_path: Path) -> None:
    file = tmp_path / "access.log"
    with served(tmp_path / "registry", access_log=str(file)) as place:
        client = place.client(User_Agent='odd "agent"\xff')
        client.push_manifest("a", "1")
        for _ in range(2):
            client("GET", "/v2/a/manifests/1?x=1")
        client.close()
    lines = file.read_text().splitlines()
    assert len(lines) == 4
    wanted = (
        r"127\.0\.0\.1 - - \[\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d \+0000\] "
        r'"GET /v2/a/manifests/1\?x=1 HTTP/1\.1" 200 \d+ "-" "odd \\x22agent\\x22\\xff" \d+\.\d{6}'
    )
    for line in lines[-2:]:
        assert re.fullmatch(wanted, line), line


def test_a_log_that_was_renamed_is_made_anew(tmp_path: Path) -> None:
    log = AccessLog(str(tmp_path / "log"))
    log.write("127.0.0.1:1", "me", "GET / HTTP/1.1", 200, 1, "agent", 0.1)
    log.flush()
    (tmp_path / "log").rename(tmp_path / "log.1")
    log.write("127.0.0.1:1", "me", "GET /2 HTTP/1.1", 200, 1, "agent", 0.1)
    log.flush()
    assert "GET / " in (tmp_path / "log.1").read_text()
    assert "GET /2 " in (tmp_path / "log").read_text()


def test_a_log_that_cannot_be_made_anew_goes_on_in_the_old_file(tmp_path: Path) -> None:
    name = tmp_path / "log"
    log = AccessLog(str(name))
    name.rename(tmp_path / "log.1")
    name.mkdir()
    for number in range(3):
        log.write("127.0.0.1:1", "me", f"GET /{number} HTTP/1.1", 200, 1, "agent", 0.1)
        log.flush()
    assert (tmp_path / "log.1").read_text().count("GET /") == 3
    name.rmdir()
    log.write("127.0.0.1:1", "me", "GET /new HTTP/1.1", 200, 1, "agent", 0.1)
    log.close()
    assert "GET /new " in name.read_text()


def test_a_log_that_cannot_be_opened_stops_nothing(tmp_path: Path) -> None:
    name = tmp_path / "log"
    name.mkdir()
    with pytest.raises(InvalidParameter, match="cannot write"):
        AccessLog.check(str(name))
    log = AccessLog(str(name))
    log.write("127.0.0.1:1", "me", "GET /lost HTTP/1.1", 200, 1, "agent", 0.1)
    log.flush()
    name.rmdir()
    log.write("127.0.0.1:1", "me", "GET /kept HTTP/1.1", 200, 1, "agent", 0.1)
    log.close()
    assert "GET /kept " in name.read_text()
