"""Listening sockets: rights, stale and busy files, sockets that someone else opened."""

import grp
import os
import shutil
import socket
import stat
import tempfile
import threading
from pathlib import Path

import pytest
from api_fakes import ApiServer, Client

from corten.api.listen import ListenAddress, listen, parse_host
from corten.api.server import Server
from corten.errors import Conflict, InvalidParameter, SystemFailure


@pytest.fixture
def directory():
    path = Path(tempfile.mkdtemp(prefix="corten-test-listen-"))
    yield path
    shutil.rmtree(path)


def test_the_socket_is_for_owner_and_group_only(directory):
    path = directory / "api.sock"
    previous = os.umask(0o077)
    try:
        listener = listen(ListenAddress(path=path))
    finally:
        os.umask(previous)
    status = path.stat()
    assert stat.S_ISSOCK(status.st_mode)
    assert stat.S_IMODE(status.st_mode) == 0o660
    listener.close()
    assert not path.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give a file away")
def test_the_group_is_set_by_name_or_number(directory):
    for group, number in (("daemon", grp.getgrnam("daemon").gr_gid), ("1234", 1234), ("no-such-group", os.getegid())):
        listener = listen(ListenAddress(path=directory / "api.sock", group=group))
        assert (directory / "api.sock").stat().st_gid == number
        listener.close()


def test_a_stale_socket_is_replaced(directory):
    path = directory / "api.sock"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    assert path.exists()
    listener = listen(ListenAddress(path=path))
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    listener.close()


def test_a_socket_in_use_is_left_alone(directory):
    path = directory / "api.sock"
    first = listen(ListenAddress(path=path))
    with pytest.raises(Conflict, match="another daemon listens there"):
        listen(ListenAddress(path=path))
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    first.close()


def test_a_file_that_is_no_socket_is_left_alone(directory):
    path = directory / "api.sock"
    path.write_text("precious")
    with pytest.raises(Conflict, match="not a socket"):
        listen(ListenAddress(path=path))
    assert path.read_text() == "precious"


def test_a_symlink_is_not_followed(directory):
    (directory / "api.sock").symlink_to(directory / "elsewhere")
    with pytest.raises(Conflict, match="not a socket"):
        listen(ListenAddress(path=directory / "api.sock"))


def test_one_of_many_that_start_at_once_wins(directory):
    path = directory / "api.sock"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    won, lost = [], []
    barrier = threading.Barrier(8)

    def start():
        barrier.wait()
        try:
            won.append(listen(ListenAddress(path=path)))
        except Conflict as error:
            lost.append(error)

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert (len(won), len(lost)) == (1, 7)
    won[0].close()


def test_a_successor_s_socket_is_not_removed(directory):
    path = directory / "api.sock"
    first = listen(ListenAddress(path=path))
    path.unlink()
    second = listen(ListenAddress(path=path))
    first.close()
    assert path.exists()
    second.close()


@pytest.mark.parametrize("path", ["/nonexistent/x/api.sock", "/tmp/" + "x" * 120, "/proc/api.sock"])
def test_places_where_no_socket_can_be(path):
    with pytest.raises(SystemFailure, match="cannot listen on"):
        listen(ListenAddress(path=Path(path)))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "unix://",
        "unix://relative",
        "unix:/x",
        "tcp://127.0.0.1:port",
        "/run/x.sock",
        "fd:3",
        "npipe://x",
        "fd://nope",
    ],
)
def test_hosts_that_are_refused(text):
    with pytest.raises(InvalidParameter):
        parse_host(text)


def test_hosts():
    assert parse_host("unix:///run/x.sock", "docker") == [ListenAddress(path=Path("/run/x.sock"), group="docker")]
    assert parse_host("fd://7") == [ListenAddress(fd=7)]


def test_socket_activation_by_environment(monkeypatch):
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    monkeypatch.setenv("LISTEN_FDS", "2")
    monkeypatch.setenv("LISTEN_FDNAMES", "main:extra")
    assert parse_host("fd://") == [ListenAddress(fd=3), ListenAddress(fd=4)]
    assert parse_host("fd://*") == [ListenAddress(fd=3), ListenAddress(fd=4)]
    assert parse_host("fd://extra") == [ListenAddress(fd=4)]
    with pytest.raises(InvalidParameter, match="no socket of that name"):
        parse_host("fd://other")
    monkeypatch.setenv("LISTEN_PID", "1")
    with pytest.raises(InvalidParameter, match="no sockets found"):
        parse_host("fd://")


def test_a_socket_that_was_passed_is_served(directory):
    path = directory / "passed.sock"
    passed = socket.socket(socket.AF_UNIX)
    passed.bind(str(path))
    passed.listen()
    with ApiServer() as server:
        other = Server(server.engine, [f"fd://{passed.detach()}"])
        server.run(other.start())
        with Client(path) as client:
            assert client.ask("GET", "/_ping").body == b"OK"
        server.run(other.close(1))
    assert path.exists()  # whoever made it takes it away


def test_descriptors_that_are_no_listening_socket(directory):
    left, right = socket.socketpair()
    with left, right, (directory / "file").open("w") as file:
        for descriptor in (left.fileno(), file.fileno(), 9999):
            with pytest.raises(InvalidParameter):
                listen(ListenAddress(fd=descriptor))
        left.send(b"x")  # it was not closed
        assert right.recv(1) == b"x"
        assert not file.closed
        os.fstat(file.fileno())


def test_nothing_stays_open_when_one_address_fails(directory):
    with ApiServer() as server:
        first = directory / "first.sock"
        with pytest.raises(Conflict):
            server.run(Server(server.engine, [f"unix://{first}", f"unix://{server.path}"]).start())
        assert not first.exists()
        assert server.ask("GET", "/_ping").status == 200
