"""The firewall of a running daemon, when others change it."""

from __future__ import annotations

import http.client
import socket
import subprocess
import time

import pytest

from daemons import Daemon

pytestmark = [pytest.mark.needs("docker", "busybox", "nf_tables")]

SERVE = "mkdir /w; echo here > /w/index.html; exec httpd -f -p 80 -h /w"


def nft(*words: str) -> str:
    return subprocess.run(["nft", *words], capture_output=True, text=True, check=True).stdout


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def page(port: int) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", "/")
        return connection.getresponse().read().decode().strip()
    except (OSError, http.client.HTTPException):
        return ""
    finally:
        connection.close()


def until_page(port: int) -> None:
    deadline = time.monotonic() + 10
    while page(port) != "here":
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.needs("nft")
@pytest.mark.parametrize("damage", ["delete table {}", "flush map {} any4", "flush chain {} published-own"])
def test_the_firewall_comes_back_by_itself(networked: Daemon, damage: str) -> None:
    port = free_port()
    networked.docker("run", "-d", "-p", f"{port}:80", "busybox", "sh", "-c", SERVE)
    until_page(port)
    tables = [line.removeprefix("table ") for line in nft("list", "tables").splitlines() if "inet corten" in line]
    (table,) = [table for table in tables if f" . {port} :" in nft("list", "table", *table.split())]
    before = nft("list", "table", *table.split())
    nft(*damage.format(table).split())
    deadline = time.monotonic() + 5
    while table not in nft("list", "tables") or nft("list", "table", *table.split()) != before:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert page(port) == "here"
