"""Hijacked connections over real sockets: early bytes, half-close both ways, back-pressure, clients that vanish."""

import contextlib
import hashlib
import os
import socket
import threading

import pytest
from api_fakes import ApiServer, flood, frame

from waiting import until

RAW = "application/vnd.docker.raw-stream"
MULTIPLEXED = "application/vnd.docker.multiplexed-stream"
UPGRADE = {"Connection": "Upgrade", "Upgrade": "tcp"}
ATTACH = "/containers/web/attach?stream=1&stdin=1&stdout=1&stderr=1"


@pytest.fixture
def server():
    with ApiServer() as fresh:
        yield fresh


def attached(server) -> socket.socket:
    """The program's end of the stream."""
    containers = server.engine.containers
    assert containers.attached.wait(5)
    program = containers.program
    program.settimeout(10)
    return program


def receive_exactly(sock, count):
    data = b""
    while len(data) < count:
        piece = sock.recv(count - len(data))
        assert piece, data
        data += piece
    return data


def open_stream(server, path=ATTACH, headers=UPGRADE):
    client = server.connect()
    client.request("POST", path, headers=headers)
    return client, attached(server)


@pytest.mark.parametrize(
    ("version", "tty", "content_type"),
    [("/v1.41", False, RAW), ("/v1.42", False, MULTIPLEXED), ("", False, MULTIPLEXED), ("", True, RAW)],
)
def test_an_upgrade_is_answered_as_docker_answers_it(server, version, tty, content_type):
    server.engine.containers.tty = tty
    client, program = open_stream(server, version + ATTACH)
    with client, program:
        line = client.read_until(b"\r\n")
        head = client.read_until(b"\r\n\r\n").decode()
        assert line == b"HTTP/1.1 101 UPGRADED\r\n"
        assert f"Content-Type: {content_type}\r\n" in head
        assert "Connection: Upgrade\r\nUpgrade: tcp\r\n" in head
        assert "Api-Version: 1.56\r\n" in head


def test_the_old_way_is_a_200_without_framing(server):
    client, program = open_stream(server, headers={})
    with client, program:
        status, headers = client.read_head()
        assert (status, headers["content-type"]) == (200, MULTIPLEXED)
        assert "transfer-encoding" not in headers
        assert "content-length" not in headers
        program.sendall(frame(1, b"hello"))
        assert client.read_exactly(13) == frame(1, b"hello")


def test_both_directions_and_the_end_of_each(server):
    client, program = open_stream(server)
    with client, program:
        client.read_head()
        client.send(b"echo hi\n")
        assert receive_exactly(program, 8) == b"echo hi\n"
        program.sendall(b"hi\n")
        assert client.read_exactly(3) == b"hi\n"
        client.end_sending()
        assert program.recv(10) == b""  # the end of input arrives,
        program.sendall(b"last words")  # and output still flows
        assert client.read_exactly(10) == b"last words"
        program.close()
        assert client.receive() == b""
    until(lambda: server.server.connections == 0)


@pytest.mark.parametrize("headers", [UPGRADE, {}])
def test_bytes_that_came_with_the_request_are_input(server, headers):
    with server.connect() as client:
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        client.send(f"POST {ATTACH} HTTP/1.1\r\nHost: x\r\n{lines}\r\n".encode() + b"early " * 1000)
        with attached(server) as program:
            client.read_head()
            client.send(b"late")
            assert receive_exactly(program, 6004) == b"early " * 1000 + b"late"


def test_early_bytes_after_a_json_body_are_input(server):
    body = b'{"Detach":false,"Tty":false}'
    with server.connect() as client:
        client.send(
            f"POST /exec/{'e' * 64}/start HTTP/1.1\r\nContent-Type: application/json\r\nConnection: Upgrade\r\n"
            f"Upgrade: tcp\r\nContent-Length: {len(body)}\r\n\r\n".encode()
            + body
            + b"early"
        )
        with attached(server) as program:
            assert client.read_head()[0] == 101
            assert receive_exactly(program, 5) == b"early"


def test_early_bytes_after_a_chunked_json_body_are_input(server):
    with server.connect() as client:
        client.send(
            f"POST /exec/{'e' * 64}/start HTTP/1.1\r\nContent-Type: application/json\r\n"
            "Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\nearly".encode()
        )
        with attached(server) as program:
            assert client.read_head()[0] == 200
            assert receive_exactly(program, 5) == b"early"


def test_a_client_that_ended_its_input_before_the_answer(server):
    with server.connect() as client:
        client.send(f"POST {ATTACH} HTTP/1.1\r\nUpgrade: tcp\r\nConnection: Upgrade\r\n\r\nonly this".encode())
        client.end_sending()
        with attached(server) as program:
            client.read_head()
            assert receive_exactly(program, 9) == b"only this"
            assert program.recv(10) == b""
            program.sendall(b"answer")
            assert client.read_exactly(6) == b"answer"


def test_an_unfinished_chunked_body_is_input_without_its_framing(server):
    with server.connect() as client:
        client.send(f"POST {ATTACH} HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        with attached(server) as program:
            assert client.read_head()[0] == 200
            client.send(b"5\r\nhello\r\n")
            assert receive_exactly(program, 5) == b"hello"
            client.send(b"0\r\n\r\n")
            assert program.recv(10) == b""
            program.sendall(b"bye")
            assert client.read_exactly(3) == b"bye"


def test_output_before_the_client_reads_is_not_lost(server):
    server.engine.containers.tty = True
    client, program = open_stream(server)
    with client:
        program.sendall(b"quick")
        program.close()
        client.read_head()
        assert client.read_all() == b"quick"


def test_a_program_that_ends_while_its_client_still_sends_is_read_to_its_end(server):
    client, program = open_stream(server)
    with client:
        client.read_head()
        program.sendall(b"x" * 100_000)
        program.close()
        client.sock.setblocking(False)
        with contextlib.suppress(OSError):
            for _ in range(50):
                client.send(b"nobody reads this" * 100)
        client.sock.setblocking(True)
        client.sock.settimeout(10)
        assert client.read_exactly(100_000) == b"x" * 100_000
        assert client.receive() == b""


def test_a_client_that_vanishes_closes_the_stream(server):
    client, program = open_stream(server)
    with program:
        client.read_head()
        client.sock.close()
        assert program.recv(10) == b""
        until(lambda: server.server.connections == 0)
        with pytest.raises(BrokenPipeError):
            program.sendall(b"x")


def test_a_client_that_vanishes_after_the_end_of_its_input_is_noticed(server):
    client, program = open_stream(server)
    with program:
        client.read_head()
        client.end_sending()
        assert program.recv(10) == b""
        client.sock.close()
        until(lambda: server.server.connections == 0)


def test_a_slow_reader_holds_the_program_back(server):
    client, program = open_stream(server)
    data = bytes(range(256)) * 40_000
    with client, program:
        client.read_head()
        program.settimeout(0.5)
        with pytest.raises(TimeoutError):
            program.sendall(data * 5)
        program.setblocking(True)
        # what was taken so far is the beginning of the data
        received = client.read_exactly(256 * 100)
        assert received == bytes(range(256)) * 100


def test_ten_megabytes_both_ways_at_once(server):
    client, program = open_stream(server)
    data = bytes(range(251)) * 40_000
    with client, program:
        client.read_head()

        def echo():
            while piece := program.recv(65536):
                program.sendall(piece)
            program.shutdown(socket.SHUT_WR)

        def send():
            client.send(data)
            client.end_sending()

        threads = [threading.Thread(target=echo), threading.Thread(target=send)]
        for thread in threads:
            thread.start()
        received = client.read_all()
        for thread in threads:
            thread.join(10)
        assert hashlib.sha256(received).digest() == hashlib.sha256(data).digest()


def test_input_that_the_program_does_not_read_is_held_back(server):
    client, program = open_stream(server)
    with client, program:
        client.read_head()
        client.sock.settimeout(0.5)
        assert flood(client.sock, b"i" * 65536, 50_000_000) < 3_000_000
        program.sendall(b"still alive")
        client.sock.settimeout(10)
        assert client.read_exactly(11) == b"still alive"


def test_errors_before_the_stream_are_ordinary_responses(server):
    with server.connect() as client:
        answer = client.ask("POST", "/containers/nope/attach?stream=1", headers=UPGRADE)
        assert (answer.status, answer.message) == (404, "No such container: nope")
        assert client.ask("GET", "/_ping").status == 200


def test_the_query_of_attach(server):
    client, program = open_stream(server, "/containers/web/attach?stream=1&stdout=True&logs=1&detachKeys=ctrl-a,b")
    with client, program:
        _, (reference, query), _ = server.engine.calls.last()
        assert reference == "web"
        assert (query.stream, query.stdin, query.stdout, query.stderr, query.logs) == (True, False, True, False, True)
        assert query.detach_keys == b"\x01b"


def test_bad_detach_keys_are_refused(server):
    answer = server.ask("POST", "/containers/web/attach?stream=1&detachKeys=ctrl-A")
    assert answer.status == 400
    assert answer.message.startswith("Invalid detach keys (ctrl-A) provided")


@pytest.mark.parametrize("tty", [False, True])
def test_a_missing_exec_command_is_told_in_the_stream(server, tty):
    server.engine.execs.tty = tty
    with server.connect() as client:
        client.request("POST", f"/exec/{'f' * 64}/start", b"{}", UPGRADE)
        assert client.read_head()[0] == 101
        text = b'exec: "missing": executable file not found in $PATH\r\n'
        assert client.read_all() == (text if tty else frame(1, text))


def test_a_missing_detached_exec_command_is_an_ordinary_error(server):
    answer = server.ask("POST", f"/exec/{'f' * 64}/start", b'{"Detach":true}')
    assert answer.status == 400
    assert "executable file not found" in answer.message


def test_a_detached_exec_has_no_stream(server):
    with server.connect() as client:
        answer = client.ask("POST", f"/exec/{'e' * 64}/start", b'{"Detach":true}')
        assert (answer.status, answer.body) == (200, b"")
        assert client.ask("GET", "/_ping").status == 200


def test_closing_the_server_ends_sessions(server):
    client, program = open_stream(server)
    with client, program:
        client.read_head()
        server.run(server.server.close(1))
        assert client.receive() == b""
        assert program.recv(10) == b""


def test_sessions_leave_no_descriptor_behind(server):
    def session(number):
        containers = server.engine.containers
        containers.attached.clear()
        client, program = open_stream(server)
        client.read_head()
        client.sock.close() if number % 2 else program.close()
        (program if number % 2 else client.sock).close()

    session(0)
    until(lambda: server.server.connections == 0)
    before = len(os.listdir("/proc/self/fd"))
    for number in range(40):
        session(number)
    until(lambda: server.server.connections == 0)
    until(lambda: len(os.listdir("/proc/self/fd")) <= before)
