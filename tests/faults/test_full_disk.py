"""A data root on a file system that is full: clear errors, nothing half-made, and work goes on when there is room."""

from __future__ import annotations

import io
import json
import os
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemons import Daemon

pytestmark = [pytest.mark.needs("docker", "busybox", "loop")]

SIZE = 64 << 20


@pytest.fixture
def small(tmp_path: Path, busybox_tar: Path, cgroup_parent: str) -> Iterator[Daemon]:
    """A daemon whose data root has 64 MB."""
    disk, mounted = tmp_path / "disk", tmp_path / "small"
    mounted.mkdir()
    with open(disk, "wb") as file:
        file.truncate(SIZE)
    subprocess.run(["mkfs.ext4", "-q", "-F", "-m", "0", disk], check=True)
    subprocess.run(["mount", "-o", "loop", disk, mounted], check=True)
    try:
        made = Daemon(tmp_path / "d", data_root=mounted / "data")
        made.start()
        try:
            made.import_busybox(busybox_tar)
            yield made
            (mounted / "ballast").unlink(missing_ok=True)
            made.remove_containers()
        finally:
            made.stop()
    finally:
        subprocess.run(["umount", mounted], check=True)


def fill(daemon: Daemon) -> Path:
    """Take all the room that is left; removing the file gives it back."""
    ballast = daemon.data_root.parent / "ballast"
    with open(ballast, "wb", buffering=0) as file:
        for block in (1 << 20, 4096, 512):
            try:
                while True:
                    file.write(b"x" * block)
            except OSError:
                continue
    return ballast


def layers(daemon: Daemon) -> set[str]:
    return {path.name for path in daemon.data_root.glob("overlay2/*") if path.name != "l"}


def test_an_image_too_large_is_refused_and_leaves_nothing(small: Daemon, tmp_path: Path) -> None:
    (tmp_path / "rootfs").mkdir()
    (tmp_path / "rootfs/big").write_bytes(os.urandom(1 << 20) * 100)
    subprocess.run(["tar", "-C", tmp_path / "rootfs", "-cf", tmp_path / "big.tar", "."], check=True)
    before = layers(small)
    done = small.docker("import", str(tmp_path / "big.tar"), "big", check=False)
    assert done.returncode == 1
    assert "no space left on device" in done.stderr
    assert layers(small) == before
    assert "big" not in small.docker("images").stdout
    assert small.docker("run", "--rm", "busybox", "echo", "fine").stdout == "fine\n"


def test_a_container_gets_the_error_and_the_daemon_lives(small: Daemon) -> None:
    done = small.docker("run", "--name", "writer", "busybox", "dd", "if=/dev/zero", "of=/big", "bs=1M", check=False)
    assert done.returncode == 1
    assert "No space left on device" in done.stderr
    small.docker("rm", "writer")
    assert small.docker("run", "--rm", "busybox", "echo", "fine").stdout == "fine\n"


def test_no_room_for_anything(small: Daemon) -> None:
    small.docker("run", "-d", "--name", "before", "busybox", "sh", "-c", "while :; do echo line; sleep 0.02; done")
    ballast = fill(small)
    done = small.docker("create", "--name", "none", "busybox", check=False)
    if done.returncode:
        assert "no space left on device" in done.stderr or "disk is full" in done.stderr, done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
        assert "none" not in small.docker("ps", "-a", "--format", "{{.Names}}").stdout.split()
    assert small.process.poll() is None
    # reading needs no room
    assert small.inspect("before")["State"]["Running"] is True
    assert json.loads(small.request("GET", "/images/json")[1])
    assert small.docker("exec", "before", "echo", "alive").stdout == "alive\n"
    # a program does not notice that its log has no room, and ends as it does otherwise
    small.docker("stop", "-t", "0", "before")
    assert small.inspect("before")["State"]["ExitCode"] == 137
    # removing is what makes room
    container_id = small.inspect("before")["Id"]
    small.docker("rm", "before")
    assert not (small.exec_root / container_id).exists(), "its exit waited for room to be recorded, and goes with it"
    ballast.unlink()
    assert small.docker("run", "--rm", "busybox", "echo", "fine").stdout == "fine\n"


def test_an_exit_that_could_not_be_saved_is_known_later(small: Daemon) -> None:
    script = "trap 'exit 9' TERM; while :; do sleep 0.1; done"
    small.docker("run", "-d", "--name", "first", "busybox", "sh", "-c", script)
    small.docker("run", "-d", "--name", "second", "busybox", "sh", "-c", script)
    ballast = fill(small)
    small.docker("stop", "-t", "20", "first")
    small.docker("stop", "-t", "20", "second")
    small.kill()
    ballast.unlink()
    small.start()
    for name in ("first", "second"):
        state = small.inspect(name)["State"]
        assert (state["Status"], state["ExitCode"]) == ("exited", 9)
    small.docker("start", "first")
    assert small.inspect("first")["State"]["Running"] is True


def test_starts_on_a_full_disk(small: Daemon) -> None:
    small.docker("create", "--name", "kept", "busybox", "echo", "later")
    ballast = fill(small)
    small.kill()
    small.start(check=False, timeout_s=10)
    if small.process.poll() is not None:
        assert "space" in small.log.read_text().splitlines()[-1] or "full" in small.log.read_text().splitlines()[-1]
    ballast.unlink()
    if small.process.poll() is not None:
        small.start()
    assert small.docker("start", "-a", "kept").stdout == "later\n"


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (100 << 20, "FROM busybox\nCOPY big /big\n"),  # the context itself
        (35 << 20, "FROM busybox\nCOPY big /big\n"),  # the layer beside it
        (1, "FROM busybox\nRUN dd if=/dev/zero of=/big bs=1M\n"),  # what a step writes
    ],
    ids=["context", "layer", "step"],
)
def test_a_build_that_does_not_fit_leaves_nothing_and_the_cache_works(small: Daemon, size: int, text: str) -> None:
    fine = _context("FROM busybox\nRUN echo fine > /f\n", 1)
    assert b"Successfully built" in small.request("POST", "/build", fine, content_type="application/x-tar")[1]
    before = layers(small)
    status, answer = small.request("POST", "/build?forcerm=1", _context(text, size), content_type="application/x-tar")
    assert b"no space left on device" in answer.lower(), (status, answer)
    assert layers(small) == before
    assert not small.docker("ps", "-aq").stdout
    assert not list((small.data_root / "build/scratch").iterdir())
    again = small.request("POST", "/build", fine, content_type="application/x-tar")[1]
    assert b"Using cache" in again
    assert b"Successfully built" in again


def _context(dockerfile: str, size: int) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name, content in (("Dockerfile", dockerfile.encode()), ("big", os.urandom(1 << 20) * (size >> 20) + b"x")):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return stream.getvalue()
