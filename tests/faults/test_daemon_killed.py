"""The daemon may be killed at any time: programs go on, logs are whole, exits are known."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import sqlite3
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


def test_a_start_that_was_not_recorded_and_whose_shim_does_not_answer(fresh_daemon) -> None:
    """The program may run: it is neither started a second time nor are its files taken from under it."""
    daemon = fresh_daemon
    daemon.docker("run", "-d", "--name", "stuck", "busybox", "sh", "-c", "echo kept > /f; sleep 300")
    before = daemon.inspect("stuck")
    shim = int(re.search(r"PPid:\t(\d+)", Path(f"/proc/{before['State']['Pid']}/status").read_text())[1])
    daemon.kill()
    with contextlib.closing(sqlite3.connect(daemon.data_root / "corten.db")) as database, database:
        ((document,),) = database.execute("SELECT document FROM containers").fetchall()
        record = json.loads(document)
        record["state"] |= {"status": "created", "pid": 0, "started_ns": 0}
        database.execute("UPDATE containers SET document=?", (json.dumps(record).encode(),))
    os.kill(shim, signal.SIGSTOP)
    try:
        daemon.start(timeout_s=40)
        assert daemon.inspect("stuck")["State"]["Status"] == "running"
        daemon.docker("start", "stuck")
        assert daemon.docker("rm", "stuck", check=False).returncode == 1
    finally:
        os.kill(shim, signal.SIGCONT)
    until(lambda: daemon.docker("exec", "stuck", "cat", "/f", check=False).stdout == "kept\n", 20)
    state = daemon.inspect("stuck")["State"]
    assert (state["Pid"], state["StartedAt"]) == (before["State"]["Pid"], before["State"]["StartedAt"])


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
