"""WebSocket attach: the handshake, frames in pieces, control frames, protocol errors."""

import os

import pytest
from api_fakes import ApiServer, frame

from corten.api.http.websocket import FrameReader, ProtocolError, encode_frame

PATH = "/containers/web/attach/ws?stream=1&stdin=1&stdout=1"
# the example of RFC 6455 section 1.3
KEY, ACCEPT = "dGhlIHNhbXBsZSBub25jZQ==", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
HEADERS = {
    "Connection": "keep-alive, Upgrade",
    "Upgrade": "WebSocket",
    "Sec-WebSocket-Key": KEY,
    "Sec-WebSocket-Version": "13",
}


def masked(opcode, payload, *, final=True, mask=b"\x37\xfa\x21\x3d"):
    length = len(payload)
    head = bytes([(0x80 if final else 0) | opcode])
    if length < 126:
        head += bytes([0x80 | length])
    elif length < 65536:
        head += bytes([0x80 | 126]) + length.to_bytes(2, "big")
    else:
        head += bytes([0x80 | 127]) + length.to_bytes(8, "big")
    return head + mask + bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload))


@pytest.fixture
def server():
    with ApiServer() as fresh:
        yield fresh


@pytest.fixture
def session(server):
    with server.connect() as client:
        client.request("GET", PATH, headers=HEADERS)
        status, headers = client.read_head()
        assert status == 101
        assert headers["upgrade"] == "websocket"
        assert headers["connection"] == "Upgrade"
        assert headers["sec-websocket-accept"] == ACCEPT
        program = server.engine.containers.program
        program.settimeout(10)
        with program:
            yield client, program


def test_input_output_and_close(session):
    client, program = session
    client.send(masked(2, b"ls\n"))
    assert program.recv(100) == b"ls\n"
    program.sendall(frame(1, b"out") + frame(2, b"err"))
    assert client.read_exactly(2 + 6) == encode_frame(2, b"outerr")
    program.close()
    assert client.read_exactly(4) == encode_frame(8, (1000).to_bytes(2, "big"))
    client.send(masked(8, (1000).to_bytes(2, "big")))
    assert client.receive() == b""


def test_a_terminal_is_not_framed(server):
    server.engine.containers.tty = True
    with server.connect() as client:
        client.request("GET", PATH, headers=HEADERS)
        client.read_head()
        with server.engine.containers.program as program:
            program.sendall(b"\x01\x00\x00\x00raw")
            assert client.read_exactly(2 + 7) == encode_frame(2, b"\x01\x00\x00\x00raw")


def test_early_frames_arrive(server):
    lines = "".join(f"{name}: {value}\r\n" for name, value in HEADERS.items())
    with server.connect() as client:
        client.send(f"GET {PATH} HTTP/1.1\r\n{lines}\r\n".encode() + masked(1, b"early"))
        client.read_head()
        with server.engine.containers.program as program:
            assert program.recv(100) == b"early"


def test_docker_frames_cut_anywhere(session):
    client, program = session
    data = frame(1, b"a" * 300) + frame(2, b"b" * 70_000)
    for at in range(0, 400, 3):
        program.sendall(data[at : at + 3])
    program.sendall(data[402:])
    received = b""
    while len(received) < 70_300:
        first, length = client.read_exactly(2)
        assert first == 0x82
        if length == 126:
            length = int.from_bytes(client.read_exactly(2), "big")
        elif length == 127:
            length = int.from_bytes(client.read_exactly(8), "big")
        received += client.read_exactly(length)
    assert received == b"a" * 300 + b"b" * 70_000


def test_ping_is_answered_between_fragments(session):
    client, program = session
    client.send(masked(1, b"frag", final=False) + masked(9, b"are you there") + masked(0, b"ment"))
    assert client.read_exactly(15) == encode_frame(10, b"are you there")
    received = b""
    while len(received) < 8:
        received += program.recv(100)
    assert received == b"fragment"


def test_the_client_closes(session):
    client, program = session
    client.send(masked(8, (1001).to_bytes(2, "big") + b"going"))
    assert client.read_exactly(4) == encode_frame(8, (1001).to_bytes(2, "big"))
    assert program.recv(10) == b""
    assert client.receive() == b""


@pytest.mark.parametrize(
    "raw",
    [
        b"\x82\x02hi",  # not masked
        b"\xc2\x82\x00\x00\x00\x00hi",  # an extension bit
        b"\x83\x82\x00\x00\x00\x00hi",  # an unknown opcode
        b"\x80\x82\x00\x00\x00\x00hi",  # a continuation of nothing
        b"\x09\x82\x00\x00\x00\x00hi",  # a control frame in pieces
        b"\x89\xfe\x01\x00\x00\x00\x00\x00",  # a long control frame
        b"\x02\x81\x00\x00\x00\x00h\x82\x81\x00\x00\x00\x00i",  # a new message within one
        b"\x82\xff\x80\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",  # a negative length
    ],
)
def test_protocol_errors_close_the_connection(session, raw):
    client, program = session
    client.send(raw)
    assert client.read_exactly(4) == encode_frame(8, (1002).to_bytes(2, "big"))
    assert client.receive() == b""
    while program.recv(10):
        pass


@pytest.mark.parametrize(
    "changes",
    [
        {"Upgrade": "tcp"},
        {"Sec-WebSocket-Version": "8"},
        {"Sec-WebSocket-Key": "c2hvcnQ="},
        {"Sec-WebSocket-Key": "?"},
        {"Upgrade": ""},
    ],
)
def test_bad_handshakes_are_refused(server, changes):
    with server.connect() as client:
        answer = client.ask("GET", PATH, headers={**HEADERS, **changes})
        assert answer.status == 400
        assert answer.message
        assert client.ask("GET", "/_ping").status == 200
    assert server.engine.containers.program.recv(10) == b""


def test_frames_of_every_size_in_any_pieces():
    payloads = [os.urandom(size) for size in (0, 1, 125, 126, 1000, 65535, 65536)]
    raw = b"".join(masked(2, payload) for payload in payloads)
    for piece in (1, 2, 13, 100_000):
        reader = FrameReader()
        found = b""
        for at in range(0, len(raw), piece):
            found += b"".join(payload for _, payload in reader.feed(raw[at : at + piece]))
        assert found == b"".join(payloads)


def test_a_reader_refuses_after_any_valid_start():
    reader = FrameReader()
    assert reader.feed(masked(2, b"ok")) == [(2, b"ok")]
    with pytest.raises(ProtocolError):
        reader.feed(b"\x82\x00")
