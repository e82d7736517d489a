"""Builds of unmodified clients that speak BuildKit's protocol: buildx, the docker command of two ages, bake."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import functools
import http.server
import io
import json
import os
import re
import signal
import socket
import subprocess
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from corten.buildkit.proto import control_pb2 as pb
from corten.grpc.client import Channel
from corten.grpc.status import GrpcError
from daemons import Daemon, Dockerd
from machine import CGROUP_PARENT, CGROUPS, CLIENTS, lacking
from registries import DockerRegistry

pytestmark = [pytest.mark.needs("docker", "busybox", "newest docker", "buildx")]
PLUGIN = CLIENTS / "usr/libexec/docker/cli-plugins/docker-buildx"
NEWEST = str(CLIENTS / "usr/bin/docker")
OLD = "/usr/bin/docker"
DOCKERFILE = """FROM busybox AS base
COPY src /src
RUN echo made > /made
FROM base
ARG EXTRA=none
WORKDIR /w
RUN echo $EXTRA > /extra
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "p/src").mkdir(parents=True)
    (tmp_path / "p/Dockerfile").write_text(DOCKERFILE)
    (tmp_path / "p/src/one").write_text("one")
    (tmp_path / "p/secret").write_text("hidden")
    (tmp_path / "p/.dockerignore").write_text("secret\n")
    return tmp_path / "p"


@pytest.fixture(autouse=True)
def clean(daemon: Daemon) -> Iterator[None]:
    """The plugin is there; afterwards no image and no step of this test."""
    plugins = daemon.directory / "cli-plugins"
    plugins.mkdir(exist_ok=True)
    if not (plugins / "docker-buildx").exists():
        (plugins / "docker-buildx").symlink_to(PLUGIN)
    before = set(daemon.docker("images", "-aq", "--no-trunc").stdout.split())
    yield
    daemon.remove_containers()
    daemon.request("POST", "/v1.41/build/prune?all=1")
    while left := set(daemon.docker("images", "-aq", "--no-trunc").stdout.split()) - before:
        daemon.docker("rmi", "-f", *left, check=False)
        if set(daemon.docker("images", "-aq", "--no-trunc").stdout.split()) - before == left:
            raise AssertionError(f"images stay: {left}")
    daemon.corten("builder", "history", "rm", "--all")
    assert not list((daemon.data_root / "build/scratch").iterdir())


def buildx(daemon: Daemon, *words: str, **options: Any) -> str:
    """What it says, in both streams."""
    done = daemon.run([NEWEST, "buildx", *words], **options)
    return done.stdout + done.stderr


def build(daemon: Daemon, *words: object, **options: Any) -> str:
    return buildx(daemon, "build", "--progress=plain", *map(str, words), **options)


def build_text(daemon: Daemon, directory: Path, text: str, *words: object, **options: Any) -> str:
    (directory / "Dockerfile").write_text(text)
    return build(daemon, *words, directory, **options)


def shown(daemon: Daemon, image: str, *command: str) -> str:
    return daemon.docker("run", "--rm", image, *command).stdout


# -- one build --------------------------------------------------------------------------------------------------------


def test_a_build_its_progress_and_its_names(daemon: Daemon, project: Path) -> None:
    said = build(daemon, "-t", "one", "-t", "two:2", "--build-arg", "EXTRA=x y", "--label", "l=v", project)
    for words in (
        "[internal] load build definition from Dockerfile",
        "[internal] load build context",
        "[base 1/3] FROM docker.io/library/busybox:latest",
        "[base 3/3] RUN echo made > /made",
        "[stage-1 1/2] WORKDIR /w",
        "naming to docker.io/library/one:latest",
    ):
        assert words in said
    assert shown(daemon, "one", "cat", "/extra", "/src/one") == "x y\none"
    assert daemon.inspect("two:2")["Config"]["Labels"] == {"l": "v"}
    assert daemon.inspect("two:2")["Config"]["WorkingDir"] == "/w"


def test_the_second_time_everything_is_cached_and_one_change_is_built(daemon: Daemon, project: Path) -> None:
    build(daemon, project)
    assert build(daemon, project).count("CACHED") == 4
    (project / "src/one").write_text("changed")
    again = build(daemon, "-t", "changed", project)
    assert again.count("CACHED") == 0
    assert shown(daemon, "changed", "cat", "/src/one") == "changed"
    (project / "secret").write_text("changed, and ignored")
    assert build(daemon, project).count("CACHED") == 4
    assert build(daemon, "--no-cache", project).count("CACHED") == 0
    assert build(daemon, "--no-cache-filter", "base", project).count("CACHED") <= 2


def test_a_large_file_that_two_layers_have(daemon: Daemon, project: Path) -> None:
    """It becomes the first one's; neither can be changed through the other."""
    content = os.urandom(9 << 20)
    (project / "src/large").write_bytes(content)
    text = (
        "FROM busybox\nCOPY src/large /a\nCOPY --chmod=600 src/large /b\n"
        "RUN echo more >> /a && cat /a > /c\nCOPY --from=busybox /bin/busybox /bin/other"
    )
    build_text(daemon, project, text, "-t", "large")
    run = shown(daemon, "large", "sh", "-c", "stat -c '%a %h %s' /a /b; echo more | cat /b - | cmp - /c && echo same")
    assert run.split() == ["644", "1", str(len(content) + 5), "600", "1", str(len(content)), "same"]
    assert build_text(daemon, project, text).count("CACHED") == 4
    archive = daemon.docker("save", "large", "-o", project / "saved").returncode
    assert archive == 0  # every layer is what its digest says


def test_what_clients_are_told_of_the_result(daemon: Daemon, project: Path, tmp_path: Path) -> None:
    words = ["--iidfile", tmp_path / "id", "--metadata-file", tmp_path / "meta", "-t", "told"]
    build(daemon, *words, project)
    image = daemon.inspect("told")["Id"]
    assert (tmp_path / "id").read_text() == image
    document = json.loads((tmp_path / "meta").read_text())
    assert document["containerimage.config.digest"] == document["containerimage.digest"] == image
    assert document["image.name"] == "told:latest" or document["image.name"] == "docker.io/library/told:latest"
    assert document["buildx.build.ref"].count("/") == 2
    assert document["buildx.build.provenance"]["materials"]
    assert buildx(daemon, "build", "-q", str(project)).strip() == image


def test_a_program_that_fails_is_shown_with_its_line(daemon: Daemon, tmp_path: Path) -> None:
    said = build_text(daemon, tmp_path, "FROM busybox\nRUN echo why >&2; exit 7\nRUN never\n", check=False)
    assert "why" in said
    assert 'process "/bin/sh -c echo why >&2; exit 7" did not complete successfully: exit code: 7' in said
    assert re.search(r"2 \| >>> RUN echo why", said)
    assert "never" not in said.split("Dockerfile:2")[0]
    assert not daemon.docker("ps", "-aq").stdout


@pytest.mark.parametrize(
    ("text", "words", "why"),
    [
        ("FROM busybox\nFOO x\n", (), r"parse error on line 2: unknown instruction: FOO"),
        ("FROM busybox\nCOPY absent /\n", (), r"absent"),
        ("FROM busybox\n", ("-f", "absent"), r"absent"),
        ("FROM busybox\n", ("--target", "absent"), r"absent"),
        ("", (), r"empty"),
        ("# syntax=example/other\nFROM busybox\n", (), r"frontend example/other"),
        ("FROM busybox\nRUN --security=insecure true\n", (), r"security.insecure"),
        ("FROM busybox\nRUN --mount=type=secret,id=absent,required true\n", (), r"secret absent: not found"),
        ("FROM busybox\n", ("--provenance=mode=max",), r"manifests, which the image store does not keep"),
        ("FROM busybox\n", ("--platform=linux/amd64,linux/arm64",), r"one platform under a name"),
        ("FROM busybox\n", ("--build-context=b=docker-image://UPPER",), r"UPPER"),
        ("FROM busybox\n# check=error=true\n", ("--build-arg=BUILDKIT_SYNTAX=example/other",), r"example/other"),
    ],
)
def test_mistakes_are_named(daemon: Daemon, tmp_path: Path, text: str, words: tuple[str, ...], why: str) -> None:
    said = build_text(daemon, tmp_path, text, *words, check=False)
    assert re.search(why, said), said
    assert "ERROR" in said
    assert not daemon.docker("ps", "-aq").stdout


def test_contents_that_were_replaced_behind_the_same_size_and_time(daemon: Daemon, tmp_path: Path) -> None:
    """As tools do that give every file the same time; the step that needs them is made of what is there now."""
    names = [f"f{number}" for number in range(4)]

    def write(text: str) -> None:
        for name in names:
            (tmp_path / name).write_text(text)
            os.utime(tmp_path / name, (10**9, 10**9))

    write("one")
    build_text(daemon, tmp_path, "FROM busybox\nCOPY f* /a/\n", "-t", "first")
    write("two")
    build_text(daemon, tmp_path, "FROM busybox\nCOPY f* /b/\nRUN cat /b/* > /c\n", "-t", "second")
    assert shown(daemon, "second", "cat", "/c", "/b/f0") == "two" * 5
    # what is known of them now is true
    again = build_text(daemon, tmp_path, "FROM busybox\nCOPY f* /b/\nRUN cat /b/* > /c\n")
    assert again.count("CACHED") == 2
    write("one")
    build_text(daemon, tmp_path, "FROM busybox\nRUN --mount=target=/m cat /m/f* > /d\n", "-t", "third")
    assert shown(daemon, "third", "cat", "/d") == "one" * 4


def test_a_cache_that_cannot_be_written_is_refused(daemon: Daemon, project: Path, tmp_path: Path) -> None:
    said = build(daemon, "--cache-to", "type=azblob,name=x,account_url=y", project, check=False)
    assert "unknown cache exporter: 'azblob'" in said
    said = build(daemon, "--cache-to", f"type=local,dest={tmp_path / 'cache'},mode=most", project, check=False)
    assert "invalid mode of a cache exporter: most" in said


def test_a_cache_in_a_directory_of_the_client(daemon: Daemon, project: Path, tmp_path: Path) -> None:
    place = tmp_path / "cache"
    for words in (["mode=max"], ["compression=gzip", "tag=small"]):
        build(daemon, "--cache-to", ",".join([f"type=local,dest={place}", *words]), project)
    names = [item["annotations"].values() for item in json.loads((place / "index.json").read_text())["manifests"]]
    assert [list(item) for item in names] == [["latest"], ["small"]]
    for tag in ("latest", "small"):
        daemon.request("POST", "/v1.41/build/prune?all=1")
        again = build(daemon, "--cache-from", f"type=local,src={place},tag={tag}", project)
        assert again.count("CACHED") >= 3, again
    daemon.request("POST", "/v1.41/build/prune?all=1")
    daemon.corten(
        "build", "--cache-from", f"type=local,src={place}", str(project)
    )  # it is an OCI layout like any other
    for path in (place / "blobs/sha256").iterdir():
        path.write_text("damaged")
    daemon.request("POST", "/v1.41/build/prune?all=1")
    assert "its content is another one" in build(daemon, "--cache-from", f"type=local,src={place}", project)


def test_two_builds_at_once(daemon: Daemon, tmp_path: Path) -> None:
    text = "FROM busybox\nRUN cat /proc/sys/kernel/random/uuid > /u; sleep 0.5\n"
    found: list[str] = []

    def work(number: int) -> None:
        place = tmp_path / str(number)
        place.mkdir()
        build_text(daemon, place, text, "--iidfile", place / "id")
        found.append((place / "id").read_text())

    threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(found) == 2
    assert len(set(found)) == 1


@pytest.mark.parametrize("how", ["interrupt", "kill"])
def test_a_client_that_goes_leaves_nothing(daemon: Daemon, tmp_path: Path, how: str) -> None:
    (tmp_path / "Dockerfile").write_text("FROM busybox\nRUN echo begun; sleep 60\n")
    environment = {**os.environ, "DOCKER_HOST": daemon.host, "DOCKER_CONFIG": str(daemon.directory)}
    command = [str(PLUGIN), "build", "--progress=plain", str(tmp_path)]
    running = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    assert running.stderr is not None
    for line in running.stderr:
        if re.search(r"^#\d+ [\d.]+ begun", line):
            break
    assert daemon.docker("ps", "-q").stdout
    running.send_signal(signal.SIGINT if how == "interrupt" else signal.SIGKILL)
    running.stderr.close()
    running.wait(20)
    deadline = time.monotonic() + 15
    while daemon.docker("ps", "-aq").stdout:
        assert time.monotonic() < deadline, "the step's container stays"
        time.sleep(0.1)
    deadline = time.monotonic() + 15
    while daemon.corten("builder", "history", "ls", "--format", "{{.Status}}").stdout != "Canceled\n":
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert "canceled" in daemon.corten("builder", "history", "inspect").stdout


# -- what goes in -----------------------------------------------------------------------------------------------------


def test_contexts_with_names(daemon: Daemon, project: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other/f").write_text("from another")
    (tmp_path / "other/left").write_text("out")
    (tmp_path / "other/.dockerignore").write_text("left\n")
    build(daemon, "-t", "told", "--build-arg", "EXTRA=image", project)
    text = "FROM base\nCOPY --from=files . /files\nRUN --mount=from=files,target=/m cat /m/f /extra > /both\n"
    words = ["--build-context", f"files={tmp_path / 'other'}", "--build-context", "base=docker-image://told"]
    (tmp_path / "third").mkdir()
    build_text(daemon, tmp_path / "third", text, *words, "-t", "mixed")
    assert shown(daemon, "mixed", "cat", "/both") == "from anotherimage\n"
    assert shown(daemon, "mixed", "ls", "/files").split() == ["f"]


def test_secrets_arguments_hosts_and_limits(daemon: Daemon, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("s3cret")
    text = (
        "FROM busybox\nARG A\n"
        "RUN --mount=type=secret,id=k --mount=type=secret,id=e,env=E cat /run/secrets/k | wc -c; echo $E $A\n"
        "RUN cat /etc/hosts; df -k /dev/shm | tail -1; ulimit -n; hostname; ls /sys/class/net\n"
    )
    words = [
        *("--secret", f"id=k,src={tmp_path / 'key'}", "--secret", "id=e,env=SECRET_E", "--build-arg", "A=arg"),
        *("--add-host", "me:1.2.3.4", "--shm-size", "8m", "--ulimit", "nofile=77:77", "--network", "none"),
        *("--build-arg", "BUILDKIT_SANDBOX_HOSTNAME=inside"),
    ]
    os.environ["SECRET_E"] = "hush"
    try:
        said = build_text(daemon, tmp_path, text, *words)
    finally:
        del os.environ["SECRET_E"]
    for words_of in (" 6\n", "hush arg", "1.2.3.4\tme", "8192", " 77\n", " inside\n"):
        assert words_of in said, said
    assert "eth0" not in said


def test_an_agent_reaches_the_step(daemon: Daemon, tmp_path: Path) -> None:
    lacking("ssh-agent")
    path = tmp_path / "agent"
    agent = subprocess.Popen(["ssh-agent", "-D", "-a", str(path)], stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 10
        while not path.exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        text = "FROM busybox\nRUN --mount=type=ssh test -S $SSH_AUTH_SOCK && echo agent at $SSH_AUTH_SOCK\n"
        assert "agent at /run/buildkit/ssh_agent.0" in build_text(daemon, tmp_path, text, "--ssh", f"default={path}")
        required = text.replace("type=ssh", "type=ssh,required=true")
        assert "forwards no agent" in build_text(daemon, tmp_path, required, "--no-cache", check=False)
    finally:
        agent.terminate()
        agent.wait()


def test_the_dockerfile_and_the_context_from_standard_input(daemon: Daemon, project: Path) -> None:
    said = build(daemon, "-f", "-", project, input="FROM busybox\nCOPY src/one /o\nRUN cat /o\n")
    assert " one" in said
    packed = subprocess.run(["tar", "-cC", str(project), "."], capture_output=True, check=True).stdout
    done = subprocess.run(
        [str(PLUGIN), "build", "-t", "piped", "-"],
        input=packed,
        env={**os.environ, "DOCKER_HOST": daemon.host, "DOCKER_CONFIG": str(daemon.directory)},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert shown(daemon, "piped", "cat", "/src/one") == "one"


def test_an_image_of_a_layout_on_the_client_s_side(daemon: Daemon, project: Path, tmp_path: Path) -> None:
    build(daemon, "-o", f"type=oci,dest={tmp_path / 'o.tar'}", "--build-arg", "EXTRA=layout", project)
    (tmp_path / "layout").mkdir()
    subprocess.run(["tar", "-xf", str(tmp_path / "o.tar"), "-C", str(tmp_path / "layout")], check=True)
    digest = json.loads((tmp_path / "layout/index.json").read_text())["manifests"][0]["digest"]
    (tmp_path / "next").mkdir()
    words = ["--build-context", f"base=oci-layout://{tmp_path / 'layout'}@{digest}"]
    said = build_text(daemon, tmp_path / "next", "FROM base\nRUN cat /extra\n", *words)
    assert " layout\n" in said
    words = ["--build-context", f"base=oci-layout://{tmp_path / 'layout'}@sha256:{'0' * 64}"]
    said = build_text(daemon, tmp_path / "next", "FROM base\n", *words, check=False)
    assert "ERROR" in said


@pytest.fixture
def site(tmp_path: Path) -> Iterator[str]:
    """A directory that is served on the loopback."""
    (tmp_path / "site").mkdir()
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path / "site"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.fixture
def repository(project: Path, tmp_path: Path) -> Iterator[str]:
    """The project as a repository that is served on the loopback."""
    lacking("git")
    commit = ["-c", "user.name=x", "-c", "user.email=x@x", "commit", "-m", "x"]
    for words in (["init", "-b", "main"], ["add", "-A"], commit):
        subprocess.run(["git", "-C", str(project), *words], check=True, capture_output=True)
    (tmp_path / "git").mkdir()
    subprocess.run(["git", "clone", "--bare", str(project), str(tmp_path / "git/repo.git")], check=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    serve = ["git", "daemon", "--export-all", "--listen=127.0.0.1", f"--port={port}", f"--base-path={tmp_path / 'git'}"]
    server = subprocess.Popen(serve, stderr=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 10
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            break
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    yield f"git://127.0.0.1:{port}/repo.git"
    os.killpg(server.pid, signal.SIGTERM)
    server.wait()


def test_contexts_from_elsewhere(daemon: Daemon, project: Path, tmp_path: Path, site: str, repository: str) -> None:
    subprocess.run(["tar", "-cf", str(tmp_path / "site/context.tar"), "-C", str(project), "."], check=True)
    # addresses of this machine are open to builds that have its network
    for number, address in enumerate((f"{repository}#main", f"{site}/context.tar")):
        build(daemon, "--network=host", "-t", f"remote{number}", address)
        assert shown(daemon, f"remote{number}", "cat", "/src/one") == "one"
    (tmp_path / "next").mkdir()
    text = "FROM busybox\nCOPY --from=far src/one /far\n"
    build_text(
        daemon, tmp_path / "next", text, "--network=host", "--build-context", f"far={repository}#main", "-t", "n"
    )
    assert shown(daemon, "n", "cat", "/far") == "one"
    said = build(daemon, f"{site}/context.tar", check=False)
    assert "ERROR" in said
    assert "127.0.0.1" in said


# -- what comes out ---------------------------------------------------------------------------------------------------


def members(path: Path) -> dict[str, bytes]:
    found = {}
    with tarfile.open(path) as tar:
        for entry in tar:
            file = tar.extractfile(entry) if entry.isreg() else None
            found[entry.name] = file.read() if file is not None else b""
    return found


def blob(layout: dict[str, bytes], digest: str) -> Any:
    return json.loads(layout[f"blobs/sha256/{digest.partition(':')[2]}"])


def test_files_and_archives_in_one_build(daemon: Daemon, project: Path, tmp_path: Path) -> None:
    outputs = [
        f"type=local,dest={tmp_path / 'files'}",
        f"type=tar,dest={tmp_path / 'files.tar'}",
        f"type=oci,dest={tmp_path / 'oci.tar'},annotation.k=v",
        f"type=docker,dest={tmp_path / 'docker.tar'}",
        "type=image",
    ]
    build(daemon, "-t", "many", *[word for output in outputs for word in ("-o", output)], project)
    assert (tmp_path / "files/src/one").read_text() == "one"
    assert (tmp_path / "files/bin/busybox").stat().st_mode & 0o777 == 0o755
    assert members(tmp_path / "files.tar")["src/one"] == b"one"
    layout = members(tmp_path / "oci.tar")
    top = json.loads(layout["index.json"])["manifests"][0]
    manifest = blob(layout, top["digest"])
    assert manifest.get("annotations", {}) == {"k": "v"} or manifest["mediaType"].endswith("index.v1+json")
    daemon.docker("rmi", "many")
    assert "many" in daemon.docker("load", "-i", str(tmp_path / "docker.tar")).stdout
    assert shown(daemon, "many", "cat", "/made") == "made\n"


def test_attestations_and_platforms(daemon: Daemon, tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    for name in ("amd64", "arm64"):
        (tmp_path / "c" / name).write_text(name)
    text = "FROM scratch\nARG TARGETARCH\nCOPY $TARGETARCH /arch\n"
    words = ["--platform", "linux/amd64,linux/arm64", "-o", f"type=oci,dest={tmp_path / 'o.tar'}"]
    said = build_text(daemon, tmp_path / "c", text, *words, "--provenance=mode=max", "--sbom=true")
    assert "[linux/arm64 1/1] COPY arm64 /arch" in said or "[linux/arm64 1/1] COPY $TARGETARCH /arch" in said
    layout = members(tmp_path / "o.tar")
    index = blob(layout, json.loads(layout["index.json"])["manifests"][0]["digest"])
    platforms = [item["platform"]["architecture"] for item in index["manifests"]]
    assert platforms == ["amd64", "arm64", "unknown", "unknown"]
    kinds = {
        layer["annotations"]["in-toto.io/predicate-type"]
        for layer in blob(layout, index["manifests"][2]["digest"])["layers"]
    }
    assert kinds == {"https://slsa.dev/provenance/v1", "https://spdx.dev/Document"}
    build(daemon, *words[:2], "-o", tmp_path / "files", tmp_path / "c")
    assert (tmp_path / "files/linux_arm64/arch").read_text() == "arm64"


def test_arguments_that_steer_the_builder(daemon: Daemon, project: Path, tmp_path: Path) -> None:
    digests = []
    for number in range(2):
        out = f"type=oci,dest={tmp_path / 'o.tar'},rewrite-timestamp=true"
        words = ["--build-arg", "SOURCE_DATE_EPOCH=1700000000", "--build-arg", "BUILDKIT_MULTI_PLATFORM=1"]
        words += ["--build-arg", "BUILDKIT_SYNTAX=docker/dockerfile:1", "--provenance=false"]
        said = build(daemon, "--no-cache", *words, "-o", out, "--metadata-file", tmp_path / str(number), project)
        assert "were not consumed" not in said
        digests.append(json.loads((tmp_path / str(number)).read_text())["containerimage.digest"])
    assert digests[0] == digests[1]
    layout = members(tmp_path / "o.tar")
    index = blob(layout, json.loads(layout["index.json"])["manifests"][0]["digest"])
    assert len(index["manifests"]) == 1
    config = blob(layout, blob(layout, index["manifests"][0]["digest"])["config"]["digest"])
    assert config["created"] == "2023-11-14T22:13:20Z"


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[DockerRegistry]:
    lacking("docker-registry")
    made = DockerRegistry(tmp_path / "registry")
    made.start()
    yield made
    made.stop()


def test_credentials_come_from_the_client(daemon: Daemon, project: Path, tmp_path: Path) -> None:
    lacking("docker-registry")
    locked = DockerRegistry(tmp_path / "locked", password="s3cret")
    locked.start()
    config = daemon.directory / "config.json"
    name = f"{locked.netloc}/private:1"
    try:
        said = build(daemon, "--push", "-t", name, project, check=False)
        assert "ERROR" in said
        auth = base64.b64encode(b"me:s3cret").decode()
        config.write_text(json.dumps({"auths": {locked.netloc: {"auth": auth}}}))
        build(daemon, "--push", "-t", name, project)
        daemon.docker("rmi", name)
        (tmp_path / "next").mkdir()
        assert " made" in build_text(daemon, tmp_path / "next", f"FROM {name}\nRUN cat /made\n")
    finally:
        config.unlink(missing_ok=True)
        locked.stop()


def test_a_push_and_caches_at_a_registry(
    daemon: Daemon, project: Path, tmp_path: Path, registry: DockerRegistry
) -> None:
    name = f"{registry.netloc}/app:1"
    cache = f"type=registry,ref={registry.netloc}/cache:1"
    said = build(
        daemon, "--push", "-t", name, "--cache-to", f"{cache},mode=max", "--metadata-file", tmp_path / "m", project
    )
    assert "pushing manifest for" in said
    digest = json.loads((tmp_path / "m").read_text())["containerimage.digest"]
    assert digest != daemon.inspect(name)["Id"]
    daemon.docker("rmi", name)
    daemon.request("POST", "/v1.41/build/prune?all=1")
    again = build(daemon, "--cache-from", cache, "--metadata-file", tmp_path / "m2", project)
    assert again.count("CACHED") >= 3, again
    absent = build(daemon, "--cache-from", f"type=registry,ref={registry.netloc}/absent:1", project)
    assert "absent" in absent
    assert daemon.docker("pull", f"{registry.netloc}/app@{digest}").returncode == 0


# -- everything else a builder does -----------------------------------------------------------------------------------


def test_questions_about_a_dockerfile(daemon: Daemon, tmp_path: Path) -> None:
    text = "# base is the beginning\nFROM busybox AS base\nARG WORD=1\nfrom base as Last\nMAINTAINER me\n"
    (tmp_path / "Dockerfile").write_text(text)
    done = daemon.run([NEWEST, "buildx", "build", "--check", str(tmp_path)], check=False)
    assert done.returncode == 1
    assert "MaintainerDeprecated" in done.stdout
    assert "Dockerfile:5" in done.stdout
    outline = buildx(daemon, "build", "--call", "outline", "--target", "base", str(tmp_path))
    assert re.search(r"WORD\s+1", outline)
    assert "is the beginning" in buildx(daemon, "build", "--call", "targets", str(tmp_path))
    (tmp_path / "Dockerfile").write_text("FROM busybox\n")
    assert "no warnings" in buildx(daemon, "build", "--check", str(tmp_path))
    assert not buildx(daemon, "history", "ls").splitlines()[1:]


def test_the_check_knows_the_images_and_what_the_context_leaves_out(daemon: Daemon, tmp_path: Path) -> None:
    (tmp_path / ".dockerignore").write_text("secret*\n")
    (tmp_path / "Dockerfile").write_text("FROM busybox\nCOPY secret.txt /$nowhere\nENV x=$PATH\n")
    done = daemon.run([NEWEST, "buildx", "build", "--check", str(tmp_path)], check=False)
    said = done.stdout + done.stderr
    assert done.returncode == 1
    assert 'Attempting to Copy file "secret.txt" that is excluded by .dockerignore' in said
    assert "Usage of undefined variable '$nowhere'" in said
    assert "2 warnings" in said
    said = buildx(daemon, "build", "--check", "--platform", "linux/arm64", str(tmp_path), check=False)
    assert 'was pulled with platform "linux/amd64", expected "linux/arm64"' in said


def test_warnings_and_errors_of_the_linter(daemon: Daemon, tmp_path: Path) -> None:
    text = "FROM busybox\nMAINTAINER me\n"
    assert "MaintainerDeprecated" in build_text(daemon, tmp_path, text)
    said = build_text(daemon, tmp_path, f"# check=error=true\n{text}", check=False)
    assert "lint violation found for rules: MaintainerDeprecated" in said


def test_the_builder_its_cache_and_its_history(daemon: Daemon, project: Path) -> None:
    assert re.search(r"default\W+.*running.*linux/", buildx(daemon, "ls"), re.DOTALL)
    assert "Platforms:" in buildx(daemon, "inspect")
    build(daemon, project)
    build_text(daemon, project, "FROM busybox\nRUN exit 3\n", check=False)
    used = buildx(daemon, "du", "--verbose")
    assert "RUN echo made" in used or "echo made" in used
    assert len(buildx(daemon, "du", "--filter", "type=exec.cachemount").splitlines()) < len(used.splitlines())
    listed = buildx(daemon, "history", "ls")
    assert [word for word in ("Completed", "Error") if word in listed] == ["Completed", "Error"]
    good = next(line.split()[0] for line in listed.splitlines() if "Completed" in line)
    assert "[base 3/3] RUN echo made > /made" in buildx(daemon, "history", "logs", good)
    assert "busybox" in buildx(daemon, "history", "inspect", good)
    buildx(daemon, "history", "rm", good)
    assert good not in buildx(daemon, "history", "ls")
    pruned = buildx(daemon, "prune", "-af")
    assert "Total:" in pruned
    assert "echo made" not in buildx(daemon, "du", "--verbose")


def test_bake_gives_one_target_to_another(daemon: Daemon, project: Path) -> None:
    (project / "bake.json").write_text(
        json.dumps(
            {
                "group": {"default": {"targets": ["one", "two"]}},
                "target": {
                    "one": {"context": ".", "args": {"EXTRA": "baked"}, "tags": ["bake/one"]},
                    "two": {
                        "context": ".",
                        "dockerfile-inline": "FROM base\nCOPY src/one /again\nRUN cat /extra\n",
                        "contexts": {"base": "target:one"},
                        "tags": ["bake/two"],
                    },
                },
            }
        )
    )
    said = buildx(daemon, "bake", "--progress=plain", "-f", "bake.json", cwd=project)
    assert "baked" in said
    assert shown(daemon, "bake/two", "cat", "/again", "/extra") == "onebaked\n"
    assert shown(daemon, "bake/one", "cat", "/made") == "made\n"


# -- the docker command -----------------------------------------------------------------------------------------------


def test_docker_build_of_the_newest_client(daemon: Daemon, project: Path) -> None:
    done = daemon.run([NEWEST, "build", "-t", "plain", str(project)])
    assert "naming to docker.io/library/plain" in done.stderr
    assert shown(daemon, "plain", "cat", "/made") == "made\n"


@pytest.mark.needs("docker 20.10")
def test_docker_build_of_20_10(daemon: Daemon, project: Path, tmp_path: Path) -> None:
    words = ["-t", "old", "--build-arg", "EXTRA=x", "--label", "l=v", "--iidfile", str(tmp_path / "id")]
    done = daemon.run([OLD, "build", "--progress=plain", *words, str(project)])
    assert "[base 3/3] RUN echo made > /made" in done.stderr
    image = daemon.inspect("old")
    assert (tmp_path / "id").read_text() == image["Id"]
    assert image["Config"]["Labels"] == {"l": "v"}
    assert shown(daemon, "old", "cat", "/extra") == "x\n"
    quiet = daemon.run([OLD, "build", "-q", "--build-arg", "EXTRA=x", "--label", "l=v", str(project)])
    assert quiet.stdout.strip() == image["Id"]
    (tmp_path / "key").write_text("s3cret")
    text = "FROM busybox\nRUN --mount=type=secret,id=k cat /run/secrets/k > /k\n"
    secret = ["--secret", f"id=k,src={tmp_path / 'key'}", "-o", str(tmp_path / "out")]
    daemon.run([OLD, "build", *secret, "-f", "-", str(project)], input=text)
    assert (tmp_path / "out/k").read_text() == "s3cret"
    failed = daemon.run([OLD, "build", "--progress=plain", "-"], input="FROM busybox\nRUN exit 5\n", check=False)
    assert failed.returncode == 1
    assert "exit code: 5" in failed.stderr


@pytest.mark.needs("docker 20.10")
def test_docker_build_of_20_10_takes_an_archive(daemon: Daemon, project: Path) -> None:
    archive = project.parent / "context.tar"
    subprocess.run(["tar", "-cf", str(archive), "-C", str(project), "."], check=True)
    with open(archive, "rb") as source:
        daemon.run([OLD, "build", "-t", "archive", "-"], stdin=source)
    assert shown(daemon, "archive", "cat", "/src/one") == "one"


def test_a_build_without_a_session_and_its_end_by_id(daemon: Daemon) -> None:
    """``version=2`` with the context in the body, as programs of the API use it."""

    def packed(text: str) -> bytes:
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w") as tar:
            entry = tarfile.TarInfo("Dockerfile")
            entry.size = len(text)
            tar.addfile(entry, io.BytesIO(text.encode()))
        return stream.getvalue()

    def post(text: str, query: str) -> list[dict[str, Any]]:
        path = f"/v1.41/build?version=2&{query}"
        status, body = daemon.request("POST", path, packed(text), content_type="application/x-tar")
        assert status == 200, body
        return [json.loads(line) for line in body.splitlines()]

    documents = post("FROM busybox\nRUN echo posted > /p\n", "t=posted")
    assert documents[-1] == {"id": "moby.image.id", "aux": {"ID": daemon.inspect("posted")["Id"]}}
    names = set()
    for document in documents[:-1]:
        message = pb.StatusResponse.FromString(base64.b64decode(document["aux"]))
        names.update(vertex.name for vertex in message.vertexes)
    assert "[2/2] RUN echo posted > /p" in names
    told: list[dict[str, Any]] = []
    running = threading.Thread(target=lambda: told.extend(post("FROM busybox\nRUN sleep 60\n", "buildid=mine")))
    running.start()
    deadline = time.monotonic() + 15
    while not daemon.docker("ps", "-q").stdout:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert daemon.request("POST", "/v1.41/build/cancel?id=mine")[0] == 200
    running.join(15)
    assert "canceled" in told[-1]["error"]
    assert not daemon.docker("ps", "-aq").stdout


def test_the_classic_builder_is_still_there(daemon: Daemon, project: Path) -> None:
    done = daemon.run(["env", "DOCKER_BUILDKIT=0", "docker", "build", "-t", "classic", str(project)])
    assert "Successfully tagged classic:latest" in done.stdout


# -- beside dockerd's BuildKit ----------------------------------------------------------------------------------------

SAME = {
    "copies and runs": "FROM busybox\nCOPY src /src\nRUN echo a > /a\nENV A=b C=d\nCMD [\"x\"]\nEXPOSE 80\n",
    "stages": "FROM busybox AS b\nRUN echo made > /made\nFROM busybox\nCOPY --from=b --chmod=600 /made /c\nUSER 5\n",
    "links and modes": "FROM busybox\nCOPY --chown=5:6 src/one /deep/er/one\nRUN ln -s one /deep/er/two\nVOLUME /v\n",
    "scratch": "FROM scratch\nCOPY src /\nLABEL a=b\nENTRYPOINT [\"/one\"]\n",
    "places": "FROM busybox\nWORKDIR /w/x\nCOPY src/one .\nADD src y/\nRUN mv one two\nWORKDIR ../z\n",
}  # fmt: skip


def files_of(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    with tarfile.open(path) as tar:
        for entry in tar:
            name = entry.name.strip("/")
            if name.split("/")[0] in ("dev", "proc", "sys", "") or name in ("etc", "etc/hosts", "etc/resolv.conf"):
                continue
            file = tar.extractfile(entry) if entry.isreg() else None
            content = file.read() if file is not None else b""
            found[name] = (entry.type, entry.mode, entry.uid, entry.gid, entry.linkname, content)
    return found


@pytest.fixture
def dockerd_buildkit(dockerd: Dockerd) -> Iterator[Dockerd]:
    """With the plugin; the group that its BuildKit leaves behind is taken away."""
    plugins = dockerd.directory / "cli-plugins"
    plugins.mkdir(exist_ok=True)
    if not (plugins / "docker-buildx").exists():
        (plugins / "docker-buildx").symlink_to(PLUGIN)
    yield dockerd
    parent = CGROUP_PARENT.strip("/")
    for place in (*CGROUPS.glob(f"*/{parent}/buildkit"), *CGROUPS.glob(f"{parent}/buildkit")):
        place.rmdir()


@pytest.mark.needs("dockerd")
@pytest.mark.parametrize("name", SAME)
def test_the_same_files_and_configuration_as_dockerd_s(
    daemon: Daemon, dockerd_buildkit: Dockerd, project: Path, tmp_path: Path, name: str
) -> None:
    (project / "Dockerfile").write_text(SAME[name])
    results = []
    for number, engine in enumerate((dockerd_buildkit, daemon)):
        out = tmp_path / f"{number}.tar"
        for words in (["-t", "case"], ["-o", f"type=tar,dest={out}"]):
            # neither has a network to give to steps
            engine.run([NEWEST, "buildx", "build", "--network=none", *words, str(project)])
        config = json.loads(engine.docker("inspect", "case").stdout)[0]["Config"]
        config["WorkingDir"] = config["WorkingDir"].removesuffix("/")  # BuildKit writes what is so without it
        ignored = ("Image", "ArgsEscaped")  # of the classic builder; of Windows
        results.append((files_of(out), {key: value for key, value in config.items() if value and key not in ignored}))
        engine.docker("rmi", "case")
    assert results[1] == results[0]


async def asked(daemon: Daemon, path: str, message: bytes, **metadata: str) -> tuple[int, str]:
    """(status, text) of one call over a connection of its own."""
    reader, writer = await asyncio.open_unix_connection(str(daemon.socket))
    writer.write(b"POST /grpc HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n")
    assert b"101" in await reader.readuntil(b"\r\n\r\n")
    channel = Channel(writer.transport)
    try:
        await channel.unary(path, message, {name.replace("_", "-"): [value] for name, value in metadata.items()})
    except GrpcError as error:
        return int(error.code), error.message
    finally:
        channel.close()
    return 0, ""


def test_calls_that_make_no_sense_are_refused(daemon: Daemon) -> None:
    control, bridge = "/moby.buildkit.v1.Control/", "/moby.buildkit.v1.frontend.LLBBridge/"
    graph = pb.Definition(ops=[b"x"])
    deeper = pb.SolveRequest(ref="a", frontend="dockerfile.v0", frontend_attrs={"contextsubdir": "x"})
    cases = [
        (f"{control}Nothing", b"", 12, "unknown method"),
        (f"{control}Solve", b"\xff\xff", 3, "malformed"),
        (f"{control}Solve", b"", 2, "needs a ref"),
        (f"{control}Solve", pb.SolveRequest(ref="a", definition=graph).SerializeToString(), 2, "LLB"),
        (f"{control}Solve", pb.SolveRequest(ref="a", frontend="x.v1").SerializeToString(), 2, "frontend x.v1"),
        (f"{control}Solve", pb.SolveRequest(ref="a", entitlements=["root"]).SerializeToString(), 2, "entitlement root"),
        (f"{control}Solve", pb.SolveRequest(ref="a", frontend="dockerfile.v0").SerializeToString(), 2, "no session"),
        (f"{control}Solve", deeper.SerializeToString(), 2, "contextsubdir is not supported"),
        (f"{bridge}Ping", b"", 3, "needs the id"),
        (
            f"{control}UpdateBuildHistory",
            pb.UpdateBuildHistoryRequest(ref="x", delete=True).SerializeToString(),
            5,
            "x",
        ),
        (f"{control}Prune", pb.PruneRequest(filter=["a b"]).SerializeToString(), 3, "invalid filter"),
    ]
    for path, message, code, words in cases:
        found = asyncio.run(asked(daemon, path, message))
        assert found[0] == code, (path, found)
        assert words in found[1]
    absent = pb.EvaluateRequest(ref="x").SerializeToString()
    found = asyncio.run(asked(daemon, f"{bridge}Evaluate", absent, buildkit_controlapi_buildid="none"))
    assert found == (5, "no such job none")
    assert "Traceback" not in daemon.log.read_text()


def relayed(path: Path, target: Path) -> socket.socket:
    """A socket behind which every connection is one to ``/grpc`` that has been upgraded already."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()

    def pump(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_RDWR)

    def work() -> None:
        with contextlib.suppress(OSError), listener.accept()[0] as client, socket.socket(socket.AF_UNIX) as engine:
            engine.connect(str(target))
            engine.sendall(b"POST /grpc HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n")
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                head += engine.recv(1)
            threads = [threading.Thread(target=pump, args=pair) for pair in ((client, engine), (engine, client))]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

    threading.Thread(target=work, daemon=True).start()
    return listener


def test_a_graph_of_a_client_of_another_grpc_is_refused(daemon: Daemon, tmp_path: Path) -> None:
    """grpcio as buildctl's stand-in: what it is told is what a person reads."""
    source = pb.Op(source=pb.SourceOp(identifier="docker-image://busybox")).SerializeToString()
    graph = pb.Definition(ops=[source, pb.Op(inputs=[pb.Input(digest="sha256:x")]).SerializeToString()])
    with relayed(tmp_path / "s", daemon.socket), grpc.insecure_channel(f"unix:{tmp_path / 's'}") as channel:

        def call(name: str, request: Any, answer: Any) -> Any:
            made = channel.unary_unary(
                f"/moby.buildkit.v1.Control/{name}", lambda message: message.SerializeToString(), answer.FromString
            )
            return made(request, timeout=20)

        assert call("Info", pb.InfoRequest(), pb.InfoResponse).buildkit_version.package == "corten"
        assert len(call("ListWorkers", pb.ListWorkersRequest(), pb.ListWorkersResponse).record) == 1
        with pytest.raises(grpc.RpcError) as caught:
            call("Solve", pb.SolveRequest(ref="raw", definition=graph), pb.SolveResponse)
        told = caught.value
        assert isinstance(told, grpc.Call)
        assert told.details() == "a build graph (LLB) is not supported: the frontend dockerfile.v0 is built in"


def test_who_listens_to_the_history_hears_at_once(daemon: Daemon, project: Path) -> None:
    """Beginning, end and being forgotten, also of builds that were not listed first."""
    told: list[tuple[int, str]] = []

    async def listen(over: asyncio.Event) -> None:
        reader, writer = await asyncio.open_unix_connection(str(daemon.socket))
        writer.write(b"POST /grpc HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        channel = Channel(writer.transport)
        async with await channel.stream("/moby.buildkit.v1.Control/ListenBuildHistory") as call:
            await call.send(pb.BuildHistoryRequest(active_only=True).SerializeToString())
            await call.half_close()
            await call.headers()
            over.set()
            async for message in call:
                event = pb.BuildHistoryEvent.FromString(message)
                told.append((event.type, event.record.ref))
                if event.type == pb.DELETED:
                    break
        channel.close()

    async def work() -> None:
        ready = asyncio.Event()
        listening = asyncio.ensure_future(listen(ready))
        await ready.wait()
        await asyncio.to_thread(build_text, daemon, project, "FROM busybox\nRUN sleep 1\n")
        ref = told[-1][1]
        await asyncio.to_thread(buildx, daemon, "history", "rm", ref)
        await asyncio.wait_for(listening, 10)
        kinds = [kind for kind, name in told if name == ref]
        assert [kinds[0], *kinds[-2:]] == [pb.STARTED, pb.COMPLETE, pb.DELETED]

    asyncio.run(work())


def test_a_raw_connection_that_is_no_buildkit(daemon: Daemon) -> None:
    """Garbage after the upgrade ends the connection, not the daemon."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(10)
        sock.connect(str(daemon.socket))
        sock.sendall(b"POST /grpc HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n" + b"\0" * 4096)
        received = b""
        while piece := sock.recv(4096):
            received += piece
    assert b"101" in received.split(b"\r\n")[0]
    assert daemon.answers()
