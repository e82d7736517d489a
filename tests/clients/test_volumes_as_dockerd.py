"""Volumes that are named twice, or are there already: whose labels and options count, here and with dockerd."""

from __future__ import annotations

import json
from typing import Any

import pytest

from daemons import Daemon, Dockerd, Engine

pytestmark = [pytest.mark.needs("docker", "dockerd", "busybox")]

Document = dict[str, Any]


def wish(target: str, labels: dict[str, str] | None = None, options: dict[str, str] | None = None) -> Document:
    volume = {"Labels": labels or {}, "DriverConfig": {"Options": options or {}}}
    return {"Type": "volume", "Source": "two", "Target": target, "VolumeOptions": volume}


def tmpfs(size: str) -> dict[str, str]:
    return {"type": "tmpfs", "device": "tmpfs", "o": f"size={size}"}


def made(engine: Engine, binds: list[str], *mounts: Document) -> tuple[Any, ...]:
    """(status, labels, options) of the volume that a container with these mounts brings, and its mounts."""
    host = {"Binds": binds, "Mounts": list(mounts), "NetworkMode": "none"}
    status, _ = engine.request("POST", "/containers/create?name=box", {"Image": "busybox", "HostConfig": host})
    volume = json.loads(engine.request("GET", "/volumes/two")[1])
    mounted = sorted((item["Name"], item["Destination"]) for item in engine.inspect("box")["Mounts"])
    assert engine.docker("start", "-a", "box", check=False).returncode == 0
    engine.docker("rm", "-f", "box")
    engine.docker("volume", "rm", "two")
    return status, volume["Labels"] or {}, volume["Options"] or {}, mounted  # null or {}: as the client wrote it


@pytest.mark.parametrize(
    ("binds", "mounts"),
    [
        ([], [wish("/a", {"x": "1"}), wish("/b", {"x": "2", "y": "3"})]),
        ([], [wish("/z", {"x": "1"}), wish("/b", {"x": "2"})]),
        ([], [wish("/a"), wish("/b", {"x": "2"})]),
        ([], [wish("/b", None, tmpfs("1m")), wish("/a", None, tmpfs("2m"))]),
        ([], [wish("/b", None, tmpfs("1m")), wish("/a")]),
        ([], [wish("/a"), wish("/b", None, tmpfs("1m"))]),
        (["two:/z"], [wish("/a", {"x": "1"}, tmpfs("1m"))]),
    ],
)
def test_the_first_one_decides(daemon: Daemon, dockerd: Dockerd, binds: list[str], mounts: list[Document]) -> None:
    assert made(daemon, binds, *mounts) == made(dockerd, binds, *mounts)


@pytest.mark.parametrize("options", [{}, tmpfs("1m")])
def test_one_that_is_there_stays_as_it_is(daemon: Daemon, dockerd: Dockerd, options: dict[str, str]) -> None:
    seen = []
    for engine in (daemon, dockerd):
        document = {"Name": "two", "Labels": {"first": "1"}, "DriverOpts": options}
        assert engine.request("POST", "/volumes/create", document)[0] == 201
        status, answer = engine.request("POST", "/volumes/create", {"Name": "two", "DriverOpts": tmpfs("2m")})
        volume = json.loads(answer)
        seen.append((status, volume["Labels"], volume["Options"] or {}, made(engine, [], wish("/a", {}, tmpfs("3m")))))
    assert seen[0] == seen[1]
