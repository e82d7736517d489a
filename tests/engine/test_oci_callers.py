"""Unmodified engines run their containers on corten-oci: dockerd, containerd with its runc shim, Podman with conmon."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from machine import lacking
from waiting import until

pytestmark = pytest.mark.needs("busybox")

RUNTIME = Path(sys.executable).parent / "corten-oci"
# PATH of the containers: with --rootfs there is no image that would say it
ENVIRONMENT = "PATH=/bin"


def run(words: list[str], *, check: bool = True, stdin: str = "", **more: Any) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False, input=stdin, **more)
    if check:
        assert done.returncode == 0, f"{words}: {done.stderr}"
    return done


def remove_groups(pattern: str) -> None:
    """Empty groups that another engine leaves, the deepest first."""
    found = [path for top in Path("/sys/fs/cgroup").glob(f"*/{pattern}") for path in (top, *top.rglob("*"))]
    for path in sorted((path for path in found if path.is_dir()), reverse=True):
        with contextlib.suppress(OSError):
            path.rmdir()


@contextlib.contextmanager
def containerd(directory: Path) -> Iterator[str]:
    """Debian's containerd with directories of its own; gives its socket."""
    places = {"--root": "c-root", "--state": "c-state", "--address": "c.sock"}
    words = [word for option, name in places.items() for word in (option, f"{directory}/{name}")]
    with open(directory / "containerd.log", "wb") as log:
        process = subprocess.Popen(["containerd", *words], stdout=log, stderr=log)
        try:
            until((directory / "c.sock").exists)
            yield f"{directory}/c.sock"
        finally:
            process.terminate()
            process.wait(30)
            unmount_below(directory)


def unmount_below(directory: Path) -> None:
    for line in reversed(Path("/proc/self/mountinfo").read_text().splitlines()):
        if line.split()[4].startswith(f"{directory}/"):
            subprocess.run(["umount", "-l", line.split()[4]], check=False)


# -- containerd -------------------------------------------------------------------------------------------------------


def test_containerd_runs_containers_with_it(tmp_path: Path, busybox_rootfs: Path) -> None:
    lacking("ctr")
    parent = f"corten-test-ctr-{os.getpid()}"
    options = ["--runc-binary", str(RUNTIME), "--env", ENVIRONMENT, "--rootfs"]
    with containerd(tmp_path) as address:

        def ctr(*words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
            return run(["ctr", "-a", address, *words], check=check)

        def started(*words: str, name: str, check: bool = True) -> subprocess.CompletedProcess[str]:
            group = ["--cgroup", f"/{parent}/{name}"]
            flags = [word for word in words if word.startswith("-")]
            command = [word for word in words if not word.startswith("-")]
            return ctr("run", *options, *group, *flags, str(busybox_rootfs), name, *command, check=check)

        def status(name: str) -> str:
            rows = [line.split() for line in ctr("task", "ls").stdout.splitlines()]
            return next((row[2] for row in rows if row[0] == name), "")

        try:
            assert started("--rm", "echo", "hello", name="one").stdout == "hello\n"
            assert started("--rm", "false", name="two", check=False).returncode == 1
            missing = started("--rm", "nosuch", name="three", check=False)
            assert 'exec: "nosuch": executable file not found in $PATH' in missing.stderr

            started("-d", "--memory-limit=67108864", "sleep", "100", name="long")
            inside = ctr("task", "exec", "--exec-id", "e1", "long", "cat", "/proc/1/comm")
            assert inside.stdout == "sleep\n"
            assert "67108864" in ctr("task", "metrics", "long").stdout
            ctr("task", "pause", "long")
            assert status("long") == "PAUSED"
            ctr("task", "resume", "long")
            assert status("long") == "RUNNING"
            ctr("task", "kill", "-s", "KILL", "long")
            until(lambda: status("long") == "STOPPED")
            ctr("task", "rm", "long", check=False)  # its exit code is the program's: 137
            ctr("container", "rm", "long")
        finally:
            remove_groups(parent)


# -- Podman -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def podman() -> Iterator[Any]:
    """Podman whose containers are corten-oci's: a function that runs it."""
    lacking("podman")
    parent = f"corten-test-podman-{os.getpid()}"
    with contextlib.ExitStack() as stack:
        # Podman takes no longer a path than 50 letters
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pod")))
        words = [
            "podman",
            *("--root", f"{place}/root", "--runroot", f"{place}/run", "--tmpdir", f"{place}/tmp"),
            *("--storage-driver", "vfs", "--cgroup-manager", "cgroupfs", "--events-backend", "file"),
            *("--runtime", str(RUNTIME)),
        ]

        def client(*arguments: str, check: bool = True, stdin: str = "") -> subprocess.CompletedProcess[str]:
            more = ("--cgroup-parent", f"/{parent}", "--network", "none") if arguments[0] == "run" else ()
            return run([*words, arguments[0], *more, *arguments[1:]], check=check, stdin=stdin)

        stack.callback(remove_groups, parent)
        stack.callback(unmount_below, place)
        stack.callback(client, "rm", "-f", "-a", "-t", "0")
        yield client


def test_podman_runs_containers_with_it(podman: Any, busybox_rootfs: Path) -> None:
    image = ("-e", ENVIRONMENT, "--rootfs", str(busybox_rootfs))
    assert podman("run", "--rm", *image, "echo", "hello").stdout == "hello\n"
    assert podman("run", "--rm", "-i", *image, "cat", stdin="words").stdout == "words"
    assert podman("run", "--rm", *image, "sh", "-c", "exit 42", check=False).returncode == 42
    missing = podman("run", "--rm", *image, "nosuch", check=False)
    assert missing.returncode == 127
    assert 'exec: "nosuch": executable file not found in $PATH' in missing.stderr
    assert podman("run", "--rm", *image, "/etc/passwd", check=False).returncode == 126

    podman("run", "-d", "--name", "long", "-m", "64m", "--pids-limit", "50", *image, "sleep", "100")
    assert podman("exec", "-w", "/tmp", "-e", "A=b", "long", "sh", "-c", "echo $A; pwd").stdout.split() == ["b", "/tmp"]
    assert podman("exec", "long", "nosuch", check=False).returncode == 127
    podman("pause", "long")
    assert podman("inspect", "-f", "{{.State.Status}}", "long").stdout == "paused\n"
    podman("unpause", "long")
    assert "sleep 100" in podman("top", "long").stdout
    podman("stop", "-t", "0", "long")
    assert podman("inspect", "-f", "{{.State.ExitCode}}", "long").stdout == "137\n"


def test_podman_with_a_terminal(podman: Any, busybox_rootfs: Path) -> None:
    image = ("-e", ENVIRONMENT, "--rootfs", str(busybox_rootfs))
    podman("run", "-d", "-t", "--name", "tty", *image, "sh", "-c", "tty; readlink /proc/self/fd/0")
    assert podman("wait", "tty").stdout == "0\n"
    assert podman("logs", "tty").stdout.split() == ["/dev/pts/0", "/dev/pts/0"]


# -- dockerd ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def docker(tmp_path: Path, busybox_tar: Path) -> Iterator[Any]:
    """A dockerd that runs its containers with corten-oci: a function that runs its client."""
    lacking("docker", "dockerd")
    settings = {
        "runtimes": {"corten": {"path": str(RUNTIME)}},
        "default-runtime": "corten",
        "hosts": [f"unix://{tmp_path}/d.sock"],
        "data-root": f"{tmp_path}/d-root",
        "exec-root": f"{tmp_path}/d-exec",
        "containerd": f"{tmp_path}/c.sock",
        "pidfile": f"{tmp_path}/d.pid",
        "bridge": "none",
        "iptables": False,
        "storage-driver": "vfs",
        "cgroup-parent": f"/corten-test-docker-{os.getpid()}",
    }
    (tmp_path / "daemon.json").write_text(json.dumps(settings))
    with contextlib.ExitStack() as stack:
        stack.callback(remove_groups, f"corten-test-docker-{os.getpid()}")
        stack.enter_context(containerd(tmp_path))
        log = stack.enter_context(open(tmp_path / "dockerd.log", "wb"))
        process = subprocess.Popen(["dockerd", "--config-file", f"{tmp_path}/daemon.json"], stdout=log, stderr=log)
        stack.callback(unmount_below, tmp_path)
        stack.callback(process.wait, 30)
        stack.callback(process.terminate)

        def client(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
            environment = {**os.environ, "DOCKER_HOST": f"unix://{tmp_path}/d.sock", "DOCKER_CONFIG": str(tmp_path)}
            return run(["docker", *arguments], check=check, env=environment)

        until(lambda: client("version", check=False).returncode == 0)
        client("import", str(busybox_tar), "busybox")
        yield client
        if ids := client("ps", "-aq").stdout.split():
            client("rm", "-f", *ids)


def test_dockerd_runs_containers_with_it(docker: Any) -> None:
    create = ("run", "--network", "none")
    assert docker(*create, "--rm", "busybox", "echo", "hello").stdout == "hello\n"
    assert docker(*create, "--rm", "busybox", "sh", "-c", "exit 42", check=False).returncode == 42
    missing = docker(*create, "--rm", "busybox", "nosuch", check=False)
    assert missing.returncode == 127
    assert 'exec: "nosuch": executable file not found in $PATH' in missing.stderr
    assert docker(*create, "--rm", "busybox", "/etc/passwd", check=False).returncode == 126
    options = (
        "--rm",
        "-u",
        "bob",
        "--read-only",
        "--tmpfs",
        "/scratch",
        "--ulimit",
        "nofile=64:128",
        "--init",
        "-h",
        "named",
    )
    script = "id -u; hostname; ulimit -n; touch /x 2>/dev/null || touch /scratch/x && echo scratch; cat /proc/1/comm"
    words = docker(*create, *options, "busybox", "sh", "-c", script).stdout.split()
    assert words == ["1000", "named", "64", "scratch", "docker-init"]
    docker(*create, "-d", "--name", "long", "-m", "64m", "busybox", "sleep", "100")
    assert docker("exec", "-e", "A=b", "-w", "/tmp", "long", "sh", "-c", "echo $A; pwd").stdout.split() == ["b", "/tmp"]
    assert docker("exec", "long", "nosuch", check=False).returncode in (126, 127)
    docker("pause", "long")
    assert docker("inspect", "-f", "{{.State.Status}}", "long").stdout.strip() == "paused"
    docker("unpause", "long")
    docker("update", "-m", "100m", "--memory-swap", "200m", "long")
    assert "sleep 100" in docker("top", "long").stdout
    shared = docker(*create, "--rm", "--pid", "container:long", "busybox", "ps").stdout
    assert "sleep 100" in shared
    docker("kill", "-s", "KILL", "long")
    assert docker("wait", "long").stdout.strip() == "137"
    docker("rm", "long")
