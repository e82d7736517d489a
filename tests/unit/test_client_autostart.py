"""A daemon is started when none listens: once, for several commands at the same time, and with its last words."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from corten.client import autostart
from corten.client.autostart import start_daemon
from corten.client.transport import is_listening
from corten.errors import Unavailable

# says who it is, waits a little as a real one does, listens, and leaves by itself when the test forgets it
FAKE = """
import os, socket, sys, time
path, started, delay = sys.argv[1:]
with open(started, "a") as file:
    file.write(f"{os.getpid()}\\n")
print("starting", flush=True)
time.sleep(float(delay))
listening = socket.socket(socket.AF_UNIX)
listening.bind(path)
listening.listen(64)
time.sleep(60)
"""


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "fake.py").write_text(FAKE)
    yield tmp_path
    started = tmp_path / "started"
    for pid in started.read_text().split() if started.exists() else ():
        os.kill(int(pid), signal.SIGKILL)
        os.waitpid(int(pid), 0)


def command(place: Path, delay: float = 0.0) -> list[str]:
    return [sys.executable, str(place / "fake.py"), str(place / "run/c.sock"), str(place / "started"), str(delay)]


def start(place: Path, arguments: list[str]) -> None:
    start_daemon(str(place / "run/c.sock"), command=arguments, log_directories=[str(place / "data")])


def test_it_listens_when_the_call_returns(place: Path) -> None:
    start(place, command(place, 0.1))
    assert is_listening(str(place / "run/c.sock"))
    assert (place / "data/cortend.log").read_text() == "starting\n"


def test_a_daemon_that_is_there_is_used(place: Path) -> None:
    start(place, command(place))
    start(place, ["/nonexistent"])
    assert len((place / "started").read_text().split()) == 1


def test_it_is_in_a_session_of_its_own(place: Path) -> None:
    start(place, command(place))
    pid = int((place / "started").read_text())
    assert os.getsid(pid) == pid


def test_several_commands_at_once_start_one(place: Path) -> None:
    script = (
        "import sys; from corten.client.autostart import start_daemon;"
        "start_daemon(sys.argv[1], command=sys.argv[3:], log_directories=[sys.argv[2]])"
    )
    path, data = str(place / "run/c.sock"), str(place / "data")
    racing = [subprocess.Popen([sys.executable, "-c", script, path, data, *command(place, 0.3)]) for _ in range(5)]
    assert [process.wait(30) for process in racing] == [0] * 5
    pid = int((place / "started").read_text())
    assert is_listening(path)
    os.kill(pid, signal.SIGKILL)  # a child of one of those that have ended: nobody here can wait for it
    (place / "started").unlink()


def test_one_that_ends_tells_why(place: Path) -> None:
    arguments = [sys.executable, "-c", "import sys; print('older'); print('no room', file=sys.stderr); sys.exit(3)"]
    (place / "data").mkdir()
    (place / "data/cortend.log").write_text("from another day\n")
    with pytest.raises(Unavailable) as caught:
        start(place, arguments)
    text = str(caught.value)
    assert "cannot start the Corten daemon: it ended with exit code 3; see " in text
    assert "no room" in text
    assert "another day" not in text


def test_one_that_does_not_listen_is_ended(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(autostart, "START_WITHIN_S", 0.3)
    with pytest.raises(Unavailable, match=r"it does not listen on unix://.* after 0 s"):
        start(place, command(place, 30))
    pid = int((place / "started").read_text())
    end = time.monotonic() + 10
    # subprocess itself may have waited for it meanwhile
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(pid, os.WNOHANG) == (0, 0):
            assert time.monotonic() < end
            time.sleep(0.01)
    (place / "started").unlink()


def test_a_program_that_is_not_there(place: Path) -> None:
    with pytest.raises(Unavailable, match="cannot start the Corten daemon: No such file or directory: /nonexistent"):
        start(place, ["/nonexistent"])


def test_a_directory_that_cannot_be_made(place: Path) -> None:
    (place / "run").write_text("a file")
    with pytest.raises(Unavailable, match="cannot start the Corten daemon"):
        start(place, command(place))
