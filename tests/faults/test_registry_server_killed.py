"""``corten registry serve`` is killed in the midst of pushes: no half blob is visible, uploads go on."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from registries import CortenRegistry
from waiting import until

CONTENT = os.urandom(3_000_000)
CONFIG = b"{}"
OCI = "application/vnd.oci.image"


def sha256(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def ask(registry: CortenRegistry, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[int, dict, bytes]:
    connection = http.client.HTTPConnection(registry.netloc, timeout=30)
    connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
    response = connection.getresponse()
    answer = response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()
    connection.close()
    return answer


def push(registry: CortenRegistry, name: str, tag: str, layer: bytes) -> None:
    for content in (CONFIG, layer):
        assert ask(registry, "POST", f"/v2/{name}/blobs/uploads/?digest={sha256(content)}", content)[0] == 201
    described = [
        {"mediaType": kind, "digest": sha256(content), "size": len(content)}
        for kind, content in ((f"{OCI}.config.v1+json", CONFIG), (f"{OCI}.layer.v1.tar", layer))
    ]
    document = {
        "schemaVersion": 2, "mediaType": f"{OCI}.manifest.v1+json", "config": described[0], "layers": described[1:],
    }  # fmt: skip
    path = f"/v2/{name}/manifests/{tag}"
    assert ask(registry, "PUT", path, json.dumps(document).encode(), Content_Type=document["mediaType"])[0] == 201


def family(registry: CortenRegistry) -> list[int]:
    """The parent and its workers."""
    assert registry.process is not None
    pid = registry.process.pid
    return [pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]


def kill(registry: CortenRegistry) -> None:
    assert registry.process is not None
    pids = family(registry)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    registry.process.wait(10)
    registry.process = None
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))


def check_store(registry: CortenRegistry) -> int:
    """Everything under a final name is what its name says; how many blobs there are."""
    blobs = list(registry.store.rglob("docker/registry/v2/blobs/*/*/*/data"))
    for blob in blobs:
        assert hashlib.sha256(blob.read_bytes()).hexdigest() == blob.parent.name
    for link in registry.store.rglob("docker/**/link"):
        assert len(link.read_bytes()) == 71, link
    return len(blobs)


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[CortenRegistry]:
    made = CortenRegistry(tmp_path, "--workers", "2")
    made.start()
    yield made
    made.stop()


@pytest.mark.parametrize("sent", [0, 1, 1_500_000, 2_999_999])
def test_an_upload_that_is_cut_goes_on(registry: CortenRegistry, sent: int) -> None:
    location = ask(registry, "POST", "/v2/a/blobs/uploads/")[1]["location"]
    data = registry.store / "uploads" / location.rpartition("/")[2] / "data"
    with socket.create_connection(("127.0.0.1", registry.port)) as sock:
        sock.sendall(f"PATCH {location} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(CONTENT)}\r\n\r\n".encode())
        sock.sendall(CONTENT[:sent])
        until(lambda: data.stat().st_size >= sent // (1 << 20) * (1 << 20))  # whole blocks are written at once
        kill(registry)
    assert check_store(registry) == 0
    registry.start()
    assert ask(registry, "HEAD", f"/v2/a/blobs/{sha256(CONTENT)}")[0] == 404
    size = data.stat().st_size
    status, headers, _ = ask(registry, "GET", location)
    assert (status, headers["range"]) == (204, f"0-{max(0, size - 1)}")
    assert size <= sent
    rest = CONTENT[size:]
    answer = ask(registry, "PATCH", location, rest, Content_Range=f"{size}-{len(CONTENT) - 1}")
    assert answer[0] == 202
    assert ask(registry, "PUT", f"{location}?digest={sha256(CONTENT)}")[0] == 201
    assert ask(registry, "GET", f"/v2/a/blobs/{sha256(CONTENT)}")[2] == CONTENT
    assert check_store(registry) == 1


def test_killed_at_any_moment(registry: CortenRegistry) -> None:
    """Pushes without a pause, the server killed among them; what was answered with 201 is there afterwards."""
    done: list[tuple[str, str, bytes]] = []
    for round_ in range(4):
        stop = threading.Event()

        def work(worker: int, round_: int = round_, stop: threading.Event = stop) -> None:
            number = 0
            while not stop.is_set():
                layer = f"{round_} {worker} {number}".encode() * 20_000
                with contextlib.suppress(OSError, http.client.HTTPException):
                    push(registry, f"r{worker}", f"t{round_}-{number}", layer)
                    done.append((f"r{worker}", f"t{round_}-{number}", layer))
                number += 1

        before = len(done)
        threads = [threading.Thread(target=work, args=(worker,)) for worker in range(3)]
        for thread in threads:
            thread.start()
        until(lambda before=before, round_=round_: len(done) > before + round_)
        kill(registry)
        stop.set()
        for thread in threads:
            thread.join(30)
        check_store(registry)
        registry.start()
    assert len(done) > 4
    for name, tag, layer in done:
        status, _, body = ask(registry, "GET", f"/v2/{name}/manifests/{tag}")
        assert status == 200
        assert json.loads(body)["layers"][0]["digest"] == sha256(layer)
        assert ask(registry, "GET", f"/v2/{name}/blobs/{sha256(layer)}")[2] == layer


def test_a_worker_that_dies_is_replaced(registry: CortenRegistry) -> None:
    push(registry, "a", "1", CONTENT)
    parent, *workers = family(registry)
    os.kill(workers[0], signal.SIGKILL)
    until(lambda: len(family(registry)) == len(workers) + 1 and workers[0] not in family(registry))
    for _ in range(20):  # connections go to all of them
        assert ask(registry, "GET", f"/v2/a/blobs/{sha256(CONTENT)}")[2] == CONTENT
    assert family(registry)[0] == parent


def test_workers_do_not_outlive_their_parent(registry: CortenRegistry) -> None:
    parent, *workers = family(registry)
    os.kill(parent, signal.SIGKILL)
    assert registry.process is not None
    registry.process.wait(10)
    registry.process = None
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))
    registry.start()
    assert ask(registry, "GET", "/v2/")[0] == 200


def test_a_second_server_of_one_directory_is_refused(registry: CortenRegistry) -> None:
    command = [sys.executable, "-m", "corten", "registry", "serve", "--root", str(registry.store), "-l", "127.0.0.1:0"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (1, f"another server uses {registry.store}\n")


def test_no_space_left(tmp_path: Path) -> None:
    registry = CortenRegistry(tmp_path)
    registry.store.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "registry", str(registry.store)], check=True)
    try:
        registry.start()
        large = os.urandom(12_000_000)
        status, _, body = ask(registry, "POST", f"/v2/a/blobs/uploads/?digest={sha256(large)}", large)
        assert (status, json.loads(body)["errors"][0]["message"]) == (507, "no space left in the registry")
        push(registry, "a", "1", CONTENT)  # the space of what did not fit was given back
        location = ask(registry, "POST", "/v2/a/blobs/uploads/")[1]["location"]
        assert ask(registry, "PATCH", location, large)[0] == 507
        assert ask(registry, "GET", location)[0] == 204  # it could go on
        assert ask(registry, "DELETE", location)[0] == 204
        assert ask(registry, "GET", f"/v2/a/blobs/{sha256(CONTENT)}")[2] == CONTENT
        assert check_store(registry) == 3
    finally:
        registry.stop()
        subprocess.run(["umount", str(registry.store)], check=True)


def test_collecting_beside_a_server_that_takes_pushes(registry: CortenRegistry) -> None:
    """``corten registry gc`` in a process of its own; what is pushed meanwhile is whole."""
    stop = threading.Event()
    pushed: list[bytes] = []

    def work() -> None:
        while not stop.is_set():
            layer = f"layer {len(pushed)}".encode() * 1000
            push(registry, "a", "latest", layer)
            pushed.append(layer)

    thread = threading.Thread(target=work)
    thread.start()
    command = [sys.executable, "-m", "corten", "registry", "gc", "--root", str(registry.store), "--delete-untagged"]
    for _ in range(3):
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert (done.returncode, done.stderr) == (0, "")
    stop.set()
    thread.join(30)
    assert not thread.is_alive()
    done = subprocess.run([*command, "--grace", "0s"], capture_output=True, text=True, check=False, timeout=60)
    assert "Reclaimed: " in done.stdout
    assert check_store(registry) == 3  # the last manifest, its configuration and its layer
    assert ask(registry, "GET", f"/v2/a/blobs/{sha256(pushed[-1])}")[2] == pushed[-1]
