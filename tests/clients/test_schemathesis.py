"""schemathesis at a running daemon: thousands of requests that its description allows, and as many that it does not.

schemathesis itself judges the answers: only declared statuses, errors in Docker's form.  The daemon has a network
namespace and mounts of its own; requests that start a container or a program are asked elsewhere (test_api_fuzz.py), so
what is created with whatever was made up never runs.
"""

from __future__ import annotations

import json
import re
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from api_description import describe
from api_table import Operation, read_table
from test_api_fuzz import ENDS_IT, clean, resources, run_web, settled
from test_engine_api import ASKS_A_REGISTRY, SWARM, documented_as_left

from daemons import BIN, ApiConnection, Daemon, OwnHost

pytestmark = [pytest.mark.needs("docker", "busybox"), pytest.mark.timeout(600)]

SEED = 1764547200
EXAMPLES = 25  # of an operation, in the second part
MEMORY = 32 << 20
PING_P99_S = 1.0  # the figure is printed; a loaded machine is given time
# they end with their client, ask a registry, or run something
NOT_HERE = ASKS_A_REGISTRY | {
    "GET /events", "GET /containers/{id}/logs", "GET /containers/{id}/stats", "GET /containers/{id}/attach/ws",
    "POST /containers/{id}/attach", "POST /containers/{id}/wait", "POST /containers/{id}/start",
    "POST /containers/{id}/restart", "POST /exec/{id}/start", "POST /session", "POST /build", "GET /images/search",
    "POST /images/{name}/push",
}  # fmt: skip
ENDS_WEB = ENDS_IT | {"POST /containers/{id}/stop", "POST /containers/{id}/kill"}
THERE = {"containers": "web", "exec": "no-such", "images": "busybox", "networks": "none", "volumes": "vol"}


@pytest.fixture
def target(tmp_path: Path, busybox_tar: Path, cgroup_parent: str) -> Iterator[Daemon]:
    host = OwnHost(tmp_path / "host")
    try:
        made = Daemon(
            tmp_path / "d", "--bridge", "none", "-H", "tcp://127.0.0.1:2375", "--allow-unauthenticated-tcp", host=host
        )
        made.start()
        made.import_busybox(busybox_tar)
        yield made
        made.remove_containers()
        made.stop()
    finally:
        host.close()


def wishes(row: Operation) -> dict[str, dict[str, object]]:
    """Names that mean something, often enough; archives from the body only."""
    found: dict[str, dict[str, object]] = {}
    noun = row.path.split("/")[1]
    if noun in THERE and row.key not in ENDS_WEB:
        known = {"enum": [THERE[noun], "no-such"]}
        found |= {"id": known, "name": known} if "{" in row.path else {}
    if row.key == "POST /images/create":
        found["fromSrc"] = {"enum": ["-"]}
    if row.key.endswith("/archive"):
        found["path"] = {"enum": ["/tmp", "/etc/passwd", "/proc", "..", "no-such"]}
    return found


def without(row: Operation, name: str) -> Operation:
    """The row without a parameter: ``fromImage`` would ask a registry."""
    return replace(row, parameters=tuple(item for item in row.parameters if item.name != name))


def left_to_others(row: Operation) -> list[int]:
    """The 5xx of what docs/api.md leaves to others."""
    if row.key in documented_as_left() | {"POST /images/create", "POST /networks/create"}:
        return [501]
    if row.path.split("/")[1] in SWARM or row.key == "PUT /volumes/{name}":
        return [503]
    return []


def write_description(path: Path) -> None:
    rows = [without(row, "fromImage") for row in read_table() if row.key not in NOT_HERE]
    document = describe(rows, {row.key: wishes(row) for row in rows}, {row.key: left_to_others(row) for row in rows})
    document["components"]["schemas"]["ContainerCreate"]["properties"]["Image"] = {"enum": ["busybox", "no-such"]}
    path.write_text(json.dumps(document))


class Pings(threading.Thread):
    """A second client, which pings meanwhile, and sees to it that the container of the requests runs."""

    def __init__(self, daemon: Daemon) -> None:
        super().__init__(daemon=True)
        self._daemon = daemon
        self._over = threading.Event()
        self.times: list[float] = []
        self.failures: list[str] = []

    def run(self) -> None:
        connection = ApiConnection(self._daemon.socket)
        while not self._over.wait(0.02):
            began = time.monotonic()
            try:
                connection.request("GET", "/_ping")
                answer = connection.getresponse().read()
            except OSError as error:
                self.failures.append(repr(error))
                return
            self.times.append(time.monotonic() - began)
            if answer != b"OK":
                self.failures.append(repr(answer))
            if len(self.times) % 25 == 0:
                self._keep_web()
        connection.close()

    def _keep_web(self) -> None:
        """Another one when what it was told keeps it from running."""
        try:
            run_web(self._daemon)
        except AssertionError:
            self._daemon.request("DELETE", "/containers/web?force=1")

    def p99(self) -> float:
        self._over.set()
        self.join()
        return sorted(self.times)[len(self.times) * 99 // 100]


def fuzz(daemon: Daemon, directory: Path, *options: str) -> tuple[int, str]:
    """(requests, what schemathesis found) of one run."""
    assert daemon.process is not None
    command = [
        "nsenter", f"--net=/proc/{daemon.process.pid}/ns/net", "--",
        str(BIN / "schemathesis"), "run", "api.json", "--url", "http://127.0.0.1:2375",
        "--checks", "status_code_conformance,content_type_conformance,response_schema_conformance",
        "--continue-on-failure", "--request-timeout", "60", "--warnings", "off", "--no-color", "--workers", "1",
        "--generation-database", "none", "--suppress-health-check", "all", "--no-shrink", "--seed", str(SEED), *options,
    ]  # fmt: skip
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=500, check=False)
    counted = re.search(r"([\d,]+) (?:generated|test cases)", done.stdout)
    return int(counted[1].replace(",", "")) if counted else 0, done.stdout + done.stderr


def test_only_declared_answers(target: Daemon, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_description(tmp_path / "api.json")
    run_web(target)
    pings = Pings(target)
    pings.start()
    began = time.monotonic()
    # every keyword of every schema once; what is loaded and made once is there then
    first, found = fuzz(target, tmp_path, "--phases", "coverage")
    assert "No issues found" in found, found
    clean(target)
    before = resources(target)
    second, found = fuzz(target, tmp_path, "--phases", "fuzzing", "--max-examples", str(EXAMPLES))
    assert "No issues found" in found, found
    elapsed, slowest = time.monotonic() - began, pings.p99()
    clean(target)
    with capsys.disabled():
        print(f"\n{first + second} requests in {elapsed:.0f} s; ping meanwhile: p99 {slowest * 1000:.0f} ms")
    assert first > 3000
    assert second > 1000
    assert not pings.failures
    assert slowest < PING_P99_S
    assert settled(target, before[0]) <= before[0]
    assert resources(target)[1] - before[1] < MEMORY
    assert target.request("GET", "/_ping") == (200, b"OK")
    log = target.log.read_text()
    assert "Traceback" not in log, log[log.index("Traceback") - 500 :][:3000]
