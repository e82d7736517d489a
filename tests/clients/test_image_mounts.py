"""An image mounted as a directory (``--mount type=image``), with the unmodified docker client and with ours."""

from __future__ import annotations

import io
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemons import Daemon

pytestmark = [pytest.mark.needs("docker", "busybox")]


@pytest.fixture
def tools(daemon: Daemon, tmp_path: Path) -> Iterator[str]:
    """An image of two layers without any program."""
    archive = tmp_path / "tools.tar"
    with tarfile.open(archive, "w") as tar:
        for name, text in (("share/doc/readme", "read me"), ("old", "from below")):
            entry = tarfile.TarInfo(name)
            entry.size = len(text)
            tar.addfile(entry, io.BytesIO(text.encode()))
        for name, target in (("doc", "/share/doc"), ("out", "../../../etc")):
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            tar.addfile(entry)
    daemon.docker("import", "-c", 'CMD ["none"]', str(archive), "tools-base")
    daemon.docker("create", "--name", "maker", "tools-base")
    (tmp_path / "new").write_text("from above")
    daemon.docker("cp", str(tmp_path / "new"), "maker:/new")
    daemon.docker("commit", "maker", "tools")
    daemon.docker("rm", "maker")
    yield "tools"
    daemon.remove_containers()
    daemon.docker("rmi", "tools", "tools-base", check=False)


def mount(source: str, *more: str) -> list[str]:
    return ["--mount", ",".join(["type=image", f"source={source}", "target=/t", *more])]


@pytest.mark.parametrize("client", [pytest.param("docker", marks=pytest.mark.needs("docker 28")), "corten"])
def test_its_files_are_seen_and_cannot_be_changed(daemon: Daemon, tools: str, client: str) -> None:
    script = "cat /t/old /t/new /t/share/doc/readme; echo x > /t/old; mkdir /t/d"
    done = getattr(daemon, client)("run", "--rm", *mount(tools), "busybox", "sh", "-c", script, check=False)
    assert done.stdout == "from belowfrom aboveread me"
    assert done.stderr.count("Read-only file system") == 2
    assert done.returncode == 1


@pytest.mark.parametrize("subpath", ["share/doc", "doc"])
def test_a_part_of_it(daemon: Daemon, tools: str, subpath: str) -> None:
    done = daemon.corten("run", "--rm", *mount(tools, f"image-subpath={subpath}"), "busybox", "ls", "/t")
    assert done.stdout == "readme\n"


def test_a_part_never_leads_out_of_the_image(daemon: Daemon, tools: str) -> None:
    done = daemon.corten("run", "--rm", *mount(tools, "image-subpath=out"), "busybox", "ls", "/t", check=False)
    assert done.returncode in (125, 127)  # clients take "no such file or directory" for the program's
    assert "cannot access path out in image tools" in done.stderr
    done = daemon.corten("run", "--rm", *mount(tools, "image-subpath=../x"), "busybox", "ls", "/t", check=False)
    assert "subpath must be a relative path within the image" in done.stderr


def test_an_absent_image_is_said_and_nothing_is_made(daemon: Daemon) -> None:
    done = daemon.corten("run", "--name", "none", *mount("nosuch"), "busybox", "true", check=False)
    assert done.returncode == 125
    assert "No such image: nosuch" in done.stderr
    assert daemon.docker("ps", "-aq").stdout == ""


def test_inspect_files_of_a_stopped_one_and_removal(daemon: Daemon, tools: str) -> None:
    daemon.corten("create", "--name", "box", *mount(tools), "busybox", "sleep", "60")
    [shown] = daemon.inspect("box")["Mounts"]
    assert (shown["Type"], shown["Source"], shown["Destination"], shown["RW"]) == ("image", "tools", "/t", False)
    copied = daemon.run(["docker", "cp", "box:/t/old", "-"])
    assert "from below" in copied.stdout
    # the image stays as long as somebody has it mounted
    done = daemon.docker("rmi", "tools", check=False)
    assert done.returncode == 1
    assert "container" in done.stderr
    daemon.docker("start", "box")
    assert daemon.docker("exec", "box", "cat", "/t/new").stdout == "from above"
    daemon.docker("run", "--rm", "--volumes-from", "box", "busybox", "cat", "/t/new")
    daemon.docker("rm", "-f", "box")
    assert daemon.docker("rmi", "tools").returncode == 0


def test_places_of_a_killed_daemon_are_kept_or_taken_away(fresh_daemon: Daemon) -> None:
    daemon = fresh_daemon
    for name, command in (("stays", "60"), ("ends", "2")):
        daemon.corten("run", "-d", "--name", name, *mount("busybox"), "busybox", "sleep", command)
    daemon.kill()
    subprocess.run(["sleep", "2.5"], check=True)
    daemon.start()
    assert daemon.docker("exec", "stays", "ls", "/t/bin/busybox").returncode == 0
    stays, ends = (daemon.inspect(name)["Id"] for name in ("stays", "ends"))
    assert [path.name for path in (daemon.exec_root / "images").iterdir()] == [stays]
    assert ends != stays
    daemon.docker("rm", "-f", "stays", "ends")
    assert not (daemon.exec_root / "images").exists()
