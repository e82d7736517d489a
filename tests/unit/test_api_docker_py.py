"""docker-py, unmodified, against the API edge."""

import io
import threading

import pytest
from api_fakes import ApiServer, frame

docker = pytest.importorskip("docker")


@pytest.fixture(scope="module")
def server():
    with ApiServer() as server:
        yield server


@pytest.fixture(params=["auto", "1.41"])
def client(server, request):
    client = docker.DockerClient(base_url=f"unix://{server.path}", version=request.param, timeout=10)
    yield client
    client.close()


def test_ping_version_and_negotiation(client):
    assert client.ping() is True
    assert client.version()["ApiVersion"] == "1.56"


def test_containers(client, server):
    assert [container.name for container in client.containers.list(all=True, filters={"label": "a=b"})]
    assert server.engine.calls.seen[-2][2]["filters"] == {"label": ["a=b"]}
    with pytest.raises(docker.errors.NotFound, match="No such container: nope"):
        client.containers.get("nope")


def test_create_start_wait_remove(client, server):
    name = f"py-{client.api._version}"
    created = client.api.create_container(
        "host", ["true"], name=name, host_config=client.api.create_host_config(mem_limit="64m")
    )
    assert len(created["Id"]) == 64
    client.api.start(created["Id"])
    with pytest.raises(docker.errors.APIError) as caught:
        client.api.create_container("host", ["true"], name=name)
    assert caught.value.status_code == 409
    client.api.remove_container(created["Id"], force=True)


def test_logs_are_taken_apart(client):
    assert client.containers.get("web").logs(stdout=True, stderr=True) == b"hello\noops\n"
    assert list(client.containers.get("web").logs(stream=True, follow=False)) == [b"hello\n", b"oops\n"]


def test_exec_with_a_socket(client, server):
    containers = server.engine.containers
    containers.attached.clear()
    created = client.api.exec_create("web", ["cat"], stdin=True)
    sock = client.api.exec_start(created["Id"], socket=True)
    assert containers.attached.wait(5)
    with containers.program as program:
        sock._sock.sendall(b"hello")
        assert program.recv(100) == b"hello"
        program.sendall(frame(1, b"back"))
        assert sock._sock.recv(12) == frame(1, b"back")
    sock.close()


def test_exec_output(client, server):
    containers = server.engine.containers
    containers.attached.clear()

    def program():
        assert containers.attached.wait(5)
        with containers.program as end:
            end.sendall(frame(1, b"out") + frame(2, b"err"))

    thread = threading.Thread(target=program)
    thread.start()
    created = client.api.exec_create("web", ["x"])
    assert client.api.exec_start(created["Id"], demux=True) == (b"out", b"err")
    thread.join(10)


def test_archives(client):
    container = client.containers.get("web")
    chunks, stat = container.get_archive("/etc")
    assert b"".join(chunks) == b"archive"
    assert stat["name"] == "etc"
    assert container.put_archive("/in", io.BytesIO(b"t" * 300_000)) is True


def test_images(client):
    assert client.api.images()
    assert client.api.inspect_image("busybox:latest")["RepoTags"] == ["busybox:latest"]
    assert b"".join(client.api.get_image("host")) == b"image" * 10
    assert client.api.tag("host", "r.io/x", "1") is True
    progress = list(client.api.load_image(b"x" * 500, quiet=False))
    assert progress == [{"stream": "Loaded 500\n"}]
    assert "Downloaded newer image for busybox:latest" in client.api.pull("busybox", tag="latest")
    with pytest.raises(docker.errors.NotFound, match="pull access denied"):
        client.api.pull("secret", tag="latest")
    assert client.login("me", "word", registry="r.io", reauth=True)["Status"] == "Login Succeeded"
    assert "r.io/team/app" in client.api.push("r.io/team/app", tag="1")
    assert client.api.search("x", limit=3)[0]["name"] == "x"
    assert client.api.inspect_distribution("r.io/team/app")["Descriptor"]["size"] == 1


def test_events_stats_and_networks(client):
    assert [event["Action"] for event in client.events(since=1, until=2, decode=True)] == ["start"]
    assert client.containers.get("web").stats(stream=False) == {"read": 0}
    assert {network.name for network in client.networks.list()} == {"none", "host"}
    assert client.volumes.list() == []
    with pytest.raises(docker.errors.APIError, match="not a swarm manager"):
        client.swarm.reload()
