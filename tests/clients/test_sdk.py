"""The Python SDK with a real daemon."""

from __future__ import annotations

import io
import tarfile
import time

import pytest

import corten
from corten.client import Client, ProgramFailed
from corten.errors import Conflict, NotFound
from daemons import Daemon


@pytest.fixture
def client(daemon: Daemon) -> Client:
    return corten.connect(daemon.host)


def test_run(client: Client) -> None:
    assert client.system.ping()
    assert client.containers.run("busybox", ["echo", "hello"]) == b"hello\n"
    big = b"x" * 3_000_000
    assert client.containers.run("busybox", ["cat"], stdin=big) == big
    with pytest.raises(ProgramFailed) as caught:
        client.containers.run("busybox", ["sh", "-c", "echo bad >&2; exit 3"])
    assert (caught.value.exit_code, caught.value.error) == (3, b"bad\n")
    with pytest.raises(NotFound):
        client.containers.run("nosuchimage")
    assert client.containers.list(all=True) == []


def test_a_container(client: Client) -> None:
    with client.containers.start(
        "busybox", ["sleep", "1000"], name="sdk", env={"A": "1"}, memory=64 << 20
    ) as container:
        assert (container.name, container.status) == ("sdk", "running")
        assert container == client.containers.get("sdk")
        result = container.exec(["sh", "-c", "echo $A; cat; echo err >&2; exit 4"], stdin=b"typed")
        assert (result.exit_code, result.output, result.error) == (4, b"1\ntyped", b"err\n")
        with pytest.raises(ProgramFailed, match="exit code 4"):
            container.exec(["sh", "-c", "exit 4"], check=True)
        assert [process["CMD"] for process in container.top()] == ["sleep 1000"]
        assert container.stats()["memory_stats"]["limit"] == 64 << 20
        with pytest.raises(Conflict):
            client.containers.create("busybox", name="sdk")
        container.pause()
        assert container.status == "paused"
        container.unpause()
        container.rename("sdk2")
        assert container.reload().name == "sdk2"
        container.stop(0)
        assert (container.status, container.wait(), container.pid) == ("exited", 137, 0)
    with pytest.raises(NotFound):
        client.containers.get("sdk2")


def test_logs(client: Client) -> None:
    script = "echo one; echo two >&2; sleep 0.3; echo three"
    with client.containers.start("busybox", ["sh", "-c", script]) as container:
        lines = list(container.follow_logs())
        assert b"".join(data for stream, data in lines if stream == 1) == b"one\nthree\n"
        assert b"".join(data for stream, data in lines if stream == 2) == b"two\n"
        assert container.logs(stderr=False, tail=1) == b"three\n"


def test_files(client: Client) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        member = tarfile.TarInfo("new")
        member.size = 4
        archive.addfile(member, io.BytesIO(b"data"))
    with client.containers.create("busybox") as container:
        container.put_archive("/tmp", buffer.getvalue())
        with tarfile.open(fileobj=io.BytesIO(b"".join(container.get_archive("/tmp/new")))) as archive:
            file = archive.extractfile("new")
            assert file is not None
            assert file.read() == b"data"
        assert ("A", "/tmp/new") in container.changes()
        with pytest.raises(NotFound):
            list(container.get_archive("/nope"))
        identifier = container.commit("sdk/made:1", message="why", changes=["CMD cat /tmp/new"])
    assert client.images.get("sdk/made:1").id == identifier
    assert client.containers.run("sdk/made:1") == b"data"
    saved = b"".join(client.images.save(["sdk/made:1"]))
    assert {"Untagged": "sdk/made:1"} in client.images.remove("sdk/made:1")
    assert client.images.load([saved]) == ["sdk/made:1"]
    assert client.images.get("sdk/made:1").id == identifier
    client.images.remove("sdk/made:1")


def test_volumes_and_events(client: Client) -> None:
    volume = client.volumes.create("sdkvol", labels={"a": "b"})
    assert client.volumes.get("sdkvol") == volume
    assert volume in client.volumes.list({"label": ["a=b"]})
    client.volumes.remove("sdkvol")
    events = client.system.events(since=time.time() - 60, filters={"type": ["volume"], "volume": ["sdkvol"]})
    assert [next(events)["Action"] for _ in range(2)] == ["create", "destroy"]
    events.close()
