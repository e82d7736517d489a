"""Compose, unmodified, old and new: a stack of five services lives its life."""

from __future__ import annotations

import http.client
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from daemons import Daemon
from machine import CLIENTS
from waiting import until

pytestmark = [pytest.mark.needs("docker", "busybox", "nf_tables")]

STACK = Path(__file__).parent / "compose"
PROGRAMS = {
    "new": [str(CLIENTS / "usr/libexec/docker/cli-plugins/docker-compose")],
    "old": ["docker-compose"],
}

WATCHED = """
services:
  app:
    image: watched:1
    build: .
    command: sleep 1000
    stop_grace_period: 0s
    network_mode: none
    develop: {watch: [{action: sync, path: ./site, target: /site}]}
"""

Compose = Callable[..., str]


@pytest.fixture(
    params=[
        pytest.param("new", marks=pytest.mark.needs("newest compose")),
        pytest.param("old", marks=pytest.mark.needs("old compose")),
    ]
)
def compose(request: pytest.FixtureRequest, networked: Daemon, tmp_path: Path) -> Iterator[tuple[Compose, int, str]]:
    """(run a command of compose, the port of the web service, which compose)"""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shutil.copy(STACK / "compose.yaml", tmp_path / "docker-compose.yaml")
    (tmp_path / ".env").write_text(f"PORT={port}\n")

    def run(*words: str, **options) -> str:
        done = networked.run([*PROGRAMS[request.param], "-p", "shop", *words], cwd=tmp_path, timeout=90, **options)
        return done.stdout + done.stderr

    yield run, port, request.param
    run("down", "-v", "--remove-orphans", "-t", "0", check=False)


def page(port: int) -> str:
    deadline = time.monotonic() + 10
    while True:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("GET", "/")
            return connection.getresponse().read().decode()
        except (ConnectionError, http.client.BadStatusLine):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        finally:
            connection.close()


def test_a_stack_lives_its_life(networked: Daemon, compose: tuple[Compose, int, str], tmp_path: Path) -> None:
    run, port, which = compose
    separator = "-" if which == "new" else "_"
    run("up", "-d", "--scale", "worker=2", *(["--wait"] if which == "new" else []))
    assert page(port) == "data\n"
    names = networked.docker("ps", "--format", "{{.Names}}").stdout.split()
    expected = [*(f"{name}{separator}1" for name in ("api", "db", "web", "worker")), f"worker{separator}2"]
    assert sorted(names) == sorted(f"shop{separator}{name}" for name in expected)
    assert networked.inspect(f"shop{separator}db{separator}1")["State"]["Health"]["Status"] == "healthy"
    assert run("logs", "worker").count("working") == 2
    assert "test" in run("exec", "-T", "web", "sh", "-c", "echo $MODE")
    assert str(port) in run("port", "web", "80")
    assert "httpd" in run("top", "web")
    # the closed network has no way out, and the front one does not see it
    assert "default" not in run("exec", "-T", "db", "ip", "route")
    assert "Name:" not in run("exec", "-T", "web", "nslookup", "db", check=False)
    (tmp_path / "page").write_text("changed\n")
    web = f"shop{separator}web{separator}1"
    if which == "new":  # older ones have no cp
        run("cp", str(tmp_path / "page"), "web:/w/index.html")
        run("cp", "web:/w/index.html", str(tmp_path / "back"))
        assert (tmp_path / "back").read_text() == "changed\n"
    else:
        networked.docker("cp", str(tmp_path / "page"), f"{web}:/w/index.html")
    assert page(port) == "changed\n"
    run("restart", "-t", "0", "worker")
    run("up", "-d", "--scale", "worker=3")
    assert len(networked.docker("ps", "-q", "--filter", "label=com.docker.compose.service=worker").stdout.split()) == 3
    assert "migrated" in run("run", "--rm", "once")
    run("--profile", "tools", "up", "-d")
    once = f"shop{separator}once{separator}1"
    assert networked.inspect(once)["State"]["ExitCode"] == 0
    before = networked.inspect(web)["Id"]
    (tmp_path / ".env").write_text(f"PORT={port}\nMODE=other\n")
    run("up", "-d", "--scale", "worker=1")
    assert networked.inspect(web)["Id"] != before, "what has changed is made anew"
    assert "other" in run("exec", "-T", "web", "sh", "-c", "echo $MODE")
    assert page(port) == "data\n"
    run("stop", "-t", "0")
    assert networked.docker("ps", "-q").stdout == ""
    run("start")
    assert page(port)
    run("down", "-v", "-t", "0")
    assert networked.docker("ps", "-aq").stdout == ""
    assert networked.docker("volume", "ls", "-q").stdout == ""
    assert networked.docker("network", "ls", "-q", "--filter", "type=custom").stdout == ""


@pytest.mark.needs("newest compose")
def test_changes_are_watched(networked: Daemon, tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site/page").write_text("first\n")
    (tmp_path / "Dockerfile").write_text("FROM busybox\nCOPY site /site\n")
    (tmp_path / "compose.yaml").write_text(WATCHED)
    compose = [*PROGRAMS["new"], "-p", "watched"]
    networked.docker("tag", "busybox", "watched:1")
    networked.run([*compose, "up", "-d", "--no-build"], cwd=tmp_path)
    environment = {**os.environ, "DOCKER_HOST": networked.host, "DOCKER_CONFIG": str(networked.directory)}
    with open(tmp_path / "said", "w") as said:
        watching = subprocess.Popen(
            [*compose, "watch", "--no-up"], cwd=tmp_path, env=environment, stdout=said, stderr=said
        )
    try:
        until(lambda: "enabled" in (tmp_path / "said").read_text(), 60)
        (tmp_path / "site/page").write_text("second\n")
        served = ["exec", "watched-app-1", "cat", "/site/page"]
        until(lambda: networked.docker(*served, check=False).stdout == "second\n", 60)
    finally:
        watching.terminate()
        watching.wait(20)
        networked.run([*compose, "down", "-v", "-t", "0"], cwd=tmp_path)
        networked.docker("rmi", "watched:1")


def test_what_is_wrong_is_said(networked: Daemon, compose: tuple[Compose, int, str]) -> None:
    run, port, _ = compose
    with socket.create_server(("127.0.0.1", port)):
        said = run("up", "-d", check=False)
    assert "port is already allocated" in said


@pytest.mark.needs("newest compose", "buildx")
@pytest.mark.parametrize("way", ["bake", "its own"])
def test_images_are_built_over_buildkit_s_protocol(
    networked: Daemon, tmp_path: Path, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through buildx's bake, or without it as all of Compose 2 before 2.37 did."""
    monkeypatch.setenv("COMPOSE_BAKE", str(way == "bake").lower())
    plugins = networked.directory / "cli-plugins"
    plugins.mkdir(exist_ok=True)
    if not (plugins / "docker-buildx").exists():
        (plugins / "docker-buildx").symlink_to(CLIENTS / "usr/libexec/docker/cli-plugins/docker-buildx")
    (tmp_path / "key").write_text("s3cret")
    (tmp_path / "compose.yaml").write_text(
        "services:\n"
        "  one:\n    image: built:1\n    command: cat /word /key\n    build:\n      context: .\n"
        "      args: {WORD: composed}\n      secrets: [k]\n      dockerfile_inline: |\n"
        "        FROM busybox\n        ARG WORD\n        RUN echo $$WORD > /word\n"
        "        RUN --mount=type=secret,id=k cp /run/secrets/k /key\n"
        "  two:\n    image: built:2\n    command: cat /word\n    build:\n      context: .\n"
        "      additional_contexts: {base: 'service:one'}\n"
        "      dockerfile_inline: |\n        FROM base\n        RUN echo again >> /word\n"
        "secrets:\n  k:\n    file: key\n"
    )
    command = [*PROGRAMS["new"], "-p", "built"]
    try:
        built = networked.run([*command, "build"], cwd=tmp_path, timeout=90)
        assert "RUN echo $WORD > /word" in built.stdout + built.stderr
        shown = networked.run([*command, "up", "--build"], cwd=tmp_path, timeout=90).stdout
        assert re.search(r"one-1 .*composed", shown)
        assert "s3cret" in shown
        assert re.search(r"two-1 .*again", shown)
    finally:
        networked.run([*command, "down", "-t", "0"], cwd=tmp_path, check=False)
        networked.docker("rmi", "-f", "built:1", "built:2", check=False)
        networked.request("POST", "/build/prune?all=1")


def test_images_are_built_for_services(
    compose: tuple[Compose, int, str], networked: Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, _, _ = compose
    monkeypatch.setenv("DOCKER_BUILDKIT", "0")
    monkeypatch.setenv("COMPOSE_DOCKER_CLI_BUILD", "0")
    (tmp_path / "app").mkdir()
    text = "FROM busybox\nARG WORD\nCOPY . /app\nRUN echo $WORD > /word\nCMD cat /word\n"
    (tmp_path / "app/Dockerfile").write_text(text)
    (tmp_path / "app/.dockerignore").write_text("ignored\n")
    (tmp_path / "app/ignored").write_text("x")
    (tmp_path / "docker-compose.yaml").write_text(
        'version: "3.4"\nservices:\n  app:\n    image: built:1\n    build:\n      context: app\n'
        "      args:\n        WORD: composed\n"
    )
    try:
        shown = run("build")
        assert " : RUN echo $WORD > /word" in shown  # new ones add a step with labels
        assert "composed" in run("run", "--rm", "app")
        listed = networked.docker("run", "--rm", "built:1", "ls", "-A", "/app").stdout.split()
        assert listed == [".dockerignore", "Dockerfile"]
    finally:
        run("down", "-v", "-t", "0", check=False)
        networked.docker("rmi", "-f", "built:1", check=False)
        networked.request("POST", "/build/prune?all=1")
