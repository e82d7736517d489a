"""Images through Debian's docker-registry: by ours and by docker's client, compared with skopeo and dockerd."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "unit"))
from fake_registry import FakeRegistry

from daemons import ApiConnection, Daemon, Dockerd
from machine import leaked
from registries import DockerRegistry

pytestmark = pytest.mark.needs("docker-registry")


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerRegistry]:
    made = DockerRegistry(tmp_path_factory.mktemp("registry"))
    made.start()
    yield made
    made.stop()


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerRegistry]:
    made = DockerRegistry(tmp_path_factory.mktemp("locked"), password="s3cret")
    made.start()
    yield made
    made.stop()


@pytest.fixture
def clean(daemon: Daemon) -> Iterator[Daemon]:
    """The daemon that all share; images that the test brings are gone afterwards."""
    before = set(daemon.docker("images", "-q", "--no-trunc").stdout.split())
    names = set(_names(daemon))
    yield daemon
    for name in set(_names(daemon)) - names:
        daemon.docker("rmi", "-f", name)
    for image in set(daemon.docker("images", "-q", "--no-trunc").stdout.split()) - before:
        daemon.docker("rmi", "-f", image)


def _names(daemon: Daemon) -> list[str]:
    lines = daemon.docker("images", "--format", "{{.Repository}}:{{.Tag}}").stdout.split()
    return [line for line in lines if "<none>" not in line]


def skopeo(*arguments: str) -> str:
    done = subprocess.run(["skopeo", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("client", ["corten", "docker"])
def test_there_and_back(clean: Daemon, registry: DockerRegistry, client: str) -> None:
    run = getattr(clean, client)
    name = f"{registry.netloc}/{client}/app"
    run("tag", "busybox", f"{name}:1")
    pushed = run("push", f"{name}:1").stdout
    digest, document = registry.manifest(f"{client}/app", "1")
    assert f"The push refers to repository [{name}]" in pushed
    assert f"1: digest: {digest} size: " in pushed
    assert document["config"]["digest"] == clean.inspect("busybox")["Id"]
    assert "Layer already exists" in run("push", f"{name}:1").stdout
    identity = clean.inspect("busybox")["Id"]
    run("rmi", f"{name}:1")
    assert run("pull", f"{name}:1").stdout.endswith(f"{name}:1\n")
    found = clean.inspect(f"{name}:1")
    assert found["Id"] == identity
    assert f"{name}@{digest}" in found["RepoDigests"]
    assert "Image is up to date" in run("pull", f"{name}:1").stdout
    run("rmi", f"{name}:1")
    assert "Downloaded newer image" in run("pull", f"{name}@{digest}").stdout
    assert run("run", "--rm", "--network", "none", f"{name}@{digest}", "echo", "hello").stdout == "hello\n"


@pytest.mark.needs("skopeo")
def test_skopeo_sees_what_we_pushed_and_we_get_what_it_pushes(
    clean: Daemon, registry: DockerRegistry, tmp_path: Path
) -> None:
    name = f"{registry.netloc}/skopeo/app"
    clean.corten("tag", "busybox", f"{name}:1")
    clean.corten("push", f"{name}:1")
    seen = json.loads(skopeo("inspect", "--tls-verify=false", f"docker://{name}:1"))
    assert f"{name}@{seen['Digest']}" in clean.inspect(f"{name}:1")["RepoDigests"]
    for target, options in (("oci", ["--format", "oci"]), ("zstd", ["--dest-compress-format", "zstd"])):
        skopeo(
            "--insecure-policy", "copy", "-q", "--src-tls-verify=false", "--dest-tls-verify=false", *options,
            f"docker://{name}:1", f"docker://{name}:{target}",
        )  # fmt: skip
        clean.corten("rmi", "-f", f"{name}:1")
        clean.corten("pull", f"{name}:{target}")
        theirs = json.loads(skopeo("inspect", "--tls-verify=false", f"docker://{name}:{target}"))
        found = clean.inspect(f"{name}:{target}")
        assert f"{name}@{theirs['Digest']}" in found["RepoDigests"]
        config = json.loads(skopeo("inspect", "--config", "--tls-verify=false", f"docker://{name}:{target}"))
        assert found["RootFS"]["Layers"] == config["rootfs"]["diff_ids"]
    # back through a layout: our bytes are those that skopeo checks against every digest
    skopeo(
        "--insecure-policy", "copy", "-q", "--src-tls-verify=false", f"docker://{name}:1", f"oci:{tmp_path}/layout:1"
    )


def test_dockerd_pulls_ours_and_we_pull_its(clean: Daemon, dockerd: Dockerd, registry: DockerRegistry) -> None:
    ours, theirs = f"{registry.netloc}/from/corten", f"{registry.netloc}/from/dockerd"
    clean.docker("tag", "busybox", f"{ours}:1")
    clean.docker("push", f"{ours}:1")
    dockerd.docker("tag", "busybox", f"{theirs}:1")
    dockerd.docker("push", f"{theirs}:1")
    try:
        for engine, name in ((dockerd, ours), (clean, theirs)):
            engine.docker("pull", f"{name}:1")
            digest, document = registry.manifest(name.partition("/")[2], "1")
            found = engine.inspect(f"{name}:1")
            assert found["Id"] == document["config"]["digest"]
            assert found["RepoDigests"] == [f"{name}@{digest}"]
        assert clean.inspect(f"{theirs}:1")["RootFS"] == dockerd.inspect(f"{theirs}:1")["RootFS"]
    finally:
        dockerd.docker("rmi", "-f", f"{ours}:1", f"{theirs}:1", check=False)


def test_the_same_words_as_dockerd(clean: Daemon, dockerd: Dockerd, registry: DockerRegistry) -> None:
    for arguments in (
        ("pull", f"{registry.netloc}/nothing:1"),
        ("pull", f"{registry.netloc}/Nothing:1"),
        ("pull", f"{registry.netloc}/nothing@sha256:{'0' * 64}"),
        ("push", f"{registry.netloc}/nothing:1"),
    ):
        ours, theirs = (engine.docker(*arguments, check=False) for engine in (clean, dockerd))
        assert ours.returncode == theirs.returncode
        assert ours.stderr.splitlines()[-1].strip() == theirs.stderr.splitlines()[-1].strip(), arguments


def test_login_push_pull_logout(clean: Daemon, locked: DockerRegistry) -> None:
    name = f"{locked.netloc}/secret/app:1"
    for client in (clean.corten, clean.docker):
        clean.docker("tag", "busybox", name)
        refused = client("push", name, check=False)
        assert refused.returncode == 1
        assert "no basic auth credentials" in refused.stderr
        wrong = client("login", "-u", "me", "--password-stdin", locked.netloc, input="wrong", check=False)
        assert wrong.returncode == 1
        assert wrong.stderr.endswith(
            f"login attempt to http://{locked.netloc}/v2/ failed with status: 401 Unauthorized\n"
        )
        assert (
            "Login Succeeded" in client("login", "-u", "me", "--password-stdin", locked.netloc, input="s3cret").stdout
        )
        client("push", name)
        clean.docker("rmi", name)
        client("pull", name)
        # one file, whoever wrote it
        assert locked.netloc in json.loads((clean.directory / "config.json").read_text())["auths"]
        assert "Removing login credentials" in client("logout", locked.netloc).stdout
        clean.docker("rmi", name)
        denied = client("pull", name, check=False)
        assert "pull access denied" in denied.stderr
        assert "s3cret" not in clean.log.read_text()


def test_all_tags(clean: Daemon, registry: DockerRegistry) -> None:
    name = f"{registry.netloc}/many"
    for tag in ("a", "b", "c"):
        clean.docker("tag", "busybox", f"{name}:{tag}")
    clean.corten("push", "-a", name)
    for tag in ("a", "b", "c"):
        clean.docker("rmi", f"{name}:{tag}")
    for client in (clean.corten, clean.docker):
        client("pull", "-a", name)
        assert {f"{name}:{tag}" for tag in "abc"} <= set(_names(clean))


@pytest.mark.parametrize("client", ["corten", "docker"])
def test_run_pulls(clean: Daemon, registry: DockerRegistry, client: str) -> None:
    run = getattr(clean, client)
    name = f"{registry.netloc}/run/{client}:1"
    clean.docker("tag", "busybox", name)
    clean.docker("push", name)
    clean.docker("rmi", name)
    options = ("run", "--rm", "--network", "none")
    assert run(*options, "--pull", "never", name, "true", check=False).returncode == 125
    done = run(*options, name, "echo", "hello")
    assert done.stdout == "hello\n"
    assert f"Unable to find image '{name}' locally" in done.stderr
    assert "Image is up to date" in run(*options, "--pull", "always", name, "echo", "hello").stderr


def test_the_sdk(clean: Daemon, registry: DockerRegistry) -> None:
    import corten

    client = corten.connect(clean.host)
    name = f"{registry.netloc}/sdk:1"
    client.images.tag("busybox", name)
    digest = client.images.push(name)
    assert digest == registry.manifest("sdk", "1")[0]
    client.images.remove(name)
    assert name in client.images.pull(name).tags
    python = clean.client
    try:
        assert python.images.pull(name.rpartition(":")[0], tag="1").tags
        assert python.images.get_registry_data(name).id == digest
        assert python.images.get_registry_data(name).has_platform("linux/amd64")
    finally:
        python.close()
    assert "pull" in _actions(clean, name)


def _actions(daemon: Daemon, name: str) -> list[str]:
    until = str(int(time.time()) + 1)
    lines = daemon.docker("events", "--since", "5m", "--until", until, "--format", "{{json .}}").stdout.splitlines()
    return [event["Action"] for event in map(json.loads, lines) if event["Actor"]["ID"] == name]


# -- a daemon's own ---------------------------------------------------------------------------------------------------


def test_a_mirror_and_a_reload(tmp_path: Path, clean: Daemon, registry: DockerRegistry, cgroup_parent: str) -> None:
    clean.docker("tag", "busybox", f"{registry.netloc}/library/mirrored:1")
    clean.docker("push", f"{registry.netloc}/library/mirrored:1")
    file = tmp_path / "daemon.json"
    file.write_text('{"registry-mirrors": ["http://127.0.0.1:1"]}')
    own = Daemon(tmp_path / "d", "--config-file", str(file))
    own.start()
    try:
        assert own.docker("pull", "mirrored:1", check=False).returncode == 1
        file.write_text(f'{{"registry-mirrors": ["http://127.0.0.1:1", "http://{registry.netloc}"]}}')
        assert own.process is not None
        own.process.send_signal(signal.SIGHUP)
        mirror = f"http://{registry.netloc}/"
        deadline = time.monotonic() + 10
        while mirror not in own.docker("info", "--format", "{{json .RegistryConfig.Mirrors}}").stdout:
            assert time.monotonic() < deadline
        assert "Downloaded newer image for mirrored:1" in own.docker("pull", "mirrored:1").stdout
        _by_the_api(own, f"http://{registry.netloc}")
        own.process.send_signal(signal.SIGHUP)  # the file's word counts again
        while mirror not in own.docker("info", "--format", "{{json .RegistryConfig.Mirrors}}").stdout:
            assert time.monotonic() < deadline + 10
    finally:
        own.stop()


def _by_the_api(own: Daemon, mirror: str) -> None:
    """Mirrors are changed while the daemon works."""
    own.docker("rmi", "mirrored:1")
    assert own.corten("system", "mirrors", "--clear").stdout == ""
    assert json.loads(own.request("GET", "/system/mirrors")[1]) == {"Mirrors": []}
    assert own.corten("pull", "mirrored:1", check=False).returncode == 1
    assert own.corten("system", "mirrors", "--add", f"{mirror}/").stdout == f"{mirror}\n"
    own.corten("pull", "-q", "mirrored:1")
    assert own.corten("system", "mirrors", "--rm", mirror).stdout == ""
    for body in ({"Mirrors": ["ftp://x"]}, {"Mirrors": "x"}, {}, {"Mirrors": [], "More": 1}):
        status, answer = own.request("PUT", "/system/mirrors", body)
        assert status == 400, answer
    assert (
        own.corten("system", "mirrors", "--rm", mirror, check=False).stderr == f"{mirror} is no mirror of this daemon\n"
    )


@pytest.fixture
def slow() -> Iterator[FakeRegistry]:
    made = FakeRegistry()
    yield made
    made.close()


def test_a_client_that_leaves_ends_its_pull(clean: Daemon, slow: FakeRegistry) -> None:
    import gzip

    from tar_builder import Tar

    layers = [Tar().file(f"noise{number}", bytes(range(256)) * 40_000).bytes() for number in range(4)]
    slow.put_image("app", layers, "1", pack=lambda layer: gzip.compress(layer, 0))
    asked = threading.Event()

    def half(exchange):
        content = slow.blobs["app"][exchange.seen.path.rpartition("/")[2]]
        exchange.head(200, content_length=str(len(content)))
        exchange.wfile.write(content[: len(content) // 2])
        exchange.wfile.flush()
        asked.set()
        exchange.stall()

    slow.on(f"GET .*/blobs/sha256:(?!{_config_of(slow)})", half)
    before = clean.state()
    layers_before = set((clean.data_root / "overlay2").iterdir())
    connection = ApiConnection(clean.socket)
    connection.request("POST", f"/images/create?fromImage={slow.netloc}/app&tag=1")
    response = connection.getresponse()
    assert response.status == 200
    assert asked.wait(10)
    response.close()
    connection.close()
    assert not leaked(before, clean.state)
    deadline = time.monotonic() + 10
    while set((clean.data_root / "overlay2").iterdir()) - layers_before:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert clean.process is not None
    children = Path(f"/proc/{clean.process.pid}/task/{clean.process.pid}/children").read_text().split()
    assert len(children) <= 1  # the spawner


def _config_of(registry: FakeRegistry) -> str:
    document = json.loads(registry.manifests[("app", "1")][0])
    return document["config"]["digest"][7:]


def test_a_daemon_that_is_killed_in_the_midst_has_nothing_left(fresh_daemon: Daemon, slow: FakeRegistry) -> None:
    import gzip

    from tar_builder import Tar

    layers = [Tar().file(f"noise{number}", bytes(range(256)) * 40_000).bytes() for number in range(4)]
    slow.put_image("app", layers, "1", pack=lambda layer: gzip.compress(layer, 0))
    third = json.loads(slow.manifests[("app", "1")][0])["layers"][2]["digest"]
    asked = threading.Event()

    def stall(exchange):
        asked.set()
        exchange.stall()

    slow.on(f"GET .*/blobs/{third}", stall)
    overlay = fresh_daemon.data_root / "overlay2"
    before = set(overlay.iterdir())
    client = subprocess.Popen(
        ["docker", "-H", fresh_daemon.host, "pull", f"{slow.netloc}/app:1"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    assert asked.wait(10)
    fresh_daemon.kill()
    client.wait(10)
    slow.rules.clear()
    fresh_daemon.start()
    assert set(overlay.iterdir()) <= before | {overlay / "l"}
    assert fresh_daemon.docker("images", "-q", f"{slow.netloc}/app").stdout == ""
    fresh_daemon.docker("pull", f"{slow.netloc}/app:1")
