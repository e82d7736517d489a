"""``corten registry serve`` with unmodified clients, both ways, compared by digest."""

from __future__ import annotations

import base64
import contextlib
import gzip
import hashlib
import http.client
import http.server
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from certificates import HAS_OPENSSL, make_certificates
from daemons import Daemon, Dockerd
from machine import CLIENTS
from registries import ACCEPT, CortenRegistry, DockerRegistry, Registry

OCI = "application/vnd.oci.image"


# -- images -----------------------------------------------------------------------------------------------------------


def _layer(name: str, content: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        entry = tarfile.TarInfo(name)
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


class Layout:
    """An OCI image layout with one image of several layers, tagged "1"."""

    def __init__(self, directory: Path, layers: int = 3, size: int = 200_000) -> None:
        self.directory = directory
        (directory / "blobs/sha256").mkdir(parents=True)
        tars = [_layer(f"file{number}", os.urandom(size) + bytes(size)) for number in range(layers)]
        config = {
            "architecture": "amd64", "os": "linux", "config": {"Cmd": ["/file0"]},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(item).hexdigest()}" for item in tars]},
            "history": [{"created_by": "test"} for _ in tars],
        }  # fmt: skip
        self.blobs = [self._put(f"{OCI}.config.v1+json", json.dumps(config).encode())]
        self.blobs += [self._put(f"{OCI}.layer.v1.tar+gzip", gzip.compress(item, 1)) for item in tars]
        manifest = {
            "schemaVersion": 2, "mediaType": f"{OCI}.manifest.v1+json", "config": self.blobs[0],
            "layers": self.blobs[1:],
        }  # fmt: skip
        entry = self._put(f"{OCI}.manifest.v1+json", json.dumps(manifest).encode())
        self.digest = entry["digest"]
        named = {**entry, "annotations": {"org.opencontainers.image.ref.name": "1"}}
        (directory / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [named]}))
        (directory / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')

    def _put(self, media_type: str, content: bytes) -> dict[str, Any]:
        encoded = hashlib.sha256(content).hexdigest()
        (self.directory / "blobs/sha256" / encoded).write_bytes(content)
        return {"mediaType": media_type, "digest": f"sha256:{encoded}", "size": len(content)}


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    return Layout(tmp_path_factory.mktemp("layout"))


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CortenRegistry]:
    made = CortenRegistry(tmp_path_factory.mktemp("registry"))
    made.start()
    yield made
    made.stop()


def run(*command: str, **options: Any) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def get(registry: Registry, path: str) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection(registry.netloc, timeout=30)
    connection.request("GET", path, headers={"Accept": ACCEPT})
    response = connection.getresponse()
    body = response.read()
    connection.close()
    return response.status, {name.lower(): value for name, value in response.getheaders()}, body


def is_whole(registry: Registry, name: str, reference: str) -> str:
    """The digest of an image whose every blob is there and right."""
    status, headers, body = get(registry, f"/v2/{name}/manifests/{reference}")
    assert status == 200
    digest = headers["docker-content-digest"]
    assert digest == f"sha256:{hashlib.sha256(body).hexdigest()}"
    document = json.loads(body)
    for blob in [document["config"], *document["layers"]]:
        status, _, content = get(registry, f"/v2/{name}/blobs/{blob['digest']}")
        assert status == 200
        assert f"sha256:{hashlib.sha256(content).hexdigest()}" == blob["digest"]
        assert len(content) == blob["size"]
    return digest


def digest_in(directory: Path) -> str:
    """The digest of the one image in a layout."""
    (entry,) = json.loads((directory / "index.json").read_text())["manifests"]
    return str(entry["digest"])


# -- docker -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dockerd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dockerd]:
    made = Dockerd(tmp_path_factory.mktemp("dockerd"))
    try:
        made.start()
        yield made
    finally:
        made.stop()


def _there_and_back(engine: Any, registry: Registry, client: str, name: str) -> None:
    """Push, look at it, remove, pull: the same image, under the digest that the registry says."""
    command = getattr(engine, client)
    whole = f"{registry.netloc}/{name}"
    identity = command("images", "-q", "--no-trunc", f"{whole}:1").stdout.strip()
    pushed = command("push", f"{whole}:1").stdout
    digest = is_whole(registry, name, "1")
    assert f"digest: {digest}" in pushed
    assert "Layer already exists" in command("push", f"{whole}:1").stdout
    command("rmi", f"{whole}:1")
    assert f"Digest: {digest}" in command("pull", f"{whole}:1").stdout
    assert command("images", "-q", "--no-trunc", f"{whole}:1").stdout.strip() == identity
    command("rmi", f"{whole}:1")
    assert f"Digest: {digest}" in command("pull", f"{whole}@{digest}").stdout
    command("rmi", f"{whole}@{digest}")


@pytest.mark.needs("dockerd", "docker", "skopeo")
def test_docker(dockerd: Dockerd, registry: CortenRegistry, layout: Layout, tmp_path: Path) -> None:
    name = f"{registry.netloc}/docker/app"
    run("skopeo", "copy", f"oci:{layout.directory}:1", f"docker-archive:{tmp_path}/image.tar:{name}:1")
    dockerd.docker("load", "-i", f"{tmp_path}/image.tar")
    _there_and_back(dockerd, registry, "docker", "docker/app")
    # under another name its layers are mounted
    dockerd.docker("pull", f"{name}:1")
    dockerd.docker("tag", f"{name}:1", f"{registry.netloc}/docker/other:1")
    assert "Mounted from docker/app" in dockerd.docker("push", f"{registry.netloc}/docker/other:1").stdout
    assert is_whole(registry, "docker/other", "1") == is_whole(registry, "docker/app", "1")


@pytest.mark.parametrize("client", ["corten", "docker"])
def test_our_daemon(daemon: Daemon, registry: CortenRegistry, client: str) -> None:
    name = f"{registry.netloc}/ours/{client}:1"
    daemon.docker("tag", "busybox", name)
    try:
        _there_and_back(daemon, registry, client, f"ours/{client}")
    finally:
        with contextlib.suppress(AssertionError, subprocess.CalledProcessError):
            daemon.docker("rmi", name)


@pytest.mark.needs("dockerd", "docker")
def test_docker_with_a_password(dockerd: Dockerd, tmp_path: Path) -> None:
    registry = CortenRegistry(tmp_path, password="s3cret")
    registry.start()
    try:
        refused = dockerd.docker("pull", f"{registry.netloc}/app:1", check=False)
        assert "no basic auth credentials" in refused.stderr
        wrong = dockerd.docker("login", "-u", "me", "-p", "wrong", registry.netloc, check=False)
        assert "401 Unauthorized" in wrong.stderr
        assert "Login Succeeded" in dockerd.docker("login", "-u", "me", "-p", "s3cret", registry.netloc).stdout
        unknown = dockerd.docker("pull", f"{registry.netloc}/app:1", check=False)
        assert "manifest for" in unknown.stderr or "not found" in unknown.stderr
        dockerd.docker("logout", registry.netloc)
    finally:
        registry.stop()


# -- tools ------------------------------------------------------------------------------------------------------------


@pytest.mark.needs("skopeo")
def test_skopeo(registry: CortenRegistry, layout: Layout, tmp_path: Path) -> None:
    name = f"docker://{registry.netloc}/skopeo/app"
    run("skopeo", "copy", "--dest-tls-verify=false", f"oci:{layout.directory}:1", f"{name}:1")
    assert is_whole(registry, "skopeo/app", "1") == layout.digest
    run("skopeo", "copy", "--src-tls-verify=false", f"{name}:1", f"oci:{tmp_path}/back:1")
    assert digest_in(tmp_path / "back") == layout.digest
    inspected = json.loads(run("skopeo", "inspect", "--tls-verify=false", f"{name}:1"))
    assert (inspected["Digest"], inspected["RepoTags"]) == (layout.digest, ["1"])
    run(
        "skopeo", "copy", "--src-tls-verify=false", "--dest-tls-verify=false", f"{name}:1",
        f"docker://{registry.netloc}/skopeo/other:2",
    )  # fmt: skip
    assert is_whole(registry, "skopeo/other", "2") == layout.digest
    run("skopeo", "delete", "--tls-verify=false", f"docker://{registry.netloc}/skopeo/other:2")
    assert get(registry, "/v2/skopeo/other/manifests/2")[0] == 404


@pytest.mark.needs("crane")
def test_crane(registry: CortenRegistry, layout: Layout, tmp_path: Path) -> None:
    crane = str(CLIENTS / "usr/bin/crane")
    name = f"{registry.netloc}/crane/app"
    run(crane, "push", str(layout.directory), f"{name}:1")
    assert is_whole(registry, "crane/app", "1") == layout.digest
    run(crane, "validate", "--remote", f"{name}:1")
    run(crane, "pull", "--format=oci", f"{name}:1", str(tmp_path / "back"))
    assert digest_in(tmp_path / "back") == layout.digest
    assert run(crane, "digest", f"{name}:1").strip() == layout.digest
    run(crane, "copy", f"{name}:1", f"{registry.netloc}/crane/other:2")
    run(crane, "tag", f"{name}:1", "second")
    assert is_whole(registry, "crane/other", "2") == layout.digest
    assert run(crane, "ls", name).split() == ["1", "second"]
    assert {"crane/app", "crane/other"} <= set(run(crane, "catalog", registry.netloc).split())
    run(crane, "delete", f"{registry.netloc}/crane/other@{layout.digest}")
    assert json.loads(get(registry, "/v2/crane/other/tags/list")[2])["tags"] == []


@pytest.mark.needs("oras")
def test_oras(registry: CortenRegistry, tmp_path: Path) -> None:
    oras = str(CLIENTS / "usr/bin/oras")
    name = f"{registry.netloc}/oras/app"
    (tmp_path / "in").mkdir()
    (tmp_path / "in/file.txt").write_bytes(os.urandom(100_000))
    (tmp_path / "in/note.txt").write_text("a note")
    run(
        oras,
        "push",
        "--plain-http",
        "--artifact-type",
        "text/test",
        f"{name}:1",
        "file.txt:text/plain",
        cwd=tmp_path / "in",
    )
    digest = is_whole(registry, "oras/app", "1")
    run(oras, "pull", "--plain-http", "-o", str(tmp_path / "out"), f"{name}:1")
    assert (tmp_path / "out/file.txt").read_bytes() == (tmp_path / "in/file.txt").read_bytes()
    run(
        oras, "attach", "--plain-http", "--artifact-type", "text/note", f"{name}:1", "note.txt:text/plain",
        cwd=tmp_path / "in",
    )  # fmt: skip
    found = json.loads(run(oras, "discover", "--plain-http", "--format", "json", f"{name}:1"))
    attached = found.get("referrers") or found["manifests"]
    assert [item["artifactType"] for item in attached] == ["text/note"]
    run(oras, "copy", "--from-plain-http", "--to-plain-http", "-r", f"{name}:1", f"{registry.netloc}/oras/other:1")
    assert is_whole(registry, "oras/other", "1") == digest
    (referrer,) = json.loads(get(registry, f"/v2/oras/other/referrers/{digest}")[2])["manifests"]
    assert referrer["artifactType"] == "text/note"
    assert run(oras, "repo", "tags", "--plain-http", name).split() == ["1"]
    run(oras, "manifest", "delete", "--plain-http", "--force", f"{name}:1")
    assert get(registry, "/v2/oras/app/manifests/1")[0] == 404


@pytest.fixture
def containers_storage(tmp_path: Path) -> Iterator[list[str]]:
    """Options for podman and buildah that keep everything in directories of the test."""
    # podman takes no path of more than 50 letters for the second one
    with tempfile.TemporaryDirectory(prefix="run-", dir="/tmp") as runroot:
        yield ["--root", str(tmp_path / "storage"), "--runroot", runroot, "--storage-driver", "vfs"]
    shutil.rmtree(tmp_path / "storage", ignore_errors=True)


@pytest.mark.parametrize("tool", [pytest.param(name, marks=pytest.mark.needs(name)) for name in ("podman", "buildah")])
def test_podman_and_buildah(registry: CortenRegistry, layout: Layout, containers_storage: list[str], tool: str) -> None:
    command = [tool, *containers_storage]
    name = f"{registry.netloc}/{tool}/app"
    image = run(*command, "pull", "-q", f"oci:{layout.directory}:1").split()[-1]
    run(*command, "push", "--tls-verify=false", image, f"docker://{name}:1")
    digest = is_whole(registry, f"{tool}/app", "1")
    run(*command, "rmi", image)
    pulled = run(*command, "pull", "-q", "--tls-verify=false", f"{name}@{digest}").split()[-1]
    assert pulled == image


# -- many layers, a cache, TLS, tokens --------------------------------------------------------------------------------


@pytest.mark.needs("skopeo", "crane")
def test_a_hundred_layers(registry: CortenRegistry, tmp_path: Path) -> None:
    layout = Layout(tmp_path / "in", layers=100, size=2000)
    name = f"{registry.netloc}/many/layers:1"
    run("skopeo", "copy", "--dest-tls-verify=false", f"oci:{layout.directory}:1", f"docker://{name}")
    assert is_whole(registry, "many/layers", "1") == layout.digest
    run(str(CLIENTS / "usr/bin/crane"), "validate", "--remote", name)
    run(sys.executable, "-m", "corten", "copy", name, f"{registry.netloc}/many/copied:1")
    assert is_whole(registry, "many/copied", "1") == layout.digest


@pytest.mark.needs("dockerd", "docker", "skopeo")
def test_docker_and_a_cache(dockerd: Dockerd, registry: CortenRegistry, layout: Layout, tmp_path: Path) -> None:
    run(
        "skopeo", "copy", "--dest-tls-verify=false", f"oci:{layout.directory}:1", f"docker://{registry.netloc}/cached:1"
    )
    cache = CortenRegistry(tmp_path, "--proxy", f"http://{registry.netloc}")
    cache.start()
    try:
        name = f"{cache.netloc}/cached:1"
        assert f"Digest: {layout.digest}" in dockerd.docker("pull", name).stdout
        assert is_whole(cache, "cached", "1") == layout.digest
        refused = dockerd.docker("push", name, check=False)
        assert "the registry is read-only" in refused.stderr
        dockerd.docker("rmi", name)
    finally:
        cache.stop()


class TokenService:
    """Gives everybody who knows the password a token for what is asked; signs with a key of its own."""

    def __init__(self, directory: Path) -> None:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ec

        self._key = ec.generate_private_key(ec.SECP256R1())
        self.public = directory / "issuer.pem"
        self.public.write_bytes(
            self._key.public_key().public_bytes(
                serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
            )
        )
        service = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                service.answer(self)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.realm = f"http://127.0.0.1:{self._server.server_port}/token"
        threading.Thread(target=self._server.serve_forever).start()

    def answer(self, exchange: http.server.BaseHTTPRequestHandler) -> None:
        import jwt

        query = parse_qs(urlsplit(exchange.path).query)
        secret = base64.b64encode(b"me:s3cret").decode()
        known = exchange.headers.get("Authorization") == f"Basic {secret}"
        access = []
        for scope in " ".join(query.get("scope", [])).split():
            kind, name, actions = scope.split(":")
            granted = [action for action in actions.split(",") if known or (action, name) == ("pull", "public")]
            access.append({"type": kind, "name": name, "actions": granted})
        now = int(time.time())
        claims = {"iss": "tests", "aud": query["service"][0], "sub": "me", "nbf": now - 5, "exp": now + 300}
        token = jwt.encode(claims | {"access": access}, self._key, "ES256")
        body = json.dumps({"token": token, "expires_in": 300}).encode()
        exchange.send_response(200)
        exchange.send_header("Content-Length", str(len(body)))
        exchange.end_headers()
        exchange.wfile.write(body)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.mark.needs("skopeo", "crane")
def test_tokens(layout: Layout, tmp_path: Path) -> None:
    pytest.importorskip("jwt")
    service = TokenService(tmp_path)
    registry = CortenRegistry(
        tmp_path, "--token-realm", service.realm, "--token-service", "registry", "--token-issuer", "tests",
        "--token-key", str(service.public),
    )  # fmt: skip
    registry.start()
    try:
        for name in ("public", "private"):
            target = f"docker://{registry.netloc}/{name}:1"
            push = ["skopeo", "copy", "--dest-tls-verify=false", f"oci:{layout.directory}:1", target]
            assert subprocess.run(push, capture_output=True, check=False).returncode != 0
            run(*push, "--dest-creds", "me:s3cret")
        crane = str(CLIENTS / "usr/bin/crane")
        environment = {**os.environ, "DOCKER_CONFIG": str(tmp_path)}
        assert run(crane, "digest", f"{registry.netloc}/public:1", env=environment).strip() == layout.digest
        refused = subprocess.run(
            [crane, "digest", f"{registry.netloc}/private:1"], capture_output=True, text=True, check=False,
            env=environment,
        )  # fmt: skip
        assert "UNAUTHORIZED" in refused.stderr
        secret = base64.b64encode(b"me:s3cret").decode()
        (tmp_path / "config.json").write_text(json.dumps({"auths": {registry.netloc: {"auth": secret}}}))
        run(crane, "validate", "--remote", f"{registry.netloc}/private:1", env=environment)
        run(
            sys.executable, "-m", "corten", "copy", f"{registry.netloc}/private:1", f"{registry.netloc}/copied:1",
            env=environment,
        )  # fmt: skip
        assert run(crane, "digest", f"{registry.netloc}/copied:1", env=environment).strip() == layout.digest
    finally:
        registry.stop()
        service.close()


@pytest.mark.needs("crane")
@pytest.mark.skipif(not HAS_OPENSSL, reason="openssl makes the certificates")
def test_tls(layout: Layout, tmp_path: Path) -> None:
    made = make_certificates(tmp_path / "tls")
    registry = CortenRegistry(
        tmp_path, "--tls-cert", str(made / "server-cert.pem"), "--tls-key", str(made / "server-key.pem")
    )
    registry.start()
    crane = str(CLIENTS / "usr/bin/crane")
    environment = {**os.environ, "SSL_CERT_FILE": str(made / "ca.pem")}
    try:
        name = f"localhost:{registry.port}/app:1"
        run(crane, "push", str(layout.directory), name, env=environment)
        run(crane, "validate", "--remote", name, env=environment)
        assert run(crane, "digest", name, env=environment).strip() == layout.digest
    finally:
        registry.stop()


# -- the same files ---------------------------------------------------------------------------------------------------


@pytest.mark.needs("docker-registry", "skopeo")
def test_docker_registry_and_ours_serve_the_same_directory(layout: Layout, tmp_path: Path) -> None:
    theirs, ours = DockerRegistry(tmp_path), CortenRegistry(tmp_path)

    def push(registry: Registry, name: str) -> None:
        run(
            "skopeo",
            "copy",
            "--dest-tls-verify=false",
            f"oci:{layout.directory}:1",
            f"docker://{registry.netloc}/{name}:1",
        )

    for writer, reader, name in ((theirs, ours, "first"), (ours, theirs, "second")):
        for registry, work in ((writer, lambda item, name=name: push(item, name)), (reader, None)):
            registry.start()
            try:
                if work:
                    work(registry)
                assert is_whole(registry, name, "1") == layout.digest
                assert name in json.loads(get(registry, "/v2/_catalog")[2])["repositories"]
            finally:
                registry.stop()
