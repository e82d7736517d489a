"""The storage driver fuse-overlayfs: what works with overlay2 works with it, for root and for an ordinary user."""

from __future__ import annotations

import contextlib
import glob
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from corten.snapshot import fuse_problem
from daemons import Daemon, Engine
from users import User
from waiting import until

pytestmark = pytest.mark.needs("docker", "busybox", "fuse-overlayfs")
FIRST, COUNT = 610_000_000, 3 * 65_536
POOL = 620_000_000


@pytest.fixture(scope="module")
def of_root(tmp_path_factory: pytest.TempPathFactory, busybox_tar: Path, cgroup_parent: str) -> Iterator[Daemon]:
    flags = ("--bridge", "none", "--storage-driver", "fuse-overlayfs", "--userns-pool", f"{POOL}:131072")
    made = Daemon(tmp_path_factory.mktemp("fuse"), *flags)
    made.start()
    made.import_busybox(busybox_tar)
    yield made
    made.remove_containers()
    made.stop()


@pytest.fixture(scope="module")
def of_user(busybox_tar: Path) -> Iterator[User]:
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        made = User(Path(name), 54_010, (FIRST, COUNT))
        settings = made.home / ".config/corten"
        settings.mkdir(parents=True)
        (settings / "daemon.json").write_text('{"storage-driver": "fuse-overlayfs"}')
        archive = made.give(busybox_tar, "busybox.tar")
        made.corten("import", "-c", 'CMD ["sh"]', "-c", "ENV PATH=/bin", str(archive), "busybox")
        yield made
        made.leave()


@pytest.fixture(params=["root", pytest.param("user", marks=pytest.mark.needs("userns", "newuidmap"))])
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    made: Engine = request.getfixturevalue(f"of_{request.param}")
    yield made
    if ids := made.docker("ps", "-aq", "--no-trunc").stdout.split():
        made.docker("rm", "-f", "-v", *ids)


def programs() -> set[str]:
    """Processes of fuse-overlayfs."""
    found = set()
    for directory in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (directory / "comm").read_text().strip() == "fuse-overlayfs" and (directory / "cmdline").read_bytes():
                found.add(directory.name)
    return found


def once(engine: Engine, image: str, *command: str) -> str:
    return engine.docker("run", "--rm", "--network", "none", image, *command).stdout


def test_it_is_told(engine: Engine) -> None:
    assert engine.docker("info", "-f", "{{.Driver}}").stdout == "fuse-overlayfs\n"
    engine.docker("create", "--name", "made", "--network", "none", "busybox")
    assert engine.inspect("made")["GraphDriver"]["Name"] == "fuse-overlayfs"


def test_what_a_container_changes(engine: Engine) -> None:
    """Removed, replaced and moved directories are the same to diff, commit, cp, save and the next container."""
    before = programs()
    context = engine.directory / "context"
    context.mkdir()
    (context / "Dockerfile").write_text(
        "FROM busybox\n"
        "RUN mkdir -p /d/inner /kept && touch /d/gone /d/inner/gone /kept/a /kept/b && chown 1000:50 /kept/a\n"
        "RUN rm -r /d/inner && mkdir /d/inner && touch /d/inner/new\n"
    )
    engine.docker("build", "--network", "none", "-t", "base", str(context))
    assert once(engine, "base", "find", "/d", "/kept").split() == [
        "/d", "/d/gone", "/d/inner", "/d/inner/new", "/kept", "/kept/a", "/kept/b",
    ]  # fmt: skip
    script = "rm /kept/b; rm -r /d; mkdir /d; echo x > /d/again; ln /d/again /d/linked; mkdir /new; chown 7:8 /new"
    engine.docker("run", "--name", "box", "--network", "none", "base", "sh", "-c", script)
    changes = engine.docker("diff", "box").stdout.splitlines()
    assert sorted(changes) == [
        "A /d/again", "A /d/linked", "A /new", "C /d", "C /kept", "D /d/gone", "D /d/inner", "D /kept/b",
    ]  # fmt: skip
    assert "again" in engine.docker("cp", "box:/d/again", "-").stdout
    engine.docker("commit", "box", "kept")
    look = "stat -c '%n %u:%g %h' /d/again /kept/a; stat -c %u:%g /new; ls /d /kept"
    expected = "/d/again 0:0 2\n/kept/a 1000:50 1\n7:8\n/d:\nagain\nlinked\n\n/kept:\na\n"
    assert once(engine, "kept", "sh", "-c", look) == expected
    assert ".wh." not in engine.docker("export", "box").stdout
    engine.docker("rm", "-f", "box")
    engine.docker("rmi", "kept", "base")
    assert programs() <= before, "its program ends with the container"


def test_a_container_that_runs(engine: Engine) -> None:
    engine.docker("run", "-d", "--name", "box", "--network", "none", "busybox", "sleep", "300")
    engine.docker("exec", "-u", "bob", "box", "sh", "-c", "echo mine > /tmp/f; id -u > /tmp/g")
    engine.docker("restart", "-t", "0", "box")
    assert engine.docker("exec", "box", "cat", "/tmp/f", "/tmp/g").stdout == "mine\n1000\n"
    read_only = engine.docker("run", "--rm", "--read-only", "--network", "none", "busybox", "touch", "/x", check=False)
    assert "Read-only file system" in read_only.stderr


def test_ids_of_a_containers_own(engine: Engine) -> None:
    """Root inside is nobody outside, owners are the same inside and on disk, and no two containers share an id."""
    script = "touch /mine /his; chown bob /his; mkdir /d; rm -r /var; mkdir /var; cat /etc/hosts > /dev/null; sleep 300"
    for name in ("one", "two"):
        run = ("run", "-d", "--name", name, "--userns", "auto", "--network", "none", "busybox", "sh", "-c", script)
        engine.corten(*run)  # type: ignore[attr-defined]
    maps = [
        Path(f"/proc/{engine.inspect(name)['State']['Pid']}/uid_map").read_text().split() for name in ("one", "two")
    ]
    outside = POOL if isinstance(engine, Daemon) else FIRST + 65_535  # the user itself is the first id
    assert [int(text[1]) for text in maps] == [outside, outside + 65_536]
    look = "stat -c '%n %u:%g' / /mine /his /d /var /etc/hosts /bin/busybox; touch /etc/hosts && echo written"
    until(lambda: engine.docker("exec", "one", "test", "-d", "/var", check=False).returncode == 0)
    assert engine.docker("exec", "one", "sh", "-c", look).stdout.splitlines() == [
        "/ 0:0", "/mine 0:0", "/his 1000:0", "/d 0:0", "/var 0:0", "/etc/hosts 0:0", "/bin/busybox 0:0", "written",
    ]  # fmt: skip
    assert engine.docker("exec", "-u", "bob", "one", "sh", "-c", "echo x > /his; cat /his").stdout == "x\n"
    tar = engine.docker("cp", "one:/his", "-").stdout
    engine.docker("rm", "-f", "two")
    engine.docker("commit", "one", "kept")
    assert once(engine, "kept", "stat", "-c", "%u", "/his", "/mine").split() == ["1000", "0"]
    engine.docker("restart", "-t", "0", "one")
    assert engine.docker("exec", "one", "stat", "-c", "%u:%g", "/his").stdout == "1000:0\n"
    engine.docker("rm", "-f", "one")
    engine.docker("rmi", "kept")
    assert "his" in tar


def test_a_daemon_that_was_killed_finds_its_containers(of_root: Daemon) -> None:
    of_root.docker("run", "-d", "--name", "box", "busybox", "sh", "-c", "echo x > /f; sleep 300")
    of_root.kill()
    of_root.start()
    assert of_root.docker("exec", "box", "cat", "/f").stdout == "x\n"
    of_root.docker("rm", "-f", "box")


def test_what_it_cannot_is_refused(of_user: User, of_root: Daemon) -> None:
    done = of_user.corten("create", "--userns", "auto", "--network", "none", "-v", "kept:/v", "busybox", check=False)
    assert "invalid mount of type volume at /v: without root it cannot be shown with the ids of an auto" in done.stderr
    assert of_user.docker("volume", "ls", "-q").stdout == ""
    done = of_user.corten("run", "--rm", "--network", "none", "host", "true", check=False)
    assert "the host image needs overlay2" in done.stderr
    own = Daemon(of_root.directory / "other", "--bridge", "none", "--storage-driver", "nosuch")
    own.start(check=False)
    assert "overlay2, fuse-overlayfs, vfs are supported" in own.log.read_text()


def test_the_driver_of_the_layers_that_are_here_is_kept(of_root: Daemon) -> None:
    of_root.stop()
    of_root.flags = (*of_root.flags[:2], *of_root.flags[4:])
    of_root.start()
    assert json.loads(of_root.docker("info", "-f", "{{json .}}").stdout)["Driver"] == "fuse-overlayfs"
    assert once(of_root, "busybox", "echo", "x") == "x\n"


def attempts() -> set[str]:
    return set(glob.glob("/tmp/.corten-*"))


@pytest.mark.parametrize("after_ms", [0, 5, 20, 60])
def test_a_daemon_that_is_killed_while_it_tries_the_driver_leaves_nothing(tmp_path: Path, after_ms: int) -> None:
    before, mounted = attempts(), Path("/proc/self/mountinfo").read_text()
    running = programs()
    words = [
        "from pathlib import Path; import sys; from corten.snapshot import fuse_problem; print(flush=True)\n"
        "while True:\n  assert fuse_problem(Path(sys.argv[1])) == ''"
    ]
    with subprocess.Popen([sys.executable, "-c", *words, str(tmp_path)], stdout=subprocess.PIPE) as trying:
        assert trying.stdout is not None
        trying.stdout.readline()
        time.sleep(after_ms / 1000)
        trying.kill()
    assert attempts() == before
    assert Path("/proc/self/mountinfo").read_text() == mounted
    until(lambda: programs() <= running)
    assert fuse_problem(tmp_path) == ""
    assert list(tmp_path.iterdir()) == [], "the next one sweeps its directories"
