"""The daemon may be killed at any time: programs go on, logs are whole, exits are known."""

from __future__ import annotations

import os
import re
import signal
import time
from pathlib import Path

import pytest

from daemons import Daemon
from waiting import until

pytestmark = [pytest.mark.needs("docker", "busybox")]


def test_containers_are_found_again_and_exits_are_known(fresh_daemon) -> None:
    daemon = fresh_daemon
    counter = "i=0; while [ $i -lt 40 ]; do echo line $i; i=$((i+1)); sleep 0.05; done; exit 7"
    daemon.docker("run", "-d", "--name", "ends", "busybox", "sh", "-c", counter)
    daemon.docker("run", "-d", "--name", "stays", "busybox", "sleep", "300")
    pid = daemon.inspect("stays")["State"]["Pid"]
    time.sleep(0.5)
    daemon.kill()
    time.sleep(2.5)
    daemon.start()
    until(lambda: daemon.inspect("ends")["State"]["Status"] == "exited")
    assert daemon.inspect("ends")["State"]["ExitCode"] == 7
    assert daemon.docker("logs", "ends").stdout.splitlines() == [f"line {number}" for number in range(40)]
    state = daemon.inspect("stays")["State"]
    assert state["Running"] is True
    assert state["Pid"] == pid
    assert daemon.docker("exec", "stays", "echo", "alive").stdout == "alive\n"


def test_shim_that_does_not_answer_is_asked_again(fresh_daemon) -> None:
    daemon = fresh_daemon
    daemon.docker("run", "-d", "--name", "stuck", "busybox", "sleep", "300")
    pid = daemon.inspect("stuck")["State"]["Pid"]
    shim = int(re.search(r"PPid:\t(\d+)", Path(f"/proc/{pid}/status").read_text())[1])
    daemon.kill()
    os.kill(shim, signal.SIGSTOP)
    try:
        daemon.start(timeout_s=40)
        assert daemon.inspect("stuck")["State"]["Running"] is True
    finally:
        os.kill(shim, signal.SIGCONT)
    until(lambda: daemon.docker("exec", "stuck", "echo", "alive", check=False).stdout == "alive\n", 20)
    assert daemon.inspect("stuck")["State"]["Pid"] == pid


def test_second_daemon_on_the_same_data_root_is_refused(fresh_daemon) -> None:
    second = Daemon(fresh_daemon.directory / "second", data_root=fresh_daemon.data_root)
    second.pidfile = fresh_daemon.pidfile
    second.start(check=False)
    assert second.process.wait(10) == 1
    assert "another daemon" in second.log.read_text()
    assert len(second.log.read_text().splitlines()) == 1
    assert fresh_daemon.docker("run", "--rm", "busybox", "echo", "fine").stdout == "fine\n"
    assert int(fresh_daemon.pidfile.read_text()) == fresh_daemon.process.pid
    fresh_daemon.stop()
    assert not fresh_daemon.pidfile.exists()
