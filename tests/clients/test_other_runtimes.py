"""Containers of runc and crun under Corten: everything that the docker client does with one."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from pathlib import Path

import pytest

import machine
from daemons import Daemon
from waiting import until

pytestmark = [pytest.mark.needs("docker", "busybox")]

INSTALLED = [
    pytest.param(name, marks=pytest.mark.skipif(shutil.which(name) is None, reason=f"{name} is not installed"))
    for name in ("runc", "crun")
]
runtimes = pytest.mark.parametrize("runtime", INSTALLED)


def state_of(daemon, runtime: str) -> set[str]:
    """Of which containers the runtime keeps state."""
    return {path.name for path in (daemon.exec_root / "runtimes").iterdir()}


@runtimes
def test_it_is_this_runtime_that_runs_the_container(daemon, runtime: str, tmp_path: Path) -> None:
    done = daemon.docker("run", "--rm", "--runtime", runtime, "busybox", "sh", "-c", "echo out; echo err >&2; exit 7",
                         check=False)  # fmt: skip
    assert (done.stdout, done.stderr, done.returncode) == ("out\n", "err\n", 7)
    daemon.docker("run", "-d", "--name", "web", "--runtime", runtime, "busybox", "sleep", "300")
    container = daemon.inspect("web")
    assert container["HostConfig"]["Runtime"] == runtime
    root = daemon.exec_root / "runtimes"
    done = daemon.run([runtime, "--root", str(root), "state", container["Id"]])
    told = json.loads(done.stdout)
    assert (told["status"], told["pid"]) == ("running", container["State"]["Pid"])
    daemon.docker("rm", "-f", "web")
    assert state_of(daemon, runtime) == set()


@runtimes
def test_input_terminal_user_and_limits(daemon, runtime: str) -> None:
    run = ("run", "--rm", "--runtime", runtime)
    assert daemon.docker(*run, "-i", "busybox", "cat", input="hello\n").stdout == "hello\n"
    done = daemon.docker(*run, "-t", "busybox", "sh", "-c", "tty; stty size")
    assert done.stdout.startswith("/dev/pts/0")
    done = daemon.docker(*run, "-u", "bob:extra", "--group-add", "extra", "-w", "/tmp", "-e", "A=1", "-h", "box",
                         "busybox", "sh", "-c", "id -u; id -g; pwd; echo $A $HOME; hostname")  # fmt: skip
    assert done.stdout.split("\n")[:5] == ["1000", "50", "/tmp", "1 /home/bob", "box"]
    done = daemon.docker(*run, "-m", "20m", "--cgroupns", "host", "busybox", "cat", "/proc/self/cgroup")
    assert machine.CGROUP_PARENT.strip("/") in done.stdout
    done = daemon.docker(*run, "--read-only", "--tmpfs", "/scratch", "--init", "busybox", "sh", "-c",
                         "touch /x 2>/dev/null || touch /scratch/x && echo fine")  # fmt: skip
    assert done.stdout == "fine\n"


@runtimes
def test_what_cannot_be_run_has_dockers_exit_codes_and_leaves_nothing(daemon, runtime: str) -> None:
    for command, code in (("nosuch", 127), ("/etc/passwd", 126)):
        done = daemon.docker("run", "--rm", "--runtime", runtime, "busybox", command, check=False)
        assert done.returncode == code, done.stderr
        assert command in done.stderr
    done = daemon.docker("run", "--rm", "--runtime", runtime, "-u", "zed", "busybox", "true", check=False)
    assert done.returncode == 125
    assert "unable to find user zed: no matching entries in passwd file" in done.stderr
    assert state_of(daemon, runtime) == set()


@runtimes
def test_exec_logs_signals_pause_and_update(daemon, runtime: str, tmp_path: Path) -> None:
    script = "trap 'echo got usr1' USR1; echo up; while :; do sleep 0.1; done"
    daemon.docker("run", "-d", "--name", "web", "--runtime", runtime, "busybox", "sh", "-c", script)
    until(lambda: daemon.docker("logs", "web").stdout == "up\n")
    done = daemon.docker("exec", "-i", "-u", "bob", "-e", "B=2", "web", "sh", "-c", "cat; id -u; echo $B; exit 3",
                         input="in\n", check=False)  # fmt: skip
    assert (done.stdout, done.returncode) == ("in\n1000\n2\n", 3)
    assert daemon.docker("exec", "-t", "web", "tty").stdout.startswith("/dev/pts/")
    done = daemon.docker("exec", "web", "nosuch", check=False)
    assert done.returncode == 127
    daemon.docker("kill", "-s", "USR1", "web")
    until(lambda: "got usr1" in daemon.docker("logs", "web").stdout)
    daemon.docker("pause", "web")
    assert daemon.inspect("web")["State"]["Paused"] is True
    daemon.docker("unpause", "web")
    daemon.docker("update", "--memory", "64m", "--memory-swap", "64m", "web")
    stats = json.loads(daemon.request("GET", "/containers/web/stats?stream=false")[1])
    assert stats["memory_stats"]["limit"] == 64 << 20
    assert "sh" in daemon.docker("top", "web").stdout
    daemon.docker("cp", "web:/etc/passwd", str(tmp_path / "passwd"))
    assert "bob" in (tmp_path / "passwd").read_text()
    assert daemon.docker("restart", "-t", "0", "web").stdout == "web\n"
    assert daemon.inspect("web")["State"]["Running"] is True
    daemon.docker("stop", "-t", "0", "web")
    assert daemon.inspect("web")["State"]["ExitCode"] == 137
    daemon.docker("rm", "web")


@runtimes
def test_a_container_lives_on_without_the_daemon(fresh_daemon, runtime: str) -> None:
    daemon = fresh_daemon
    daemon.docker("run", "-d", "--name", "web", "--runtime", runtime, "busybox", "sh", "-c", "sleep 1; exit 9")
    daemon.docker("run", "-d", "--name", "long", "--runtime", runtime, "busybox", "sleep", "300")
    daemon.kill()
    time.sleep(1.2)  # it ends while nobody looks
    daemon.start()
    state = daemon.inspect("web")["State"]
    assert (state["Status"], state["ExitCode"]) == ("exited", 9)
    assert daemon.docker("exec", "long", "echo", "still here").stdout == "still here\n"


@runtimes
def test_a_killed_shim_takes_the_container_along(fresh_daemon, runtime: str) -> None:
    daemon = fresh_daemon
    daemon.docker("run", "-d", "--name", "web", "--runtime", runtime, "busybox", "sleep", "300")
    container = daemon.inspect("web")
    shim = int((daemon.exec_root / container["Id"] / "shim.pid").read_text())
    os.kill(shim, signal.SIGKILL)
    until(lambda: daemon.inspect("web")["State"]["Running"] is False)
    until(lambda: not Path(f"/proc/{container['State']['Pid']}").exists())
    until(lambda: state_of(daemon, runtime) == set())


def test_names_are_configured_and_unknown_ones_refused(tmp_path: Path, busybox_tar: Path, cgroup_parent: str) -> None:
    crun = shutil.which("crun")
    if crun is None:
        pytest.skip("crun is not installed")
    wrapper = tmp_path / "wrapper"
    wrapper.write_text(f'#!/bin/sh\necho "$@" >>{tmp_path}/calls\nexec {crun} "$@"\n')
    wrapper.chmod(0o755)
    path = tmp_path / "daemon.json"
    path.write_text(json.dumps({"runtimes": {"mine": {"path": str(wrapper), "runtimeArgs": ["--debug"]}}}))
    daemon = Daemon(tmp_path / "d", "--config-file", str(path), "--default-runtime", "mine")
    daemon.start()
    try:
        daemon.import_busybox(busybox_tar)
        info = json.loads(daemon.request("GET", "/info")[1])
        assert info["DefaultRuntime"] == "mine"
        assert info["Runtimes"]["mine"] == {"path": str(wrapper), "runtimeArgs": ["--debug"]}
        assert info["Runtimes"]["corten"] == {"path": "corten-oci"}
        assert daemon.docker("run", "--rm", "busybox", "echo", "hi").stdout == "hi\n"
        calls = (tmp_path / "calls").read_text()
        assert "--debug --root" in calls
        assert " start " in calls
        assert daemon.docker("run", "--rm", "--runtime", "corten", "busybox", "echo", "hi").stdout == "hi\n"
        done = daemon.docker("run", "--rm", "--runtime", "nosuch", "busybox", "true", check=False)
        assert done.returncode == 125
        assert "unknown or invalid runtime name: nosuch" in done.stderr
        wrapper.unlink()
        done = daemon.docker("run", "--rm", "busybox", "true", check=False)
        assert done.returncode == 125
        assert "cannot be executed" in done.stderr
        daemon.remove_containers()
    finally:
        daemon.stop()
