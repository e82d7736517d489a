"""The unmodified docker client, and our own, against a real daemon."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

pytestmark = [pytest.mark.needs("docker", "busybox")]

CLIENTS = ("docker", "corten")


@pytest.mark.parametrize("client", CLIENTS)
def test_run_prints_and_leaves_nothing(daemon, client: str) -> None:
    done = getattr(daemon, client)("run", "--rm", "busybox", "sh", "-c", "echo out; echo err >&2; echo $$")
    assert done.stdout == "out\n1\n"
    assert done.stderr == "err\n"
    assert daemon.docker("ps", "-aq").stdout == ""


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize(
    ("command", "code"),
    [(["nosuch"], 127), (["/etc/passwd"], 126), (["sh", "-c", "exit 42"], 42)],
)
def test_exit_codes(daemon, client: str, command: list[str], code: int) -> None:
    assert getattr(daemon, client)("run", "--rm", "busybox", *command, check=False).returncode == code


@pytest.mark.parametrize("client", CLIENTS)
def test_unknown_image_and_bad_user_give_125(daemon, client: str) -> None:
    run = getattr(daemon, client)
    assert run("run", "--rm", "--pull", "never", "nosuchimage", "true", check=False).returncode == 125
    done = run("run", "--rm", "-u", "zed", "busybox", "true", check=False)
    assert done.returncode == 125
    assert "unable to find user zed: no matching entries in passwd file" in done.stderr


@pytest.mark.parametrize("client", CLIENTS)
def test_standard_input_reaches_the_program(daemon, client: str) -> None:
    assert getattr(daemon, client)("run", "-i", "--rm", "busybox", "cat", input="hello\n").stdout == "hello\n"


def test_memory_hog_is_killed_and_said_to_be(daemon) -> None:
    script = "x=$(dd if=/dev/zero bs=1M count=100 2>/dev/null | tr '\\0' a); echo survived"
    done = daemon.docker("run", "--name", "hog", "-m", "20m", "busybox", "sh", "-c", script, check=False)
    state = daemon.inspect("hog")["State"]
    assert done.returncode == 137 or state["OOMKilled"]
    assert state["OOMKilled"] is True
    assert "survived" not in done.stdout


def test_exec_logs_and_inspect(daemon) -> None:
    daemon.docker("run", "-d", "--name", "web", "busybox", "sh", "-c", "echo started; sleep 60")
    assert daemon.docker("exec", "web", "hostname").stdout.strip() == daemon.inspect("web")["Config"]["Hostname"]
    assert daemon.docker("exec", "web", "nosuch", check=False).returncode == 127
    assert daemon.docker("logs", "web").stdout == "started\n"
    document = daemon.inspect("web")
    assert document["State"]["Running"] is True
    data = document["GraphDriver"]["Data"]
    assert data["LowerDir"].split(":")[0].endswith(f"{document['Id']}-init/diff")
    assert (Path(data["MergedDir"]) / "bin/busybox").exists()


def test_diff_commit_and_run_the_commit(daemon) -> None:
    daemon.docker("run", "--name", "changed", "busybox", "sh", "-c", "echo kept > /new; rm /etc/group")
    changes = daemon.docker("diff", "changed").stdout.splitlines()
    assert {"A /new", "D /etc/group", "C /etc"} <= set(changes)
    daemon.docker("commit", "changed", "mine:1")
    assert daemon.docker("run", "--rm", "mine:1", "cat", "/new").stdout == "kept\n"
    daemon.docker("rm", "changed")
    daemon.docker("rmi", "mine:1")


def test_limits_are_set(daemon) -> None:
    first = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/pids/pids.max 2>/dev/null"
    script = f"{first} || cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/pids.max"
    done = daemon.docker("run", "--rm", "-m", "64m", "--pids-limit", "20", "busybox", "sh", "-c", script)
    assert done.stdout.split() == ["67108864", "20"]


def test_volumes_keep_data(daemon) -> None:
    daemon.docker("run", "--rm", "-v", "data:/data", "busybox", "sh", "-c", "echo there > /data/f")
    assert daemon.docker("run", "--rm", "-v", "data:/data:ro", "busybox", "cat", "/data/f").stdout == "there\n"
    assert (
        daemon.docker("run", "--rm", "-v", "data:/data:ro", "busybox", "touch", "/data/x", check=False).returncode != 0
    )
    daemon.docker("volume", "rm", "data")


def test_stop_restart_and_names(daemon) -> None:
    daemon.docker(
        "run", "-d", "--name", "first", "busybox", "sh", "-c", "trap 'exit 3' TERM; while :; do sleep 0.1; done"
    )
    assert (
        "is already in use by container"
        in daemon.docker("run", "--name", "first", "busybox", "true", check=False).stderr
    )
    time.sleep(0.3)
    daemon.docker("stop", "-t", "5", "first")
    assert daemon.inspect("first")["State"]["ExitCode"] == 3
    daemon.docker("start", "first")
    daemon.docker("rename", "first", "second")
    daemon.docker("rm", "-f", "second")


def test_copy_in_and_out(daemon, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("content")
    daemon.docker("run", "-d", "--name", "box", "busybox", "sleep", "60")
    daemon.docker("cp", str(tmp_path / "file"), "box:/tmp/file")
    assert daemon.docker("exec", "box", "cat", "/tmp/file").stdout == "content"
    daemon.docker("cp", "box:/tmp/file", str(tmp_path / "back"))
    assert (tmp_path / "back").read_text() == "content"


def test_corten_lists_in_docker_s_form(daemon) -> None:
    daemon.docker("run", "-d", "--name", "listed", "busybox", "sleep", "60")
    row = json.loads(daemon.corten("ps", "--format", "{{json .}}").stdout)
    assert row["Names"] == "listed"
    assert row["Image"] == "busybox"
