"""Images of every shape through Debian's docker-registry: a hundred layers, indexes, artifacts, copies, lists."""

from __future__ import annotations

import gzip
import hashlib
import http.client
import io
import json
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemons import Daemon
from registries import DockerRegistry

pytestmark = pytest.mark.needs("docker-registry", "skopeo")

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
Descriptor = dict[str, object]


class Store(DockerRegistry):
    """A registry that is filled by hand."""

    def _send(self, method: str, path: str, body: bytes = b"", kind: str = "application/octet-stream") -> str:
        connection = http.client.HTTPConnection(self.netloc, timeout=30)
        connection.request(method, path, body, {"Content-Type": kind})
        response = connection.getresponse()
        answer = response.read()
        connection.close()
        assert response.status in (201, 202), answer
        return response.headers["location"]

    def blob(self, repository: str, content: bytes, kind: str) -> Descriptor:
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        place = self._send("POST", f"/v2/{repository}/blobs/uploads/").partition(self.netloc)[2]
        self._send("PUT", f"{place}&digest={digest}", content)
        return {"mediaType": kind, "digest": digest, "size": len(content)}

    def put(self, repository: str, document: dict[str, object], tag: str = "") -> Descriptor:
        content, kind = json.dumps(document).encode(), str(document["mediaType"])
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        self._send("PUT", f"/v2/{repository}/manifests/{tag or digest}", content, kind)
        return {"mediaType": kind, "digest": digest, "size": len(content)}

    def image(self, repository: str, layers: list[bytes], tag: str = "", architecture: str = "amd64") -> Descriptor:
        diff_ids = [f"sha256:{hashlib.sha256(layer).hexdigest()}" for layer in layers]
        config = {
            "os": "linux", "architecture": architecture, "config": {"Cmd": ["/bin/sh"], "Env": ["PATH=/bin"]},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        }  # fmt: skip
        document = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": self.blob(repository, json.dumps(config).encode(), CONFIG),
            "layers": [self.blob(repository, gzip.compress(layer, 1, mtime=0), LAYER) for layer in layers],
        }
        return self.put(repository, document, tag)


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    made = Store(tmp_path_factory.mktemp("registry"))
    made.start()
    yield made
    made.stop()


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerRegistry]:
    made = DockerRegistry(tmp_path_factory.mktemp("other"))
    made.start()
    yield made
    made.stop()


def layer(**files: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, text in files.items():
            entry = tarfile.TarInfo(f"layers/{name}")
            entry.size = len(text)
            tar.addfile(entry, io.BytesIO(text.encode()))
    return buffer.getvalue()


def raw(name: str) -> tuple[str, bytes]:
    """(digest, bytes) of what a reference names, as skopeo sees it."""
    command = ["skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{name}"]
    content = subprocess.run(command, capture_output=True, check=True).stdout
    return f"sha256:{hashlib.sha256(content).hexdigest()}", content


def test_a_hundred_layers_there_and_back(daemon: Daemon, registry: Store, busybox_tar: Path) -> None:
    layers = [busybox_tar.read_bytes(), *(layer(**{f"l{number}": "x", "last": str(number)}) for number in range(99))]
    made = registry.image("hundred", layers, "1")
    name = f"{registry.netloc}/hundred:1"
    daemon.docker("pull", "-q", name)
    assert len(daemon.inspect(name)["RootFS"]["Layers"]) == 100
    seen = daemon.docker("run", "--rm", name, "sh", "-c", "ls /layers | wc -l; cat /layers/last").stdout
    assert seen == "100\n98"
    target = f"{registry.netloc}/hundred/back:1"
    daemon.corten("tag", name, target)
    daemon.corten("push", "-q", target)
    assert raw(target)[0] == made["digest"]
    daemon.docker("rmi", "-f", name, target)


def test_platforms_artifacts_and_attestations(daemon: Daemon, registry: Store) -> None:
    entries = []
    for architecture in ("arm64", "amd64"):
        image = registry.image("multi", [layer(arch=architecture)], architecture=architecture)
        entries.append({**image, "platform": {"os": "linux", "architecture": architecture}})
    statement = registry.blob("multi", b"{}", "application/vnd.in-toto+json")
    empty = registry.blob("multi", b"{}", "application/vnd.oci.empty.v1+json")
    signed = {"schemaVersion": 2, "mediaType": MANIFEST, "config": empty, "layers": [statement]}
    attestation = {
        **registry.put("multi", signed),
        "platform": {"os": "unknown", "architecture": "unknown"},
        "annotations": {"vnd.docker.reference.type": "attestation-manifest"},
    }
    index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": [attestation, *entries]}
    registry.put("multi", index, "1")
    registry.put("multi", {**signed, "artifactType": "application/vnd.example"}, "artifact")
    name = f"{registry.netloc}/multi:1"
    for client in (daemon.docker, daemon.corten):
        for architecture in ("arm64", "amd64"):
            client("pull", "-q", "--platform", f"linux/{architecture}", name)
            assert daemon.inspect(name)["Architecture"] == architecture
        missing = client("pull", "--platform", "linux/s390x", name, check=False)
        assert "no matching manifest for linux/s390x in the manifest list entries" in missing.stderr
        refused = client("pull", f"{registry.netloc}/multi:artifact", check=False)
        assert 'Encountered remote "application/vnd.oci.empty.v1+json"(unknown) when fetching' in refused.stderr
        daemon.docker("rmi", "-f", name)
    found = json.loads(daemon.request("GET", f"/distribution/{name}/json")[1])
    assert {item["architecture"] for item in found["Platforms"]} >= {"arm64", "amd64"}
    for image in daemon.docker("images", "-q", f"{registry.netloc}/multi").stdout.split():
        daemon.docker("rmi", "-f", image)


def test_copies_keep_every_digest(daemon: Daemon, registry: Store, other: DockerRegistry) -> None:
    registry.image("one", [layer(a="1"), layer(b="2")], "1")
    entries = [
        {**registry.image("one", [layer(arch=it)], architecture=it), "platform": {"os": "linux", "architecture": it}}
        for it in ("arm64", "amd64")
    ]
    registry.put("one", {"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}, "all")
    for tag in ("1", "all"):
        done = daemon.corten("copy", "-q", f"{registry.netloc}/one:{tag}", f"{other.netloc}/team/copied:{tag}")
        digest = raw(f"{registry.netloc}/one:{tag}")[0]
        assert done.stdout == f"{other.netloc}/team/copied:{tag}@{digest}\n"
        assert raw(f"{other.netloc}/team/copied:{tag}")[0] == digest
    only = daemon.corten(
        "copy", "-q", "--platform", "linux/arm64", f"{registry.netloc}/one:all", f"{other.netloc}/arm:1"
    )
    assert only.stdout.endswith(f"{entries[0]['digest']}\n")
    # what was copied is whole: skopeo reads all of it
    source, target = f"docker://{other.netloc}/team/copied:all", f"docker://{other.netloc}/again:1"
    command = ["skopeo", "copy", "-q", "--all", "--src-tls-verify=false", "--dest-tls-verify=false", source, target]
    subprocess.run(["skopeo", "--insecure-policy", *command[1:]], check=True, capture_output=True)


def test_a_list_is_made_of_images_and_pushed(daemon: Daemon, registry: Store) -> None:
    for architecture in ("arm64", "amd64"):
        registry.image("parts", [layer(arch=architecture)], architecture, architecture)
    names = [f"{registry.netloc}/parts:{architecture}" for architecture in ("arm64", "amd64")]
    made = f"{registry.netloc}/whole:1"
    assert daemon.corten("manifest", "create", made, *names).stdout == f"Created manifest list {made}\n"
    digest = daemon.corten("manifest", "push", "--purge", made).stdout.splitlines()[-1]
    seen, content = raw(made)
    assert seen == digest
    assert [item["platform"]["architecture"] for item in json.loads(content)["manifests"]] == ["arm64", "amd64"]
    assert json.loads(daemon.corten("manifest", "inspect", made).stdout) == json.loads(content)
    ours = json.loads(daemon.corten("manifest", "inspect", "-v", made).stdout)
    theirs = json.loads(daemon.docker("manifest", "inspect", "--insecure", "-v", made).stdout)
    assert [item["Descriptor"]["digest"] for item in ours] == [item["Descriptor"]["digest"] for item in theirs]
