"""HTTP/1.1 over a real unix socket, byte by byte."""

import hashlib
import os
import re
import socket
import time

import pytest
from api_fakes import ApiServer, flood

from corten.api.http.messages import Limits
from waiting import until

TARGET = "/containers/web/archive?path=/in"


@pytest.fixture(scope="module")
def shared():
    with ApiServer() as server:
        yield server


@pytest.fixture
def server():
    with ApiServer() as fresh:
        yield fresh


@pytest.fixture
def client(shared):
    with shared.connect() as client:
        yield client


def uploaded(server):
    return [args for name, args, _ in server.engine.calls.seen if name == "archive_put"][-1]


# -- ordinary requests ------------------------------------------------------------------------------------------------


def test_ping_has_the_headers_that_clients_negotiate_with(client):
    answer = client.ask("GET", "/_ping")
    assert (answer.status, answer.body) == (200, b"OK")
    assert answer.headers["api-version"] == "1.56"
    assert answer.headers["docker-experimental"] == "false"
    assert answer.headers["ostype"] == "linux"
    assert answer.headers["builder-version"] == "2"
    assert re.fullmatch(r"Corten/\S+ \(linux\)", answer.headers["server"])
    assert answer.headers["cache-control"] == "no-cache, no-store, must-revalidate"
    assert answer.headers["pragma"] == "no-cache"
    assert re.fullmatch(r"\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT", answer.headers["date"])


def test_the_head_of_a_ping_says_that_there_is_no_body(client):
    client.request("HEAD", "/_ping")
    status, headers = client.read_head()
    assert (status, headers["content-length"]) == (200, "0")
    assert client.ask("GET", "/_ping").body == b"OK"  # no stray byte in between


def test_a_connection_serves_many_requests(client):
    for _ in range(50):
        assert client.ask("GET", "/_ping").status == 200


def test_connection_close_is_honoured(client):
    client.request("GET", "/_ping", headers={"Connection": "close"})
    assert client.read_answer().headers["connection"] == "close"
    assert client.receive() == b""


def test_http_1_0_closes_and_streams_without_chunks(shared):
    with shared.connect() as client:
        client.send(b"GET /containers/web/export HTTP/1.0\r\n\r\n")
        status, headers = client.read_head()
        assert status == 200
        assert "transfer-encoding" not in headers
        assert client.read_all() == b"tar" * 800_000


def test_http_1_0_keep_alive(client):
    client.send(b"GET /_ping HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    assert client.read_answer().body == b"OK"
    assert client.ask("GET", "/_ping").body == b"OK"


def test_pipelined_requests_are_answered_in_order(client):
    paths = ["/_ping", "/containers/web/json", "/containers/nope/json", "/_ping", "/volumes"] * 40
    client.send(b"".join(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode() for path in paths))
    statuses = [client.read_answer().status for _ in paths]
    assert statuses == [200, 200, 404, 200, 200] * 40


def test_pipelined_requests_with_bodies(shared, client):
    body = b"x" * 5000
    put = f"PUT {TARGET} HTTP/1.1\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
    chunked = f"PUT {TARGET} HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n".encode() + b"3\r\nabc\r\n0\r\n\r\n"
    client.send((put + chunked + b"GET /_ping HTTP/1.1\r\n\r\n") * 3)
    assert [client.read_answer().status for _ in range(9)] == [200] * 9
    assert uploaded(shared)[1:3] == (3, hashlib.sha256(b"abc").hexdigest())


def test_a_client_that_pipelines_and_never_reads_is_held_back(server):
    with server.connect() as client, server.connect() as other:
        client.sock.settimeout(0.5)
        sent = flood(client.sock, b"GET /containers/json HTTP/1.1\r\n\r\n" * 1000, 100_000_000)
        assert other.ask("GET", "/_ping").status == 200
        assert sent < 5_000_000


def test_a_request_that_arrives_byte_by_byte(client):
    for byte in b"GET /_ping HTTP/1.1\r\nHost: docker\r\nX-Long: 1\r\n\r\n":
        client.send(bytes([byte]))
    assert client.read_answer().body == b"OK"


def test_blank_lines_before_a_request_are_skipped(client):
    client.send(b"\r\n\r\nGET /_ping HTTP/1.1\r\n\r\n")
    assert client.read_answer().body == b"OK"


def test_an_absolute_target_means_its_path(client):
    client.send(b"GET http://docker/v1.40/_ping?x=1 HTTP/1.1\r\nHost: docker\r\n\r\n")
    assert client.read_answer().body == b"OK"


# -- malformed and hostile heads --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"GET /_ping HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"GET /_ping HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", 400),
        (b"POST /_ping HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello", 400),
        (b"POST /_ping HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello", 400),
        (b"POST /_ping HTTP/1.1\r\nContent-Length: +5\r\n\r\nhello", 400),
        (b"POST /_ping HTTP/1.1\r\nContent-Length: -5\r\n\r\nhello", 400),
        (b"POST /_ping HTTP/1.1\r\nContent-Length: 5, 5\r\n\r\nhello", 400),
        (b"POST /_ping HTTP/1.1\r\nContent-Length: 0x5\r\n\r\nhello", 400),
        (b"POST /_ping HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n", 400),
        (b"POST /_ping HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
        (b"POST /_ping HTTP/1.1\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n", 400),
        (b"POST /_ping HTTP/1.1\r\nTransfer-Encoding: identity\r\n\r\n", 400),
        (b"POST /_ping HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"POST /_ping HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 501),
        (b"GET /_ping HTTP/1.1\r\nHost : x\r\n\r\n", 400),
        (b"GET /_ping HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", 400),
        (b"GET /_ping HTTP/1.1\r\nHost: x\r\n folded\r\n\r\n", 400),
        (b"GET /_ping HTTP/1.1\r\nHost: a\0b\r\n\r\n", 400),
        (b"GET /_ping\0 HTTP/1.1\r\n\r\n", 400),
        (b"GET /_ping HTTP/1.1\nHost: x\n\n\r\n\r\n", 400),
        (b"GET /_ping HTTP/1.1\r\nA: b\rc\r\n\r\n", 400),
        (b"GET /_ping HTTP/1.1\r\n: x\r\n\r\n", 400),
        (b"GET /_ping HTTP/2.0\r\n\r\n", 505),
        (b"GET /_ping HTTP/3.7\r\n\r\n", 400),
        (b"GET /_ping\r\n\r\n", 505),
        (b"GET _ping HTTP/1.1\r\n\r\n", 400),
        (b"FROB /_ping HTTP/1.1\r\n\r\n", 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        (b"OPTIONS * HTTP/1.1\r\n\r\n", 400),
        (b"CONNECT docker:80 HTTP/1.1\r\n\r\n", 400),
        ("GET /é HTTP/1.1\r\n\r\n".encode(), 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
        (b"GET /_ping HTTP/1.1\r\nExpect: 200-maybe\r\n\r\n", 417),
        (b"\r\n" * 100 + b"GET /_ping HTTP/1.1\r\n\r\n", 400),
    ],
)
def test_what_could_be_read_in_two_ways_is_refused_and_the_connection_closed(shared, raw, status):
    with shared.connect() as client:
        client.send(raw + b"GET /smuggled HTTP/1.1\r\n\r\n")
        answer = client.read_answer()
        assert answer.status == status
        assert answer.message
        assert answer.headers["connection"] == "close"
        assert client.read_all() == b""  # nothing after it was taken for a request


@pytest.mark.parametrize("complete", [True, False])
def test_huge_heads_are_refused(shared, complete):
    with shared.connect() as client:
        client.send(b"GET /_ping HTTP/1.1\r\n" + b"X-Filler: " + b"y" * 70_000 + (b"\r\n\r\n" if complete else b""))
        assert client.read_answer().status == 431
        assert client.read_all() == b""


def test_the_largest_allowed_head_is_served(client):
    client.send(b"GET /_ping HTTP/1.1\r\n" + b"X-Filler: " + b"y" * 60_000 + b"\r\n\r\n")
    assert client.read_answer().status == 200


def test_half_a_head_and_the_end_is_an_error(shared):
    with shared.connect() as client:
        client.send(b"GET /_ping HTT")
        client.end_sending()
        assert client.read_answer().status == 400
        assert client.receive() == b""


def test_slow_heads_time_out(server):
    slow = ApiServer(limits=Limits(header_timeout_s=0.2))
    with slow, slow.connect() as client:
        client.send(b"GET /_ping HTTP/1.1\r\nX-Slow: ")
        assert client.read_answer().status == 408
        assert client.receive() == b""


def test_idle_connections_are_closed():
    with ApiServer(limits=Limits(idle_timeout_s=0.2)) as server, server.connect() as client:
        assert client.ask("GET", "/_ping").status == 200
        assert client.receive() == b""


def test_idle_and_slow_clients_do_not_disturb_others(server):
    clients = [server.connect() for _ in range(300)]
    try:
        for client in clients[::2]:
            client.send(b"GET /_ping HTTP/1.1\r\nX: ")
        with server.connect() as other:
            begin = time.monotonic()
            for _ in range(100):
                assert other.ask("GET", "/_ping").status == 200
            assert time.monotonic() - begin < 2
    finally:
        for client in clients:
            client.sock.close()


# -- bodies -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("piece", [1, 7, 4096])
def test_chunked_bodies_in_any_pieces(shared, piece):
    data = b"0123456789" * (3 if piece == 1 else 2000)
    chunks = [data[at : at + 777] for at in range(0, len(data), 777)]
    raw = f"PUT {TARGET} HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    raw += b"".join(b"%X;ext=1\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\nTrailer: x\r\n\r\n"
    with shared.connect() as client:
        for at in range(0, len(raw), piece):
            client.send(raw[at : at + piece])
        assert client.read_answer().status == 200
        assert uploaded(shared)[1:3] == (len(data), hashlib.sha256(data).hexdigest())
        assert client.ask("GET", "/_ping").status == 200


@pytest.mark.parametrize(
    "body",
    [
        b"xyz\r\n",
        b"-1\r\n",
        b"0x3\r\nabc\r\n0\r\n\r\n",
        b"3\nabc\n0\n\n",
        b"3\r\nabcX\r\n0\r\n\r\n",
        b"3\r\nabc0\r\n\r\n",
        b" 3\r\nabc\r\n0\r\n\r\n",
        b"\r\n",
        b"3" * 20 + b"\r\n",
        b"3;" + b"e" * 2000 + b"\r\nabc\r\n0\r\n\r\n",
        b"0\r\n" + b"T: " + b"x" * 2000 + b"\r\n\r\n",
        b"0\r\n" + b"T: x\r\n" * 10_000 + b"\r\n",
        b"3\r\nabc\r\n0\r\nT: x\n\r\n",
    ],
)
def test_bad_chunking_is_refused(shared, body):
    with shared.connect() as client:
        client.send(f"PUT {TARGET} HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n".encode() + body)
        answer = client.read_answer()
        assert answer.status == 400
        assert answer.headers["connection"] == "close"
        assert client.read_all() == b""


def test_a_body_cut_short_is_an_error_and_not_a_shorter_body(server):
    with server.connect() as client:
        client.send(f"PUT {TARGET} HTTP/1.1\r\nContent-Length: 100\r\n\r\nabc".encode())
        client.end_sending()
        answer = client.read_answer()
        assert answer.status == 400
        assert "unexpected EOF" in answer.message
    assert server.engine.calls.last()[0] == "archive_put_failed"


def test_an_upload_whose_client_vanishes_ends(server):
    with server.connect() as client:
        client.send(f"PUT {TARGET} HTTP/1.1\r\nContent-Length: 100\r\n\r\nabc".encode())
        assert server.engine.containers.entered.wait(5)
    until(lambda: server.server.connections == 0)
    calls = server.engine.calls
    until(lambda: calls.cancelled == ["archive_put"] or calls.last()[0] == "archive_put_failed")


def test_an_upload_that_nobody_reads_is_held_back(server):
    with server.connect() as client:
        client.send(b"PUT /containers/web/archive?path=/slow HTTP/1.1\r\nContent-Length: 50000000\r\n\r\n")
        assert server.engine.containers.entered.wait(5)
        client.sock.settimeout(0.5)
        sent = flood(client.sock, b"z" * 65536, 50_000_000)
        assert sent < 3_000_000
        server.call(server.engine.containers.release.set)
        client.sock.settimeout(10)
        while sent < 50_000_000:
            sent += client.sock.send(b"z" * min(65536, 50_000_000 - sent))
        assert client.read_answer().status == 200
        assert uploaded(server)[1:3] == (50_000_000, hashlib.sha256(b"z" * 50_000_000).hexdigest())


def test_expect_100_continue_is_answered_when_the_body_is_wanted(shared, client):
    client.send(f"PUT {TARGET} HTTP/1.1\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n".encode())
    assert client.read_until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    client.send(b"abc")
    assert client.read_answer().status == 200
    assert client.ask("GET", "/_ping").status == 200


def test_expect_100_continue_is_not_answered_for_a_body_that_nobody_wants(shared):
    with shared.connect() as client:
        client.send(
            b"PUT /containers/nope/archive?path=/ HTTP/1.1\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n"
        )
        answer = client.read_answer()
        assert answer.status == 404
        assert answer.headers["connection"] == "close"
        assert client.read_all() == b""


def test_a_small_unwanted_body_does_not_cost_the_connection(client):
    client.request("PUT", "/containers/nope/archive?path=/", b"x" * 100_000)
    assert client.read_answer().status == 404
    assert client.ask("GET", "/_ping").status == 200


def test_the_answer_to_a_large_unwanted_body_arrives(shared):
    with shared.connect() as client:
        client.send(
            b"PUT /containers/nope/archive?path=/ HTTP/1.1\r\nContent-Length: 100000000\r\n\r\n" + b"x" * 3_000_000
        )
        answer = client.read_answer()
        assert answer.status == 404
        assert answer.headers["connection"] == "close"


def test_json_bodies_have_a_limit(shared):
    with shared.connect() as client:
        client.send(
            b"POST /containers/create HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 5000000\r\n\r\n"
        )
        assert client.read_answer().status == 413


def test_chunked_json_bodies_have_the_same_limit(shared):
    with shared.connect() as client:
        client.send(
            b"POST /containers/create HTTP/1.1\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        chunk = b"100000\r\n" + b" " * 0x100000 + b"\r\n"
        for _ in range(5):
            client.send(chunk)
        assert client.read_answer().status == 413


# -- streams and clients that leave -----------------------------------------------------------------------------------


def test_a_download_waits_for_a_slow_reader(server):
    with server.connect() as client:
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.request("GET", "/containers/web/export")
        answer = client.read_answer()
        assert hashlib.sha256(answer.body).digest() == hashlib.sha256(b"tar" * 800_000).digest()
        assert client.ask("GET", "/_ping").status == 200


def test_wait_sends_its_head_before_there_is_a_result(server):
    with server.connect() as client:
        client.request("POST", "/containers/web/wait?condition=removed")
        status, headers = client.read_head()
        assert (status, headers["content-type"]) == (200, "application/json")
        assert client.buffer == b""
        server.call(server.engine.containers.waiting.set_result, {"StatusCode": 7})
        assert client.read_chunk() == b'{"StatusCode":7}\n'
        assert client.read_chunk() == b""
        assert client.ask("GET", "/_ping").status == 200


def test_a_client_that_leaves_cancels_what_only_it_wanted(server):
    with server.connect() as client:
        client.request("POST", "/containers/web/wait")
        client.read_head()
    until(lambda: server.engine.calls.cancelled == ["wait"])
    until(lambda: server.server.connections == 0)


def test_a_client_that_closed_its_sending_half_is_still_answered(server):
    with server.connect() as client:
        client.request("POST", "/containers/web/wait")
        client.end_sending()
        client.read_head()
        server.call(server.engine.containers.waiting.set_result, {"StatusCode": 7})
        assert client.read_chunk() == b'{"StatusCode":7}\n'


def test_a_half_closed_client_that_leaves_later_is_noticed(server):
    with server.connect() as client:
        client.request("POST", "/containers/web/wait")
        client.end_sending()
        client.read_head()
    until(lambda: server.engine.calls.cancelled == ["wait"])


def test_a_change_is_finished_although_its_client_has_left(server):
    with server.connect() as client:
        client.request("POST", "/containers/web/stop?t=99")
        assert server.engine.containers.entered.wait(5)
    until(lambda: server.server.connections == 0)
    assert server.engine.calls.cancelled == []
    server.call(server.engine.containers.release.set)
    until(lambda: server.engine.calls.finished == ["stop"])


def test_following_logs_ends_with_the_client(server):
    with server.connect() as client:
        client.request("GET", "/containers/web/logs?stdout=1&follow=1")
        client.read_head()
        client.read_chunk()
        assert server.engine.containers.entered.wait(5)
    until(lambda: server.engine.calls.finished == ["logs"])


def test_an_error_within_a_raw_stream_cuts_the_connection(server):
    async def failing(follow):
        yield b"first"
        raise RuntimeError("disk is gone")

    server.engine.containers._log = failing
    with server.connect() as client:
        client.request("GET", "/containers/web/logs?stdout=1")
        client.read_head()
        assert client.read_chunk() == b"first"
        with pytest.raises((EOFError, ConnectionResetError)):
            client.read_chunk()


def test_an_error_within_progress_is_told_in_the_stream(client):
    answer = client.ask("POST", "/images/load", b"x" * 13, {"Content-Type": "application/x-tar"})
    lines = answer.body.decode().split("\r\n")
    assert answer.status == 200
    assert lines[0] == '{"stream":"Loaded 13\\n"}'
    assert lines[1] == '{"errorDetail":{"message":"archive is broken"},"error":"archive is broken"}'
    assert client.ask("GET", "/_ping").status == 200


def test_an_error_before_a_stream_is_an_ordinary_error(client):
    answer = client.ask("POST", "/images/load")
    assert (answer.status, answer.message) == (400, "unexpected EOF")


def test_what_is_unexpected_tells_nothing_but_its_kind(client, caplog):
    answer = client.ask("GET", "/info")
    assert (answer.status, answer.message) == (500, "internal error: RuntimeError")
    assert "secret detail" in caplog.text


# -- the end ----------------------------------------------------------------------------------------------------------


def test_close_finishes_requests_and_cuts_streams():
    with ApiServer() as server:
        with server.connect() as idle, server.connect() as busy, server.connect() as stream:
            idle.ask("GET", "/_ping")
            stream.request("GET", "/events")
            stream.read_head()
            stream.read_chunk()
            busy.request("POST", "/containers/web/stop?t=99")
            assert server.engine.containers.entered.wait(5)
            server.loop.call_soon_threadsafe(server.loop.call_later, 0.2, server.engine.containers.release.set)
            begin = time.monotonic()
            server.run(server.server.close(5))
            assert time.monotonic() - begin < 3
            assert busy.read_answer().status == 204
            assert idle.receive() == b""
            with pytest.raises((EOFError, ConnectionResetError)):
                stream.read_chunk()
        assert not server.path.exists()
        assert server.server.connections == 0


def test_close_does_not_wait_longer_than_its_grace():
    with ApiServer() as server, server.connect() as busy:
        busy.request("POST", "/containers/web/stop?t=99")
        assert server.engine.containers.entered.wait(5)
        begin = time.monotonic()
        server.run(server.server.close(0.2))
        assert time.monotonic() - begin < 2
        assert server.engine.calls.cancelled == ["stop"]


def test_connections_leave_nothing_behind(server):
    with server.connect() as client:
        client.ask("GET", "/_ping")
    until(lambda: server.server.connections == 0)
    before = len(os.listdir("/proc/self/fd"))
    for number in range(100):
        with server.connect() as client:
            if number % 2:
                client.send(b"GET /_ping HTTP/1.1\r\nX")
            else:
                client.request("GET", "/containers/web/logs?stdout=1&follow=1")
                client.read_head()
    until(lambda: server.server.connections == 0)
    assert len(os.listdir("/proc/self/fd")) <= before


def test_pipelined_requests_of_a_half_closed_client_are_all_answered(server):
    with server.connect() as client:
        client.send(b"GET /containers/json HTTP/1.1\r\n\r\n" * 3 + b"GET /_ping HTTP/1.1\r\n\r\n" * 40)
        client.end_sending()
        answers = [client.read_answer() for _ in range(43)]
        assert [answer.status for answer in answers] == [200] * 43
        # whether the last answer says so depends on when the end was seen; that it is the end does not
        assert client.receive() == b""


def test_the_limits_of_a_server_are_its_own():
    limits = Limits(json_bytes=100, body_timeout_s=0.2, head_bytes=1000)
    with ApiServer(limits=limits) as server:
        assert server.ask("POST", "/containers/create", b'{"Image":"' + b"x" * 100 + b'"}').status == 413
        assert server.ask("GET", "/_ping", headers={"X-Filler": "y" * 1000}).status == 431
        with server.connect() as client:
            client.send(
                b"POST /containers/create HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 50\r\n\r\n{"
            )
            answer = client.read_answer()
            assert (answer.status, answer.message) == (408, "the request body took too long")
            assert client.receive() == b""


def test_the_rest_of_an_unwanted_body_has_its_time():
    with ApiServer(limits=Limits(body_timeout_s=0.2)) as server, server.connect() as client:
        client.send(b"PUT /containers/nope/archive?path=/ HTTP/1.1\r\nContent-Length: 100\r\n\r\nabc")
        answer = client.read_answer()
        assert (answer.status, answer.headers.get("connection")) == (404, None)
        assert client.read_all() == b""


def test_a_pipelining_client_that_pauses_is_not_taken_for_one_with_half_a_head():
    with ApiServer(limits=Limits(header_timeout_s=0.1)) as server, server.connect() as client:
        client.sock.settimeout(0.5)
        request = b"GET /containers/json HTTP/1.1\r\n\r\n"
        sent = flood(client.sock, request * 100, 10_000_000)
        time.sleep(1.5)  # the server looks after its connections once a second
        client.sock.settimeout(10)
        for _ in range(1000):
            assert client.read_answer().status == 200
        assert sent > 1000 * len(request)
