"""Libraries that programs are written with: aiodocker and dockerode do everyday work against a real daemon."""

from __future__ import annotations

import asyncio
import io
import json
import os
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

from daemons import Daemon
from machine import NODE

pytestmark = [pytest.mark.needs("busybox")]

HERE = Path(__file__).parent


def node(daemon: Daemon, script: str) -> dict[str, Any]:
    """What a script below ``node/`` prints."""
    # modules are looked for beside the script
    copy = NODE / script
    copy.write_text((HERE / "node" / script).read_text())
    try:
        done = daemon.run(["node", str(copy), str(daemon.socket)], timeout=90)
    finally:
        copy.unlink()
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.needs("node clients")
def test_dockerode(daemon: Daemon) -> None:
    found = node(daemon, "dockerode.mjs")
    assert found["version"]
    assert found["images"] is True
    assert found["run"] == [0, "to a terminal\r\n"]
    assert found["cat"] == ["line one\nline two\n", ""]
    assert found["catExit"] == 0
    assert (found["exec"], found["execExit"]) == ("got this\n", 5)
    assert found["logs"] == "out\n"
    assert (found["stats"], found["archive"], found["top"], found["wait"]) == (True, True, 1, 137)
    assert found["followed"] == [False, True]
    assert found["missing"] == [404, "No such container: nosuch"]
    assert found["events"] == [
        *("create", "attach", "start", "die", "destroy"),
        *("create", "start", "archive-path", "extract-to-dir", "kill", "die", "destroy"),
    ]


@pytest.mark.needs("node clients", "nf_tables")
def test_testcontainers_for_node(networked: Daemon) -> None:
    found = node(networked, "testcontainers.mjs")
    assert found == {"page": "copied", "exec": ["in\n", 3], "neighbour": "copied"}


@pytest.mark.needs("testcontainers", "nf_tables")
def test_testcontainers_for_python(networked: Daemon) -> None:
    script = """
import urllib.request
from testcontainers.core.container import DockerContainer
from testcontainers.core.network import Network
from testcontainers.core.wait_strategies import HttpWaitStrategy

serve = "mkdir /w; echo served > /w/index.html; exec httpd -f -p 80 -h /w"
with Network() as network:
    container = DockerContainer("busybox").with_command(["sh", "-c", serve]).with_exposed_ports(80)
    container = container.with_network(network).waiting_for(HttpWaitStrategy(80))
    with container as web:
        url = f"http://{web.get_container_host_ip()}:{web.get_exposed_port(80)}/"
        print(urllib.request.urlopen(url).read().decode().strip(), web.exec(["echo", "in"]).output.decode().strip())
"""
    done = networked.run(["env", "TESTCONTAINERS_RYUK_DISABLED=true", sys.executable, "-c", script], timeout=60)
    assert done.stdout.splitlines()[-1] == "served in"


@pytest.mark.needs("node clients", "nf_tables")
def test_a_dev_container(networked: Daemon, tmp_path: Path) -> None:
    project = tmp_path / "project"
    (project / ".devcontainer").mkdir(parents=True)
    wanted = {
        "image": "busybox", "remoteUser": "root", "containerEnv": {"KIND": "dev"}, "overrideCommand": True,
        "postCreateCommand": "echo made > /tmp/made",
    }  # fmt: skip
    (project / ".devcontainer/devcontainer.json").write_text(json.dumps(wanted))
    program = str(NODE / "node_modules/.bin/devcontainer")
    up = networked.run([program, "up", "--workspace-folder", str(project)], timeout=90)
    assert json.loads(up.stdout.splitlines()[-1])["outcome"] == "success"
    words = ("exec", "--workspace-folder", str(project), "sh", "-c", "echo $KIND; cat /tmp/made; pwd")
    assert networked.run([program, *words], timeout=60).stdout.split() == ["dev", "made", "/workspaces/project"]


@pytest.mark.needs("aiodocker")
def test_aiodocker(daemon: Daemon) -> None:
    asyncio.run(asyncio.wait_for(_with_aiodocker(daemon), 60))


async def _with_aiodocker(daemon: Daemon) -> None:
    import aiodocker

    docker = aiodocker.Docker(url=f"unix://{daemon.socket}")
    try:
        events = docker.events.subscribe()
        host = {"NetworkMode": "none"}
        config = {"Image": "busybox", "Cmd": ["cat"], "OpenStdin": True, "StdinOnce": True, "HostConfig": host}
        container = await docker.containers.create({**config, "AttachStdin": True}, name="aio")
        async with container.attach(stdin=True, stdout=True, stderr=True) as stream:
            await container.start()
            await stream.write_in(b"there and back\n")
            message = await stream.read_out()
            assert message is not None
            assert (message.stream, message.data) == (1, b"there and back\n")
        # the only client of its input has gone
        assert (await container.wait())["StatusCode"] == 0
        assert await container.log(stdout=True) == ["there and back\n"]
        await container.delete()

        script = "echo 1; sleep 0.2; echo 2; exec sleep 60"
        box = await docker.containers.run({"Image": "busybox", "Cmd": ["sh", "-c", script], "HostConfig": host})
        lines = []
        async for line in box.log(stdout=True, follow=True):
            lines.append(line)
            if len(lines) == 2:
                break
        assert lines == ["1\n", "2\n"]
        execution = await box.exec(["sh", "-c", "echo in; echo wrong >&2; exit 4"])
        async with execution.start(detach=False) as stream:
            said = {}
            while (message := await stream.read_out()) is not None:
                said[message.stream] = message.data
        assert said == {1: b"in\n", 2: b"wrong\n"}
        assert (await execution.inspect())["ExitCode"] == 4
        [sample] = await box.stats(stream=False)
        assert sample["pids_stats"]["current"] == 1
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w") as tar:
            entry = tarfile.TarInfo("made")
            entry.size = 4
            tar.addfile(entry, io.BytesIO(b"here"))
        await box.put_archive("/tmp", archive.getvalue())
        with await box.get_archive("/tmp/made") as tar:
            assert tar.extractfile("made").read() == b"here"
        await box.delete(force=True)
        actions = []
        while "destroy" not in actions:
            event = await asyncio.wait_for(events.get(), 5)
            # of the second: the subscription may begin after the first was made
            if event["Actor"]["ID"] == box.id:
                actions.append(event["Action"].partition(":")[0])
        assert [action for action in actions if not action.startswith(("exec", "archive", "extract"))] == [
            *("create", "start", "kill", "die", "destroy")
        ]
        assert [image["RepoTags"] for image in await docker.images.list(filter="busybox")]
        with pytest.raises(aiodocker.DockerError) as caught:
            await docker.containers.get("nosuch")
        assert caught.value.status == 404
    finally:
        await docker.close()


@pytest.mark.needs("newest docker")
def test_the_newest_docker_client(daemon: Daemon) -> None:
    from machine import CLIENTS

    docker = str(CLIENTS / "usr/bin/docker")
    version = json.loads(daemon.run([docker, "version", "--format", "json"]).stdout)
    assert version["Client"]["Version"] >= "28"
    assert version["Server"]["ApiVersion"]
    assert daemon.run([docker, "run", "--rm", "busybox", "echo", "hello"]).stdout == "hello\n"
    assert daemon.run([docker, "run", "-i", "--rm", "busybox", "cat"], input="in\n").stdout == "in\n"
    daemon.run([docker, "run", "-d", "--name", "box", "-v", "/data", "busybox", "sleep", "60"])
    assert daemon.run([docker, "exec", "-e", "A=b", "box", "sh", "-c", "echo $A"]).stdout == "b\n"
    for words in (["ps", "-a"], ["images", "--tree"], ["inspect", "box"], ["stats", "--no-stream"]):
        assert "box" in daemon.run([docker, *words]).stdout, words
    assert "Build cache usage" in daemon.run([docker, "system", "df", "-v"]).stdout
    assert "Server Version" in daemon.run([docker, "info"]).stdout
    daemon.run([docker, "rm", "-fv", "box"])
    assert os.listdir(daemon.data_root / "containers") == []
