"""A store that somebody damaged behind the daemon's back: what is wrong is named and repaired, work goes on."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "unit"))
from fake_registry import FakeRegistry

from daemons import Daemon

pytestmark = [pytest.mark.needs("root", "docker", "busybox")]


@pytest.fixture
def registry(busybox_tar: Path) -> Iterator[FakeRegistry]:
    made = FakeRegistry()
    made.put_image("app", [busybox_tar.read_bytes()], "1", pack=lambda layer: gzip.compress(layer, 1))
    yield made
    made.close()


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Daemon]:
    """Only with what the registry has: nothing of it is here from elsewhere."""
    made = Daemon(tmp_path / "d", "--bridge", "none")
    made.start()
    yield made
    made.remove_containers()
    made.stop()


def check(daemon: Daemon, *arguments: str) -> tuple[int, list[dict]]:
    """(exit code, findings)."""
    done = daemon.corten("system", "check", "--format", "json", *arguments, check=False)
    assert not done.stderr, done.stderr
    documents = [json.loads(line) for line in done.stdout.splitlines()]
    assert "Checked" in documents[-1]
    return done.returncode, documents[:-1]


def layer(daemon: Daemon, image: str) -> Path:
    return Path(daemon.inspect(image)["GraphDriver"]["Data"]["UpperDir"])


def test_what_podman_s_system_check_finds(own: Daemon, registry: FakeRegistry) -> None:
    name = f"{registry.netloc}/app:1"
    own.docker("pull", "-q", name)
    own.docker("create", "--name", "lost", name, "true")
    own.docker("volume", "create", "empty")
    assert check(own) == (0, [])
    assert own.corten("system", "check").stdout.endswith("1 containers, 1 volumes: nothing is wrong\n")
    lost = own.inspect("lost")["Id"]
    files, image = layer(own, name), own.inspect(name)["Id"]
    os.truncate(files / "bin/busybox", 100)
    (own.data_root / "blobs/sha256" / image[7:]).unlink()
    (own.data_root / "overlay2" / ("e" * 64) / "diff").mkdir(parents=True)
    (own.data_root / "containers" / ("f" * 64)).mkdir()
    shutil.rmtree(own.data_root / "containers" / lost)
    shutil.rmtree(own.data_root / "volumes/empty")
    (own.data_root / "volumes/found/_data").mkdir(parents=True)

    code, found = check(own)
    assert code == 1
    assert [(item["Kind"], item["Id"]) for item in found] == [
        ("layer", own.inspect(name)["RootFS"]["Layers"][0]),
        ("config", image),
        ("directory", "e" * 64),
        ("container", lost),
        ("directory", "f" * 64),
        ("volume", "empty"),
        ("volume", "found"),
    ]
    assert all(not item["Repaired"] for item in found)
    assert found[0]["Images"] == [name]

    code, found = check(own, "--repair")
    assert (code, {item["Repaired"] for item in found}) == (0, {True})
    assert check(own) == (0, [])
    assert own.docker("run", "--rm", "-v", "found:/v", name, "echo", "fine").stdout == "fine\n"
    own.docker("start", "lost")
    assert own.docker("wait", "lost").stdout == "0\n"


def test_a_lost_layer_directory(own: Daemon, registry: FakeRegistry) -> None:
    name = f"{registry.netloc}/app:1"
    own.docker("pull", "-q", name)
    own.docker("run", "--name", "old", name, "sh", "-c", "echo mine > /kept")
    shutil.rmtree(layer(own, name).parent)
    done = own.docker("run", "--rm", name, "true", check=False)
    assert done.returncode in (1, 125)
    assert "does not exist" in done.stderr
    found = check(own)[1]
    assert [(item["Kind"], item["Problem"]) for item in found] == [
        ("layer", "its directory is missing"), ("container", "1 of the layers below it are missing")
    ]  # fmt: skip
    assert [item["Repaired"] for item in check(own, "--repair")[1]] == [True]
    own.docker("start", "old")
    own.docker("wait", "old")
    assert own.docker("cp", "old:/kept", "-").stdout.count("mine") == 1


def test_removal_and_pull_work_without_a_repair(own: Daemon, registry: FakeRegistry) -> None:
    name = f"{registry.netloc}/app:1"
    own.docker("pull", "-q", name)
    image, files = own.inspect(name)["Id"], layer(own, name)
    shutil.rmtree(files.parent)
    (own.data_root / "blobs/sha256" / image[7:]).unlink()
    own.restart()
    assert check(own, "--quick")[0] == 1
    assert name in own.docker("images", "--format", "{{.Repository}}:{{.Tag}}").stdout
    done = own.docker("create", image, check=False)
    assert done.stderr.strip().endswith(f"No such image: {image} (content {image} not found)")
    own.docker("rmi", name)
    own.docker("system", "prune", "-af")
    own.docker("pull", "-q", name)
    assert own.docker("run", "--rm", name, "echo", "fine").stdout == "fine\n"
    assert check(own, "--repair")[0] == 0


def test_a_layer_that_a_program_uses_waits_for_its_end(own: Daemon, registry: FakeRegistry) -> None:
    name = f"{registry.netloc}/app:1"
    own.docker("pull", "-q", name)
    own.docker("run", "-d", "--name", "user", name, "sleep", "600")
    (layer(own, name) / "etc/group").unlink()
    done = own.corten("system", "check", "--repair", check=False)
    assert done.returncode == 1
    assert "not repaired: a running container uses it: stop that first" in done.stdout
    assert done.stdout.endswith("1 problem\n")
    own.docker("kill", "user")
    own.docker("wait", "user")
    assert own.corten("system", "check", "--repair").stdout.endswith("1 problem, 1 repaired\n")
