"""``corten build``: where results go, what stands beside them, and what later builds take over."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from daemons import BIN, Daemon
from machine import lacking
from registries import DockerRegistry

pytestmark = [pytest.mark.needs("docker", "busybox")]
DOCKERFILE = """FROM busybox AS base
COPY src /src
RUN --mount=type=cache,target=/c echo $((1+1)) > /two
FROM base
ARG EXTRA=none
RUN echo $EXTRA > /extra
"""
# no program of a foreign platform runs
SCRATCH = "FROM scratch\nARG TARGETARCH\nCOPY src/$TARGETARCH /arch\n"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "p/src").mkdir(parents=True)
    (tmp_path / "p/Dockerfile").write_text(DOCKERFILE)
    for name in ("one", "amd64", "arm64"):
        (tmp_path / "p/src" / name).write_text(name)
    return tmp_path / "p"


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[DockerRegistry]:
    lacking("docker-registry")
    made = DockerRegistry(tmp_path / "registry")
    made.start()
    yield made
    made.stop()


@pytest.fixture(autouse=True)
def clean(daemon: Daemon) -> Iterator[None]:
    """No image and no step of another test."""
    with daemon.without_new_images():
        yield
    daemon.corten("builder", "history", "rm", "--all")


def members(path: Path) -> dict[str, bytes]:
    found = {}
    with tarfile.open(path) as tar:
        for entry in tar:
            file = tar.extractfile(entry) if entry.isreg() else None
            found[entry.name] = file.read() if file is not None else b""
    return found


def blob(layout: dict[str, bytes], digest: str) -> Any:
    return json.loads(layout[f"blobs/sha256/{digest.partition(':')[2]}"])


def test_files_and_archives(daemon: Daemon, project: Path, tmp_path: Path) -> None:
    outputs = [
        f"type=local,dest={tmp_path}/out",
        f"type=tar,dest={tmp_path}/t.tar",
        f"type=docker,dest={tmp_path}/d.tar",
    ]
    words = [word for text in outputs for word in ("-o", text)]
    daemon.corten("build", *words, "-t", "made:1", "--build-arg", "EXTRA=more", str(project))
    assert (tmp_path / "out/extra").read_text() == "more\n"
    assert members(tmp_path / "t.tar")["src/one"] == b"one"
    assert daemon.docker("images", "-q", "made").stdout == "", "no output is the image store"
    shown = daemon.docker("load", "-i", str(tmp_path / "d.tar")).stdout
    assert "made:1" in shown
    assert daemon.docker("run", "--rm", "made:1", "cat", "/extra").stdout == "more\n"
    command = [str(BIN / "corten"), "-H", daemon.host, "build", "-o", "-", str(project)]
    piped = subprocess.run(command, capture_output=True, check=True).stdout
    assert b"src/one" in subprocess.run(["tar", "t"], input=piped, capture_output=True, check=True).stdout


def test_an_oci_layout_with_all_that_can_stand_in_it(daemon: Daemon, project: Path, tmp_path: Path) -> None:
    target = f"type=oci,dest={tmp_path}/o.tar,compression=zstd"
    daemon.corten(
        "build", "-o", target, "-t", "made:1", "--attest", "type=provenance,mode=max", "--sbom", "true",
        "--annotation", "a=b", "--annotation", "index:c=d", "--metadata-file", f"{tmp_path}/meta",
        "--build-arg", "EXTRA=told", "--platform", "linux/amd64,linux/arm64", "-f", "-", str(project),
        input=SCRATCH + "ARG EXTRA\n",
    )  # fmt: skip
    layout = members(tmp_path / "o.tar")
    (top,) = json.loads(layout["index.json"])["manifests"]
    assert json.loads((tmp_path / "meta").read_text())["containerimage.digest"] == top["digest"]
    index = blob(layout, top["digest"])
    assert index["annotations"] == {"c": "d"}
    platforms = [item["platform"]["architecture"] for item in index["manifests"]]
    assert platforms == ["amd64", "arm64", "unknown", "unknown"]
    manifest = blob(layout, index["manifests"][1]["digest"])
    assert manifest["annotations"] == {"a": "b"}
    assert manifest["layers"][0]["mediaType"].endswith("tar+zstd")
    attested = blob(layout, index["manifests"][3]["digest"])
    statements = [blob(layout, layer["digest"]) for layer in attested["layers"]]
    assert {statement["subject"][0]["digest"]["sha256"] for statement in statements} == {
        index["manifests"][1]["digest"].partition(":")[2]
    }
    provenance = next(item["predicate"] for item in statements if "slsa" in item["predicateType"])
    parameters = provenance["buildDefinition"]["externalParameters"]
    assert parameters["request"]["args"] == {"build-arg:EXTRA": "told"}
    if shutil.which("skopeo"):
        done = subprocess.run(
            ["skopeo", "inspect", "--override-arch=arm64", f"oci-archive:{tmp_path}/o.tar"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert json.loads(done.stdout)["Architecture"] == "arm64"


def test_the_same_bytes_at_another_time(daemon: Daemon, project: Path, tmp_path: Path) -> None:
    words = ["--no-cache", "--build-arg", "SOURCE_DATE_EPOCH=1000000", str(project)]
    for name in ("a", "b"):
        daemon.corten("build", "-o", f"type=oci,dest={tmp_path}/{name},rewrite-timestamp=true", *words)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_pushed_with_its_attestations(daemon: Daemon, project: Path, registry: DockerRegistry, tmp_path: Path) -> None:
    name = f"{registry.netloc}/team/app:1"
    daemon.corten("build", "--push", "-t", name, "--provenance", "max", "--sbom", "true", str(project))
    assert daemon.docker("images", "-q", name).stdout, "an image output is in the store too"
    _, index = registry.manifest("team/app", "1")
    assert [item["platform"]["architecture"] for item in index["manifests"]] == ["amd64", "unknown"]
    daemon.docker("rmi", "-f", name)
    daemon.docker("pull", name)
    assert daemon.docker("run", "--rm", name, "cat", "/two").stdout == "2\n"
    daemon.corten("build", "-o", f"type=registry,name={registry.netloc}/plain", str(project))
    _, manifest = registry.manifest("plain", "latest")
    assert len(manifest["layers"]) == 4


@pytest.mark.parametrize("mode", ["min", "max"])
def test_a_cache_in_a_directory(daemon: Daemon, project: Path, tmp_path: Path, mode: str) -> None:
    words = ["--cache-to", f"type=local,dest={tmp_path}/cache,mode={mode}", "--cache-from"]
    words += [f"type=local,src={tmp_path}/cache", str(project)]
    daemon.corten("build", *words)
    daemon.request("POST", "/v1.41/build/prune?all=1")
    assert daemon.corten("build", *words).stderr.count("CACHED") == 4


def test_a_cache_in_a_registry(daemon: Daemon, project: Path, registry: DockerRegistry) -> None:
    (project / "Dockerfile").write_text(DOCKERFILE.replace("FROM base", "FROM busybox\nCOPY --from=base /two /two"))
    place = f"ref={registry.netloc}/cache:main"
    words = ["--cache-to", f"type=registry,{place},mode=max", "--cache-from", f"type=registry,{place}", str(project)]
    first = daemon.corten("build", *words).stderr
    assert "CACHED" not in first
    daemon.request("POST", "/v1.41/build/prune?all=1")
    daemon.docker("image", "prune", "-f")
    assert daemon.corten("build", *words).stderr.count("CACHED") == 5


def test_a_layout_as_a_context(daemon: Daemon, project: Path, tmp_path: Path) -> None:
    daemon.corten("build", "-o", f"type=oci,dest={tmp_path}/o.tar", "-t", "x:1", str(project))
    (tmp_path / "layout").mkdir()
    with tarfile.open(tmp_path / "o.tar") as tar:
        tar.extractall(tmp_path / "layout", filter="data")
    text = "FROM base\nRUN cat /two > /three\n"
    words = ["--build-context", f"base=oci-layout://{tmp_path}/layout:1", "-t", "on", "-"]
    daemon.corten("build", *words, input=text)
    assert daemon.docker("run", "--rm", "on", "cat", "/three").stdout == "2\n"
    assert "x:1" not in daemon.docker("images", "--format", "{{.Repository}}:{{.Tag}}").stdout


def test_contexts_are_sent_where_the_daemon_does_not_see_them(daemon: Daemon, project: Path, tmp_path: Path) -> None:
    """Over a socket that another mount namespace looks at: the same path is another directory there."""
    (tmp_path / "named").mkdir()
    (tmp_path / "named/n").write_text("n")
    (tmp_path / "other").mkdir()
    script = f'mount --bind {project} {tmp_path}/other && exec "$@"'
    command = ["unshare", "--mount", "sh", "-c", script, "sh", str(BIN / "corten"), "-H", daemon.host]
    words = ["build", "--build-context", f"nm={tmp_path}/named", "-t", "sent", "-f", "-", f"{tmp_path}/other"]
    done = subprocess.run(
        [*command, *words], input="FROM busybox\nCOPY --from=nm n /n\nCOPY src/one /one\n",
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert daemon.docker("run", "--rm", "sent", "cat", "/n", "/one").stdout == "none"


def test_only_what_is_needed_is_read(daemon: Daemon, project: Path) -> None:
    """A pipe would hold up whoever reads it; what cannot be entered would fail."""
    os.mkfifo(project / "pipe")
    (project / "ignored").mkdir()
    os.mkfifo(project / "ignored/pipe")
    (project / ".dockerignore").write_text("ignored\n")
    (project / "huge").write_bytes(b"")
    os.truncate(project / "huge", 1 << 42)
    daemon.corten("build", "-t", "lazy", str(project))
    assert daemon.docker("run", "--rm", "lazy", "cat", "/src/one").stdout == "one"


def test_an_agent_in_a_step(daemon: Daemon, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as agent:
        agent.bind(str(tmp_path / "agent"))
        agent.listen(4)
        words = ["--ssh", f"default={tmp_path}/agent", "-t", "a", "-"]
        text = 'FROM busybox\nRUN --mount=type=ssh,mode=0666 test -S "$SSH_AUTH_SOCK" && echo yes > /agent\n'
        daemon.corten("build", *words, input=text)
    assert daemon.docker("run", "--rm", "a", "ls", "/").stdout.count("agent") == 1
    assert daemon.docker("run", "--rm", "a", "cat", "/agent").stdout == "yes\n"


def test_rights_beyond_an_ordinary_container(daemon: Daemon) -> None:
    text = "FROM busybox\nRUN --security=insecure grep CapEff /proc/self/status\n"
    done = daemon.corten("build", "-", input=text, check=False)
    assert "security.insecure is not allowed" in done.stderr
    assert done.returncode
    shown = daemon.corten("build", "--allow", "security.insecure", "-", input=text).stderr
    ordinary = daemon.corten("build", "-", input=text.replace("--security=insecure ", "")).stderr
    wanted = ["CapEff:" in line and line.rpartition("\t")[2] for line in (shown + ordinary).splitlines()]
    assert len({item for item in wanted if item}) == 2


def test_the_history_of_builds(daemon: Daemon, project: Path) -> None:
    daemon.corten("build", "-t", "told", "--build-arg", "EXTRA=x", str(project))
    daemon.corten("build", "--force-rm", "-", input="FROM busybox\nRUN echo why; exit 3\n", check=False)
    listed = daemon.corten("builder", "history", "ls").stdout.splitlines()
    assert [line.split()[1] if "told" in line else "" for line in listed[1:]] == ["", "told"]
    assert "Error" in listed[1]
    assert "Completed" in listed[2]
    assert " why" in daemon.corten("builder", "history", "logs").stdout
    told = listed[2].split()[0]
    record = json.loads(daemon.corten("builder", "history", "inspect", "--format=json", told).stdout)
    assert record["arguments"] == {"EXTRA": "x"}
    assert record["image"] == daemon.inspect("told")["Id"]
    assert record["definition"] == DOCKERFILE.rstrip("\n")
    daemon.corten("builder", "history", "rm", told)
    assert "no record found" in daemon.corten("builder", "history", "inspect", told, check=False).stderr
