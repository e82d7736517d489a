"""A real web server: runs, answers, is stopped, committed, saved, and answers from a second daemon."""

from __future__ import annotations

import http.client
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemons import Daemon
from machine import IMAGES

pytestmark = [pytest.mark.needs("docker", "busybox", "nginx")]

PAGE = "served from the container's own layer"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def get(port: int, path: str = "/") -> tuple[int, str, str]:
    """Status, server and body; waits until somebody listens."""
    deadline = time.monotonic() + 10
    while True:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.headers["Server"], response.read().decode()
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        finally:
            connection.close()


def is_closed(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


@pytest.fixture
def second_daemon(tmp_path: Path, cgroup_parent: str) -> Iterator[Daemon]:
    made = Daemon(tmp_path / "second")
    made.start()
    yield made
    made.remove_containers()
    made.stop()


def test_nginx_from_one_daemon_to_another(fresh_daemon: Daemon, second_daemon: Daemon, tmp_path: Path) -> None:
    first, port = fresh_daemon, free_port()
    first.run(["sh", str(IMAGES / "nginx.import"), "docker"])
    config = json.loads(first.docker("image", "inspect", "nginx").stdout)[0]["Config"]
    assert config["Cmd"] == ["nginx", "-g", "daemon off;"]
    assert config["StopSignal"] == "SIGQUIT"
    assert config["ExposedPorts"] == {"80/tcp": {}}

    site = f"server {{ listen 127.0.0.1:{port}; root /srv; }}"
    (tmp_path / "site").write_text(site)
    (tmp_path / "index.html").write_text(PAGE)
    first.corten("create", "--name", "web", "--network", "host", "nginx")
    first.corten("cp", str(tmp_path / "site"), "web:/etc/nginx/sites-available/default")
    first.corten("cp", str(tmp_path / "index.html"), "web:/srv/index.html")
    first.corten("start", "web")
    status, server, body = get(port)
    assert (status, body) == (200, PAGE)
    assert server.startswith("nginx/")
    assert get(port, "/nowhere")[0] == 404
    assert first.corten("exec", "web", "cat", "/proc/1/comm").stdout == "nginx\n"
    assert '"GET / HTTP/1.1" 200' in first.docker("logs", "web").stdout
    assert any("nginx: worker process" in line for line in first.docker("top", "web").stdout.splitlines())

    first.docker("stop", "web")
    state = first.inspect("web")["State"]
    # SIGQUIT is nginx's graceful end: 0, and at once
    assert (state["Status"], state["ExitCode"], state["OOMKilled"]) == ("exited", 0, False)
    assert is_closed(port)

    made = first.corten("commit", "-m", "with a site", "-a", "tests", "web", "site:1").stdout.strip()
    layers = json.loads(first.docker("image", "inspect", "site:1").stdout)[0]["RootFS"]["Layers"]
    below = json.loads(first.docker("image", "inspect", "nginx").stdout)[0]["RootFS"]["Layers"]
    assert layers[:-1] == below
    rows = first.docker("history", "--no-trunc", "--format", "{{.ID}} {{.Comment}}", "site:1").stdout.splitlines()
    assert rows[0] == f"{made} with a site"
    first.corten("save", "-o", str(tmp_path / "site.tar"), "site:1")
    first.corten("rm", "web")

    second_daemon.corten("load", "-i", str(tmp_path / "site.tar"))
    assert second_daemon.docker("images", "-q", "--no-trunc", "site:1").stdout.strip() == made
    assert second_daemon.docker("history", "-q", "--no-trunc", "site:1").stdout.split()[0] == made
    second_daemon.docker("run", "-d", "--name", "web", "--network", "host", "site:1")
    assert get(port)[::2] == (200, PAGE)
    second_daemon.docker("rm", "-f", "web")
    assert is_closed(port)
