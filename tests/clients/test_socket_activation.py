"""A daemon whose sockets somebody else has opened, as systemd does it: passed by number and by name, and kept."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemons import BIN, ApiConnection, Daemon
from machine import CGROUP_PARENT

pytestmark = [pytest.mark.needs("docker", "busybox")]

FIRST = 3  # sd_listen_fds(3)


class Activated(Daemon):
    """A daemon that gets sockets by systemd's protocol; ``sockets`` stay ours, with what waits in them."""

    def __init__(self, directory: Path, host: str, sockets: dict[str, socket.socket]) -> None:
        super().__init__(directory)
        self._listens, self._sockets = host, sockets

    def start(self, *, check: bool = True, timeout_s: float = 15) -> None:
        names = ":".join(self._sockets)
        passed = [os.dup(sock.fileno()) for sock in self._sockets.values()]
        # numbers from 3 on, and the process id of the program itself: what a shell can give
        script = f"export LISTEN_PID=$$ LISTEN_FDS={len(passed)} LISTEN_FDNAMES={names}; "
        script += "".join(f"exec {FIRST + number}<&{held}; " for number, held in enumerate(passed))
        script += 'exec "$@"'
        command = [
            "bash", "-c", script, "activated", str(BIN / "cortend"), "--data-root", str(self.data_root),
            "--exec-root", str(self.exec_root), "-H", self._listens, "--bridge", "none", "--pidfile", str(self.pidfile),
            "--cgroup-parent", CGROUP_PARENT,
        ]  # fmt: skip
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, pass_fds=passed, start_new_session=True)
        for held in passed:
            os.close(held)
        deadline = time.monotonic() + timeout_s
        while "listens on" not in self.log.read_text() and self.process.poll() is None:
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.02)


def listening(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(path))
    sock.listen(16)
    return sock


@pytest.fixture
def sockets(tmp_path: Path) -> Iterator[dict[str, socket.socket]]:
    (tmp_path / "d").mkdir()
    made = {"api": listening(tmp_path / "d/api.sock"), "extra": listening(tmp_path / "d/extra.sock")}
    yield made
    for sock in made.values():
        sock.close()


def asked(path: Path) -> ApiConnection:
    """A request whose answer has not come yet."""
    connection = ApiConnection(path, timeout=15)
    connection.request("GET", "/_ping")
    return connection


def test_who_asks_before_the_daemon_runs_is_answered(
    tmp_path: Path, sockets: dict[str, socket.socket], busybox_tar: Path, cgroup_parent: str
) -> None:
    daemon = Activated(tmp_path / "d", "fd://", sockets)
    early = [asked(tmp_path / "d" / f"{name}.sock") for name in sockets]
    daemon.start()
    try:
        assert [connection.getresponse().read() for connection in early] == [b"OK", b"OK"]
        daemon.import_busybox(busybox_tar)
        # neither sockets nor words of the activation come to a program
        shown = daemon.docker(
            "run", "--rm", "busybox", "sh", "-c", "ls /proc/self/fd; env; exec ls -l /proc/1/fd"
        ).stdout
        assert "socket:" not in shown
        assert "LISTEN_" not in shown
        daemon.stop()
        assert all((tmp_path / "d" / f"{name}.sock").exists() for name in sockets), (
            "they are not the daemon's to remove"
        )
        between = asked(daemon.socket)
        daemon.start()
        assert between.getresponse().read() == b"OK"
    finally:
        daemon.stop()


def test_one_of_a_name(tmp_path: Path, sockets: dict[str, socket.socket]) -> None:
    daemon = Activated(tmp_path / "d", "fd://extra", sockets)
    daemon.start()
    try:
        assert asked(tmp_path / "d/extra.sock").getresponse().read() == b"OK"
        connection = ApiConnection(daemon.socket, timeout=0.3)
        connection.request("GET", "/_ping")
        with pytest.raises(TimeoutError):
            connection.getresponse()
        assert daemon.process is not None
        children = Path(f"/proc/{daemon.process.pid}/task/{daemon.process.pid}/children").read_text().split()
        inode = os.fstat(sockets["api"].fileno()).st_ino
        for child in children:
            held = [os.readlink(link) for link in Path(f"/proc/{child}/fd").iterdir()]
            assert f"socket:[{inode}]" not in held, "the other socket was given on"
    finally:
        daemon.stop()


def test_what_cannot_be_taken_over(tmp_path: Path, sockets: dict[str, socket.socket]) -> None:
    def refused(host: str, given: dict[str, socket.socket]) -> str:
        daemon = Activated(tmp_path / "d", host, given)
        daemon.log.write_text("")
        daemon.start()
        assert daemon.process is not None
        assert daemon.process.wait(15) == 1
        return daemon.log.read_text()

    assert "no sockets found via socket activation" in refused("fd://", {})
    assert "no socket of that name was passed" in refused("fd://other", sockets)
    assert "not a listening stream socket" in refused("fd://", {"api": socket.socket(socket.AF_UNIX)})
    with socket.create_server(("127.0.0.1", 0)) as tcp:
        assert "--tlsverify" in refused("fd://", {"api": tcp})


@pytest.mark.skipif(shutil.which("systemd-socket-activate") is None, reason="systemd-socket-activate is not installed")
def test_under_systemds_own_program(tmp_path: Path) -> None:
    socket_path = tmp_path / "s.sock"
    with open(tmp_path / "log", "wb") as log:
        process = subprocess.Popen(
            [
                "systemd-socket-activate", "-l", str(socket_path), str(BIN / "cortend"), "-H", "fd://",
                "--bridge", "none", "--data-root", str(tmp_path / "data"), "--exec-root", str(tmp_path / "run"),
            ],
            stdout=log, stderr=log,
        )  # fmt: skip
    try:
        deadline = time.monotonic() + 10
        while not socket_path.exists():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert asked(socket_path).getresponse().read() == b"OK"
    finally:
        process.terminate()
        assert process.wait(20) == 0, (tmp_path / "log").read_text()
