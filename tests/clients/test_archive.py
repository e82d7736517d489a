"""``docker cp`` and the archive routes: what goes in and out, and dockerd beside it."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import tarfile
import threading
import time
from collections.abc import Iterator

import pytest

from daemons import Daemon, Dockerd, Engine

pytestmark = [pytest.mark.needs("docker", "busybox")]


Entry = tuple[str, bytes | None]


def tar(*entries: Entry) -> bytes:
    """Of files, and of directories where there is no content; all belong to 7:8."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in entries:
            member = tarfile.TarInfo(name)
            member.uid, member.gid = 7, 8
            if content is None:
                member.type, member.mode = tarfile.DIRTYPE, 0o755
            else:
                member.size = len(content)
            archive.addfile(member, io.BytesIO(content or b""))
    return buffer.getvalue()


def put(engine: Engine, options: str, *entries: Entry) -> tuple[int, str]:
    target = f"/containers/box/archive?path=/tmp{options}"
    status, answer = engine.request("PUT", target, tar(*entries), content_type="application/x-tar")
    return status, answer.decode()


def found(engine: Engine) -> dict[str, tuple[bool, int, int]]:
    """What is in /tmp: whether it is a directory, owner, group."""
    status, answer = engine.request("GET", "/containers/box/archive?path=/tmp/.")
    assert status == 200
    with tarfile.open(fileobj=io.BytesIO(answer)) as archive:
        return {member.name: (member.isdir(), member.uid, member.gid) for member in archive.getmembers()[1:]}


def names(archive: bytes) -> set[str]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        return set(tar.getnames())


@pytest.mark.needs("dockerd")
def test_the_whole_root_of_a_program_without_what_the_kernel_makes_up(daemon: Daemon, dockerd: Dockerd) -> None:
    seen = {}
    for engine in (daemon, dockerd):
        engine.docker("run", "-d", "--name", "box", "--network", "none", "busybox", "sleep", "100")
        status, archive = engine.request("GET", "/containers/box/archive?path=/")
        assert status == 200
        seen[engine] = names(archive)
        assert {name for name in seen[engine] if name.lstrip("/").startswith(("proc/", "sys/", "dev/n"))} == set()
        for path in ("/proc/version", "/sys/kernel", "/proc/1/status"):
            status, answer = engine.request("GET", f"/containers/box/archive?path={path}")
            assert (status, b"Could not find the file" in answer) == (404, True), path
            assert engine.request("HEAD", f"/containers/box/archive?path={path}")[0] == 404
        assert names(engine.request("GET", "/containers/box/archive?path=/proc")[1]) == {"proc"}
        engine.docker("rm", "-f", "box")
    assert {name for name in seen[daemon] ^ seen[dockerd] if not name.lstrip("/").startswith("dev")} == set()


@pytest.mark.needs("dockerd")
@pytest.mark.parametrize("command", ["run -d", "create"])
def test_directories_and_files_in_each_others_place(daemon: Daemon, dockerd: Dockerd, command: str) -> None:
    seen = []
    for engine in (daemon, dockerd):
        engine.docker(*command.split(), "--name", "box", "--network", "none", "busybox", "sleep", "100")
        assert put(engine, "", ("d", None), ("d/in", b"1"), ("f", b"2"))[0] == 200
        for value in ("1", "true"):
            for entry, text in (
                (("d", b"now a file"), "cannot overwrite directory"),
                (("f", None), "cannot overwrite non-directory"),
            ):
                # as a conflict; dockerd has 500 for it
                status, told = put(engine, f"&noOverwriteDirNonDir={value}", entry)
                assert (status >= 400, text in told) == (True, True), (status, told)
        seen.append(found(engine))
        assert put(engine, "&noOverwriteDirNonDir=0", ("d", b"now a file"), ("f", None))[0] == 200
        seen.append(found(engine))
        engine.docker("rm", "-f", "box")
    assert seen[:2] == seen[2:]
    assert seen[0] == {"./d": (True, 7, 8), "./d/in": (False, 7, 8), "./f": (False, 7, 8)}
    assert seen[1] == {"./d": (False, 7, 8), "./f": (True, 7, 8)}


@pytest.mark.needs("dockerd")
@pytest.mark.parametrize("user", ["", "0"])
def test_owners_of_what_is_put(daemon: Daemon, dockerd: Dockerd, user: str) -> None:
    seen = []
    for engine in (daemon, dockerd):
        engine.docker("create", "--name", "box", *(["-u", user] if user else []), "busybox")
        for number, options in enumerate(("", "&copyUIDGID=1", "&copyUIDGID=true", "&copyUIDGID=0")):
            assert put(engine, options, (f"d{number}", None), (f"d{number}/f", b"1"))[0] == 200
        seen.append(found(engine))
        engine.docker("rm", "-f", "box")
    assert seen[0] == seen[1]
    assert seen[0]["./d1/f"] == ((False, 0, 0) if user else (False, 7, 8))


@pytest.mark.parametrize(
    ("user", "owner"), [("bob", (1000, 1000)), ("bob:extra", (1000, 50)), ("1234", (1234, 0)), ("5:6", (5, 6))]
)
def test_owners_by_the_files_of_the_container(daemon: Daemon, user: str, owner: tuple[int, int]) -> None:
    """dockerd 20.10 looks for them among the machine's users."""
    daemon.docker("create", "--name", "box", "-u", user, "busybox")
    assert put(daemon, "&copyUIDGID=1", ("f", b"1"))[0] == 200
    assert found(daemon) == {"./f": (False, *owner)}


def test_what_cannot_be_put(daemon: Daemon) -> None:
    daemon.docker("create", "--name", "box", "-u", "nosuch", "busybox")
    assert put(daemon, "&copyUIDGID=1", ("f", b"1")) == (
        400, '{"message":"unable to find user nosuch: no matching entries in passwd file"}\n',
    )  # fmt: skip
    status, told = put(daemon, "", ("../../f", b"1"))
    assert (status, "is outside of the archive's root" in told) == (400, True)
    for archive in (b"no archive", tar(("f", b"x" * 9999))[:3000], tar(("f", b"1"))[:300]):
        status, answer = daemon.request("PUT", "/containers/box/archive?path=/tmp", archive)
        assert (status, b"invalid tar archive" in answer) == (400, True)
    assert found(daemon).keys() <= {"./f"}


@contextlib.contextmanager
def ended_unnoticed(daemon: Daemon) -> Iterator[int]:
    """The program of a container has ended and its shim has had no time yet to see it: the shim's process id."""
    daemon.docker("run", "-d", "--name", "box", "busybox", "sh", "-c", "echo kept > /kept; sleep 100")
    daemon.docker("exec", "box", "sh", "-c", "until [ -s /kept ]; do sleep 0.01; done")
    box = daemon.inspect("box")
    shim = int((daemon.exec_root / box["Id"] / "shim.pid").read_text())
    os.kill(shim, signal.SIGSTOP)
    try:
        os.kill(box["State"]["Pid"], signal.SIGKILL)
        deadline = time.monotonic() + 10
        while os.path.exists(f"/proc/{box['State']['Pid']}/root/") and time.monotonic() < deadline:
            time.sleep(0.01)
        yield shim
    finally:
        with contextlib.suppress(ProcessLookupError):  # it may have been let go already, and be done
            os.kill(shim, signal.SIGCONT)
        daemon.docker("wait", "box")


def test_files_of_a_container_at_the_very_moment_of_its_end(daemon: Daemon) -> None:
    with ended_unnoticed(daemon) as shim:
        assert daemon.inspect("box")["State"]["Running"]
        status, archive = daemon.request("GET", "/containers/box/archive?path=/kept")
        assert (status, b"kept\n" in archive) == (200, True)
        assert daemon.request("HEAD", "/containers/box/archive?path=/kept")[0] == 200
        threading.Timer(0.3, lambda: os.kill(shim, signal.SIGCONT)).start()
        assert put(daemon, "", ("late", b"1"))[0] == 200
    assert "./late" in found(daemon)
