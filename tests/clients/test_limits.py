"""Limits bite, measurably: memory, processor time, processes, disk bandwidth, files."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemons import Daemon
from machine import CGROUP_PARENT, CGROUPS, EMULATED, v1_controllers
from waiting import until

pytestmark = [pytest.mark.needs("docker", "busybox")]


def group(daemon: Daemon, name: str, controller: str) -> Path:
    """The container's cgroup of a controller, v1 or v2."""
    hierarchies = v1_controllers()
    top = hierarchies.get(controller, CGROUPS)
    identifier = daemon.inspect(name)["Id"]
    return top / CGROUP_PARENT[1:] / identifier


def processor_seconds(daemon: Daemon, name: str) -> float:
    """What the container's cgroup has used."""
    if "cpuacct" in v1_controllers():
        return int((group(daemon, name, "cpuacct") / "cpuacct.usage").read_text()) / 1e9
    line = (group(daemon, name, "cpu") / "cpu.stat").read_text().splitlines()[0]
    return int(line.split()[1]) / 1e6


def shares_of_a_processor(daemon: Daemon, name: str, window_s: float, windows: int) -> Iterator[float]:
    """What a container gets of one processor, window by window."""
    for _ in range(windows):
        begin, used = time.monotonic(), processor_seconds(daemon, name)
        time.sleep(window_s)
        yield (processor_seconds(daemon, name) - used) / (time.monotonic() - begin)


def keeps_to(daemon: Daemon, name: str, share: float, most: float) -> bool:
    """Never more than ``most``; and ``share`` as soon as the machine's other work leaves that much."""
    for got in shares_of_a_processor(daemon, name, 2.0, 8):
        assert got <= most
        if got >= share:
            return True
    return False


def test_half_a_processor_is_half_a_processor(daemon: Daemon) -> None:
    daemon.docker("run", "-d", "--name", "busy", "--cpus", "0.5", "busybox", "sh", "-c", "while :; do :; done")
    assert keeps_to(daemon, "busy", 0.3 if EMULATED else 0.45, 0.55)


def test_update_changes_it_at_once(daemon: Daemon) -> None:
    daemon.docker("run", "-d", "--name", "busy", "--cpus", "0.6", "busybox", "sh", "-c", "while :; do :; done")
    daemon.docker("update", "--cpus", "0.2", "busy")
    time.sleep(0.3)
    assert keeps_to(daemon, "busy", 0.1 if EMULATED else 0.15, 0.25)


def test_a_memory_hog_is_killed_and_it_is_told(daemon: Daemon) -> None:
    since = str(int(time.time()) - 1)
    # tail keeps what it reads: one process, PID 1, that grows
    done = daemon.docker("run", "--name", "hog", "-m", "24m", "busybox", "tail", "/dev/zero", check=False, timeout=60)
    assert done.returncode == 137
    state = daemon.inspect("hog")["State"]
    assert (state["OOMKilled"], state["ExitCode"], state["Status"]) == (True, 137, "exited")
    now = str(int(time.time()) + 1)
    filters = ("--filter", "container=hog", "--format", "{{.Action}}")
    actions = daemon.docker("events", "--since", since, "--until", now, *filters).stdout.split()
    assert actions.index("oom") < actions.index("die")


def test_memory_that_runs_out_is_told_while_the_container_lives_on(daemon: Daemon) -> None:
    since = str(int(time.time()) - 1)
    script = "trap 'exit 3' TERM; sleep 1; tail /dev/zero; sleep 60 & wait"
    daemon.docker("run", "-d", "--name", "worker", "-m", "24m", "--memory-swap", "24m", "busybox", "sh", "-c", script)

    def actions() -> list[str]:
        now = f"{time.time():.9f}"
        filters = ("--filter", "container=worker", "--format", "{{.Action}}")
        return daemon.docker("events", "--since", since, "--until", now, *filters).stdout.split()

    until(lambda: "oom" in actions(), timeout_s=90 if EMULATED else 30)
    state = daemon.inspect("worker")["State"]
    assert (state["Status"], state["OOMKilled"]) == ("running", False)
    daemon.docker("stop", "worker")
    state = daemon.inspect("worker")["State"]
    assert (state["OOMKilled"], state["ExitCode"]) == (True, 3)
    assert actions().index("oom") < actions().index("die")
    # the group has gone, which the kernel tells in the same way: that is none
    assert actions()[actions().index("die") :].count("oom") == 0


def test_memory_swap_and_reservation_are_what_the_kernel_has(daemon: Daemon) -> None:
    options = ("-m", "64m", "--memory-reservation", "32m", "--memory-swap", "96m")
    daemon.docker("run", "-d", "--name", "limited", *options, "busybox", "sleep", "60")
    memory = group(daemon, "limited", "memory")
    if "memory" in v1_controllers():
        expected = {"memory.limit_in_bytes": 64 << 20, "memory.soft_limit_in_bytes": 32 << 20}
        if (memory / "memory.memsw.limit_in_bytes").exists():
            expected["memory.memsw.limit_in_bytes"] = 96 << 20
    else:
        expected = {"memory.max": 64 << 20, "memory.low": 32 << 20}
        if (memory / "memory.swap.max").exists():
            expected["memory.swap.max"] = 32 << 20
    assert {name: int((memory / name).read_text()) for name in expected} == expected


def test_a_fork_bomb_stops_at_the_limit(daemon: Daemon) -> None:
    daemon.docker("run", "-d", "--name", "bomb", "--pids-limit", "16", "busybox", "sleep", "60")
    script = "i=0; while [ $i -lt 60 ]; do sleep 50 & i=$((i+1)); done"
    done = daemon.docker("exec", "bomb", "sh", "-c", script, check=False)
    assert done.returncode != 0
    assert "can't fork" in done.stderr
    # PID 1 and what the shell had started when it met the limit
    assert int((group(daemon, "bomb", "pids") / "pids.current").read_text()) == 15
    # the daemon still looks in, and the container can be ended
    assert len(daemon.docker("top", "bomb").stdout.splitlines()) == 16
    daemon.docker("kill", "bomb")
    assert daemon.docker("wait", "bomb").stdout == "137\n"


def test_the_number_of_processes_is_limited_unless_told_otherwise(daemon: Daemon) -> None:
    for name, options in (("usual", []), ("free", ["--pids-limit", "-1"]), ("few", ["--pids-limit", "7"])):
        daemon.docker("run", "-d", "--name", name, *options, "busybox", "sleep", "60")
    limits = {name: (group(daemon, name, "pids") / "pids.max").read_text().strip() for name in ("usual", "free", "few")}
    assert limits == {"usual": "4096", "free": "max", "few": "7"}
    # what was asked for, not what is in force: as dockerd's, whose daemon has limits of its own too
    assert daemon.inspect("usual")["HostConfig"]["PidsLimit"] is None
    assert daemon.inspect("few")["HostConfig"]["PidsLimit"] == 7
    daemon.docker("update", "--pids-limit", "-1", "few")
    assert (group(daemon, "few", "pids") / "pids.max").read_text().strip() == "max"


def test_processors_and_shares(daemon: Daemon) -> None:
    options = ("--cpuset-cpus", "0", "--cpu-shares", "512")
    done = daemon.docker("run", "--rm", *options, "busybox", "grep", "Cpus_allowed_list", "/proc/self/status")
    assert done.stdout.split() == ["Cpus_allowed_list:", "0"]
    daemon.docker("run", "-d", "--name", "shares", *options, "busybox", "sleep", "60")
    cpu = group(daemon, "shares", "cpu")
    if "cpu" in v1_controllers():
        assert (cpu / "cpu.shares").read_text() == "512\n"
    else:
        assert (cpu / "cpu.weight").read_text() == "20\n"  # 1 + (512 - 2) * 9999 / 262142


def backing_device(path: Path) -> str:
    """The disk below a path, as the kernel throttles it: a whole disk, no partition."""
    number = os.stat(path).st_dev
    block = Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}")
    if not block.exists():
        pytest.skip(f"this machine lacks: a disk below {path}")
    block = block.resolve()
    disk = block.parent if (block / "partition").exists() else block
    if not Path(f"/dev/{disk.name}").exists():
        pytest.skip(f"this machine lacks: /dev/{disk.name}")
    return f"/dev/{disk.name}"


def seconds_of(daemon: Daemon, script: str, directory: Path, *options: str) -> float:
    """How long a script takes in a container with ``directory`` at /mnt."""
    timed = f"read s x < /proc/uptime; {script} 2>/tmp/err || exit 9; read e x < /proc/uptime; echo $s $e"
    command = ("run", "--rm", *options, "-v", f"{directory}:/mnt", "busybox", "sh", "-c", timed)
    done = daemon.docker(*command, check=False)
    if done.returncode == 9:
        pytest.skip("this machine lacks: direct I/O on the file system of temporary files")
    begin, end = done.stdout.split()
    return float(end) - float(begin)


@pytest.mark.needs("blkio")
@pytest.mark.parametrize("direction", ["write", "read"])
def test_disk_bandwidth(daemon: Daemon, direction: str, tmp_path: Path) -> None:
    """Direct I/O of 16 MB at 4 MB/s takes four seconds, within a tenth."""
    disk = backing_device(tmp_path)
    (tmp_path / "file").write_bytes(os.urandom(1 << 20) * 16)
    os.sync()
    script = {
        "write": "dd if=/dev/zero of=/mnt/out bs=1M count=16 oflag=direct",
        "read": "dd if=/mnt/file of=/dev/null bs=1M count=16 iflag=direct",
    }[direction]
    taken = seconds_of(daemon, script, tmp_path, f"--device-{direction}-bps", f"{disk}:4mb")
    assert 3.6 <= taken <= (8 if EMULATED else 4.4)


@pytest.mark.needs("blkio")
def test_disk_operations(daemon: Daemon, tmp_path: Path) -> None:
    """80 operations at 20 a second take four seconds, within a tenth."""
    disk = backing_device(tmp_path)
    (tmp_path / "out").write_bytes(bytes(80 * 4096))
    os.sync()
    script = "dd if=/dev/zero of=/mnt/out bs=4k count=80 oflag=direct conv=notrunc"
    taken = seconds_of(daemon, script, tmp_path, "--device-write-iops", f"{disk}:20")
    assert 3.6 <= taken <= (8 if EMULATED else 4.4)


def test_statistics_tell_the_limits(daemon: Daemon) -> None:
    daemon.docker("run", "-d", "--name", "seen", "-m", "64m", "--pids-limit", "30", "busybox", "sleep", "60")
    document = json.loads(daemon.docker("stats", "--no-stream", "--format", "{{json .}}", "seen").stdout)
    assert document["MemUsage"].endswith("/ 64MiB")
    assert document["PIDs"] == "1"
    status, answer = daemon.request("GET", "/containers/seen/stats?stream=false")
    assert status == 200
    assert json.loads(answer)["pids_stats"] == {"current": 1, "limit": 30}


def test_shared_memory_and_files(daemon: Daemon) -> None:
    script = (
        "df -k /dev/shm | tail -1; dd if=/dev/zero of=/dev/shm/f bs=1M count=3 2>&1 | head -1; ulimit -n; ulimit -f"
    )
    options = ("--shm-size", "2m", "--ulimit", "nofile=77:99", "--ulimit", "fsize=4096000")
    lines = daemon.docker("run", "--rm", *options, "busybox", "sh", "-c", script).stdout.splitlines()
    assert lines[0].split()[1] == "2048"
    assert "No space left on device" in lines[1]
    assert lines[2:] == ["77", "8000"]
