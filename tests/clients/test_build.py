"""Builds with unmodified clients, and beside dockerd: of the same Dockerfiles the same trees, configurations, words."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import io
import json
import os
import re
import subprocess
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from build_cases import FAILING, STEPS, WHOLE, context

from daemons import BIN, ApiConnection, Daemon, Dockerd, Engine

pytestmark = [pytest.mark.needs("docker", "busybox")]
_HASH = re.compile(r" ?(file|dir|multi):[0-9a-f]{64}")  # dockerd 20.10 has no blank between an owner and it
_MTIME = 1_600_000_000


def build(engine: Engine, body: bytes, query: str = "") -> tuple[int, list[dict[str, Any]]]:
    """Status, and what was told: documents, or one with the message of a refusal."""
    status, answer = engine.request("POST", f"/v1.41/build?{query}", body, content_type="application/x-tar")
    return status, [json.loads(line) for line in answer.splitlines() if line.strip()]


def error_of(documents: list[dict[str, Any]]) -> str:
    last = documents[-1]
    return last.get("error") or last.get("message") or ""


def text_of(documents: list[dict[str, Any]]) -> str:
    return "".join(document.get("stream", "") for document in documents)


def tree(engine: Engine, name: str) -> dict[str, tuple[Any, ...]]:
    """Every file of an image: kind, mode, owner, link or content, and the time where the context gave it."""
    status, archive = engine.request("GET", f"/v1.41/images/{name}/get")
    assert status == 200, archive
    found: dict[str, tuple[Any, ...]] = {}
    with tarfile.open(fileobj=io.BytesIO(archive)) as outer:
        manifest = json.load(outer.extractfile("manifest.json"))[0]  # type: ignore[arg-type]
        for layer in manifest["Layers"]:
            with tarfile.open(fileobj=outer.extractfile(layer)) as inner:
                apply(inner, found)
    return found


def apply(layer: tarfile.TarFile, found: dict[str, tuple[Any, ...]]) -> None:
    added: dict[str, tuple[Any, ...]] = {}
    for entry in layer:
        name = entry.name.strip("/").removeprefix("./")
        parent, _, base = name.rpartition("/")
        if base == ".wh..wh..opq":
            remove(found, f"{parent}/")
        elif base.startswith(".wh."):
            gone = f"{parent}/{base[4:]}" if parent else base[4:]
            found.pop(gone, None)
            remove(found, f"{gone}/")
        elif name not in ("", "."):
            added[name] = described(layer, entry)
    for name, value in added.items():
        if value[0] != "directory":
            remove(found, f"{name}/")
        found[name] = value


def remove(found: dict[str, tuple[Any, ...]], prefix: str) -> None:
    for name in [name for name in found if name.startswith(prefix)]:
        del found[name]


def described(layer: tarfile.TarFile, entry: tarfile.TarInfo) -> tuple[Any, ...]:
    owner = (oct(entry.mode & 0o7777), entry.uid, entry.gid)
    if entry.isdir():
        return ("directory", *owner)
    if entry.issym():
        return ("link", entry.uid, entry.gid, entry.linkname)
    if entry.isreg() or entry.islnk():
        content = layer.extractfile(entry)
        assert content is not None
        time_of = entry.mtime if entry.mtime == _MTIME and not entry.islnk() else "now"
        digest = hashlib.sha256(content.read()).hexdigest()
        return ("file", *owner, digest, "linked" if entry.islnk() else time_of)
    return ("other", entry.type, *owner)


def description(engine: Engine, name: str) -> dict[str, Any]:
    """Configuration and history as the API tells them, without what is of one engine."""
    config = json.loads(engine.request("GET", f"/v1.41/images/{name}/json")[1])
    history = json.loads(engine.request("GET", f"/v1.41/images/{name}/history")[1])
    run = {key: value for key, value in config["Config"].items() if value and key not in ("Image", "Hostname")}
    lines = [(_HASH.sub(r" \1:…", row["CreatedBy"]), row["Size"]) for row in history]
    return {"config": run, "history": lines, "author": config.get("Author") or "", "os": config["Os"]}


@pytest.fixture
def clean(daemon: Daemon) -> Iterator[None]:
    """The images that a test makes are gone afterwards."""
    with daemon.without_new_images():
        yield


# -- beside dockerd ---------------------------------------------------------------------------------------------------

CASES = {**{name: f"FROM busybox\n{text}\n" for name, text in STEPS.items()}, **WHOLE}


@pytest.mark.needs("dockerd")
@pytest.mark.parametrize("name", CASES)
def test_the_same_image_as_dockerd_s(daemon: Daemon, dockerd: Dockerd, clean: None, name: str) -> None:
    body = context(CASES[name])
    for engine in (dockerd, daemon):
        status, documents = build(engine, body, "t=case")
        assert (status, error_of(documents)) == (200, ""), engine
        assert "Successfully tagged case:latest\n" in text_of(documents)
    assert description(daemon, "case") == description(dockerd, "case")
    if CASES[name] not in (WHOLE["scratch env"],):  # dockerd cannot save an image without layers
        assert tree(daemon, "case") == tree(dockerd, "case")


@pytest.mark.needs("dockerd")
@pytest.mark.parametrize("name", FAILING)
def test_the_same_failure_as_dockerd_s(daemon: Daemon, dockerd: Dockerd, clean: None, name: str) -> None:
    text, words = FAILING[name]
    statuses = []
    for engine in (dockerd, daemon):
        status, documents = build(engine, context(text), "t=case&forcerm=1")
        assert words.lower() in error_of(documents).lower(), engine
        statuses.append(200 if status == 200 else 400)
        codes = [document["errorDetail"].get("code") for document in documents if "errorDetail" in document]
        assert codes in ([], [None]) or codes[0] == int(words.rpartition(" ")[2])
    assert statuses[0] == statuses[1]


@pytest.mark.needs("dockerd")
def test_what_clients_are_told_is_the_same(daemon: Daemon, dockerd: Dockerd, clean: None) -> None:
    text = (
        "ARG V=busybox\nFROM $V AS one\nARG X=1\nRUN echo out; echo $X\nFROM busybox\nCOPY --from=one /etc/group /g\n"
        "ENV a=b\nWORKDIR /new\nONBUILD RUN true\n"
    )
    told = []
    for engine in (dockerd, daemon):
        for _ in range(2):
            _, documents = build(engine, context(text), "t=case&buildargs=%7B%22U%22%3A%22%22%7D")
            shown = re.sub(r"\b[0-9a-f]{12}\b", "<id>", text_of(documents))
            shown = re.sub(r"sha256:[0-9a-f]{64}", "<id>", shown)
            # dockerd runs a container for what only changes the configuration
            shown = re.sub(r" ---> Running in <id>\nRemoving intermediate container <id>\n", "", shown)
            told.append((shown, [list(document) for document in documents if "stream" not in document]))
    assert told[2:] == told[:2]
    assert told[1][0].count("Using cache") == 6


# -- clients ----------------------------------------------------------------------------------------------------------

CLASSIC = {"DOCKER_BUILDKIT": "0"}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "src").mkdir()
    (tmp_path / "src/one").write_text("1")
    (tmp_path / "secret").write_text("no")
    (tmp_path / ".dockerignore").write_text("secret\n")
    (tmp_path / "Dockerfile").write_text("FROM busybox\nARG A=0\nCOPY . /app\nRUN echo $A > /app/a\nCMD cat /app/a\n")
    return tmp_path


def docker(daemon: Daemon, *words: str, **options: Any) -> Any:
    return daemon.run(["env", "DOCKER_BUILDKIT=0", "docker", *words], **options)


def test_docker_build(daemon: Daemon, clean: None, project: Path) -> None:
    done = docker(daemon, "build", "-t", "mine", "-t", "mine:2", "--build-arg", "A=5", "--label", "l=v", str(project))
    assert "Successfully tagged mine:2" in done.stdout
    assert daemon.docker("run", "--rm", "mine").stdout == "5\n"
    assert daemon.docker("run", "--rm", "mine:2", "ls", "/app").stdout.split() == ["Dockerfile", "a", "src"]
    assert daemon.inspect("mine")["Config"]["Labels"] == {"l": "v"}
    again = docker(
        daemon, "build", "--build-arg", "A=5", "--label", "l=v", "-q", "--iidfile", f"{project}/id", str(project)
    )
    assert again.stdout.strip() == daemon.inspect("mine")["Id"] == (project / "id").read_text().strip()
    assert not daemon.docker("ps", "-aq").stdout


def test_docker_build_from_standard_input(daemon: Daemon, clean: None) -> None:
    done = docker(daemon, "build", "-t", "x", "-", input="FROM busybox\nRUN echo piped > /p\n")
    assert "Successfully built" in done.stdout
    assert daemon.docker("run", "--rm", "x", "cat", "/p").stdout == "piped\n"


def test_docker_build_that_fails_has_the_program_s_words_and_code(daemon: Daemon, clean: None) -> None:
    done = docker(daemon, "build", "-", input="FROM busybox\nRUN echo why >&2; exit 9\n", check=False)
    assert done.returncode == 9
    assert "why" in done.stderr + done.stdout
    assert "returned a non-zero code: 9" in done.stderr
    assert len(daemon.docker("ps", "-aq").stdout.split()) == 1, "the failed step's container is kept to be looked at"


def test_docker_py(daemon: Daemon, clean: None, project: Path) -> None:
    image, logs = daemon.client.images.build(path=str(project), tag="py:1", buildargs={"A": "7"}, rm=True)
    assert image.tags == ["py:1"]
    assert any("Step 1/5" in line.get("stream", "") for line in logs)
    with pytest.raises(Exception, match="returned a non-zero code: 3"):
        daemon.client.images.build(fileobj=io.BytesIO(b"FROM busybox\nRUN exit 3\n"), rm=True, forcerm=True)


def test_limits_and_networks_of_steps(daemon: Daemon, clean: None) -> None:
    text = "FROM busybox\nRUN cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null; " \
        "df -k /dev/shm | tail -1; ulimit -n; cat /etc/hosts; ls /sys/class/net\n"  # fmt: skip
    words = [
        "--memory",
        "64m",
        "--shm-size",
        "8m",
        "--ulimit",
        "nofile=77:77",
        "--add-host",
        "me:1.2.3.4",
        "--network",
        "none",
    ]
    shown = docker(daemon, "build", "--no-cache", *words, "-", input=text).stdout
    for expected in ("67108864", "8192", "77", "1.2.3.4\tme", "lo"):
        assert expected in shown
    assert "eth0" not in shown


def test_mounts_of_steps_leave_nothing_in_the_layer(daemon: Daemon, clean: None) -> None:
    text = """FROM busybox AS other
RUN echo from another > /o
FROM busybox
RUN --mount=target=/ctx,ro --mount=type=bind,from=other,source=/o,target=/mnt/o --mount=type=tmpfs,target=/tt \
    --mount=type=cache,target=/cache \
    cat /ctx/a /mnt/o > /got && echo x > /tt/x && echo $((`cat /cache/n || echo 0`+1)) > /cache/n \
    && cat /cache/n && ! touch /ctx/new
RUN --mount=type=cache,target=/cache cat /cache/n > /count && touch /cache/made
RUN --mount=type=cache,target=/cache test -f /cache/made
RUN <<EOF
set -e
echo here > /doc
EOF
RUN <<EOF
#!/bin/cat
not executed by a shell
EOF
COPY --chmod=600 <<EOF /written
$PATH
EOF
"""
    status, documents = build(daemon, context(text), "t=mounted")
    assert (status, error_of(documents)) == (200, "")
    assert "not executed by a shell\n" in text_of(documents)
    found = tree(daemon, "mounted")
    assert not {"ctx", "mnt", "tt", "cache", "dev/pipes"} & found.keys()
    shown = daemon.docker("run", "--rm", "mounted", "cat", "/got", "/count", "/doc", "/written").stdout
    assert shown == "A\nfrom another\n1\nhere\n/bin\n"
    rows = json.loads(daemon.request("GET", "/v1.41/system/df")[1])["BuildCache"]
    assert [row["Type"] for row in rows].count("exec.cachemount") == 1


def test_a_client_that_leaves_ends_its_build(daemon: Daemon, clean: None) -> None:
    raw = ApiConnection(daemon.socket)
    raw.request("POST", "/v1.41/build", context("FROM busybox\nRUN echo begun; sleep 60\n"))
    answer = raw.getresponse()
    while b"begun\\n" not in answer.readline():
        pass
    assert daemon.docker("ps", "-q").stdout
    raw.sock.close()
    answer.close()
    raw.close()
    deadline = time.monotonic() + 15
    while daemon.docker("ps", "-aq").stdout:
        assert time.monotonic() < deadline, "the step's container stays"


def test_cancel_by_id(daemon: Daemon, clean: None) -> None:
    told: list[Any] = []

    def work() -> None:
        told.extend(build(daemon, context("FROM busybox\nRUN sleep 60\n"), "buildid=mine")[1])

    thread = threading.Thread(target=work)
    thread.start()
    deadline = time.monotonic() + 15
    while not daemon.docker("ps", "-q").stdout:
        assert time.monotonic() < deadline
    assert daemon.request("POST", "/v1.41/build/cancel?id=mine")[0] == 200
    thread.join(15)
    assert error_of(told) == "the build was cancelled"
    assert not daemon.docker("ps", "-aq").stdout


def test_two_clients_with_the_same_build_do_the_work_once(daemon: Daemon, clean: None) -> None:
    body = context("FROM busybox\nRUN cat /proc/sys/kernel/random/uuid > /u; sleep 0.5\n")
    images: list[str] = []

    def work() -> None:
        documents = build(daemon, body)[1]
        images.append(next(document["aux"]["ID"] for document in documents if "aux" in document))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(set(images)) == 1


def test_a_killed_daemon_leaves_no_container_of_a_build_and_keeps_the_cache(fresh_daemon: Daemon) -> None:
    body = context("FROM busybox\nRUN echo first > /f\nRUN sleep 60\n")
    build(fresh_daemon, context("FROM busybox\nRUN echo first > /f\n"))

    def work() -> None:
        with contextlib.suppress(OSError, http.client.HTTPException):
            build(fresh_daemon, body)

    thread = threading.Thread(target=work)
    thread.start()
    deadline = time.monotonic() + 15
    while not fresh_daemon.docker("ps", "-q").stdout:
        assert time.monotonic() < deadline
    fresh_daemon.kill()
    thread.join(10)
    fresh_daemon.start()
    assert not fresh_daemon.docker("ps", "-aq").stdout
    assert not list((fresh_daemon.data_root / "build/scratch").iterdir())
    _, documents = build(fresh_daemon, context("FROM busybox\nRUN echo first > /f\n"))
    assert "Using cache" in text_of(documents)


def test_prune_gives_room_back_and_leaves_named_images(daemon: Daemon, clean: None) -> None:
    build(daemon, context("FROM busybox\nRUN yes | head -c 2000000 > /big\n"))
    build(daemon, context("FROM busybox\nRUN yes | head -c 1000000 > /named\n"), "t=named")
    rows = json.loads(daemon.request("GET", "/v1.41/system/df")[1])["BuildCache"]
    assert {row["Shared"] for row in rows} == {True, False}
    answer = json.loads(daemon.request("POST", "/v1.41/build/prune")[1])
    assert answer["SpaceReclaimed"] >= 2_000_000
    assert len(answer["CachesDeleted"]) == 1
    assert daemon.docker("run", "--rm", "named", "ls", "/named").stdout == "/named\n"
    _, documents = build(daemon, context("FROM busybox\nRUN yes | head -c 1000000 > /named\n"))
    assert "Using cache" in text_of(documents)


def test_hostile_images_and_steps(daemon: Daemon, clean: None, tmp_path: Path) -> None:
    """Configuration is data, a step has an ordinary container's rights, nothing of the host shows."""
    canary = tmp_path / "canary"
    canary.write_text("alive")
    text = f"""FROM busybox
LABEL a="$(touch {canary}x)" b="`touch {canary}x`"
WORKDIR /../../..{tmp_path}
VOLUME /../../etc
HEALTHCHECK CMD touch {canary}x
RUN grep CapEff /proc/self/status; env; id -u
RUN --mount=type=cache,target=/c ln -s {canary} /c/l
RUN --mount=type=cache,target=/c echo dead > /c/l || true
RUN --mount=type=tmpfs,target=/m/n rm -rf /m/x; ln -s {tmp_path} /m/l
"""
    status, documents = build(daemon, context(text), "t=hostile")
    assert (status, error_of(documents)) == (200, "")
    assert canary.read_text() == "alive"
    assert sorted(tmp_path.iterdir()) == [canary]
    shown = text_of(documents)
    ordinary = daemon.docker("run", "--rm", "busybox", "grep", "CapEff", "/proc/self/status").stdout
    assert ordinary in shown
    assert "CORTEN" not in shown


# -- our own command --------------------------------------------------------------------------------------------------


def test_corten_build(daemon: Daemon, clean: None, project: Path) -> None:
    (project / "huge").mkdir()
    (project / ".dockerignore").write_text("secret\nhuge\nDockerfile\n")
    words = ["-t", "mine", "--build-arg", "A=5", "--iidfile", f"{project}/id", "--metadata-file", f"{project}/meta"]
    done = daemon.corten("build", *words, str(project))
    assert "[4/5] RUN echo $A > /app/a" in done.stderr
    assert daemon.docker("run", "--rm", "mine", "ls", "/app").stdout.split() == ["a", "src"]
    image = daemon.inspect("mine")["Id"]
    assert (project / "id").read_text() == image
    assert json.loads((project / "meta").read_text())["containerimage.config.digest"] == image
    (project / "id").unlink()
    (project / "meta").unlink()
    assert daemon.corten("build", "-q", "--build-arg", "A=5", str(project)).stdout == f"{image}\n"
    (project / "src/one").write_text("2")
    explained = daemon.corten("build", "--build-arg", "A=5", "--progress=explain", str(project)).stderr
    assert "not cached: src/one changed\n" in explained
    raw = daemon.corten("build", "--progress=rawjson", str(project)).stdout
    steps = [json.loads(line) for line in raw.splitlines()]
    assert next(step["name"] for step in steps if "started" in step) == "1/5 FROM busybox"
    assert all(step["completed"] > 10**18 for step in steps if "completed" in step)


def test_corten_build_takes_dockerfiles_from_elsewhere(
    daemon: Daemon, clean: None, project: Path, tmp_path: Path
) -> None:
    text = "FROM busybox\nCOPY . /c\nRUN ls -A /c\n"
    for words, options in (
        (["-f", "-", str(project)], {"input": text}),
        (["-f", str(project / "src/File"), str(project)], {}),
        (["-f", "../outside", "."], {"cwd": project / "src"}),
    ):
        (project / "src/File").write_text(text)
        (project / "outside").write_text(text)
        assert "RUN ls -A /c" in daemon.corten("build", "--no-cache", *words, **options).stderr
    assert "ENV a=b" in daemon.corten("build", "-", input="FROM busybox\nENV a=b\n").stderr
    archive = subprocess.run(["tar", "cz", "-C", project, "."], capture_output=True, check=True).stdout
    raw = subprocess.run(
        [str(BIN / "corten"), "-H", daemon.host, "build", "-"], input=archive, capture_output=True, check=True
    )
    assert b"DONE" in raw.stderr


def test_corten_build_passes_secrets_on(daemon: Daemon, clean: None, project: Path) -> None:
    (project / "Dockerfile").write_text(
        "FROM busybox\nRUN --mount=type=secret,id=k cp /run/secrets/k /got\n"
        "RUN --mount=type=secret,id=e,target=/e,mode=0444 cat /e >> /got; ls -l /e | cut -c1-10\n"
    )
    words = ["--secret", f"id=k,src={project}/secret", "--secret", "id=e,env=HOME", "-t", "s"]
    shown = daemon.corten("build", *words, str(project)).stderr
    assert "-r--r--r--" in shown
    assert daemon.docker("run", "--rm", "s", "cat", "/got").stdout == "no" + os.environ["HOME"]
    found = tree(daemon, "s")
    assert "run" not in found
    assert "e" not in found


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["/nowhere"], "path '/nowhere' not found"),
        (["/etc/passwd"], "context must be a directory"),
        (["--progress=loud", "."], "invalid progress mode"),
        (["-f", "nowhere", "."], "nowhere not found"),
        (["-f", "-", "-"], "can't use stdin for both"),
        (["--secret", "id=x,src=/nowhere", "."], "failed to read secret x"),
        (["--build-context", "a=nowhere", "."], "a is no directory"),
        (["--build-context", "a", "."], "expected key=value"),
        (["--allow", "everything", "."], "invalid entitlement"),
        (["--output", "type=floppy", "."], "invalid output type"),
        (["--output", "type=tar,compression=gzip", "."], "has no option 'compression'"),
        (["--attest", "type=oath", "."], "invalid attestation type"),
        (["--annotation", "a=b", "."], "image store does not keep"),
        (["--platform", "linux/amd64,linux/arm64", "."], "keeps one platform"),
        (["--no-cache-filter", "nostage", "."], "no stage nostage"),
        (["--ssh", "default=/etc/passwd", "."], "neither an agent's socket nor a private key"),
        (["--cache-to", "type=s3", "."], "unknown cache exporter"),
        (["--push", "-t", "127.0.0.1:1/x", "."], "connection refused"),
        (["--network=host", "--memory=1", "."], "Minimum memory limit"),
    ],
)
def test_corten_build_refuses(daemon: Daemon, clean: None, project: Path, words: list[str], message: str) -> None:
    done = daemon.corten("build", *words, cwd=project, check=False)
    assert done.returncode
    assert message.lower() in (done.stderr + done.stdout).lower()
    daemon.remove_containers()


def test_corten_build_fails_with_the_program_s_code(daemon: Daemon, clean: None) -> None:
    done = daemon.corten("build", "--force-rm", "-", input="FROM busybox\nRUN echo why; exit 9\n", check=False)
    assert done.returncode == 9
    assert " why\n" in done.stderr
    assert "returned a non-zero code: 9" in done.stderr


def test_corten_build_check(daemon: Daemon, clean: None, project: Path) -> None:
    (project / "Dockerfile").write_text("FROM busybox\nMAINTAINER me\n")
    done = daemon.corten("build", "--check", str(project), check=False)
    assert done.returncode == 1
    assert "WARNING: MaintainerDeprecated" in done.stdout
    assert "   2 | MAINTAINER me" in done.stdout
    (project / "Dockerfile").write_text("FROM busybox\nCOPY src/one /a\nCOPY secret /b\n")
    done = daemon.corten("build", "--check", "-f", f"{project}/Dockerfile", str(project), check=False)
    assert done.stdout.startswith("WARNING: CopyIgnoredFile\n"), ".dockerignore has it"
    assert "   3 | COPY secret /b\n" in done.stdout
    assert "Check complete, 1 warning found" in done.stderr
    (project / "Dockerfile").write_text("FROM busybox\n")
    assert daemon.corten("build", "--check", str(project)).stdout == "Check complete, no warnings found.\n"


def test_corten_builder(daemon: Daemon, clean: None) -> None:
    daemon.corten("build", "-", input="FROM busybox\nRUN yes | head -c 2000000 > /big\n")
    assert "2MB" in daemon.corten("builder", "du").stdout
    assert "Usage count:" in daemon.corten("builder", "du", "--verbose").stdout
    assert "cancelled" in daemon.corten("builder", "prune", input="n\n", check=False).stderr
    assert "Total reclaimed space: 2MB" in daemon.corten("builder", "prune", "-f").stdout


def test_builds_are_counted(daemon: Daemon, clean: None) -> None:
    def counts() -> dict[str, float]:
        text = daemon.request("GET", "/metrics")[1].decode()
        rows = (line.rpartition(" ") for line in text.splitlines() if line.startswith("builder_builds"))
        return {name: float(value) for name, _, value in rows}

    before = counts()
    build(daemon, context("FROM busybox\nRUN true\n"))
    build(daemon, context("FROM busybox\nRUN exit 3\n"))
    build(daemon, context("FROM busybox\nRUNS true\n"))
    after = counts()
    grown = {name: value - before.get(name, 0) for name, value in after.items() if value != before.get(name, 0)}
    assert grown == {
        "builder_builds_triggered_total": 3,
        'builder_builds_failed_total{reason="dockerfile_syntax_error"}': 1,
        'builder_builds_failed_total{reason="error_processing_commands_error"}': 1,
    }


def test_a_daemon_that_stops_ends_its_builds(fresh_daemon: Daemon) -> None:
    told: list[Any] = []

    def work() -> None:
        with contextlib.suppress(OSError, http.client.HTTPException):
            told.extend(build(fresh_daemon, context("FROM busybox\nRUN sleep 60\n"))[1])

    thread = threading.Thread(target=work)
    thread.start()
    deadline = time.monotonic() + 15
    while not fresh_daemon.docker("ps", "-q").stdout:
        assert time.monotonic() < deadline
    begun = time.monotonic()
    fresh_daemon.stop()
    assert time.monotonic() - begun < 15
    thread.join(10)
    fresh_daemon.start()
    assert not fresh_daemon.docker("ps", "-aq").stdout
    assert "Traceback" not in fresh_daemon.log.read_text()
