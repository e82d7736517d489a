"""Real projects, each as its own directory in ``projects``: built, run, and built again from the cache.

What has its toolchain on this machine builds on the image ``host`` and needs no network; what installs packages of
Debian needs its mirror.
"""

from __future__ import annotations

import os
import re
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemons import Daemon
from machine import IMAGES

pytestmark = [pytest.mark.needs("docker", "busybox"), pytest.mark.timeout(600)]
PROJECTS = Path(__file__).parent / "projects"
MIRROR = "http://deb.debian.org/debian/dists/bookworm/InRelease"


@pytest.fixture(autouse=True)
def clean(daemon: Daemon) -> Iterator[None]:
    with daemon.without_new_images():
        yield


@pytest.fixture
def debian(daemon: Daemon) -> None:
    """An image "debian" that reaches its mirror; only with the host's network, which is what it is reached by here."""
    if not (IMAGES / "nginx.tar").exists():
        pytest.skip("no image of Debian is here (tests/images/build-images nginx)")
    try:
        urllib.request.urlopen(MIRROR, timeout=5).close()
    except (urllib.error.URLError, TimeoutError) as error:
        pytest.skip(f"Debian's mirror cannot be reached: {error}")
    daemon.corten("import", str(IMAGES / "nginx.tar"), "with-nginx")
    text = "FROM with-nginx\nRUN apt-get purge -y -qq --auto-remove nginx-light nginx-common && rm -rf /var/www\n"
    daemon.corten("build", "-t", "debian", "-", input=text, timeout=300)


def build(daemon: Daemon, name: str, *words: str) -> str:
    return daemon.corten("build", "-t", name, *words, str(PROJECTS / name), timeout=580).stderr


@pytest.mark.parametrize(
    ("name", "tools", "said"),
    [
        ("c", ["gcc", "strip"], "hello from C, world"),
        ("node", ["node", "npm"], "hello from node, production"),
        ("python", ["/usr/share/python-wheels"], "hello from python, venv"),
    ],
)
def test_projects_with_the_tools_of_this_machine(daemon: Daemon, name: str, tools: list[str], said: str) -> None:
    for tool in tools:
        if not (os.path.exists(tool) if tool.startswith("/") else shutil.which(tool, path="/usr/bin")):
            pytest.skip(f"{tool} is not installed on this machine")
    build(daemon, name)
    assert daemon.docker("run", "--rm", name).stdout == f"{said}\n"
    again = build(daemon, name)
    assert "DONE" not in "".join(line for line in again.splitlines(True) if "RUN" in line)
    assert again.count("CACHED") >= 5


def test_nginx_of_debian(daemon: Daemon, debian: None) -> None:
    done = daemon.corten(
        "build", "-t", "nginx", "--network=host", str(PROJECTS / "nginx"), check=False, timeout=580
    )  # fmt: skip
    if done.returncode and re.search("Failed to fetch|Temporary failure|Could not connect", done.stderr):
        pytest.skip("Debian's mirror fails in the midst")
    assert done.returncode == 0, done.stderr
    daemon.docker("run", "-d", "--name", "web", "nginx")
    ask = r'exec 3<>/dev/tcp/127.0.0.1/80; printf "GET /index.html HTTP/1.0\r\n\r\n" >&3; cat <&3'
    deadline = time.monotonic() + 30
    while (done := daemon.docker("exec", "web", "bash", "-c", ask, check=False)).returncode:
        assert time.monotonic() < deadline, done.stderr
        time.sleep(0.05)
    assert done.stdout.startswith("HTTP/1.1 200 OK")
    assert done.stdout.endswith("built here\n")
    assert build(daemon, "nginx", "--network=host").count("CACHED") == 6


@pytest.mark.skipif("CORTEN_SLOW_TESTS" not in os.environ, reason="fetches a toolchain of 300 MB: CORTEN_SLOW_TESTS=1")
def test_go_with_debian_s_compiler(daemon: Daemon, debian: None) -> None:
    build(daemon, "go", "--network=host")
    assert daemon.docker("run", "--rm", "go").stdout == "hello from gc\n"
